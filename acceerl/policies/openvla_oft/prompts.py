"""Instructions as token ids, with room for the actions behind them. Read this to see what the language model is asked.

One row: <s>, [the picture's patches], the question, "▁", one empty place for each action token, </s>, padding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

BEGIN, END = 1, 2
SPACE = 29871  # Llama's "▁": training put it between the question and the actions
FIRST_WORD, WORDS = 300, 29_000  # the ids of made-up words


@dataclass(frozen=True)
class PromptBatch:
    """N rows of S tokens, without patches."""

    ids: Tensor  # int64 [N, S]
    actions: Tensor  # bool [N, S], the empty places
    valid: Tensor | None  # bool [N, S]; None: no padding
    lengths: Tensor  # int64 [N], of the prompts; the state before the first action is that of token length - 1


class Prompts:
    """Turns instructions into batches; `encode` gives the ids of a text, <s> first."""

    def __init__(self, encode: Callable[[str], list[int]], places: int) -> None:
        self.encode, self.places = encode, places
        self._known: dict[str, list[int]] = {}

    def batch(self, instructions: Sequence[str], device: torch.device) -> PromptBatch:
        """One row an instruction."""
        prompts = [self._ids(text) for text in instructions]
        lengths = torch.tensor([len(ids) for ids in prompts])
        longest = int(lengths.max()) + self.places + 1
        rows = [[*ids, *[0] * self.places, END] for ids in prompts]
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        at = torch.arange(longest) - lengths[:, None]
        padded = bool((lengths != lengths[0]).any())
        valid = (at <= self.places).to(device) if padded else None
        empty = (at >= 0) & (at < self.places)
        return PromptBatch(ids.to(device), empty.to(device), valid, lengths.to(device))

    def _ids(self, instruction: str) -> list[int]:
        if instruction not in self._known:
            ids = self.encode(question(instruction))
            self._known[instruction] = ids if ids[-1] == SPACE else [*ids, SPACE]
        return self._known[instruction]


def question(instruction: str) -> str:
    """The text that OpenVLA was trained with."""
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


def read_encoder(folder: Path) -> Callable[[str], list[int]]:
    """The checkpoint's own tokenizer. Raises ValueError when the file is missing or broken, or is not Llama's."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: copy the tokenizer from where the checkpoint came from")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(f"policy=openvla_oft needs tokenizers ({error}): pip install 'acceerl[openvla]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises it bare
        raise ValueError(f"{path} is not a tokenizer file ({error}): copy it again") from error
    if tokenizer.token_to_id("▁") != SPACE or tokenizer.token_to_id("<s>") != BEGIN:
        raise ValueError(f"{path} is not Llama's tokenizer: take the one that came with the checkpoint")
    return partial(_encode, tokenizer)


def _encode(tokenizer: object, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text).ids  # type: ignore[attr-defined]
    return ids if ids[0] == BEGIN else [BEGIN, *ids]


def made_up_encoder(text: str) -> list[int]:
    """For random weights, which know no words: an id for each, by its checksum."""
    return [BEGIN, *(FIRST_WORD + zlib.crc32(word.encode()) % WORDS for word in text.split())]
