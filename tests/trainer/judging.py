"""A judge for tests, behind a real socket: it reads the material it is shown and answers by a rule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.trainer.answering import Body
from tests.trainer.tables import write_jsonl

_BLOCK = re.compile(r"----- begin (\S+) ([0-9a-f]{12}) -----\n(.*?)\n----- end \1 \2 -----", re.DOTALL)


def material_of(body: Body) -> dict[str, str]:
    """The named parts of the question."""
    return {name: text for name, _, text in _BLOCK.findall(body["messages"][1]["content"])}


def score_by_length(body: Body) -> str:
    """Pointwise: the number of letters of the answer, at most 10."""
    return json.dumps({"reason": "length", "score": min(10, len(material_of(body)["answer"]))})


def prefer_longer(body: Body) -> str:
    """Pairwise: the longer one; a judge without a favourite place."""
    shown = material_of(body)
    a, b = len(shown["answer_A"]), len(shown["answer_B"])
    return json.dumps({"reason": "length", "verdict": "A" if a > b else "B" if b > a else "tie"})


def prefer_first(body: Body) -> str:
    """Pairwise: nothing but position bias."""
    return json.dumps({"reason": "first", "verdict": "A"})


def answers_file(folder: Path, rows: list[dict[str, Any]], name: str = "answers.jsonl") -> Path:
    base = {"prompt": "How much is 2 + 2?", "model": "small", "response": "4"}
    return write_jsonl(folder / name, [{**base, **row} for row in rows])
