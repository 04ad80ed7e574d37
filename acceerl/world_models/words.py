"""An instruction as a vector, for models that need to know only which of many tasks it is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Words(nn.Module):
    """The sum of learnt vectors of an instruction's words and pairs of neighbours, each found by its hash, over the
    root of their number: a mean would hide the one word that differs between two instructions of twenty.

    No vocabulary to keep; two expressions that share one of `size` places are told apart by the others.
    """

    def __init__(self, width: int, size: int = 4096) -> None:
        super().__init__()
        self.size = size
        self.vectors = nn.EmbeddingBag(size, width, mode="sum")

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """float32 [N, width]; one instruction is embedded once however often it comes."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(instructions))}
        device = self.vectors.weight.device
        bags = [torch.tensor(places(text, self.size)) for text in distinct]
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        roots = torch.tensor([len(bag) ** 0.5 for bag in bags], device=device)
        vectors: Tensor = self.vectors(torch.cat(bags).to(device), offsets.to(device)) / roots[:, None]
        return vectors[torch.tensor([distinct[text] for text in instructions], device=device)]


def places(text: str, size: int) -> list[int]:
    """Where an instruction's words and pairs of words are, in range(size).

    >>> len(places("open the top drawer", 4096))
    7
    """
    words = text.lower().split() or [""]
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return [zlib.crc32(x.encode()) % size for x in words + pairs]
