"""`collect`: prompts in, the answers of every model out; any OpenAI-compatible URL, any number of models.

    prompts table -> one request a (prompt, model, sample) -> journal -> answers table + manifest

The table comes out in the order of the prompts, then models, then samples, whatever order the answers came
in: a run that was killed ten times writes the bytes of one that never was, but for seconds and charged costs.
With `engine="ray"` the same requests are made by a Ray cluster (`trainer/collect_ray.py`) and the answers
meet the same journal here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from routing.errors import ExamplesError, SettingsError, StageIncomplete
from scorers.text import prompt_id as hash_prompt
from scorers.text import render_prompt
from trainer.artifact import beside, hold
from trainer.chat_client import ChatClient, Patience
from trainer.endpoint import Endpoint
from trainer.gather import gather, open_tally
from trainer.journal import SUFFIX, Entry, Journal, Key
from trainer.manifest import StageRecord, publish_manifest
from trainer.progress import Progress, no_progress
from trainer.split import position_of
from trainer.table_file import Row, check_writable, decode_messages, read_rows, write_rows

ENGINES = ("local", "ray")
_KEPT = ("source", "group", "split", "reference")
_REASONS = 5  # of failures, shown in the error; the manifest has all


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """What `upshift collect` takes. `concurrency` bounds the requests in flight, all models together."""

    prompts: Path  # a table with `prompt` or `messages`, one row a prompt
    models: tuple[Endpoint, ...]
    out: Path  # .jsonl or .parquet
    samples: int = 1  # answers a (prompt, model); more than 1 need a temperature above 0
    temperature: float = 0.0
    max_tokens: int = 1024
    concurrency: int = 16
    patience: Patience = field(default_factory=Patience)
    engine: str = "local"
    ray_address: str = ""  # "": the cluster this process is on, else a local one
    allow_failures: bool = False
    retry_failed: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raises `SettingsError` naming what cannot be."""
        check_writable(self.out)
        names = [endpoint.model for endpoint in self.models]
        if not names:
            raise SettingsError("no model to collect from; give URL#MODEL")
        if len(set(names)) < len(names):
            raise SettingsError(f"a model is named twice: {', '.join(names)}")
        if self.samples > 1 and self.temperature == 0.0:
            raise SettingsError(
                f"{self.samples} samples at temperature 0 are one answer {self.samples} times; "
                "give a temperature above 0"
            )
        if self.samples < 1 or self.concurrency < 1 or self.max_tokens < 1:
            raise SettingsError(
                "samples, concurrency and max_tokens are at least 1, they are "
                f"{self.samples}, {self.concurrency} and {self.max_tokens}"
            )
        if self.engine not in ENGINES:
            raise SettingsError(f"engine {self.engine!r}: there is {' and '.join(ENGINES)}")

    def settings(self) -> dict[str, Any]:
        """What answers of one journal must have in common."""
        return {
            "stage": "collect",
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """One request to make: which prompt, which model (its place in the options), which sample."""

    prompt_id: str
    messages: tuple[Mapping[str, Any], ...]
    model: int
    sample: int

    def body(self, options: CollectOptions) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": list(self.messages),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "logprobs": True,
        }
        if options.temperature > 0:  # so that servers that sample by a seed give a resumed run the same
            body["seed"] = int(position_of(f"{self.prompt_id}:{self.sample}", options.seed) * 2**31)
        return body


def collect(options: CollectOptions, progress: Progress = no_progress) -> Path:
    """Gather all answers and publish the table; returns its path.

    Raises `SettingsError` or `ExamplesError` (options, prompts), `StageError` (an endpoint that refuses the
    key or everything, a journal of other settings, another run on the same artifact), `StageIncomplete`
    when rows failed for good: the table is then written without them, unless there is nothing to write.
    """
    options.check()
    record = StageRecord("collect", options, options.seed, [options.prompts])
    prompts = read_prompts(options.prompts)
    with (
        hold(options.out),
        Journal(beside(options.out, SUFFIX), options.settings()) as journal,
    ):
        resumed = len(journal.entries)
        record.notes["endpoints"] = _ask_all(options, prompts, journal, progress)
        rows, failures = _rows(options, prompts, journal)
        record.counts = {
            "prompts": len(prompts),
            "rows": len(rows),
            "failed": len(failures),
            "found_in_journal": resumed,
        }
        record.notes["failures"] = failures
        if not rows:
            raise StageIncomplete(f"{options.out} was not written: {_tell(failures)}")
        write_rows(options.out, rows)
        publish_manifest(record, options.out)
    if failures and not options.allow_failures:
        raise StageIncomplete(f"{options.out} lacks {_tell(failures)}")
    return options.out


