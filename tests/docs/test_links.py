"""Every relative link of the documentation leads somewhere, and every `file.py::name` is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT
from tests.docs.markdown import anchors, symbols, targets


def _names(path: Path) -> set[str]:
    """Functions, classes, constants and methods (`Class.method`) of a module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{member.name}" for member in members}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in targets(document):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_code_that_is_named_is_there(document: Path) -> None:
    missing = [
        f"{path}::{name}"
        for path, name in symbols(document)
        if not (ROOT / path).is_file() or name not in _names(ROOT / path)
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_no_merge_was_left_half_done(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<< ", ">>>>>>> "))]


def test_every_document_is_in_the_index() -> None:
    """A page that nothing links to is a page that nobody reads."""
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in targets(index)}
    pages = {path.resolve() for path in (ROOT / "docs").rglob("*.md")} - {index.resolve()}
    assert pages - listed == set()
