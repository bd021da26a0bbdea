"""The decision log's tables: what the proxy writes and the trainer reads, in SQLite and PostgreSQL alike.

    decisions    one row a routed or pinned request
    feedback     what clients said of an answer, by request id
    shadows      a sampled share of routed answers, each beside the strong model's to the same prompt
    judgements   what a judge made of a shadow later

A table that an older version made gets the columns it lacks; none is ever taken away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_NUMBER, _TIME, _WORD = "DOUBLE PRECISION", "DOUBLE PRECISION NOT NULL", "TEXT NOT NULL"
DECISIONS: Mapping[str, str] = {
    "request_id": _WORD,
    "at": _TIME,  # seconds since the epoch
    "api": _WORD,
    "stream": "BOOLEAN NOT NULL",
    "strategy": _WORD,
    "threshold": _NUMBER,
    "policy": _WORD,
    "prompt_id": _WORD,
    "decision": _WORD,
    "reason": _WORD,
    "tier": _WORD,
    "propensity": _NUMBER,
    "route_score": _NUMBER,
    "difficulty": _NUMBER,
    "answer_score": _NUMBER,
    "outcome": _WORD,
    "status": "INTEGER NOT NULL",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "cost_usd": _NUMBER,
    "baseline_usd": _NUMBER,
    "total_s": _NUMBER,
    "first_byte_s": _NUMBER,
    "prompt": "TEXT",
    "answer": "TEXT",
    "entry": "TEXT",  # the first action: strong, checked, unchecked; null: pinned
    "explore_share": _NUMBER,  # of the policy, where it was free to explore
    "scorers": "TEXT",  # fingerprint of what the scores come from
    "judged": "TEXT",  # the answer that the evaluator read, served or not; with text only
    "judged_finish": "TEXT",
    "judged_logprobs": "TEXT",  # a JSON list
}
FEEDBACK: Mapping[str, str] = {
    "request_id": _WORD,
    "at": _TIME,
    "quality": _TIME,  # in [0, 1]
    "comment": "TEXT",  # with text only
    "key_id": "TEXT",  # whose it is, where there are keys
}
SHADOWS: Mapping[str, str] = {
    "request_id": _WORD,
    "at": _TIME,
    "policy": _WORD,
    "prompt_id": _WORD,
    "served": _WORD,  # weak: strong was asked in the background; strong: it had answered anyway
    "outcome": _WORD,  # ok, or why there is no strong answer
    "propensity": _TIME,  # probability with which this request was sampled
    "route_score": _NUMBER,
    "answer_score": _NUMBER,
    "weak_model": "TEXT",
    "strong_model": "TEXT",
    "weak_sha256": "TEXT",
    "strong_sha256": "TEXT",
    "weak_tokens": "BIGINT",
    "strong_tokens": "BIGINT",
    "cost_usd": _NUMBER,  # of the strong answer, where it was asked for this
    "prompt": "TEXT",  # from here on with text only
    "weak_answer": "TEXT",
    "weak_finish": "TEXT",
    "strong_answer": "TEXT",
}
JUDGEMENTS: Mapping[str, str] = {
    "request_id": _WORD,
    "at": _TIME,  # when it was judged
    "judge": _WORD,
    "quality": _TIME,  # of the answer that was served, in [0, 1]
    "strong_quality": _TIME,
}
TABLES: Mapping[str, Mapping[str, str]] = {
    "decisions": DECISIONS, "feedback": FEEDBACK, "shadows": SHADOWS, "judgements": JUDGEMENTS,
}  # fmt: skip


def create_statements() -> list[str]:
    """SQL that makes what is not there yet."""
    statements = []
    for table, columns in TABLES.items():
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        statements.append(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
        statements.append(f"CREATE INDEX IF NOT EXISTS {table}_at ON {table} (at)")
    statements.append("CREATE INDEX IF NOT EXISTS decisions_request_id ON decisions (request_id)")
    return statements


def missing_columns(table: str, there: Collection[str]) -> list[str]:
    """Statements that bring a table with the columns `there` up to date."""
    return [
        f"ALTER TABLE {table} ADD COLUMN {name} {kind.removesuffix(' NOT NULL')}"
        for name, kind in TABLES[table].items()
        if name not in there
    ]
