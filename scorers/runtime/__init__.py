"""Serving without torch: encoders as ONNX graphs built here, heads in numpy, a batcher for asyncio."""
