"""Answers on their way to a label: what a labeller reads of a row, and what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError
from scorers.text import prompt_id as hash_prompt
from scorers.text import render_prompt
from trainer.journal import Key
from trainer.table_file import Row, decode_messages, read_rows


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One answer. `number`: its place among the rows, from 0; `sample` counts the answers of one model to
    one prompt, from 0."""

    number: int
    prompt_id: str
    prompt: str
    model: str
    sample: int
    response: str | None
    reference: str | None
    raw: Row

    @property
    def digest(self) -> str:
        """Of the answer's text: a label belongs to these words."""
        text = f"{self.reference or ''}\0{self.response or ''}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def key(self) -> Key:
        return (self.prompt_id, self.model, self.sample, self.digest)


@dataclass(slots=True)
class Labelled:
    """What a labeller found: `quality` in [0, 1] by row number, failures with reasons, what else to tell."""

    judge: str
    quality: dict[int, float] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def fail(self, row: LabelRow, reason: str) -> None:
        self.failures.append(
            {"row": row.number + 1, "prompt_id": row.prompt_id, "model": row.model, "reason": reason}
        )


def read_answers(paths: Sequence[Path]) -> list[LabelRow]:
    """Rows of answer tables, in order. Raises `ExamplesError` naming file and row."""
    rows: list[LabelRow] = []
    counts: dict[tuple[str, str], int] = {}
    for path in paths:
        for number, raw in read_rows(path, ("prompt", "model")):
            rows.append(_read(path, number, raw, len(rows), counts))
    if not rows:
        raise ExamplesError(f"{', '.join(map(str, paths))}: no rows")
    return rows


def _read(path: Path, number: int, raw: Row, place: int, counts: dict[tuple[str, str], int]) -> LabelRow:
    where = f"{path}, row {number}"
    messages = decode_messages(raw, where)
    prompt = render_prompt(messages) if messages else raw.get("prompt")
    model, response, reference = raw.get("model"), raw.get("response"), raw.get("reference")
    for name, value, needed in (("prompt", prompt, True), ("model", model, True),
                                ("response", response, False), ("reference", reference, False)):  # fmt: skip
        if not isinstance(value, str) and (needed or value is not None):
            raise ExamplesError(f"{where}: {name} is {value!r}, a string was expected")
    assert isinstance(prompt, str)
    assert isinstance(model, str)
    prompt_id = hash_prompt(prompt)
    sample = counts[(prompt_id, model)] = counts.get((prompt_id, model), -1) + 1
    kept = {**raw, "prompt": prompt, "prompt_id": prompt_id, "messages": messages}
    return LabelRow(place, prompt_id, prompt, model, sample, response, reference, kept)
