"""Proprioception in imagination: a small network that says how it changes, from what was felt and what is done."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Body(nn.Module):
    """K past proprioceptions, float32 [N, K, P], and deeds [N, K, deeds] -> the next proprioception [N, P].

    It works in units of `std` around `mean`, and begins as "nothing changes".
    """

    def __init__(self, proprio: int, context: int, deeds: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(proprio))
        self.register_buffer("std", torch.ones(proprio))
        last = nn.Linear(width, proprio)
        self.layers = nn.Sequential(
            nn.Linear(context * (proprio + deeds), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, past: Tensor, deeds: Tensor) -> Tensor:
        scaled = (past - self.get_buffer("mean")) / self.get_buffer("std")
        change = self.layers(torch.cat((scaled, deeds), dim=-1).flatten(1))
        return past[:, -1] + change * self.get_buffer("std")

    def error(self, guess: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error of each row, in units of `std`; [N]."""
        return ((guess - truth) / self.get_buffer("std")).square().mean(dim=-1)


def between(now: Tensor, after: Tensor, stride: int, executed: Tensor | None) -> Tensor:
    """The path of a body known at both ends of a tick, [N, P] each -> [N, S, P]: a line, then still."""
    step = torch.arange(1, stride + 1, device=now.device)
    whole = torch.full((len(now),), stride, device=now.device) if executed is None else executed
    share = (step / whole[:, None]).clamp(max=1).to(now.dtype)[..., None]
    return now[:, None] * (1 - share) + after[:, None] * share
