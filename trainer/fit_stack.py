"""Fits the evaluator's stack: readings of an answer that need no fine-tuning, and the weights of their sum.

Everything is fitted once a fold (folds by prompt) and once on all rows; the folds' predictions, each on
prompts that its readings have not seen, give the weights of the sum. The network comes in last, where it
proves itself on the validation prompts. A model's rows count the more the nearer its share of adequate
answers is to the weak model's: what tells good from bad in a strong model's answers says little about a weak
one's.
Prefixes are taught beside whole answers, so that a stream can be judged half-way; the weights of the sum
are those of whole answers.

Where the table has reference answers, a teacher who sees them softens the labels that the kernel machine
learns from (`trainer/fit_teacher.py`), if that lowers the loss on labels out of fold.

Cost: vectors of the prompts and of the weak model's answers (minutes for thousands), the rest in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from scorers.answer import AnswerLike
from scorers.encoders import EncoderFolder
from scorers.features import LOGPROB_BLOCK, LOGPROB_FEATURES, features_of
from scorers.prompt_features import features_of_prompts
from scorers.runtime.kernel import KernelReading
from scorers.runtime.session import EncoderSession
from scorers.runtime.stack import COLUMN_BOUND, READINGS, AnswerStack, kernel_inputs, stack_columns
from trainer.examples import Example
from trainer.fit_kernel import MAX_ROWS as MAX_KERNEL_ROWS
from trainer.fit_kernel import RIDGES, KernelFit
from trainer.fit_teacher import teach
from trainer.fit_trees import fit_trees
from trainer.prefixes import CHECKPOINT_TOKENS, answer_of, cut_answer
from trainer.split import fold_of

FOLDS = 5
MAX_ROWS = 8000  # the weak model's, and a sample of the others'
ALIKE = 0.7  # in log-odds of an adequate answer: a model this far from the weak one counts 1/e
PREFIX_SHARE = 0.25
PREFIX_WEIGHT = 0.25  # what a prefix counts beside a whole answer: whole ones decide most often
LOGPROB_DROP = 0.15
HEAD_RIDGES = (1.0, 5.0, 2.0)  # of the prompt heads, on unit vectors
FEATURE_C, MIX_C = 0.05, 0.3  # inverse ridges, on standardised columns
TEACHER_SHARE = 0.5  # of the teacher's opinion in a soft label
NETWORK_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Standard errors that it must win by: it was stopped by these prompts, the best of five shares is looked for
# on them, and there may be forty of them. By one error it silenced a better stack on GSM8K (`LOG.md`).
NETWORK_ERRORS = 2.5


@dataclass(slots=True)
class StackRows:
    """B rows: features (B, N_FEATURES), adequate `y` (B,), `weight` (B,), index of the prompt (B,), whether
    the weak model's, whether whole, index of the answer's vector for the weak model's rows (-1: none), and
    position in the rows given."""

    features: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    prompt: np.ndarray
    weak: np.ndarray
    whole: np.ndarray
    vector: np.ndarray
    source: np.ndarray


@dataclass(slots=True)
class FittedStack:
    """The stack and what its parts gave, out of fold, on the weak model's whole answers: log losses of each
    reading and of the sum, the sum's log-odds by position in the rows given, and the kernel's losses by
    target and ridge. `told` (P, 3) is what the prompt heads say of each prompt, out of fold, at its place in
    `order`."""

    stack: AnswerStack
    losses: dict[str, float]
    rows: int
    unseen: dict[int, float]
    kernel_tried: dict[str, float]
    order: Mapping[str, int]
    told: np.ndarray


def model_weights(offsets: Mapping[str, float], weak: str) -> dict[str, float]:
    """How much a row of each model counts, in (0, 1]: exp(-|log-odds - the weak model's| / ALIKE)."""
    return {model: math.exp(-abs(value - offsets[weak]) / ALIKE) for model, value in offsets.items()}


def fit_stack(
    folder: EncoderFolder,
    rows: Sequence[Example],
    weak: str,
    offsets: Mapping[str, float],
    max_tokens: int,
    seed: int,
) -> FittedStack:
    """Fit on rows with a response, of training and validation prompts. The network's weight is 0 at first:
    see `add_network`."""
    weights = model_weights(offsets, weak)
    prompts = {row.prompt_id: row.prompt for row in rows}
    order = {prompt_id: at for at, prompt_id in enumerate(prompts)}
    session = EncoderSession(folder, max_tokens, lower_half=True)
    query = session.embed_middle(list(prompts.values()))  # (P, v)
    fold = np.array([fold_of(prompt_id, FOLDS, seed) for prompt_id in prompts])
    targets = _prompt_targets(rows, order, weights)
    read, answers = _read_rows(rows, weak, order, weights, seed)
    vectors = session.embed_middle(answers)  # (rows of weak, v)
    told = np.empty((len(query), len(HEAD_RIDGES)))  # each prompt by heads that have not seen it
    for k in range(FOLDS):
        weight, bias = _prompt_heads(query[fold != k], targets[fold != k])
        told[fold == k] = query[fold == k] @ weight.T + bias
    columns = stack_columns(read.features, told[read.prompt])
    asked = features_of_prompts(list(prompts.values()))
    own = np.flatnonzero(read.weak)
    y, whole = read.y[own], read.whole[own]
    kernel = _KernelChoice(
        x=kernel_inputs(
            query[read.prompt[own]], vectors[read.vector[own]], columns[own], asked[read.prompt[own]]
        ),
        weight=read.weight[own],
        whole=whole,
        vectors=2 * query.shape[1],
        targets={"labels": y, **_soft_labels(rows, read, asked, fold, seed)},
        seed=seed,
    )
    seen = np.zeros((len(own), len(READINGS) - 1))  # readings out of fold
    for k in range(FOLDS):
        train, test = fold[read.prompt] != k, fold[read.prompt[own]] == k
        part = _fit_readings(columns, read, train, seed)
        seen[test, :2] = _read(part, columns, own[test])
        kernel.try_out(~test, test)
    seen[:, 2], tried = kernel.choose(y)
    weight, bias = _prompt_heads(query, targets)
    stack = _fit_readings(columns, read, np.ones(len(columns), dtype=bool), seed)
    mix, offset = fit_mix(seen[whole], y[whole])
    machine = kernel.fit()
    stack = replace(
        stack,
        prompt_weight=weight,
        prompt_bias=bias,
        kernel=machine if mix[2] > 0.0 else machine.silenced(),
        mix=np.append(mix, 0.0),
        bias=offset,
    )
    losses = {name: _alone(seen[whole, i], y[whole]) for i, name in enumerate(READINGS[:-1])}
    total = seen[whole] @ mix + offset
    losses["sum"] = _log_loss(total, y[whole])
    unseen = dict(zip(read.source[own][whole].tolist(), total.tolist(), strict=True))
    return FittedStack(stack, losses, len(columns), unseen, tried, order, told)


def add_network(
    fitted: FittedStack, offset: int, network: Mapping[int, float], valid: Sequence[Example]
) -> AnswerStack:
    """The stack with the network's share of the log-odds: the share of the least log loss on the weak model's
    validation answers, if it wins by `NETWORK_ERRORS` standard errors; else the network is silent.

    `network` are its log-odds by position in `valid`, whose first row is the stack's row number `offset`.
    """
    stack = fitted.stack
    both = [at for at in network if offset + at in fitted.unseen]
    if not both:
        return stack
    total = np.array([fitted.unseen[offset + at] for at in both])
    y = np.array([float(valid[at].quality >= 0.5) for at in both])
    read = np.array([network[at] for at in both])

    def losses(share: float) -> np.ndarray:
        logits = (1.0 - share) * total + share * read
        return np.asarray(np.logaddexp(0.0, logits) - y * logits)

    best = min(NETWORK_SHARES, key=lambda share: float(losses(share).mean()))
    gain = losses(0.0) - losses(best)
    if gain.mean() <= NETWORK_ERRORS * gain.std() / math.sqrt(len(both)):
        best = 0.0
    mix = np.append(stack.mix[:-1] * (1.0 - best), best)
    return replace(stack, mix=mix, bias=stack.bias * (1.0 - best))


def fit_mix(readings: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of at least 0 and a bias from readings (n, R) out of fold; shrunk towards nothing by a ridge.

    A reading that would count backwards is left out.
    """
    scale = np.maximum(readings.std(0), 1e-6)
    weights = np.zeros(readings.shape[1])
    base = float(np.clip(y.mean(), 1e-3, 1 - 1e-3))
    bias = math.log(base / (1 - base))
    kept = np.arange(readings.shape[1])
    while len(kept) and y.min() < y.max():
        center = readings[:, kept].mean(0)
        model = LogisticRegression(C=MIX_C, max_iter=500)
        model.fit((readings[:, kept] - center) / scale[kept], y)
        found = model.coef_[0] / scale[kept]
        if (found > 0).all():
            weights[kept] = found
            bias = float(model.intercept_[0] - found @ center)
            break
        kept = kept[found > 0]
    return weights, bias


def _read_rows(
    rows: Sequence[Example], weak: str, order: Mapping[str, int], weights: Mapping[str, float], seed: int
) -> tuple[StackRows, list[str]]:
    """The rows to learn from, prefixes among them, and the texts of the weak model's (whole and cut)."""
    random = np.random.default_rng(seed)
    own = [at for at, row in enumerate(rows) if row.model == weak]
    others = [at for at, row in enumerate(rows) if row.model != weak]
    likely = random.random(len(others)) ** (1 / np.array([weights[rows[at].model] for at in others]))
    # Efraimidis and Spirakis, 2006: the largest u^(1/w) are a sample without replacement weighted by w.
    best = np.argsort(-likely, kind="stable")[: max(0, MAX_ROWS - len(own))] if others else []
    chosen = sorted(own + [others[at] for at in best])
    sampled = len(chosen) < len(rows)
    taken: list[tuple[Example, AnswerLike]] = []
    source: list[int] = []
    for at in chosen:
        taken.append((rows[at], answer_of(rows[at])))
        source.append(at)
        draw, cut_at = random.random(), int(random.choice(CHECKPOINT_TOKENS))
        if rows[at].model == weak or draw < PREFIX_SHARE:
            cut = cut_answer(rows[at], cut_at)
            if cut.finish_reason is None:
                taken.append((rows[at], cut))
                source.append(at)
    features = features_of([(row.prompt, answer) for row, answer in taken])
    dropped = random.random(len(taken)) < LOGPROB_DROP
    features[dropped, LOGPROB_BLOCK] = [1.0] + [0.0] * (len(LOGPROB_FEATURES) - 1)
    is_weak = np.array([row.model == weak for row, _ in taken])
    whole = np.array([answer.finish_reason is not None for _, answer in taken])
    weight = np.array([1.0 if sampled else weights[row.model] for row, _ in taken])
    weight[is_weak] = 1.0
    read = StackRows(
        features=features,
        y=np.array([float(row.quality >= 0.5) for row, _ in taken]),
        weight=np.where(whole, weight, PREFIX_WEIGHT * weight),
        prompt=np.array([order[row.prompt_id] for row, _ in taken]),
        weak=is_weak,
        whole=whole,
        vector=np.where(is_weak, np.cumsum(is_weak) - 1, -1),
        source=np.array(source),
    )
    return read, [answer.text for (_, answer), mine in zip(taken, is_weak, strict=True) if mine]


def _prompt_targets(
    rows: Sequence[Example], order: Mapping[str, int], weights: Mapping[str, float]
) -> np.ndarray:
    """What a prompt draws, (P, 3): mean log length, share adequate, and that of models alike."""
    sums = np.zeros((len(order), 5))
    for row in rows:
        at, good, alike = order[row.prompt_id], float(row.quality >= 0.5), weights[row.model]
        sums[at] += (1.0, math.log1p(len((row.response or "").strip())), good, alike, alike * good)
    n, length, good, alike, alike_good = sums.T
    return np.stack([length / n, good / n, alike_good / alike], axis=1)


def _prompt_heads(query: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regressions with an intercept: weights (3, v) and biases (3,)."""
    center, middle = query.mean(0), targets.mean(0)
    x = (query - center).astype(np.float64)
    gram = x.T @ x
    weight = np.stack([
        np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ (targets[:, i] - middle[i]))
        for i, ridge in enumerate(HEAD_RIDGES)
    ])  # fmt: skip
    return weight, middle - weight @ center


def _fit_readings(columns: np.ndarray, read: StackRows, train: np.ndarray, seed: int) -> AnswerStack:
    """Trees and the linear reading from the rows under `train`; the rest is filled in elsewhere."""
    own = np.flatnonzero(read.weak & train)
    center, scale = columns[own].mean(0), columns[own].std(0)
    scale[scale < 1e-3] = 1.0
    bounded = np.clip((columns[own] - center) / scale, -COLUMN_BOUND, COLUMN_BOUND)
    nothing = np.zeros(0)
    return AnswerStack(
        prompt_weight=np.zeros((len(HEAD_RIDGES), 0)),
        prompt_bias=np.zeros(len(HEAD_RIDGES)),
        trees=fit_trees(columns[train], read.y[train], read.weight[train], seed),
        center=center,
        scale=scale,
        feature_weight=_logistic(bounded, read.y[own], read.weight[own], FEATURE_C),
        kernel=KernelReading(nothing, nothing, np.zeros((0, 0)), nothing, 1.0, 0),
        mix=np.zeros(len(READINGS)),
        bias=0.0,
    )


def _read(part: AnswerStack, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Trees and linear reading (n, 2) of `rows`, as `AnswerStack.readings` with columns made."""
    bounded = np.clip((columns[rows] - part.center) / part.scale, -COLUMN_BOUND, COLUMN_BOUND)
    return np.stack([part.trees.logits(columns[rows]), bounded @ part.feature_weight], axis=1)


def _soft_labels(
    rows: Sequence[Example], read: StackRows, asked: np.ndarray, fold: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """`teacher`: labels of the weak model's rows (prefixes by their whole answer's) with the teacher's share;
    nothing in a table without references."""
    whole = np.flatnonzero(read.whole)
    prompt = read.prompt[whole]
    opinion = teach(
        [rows[at] for at in read.source[whole]],
        read.features[whole],
        asked[prompt],
        read.y[whole],
        read.weight[whole],
        fold[prompt],
        seed,
    )
    if opinion is None:
        return {}
    by_source = dict(zip(read.source[whole].tolist(), opinion.tolist(), strict=True))
    own = np.flatnonzero(read.weak)
    told = np.array([by_source[at] for at in read.source[own].tolist()])
    return {"teacher": (1.0 - TEACHER_SHARE) * read.y[own] + TEACHER_SHARE * told}


@dataclass(slots=True)
class _KernelChoice:
    """The kernel machine's ridge and target, chosen by the loss on labels of prompts left out.

    Aligned with the weak model's rows: inputs x (n, D), `weight`, `whole`, and each of `targets` (n,).
    """

    x: np.ndarray
    weight: np.ndarray
    whole: np.ndarray
    vectors: int
    targets: dict[str, np.ndarray]
    seed: int
    tried: dict[tuple[str, float], np.ndarray] = field(default_factory=dict)
    chosen: tuple[str, float] = ("labels", RIDGES[0])

    def try_out(self, train: np.ndarray, test: np.ndarray) -> None:
        """Every candidate, fitted on rows under `train`, reads those under `test`."""
        taken = self._taken(train)
        fit = KernelFit.of(self.x[taken], self.weight[taken], self.vectors)
        for name, target in self.targets.items():
            for ridge in RIDGES:
                out = self.tried.setdefault((name, ridge), np.zeros(len(self.x)))
                out[test] = fit.solve(target[taken], ridge).read_answers(self.x[test])

    def choose(self, y: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """The best candidate's readings out of fold (n,), and every candidate's loss on whole answers."""
        loss = {key: _alone(out[self.whole], y[self.whole]) for key, out in self.tried.items()}
        self.chosen = min(loss, key=lambda key: loss[key])
        return self.tried[self.chosen], {f"{name} {ridge:g}": x for (name, ridge), x in loss.items()}

    def fit(self) -> KernelReading:
        """The chosen one, on all rows."""
        taken = self._taken(np.ones(len(self.x), dtype=bool))
        name, ridge = self.chosen
        fit = KernelFit.of(self.x[taken], self.weight[taken], self.vectors)
        return fit.solve(self.targets[name][taken], ridge)

    def _taken(self, rows: np.ndarray) -> np.ndarray:
        """At most so many of the rows under `rows` as the machine may hold, whole answers first."""
        order = np.random.default_rng(self.seed).permutation(np.flatnonzero(rows))
        first = order[np.argsort(~self.whole[order], kind="stable")]
        return np.sort(first[:MAX_KERNEL_ROWS])


def _logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, c: float) -> np.ndarray:
    if y.min() == y.max():
        return np.zeros(x.shape[1])
    model = LogisticRegression(C=c, max_iter=500).fit(x, y, sample_weight=weight)
    return np.asarray(model.coef_[0])


def _alone(reading: np.ndarray, y: np.ndarray) -> float:
    """Log loss of one reading with the best weight and bias."""
    mix, bias = fit_mix(reading[:, None], y)
    return _log_loss(reading * mix[0] + bias, y)


def _log_loss(logits: np.ndarray, y: np.ndarray) -> float:
    return round(float((np.logaddexp(0.0, logits) - y * logits).mean()), 6)
