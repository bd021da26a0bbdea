from __future__ import annotations

import pytest

from demo.answer_text import AnswerText, TokenBytes


@pytest.fixture(scope="module")
def token_bytes(weak):
    return TokenBytes(weak.tokenizer)


def write(token_bytes, weak, text, stops=()):
    """Feed `text` until it stops; returns the pieces and the writer."""
    answer = AnswerText(token_bytes, stops)
    pieces = []
    for token in weak.tokenizer.encode(text, add_special_tokens=False):
        pieces.append(answer.feed(token))
        if answer.stopped:
            break
    return [*pieces, answer.finish()], answer


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("1234567", ["45"], "123"),
        ("1234567", ["9", "345", "45"], "12"),
        ("1212123", ["123"], "1212"),
        ("12", ["123"], "12"),
        ("a🙂b", ["🙂"], "a"),
        ("abc", [], "abc"),
    ],
)
def test_stop_strings_across_tokens(token_bytes, weak, text, stops, expected):
    pieces, answer = write(token_bytes, weak, text, stops)
    assert "".join(pieces) == expected
    assert answer.stopped == (expected != text)


def test_a_character_of_several_tokens_is_never_cut(token_bytes, weak):
    pieces, _ = write(token_bytes, weak, "x🙂")
    assert pieces == ["x", "", "", "", "🙂", ""]


def test_a_broken_character_ends_as_replacement(token_bytes, weak):
    answer = AnswerText(token_bytes)
    first = weak.tokenizer.encode("🙂", add_special_tokens=False)[0]
    assert answer.feed(first) == ""
    assert answer.finish() == "�"
