"""Shadow samples judged: pairs out of the decision log, labelled as any answers are, judgements back into it.

    shadows with text -> OUT.answers.jsonl -> `label` -> OUT, and the table `judgements`

Live quality is made of the judgements; the table OUT is examples to fit or calibrate on, of live traffic. A
pair that this judge has judged before is not written again, and its journal keeps it from being asked twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routing.errors import ExamplesError, StageIncomplete
from scorers.text import prompt_id as hash_prompt
from trainer.artifact import beside
from trainer.label import LabelOptions, label
from trainer.log_database import public_name, read_all, write_judgements
from trainer.progress import Progress, no_progress
from trainer.table_file import Row, read_rows, write_rows

ANSWERS = ".answers.jsonl"
_NAMES = ("request_id", "served", "prompt", "weak_model", "weak_answer", "strong_model", "strong_answer")
_COUNT = "SELECT COUNT(*), COUNT(prompt) FROM shadows WHERE outcome = 'ok'"
_PAIRS = (
    f"SELECT {', '.join(_NAMES)} FROM shadows WHERE outcome = 'ok' AND prompt IS NOT NULL "
    "AND strong_answer IS NOT NULL ORDER BY at, request_id"
)
_JUDGED = "SELECT request_id FROM judgements WHERE judge = ?"


def label_log(url: str, options: LabelOptions, progress: Progress = no_progress) -> int:
    """Judge every pair of the log; how many judgements are new. `options.answers` is filled in here.

    Raises what `label` does, and `ExamplesError` for a log without samples or without their text. Where some
    answers got no label, the judgements of the rest are written before `StageIncomplete`.
    """
    pairs = read_pairs(url)
    answers = beside(options.out, ANSWERS)
    write_rows(answers, list(_answers(pairs)))
    incomplete: StageIncomplete | None = None
    try:
        label(replace(options, answers=(answers,), keep_samples=True), progress)
    except StageIncomplete as exc:
        if not options.out.is_file():
            raise
        incomplete = exc
    written = _write_back(url, pairs, [row for _, row in read_rows(options.out)])
    if incomplete is not None:
        raise incomplete
    return written


def read_pairs(url: str) -> list[dict[str, Any]]:
    """Sampled answers with their text. Raises `ExamplesError` that says what is missing and which setting it
    is."""
    ((total, with_text),), rows = read_all(url, [(_COUNT, ()), (_PAIRS, ())])
    if not total:
        raise ExamplesError(
            f"{public_name(url)}: no sampled answer; the proxy samples with `share` in section `loop.shadow`"
        )
    if not with_text:
        raise ExamplesError(
            f"{public_name(url)}: {total} sampled answers and no text of any, so there is nothing a judge "
            "could read; the proxy keeps text only with `store_text: true` in section `log`"
        )
    return [dict(zip(_NAMES, row, strict=True)) for row in rows]


def _answers(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Each answer of each pair as a row that `label` reads; a strong answer once a pair."""
    for pair in pairs:
        sides = ("weak", "strong") if pair["served"] == "weak" else ("strong",)
        for side in sides:
            yield {
                "prompt_id": hash_prompt(pair["prompt"]), "prompt": pair["prompt"], "source": "log",
                "model": pair[f"{side}_model"],
                "response": pair[f"{side}_answer"],
            }  # fmt: skip


def _write_back(url: str, pairs: Sequence[Mapping[str, Any]], labelled: Sequence[Row]) -> int:
    """A label belongs to the words of an answer, so it is found by them."""
    quality = {(row["prompt"], row["model"], row["response"]): float(row["quality"]) for row in labelled}
    judge = str(labelled[0]["judge"])
    known = {request_id for (request_id,) in _judged(url, judge)}
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        strong = quality.get((pair["prompt"], pair["strong_model"], pair["strong_answer"]))
        served = strong
        if pair["served"] == "weak":
            served = quality.get((pair["prompt"], pair["weak_model"], pair["weak_answer"]))
        if served is not None and strong is not None and pair["request_id"] not in known:
            rows.append((pair["request_id"], time.time(), judge, served, strong))
    if rows:
        write_judgements(url, rows)
    return len(rows)


def _judged(url: str, judge: str) -> list[Any]:
    (rows,) = read_all(url, [(_JUDGED, (judge,))])
    return rows
