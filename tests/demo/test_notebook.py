"""The notebook runs from top to bottom, and what is stored in it is of the cells it stands beside."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from demo.notebook import NOTEBOOK, hash_cells

LARGEST_BYTES = 600_000
PNG = b"\x89PNG\r\n\x1a\n"


def _kinds(book: nbformat.NotebookNode) -> list[list[str]]:
    """What each code cell shows: stream names and media types, in order."""
    shown = []
    for cell in book.cells:
        if cell.cell_type == "code":
            kinds = [out.name if out.output_type == "stream" else "/".join(out.data) for out in cell.outputs]
            shown.append(kinds)
    return shown


def _plots(book: nbformat.NotebookNode) -> list[bytes]:
    outputs = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
    return [base64.b64decode(out.data["image/png"]) for out in outputs if "image/png" in out.get("data", {})]


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_stored_outputs_are_of_these_cells(stored: nbformat.NotebookNode) -> None:
    assert stored.metadata["upshift"]["cells_sha256"] == hash_cells(stored), "run: make notebook"


def test_stored_plots_are_small_and_whole(stored: nbformat.NotebookNode) -> None:
    assert NOTEBOOK.stat().st_size < LARGEST_BYTES
    plots = _plots(stored)
    assert len(plots) >= 5
    assert all(plot.startswith(PNG) for plot in plots)


def test_nothing_of_a_machine_is_stored(stored: nbformat.NotebookNode) -> None:
    assert not any("stderr" in kinds for kinds in _kinds(stored))
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert str(Path.home()) not in text


@pytest.mark.timeout(290)
def test_it_runs_from_top_to_bottom(stored: nbformat.NotebookNode, tmp_path: Path) -> None:
    out = tmp_path / "upshift.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "demo.notebook", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=NOTEBOOK.parents[1],
    )
    assert done.returncode == 0, done.stderr
    fresh = nbformat.read(out, as_version=4)
    assert _kinds(fresh) == _kinds(stored)
    assert len(_plots(fresh)) == len(_plots(stored))
