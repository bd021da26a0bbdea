"""Runs `demo/upshift.ipynb` from top to bottom and stores what it shows: `python -m demo.notebook`.

The notebook is its own source: edit its cells, run this (`make notebook`), commit it. It runs in a kernel
of this environment, as a reader's Jupyter would run it, and is written only when every cell went through.
A hash of the cells is stored beside the outputs, so that outputs of older cells are found out. About a
minute of CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).parent / "upshift.ipynb"
CELL_TIMEOUT_S = 280  # for one cell, on a machine that other work shares


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises `CellExecutionError` for the first cell that fails."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,  # times would differ from run to run
        coalesce_streams=True,
        startup_timeout=180,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "upshift": {"cells_sha256": hash_cells(book)},
    }
    return book


def hash_cells(book: nbformat.NotebookNode) -> str:
    """sha256 over the sources of all code cells: which code the stored outputs are of."""
    sources = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def write_notebook(book: nbformat.NotebookNode, path: Path) -> None:
    """In one step: a reader finds the old file or the whole new one."""
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    part.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.notebook", description=__doc__)
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK)
    parser.add_argument("--out", type=Path, help="where to write it; default: in place")
    options = parser.parse_args()
    # The kernel is a child of this process: no hub, one thread a library, as the demo runs.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    try:
        book = run_notebook(options.notebook)
    except CellExecutionError as error:
        sys.stderr.write(f"demo.notebook: a cell of {options.notebook} failed\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("demo.notebook: interrupted; the notebook is as it was\n")
        return 130
    write_notebook(book, options.out or options.notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
