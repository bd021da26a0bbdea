"""One function a scorer: from the fit's input to a finished part of the bundle.

Scorers see the train split, early stopping the validation split. A later scorer may start from an earlier one
(the difficulty classifier from the factorisation's probes), which is why the parts come in this order; the
evaluator before the difficulty classifier, because it is where the signal is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import save as encode_tensors

from scorers.classifier import HttpClassifier
from scorers.embedders import is_remote
from scorers.encoders import DEFAULT_ENCODER, EncoderFolder, resolve_encoder
from scorers.features import FEATURE_NAMES
from scorers.prompt_features import N_PROMPT_FEATURES, PROMPT_FEATURES
from scorers.runtime.prompt_trees import SHARE as TREES_SHARE
from scorers.runtime.query import PARTS
from scorers.runtime.stack import READINGS
from scorers.runtime.topics import LIFT
from scorers.runtime.words import SHARE
from trainer.conditions import Conditions
from trainer.examples import Example
from trainer.fit_difficulty import fit_difficulty
from trainer.fit_encoders import describe_encoder, describe_remote, open_query
from trainer.fit_evaluator import fit_evaluator, model_offsets
from trainer.fit_mf import Block, Outcomes, fit_mf, quality_table, query_blocks, standardiser
from trainer.fit_ngrams import LEAST_PROMPTS, fit_ngrams
from trainer.fit_ngrams import SHARE as WORDS_SHARE
from trainer.fit_options import FitInput
from trainer.fit_prefixes import fit_prefix_heads
from trainer.fit_prompt_trees import fit_prompt_trees
from trainer.fit_stack import FittedStack, add_network, fit_stack
from trainer.fit_topics import fit_topics, topic_tensors
from trainer.work_folder import Part

# Shares of the minutes; the rest is reading, embedding and scoring. The difficulty classifier has nearly
# all of them where there is no evaluator: the rate they are counted at is far below that of free cores.
DIFFICULTY_SHARE, EVALUATOR_SHARE, DIFFICULTY_ALONE_SHARE = 0.38, 0.45, 0.95

UNSEEN = "unseen.safetensors"  # of the evaluator's part, for calibration only

Parts = Mapping[str, Part]
FitPart = Callable[[FitInput, Parts, Conditions], Part]


def parts_of(data: FitInput) -> dict[str, FitPart]:
    """The parts this fit consists of, in order."""
    parts: dict[str, FitPart] = {"mf": fit_mf_part}
    if data.judges:
        served = is_remote(data.options.evaluator_encoder)
        parts["evaluator"] = served_evaluator_part if served else fit_evaluator_part
    if data.options.difficulty:
        parts["difficulty"] = fit_difficulty_part
    return parts


def fit_mf_part(data: FitInput, _: Parts, conditions: Conditions) -> Part:
    options = data.options
    query, encoder = open_query(options.encoder, conditions.progress)
    # Other models' rows teach too, on the same prompts; other prompts' rows could be the calibration's.
    models = data.table.models
    ids = set(data.splits["train"]) | set(data.splits["validation"])
    texts = {row.prompt_id: row.prompt for row in data.table.rows if row.prompt_id in ids}
    vectors = query.embed(list(texts.values()))
    encoder["dimension"] = query.encoder_dimension
    table = quality_table(data.table.rows, list(texts), models)
    blocks = query_blocks(query.parts, query.encoder_dimension, N_PROMPT_FEATURES)
    fitted = fit_mf(
        Outcomes(vectors, table),
        (models.index(data.tiers[0]), models.index(data.tiers[-1])),
        options.mf_form,
        options.mf_bias,
        blocks=blocks,
        seed=options.seed,
        progress=conditions.progress,
    )
    tensors = fitted.model.export()
    if fitted.form == "correctness":
        tiers = [models.index(tier) for tier in data.tiers]
        outcomes = Outcomes(vectors, table[:, tiers])
        tensors |= _more_readings(data, texts, outcomes, fitted.unseen[:, tiers], blocks)
    entry = {
        "file": "mf.safetensors",
        "form": fitted.form,
        "models": models,
        "tiers": list(data.tiers),
        "encoder": encoder,
        "query": list(query.parts),
        "features": list(PROMPT_FEATURES),
    }
    log = {
        "form": fitted.form,
        "penalty": fitted.penalty,
        "tried": fitted.tried,
        "words": SHARE in tensors,
        "trees": TREES_SHARE in tensors,
        "topics": tensors[LIFT].shape[1] if LIFT in tensors else 0,
    }
    return Part({"mf.safetensors": encode_tensors(tensors)}, entry, log)


def _more_readings(
    data: FitInput,
    texts: Mapping[str, str],
    outcomes: Outcomes,
    probed: np.ndarray,
    blocks: Sequence[Block],
) -> dict[str, np.ndarray]:
    """Words, boosted trees and topics, from thousands of `texts` by prompt id with what the tiers made of
    them and the factorisation's log-odds out of fold (N, tiers); fewer prompts teach them nothing."""
    known = np.flatnonzero(~np.isnan(outcomes.quality).any(axis=1))
    if len(known) < LEAST_PROMPTS:
        return {}
    vectors, quality = outcomes.vectors[known], outcomes.quality[known]
    prompts, group_of = list(texts.items()), {row.prompt_id: row.group for row in data.table.rows}
    inputs = standardiser(vectors, blocks)
    words = fit_ngrams([prompts[at][1] for at in known], quality)
    trees = fit_prompt_trees(vectors, probed[known], quality, inputs, blocks, data.options.seed)
    topics = fit_topics(vectors, [group_of[prompts[at][0]] for at in known], quality, inputs)
    return words.tensors() | trees.tensors() | ({} if topics is None else topic_tensors(topics))


