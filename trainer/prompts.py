"""`prompts`: from data sets, files or the decision log to one table of prompts, split once and for all.

    sources -> exact duplicates out -> sample -> near duplicates out -> split by prompt -> contamination out

The split of a prompt is a function of its text and the seed (`trainer/split.py`), so adding a source moves
none from one side to the other. Everything is a function of the sources and the options: a run that was
killed is simply run again. Reading 100,000 prompts takes about a minute, nearly all of it near duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError, SettingsError
from scorers.text import prompt_id as hash_prompt
from scorers.text import render_prompt
from trainer.artifact import hold
from trainer.manifest import StageRecord, plain, publish_manifest, read_manifest
from trainer.progress import Progress, no_progress
from trainer.prompts_contamination import find_contaminated
from trainer.prompts_hub import KNOWN, PREFIX, parse_hub, read_hub
from trainer.prompts_log import SCHEMES, read_log
from trainer.prompts_near import THRESHOLD, find_near_duplicates
from trainer.split import position_of, split_prompts
from trainer.table_file import Row, check_writable, decode_messages, read_rows, write_rows

STAGE = "prompts"
TEST = "test"
FRACTIONS: Mapping[str, float] = {"train": 0.6, "calibration": 0.15, "certification": 0.15, TEST: 0.1}
_SHOWN = 1000  # removed prompts listed in the manifest, of each kind


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What `upshift prompts` takes. `sources`: known names, `hf:...`, files, `sqlite:///...`,
    `postgresql://...`."""

    sources: tuple[str, ...]
    out: Path
    log_days: float = 0.0  # of a decision log: its last days; 0: all of it
    limit: int = 0  # prompts a source, drawn by hash; 0: all
    column: str = "prompt"  # of files
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(FRACTIONS))
    near_threshold: float = THRESHOLD  # of Jaccard similarity; 0: near duplicates stay
    held_out: tuple[Path, ...] = ()  # tables of prompts that nothing may give away, beside the test split
    datasets: Path | None = None  # local copies of the hub's data sets
    seed: int = 0

    def check(self) -> None:
        """Raises `SettingsError` naming what cannot be."""
        check_writable(self.out)
        if not self.sources:
            raise SettingsError(f"no source of prompts; known are: {', '.join(KNOWN)}")
        if not self.log_days >= 0.0:
            raise SettingsError(f"log_days is at least 0, it is {self.log_days}")
        if self.limit < 0 or not 0.0 <= self.near_threshold <= 1.0:
            raise SettingsError(
                f"limit is at least 0 and near_threshold from 0 to 1, they are {self.limit} "
                f"and {self.near_threshold}"
            )
        try:
            split_prompts((), self.fractions)
        except ValueError as exc:
            raise SettingsError(str(exc)) from exc


def gather_prompts(options: PromptOptions, progress: Progress = no_progress, reuse: bool = False) -> Path:
    """Publish the table; returns its path. With `reuse`, one that the same options made is left as it is,
    whatever its sources have become since: a decision log grows while its prompts are being answered.

    Raises `SettingsError`, `ExamplesError` (a source that cannot be had or read), `StageError`.
    """
    options.check()
    if reuse and options.out.is_file() and _same_options(options):
        return options.out
    record = StageRecord(STAGE, options, options.seed, [*_files(options), *options.held_out])
    with hold(options.out):
        rows = _read_all(options, record, progress)
        rows = _drop_near(options, rows, record, progress)
        _assign_splits(options, rows)
        rows = _drop_contaminated(options, rows, record, progress)
        if not rows:
            raise ExamplesError(f"{', '.join(options.sources)}: no prompt is left; {record.counts}")
        record.counts |= {"prompts": len(rows), "splits": dict(Counter(row["split"] for row in rows))}
        write_rows(options.out, rows)
        publish_manifest(record, options.out)
    return options.out


def licences(sources: Sequence[str]) -> dict[str, str]:
    """Licence of each source from the hub, for whoever is about to use it."""
    return {spec: parse_hub(spec).licence for spec in sources if _is_hub(spec)}


def _is_hub(spec: str) -> bool:
    return spec in KNOWN or spec.startswith(PREFIX)


def _files(options: PromptOptions) -> list[Path]:
    return [Path(spec) for spec in options.sources if not _is_hub(spec) and not spec.startswith(SCHEMES)]


def _same_options(options: PromptOptions) -> bool:
    manifest = read_manifest(options.out)
    return manifest is not None and manifest["stage"] == STAGE and manifest["options"] == plain(options)


