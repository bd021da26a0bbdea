"""The pairs of real models that the routing benchmark runs over, their prices, and who is held out.

Prompts are split by their own hash, so the same prompts are held out on every machine and at every time. The
split must not agree with the trainer's own (`trainer.split`, which divides what it is given into training,
validation and calibration), hence another seed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from bench.recorded_answers import Recorded, record
from routing.errors import ExamplesError
from trainer.examples import Example, ExampleTable, PairTable, pair_examples, read_examples
from trainer.split import position_of

HELD_OUT_SEED = 271828
EXAMPLES_ENV = "UPSHIFT_EXAMPLES"


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """US dollars per million tokens, (prompt, completion), of both models."""

    weak: tuple[float, float]
    strong: tuple[float, float]

    def cost(self, answer: Recorded, strong: bool) -> float:
        """US dollars of one answer."""
        asked, written = self.strong if strong else self.weak
        return (answer.prompt_tokens * asked + answer.completion_tokens * written) / 1e6

    def __str__(self) -> str:
        weak, strong = ("{:g} in, {:g} out".format(*prices) for prices in (self.weak, self.strong))
        return f"US dollars per million tokens: weak {weak}; strong {strong}"


@dataclass(frozen=True, slots=True)
class PriceRatio:
    """A weak answer costs `ratio`, a strong one 1, whatever their length."""

    ratio: float

    def cost(self, answer: Recorded, strong: bool) -> float:
        """In units of one strong answer."""
        return 1.0 if strong else self.ratio

    def __str__(self) -> str:
        return f"an answer of weak : strong = {self.ratio:g} : 1"


Prices = TokenPrices | PriceRatio


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models of one example table. `source` says where the prices are from."""

    name: str
    file: str
    weak: str
    strong: str
    prices: Prices
    source: str


PAIRS = {
    "gsm8k": Pair(
        "gsm8k",
        "gsm8k.parquet",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "gpt-4-1106-preview",
        TokenPrices((0.7, 0.7), (10.0, 30.0)),
        "the makers' list prices when the models were current: Mistral's open-mixtral-8x7b, dearer than most "
        "hosts', which is against the cascade, and OpenAI's gpt-4-1106-preview",
    ),
    "alpaca": Pair(
        "alpaca",
        "alpaca_td003.parquet",
        "phi-2",
        "zephyr-7b-beta",
        PriceRatio(0.37),
        "parameters: 2.7 to 7.2 billion",
    ),
}


@dataclass(frozen=True, slots=True)
class Split:
    """`fit` is every row that may be learnt from, `held_out` the prompts that both models answered."""

    fit: ExampleTable
    held_out: PairTable


def find_table(pair: Pair, given: Path | None) -> Path:
    """The pair's example table: the one given, else in the folder of `UPSHIFT_EXAMPLES`."""
    if given is not None:
        return given
    folder = os.environ.get(EXAMPLES_ENV)
    if not folder:
        raise ExamplesError(
            f"set {EXAMPLES_ENV} to the folder that holds {pair.file}, or give --examples FILE"
        )
    return Path(folder) / pair.file


def split_table(
    pair: Pair, table: Path, share: float, held_out: Path | None = None, prompts: int | None = None
) -> Split:
    """Divide a table by prompt hash: `share` of the prompts are held out. Raises `ExamplesError`.

    With `held_out`, a table of its own, all its prompts are held out and none of them is learnt from.
    `prompts` bounds both sides together to that many prompts, drawn by another hash.
    """
    rows = _answered(table)
    apart = _answered(held_out) if held_out is not None else rows
    if prompts is not None:
        known = {row.prompt_id for row in (*rows, *apart)}
        kept = set(sorted(known, key=lambda key: position_of(key, HELD_OUT_SEED + 1))[:prompts])
        rows, apart = ([row for row in side if row.prompt_id in kept] for side in (rows, apart))
    if held_out is None:
        apart = [row for row in rows if position_of(row.prompt_id, HELD_OUT_SEED) < share]
    known = {row.prompt_id for row in apart}
    fit = ExampleTable([row for row in rows if row.prompt_id not in known])
    fit.require_models(pair.weak, pair.strong)
    return Split(fit, pair_examples(ExampleTable(apart), pair.weak, pair.strong))


def write_fit_table(fit: ExampleTable, pair: Pair, path: Path) -> None:
    """The rows that may be learnt from as a table; with token prices the pair's rows carry `cost_usd`."""
    names = ("prompt", "model", "response", "quality", "judge", "group", "source", "reference")
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in fit.rows] for name in names}
    if isinstance(pair.prices, TokenPrices):
        columns["cost_usd"] = [row_cost(pair, row) for row in fit.rows]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def row_cost(pair: Pair, row: Example) -> float | None:
    """What a row's answer costs; None for a model that is not of the pair."""
    if row.model not in (pair.weak, pair.strong):
        return None
    return pair.prices.cost(record(row), row.model == pair.strong)


def priced(
    pair: Pair, ratio: float | None, weak: Sequence[float] | None, strong: Sequence[float] | None
) -> Pair:
    """The pair at other prices: a ratio, or US dollars per million tokens (prompt, completion)."""
    if ratio is not None:
        return replace(pair, prices=PriceRatio(ratio), source="the command line")
    if weak is None and strong is None:
        return pair
    if weak is None or strong is None:
        raise ExamplesError("give the token prices of both models, or of neither")
    prices = TokenPrices((weak[0], weak[1]), (strong[0], strong[1]))
    return replace(pair, prices=prices, source="the command line")


def _answered(path: Path) -> list[Example]:
    return [row for row in read_examples([path]).rows if row.response is not None]
