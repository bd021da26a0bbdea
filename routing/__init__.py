"""Decisions: which tier answers a prompt, and what that promises. Standard library and numpy only."""
