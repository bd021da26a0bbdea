"""Text -> probability: how prompts and answers are rendered, featured, encoded and scored.

`text`, `features`, `tokenizer`, `encoders` and `runtime/` need numpy, tokenizers, onnx, onnxruntime and
safetensors only, so that a CPU server loads no torch; `torch/` holds the models as they are trained.
"""
