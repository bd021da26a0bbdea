"""Ctrl-C while the tour is asking: the demo ends soon, with status 0 and without a traceback. About 10 s."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_ctrl_c_during_the_tour_is_clean(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", "--port", "0", "--prompts", "400"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "errors").open("w") as errors, subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Asking 400 held-out prompts"):
                break
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
        assert "held-out prompts   accuracy" not in demo.stdout.read()
    assert "Traceback" not in (tmp_path / "errors").read_text()
