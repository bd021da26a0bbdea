"""One row a prompt: what both models were worth and cost, and what every scorer said before calibration.

Scoring (minutes, needs the encoders) is kept apart from calibration, certificate and report (seconds, needs
numpy): `trainer.score` writes this artifact, the later stages read nothing else. One safetensors file holds
it, numbers as tensors and strings as JSON in its header, so a file is whole or absent and nothing is
unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as encode_tensors

from routing.errors import ExamplesError

Floats = NDArray[np.float64]
SCHEMA = "upshift-scored-1"
_HEADER = "scored_pairs"

_UNIT = ("q_weak", "q_strong")  # in [0, 1]
_COSTS = ("cost_weak", "cost_strong", "cost_route", "cost_check")  # >= 0, one unit
_SCORES = ("gain_raw", "weak_adequate_raw", "difficulty_raw", "adequate_raw")  # any finite number
_PROBABILITIES = ("weak_adequate_raw", "adequate_raw")


@dataclass(slots=True)
class ScoredPairs:
    """Aligned columns, each of shape (n,), for one weak and one strong model.

    `prompt_id` and `group` are strings; `prompt_chars` and `answer_chars` lengths of the prompt and of the
    weak answer (NaN where there is no answer); `q_weak`, `q_strong` in [0, 1]; `cost_weak`, `cost_strong` of
    the two answers, `cost_route` of scoring the prompt and `cost_check` of judging the weak answer, all in
    one unit (None for the first two: the examples carry no cost). `gain_raw` is the MF pre-router's
    sigmoid(s_strong) - sigmoid(s_weak) or its pairwise score, `weak_adequate_raw` its P(weak adequate),
    `difficulty_raw` the difficulty classifier's score (higher is harder), `adequate_raw` the evaluator's
    P(adequate) of the weak answer; each None where there is no such scorer.
    """

    weak: str
    strong: str
    prompt_id: list[str]
    q_weak: Floats
    q_strong: Floats
    prompt_chars: Floats
    group: list[str] = field(default_factory=list)
    answer_chars: Floats | None = None
    cost_weak: Floats | None = None
    cost_strong: Floats | None = None
    cost_route: Floats | None = None
    cost_check: Floats | None = None
    gain_raw: Floats | None = None
    weak_adequate_raw: Floats | None = None
    difficulty_raw: Floats | None = None
    adequate_raw: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.prompt_id)
        if n == 0:
            raise ExamplesError(f"no prompt has answers of both {self.weak!r} and {self.strong!r}")
        if not self.group:
            self.group = [""] * n
        if len(self.group) != n:
            raise ExamplesError(f"there are {n} prompts but {len(self.group)} groups")
        for name in array_names():
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, self._checked(name, np.asarray(values, dtype=np.float64), n))
        if len(set(self.prompt_id)) != n:
            seen: set[str] = set()
            twice = next(p for p in self.prompt_id if p in seen or seen.add(p))  # type: ignore[func-returns-value]
            raise ExamplesError(f"prompt_id {twice!r} stands in more than one row")

    def _checked(self, name: str, values: Floats, n: int) -> Floats:
        if values.shape != (n,):
            raise ExamplesError(f"column {name!r} must have shape ({n},); it has {values.shape}")
        bad = np.zeros(n, dtype=bool) if name == "answer_chars" else ~np.isfinite(values)
        wanted = "a finite number"
        if name in _UNIT or name in _PROBABILITIES:
            bad |= (values < 0.0) | (values > 1.0)
            wanted = "in [0, 1]"
        elif name in _COSTS:
            bad |= values < 0.0
            wanted = "at least 0"
        if bad.any():
            row = int(bad.argmax())
            raise ExamplesError(
                f"column {name!r}, row {row} (prompt_id {self.prompt_id[row]!r}): "
                f"{values[row]} is not {wanted}"
            )
        return values

    def __len__(self) -> int:
        return len(self.prompt_id)

    def subset(self, rows: Sequence[int] | NDArray[Any]) -> ScoredPairs:
        """The rows at these positions (or under this boolean mask), in that order."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        columns = ((name, getattr(self, name)) for name in array_names())
        arrays: dict[str, Any] = {name: None if column is None else column[index] for name, column in columns}
        return ScoredPairs(
            weak=self.weak,
            strong=self.strong,
            prompt_id=[self.prompt_id[i] for i in index.tolist()],
            group=[self.group[i] for i in index.tolist()],
            **arrays,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step: a reader finds the old one or the whole new one."""
        arrays = {
            n: np.ascontiguousarray(getattr(self, n)) for n in array_names() if getattr(self, n) is not None
        }
        text = {"weak": self.weak, "strong": self.strong, "prompt_id": self.prompt_id, "group": self.group}
        # One entry only: safetensors writes several in an order that changes from call to call.
        payload = encode_tensors(arrays, metadata={_HEADER: json.dumps({"schema": SCHEMA, **text})})
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoredPairs:
        """Read `save`'s file. Raises `ExamplesError` naming the file when it is not one."""
        try:
            with safe_open(str(path), framework="np") as file:
                text = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
                if (schema := text.pop("schema", None)) != SCHEMA:
                    raise ExamplesError(f"{path}: schema is {schema!r}, expected {SCHEMA!r}")
                known = set(array_names())
                arrays = {name: file.get_tensor(name) for name in file.keys() if name in known}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as exc:
            raise ExamplesError(f"{path}: cannot be read as scored pairs: {exc}") from exc
        return cls(**text, **arrays)


def array_names() -> tuple[str, ...]:
    """The numeric columns, in the order of the class."""
    return tuple(
        f.name for f in fields(ScoredPairs) if f.name not in ("weak", "strong", "prompt_id", "group")
    )


def join_scored(parts: Sequence[ScoredPairs]) -> ScoredPairs:
    """Rows of several files of one pair under each other; a column that one of them lacks is dropped.

    Raises `ExamplesError` for different pairs and for a prompt that stands in two of them.
    """
    pairs = sorted({(part.weak, part.strong) for part in parts})
    if len(pairs) != 1:
        raise ExamplesError(f"scored pairs of one pair of models are needed; these are of {pairs}")
    prompt_id = [prompt for part in parts for prompt in part.prompt_id]
    if len(set(prompt_id)) != len(prompt_id):
        raise ExamplesError(f"{len(prompt_id) - len(set(prompt_id))} prompts stand in two of the parts")
    columns = {name: [getattr(part, name) for part in parts] for name in array_names()}
    arrays: dict[str, Any] = {
        name: None if any(part is None for part in found) else np.concatenate(found)
        for name, found in columns.items()
    }
    return ScoredPairs(
        weak=pairs[0][0],
        strong=pairs[0][1],
        prompt_id=prompt_id,
        group=[group for part in parts for group in part.group],
        **arrays,
    )
