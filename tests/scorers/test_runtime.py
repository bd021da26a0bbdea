"""The serving runtime: the same numbers as torch, without torch, and refusals that name file and field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from scorers.answer import RecordedAnswer
from scorers.encoders import resolve_encoder
from scorers.errors import EncoderError, ScorerFileError, ScoringFailed
from scorers.features import FEATURE_NAMES, features_of
from scorers.prompt_features import PROMPT_FEATURES, features_of_prompts
from scorers.runtime.difficulty import DifficultyHead
from scorers.runtime.graph import build_graph
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.int8 import after_gelu
from scorers.runtime.local_evaluator import LocalEvaluator
from scorers.runtime.mf import MatrixFactorisation as ServedMf
from scorers.runtime.query import QueryVectors, SessionEmbedder
from scorers.runtime.scorers import BundleScorers, load_scorers
from scorers.runtime.session import EncoderSession
from scorers.tokenizer import TextTokenizer
from scorers.torch.difficulty import DifficultyClassifier
from scorers.torch.encoder import TextEncoder, load_adapters
from scorers.torch.evaluator import Evaluator
from scorers.torch.matrix_factorisation import MatrixFactorisation

ENCODER = resolve_encoder("minilm")
DESCRIBED = {"name": "minilm", "sha256": ENCODER.sha256(), "dimension": 384, "max_tokens": 96}
PAIRS = [
    ("What is 17 + 28?", RecordedAnswer("17 + 28 = 46", "stop", [-0.1, -2.0], 2)),
    ("Name a fruit", RecordedAnswer("apple", "stop", None, 1)),
    ("Tell me all. " * 60, RecordedAnswer("Once upon a time " * 80, "length", [-1.0] * 300, 300)),
    ("Empty?", RecordedAnswer("", None)),
]
PROMPTS = [prompt for prompt, _ in PAIRS]


def shake(module: torch.nn.Module, seed: int) -> None:
    """Give every trainable parameter a value of its own: adapters start at zero and would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    torch.manual_seed(0)
    mf = MatrixFactorisation(2, 384)
    difficulty = DifficultyClassifier(TextEncoder(ENCODER, "lora", 4), outputs=2)
    evaluator = Evaluator(TextEncoder(ENCODER, "lora", 4))
    evaluator.fit_standardiser(features_of(PAIRS))
    for seed, model in enumerate((mf, difficulty, evaluator)):
        shake(model, seed)
        model.eval()
    return {"mf": mf, "difficulty": difficulty, "evaluator": evaluator}


@pytest.fixture(scope="module")
def folder(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    save_file(models["mf"].export(), path / "mf.safetensors")
    for name in ("difficulty", "evaluator"):
        tensors, weights = models[name].export()
        assert weights is None
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path / f"{name}.safetensors")
        load_adapters(models[name].encoder, tensors)  # what float16 storage made of them
    return path


def manifest(**changes: Any) -> dict[str, Any]:
    mf = {"file": "mf.safetensors", "form": "correctness", "models": ["w", "s"], "tiers": ["w", "s"]}
    return {
        "mf": {**mf, "encoder": DESCRIBED},
        "difficulty": {
            "file": "difficulty.safetensors",
            "encoder": DESCRIBED,
            "query": ["last", "middle", "features"],
            "features": list(PROMPT_FEATURES),
        },
        "evaluator": {"file": "evaluator.safetensors", "encoder": DESCRIBED, "features": list(FEATURE_NAMES)},
        **changes,
    }


@pytest.fixture(scope="module")
def served(folder: Path) -> BundleScorers:
    return load_scorers(folder, manifest(), threads=1)


def tensors_of(batch: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(a) for a in (batch.ids, batch.mask, batch.type_ids))


