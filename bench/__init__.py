"""Benchmarks that anyone can rerun. Nothing outside this folder and its tests imports it."""
