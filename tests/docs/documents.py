"""The documents under test: every Markdown file that people read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TOP = ["README.md", "CONTRIBUTING.md", "DECISIONS.md", "SECURITY.md", "CHANGELOG.md"]
_FOLDERS = ["docs", "bench", "demo", "trainer", "deploy"]
DOCUMENTS = [
    *(ROOT / name for name in _TOP if (ROOT / name).exists()),
    *(path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
]
