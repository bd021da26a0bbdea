"""README's snippets for clients that are no dependency of this project, run where they can be had.

OpenAI's Node client comes from npm into `.cache` (3 s, once). LangChain brings thirty packages, so its test
is long. Without Node or a registry both skip with a word.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT
from tests.docs.markdown import Block, blocks

HERE = "http://127.0.0.1:8000"
NPM_PACKAGE = "openai@7.57.0"
LANGCHAIN = "langchain-openai==1.7.4"
CACHE = Path(os.environ.get("UPSHIFT_CACHE_DIR") or ROOT / ".cache")


def snippet(language: str, holding: str) -> Block:
    (found,) = [one for one in blocks(ROOT / "README.md")
                if one.language == language and holding in one.text]  # fmt: skip
    return found


def installed(name: str, command: list[str]) -> Path:
    """A folder that `command` has filled, once. Skips where it cannot."""
    folder = CACHE / f"{name}-{hashlib.sha256(' '.join(command).encode()).hexdigest()[:12]}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([part.replace("{}", str(folder)) for part in command], cwd=folder,
                              capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
        if done.returncode != 0:
            pytest.skip(f"{name} cannot be had here: {done.stderr.strip()[-200:]}")
        (folder / "done").touch()
    return folder


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True,
                          text=True, timeout=100, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(300)
@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node is not installed")
def test_the_node_snippet_runs(demo_origin: str) -> None:
    folder = installed("openai-node", ["npm", "install", "--silent", "--no-audit", "--no-fund", NPM_PACKAGE])
    shown = "\nconsole.log(answer.choices[0].message.content, answer.upshift.tier);\n"
    text = snippet("js", 'from "openai"').text.replace(HERE, demo_origin) + shown
    (folder / "snippet.mjs").write_text(text)
    told = run(["node", "snippet.mjs"], folder)
    assert told.split()[-1] in ("weak", "strong")
    assert "45" in told


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_langchain_snippet_runs(demo_origin: str, tmp_path: Path) -> None:
    """Its packages lie in a folder of their own, before ours."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", "{}", LANGCHAIN]
    folder = installed("langchain", pip)
    text = snippet("python", "ChatOpenAI").text.replace(HERE, demo_origin)
    lines = text.rstrip().splitlines()
    lines[-1] = f"print({lines[-1]}.content)"
    told = run([sys.executable, "-c", "\n".join(lines)], tmp_path, PYTHONPATH=str(folder))
    assert "45" in told