@torch.no_grad()
def test_prompt_scores_are_torchs(models: dict[str, Any], served: BundleScorers) -> None:
    tokenizer = TextTokenizer.of(ENCODER, 96)
    batch = tensors_of(tokenizer.pad(tokenizer.encode_prompts(PROMPTS)))
    mean, _ = TextEncoder(ENCODER, "frozen").eval()(*batch)
    vectors = torch.nn.functional.normalize(mean, dim=1)
    n = len(PROMPTS)
    weak, strong = (torch.sigmoid(models["mf"](torch.full((n,), m), vectors)).numpy() for m in (0, 1))
    features = torch.from_numpy(features_of_prompts(PROMPTS))
    chances = torch.sigmoid(models["difficulty"](*batch, features)).numpy()

    scores = served.score_prompts(PROMPTS)
    np.testing.assert_allclose(scores.weak_adequate, weak, atol=1e-3)
    np.testing.assert_allclose(scores.strong_adequate, strong, atol=1e-3)
    np.testing.assert_allclose(scores.gain, strong - weak, atol=1e-3)
    assert scores.difficulty is not None
    np.testing.assert_allclose(scores.difficulty, chances[:, 1] - chances[:, 0], atol=1e-3)
    assert np.ptp(scores.difficulty) > 1e-2  # four different prompts, four different scores
    assert served.score_prompts(PROMPTS, difficulty=False).difficulty is None


@torch.no_grad()
def test_answer_scores_are_torchs(models: dict[str, Any], served: BundleScorers) -> None:
    tokenizer = TextTokenizer.of(ENCODER, 96)
    batch = tensors_of(tokenizer.pad(tokenizer.encode_pairs([(p, a.text) for p, a in PAIRS])))
    wanted = torch.sigmoid(models["evaluator"](*batch, torch.from_numpy(features_of(PAIRS)))).numpy()
    scores = served.score_answers(PAIRS)
    np.testing.assert_allclose(scores, wanted, atol=1e-3)
    assert np.ptp(scores) > 1e-2


def test_a_row_scores_alike_alone_and_in_company(served: BundleScorers) -> None:
    together = served.score_answers(PAIRS)
    alone = np.concatenate([served.score_answers([pair]) for pair in PAIRS])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_softmax_head_is_the_difference_of_its_outputs(tmp_path: Path) -> None:
    model = Evaluator(TextEncoder(ENCODER, "frozen"), outputs=2).eval()
    tensors, _ = model.export()
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "evaluator.safetensors")
    save_file(MatrixFactorisation(2, 384).export(), tmp_path / "mf.safetensors")
    scorers = load_scorers(tmp_path, manifest(difficulty=None), threads=1)
    tokenizer = TextTokenizer.of(ENCODER, 96)
    batch = tensors_of(tokenizer.pad(tokenizer.encode_pairs([(p, a.text) for p, a in PAIRS])))
    with torch.no_grad():
        wanted = torch.sigmoid(model(*batch, torch.from_numpy(features_of(PAIRS)))).numpy()
    np.testing.assert_allclose(scorers.score_answers(PAIRS), wanted, atol=1e-3)
    assert isinstance(scorers.evaluator, LocalEvaluator)
    assert scorers.evaluator.network is not None
    one = scorers.query.embedder.session  # type: ignore[attr-defined]
    assert scorers.evaluator.network[0] is one
    assert scorers.score_prompts(PROMPTS).difficulty is None


def test_fully_tuned_weights_replace_the_encoders(tmp_path: Path) -> None:
    encoder = TextEncoder(ENCODER, "top-1")
    shake(encoder, 5)
    tensors, weights = encoder.export()
    assert not tensors
    assert weights is not None
    save_file(weights, tmp_path / "own.safetensors")
    session = EncoderSession(ENCODER, 96, 1, weights_path=tmp_path / "own.safetensors")
    items = session.tokenizer.encode_prompts(PROMPTS)
    with torch.no_grad():
        mean, _ = encoder.eval()(*tensors_of(session.tokenizer.pad(items)))
    np.testing.assert_allclose(session.pool(items).mean, mean.numpy(), atol=5e-3)  # float16 storage
    plain = EncoderSession(ENCODER, 96, 1).pool(items).mean
    assert np.abs(plain - mean.numpy()).max() > 0.05


