"""Prompts from public data sets on the Hugging Face hub, or from a local copy of them.

Read from the parquet files that the hub makes of every data set (branch `refs/convert/parquet`), by
huggingface_hub and pyarrow, which are there already. The `datasets` library would add three packages, a
second copy of the data in its own format, and, for some sets, scripts to run; we need one or two columns.

    gsm8k                                        a data set we know, with its licence
    hf:OWNER/NAME:SPLIT:COLUMN                   any other; `hf:OWNER/NAME/CONFIG:...` where it has several
    hf:OWNER/NAME:SPLIT:COLUMN:REFERENCE         with the column of the right answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from routing.errors import ExamplesError, SettingsError
from trainer.table_file import Row

REVISION = "refs/convert/parquet"
PREFIX = "hf:"


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where prompts are on the hub, and how a row of it becomes one."""

    repo: str
    config: str  # "": the only one there is
    split: str
    licence: str
    build: Callable[[Mapping[str, Any]], Row]


def _alpaca(row: Mapping[str, Any]) -> Row:
    more = f"\n\n{row['input']}" if row.get("input") else ""
    return {"prompt": f"{row['instruction']}{more}", "reference": row.get("output")}


def _dolly(row: Mapping[str, Any]) -> Row:
    more = f"\n\n{row['context']}" if row.get("context") else ""
    prompt = f"{row['instruction']}{more}"
    return {"prompt": prompt, "reference": row.get("response"), "group": row.get("category")}


def _gsm8k(row: Mapping[str, Any]) -> Row:
    return {"prompt": row["question"], "reference": row["answer"]}


def _mmlu(row: Mapping[str, Any]) -> Row:
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True))
    prompt = f"{row['question']}\n{choices}\nAnswer with the letter of the right choice."
    return {"prompt": prompt, "reference": "ABCD"[int(row["answer"])], "group": row.get("subject")}


def _ultrachat(row: Mapping[str, Any]) -> Row:
    return {"prompt": row["prompt"]}


# Licences as stated on the data sets' own pages; what they allow you is for you to judge.
KNOWN: Mapping[str, HubSource] = {
    "alpaca": HubSource("tatsu-lab/alpaca", "default", "train", "CC BY-NC 4.0", _alpaca),
    "dolly": HubSource("databricks/databricks-dolly-15k", "default", "train", "CC BY-SA 3.0", _dolly),
    "gsm8k": HubSource("openai/gsm8k", "main", "train", "MIT", _gsm8k),
    "mmlu": HubSource("cais/mmlu", "all", "test", "MIT", _mmlu),
    "ultrachat": HubSource("HuggingFaceH4/ultrachat_200k", "default", "train_sft", "MIT", _ultrachat),
}


def parse_hub(spec: str) -> HubSource:
    """A known name, or `hf:...`. Raises `SettingsError` showing the form."""
    if spec in KNOWN:
        return KNOWN[spec]
    where, _, rest = spec.removeprefix(PREFIX).partition(":")
    owner, _, name = where.partition("/")
    name, _, config = name.partition("/")
    split, _, columns = rest.partition(":")
    column, _, reference = columns.partition(":")
    if not (spec.startswith(PREFIX) and owner and name and split and column):
        raise SettingsError(f"{spec!r}: expected hf:OWNER/NAME:SPLIT:COLUMN, or one of {', '.join(KNOWN)}")

    def build(row: Mapping[str, Any]) -> Row:
        value = row[column]
        found: Row = {"messages": _until_user(value)} if isinstance(value, list) else {"prompt": value}
        return {**found, "reference": row[reference]} if reference else found

    return HubSource(f"{owner}/{name}", config, split, "not known here: see its page on the hub", build)


def read_hub(source: HubSource, local: Path | None = None) -> Iterator[tuple[str, Row]]:
    """Rows with the place each comes from. `local` holds copies as OWNER/NAME, in the layout of the hub.

    Raises `ExamplesError` when the data cannot be had or lack a column.
    """
    folder = _local_folder(source, local) if local else _download(source)
    for path in find_parquet(folder, source):
        number = 0
        try:
            file = pyarrow.parquet.ParquetFile(path)
            for batch in file.iter_batches(batch_size=4096):
                for raw in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", source.build(raw)
        except KeyError as exc:
            names = ", ".join(file.schema_arrow.names)
            raise ExamplesError(f"{path} has no column {exc}; there are: {names}") from exc
        except (pyarrow.ArrowException, OSError) as exc:
            raise ExamplesError(f"{path} cannot be read as parquet: {exc}") from exc


def find_parquet(folder: Path, source: HubSource) -> list[Path]:
    """The files of one split: `CONFIG/SPLIT/0000.parquet`, or `CONFIG/SPLIT-00000-of-00001.parquet` as in
    the data set's own branch. Raises `ExamplesError` listing what there is."""
    every = sorted(path.relative_to(folder) for path in folder.rglob("*.parquet"))
    found = [path for path in every if _is_split(path, source.split)]
    if source.config and any(source.config in path.parts[:-1] for path in found):
        found = [path for path in found if source.config in path.parts[:-1]]
    configs = sorted({path.parts[0] for path in found})
    if not found or (not source.config and len(configs) > 1):
        what = f"several configurations of split {source.split!r}" if found else f"no split {source.split!r}"
        there = ", ".join(configs or sorted({str(path) for path in every})[:12]) or "no parquet file"
        raise ExamplesError(f"{source.repo} in {folder}: {what}; there are: {there}")
    return [folder / path for path in found]


def _is_split(path: Path, split: str) -> bool:
    parents = path.parts[:-1]
    if any(part in (split, f"partial-{split}") for part in parents):
        return True
    return path.stem == split or path.name.startswith(f"{split}-")


def _local_folder(source: HubSource, local: Path) -> Path:
    folder = local / source.repo
    if not folder.is_dir():
        raise ExamplesError(f"{folder} does not exist; a copy of {source.repo} was expected there")
    return folder


def _download(source: HubSource) -> Path:
    """The split's files, from the hub or its cache on disk."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    config = source.config or "*"
    wanted = [f"{config}/{source.split}/*.parquet", f"{config}/partial-{source.split}/*.parquet"]
    try:
        folder = snapshot_download(source.repo, repo_type="dataset", revision=REVISION, allow_patterns=wanted)
    except (OSError, HfHubHTTPError, httpx.HTTPError, ValueError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise ExamplesError(
            f"{source.repo} cannot be had from the hub ({type(exc).__name__}: {first}); with a copy on disk "
            f"give --datasets FOLDER, where FOLDER/{source.repo} holds its parquet files"
        ) from exc
    return Path(folder)


def _until_user(turns: list[Any]) -> list[Any]:
    """A recorded conversation as a prompt: all before the last assistant turn that ends it."""
    kept = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept
