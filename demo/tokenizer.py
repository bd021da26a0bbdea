"""The tokenizer of both embedded models, trained on drawn prompts and answers: bytes, merged into common
words.

Any text encodes and decodes back to itself, because the alphabet is the 256 bytes. Merging is held to words
that follow a space or start with a capital: a word in quotes stays a row of single letters, and a number a
row of single digits, which is what lets a small model spell and add. The chat template marks each turn with
one special token, so a message costs two tokens more than its text. Building takes about two seconds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from demo.tasks import iterate
from demo.tasks.calendar import DAYS, MONTHS
from demo.tasks.words import NAMES, SORTABLE, THINGS

BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
_ROLES = ("system", "user", "assistant")
_SPECIALS = [PAD, BOS, END, *(f"<|{role}|>" for role in _ROLES)]
# Only text that follows a space or starts with a capital may merge; all else is split into single characters.
_PIECES = Regex(r" \p{L}+|\p{Lu}\p{L}+| ?\d|\p{L}| ?[^\s\p{L}\d]|\s")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(
    seed: int = 0, vocab_size: int = 896, context_tokens: int = 1024
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on 20,000 drawn training tasks; the same for the same arguments."""
    core = Tokenizer(models.BPE(unk_token=None, fuse_unk=False))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_draw_texts(seed), trainer=trainer)
    # Raw completions start with the begin token too; chat prompts get it from the template.
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _draw_texts(seed: int) -> list[str]:
    tasks = itertools.islice(iterate("train", seed), 20_000)
    texts = [text for task in tasks for text in (task.prompt, task.solution)]
    # Names and things must be one token each even where the draw has few of them.
    words = [f" {word}" for word in (*NAMES, *THINGS, *SORTABLE, *DAYS, *MONTHS)]
    random.Random(seed).shuffle(words)
    return texts + words * 50


def render_chat(messages: Sequence[Mapping[str, str]]) -> str:
    """What the chat template makes of `messages` with the generation prompt, without a template engine.

    Training uses this for speed; a test holds it equal to the template.
    """
    turns = "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)
    return f"{BOS}{turns}<|assistant|>"
