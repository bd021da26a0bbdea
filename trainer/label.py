"""`label`: answers in, the same answers with a quality out; by a rule, or by a stronger model.

    answers table -> verdict for each answer (journal, where a model is asked) -> examples table + manifest

One judge a table: a table that holds labels of another is refused, since their qualities are not comparable.
Several answers of one model to one prompt become one row whose quality is their mean, a soft label for the
scorers that see prompts only; with `keep_samples` each answer keeps its own row and quality, which teaches an
evaluator more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError, SettingsError, StageIncomplete
from trainer.agreement import measure_agreement
from trainer.artifact import beside, hold
from trainer.chat_client import Patience
from trainer.endpoint import Endpoint
from trainer.journal import SUFFIX, Journal
from trainer.label_judge import JudgeSettings, judge_rows
from trainer.label_rows import Labelled, LabelRow, read_answers
from trainer.label_verify import verify_rows
from trainer.manifest import StageRecord, publish_manifest
from trainer.progress import Progress, no_progress
from trainer.table_file import Row, check_writable, write_rows
from trainer.verdict import PAIRWISE, POINTWISE, load_rubric

_REASONS = 5


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What `upshift label` takes: `verify` (a verifier's name) or `judge` (a model), not both."""

    answers: tuple[Path, ...]
    out: Path
    verify: str = ""
    pattern: str = ""  # for `verify="regex"`, in place of a reference
    judge: Endpoint | None = None
    pairwise: bool = False
    strong: str = ""  # pairwise: the model that all others are compared with
    rubric: Path | None = None  # in place of the packaged one
    max_tokens: int = 1024  # of a verdict
    verdict_attempts: int = 3
    keep_samples: bool = False
    relabel: bool = False  # labels that are there already are replaced
    agreement: Path | None = None  # a table of labels by hand
    concurrency: int = 16
    patience: Patience = field(default_factory=Patience)
    allow_failures: bool = False
    retry_failed: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raises `SettingsError` naming what cannot be."""
        check_writable(self.out)
        if bool(self.verify) == (self.judge is not None):
            raise SettingsError("give --verify NAME or --judge URL#MODEL, one of the two")
        if self.pairwise and (self.judge is None or not self.strong):
            raise SettingsError("--pairwise needs --judge, and --strong MODEL to compare the others with")
        if self.concurrency < 1 or self.verdict_attempts < 1 or self.max_tokens < 1:
            raise SettingsError(
                "concurrency, verdict attempts and max_tokens are at least 1, they are "
                f"{self.concurrency}, {self.verdict_attempts} and {self.max_tokens}"
            )


def label(options: LabelOptions, progress: Progress = no_progress) -> Path:
    """Label every answer and publish the table; returns its path.

    Raises `SettingsError` (options), `ExamplesError` (a table or row that cannot be used, another judge's
    labels), `StageError` (endpoint, journal, another run), `StageIncomplete` when answers have no label:
    the table is then written without them, unless there is nothing to write.
    """
    options.check()
    inputs = [*options.answers, *([options.agreement] if options.agreement else [])]
    record = StageRecord("label", options, options.seed, inputs)
    rows = read_answers(options.answers)
    with hold(options.out):
        found = _label(options, rows, progress)
        table = _merge(options, rows, found)
        record.counts = {"answers": len(rows), "rows": len(table), "failed": len(found.failures)}
        record.notes = {"judge": found.judge, "labelling": found.notes, "failures": found.failures}
        if not table:
            raise StageIncomplete(f"{options.out} was not written: {_tell(found.failures)}")
        record.notes["quality"] = _quality_by_model(table)
        if options.agreement:
            labels = [(row, found.quality[row.number]) for row in rows if row.number in found.quality]
            record.notes["agreement"] = measure_agreement(labels, options.agreement, options.seed)
        write_rows(options.out, table)
        publish_manifest(record, options.out)
    if found.failures and not options.allow_failures:
        raise StageIncomplete(f"{options.out} lacks {_tell(found.failures)}")
    return options.out


def _label(options: LabelOptions, rows: Sequence[LabelRow], progress: Progress) -> Labelled:
    if options.judge is None:
        found = verify_rows(rows, options.verify, options.pattern, progress)
        _refuse_other_judges(options, rows, found.judge)
        return found
    settings = JudgeSettings(
        options.judge,
        load_rubric(PAIRWISE if options.pairwise else POINTWISE, options.rubric),
        options.strong,
        options.max_tokens,
        options.verdict_attempts,
        options.concurrency,
        options.patience,
        options.retry_failed,
    )
    _refuse_other_judges(options, rows, settings.name)
    identity = {"stage": "label", "judge": settings.name, "max_tokens": options.max_tokens}
    with Journal(beside(options.out, SUFFIX), identity) as journal:
        return judge_rows(rows, settings, journal, progress)


def _refuse_other_judges(options: LabelOptions, rows: Sequence[LabelRow], judge: str) -> None:
    """Labels are never mixed; those of the same judge are simply made again."""
    if options.relabel:
        return
    for row in rows:
        other = row.raw.get("judge") or "an unnamed judge"
        if row.raw.get("quality") is not None and other != judge:
            raise ExamplesError(
                f"row {row.number + 1} has a quality by {other!r} already, this run's judge is {judge!r}; "
                "judges are never mixed: --relabel replaces all labels"
            )


def _merge(options: LabelOptions, rows: Sequence[LabelRow], found: Labelled) -> list[Row]:
    """The labelled rows in their order; several samples as one row, unless they are kept."""
    groups: dict[tuple[str, str], list[LabelRow]] = {}
    for row in rows:
        if row.number in found.quality:
            groups.setdefault((row.prompt_id, row.model), []).append(row)
    table: list[Row] = []
    for group in groups.values():
        kept = group if options.keep_samples else group[:1]
        for row in kept:
            labelled = {**row.raw, "quality": found.quality[row.number], "judge": found.judge}
            if len(group) > 1 and not options.keep_samples:
                labelled["quality"] = sum(found.quality[one.number] for one in group) / len(group)
                labelled["samples"] = len(group)
                labelled.pop("sample", None)
            table.append(labelled)
    return table


def _quality_by_model(table: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean quality and share of adequate answers, to be looked at before anything is fitted."""
    out: dict[str, dict[str, float]] = {}
    for model in sorted({row["model"] for row in table}):
        values = [row["quality"] for row in table if row["model"] == model]
        adequate = sum(value >= 0.5 for value in values) / len(values)
        out[model] = {
            "rows": len(values),
            "mean": round(sum(values) / len(values), 6),
            "adequate": round(adequate, 6),
        }
    return out


def _tell(failures: Sequence[Mapping[str, Any]]) -> str:
    shown = "; ".join(f"row {found['row']}: {found['reason']}" for found in failures[:_REASONS])
    more = f"; and {len(failures) - _REASONS} more" if len(failures) > _REASONS else ""
    return f"{len(failures)} answers without a label ({shown}{more})"
