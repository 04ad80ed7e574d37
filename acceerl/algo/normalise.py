"""Advantage normalisation that never waits: each step uses the mean and deviation of the step before.

A global mean needs every micro-batch of every rank, which would stop them all before the first gradient. The
distribution of advantages moves slowly, so last step's numbers do (AcceRL), and they can be summed over ranks
while the next step computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from acceerl.algo.ratio import expand


class LaggedNormaliser:
    """Maps advantages to `(A - mean) / (std + eps)` with last step's mean and (population) deviation.

    Until the first `step()` there is no step before; then the numbers are those of everything added so far.

    >>> normaliser = LaggedNormaliser()
    >>> normaliser.add(torch.tensor([1.0, 3.0]))
    >>> normaliser.step()
    >>> normaliser(torch.tensor([2.0, 3.0])).round(decimals=3).tolist()
    [0.0, 1.0]
    """

    def __init__(self, eps: float = 1e-5) -> None:
        self._eps = eps
        self._previous: Tensor | None = None  # float64 [3]: count, sum, sum of squares
        self._sums = torch.zeros(3, dtype=torch.float64)

    def add(self, advantages: Tensor, mask: Tensor | None = None) -> None:
        """Counts a micro-batch (any shape) towards the next step's numbers. Does not synchronise a device."""
        mask = torch.ones_like(advantages) if mask is None else mask
        kept = expand(mask.bool(), advantages, "mask")
        wide = torch.where(kept, advantages.detach().double(), 0.0)
        self._sums = self._sums.to(wide.device) + torch.stack([kept.sum().double(), wide.sum(), (wide * wide).sum()])

    def __call__(self, advantages: Tensor) -> Tensor:
        """The normalised advantages, same shape and dtype. Raises ValueError before anything was added."""
        mean, deviation = self.moments()
        scaled = (advantages.double() - mean.to(advantages.device)) / (deviation.to(advantages.device) + self._eps)
        return scaled.to(advantages.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation in use, float64 scalars."""
        used = self._sums if self._previous is None else self._previous
        if used is self._sums and not float(used[0]):
            raise ValueError("the normaliser has seen no advantages yet: call add() first")
        mean = used[1] / used[0]
        return mean, (used[2] / used[0] - mean**2).clamp(min=0).sqrt()

    @property
    def ready(self) -> bool:
        """Has a step been ended, so that no advantage is normalised by whatever was added first?"""
        return self._previous is not None

    @property
    def sums(self) -> Tensor:
        """float64 [3] of the step in progress; add them over ranks and hand the total to `step`."""
        return self._sums.clone()

    def step(self, sums: Tensor | None = None) -> None:
        """Ends a step: its sums (or `sums`, the total over ranks) are what the next step normalises with.

        A step that counted nothing leaves the numbers as they were.
        """
        total = self._sums if sums is None else sums.double()
        if float(total[0]):
            self._previous = total.clone()
        self._sums = torch.zeros_like(self._sums)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on, between two steps or within one."""
        previous = None if self._previous is None else self._previous.cpu().clone()
        return {"previous": previous, "sums": self._sums.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._previous = None if state["previous"] is None else state["previous"].clone()
        self._sums = state["sums"].clone()
