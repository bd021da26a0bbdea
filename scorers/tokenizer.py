"""Text -> token ids with the `tokenizers` library only, cut so that the end of a text is kept.

Plain truncation throws away the end, and the end is where a question is asked and where an answer
concludes, repeats itself or breaks off. So a long text keeps its head and its tail. In a pair the answer
may take what the prompt leaves, and the prompt is never cut below 40 % of the room for the answer's sake.

The special tokens and type ids come from the tokenizer's own template, read off once at start, so BERT
and RoBERTa families need no code of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from scorers.encoders import EncoderFolder
from scorers.errors import EncoderError

PROMPT_SHARE_KEPT = 0.4
# A token of English is about 4 characters; 16 a token leaves room for wide vocabularies and bounds the work.
_CHARS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class TokenIds:
    """One encoded input, specials included: ids and type ids, both shape (T,), int64."""

    ids: np.ndarray
    type_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A padded batch: all int64, shape (B, T); `mask` is 1 where there is a token."""

    ids: np.ndarray
    mask: np.ndarray
    type_ids: np.ndarray


class TextTokenizer:
    """Encodes prompts, and prompt-answer pairs, for one encoder. Thread-safe."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # `tokenizers` raises bare Exception from Rust
            raise EncoderError(f"{path} cannot be read as a tokenizer: {exc}") from exc
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._single = _template(self._tokenizer, pair=False)
        self._pair = _template(self._tokenizer, pair=True)
        self.pad_id = self._find_pad_id()
        self.max_tokens = max_tokens
        if max_tokens < 16:
            raise EncoderError(
                f"max_tokens is {max_tokens}; at least 16 are needed for a prompt and an answer"
            )

    @classmethod
    def of(cls, encoder: EncoderFolder, max_tokens: int) -> TextTokenizer:
        """For an encoder, at most `max_tokens` and never more than it can read."""
        return cls(encoder.tokenizer_path, min(max_tokens, encoder.max_tokens))

    def encode_prompts(self, prompts: Sequence[str]) -> list[TokenIds]:
        room = self.max_tokens - self._single.n_special
        return [self._single.fill(keep_ends(ids, room)) for ids in self._raw(prompts)]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[TokenIds]:
        """`prompt [SEP] answer`; the answer is the second part."""
        room = self.max_tokens - self._pair.n_special
        prompts = self._raw([prompt for prompt, _ in pairs])
        answers = self._raw([answer for _, answer in pairs])
        encoded = []
        for prompt, answer in zip(prompts, answers, strict=True):
            n_prompt, n_answer = share_room(len(prompt), len(answer), room)
            encoded.append(self._pair.fill(keep_ends(prompt, n_prompt), keep_ends(answer, n_answer)))
        return encoded

    def pad(self, items: Sequence[TokenIds]) -> TokenBatch:
        """Pad to the longest of the batch."""
        shape = (len(items), max(map(len, items), default=0))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        type_ids = np.zeros(shape, dtype=np.int64)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
            type_ids[row, : len(item)] = item.type_ids
        return TokenBatch(ids, mask, type_ids)

    def _raw(self, texts: Sequence[str]) -> list[list[int]]:
        limit = self.max_tokens * _CHARS_PER_TOKEN
        bounded = [t if len(t) <= 2 * limit else f"{t[:limit]} {t[-limit:]}" for t in texts]
        # Lone surrogates are legal in JSON and not in UTF-8.
        clean = [t.encode("utf-8", "replace").decode("utf-8") for t in bounded]
        return [e.ids for e in self._tokenizer.encode_batch(clean, add_special_tokens=False)]

    def _find_pad_id(self) -> int:
        for token in ("[PAD]", "<pad>", "<|endoftext|>"):
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return int(found)
        return 0


@dataclass(frozen=True, slots=True)
class _Template:
    """Where the tokenizer puts its special tokens: runs of (ids, type ids) around one or two texts."""

    fixed: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    part_types: tuple[int, ...]

    @property
    def n_special(self) -> int:
        return sum(len(ids) for ids, _ in self.fixed)

    def fill(self, *parts: Sequence[int]) -> TokenIds:
        ids: list[int] = []
        types: list[int] = []
        for index, (fixed_ids, fixed_types) in enumerate(self.fixed):
            ids.extend(fixed_ids)
            types.extend(fixed_types)
            if index < len(parts):
                ids.extend(parts[index])
                types.extend([self.part_types[index]] * len(parts[index]))
        return TokenIds(np.asarray(ids, dtype=np.int64), np.asarray(types, dtype=np.int64))


def _template(tokenizer: Tokenizer, pair: bool) -> _Template:
    encoded = tokenizer.encode("a", "b") if pair else tokenizer.encode("a")
    fixed: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    part_types: list[int] = []
    run_ids: list[int] = []
    run_types: list[int] = []
    for token, type_id, special in zip(
        encoded.ids, encoded.type_ids, encoded.special_tokens_mask, strict=True
    ):
        if special:
            run_ids.append(token)
            run_types.append(type_id)
        elif encoded.ids.index(token) == 0 or run_ids or not part_types:
            fixed.append((tuple(run_ids), tuple(run_types)))
            part_types.append(type_id)
            run_ids, run_types = [], []
    fixed.append((tuple(run_ids), tuple(run_types)))
    if len(part_types) != (2 if pair else 1):
        raise EncoderError("the tokenizer's template puts no special token between prompt and answer")
    return _Template(tuple(fixed), tuple(part_types))


def keep_ends(ids: Sequence[int], room: int) -> Sequence[int]:
    """At most `room` ids: all of them, or the first half and the last half (the last gets the odd one)."""
    if len(ids) <= room:
        return ids
    head = room // 2
    return [*ids[:head], *ids[len(ids) - (room - head) :]]


def share_room(n_prompt: int, n_answer: int, room: int) -> tuple[int, int]:
    """Tokens granted to prompt and answer; together never more than `room`."""
    if n_prompt + n_answer <= room:
        return n_prompt, n_answer
    prompt = min(n_prompt, max(room - n_answer, int(room * PROMPT_SHARE_KEPT)))
    return prompt, room - prompt


def token_buckets(lengths: Sequence[int], most_tokens: int) -> Iterator[np.ndarray]:
    """Indices in batches of similar length, longest first, of at most `most_tokens` with their padding.

    An input longer than that is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, most_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
