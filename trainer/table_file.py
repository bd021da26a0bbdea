"""Rows of a table in a file: parquet, jsonl and csv in, parquet and jsonl out.

A writer that is given the same rows writes the same bytes, whatever process or day it is: columns have one
order and one type, floats are written as Python writes them, and no time or path goes in. The trainer's
stages rely on that for resuming; a table is held in memory (a million answers of 1 kB are a gigabyte).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from routing.errors import ExamplesError
from trainer.artifact import replace_file

Row = dict[str, Any]

# Every column that a stage writes, in the order it stands in; `messages` is a list, in parquet its JSON.
_TYPES: Mapping[str, pyarrow.DataType] = {
    "prompt_id": pyarrow.string(),
    "prompt": pyarrow.string(),
    "messages": pyarrow.string(),
    "source": pyarrow.string(),
    "group": pyarrow.string(),
    "split": pyarrow.string(),
    "model": pyarrow.string(),
    "sample": pyarrow.int32(),
    "samples": pyarrow.int32(),
    "response": pyarrow.string(),
    "finish_reason": pyarrow.string(),
    "quality": pyarrow.float64(),
    "judge": pyarrow.string(),
    "reference": pyarrow.string(),
    "prompt_tokens": pyarrow.int64(),
    "completion_tokens": pyarrow.int64(),
    "cost_usd": pyarrow.float64(),
    "latency_s": pyarrow.float64(),
    "logprobs": pyarrow.list_(pyarrow.float64()),
}
COLUMNS = tuple(_TYPES)
WRITABLE = (".jsonl", ".parquet")


def read_rows(path: Path, required: Sequence[str] = (), csv_too: bool = False) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers, from 1 (in jsonl: the line). `csv_too`: where every column may be text.

    Raises `ExamplesError` naming file and row.
    """
    if not path.is_file():
        raise ExamplesError(f"{path} does not exist")
    if path.suffix == ".parquet":
        yield from _read_parquet(path, required)
    elif path.suffix in (".jsonl", ".ndjson"):
        for number, row in read_jsonl(path):
            if isinstance(row, ExamplesError):
                raise row
            yield number, row
    elif path.suffix == ".csv" and csv_too:
        yield from _read_csv(path, required)
    else:
        kinds = ".parquet, .jsonl or .csv" if csv_too else ".parquet or .jsonl"
        raise ExamplesError(f"{path}: expected {kinds}, not {path.suffix!r}")


def read_jsonl(path: Path) -> Iterator[tuple[int, Row | ExamplesError]]:
    """Lines of a jsonl file; one that is no JSON object comes as the error that says so."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as exc:
                yield number, ExamplesError(f"{path}, row {number}: not JSON ({exc})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                kind = type(row).__name__
                yield number, ExamplesError(f"{path}, row {number}: {kind} where an object was expected")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Publish a table atomically: columns of `COLUMNS` that any row fills. Raises `StageError`,
    `ExamplesError`."""
    check_writable(path)
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    replace_file(path, _parquet(rows, names) if path.suffix == ".parquet" else _jsonl(rows, names))


def check_writable(path: Path) -> None:
    """Raises `ExamplesError` for a name that is neither jsonl nor parquet."""
    if path.suffix not in WRITABLE:
        raise ExamplesError(f"{path}: a table is written as {' or '.join(WRITABLE)}, not {path.suffix!r}")


def decode_messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    """A row's `messages`, also where a file holds them as JSON text; None without. Raises
    `ExamplesError`."""
    messages = row.get("messages")
    if isinstance(messages, str) and messages:
        try:
            messages = json.loads(messages)
        except ValueError as exc:
            raise ExamplesError(f"{where}: messages is not JSON ({exc})") from exc
    if messages is None or (isinstance(messages, (str, list)) and not messages):
        return None
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ExamplesError(f"{where}: messages is {type(messages).__name__}, a list of objects was expected")
    return messages


def _read_parquet(path: Path, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as exc:
        raise ExamplesError(f"{path} cannot be read as parquet: {exc}") from exc
    _require(path, required, table.column_names)
    number = 0
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _read_csv(path: Path, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _require(path, required, reader.fieldnames or ())
            for number, row in enumerate(reader, start=1):
                if None in row:
                    raise ExamplesError(f"{path}, row {number}: more fields than the header names")
                yield number, {name: value or None for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as exc:
        raise ExamplesError(f"{path} cannot be read as csv: {exc}") from exc


def _require(path: Path, required: Sequence[str], there: Iterable[str]) -> None:
    names = list(there)
    missing = [name for name in required if name not in names]
    if missing:
        raise ExamplesError(f"{path}: column {missing[0]!r} is missing; there are: {', '.join(names)}")


def _jsonl(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    out = io.BytesIO()
    for row in rows:
        kept = {name: row[name] for name in names if row.get(name) is not None}
        out.write(json.dumps(kept, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return out.getvalue()


def _parquet(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in names}
    if "messages" in columns:
        columns["messages"] = [
            None if turns is None else json.dumps(turns, ensure_ascii=False) for turns in columns["messages"]
        ]
    schema = pyarrow.schema([(name, _TYPES[name]) for name in names])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), out, compression="zstd")
    return out.getvalue()
