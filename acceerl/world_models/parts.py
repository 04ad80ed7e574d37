"""What networks of this room share: precisions, and a body on a scale of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_precision(precision: str) -> None:
    """Raises ValueError for one that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


class Scaled(nn.Module):
    """A network that computes with proprioception in deviations from its mean; both belong to its weights."""

    def __init__(self, proprio: int) -> None:
        super().__init__()
        self.register_buffer("proprio_mean", torch.zeros(proprio))
        self.register_buffer("proprio_std", torch.ones(proprio))

    def normalise_proprio(self, mean: Any, std: Any) -> None:
        """Sets the scale of proprioception, float [P] each, `std` above 0; call once, before training."""
        self.get_buffer("proprio_mean").copy_(torch.as_tensor(mean))
        self.get_buffer("proprio_std").copy_(torch.as_tensor(std))

    def _scaled(self, proprio: Tensor) -> Tensor:
        return (proprio - self.get_buffer("proprio_mean")) / self.get_buffer("proprio_std")

    def _unscaled(self, proprio: Tensor) -> Tensor:
        return proprio * self.get_buffer("proprio_std") + self.get_buffer("proprio_mean")
