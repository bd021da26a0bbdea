"""Minutes -> tokens: how much of a table a fit may read, decided before it starts.

A fit that stops when a clock says so gives another bundle on every machine. So the minutes are turned into
tokens by a fixed, conservative rate, rows are sampled by seed to fit, and the clock only guards (the log says
so when it had to). The rate is half of what 2 cores without AVX-512 gave: 820 tokens a CPU second of MiniLM
with adapters in every layer, on a core under load, which is 42 GFLOP/s a core at 2.4 passes of 2 operations a
weight and token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.torch.encoder import ADAPTER_PASSES
from trainer.dataset import TokenRows

TRAINING_FLOPS_PER_S = 42e9
# For all scorers, by default. What more would train, adapters and the evaluator's network, has gained little
# on the tables so far (`LOG.md`), and a machine two and a half times slower than planned for still ends
# within half an hour. More minutes were not compared with these on today's scorers.
MINUTES = 12.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows (sorted positions) and epochs that a budget allows; `rows_of` is how many there were."""

    rows: np.ndarray
    epochs: int
    rows_of: int

    def to_dict(self) -> dict[str, int]:
        return {"rows": len(self.rows), "rows_of": self.rows_of, "epochs": self.epochs}


def plan_run(
    rows: TokenRows,
    weights_per_token: int,
    minutes: float,
    max_epochs: int,
    seed: int,
    passes: float = ADAPTER_PASSES,
) -> Plan:
    """As many epochs as fit, at least two where sampling half the rows buys them, else one."""
    tokens_allowed = minutes * 60 * TRAINING_FLOPS_PER_S / (passes * 2 * weights_per_token)
    tokens = max(rows.n_tokens(), 1)
    epochs = int(min(max_epochs, max(1, tokens_allowed // tokens)))
    share = min(1.0, tokens_allowed / (tokens * epochs))
    n = max(1, int(len(rows) * share))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:n])
    return Plan(chosen, epochs, len(rows))
