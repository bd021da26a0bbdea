"""The three tables of a run: what scorers learn from, what calibrates, what judges. No prompt is in two.

Rows go by the hash of their prompt, all models' answers together. What a clock measured (`latency_s`) stays
behind in the examples: the tables, and so the bundle, are then the same for every run over the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from routing.errors import ExamplesError
from trainer.examples import read_examples
from trainer.split import split_prompts
from trainer.table_file import Row, read_rows, write_rows
from trainer.train_config import SplitConfig

NAMES = ("fit", "calibrate", "test")
# `fit` and `calibrate` split their own tables once more by the same hash: with the same seed all of a table
# would fall on one side.
SPLIT_SEED_OFFSET = 7_919
_MEASURED = ("latency_s",)


def split_paths(work: Path) -> dict[str, Path]:
    return {name: work / "tables" / f"{name}.jsonl" for name in NAMES}


def write_splits(examples: Sequence[Path], shares: SplitConfig, seed: int, work: Path) -> dict[str, Path]:
    """Check the examples and write the three tables. Raises `ExamplesError` naming file and row."""
    checked = read_examples(examples)
    rows: list[tuple[str, Row]] = []
    raw = (row for path in examples for _, row in read_rows(path))
    for example, row in zip(checked.rows, raw, strict=True):
        kept = {name: value for name, value in row.items() if name not in _MEASURED}
        rows.append((example.prompt_id, {**kept, "prompt_id": example.prompt_id, "prompt": example.prompt}))
    fractions = {"fit": shares.fit, "calibrate": shares.calibrate, "test": shares.test}
    # A prompt that was assigned before its answers were asked for stays where it is.
    free = (prompt for prompt, row in rows if row.get("split") not in NAMES)
    sides = {
        name: set(prompts)
        for name, prompts in split_prompts(free, fractions, seed + SPLIT_SEED_OFFSET).items()
    }
    paths = split_paths(work)
    for name, path in paths.items():
        part = [row for prompt, row in rows if row.get("split") == name or prompt in sides[name]]
        if not part:
            raise ExamplesError(f"no prompt falls into {name!r}: {len(checked)} rows in all are too few")
        write_rows(path, part)
    refuse_overlap(paths)
    return paths


def refuse_overlap(paths: dict[str, Path]) -> None:
    """Raises `ExamplesError` when a prompt stands in two of the tables."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        for prompt in {row.prompt_id for row in read_examples([path]).rows}:
            if prompt in seen:
                raise ExamplesError(f"prompt {prompt} stands in both {seen[prompt]} and {name} ({path})")
            seen[prompt] = name
