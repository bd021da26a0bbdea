"""One row a stream mode: what was waited for, wasted and served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from bench.recorded_answers import record
from trainer.examples import PairTable


class Seen(Protocol):
    """What is read of one stream."""

    @property
    def first_s(self) -> float: ...

    @property
    def end_s(self) -> float: ...

    @property
    def tier(self) -> str: ...

    @property
    def decision(self) -> str: ...

    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one mode over n prompts.

    `first_p50_s`, `first_mean_s`: to the first content; `end_mean_s`: to the last. `wasted_tokens` were
    written by either model and shown to nobody, a prompt; `strong_share` and `quality` are of what was
    served. `before_end` is the share of the accepted weak answers whose first byte came before their last was
    written, `before_half` the share of the rejected ones given up before half their tokens; null without any.
    """

    mode: str
    prompts: int
    first_p50_s: float
    first_mean_s: float
    end_mean_s: float
    wasted_tokens: float
    strong_share: float
    quality: float
    before_end: float | None
    before_half: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(
        cls, mode: str, streams: Sequence[Seen], pair: PairTable, stats: Sequence[Mapping[str, Any]]
    ) -> Row:
        """`stats` are the counters of (weak, strong)."""
        strong = np.array([one.tier == "strong" for one in streams])
        first = np.array([one.first_s for one in streams])
        served = [
            record(pair.strong[i] if strong[i] else pair.weak[i]).completion_tokens
            for i in range(len(streams))
        ]
        written = sum(side["completion_tokens"] + side["cancelled_tokens"] for side in stats)
        checked = ("adequate", "early_commit")
        kept = [one.reason == "early_commit" for one in streams if one.reason in checked]
        broken = stats[0]["broken_off"]
        shares = [
            broken.get(pair.weak[i].prompt_id, 1.0)
            for i, one in enumerate(streams)
            if one.decision == "escalated"
        ]
        return cls(
            mode,
            len(streams),
            float(np.median(first)),
            float(first.mean()),
            float(np.mean([one.end_s for one in streams])),
            (written - sum(served)) / len(streams),
            float(strong.mean()),
            float(np.where(strong, pair.quality[:, 1], pair.quality[:, 0]).mean()),
            sum(kept) / len(kept) if kept else None,
            sum(share < 0.5 for share in shares) / len(shares) if shares else None,
        )


def print_rows(rows: Sequence[Row]) -> None:
    """A markdown table."""
    print(
        "| mode | first token, median | mean | last token, mean | tokens wasted a prompt | strong | quality "
        "| first byte before weak's end | rejected given up before half |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.mode} | {row.first_p50_s:.2f} s | {row.first_mean_s:.2f} s | {row.end_mean_s:.2f} s "
            f"| {row.wasted_tokens:.0f} | {row.strong_share:.1%} | {row.quality:.3f} "
            f"| {_share(row.before_end)} | {_share(row.before_half)} |"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
