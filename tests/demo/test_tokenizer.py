from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.answer_text import AnswerText, TokenBytes
from demo.tokenizer import build_tokenizer, render_chat

TEXTS = [
    "",
    "héllo wörld",
    "你好，世界",
    "👩‍👩‍👧 🙂\n\ttab  two",
    "a\u0000b",
    "The 'word' 1234 -5.6",
    "İstanbul ǅ",
]


@pytest.fixture(scope="module")
def tokenizer(weak):
    return weak.tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_streamed_text_is_the_text(tokenizer, text):
    text = text.replace("<|", "")  # else the text may name a special token
    answer = AnswerText(TokenBytes(tokenizer))
    pieces = [answer.feed(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces) + answer.finish() == text
    assert "�" in text or all("�" not in piece for piece in pieces)


def test_digits_and_quoted_letters_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.tokenize("'planet'") == list("'planet'")
    assert len(tokenizer.tokenize("What is the")) == 3


def test_both_models_share_the_tokenizer_that_the_script_builds(weak, strong):
    built = build_tokenizer().get_vocab()
    assert weak.tokenizer.get_vocab() == built
    assert strong.tokenizer.get_vocab() == built
    assert weak.model.config.vocab_size == strong.model.config.vocab_size == len(built)


def test_training_renders_what_the_chat_template_renders(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "What is 1 + 1?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == render_chat(messages)
    whole = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert whole == tokenizer.encode(text, add_special_tokens=False)
    assert text.endswith("<|assistant|>")


def test_raw_completions_start_with_the_begin_token(tokenizer):
    assert tokenizer.encode("Hi")[0] == tokenizer.bos_token_id
