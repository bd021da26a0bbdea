"""Fenced blocks, links and references to code in a Markdown file, with the line each begins on.

A block that must not run says why in a comment on the line above it: `<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
NOT_RUN = re.compile(r"^\s*<!-- not run: (?P<reason>\S.*?) -->\s*$")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)\)")
SYMBOL = re.compile(r"`(?P<path>[\w./-]+\.py)::(?P<name>\w+(?:\.\w+)?)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text without the fences, and why it is not run (None: it is)."""

    file: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.file.name}:{self.line}"


def blocks(file: Path) -> list[Block]:
    """All fenced blocks, in order. Raises `ValueError` for a fence that is never closed."""
    found: list[Block] = []
    lines = file.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        start, indent = number, len(opening["indent"])
        reason = NOT_RUN.match(lines[start - 1]) if start else None
        number += 1
        while number < len(lines) and lines[number].strip() != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"{file}:{start + 1}: this fence is never closed")
        text = "\n".join(line[indent:] for line in lines[start + 1 : number]) + "\n"
        found.append(Block(file, start + 1, opening["language"], text, reason["reason"] if reason else None))
        number += 1
    return found


def prose(file: Path) -> str:
    """The text without its fenced blocks."""
    kept, inside = [], False
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def targets(file: Path) -> list[str]:
    """What the file links to or shows, as written."""
    text = prose(file)
    return [m["target"] for pattern in (LINK, IMAGE) for m in pattern.finditer(text)]


def symbols(file: Path) -> list[tuple[str, str]]:
    """(path from the repository's root, name or Class.name) of each `path.py::name` in the text."""
    return [(m["path"], m["name"]) for m in SYMBOL.finditer(prose(file))]


def anchors(file: Path) -> set[str]:
    """The fragments a reader can link to: headings as GitHub names them."""
    found = set()
    for line in prose(file).splitlines():
        if line.startswith("#"):
            title = re.sub(r"[`*]", "", line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found
