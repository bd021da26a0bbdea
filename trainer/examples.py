"""The example table: reading and checking it, and its two forms.

One row a (prompt, model), columns as in the contract, from parquet or jsonl, several files at once. What is
wrong is said with file and row (counted from 1, as a text editor counts jsonl lines); nothing is repaired
silently. Two forms come out: the long form (`ExampleTable`, every row) teaches the scorers, the pair form
(`PairTable`, prompts answered by both tiers) is what decisions are measured on.

Rows that repeat a (prompt, model) are several samples of one model: the long form keeps them, the pair form
takes their mean quality and the first answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from routing.errors import ExamplesError
from scorers.text import prompt_id as hash_prompt
from scorers.text import render_prompt
from trainer.table_file import decode_messages, read_rows

REQUIRED = ("prompt", "model", "quality")
_OPTIONAL_NUMBERS = ("prompt_tokens", "completion_tokens", "cost_usd", "latency_s")


@dataclass(frozen=True, slots=True)
class Example:
    """One checked row. `quality` in [0, 1]; `response` None where only the outcome is known."""

    prompt_id: str
    prompt: str
    model: str
    quality: float
    response: str | None = None
    group: str = ""
    source: str = ""
    judge: str = ""
    reference: str | None = None
    finish_reason: str | None = None
    logprobs: np.ndarray | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None


@dataclass(slots=True)
class ExampleTable:
    """The long form: all rows of all files, and what they were read from."""

    rows: list[Example]
    files: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def models(self) -> list[str]:
        return sorted({row.model for row in self.rows})

    @property
    def judges(self) -> list[str]:
        return sorted({row.judge for row in self.rows})

    def fingerprint(self) -> str:
        """sha256 over the files' hashes: which data this was."""
        return hashlib.sha256("".join(f["sha256"] for f in self.files).encode()).hexdigest()

    def of_prompts(self, prompt_ids: set[str]) -> ExampleTable:
        return ExampleTable([row for row in self.rows if row.prompt_id in prompt_ids], self.files)

    def require_models(self, *models: str) -> None:
        """Raises `ExamplesError` naming the models there are when one of these has no row."""
        for model in models:
            if not any(row.model == model for row in self.rows):
                names = ", ".join(f["name"] for f in self.files)
                raise ExamplesError(
                    f"model {model!r} has no row in {names}; there are: {', '.join(self.models)}"
                )


