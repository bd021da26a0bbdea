"""An encoder's graph in int8: two thirds of the time of fp32, at a price in accuracy that `publish` measures.

Weights are rounded per output channel, activations on the fly with one scale for a whole tensor, so a channel
that is much larger than the others costs all of them their digits. Two things keep the error small
(trainer/LOG.md has the figures):

- The second product of each feed-forward layer stays in fp32: what GELU gives it differs most by channel.
- Channels are evened out before the other products (Xiao et al., SmoothQuant, 2022, section 4.1): x W =
  (x / s) (s W) with s_j = sqrt(max|x_j| / max|W_j|), where max|x_j| is what a few plain sentences give.
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

_LEAST = 1e-4  # a channel that no sentence woke
SENTENCES = (
    "The committee met on Tuesday and agreed to publish its report before the end of the month.",
    "What is 17 + 28, and how many of the 45 apples are left when Anna eats half of them?",
    "Write a short poem about the sea in winter, please.",
    "def mean(xs): return sum(xs) / max(len(xs), 1)  # an empty list has mean 0",
    "Which of the following is a noble gas?\nA. oxygen\nB. neon\nC. chlorine\nD. nitrogen",
    "Translate 'good morning' into French, German and Spanish.",
    "A train leaves at 3 pm and travels at 60 miles per hour; when has it gone 150 miles?",
    'She said: "I don\'t know -- ask somebody who does!" (and left)',
)


def quantise(model: ModelProto, feed: Mapping[str, np.ndarray]) -> bytes:
    """`model`, changed in place, in int8 as ONNX Runtime reads it; `feed` is the graph's input for
    `SENTENCES`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    kept = after_gelu(model)
    _even_out(model, feed, kept)
    add_pre_process_metadata(model)  # or it warns that nobody simplified the graph; this one is made simple
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, target, per_channel=True, reduce_range=not adds_bytes_exactly(),
            weight_type=QuantType.QInt8, nodes_to_exclude=kept,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # of the fused operators' outputs
        )  # fmt: skip
        return target.read_bytes()


@lru_cache(maxsize=1)
def adds_bytes_exactly() -> bool:
    """Whether sums of two products of bytes fit this CPU's registers: x86 before VNNI (2019) has 16 bits for
    them, so that weights must do with 7."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    with contextlib.suppress(OSError):
        return "_vnni" in Path("/proc/cpuinfo").read_text()
    return False


def after_gelu(model: ModelProto) -> list[str]:
    """The names of the products that read what GELU gives."""
    gelu = {node.output[0] for node in model.graph.node if node.op_type == "BiasGelu"}
    return [node.name for node in model.graph.node if gelu & set(node.input)]


def _even_out(model: ModelProto, feed: Mapping[str, np.ndarray], kept: list[str]) -> None:
    """Divide the inputs of every product but `kept` by s, and multiply its weights."""
    graph = model.graph
    products = [n for n in graph.node if n.op_type in ("MatMul", "Attention") and n.name not in kept]
    largest = _largest(model, [product.input[0] for product in products], feed)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    for product in products:
        source, name = product.input[0], f"{product.name}_even"
        weights = tensors[product.input[1]]
        values = numpy_helper.to_array(weights)
        s = np.sqrt(np.maximum(largest[source], _LEAST) / np.maximum(np.abs(values).max(axis=1), _LEAST))
        weights.CopyFrom(numpy_helper.from_array(values * s[:, None], weights.name))
        graph.initializer.append(numpy_helper.from_array(1.0 / s, f"{name}_by"))
        product.input[0] = name
        nodes.insert(nodes.index(product), helper.make_node("Mul", [source, f"{name}_by"], [name], name=name))
    del graph.node[:]
    graph.node.extend(nodes)


def _largest(model: ModelProto, names: list[str], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The largest absolute value of each channel of these tensors, (d,) each."""
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(names, dict(feed))
    return {
        n: np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
        for n, value in zip(names, values, strict=True)
    }