def read_prompts(path: Path) -> list[Row]:
    """Prompts with `prompt_id` and `messages`, each once. Raises `ExamplesError` naming file and row."""
    prompts: list[Row] = []
    seen: dict[str, int] = {}
    for number, row in read_rows(path, csv_too=True):
        where = f"{path}, row {number}"
        messages = decode_messages(row, where)
        prompt = render_prompt(messages) if messages else row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ExamplesError(f"{where}: prompt is {prompt!r}, a non-empty string was expected")
        prompt_id = hash_prompt(prompt)
        if prompt_id in seen:
            raise ExamplesError(f"{where}: the same prompt as row {seen[prompt_id]}; see upshift prompts")
        seen[prompt_id] = number
        prompts.append({**row, "prompt": prompt, "prompt_id": prompt_id, "messages": messages})
    if not prompts:
        raise ExamplesError(f"{path} has no rows")
    return prompts


def questions(options: CollectOptions, prompts: Iterable[Row]) -> Iterator[Question]:
    """Every request there is to make, in the order of the table."""
    for row in prompts:
        messages = tuple(row["messages"] or [{"role": "user", "content": row["prompt"]}])
        for model in range(len(options.models)):
            for sample in range(options.samples):
                yield Question(row["prompt_id"], messages, model, sample)


def key_of(options: CollectOptions, question: Question) -> Key:
    return (question.prompt_id, options.models[question.model].model, question.sample)


async def ask_all(
    options: CollectOptions, tasks: Iterable[Question], concurrency: int, take: Callable[[Entry], None]
) -> list[dict[str, Any]]:
    """The request function of every engine: ask, and hand each entry to `take`. Returns what each endpoint
    was granted."""
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, trust_env=True) as session:
        clients = [ChatClient(endpoint, session, options.patience) for endpoint in options.models]

        async def ask(question: Question) -> dict[str, Any]:
            reply = await clients[question.model].complete(question.body(options))
            return {
                "response": reply.text,
                "finish_reason": reply.finish_reason,
                "logprobs": reply.logprobs,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "cost_usd": reply.cost_usd,
                "latency_s": reply.latency_s,
            }

        await gather(tasks, lambda question: key_of(options, question), ask, concurrency, take)
        return [describe_client(client) for client in clients]


def describe_client(client: ChatClient) -> dict[str, Any]:
    """What the manifest tells of one endpoint."""
    return {
        "model": client.endpoint.model,
        "repeated_attempts": client.repeats,
        "concessions": sorted(client.concessions),
    }


def _ask_all(
    options: CollectOptions, prompts: Sequence[Row], journal: Journal, progress: Progress
) -> list[dict[str, Any]]:
    wanted = {key_of(options, question): question for question in questions(options, prompts)}
    tally = open_tally(journal, "collect", wanted.keys(), options.retry_failed, progress)
    missing = [question for key, question in wanted.items() if key not in journal.entries]
    if not missing:
        return []
    if options.engine == "ray":
        from trainer.collect_ray import collect_on_ray

        return collect_on_ray(options, missing, tally.take)
    return asyncio.run(ask_all(options, missing, options.concurrency, tally.take))


def _rows(
    options: CollectOptions, prompts: Sequence[Row], journal: Journal
) -> tuple[list[Row], list[dict[str, Any]]]:
    by_id = {row["prompt_id"]: row for row in prompts}
    rows: list[Row] = []
    failures: list[dict[str, Any]] = []
    for question in questions(options, prompts):
        entry = journal.entries[key_of(options, question)]
        model = options.models[question.model].model
        if "error" in entry:
            failures.append({"prompt_id": question.prompt_id, "model": model, "reason": entry["error"]})
            continue
        prompt = by_id[question.prompt_id]
        row = {name: prompt.get(name) for name in ("prompt_id", "prompt", "messages", *_KEPT)}
        row |= {name: value for name, value in entry.items() if name != "key"}
        row["model"] = model
        if options.samples > 1:
            row["sample"] = question.sample
        rows.append(row)
    return rows, failures


def _tell(failures: Sequence[Mapping[str, Any]]) -> str:
    shown = "; ".join(f"{failure['model']}: {failure['reason']}" for failure in failures[:_REASONS])
    more = f"; and {len(failures) - _REASONS} more" if len(failures) > _REASONS else ""
    return f"{len(failures)} answers that failed for good ({shown}{more})"
