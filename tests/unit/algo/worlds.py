"""Random segments and a very small policy for the tests of batching and of the whole loss."""

from __future__ import annotations

import numpy as np
import torch

from acceerl.protocols import Evaluation
from acceerl.types import Assignment, ObservationBatch, Segment

CHUNK, DIM, BINS = 4, 3, 5


def segment(length: int, seed: int = 0, end: str = "", **changes) -> Segment:
    """A segment of random content; `end` is terminated, truncated or nothing."""
    rng = np.random.default_rng(seed)
    executed = np.full(length, CHUNK, np.int16)
    executed[-1] = rng.integers(1, CHUNK + 1) if end else CHUNK
    content = {
        "images": {"front": rng.integers(0, 255, (length + 1, 6, 6, 3), np.uint8)},
        "proprio": rng.normal(size=(length + 1, 2)).astype(np.float32),
        "tokens": rng.integers(0, BINS, (length, CHUNK, DIM)).astype(np.int16),
        "logp": (np.log(1 / BINS) + 0.3 * rng.normal(size=(length, CHUNK, DIM))).astype(np.float32),
        "values": rng.normal(size=length).astype(np.float32),
        "rewards": rng.normal(size=length).astype(np.float32),
        "versions": rng.integers(0, 12, length),
    }
    flags = {"terminated": end == "terminated", "truncated": end == "truncated"}
    who = {"assignment": Assignment(0, 0, 0), "episode": seed, "start": 0, "instruction": f"task {seed}"}
    return Segment(**(who | content | flags | {"executed": executed} | changes))


def mixed(lengths=(3, 7, 1, 5, 9, 2), seed: int = 0) -> list[Segment]:
    ends = ("terminated", "truncated", "")
    return [segment(n, seed * 100 + i, ends[i % 3]) for i, n in enumerate(lengths)]


class Linear(torch.nn.Module):
    """A policy whose logits and value are linear in a few pixels and proprioception, in float64."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(6, CHUNK * DIM * BINS + 1, generator=generator, dtype=torch.float64)
        self.weight = torch.nn.Parameter(0.3 * draw)

    def evaluate(self, observations: ObservationBatch, tokens: torch.Tensor) -> Evaluation:
        pixels = torch.from_numpy(observations.images["front"][:, 0, :4, 0] / 255.0)
        features = torch.cat([pixels, torch.from_numpy(observations.proprio).double()], 1)
        out = features @ self.weight
        logits = out[:, 1:].view(-1, CHUNK, DIM, BINS)
        logp = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return Evaluation(logp, logits, out[:, 0])
