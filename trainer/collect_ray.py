"""`collect` on a Ray cluster: the same request function over partitions, the answers streamed back.

Ray Data spreads blocks of `BLOCK_ROWS` questions over `concurrency / BLOCK_ROWS` workers (at least one); a
worker asks all of its block at once. Entries come back as blocks finish and go into the journal on the
machine that called, which also writes the table: so the artifact is the one that `--engine local` writes. A
kill costs the blocks in flight, that is, at most `concurrency` requests again. Ray places the work; keys
come from the workers' own environment (`deploy/ray/`).

It pays where one machine's sockets or bandwidth are the limit; a single event loop keeps some hundreds of
requests in flight, which is more than most endpoints take.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from routing.errors import SettingsError, StageError
from trainer.collect import CollectOptions, Question, ask_all
from trainer.journal import Entry

BLOCK_ROWS = 8


def collect_on_ray(
    options: CollectOptions, missing: Sequence[Question], take: Callable[[Entry], None]
) -> list[dict[str, Any]]:
    """Ask `missing` on the cluster of `options.ray_address`, on the one this process is on, or on a local
    one. Raises `SettingsError` without Ray, `StageError` when an endpoint ends the run."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as exc:
        raise SettingsError("--engine ray needs Ray: pip install 'upshift[ray]'") from exc
    started = not ray.is_initialized()
    if started and (address := options.ray_address or os.environ.get("RAY_ADDRESS", "")):
        ray.init(address=address, log_to_driver=False)
    elif started:  # a cluster of this machine alone, so nothing of it listens beyond
        ray.init(_node_ip_address="127.0.0.1", log_to_driver=False, include_dashboard=False)
    try:
        return _stream(ray.data, options, missing, take)
    finally:
        if started:
            ray.shutdown()


def _stream(
    data: Any, options: CollectOptions, missing: Sequence[Question], take: Callable[[Entry], None]
) -> list[dict[str, Any]]:
    block_rows = min(BLOCK_ROWS, options.concurrency)
    workers = max(1, options.concurrency // block_rows)
    data.DataContext.get_current().enable_progress_bars = False
    # JSON text, since a column of Arrow has one type and the fields of messages have many.
    items = [{"question": encode_question(question)} for question in missing]
    answered = data.from_items(items, override_num_blocks=-(-len(items) // block_rows)).map_batches(
        AskBlock, fn_constructor_args=(options,), batch_size=None, batch_format="numpy",
        num_cpus=0.1, compute=data.ActorPoolStrategy(min_size=1, max_size=workers,
                                                     max_tasks_in_flight_per_actor=1),
    )  # fmt: skip
    told: dict[str, dict[str, Any]] = {}
    for row in answered.iter_rows():
        value = json.loads(row["entry"])
        if "ended" in value:
            raise StageError(value["ended"])
        if "endpoint" in value:
            _add(told, value["endpoint"])
        else:
            take(value)
    return [told[endpoint.model] for endpoint in options.models if endpoint.model in told]


class AskBlock:
    """What a worker runs: one block of questions in, one JSON text an entry out."""

    def __init__(self, options: CollectOptions) -> None:
        self._options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        block = [decode_question(text) for text in batch["question"]]
        entries: list[Any] = []
        try:
            clients = asyncio.run(ask_all(self._options, block, len(block), entries.append))
            entries += [{"endpoint": client} for client in clients]
        except StageError as error:  # it would reach the driver as Ray's own error, with a stack trace
            entries.append({"ended": str(error)})
        return {"entry": [json.dumps(entry) for entry in entries]}


def encode_question(question: Question) -> str:
    return json.dumps([question.prompt_id, list(question.messages), question.model, question.sample])


def decode_question(text: str) -> Question:
    prompt_id, messages, model, sample = json.loads(text)
    return Question(prompt_id, tuple(messages), model, sample)


def _add(told: dict[str, dict[str, Any]], client: dict[str, Any]) -> None:
    """Counts of several workers as one."""
    known = told.setdefault(client["model"], {**client, "repeated_attempts": 0, "concessions": []})
    known["repeated_attempts"] += client["repeated_attempts"]
    known["concessions"] = sorted({*known["concessions"], *client["concessions"]})