def _read_source(options: PromptOptions, spec: str) -> Iterator[tuple[str, Row]]:
    if _is_hub(spec):
        source = parse_hub(spec)
        for where, row in read_hub(source, options.datasets):
            yield where, {"source": spec if spec in KNOWN else source.repo, **row}
    elif spec.startswith(SCHEMES):
        for where, row in read_log(spec, options.log_days):
            yield where, {"source": "log", **row}
    else:
        for number, row in read_rows(Path(spec), csv_too=True):
            found = {name: row.get(name) for name in ("messages", "reference", "group", "source")}
            yield f"{spec}, row {number}", {**found, "prompt": row.get(options.column)}


def _read_all(options: PromptOptions, record: StageRecord, progress: Progress) -> list[Row]:
    """Each prompt once, the sources one after another, each sampled by hash where there is a limit."""
    seen: set[str] = set()
    kept: list[Row] = []
    counts: dict[str, Any] = {}
    for number, spec in enumerate(options.sources):
        progress("read", number, len(options.sources), spec)
        fresh: list[Row] = []
        read = 0
        for where, row in _read_source(options, spec):
            read += 1
            prompt = _check(where, row)
            if prompt["prompt_id"] not in seen:
                seen.add(prompt["prompt_id"])
                fresh.append(prompt)
        taken = _sample(fresh, options)
        counts[_public(spec)] = {"read": read, "distinct": len(fresh), "taken": len(taken)}
        kept += taken
    progress("read", len(options.sources), len(options.sources))
    record.counts["sources"] = counts
    record.notes["licences"] = licences(options.sources)
    return kept


def _public(spec: str) -> str:
    """A log's URL without the name and password in it."""
    return spec.rpartition("@")[2] if spec.startswith(SCHEMES) else spec


def _check(where: str, row: Row) -> Row:
    messages = decode_messages(row, where)
    prompt = render_prompt(messages) if messages else row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ExamplesError(f"{where}: prompt is {prompt!r}, a non-empty string was expected")
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        reference = str(reference)
    prompt = prompt.encode("utf-8", "replace").decode()
    return {**row, "prompt": prompt, "prompt_id": hash_prompt(prompt), "messages": messages,
            "reference": reference}  # fmt: skip


def _sample(rows: list[Row], options: PromptOptions) -> list[Row]:
    """`limit` of them, chosen by hash and left in their order."""
    if not options.limit or len(rows) <= options.limit:
        return rows
    # Another hash than the split's: else the smallest positions, all of one split, would be taken.
    order = sorted(rows, key=lambda row: position_of(f"sample:{row['prompt_id']}", options.seed))
    wanted = {row["prompt_id"] for row in order[: options.limit]}
    return [row for row in rows if row["prompt_id"] in wanted]


def _drop_near(options: PromptOptions, rows: list[Row], record: StageRecord, progress: Progress) -> list[Row]:
    if not options.near_threshold:
        return rows
    progress("near duplicates", 0, len(rows))
    repeats = find_near_duplicates([row["prompt"] for row in rows], options.near_threshold)
    progress("near duplicates", len(rows), len(rows))
    record.counts["near_duplicates"] = len(repeats)
    record.notes["near_duplicates"] = [
        {"prompt_id": rows[number]["prompt_id"], "of": rows[earlier]["prompt_id"]}
        for number, earlier in list(repeats.items())[:_SHOWN]
    ]
    return [row for number, row in enumerate(rows) if number not in repeats]


def _assign_splits(options: PromptOptions, rows: list[Row]) -> None:
    splits = split_prompts((row["prompt_id"] for row in rows), options.fractions, options.seed)
    of = {prompt_id: name for name, ids in splits.items() for prompt_id in ids}
    for row in rows:
        row["split"] = of[row["prompt_id"]]


def _drop_contaminated(
    options: PromptOptions, rows: list[Row], record: StageRecord, progress: Progress
) -> list[Row]:
    """What is not test is held against test; everything is held against the named tables."""
    progress("contamination", 0, len(rows))
    named = [
        _check(f"{path}, row {number}", {"prompt": row.get(options.column), "messages": row.get("messages")})
        for path in options.held_out
        for number, row in read_rows(path, csv_too=True)
    ]
    test = [row for row in rows if row["split"] == TEST]
    removed: dict[str, str] = {}
    for held, asked in ((test, [row for row in rows if row["split"] != TEST]), (named, rows)):
        found = find_contaminated([row["prompt"] for row in asked], [row["prompt"] for row in held])
        removed |= {asked[a]["prompt_id"]: held[h]["prompt_id"] for a, h in found.items()}
    progress("contamination", len(rows), len(rows))
    record.counts["contaminated"] = len(removed)
    record.notes["contaminated"] = [
        {"prompt_id": prompt_id, "by": by} for prompt_id, by in list(removed.items())[:_SHOWN]
    ]
    return [row for row in rows if row["prompt_id"] not in removed]
