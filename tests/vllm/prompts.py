"""What the tests ask: a few short prompts of the kind the embedded models were trained on."""

from __future__ import annotations

from typing import Any

PROMPTS = [
    "What is 17 plus 25?",
    'What is the third letter of the word "planet"?',
    "Which is larger, 312 or 231?",
    "What day comes two days after Monday?",
    'Spell the word "river" backwards.',
    "Sort these words in alphabetical order: pear, apple, mango.",
]
# Thresholds that settle a routed request: shift up iff P(strong should answer) >= threshold.
KEEP_WEAK = "upshift-evaluator-1.0"
SHIFT_UP = "upshift-evaluator-0.0"


def ask(prompt: str, **more: Any) -> dict[str, Any]:
    """Arguments of a greedy chat completion, without the model."""
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 0.0, "max_tokens": 24, **more}