def fit_difficulty_part(data: FitInput, parts: Parts, conditions: Conditions) -> Part:
    options = data.options
    names = (options.encoder, options.evaluator_encoder, DEFAULT_ENCODER)
    name = next(name for name in names if not is_remote(name))  # it is fine-tuned, and so runs here
    folder = resolve_encoder(name)
    share = DIFFICULTY_SHARE if data.judges else DIFFICULTY_ALONE_SHARE
    minutes = options.max_minutes * share
    settings = replace(options.difficulty_settings, minutes=minutes, seed=options.seed)

    def split(name: str) -> tuple[list[str], np.ndarray]:
        rows = data.rows(name)
        return [data.pairs.weak[row].prompt for row in rows], data.pairs.quality[rows]

    # Probes that have not seen the validation prompts: the classifier must beat them there.
    query, _ = open_query(name, conditions.progress)
    prompts, quality = split("train")
    blocks = query_blocks(query.parts, query.encoder_dimension, N_PROMPT_FEATURES)
    probes = fit_mf(Outcomes(query.embed(prompts), quality), (0, 1), "correctness", blocks=blocks)
    start = (probes.model, (0, 1))
    # The server has the frozen query vectors at hand only where they are the factorisation's too.
    blend = name == options.encoder
    fitted = fit_difficulty(
        folder, (prompts, quality), split("validation"), start, settings, conditions, blend
    )
    # The factorisation has a reading of words for each tier, the classifier a head for each of two.
    both = settings.outputs == len(data.tiers) == 2 and parts["mf"].log["words"]
    words_share = WORDS_SHARE if both else 0.0
    more = {SHARE: np.array([words_share], dtype=np.float32)} if words_share else None
    part = _text_model("difficulty", fitted.model, folder, settings.max_tokens, more)
    part.entry |= {
        "outputs": settings.outputs,
        "query": list(PARTS),
        "features": list(PROMPT_FEATURES),
    }
    part.log = {
        **fitted.log.to_dict(),
        "sample": fitted.plan.to_dict(),
        "frozen_share": fitted.model.frozen_share,
        "frozen_tried": fitted.frozen_tried,
        "words_share": words_share,
    }
    return part


def fit_evaluator_part(data: FitInput, _: Parts, conditions: Conditions) -> Part:
    options = data.options
    folder = resolve_encoder(options.evaluator_encoder)
    minutes = options.max_minutes * EVALUATOR_SHARE
    settings = replace(options.evaluator_settings, minutes=minutes, seed=options.seed)

    def split(name: str) -> list[Any]:
        wanted = set(data.splits[name])
        return [row for row in data.table.rows if row.prompt_id in wanted and row.response is not None]

    train, valid, weak = split("train"), split("validation"), data.tiers[0]
    fitted = fit_evaluator(folder, train, valid, weak, settings, conditions)
    conditions.progress("fit stack", 0, 1)
    rows = [*train, *valid]
    stack = fit_stack(folder, rows, weak, model_offsets(rows), settings.max_tokens, settings.seed)
    whole = add_network(stack, len(train), fitted.valid_logits, valid)
    heads = fit_prefix_heads(rows, weak, stack, settings.seed)
    tensors = whole.tensors() | ({} if heads is None else heads.tensors())
    conditions.progress("fit stack", 1, 1)
    part = _text_model("evaluator", fitted.model, folder, settings.max_tokens, tensors)
    part.entry |= {
        "features": list(FEATURE_NAMES),
        "prompt_features": list(PROMPT_FEATURES),
        "outputs": settings.outputs,
    }
    if not whole.reads_network:  # else the sum's log-odds are other ones than those out of fold
        part.files[UNSEEN] = _encode_unseen(rows, stack)
    part.log = {
        **fitted.log.to_dict(),
        "sample": fitted.plan.to_dict(),
        "features_alone": fitted.feature_log.to_dict()["best"],
        "stack": {
            "rows": stack.rows,
            "log_loss": stack.losses,
            "kernel": stack.kernel_tried,
            "mix": {name: round(float(x), 6) for name, x in zip(READINGS, whole.mix, strict=True)},
            "prefix_lengths": 0 if heads is None else len(heads.tokens),
        },
    }
    return part


def served_evaluator_part(data: FitInput, _: Parts, conditions: Conditions) -> Part:
    """An evaluator that runs on a server: nothing to fit but its calibration."""
    name = data.options.evaluator_encoder
    HttpClassifier.from_name(name)
    return Part(entry={"encoder": describe_remote(name)})


def _encode_unseen(rows: Sequence[Example], stack: FittedStack) -> bytes:
    """The evaluator's P(adequate) of the weak model's answers out of fold, and whether they were: with the
    calibration prompts they make its map (`trainer/calibrate.py`). Not for the bundle."""
    logits = np.array(list(stack.unseen.values()))
    adequate = np.array([float(rows[at].quality >= 0.5) for at in stack.unseen])
    return encode_tensors({"raw": 0.5 * (1.0 + np.tanh(0.5 * logits)), "adequate": adequate})


def _text_model(
    name: str,
    model: Any,
    folder: EncoderFolder,
    max_tokens: int,
    more: Mapping[str, np.ndarray] | None = None,
) -> Part:
    """A fine-tuned encoder's part of the bundle; `more` tensors go into the same file."""
    tensors, weights = model.export()
    tensors |= more or {}
    part = Part(
        {f"{name}.safetensors": encode_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()})}
    )
    part.entry = {"file": f"{name}.safetensors", "encoder": describe_encoder(folder, max_tokens)}
    if weights is not None:
        part.files[f"{name}_encoder.safetensors"] = encode_tensors(weights)
        part.entry["weights"] = f"{name}_encoder.safetensors"
    return part