@torch.no_grad()
def test_query_vector_is_last_and_middle_layer_and_features() -> None:
    session = EncoderSession(ENCODER, 96, 1)
    query = QueryVectors(SessionEmbedder(session, ("last", "middle")), ("last", "middle", "features"))
    batch = tensors_of(session.tokenizer.pad(session.tokenizer.encode_prompts(PROMPTS)))
    parts = TextEncoder(ENCODER, "frozen").eval().forward_with_middle(*batch)
    wanted = [torch.nn.functional.normalize(part, dim=1).numpy() for part in parts]
    found = query.embed(PROMPTS)
    np.testing.assert_allclose(found[:, :384], wanted[0], atol=1e-4)
    np.testing.assert_allclose(found[:, 384:768], wanted[1], atol=1e-4)
    np.testing.assert_array_equal(found[:, 768:], features_of_prompts(PROMPTS))
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01
    np.testing.assert_array_equal(query.layer(found, "middle"), found[:, 384:768])


def test_the_lower_half_gives_the_middle_layer_of_the_whole() -> None:
    whole, half = EncoderSession(ENCODER, 96, 1), EncoderSession(ENCODER, 96, 1, lower_half=True)
    query = QueryVectors(SessionEmbedder(half, ("middle",)), ("middle",))
    assert query.dimension == 384
    np.testing.assert_allclose(query.embed(PROMPTS), whole.embed_layers(PROMPTS)[:, 384:], atol=1e-6)


@torch.no_grad()
def test_frozen_probes_are_averaged_in_with_their_share(tmp_path: Path) -> None:
    width = 2 * 384 + len(PROMPT_FEATURES)
    start = MatrixFactorisation(2, width - 384)  # on the middle layer and the features
    shake(start, 3)
    model = DifficultyClassifier(TextEncoder(ENCODER, "frozen")).eval()
    model.start_from(start, (0, 1), (np.full(384, 0.1, np.float32), np.full(384, 2.0, np.float32)))
    query = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32) * 0.05
    frozen = query[:, 384:]
    started = start.score_table(torch.from_numpy(frozen)).numpy()
    at_start = model.head((torch.from_numpy(query) - model.centre) * model.scale).numpy()
    np.testing.assert_allclose(at_start, started, atol=1e-5)  # the last layer says nothing yet
    shake(model.head, 4)
    model.frozen_share = 0.25
    tensors, _ = model.export()
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "d.safetensors")
    head = DifficultyHead.read(read_scorer_file(tmp_path / "d.safetensors"), width, width - 384)
    adapted = query + 0.01
    tuned = model.head((torch.from_numpy(adapted) - model.centre) * model.scale).numpy()
    chances = 1 / (1 + np.exp(-(0.75 * tuned + 0.25 * started)))
    found = head.gain(adapted, frozen, ["x"] * len(query))
    np.testing.assert_allclose(found, chances[:, 1] - chances[:, 0], atol=1e-4)
    assert np.abs(found - head.gain(adapted, adapted[:, 384:], ["x"] * len(query))).max() > 1e-3
    with pytest.raises(ScorerFileError, match=r"'frozen\.weight' has shape"):
        DifficultyHead.read(read_scorer_file(tmp_path / "d.safetensors"), width, 384)


def test_other_prompt_features_are_refused(folder: Path) -> None:
    entry = {**manifest()["difficulty"], "features": ["weather", *PROMPT_FEATURES[1:]]}
    with pytest.raises(ScorerFileError, match=r"scorers\.difficulty\.features differs .* in .*weather"):
        load_scorers(folder, manifest(difficulty=entry), threads=1)


def test_folded_mf_is_the_formula() -> None:
    model = MatrixFactorisation(3, 8, rank=4, form="pairwise")
    shake(model, 1)
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    query = torch.from_numpy(vectors)
    with torch.no_grad():
        delta = [model(torch.full((5,), m), query).numpy() for m in (2, 0)]
    file = ScorerFile(Path("mf"), model.export(), {})
    chances = ServedMf.read(file, ["a", "b", "c"], ["c", "a"], "pairwise").adequacy(vectors, ["x"] * 5)
    np.testing.assert_allclose(chances[:, 1], 1 / (1 + np.exp(-(delta[1] - delta[0]))), atol=1e-5)
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-6)


def test_the_graph_is_cached_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSHIFT_CACHE", str(tmp_path))
    first = EncoderSession(ENCODER, 32, 1).embed_prompts(["x"])
    (cached,) = (tmp_path / "graphs").iterdir()
    assert cached.suffix == ".onnx"
    np.testing.assert_array_equal(EncoderSession(ENCODER, 32, 1).embed_prompts(["x"]), first)


