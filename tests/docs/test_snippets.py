"""The commands and snippets of the documentation are run, in order, each document in a folder of its own.

`python` and `sh` blocks must succeed; `yaml` and `json` blocks must parse, and a YAML block that holds tiers
must be a valid configuration. `http://127.0.0.1:8000` stands for the demo server. A block that does not run
says why on the line above it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proxy.settings import parse_settings
from tests.docs.documents import DOCUMENTS, ROOT
from tests.docs.markdown import Block, blocks, prose

DEMO_ORIGIN = "http://127.0.0.1:8000"
RUN = ("python", "sh")
INDENTED_COMMAND = re.compile(r" {4,}(upshift|make|python|pip|curl|docker|kubectl|vllm|[A-Z_]+=\S+) ")
TIMEOUT_S = 400.0  # the training guide fits a bundle
WITH_CODE = [d for d in DOCUMENTS if any(b.language in RUN and b.not_run is None for b in blocks(d))]


def _run(block: Block, folder: Path, origin: str) -> None:
    text = block.text.replace(DEMO_ORIGIN, origin)
    command = (
        [sys.executable, "-c", text]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", text]
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, (
        f"{block.place}: exit {done.returncode}\n{block.text}\n{done.stdout}\n{done.stderr}"
    )


@pytest.mark.timeout(450)
@pytest.mark.parametrize("document", WITH_CODE, ids=lambda d: str(d.relative_to(ROOT)))
def test_snippets_run(document: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    runnable = [b for b in blocks(document) if b.language in RUN and b.not_run is None]
    needs_demo = any(DEMO_ORIGIN in block.text for block in runnable)
    origin = request.getfixturevalue("demo_origin") if needs_demo else DEMO_ORIGIN
    for block in runnable:
        _run(block, tmp_path, origin)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_data_blocks_parse(document: Path) -> None:
    for block in blocks(document):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml" and block.not_run is None:
            for data in yaml.safe_load_all(block.text):
                if isinstance(data, dict) and "tiers" in data and "train" not in data:
                    parse_settings(data, block.place)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_stand_in_fences(document: Path) -> None:
    """A command outside a fence with a language would never be run."""
    unnamed = [b.place for b in blocks(document) if not b.language]
    assert not unnamed, "say `sh`, `python`, ... or `text`"
    indented = [line for line in prose(document).splitlines() if INDENTED_COMMAND.match(line)]
    assert not indented, "put it into a fence"
