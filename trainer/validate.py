"""`validate`: everything that is wrong with example tables, at once and without stopping at the first.

The same checks as `fit` makes when it reads (`trainer/examples.py`), row by row, and what only the whole
table shows: mixed judges, a (prompt, model) that comes twice, a model of which every answer is adequate or
none is, a model that is missing. Whatever passes here is read by `fit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError
from trainer.examples import REQUIRED, Example, check_row
from trainer.table_file import Row, read_jsonl, read_rows

ADEQUATE = 0.5


@dataclass(slots=True)
class _Seen:
    """What is known of the rows so far."""

    rows: int = 0
    judge: str | None = None
    judge_at: str = ""
    pairs: dict[tuple[str, str, Any], str] = field(default_factory=dict)
    adequate: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    prompts: set[str] = field(default_factory=set)


def find_problems(paths: Sequence[Path], models: Sequence[str] = ()) -> list[str]:
    """One line a problem, each with file and row, in order; empty when there is none. `models` must each
    have answered every prompt."""
    seen = _Seen()
    problems: list[str] = []
    for path in paths:
        try:
            for number, raw in _read(path):
                problems.extend(_check(path, number, raw, seen))
        except ExamplesError as error:  # the file as a whole
            problems.append(str(error))
    problems.extend(_check_whole(seen, models))
    return problems


def _read(path: Path) -> Iterator[tuple[int, Row | ExamplesError]]:
    if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
        yield from read_jsonl(path)
    else:
        yield from read_rows(path, REQUIRED)


def _check(path: Path, number: int, raw: Row | ExamplesError, seen: _Seen) -> list[str]:
    seen.rows += 1
    if isinstance(raw, ExamplesError):
        return [str(raw)]
    try:
        row = check_row(path, number, raw)
    except ExamplesError as error:
        return [str(error)]
    return list(_check_against(row, raw.get("sample"), f"{path}, row {number}", seen))


def _check_against(row: Example, sample: object, where: str, seen: _Seen) -> Iterator[str]:
    if seen.judge is None:
        seen.judge, seen.judge_at = row.judge, where
    elif row.judge != seen.judge:
        yield f"{where}: judge is {row.judge!r}, that of {seen.judge_at} is {seen.judge!r}"
    key = (row.prompt_id, row.model, sample)
    first = seen.pairs.setdefault(key, where)
    if first != where:
        yield f"{where}: {row.model!r} has answered this prompt in {first} already"
    seen.adequate[row.model] += row.quality >= ADEQUATE
    seen.answers[row.model] += 1
    seen.prompts.add(row.prompt_id)


def _check_whole(seen: _Seen, models: Sequence[str]) -> Iterator[str]:
    if not seen.rows:
        yield "there are no rows"
    for model, count in sorted(seen.answers.items()):
        adequate = seen.adequate[model]
        if adequate in (0, count) and (not models or model in models):
            verdict = f"{'adequate' if adequate else 'inadequate'} (quality against {ADEQUATE})"
            yield f"all {count} answers of {model!r} are {verdict}: one class only"
    for model in models:
        answered = {prompt_id for prompt_id, name, _ in seen.pairs if name == model}
        if not answered:
            there = ", ".join(sorted(seen.answers)) or "none"
            yield f"model {model!r} has no row; there are: {there}"
        elif missing := seen.prompts - answered:
            share = f"{len(missing)} of {len(seen.prompts)} prompts"
            yield f"model {model!r} lacks {share}, {min(missing)} for one"