@dataclass(slots=True)
class PairTable:
    """The pair form, aligned by prompt: `quality` (N, 2) for weak and strong, `weak`/`strong` a row each."""

    weak_model: str
    strong_model: str
    weak: list[Example]
    strong: list[Example]
    quality: np.ndarray

    def __len__(self) -> int:
        return len(self.weak)

    @property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.weak]

    @property
    def prompt_ids(self) -> list[str]:
        return [row.prompt_id for row in self.weak]

    @property
    def answered(self) -> np.ndarray:
        """Which prompts come with the weak model's answer, (N,) bool."""
        return np.array([row.response is not None for row in self.weak], dtype=bool)

    @property
    def has_answers(self) -> bool:
        return bool(self.answered.all())

    def subset(self, rows: np.ndarray) -> PairTable:
        """The prompts at these positions, or under this mask."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        weak, strong = ([side[row] for row in chosen] for side in (self.weak, self.strong))
        return PairTable(self.weak_model, self.strong_model, weak, strong, self.quality[chosen])


def read_examples(paths: Sequence[str | Path]) -> ExampleTable:
    """Read and check tables. Raises `ExamplesError` naming file and row."""
    if not paths:
        raise ExamplesError("no example file was named")
    rows: list[Example] = []
    files: list[dict[str, Any]] = []
    for path in map(Path, paths):
        before = len(rows)
        rows.extend(check_row(path, number, raw) for number, raw in read_rows(path, REQUIRED))
        if len(rows) == before:
            raise ExamplesError(f"{path} has no rows")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"name": path.name, "sha256": digest, "rows": len(rows) - before})
    table = ExampleTable(rows, files)
    if len(table.judges) > 1:
        raise ExamplesError(
            f"judges are mixed: {', '.join(map(repr, table.judges))}; "
            "qualities of different judges are not comparable"
        )
    return table


def pair_examples(table: ExampleTable, weak: str, strong: str) -> PairTable:
    """Prompts that both models answered, in order of first appearance. Raises `ExamplesError` when there
    are none."""
    if weak == strong:
        raise ExamplesError(f"weak and strong are both {weak!r}")
    table.require_models(weak, strong)
    seen: dict[str, dict[str, list[Example]]] = {}
    for row in table.rows:
        if row.model in (weak, strong):
            seen.setdefault(row.prompt_id, {}).setdefault(row.model, []).append(row)
    both = [models for models in seen.values() if len(models) == 2]
    if not both:
        raise ExamplesError(f"no prompt has a row of both {weak!r} and {strong!r}")
    quality = np.array([[np.mean([r.quality for r in m[tier]]) for tier in (weak, strong)] for m in both])
    return PairTable(weak, strong, [m[weak][0] for m in both], [m[strong][0] for m in both], quality)


def require_both_classes(quality: np.ndarray, what: str) -> None:
    """Raises `ExamplesError` when every answer is adequate, or none is: nothing can be learnt."""
    adequate = quality >= 0.5
    if adequate.all() or not adequate.any():
        verdict = "adequate" if adequate.all() else "inadequate"
        raise ExamplesError(
            f"all {len(quality)} answers of {what} are {verdict} (quality against 0.5): one class only"
        )


def check_row(path: Path, number: int, raw: Mapping[str, Any]) -> Example:
    """One raw row as an `Example`. Raises `ExamplesError` naming file, row and column."""
    where = f"{path}, row {number}"
    prompt = _prompt(raw, where)
    given = raw.get("prompt_id")
    computed = hash_prompt(prompt)
    if given is not None and given != computed:
        raise ExamplesError(f"{where}: prompt_id is {given!r}, the prompt's is {computed!r}")
    numbers = {name: _optional_number(raw, name, where) for name in _OPTIONAL_NUMBERS}
    completion, prompt_tokens = numbers["completion_tokens"], numbers["prompt_tokens"]
    return Example(
        prompt_id=computed,
        prompt=prompt,
        model=_text(raw, "model", where),
        quality=_quality(raw.get("quality"), where),
        response=_optional_text(raw, "response", where),
        group=_optional_text(raw, "group", where) or "",
        source=_optional_text(raw, "source", where) or "",
        judge=_optional_text(raw, "judge", where) or "",
        reference=_optional_text(raw, "reference", where),
        finish_reason=_optional_text(raw, "finish_reason", where),
        logprobs=_logprobs(raw.get("logprobs"), where),
        prompt_tokens=None if prompt_tokens is None else int(prompt_tokens),
        completion_tokens=None if completion is None else int(completion),
        cost_usd=numbers["cost_usd"],
        latency_s=numbers["latency_s"],
    )


def _prompt(raw: Mapping[str, Any], where: str) -> str:
    prompt = _optional_text(raw, "prompt", where)
    messages = decode_messages(raw, where)
    if messages is None:
        return _text(raw, "prompt", where)
    rendered = render_prompt(messages)
    if prompt is not None and hash_prompt(prompt) != hash_prompt(rendered):
        raise ExamplesError(f"{where}: prompt is not the rendered text of messages")
    return rendered


def _text(raw: Mapping[str, Any], name: str, where: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ExamplesError(f"{where}: {name} is {value!r}, a non-empty string was expected")
    return value


def _optional_text(raw: Mapping[str, Any], name: str, where: str) -> str | None:
    value = raw.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise ExamplesError(f"{where}: {name} is {type(value).__name__}, a string or null was expected")
    return value


def _quality(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExamplesError(f"{where}: quality is {value!r}, a number from 0 to 1 was expected")
    if not 0.0 <= value <= 1.0:  # also false for NaN
        raise ExamplesError(f"{where}: quality is {value}, outside 0..1")
    return float(value)


def _optional_number(raw: Mapping[str, Any], name: str, where: str) -> float | None:
    value = raw.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or math.isinf(value):
        raise ExamplesError(f"{where}: {name} is {value!r}, a number of at least 0 was expected")
    return float(value)


def _logprobs(value: object, where: str) -> np.ndarray | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise ExamplesError(f"{where}: logprobs is not a list of numbers") from exc
    if array.ndim != 1 or np.isnan(array).any() or (array > 1e-3).any():
        raise ExamplesError(
            f"{where}: logprobs must be a flat list of natural logarithms, none above 0 or NaN"
        )
    return array
