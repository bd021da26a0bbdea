"""Rendering: one text for serving and training, and nothing a client may send makes it raise."""

from __future__ import annotations

import pytest

from scorers.text import prompt_id, render_answer, render_content, render_prompt


def test_lone_user_message_is_exactly_its_text() -> None:
    text = "  What is 2 + 2?\n"
    assert render_prompt([{"role": "user", "content": text}]) == text


def test_conversation_has_role_labels_in_order() -> None:
    rendered = render_prompt(
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And now?"},
        ]
    )
    assert rendered == "System: Be short.\n\nUser (ann): Hi\n\nAssistant: Hello.\n\nUser: And now?"


def test_parts_are_joined_and_images_become_placeholders() -> None:
    content = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "this?"},
    ]
    assert render_prompt([{"role": "user", "content": content}]) == "What is\n[image]\nthis?"


def test_tool_calls_and_results_have_their_own_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    assert render_prompt(turns) == 'User: Add\n\nAssistant: [tool call] add({"a": 1})\n\nTool result: 3'
    assert render_answer(turns[1]) == '[tool call] add({"a": 1})'


def test_refusal_is_the_answer() -> None:
    assert render_answer({"role": "assistant", "content": None, "refusal": "I can't."}) == "I can't."


@pytest.mark.parametrize(
    "messages",
    [None, [], [None], [{}], [{"role": None, "content": None}], [{"role": "user"}], [{"role": 3, "content":
    4}],
     [{"role": "user", "content": [None, 3, {}]}], [{"role": "assistant", "tool_calls": [None, {}, "x"]}]],
)  # fmt: skip
def test_nothing_raises(messages: list) -> None:
    assert isinstance(render_prompt(messages), str)


def test_answer_of_nothing_is_empty() -> None:
    assert render_answer(None) == render_answer({}) == render_content(None) == ""


def test_prompt_id_ignores_whitespace_only() -> None:
    assert prompt_id(" a  b\n") == prompt_id("a b") == "c8687a08aa5d6ed2"
    assert prompt_id("a b") != prompt_id("ab")
