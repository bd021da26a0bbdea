"""The scorers as they are trained, in PyTorch. Imported by the trainer and the demo only."""