def test_int8_vectors_stay_near_those_of_fp32() -> None:
    texts = ["What is 17 + 28?", "Today is Friday. What day is it in nine days?", "Name a river."]
    exact = EncoderSession(ENCODER, 32, 1).embed_prompts(texts)
    rough = EncoderSession(ENCODER, 32, 1, int8=True).embed_prompts(texts)
    cosines = (exact * rough).sum(axis=1)
    assert (cosines > 0.99).all()
    assert (cosines < 1.0 - 1e-6).all(), "nothing was quantised"


def test_what_reads_gelu_is_one_product_a_layer() -> None:
    model = build_graph(ENCODER.read_config(), load_file(str(ENCODER.weights_path)), {})
    assert after_gelu(model) == [f"l{layer}_outer" for layer in range(6)]


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UPSHIFT_CACHE", str(tmp_path / "file" / "below"))
    assert EncoderSession(ENCODER, 32, 1).embed_prompts(["x"]).shape == (1, 384)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mf": None}, r"scorers\.mf is missing"),
        (
            {"encoder": {**DESCRIBED, "dimension": 768}},
            r"encoder\.dimension is 768, encoder 'minilm' has 384",
        ),
        (
            {"encoder": {**DESCRIBED, "sha256": "0" * 64}},
            r"encoder\.sha256 is 000000000000\.\.\.,.*other weights",
        ),
        ({"features": list(FEATURE_NAMES[:-1])}, r"scorers\.evaluator\.features differs.*logprob_min_tail"),
        ({"tiers": ["w", "x"]}, r"no vector for 'x'; fitted were: w, s"),
        ({"form": "cubist"}, r"form 'cubist' is unknown"),
        ({"file": "gone.safetensors"}, r"gone\.safetensors cannot be read as safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    whole = manifest()
    (key, value), *_ = changes.items()
    if key == "mf":
        whole["mf"] = value
    elif key == "features":
        whole["evaluator"] = {**whole["evaluator"], key: value}
    else:
        whole["mf"] = {**whole["mf"], key: value}
    with pytest.raises(ScorerFileError, match=message):
        load_scorers(folder, whole, threads=1)


def test_head_of_another_dimension_names_file_and_tensor(folder: Path, tmp_path: Path) -> None:
    for name in ("mf", "evaluator"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    head = {"head.weight": np.zeros((2, 768), np.float32), "head.bias": np.zeros(2, np.float32)}
    save_file(head, tmp_path / "difficulty.safetensors")
    with pytest.raises(
        ScorerFileError, match=r"difficulty\.safetensors: tensor 'head\.weight' has shape \(2, 768\)"
    ):
        load_scorers(tmp_path, manifest(), threads=1)
    save_file({"head.weight": np.full((2, 384), np.nan, np.float32)}, tmp_path / "difficulty.safetensors")
    with pytest.raises(ScorerFileError, match=r"'head.weight' holds numbers that are not finite"):
        load_scorers(tmp_path, manifest(), threads=1)


def test_bundle_without_evaluator_says_so(folder: Path) -> None:
    scorers = load_scorers(folder, manifest(evaluator=None, difficulty=None), threads=1)
    with pytest.raises(ScoringFailed, match="no evaluator"):
        scorers.score_answers(PAIRS)


def test_other_architectures_are_refused_by_name() -> None:
    with pytest.raises(EncoderError, match=r"architecture 'distilbert' has no graph here.*bert, roberta"):
        build_graph({"model_type": "distilbert"}, {}, {})


def test_serving_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from scorers.runtime.scorers import load_scorers\n"
        "from scorers.runtime import batcher; from scorers import text\n"
        "from scorers.answer import RecordedAnswer\n"
        "s = load_scorers(Path(sys.argv[1]), json.loads(sys.argv[2]), 1)\n"
        "s.score_prompts(['x']); s.score_answers([('x', RecordedAnswer('y'))])\n"
        "heavy = ('torch', 'transformers', 'sentence_transformers', 'scipy', 'pandas', 'sklearn')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(manifest())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "[]"
