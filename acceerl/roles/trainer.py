"""What one update is: micro-batches through the policy, the total loss, one optimiser step. No links here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from acceerl.algo.batch import SegmentBatch
from acceerl.algo.loss import total_loss
from acceerl.algo.normalise import LaggedNormaliser
from acceerl.config import Algo, Learner
from acceerl.protocols import Policy

Stats = dict[str, float]


class Trainer:
    """Policy, optimiser and the statistics that live from update to update."""

    def __init__(self, policy: Policy, algo: Algo, numbers: Learner, seed: int) -> None:
        self.policy, self.algo, self.numbers = policy, algo, numbers
        self.updates = 0
        self.normaliser = LaggedNormaliser()
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [p for _, p in policy.trainable_parameters()]
        self.optimiser = torch.optim.AdamW(_groups(policy, numbers), weight_decay=numbers.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimiser, _schedule(numbers))

    def update(self, micro_batches: Sequence[SegmentBatch], version: int) -> Stats:
        """One optimiser step; the micro-batches' losses already carry their shares of the whole batch."""
        began = time.monotonic()
        self.optimiser.zero_grad(set_to_none=True)
        stats = [self._backward(batch, version) for batch in micro_batches]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.numbers.grad_clip)
        self.optimiser.step()
        self.scheduler.step()
        self.normaliser.step()
        self.updates += 1
        return _total(stats) | {"grad_norm": float(norm), "update_s": time.monotonic() - began}

    def _backward(self, batch: SegmentBatch, version: int) -> dict[str, torch.Tensor]:
        batch = batch.to(self.numbers.device)
        evaluation = self.policy.evaluate(batch.observations, batch.tokens)
        loss, stats = total_loss(
            evaluation,
            batch,
            self.algo,
            self.normaliser,
            version=version,
            value_only=self.updates < self.numbers.value_warmup,
            generator=self.generator,
        )
        loss.backward()
        return stats

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),  # type: ignore[attr-defined]
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "updates": self.updates,
            "rng": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])  # type: ignore[attr-defined]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.normaliser.load_state_dict(state["normaliser"])
        self.updates = state["updates"]
        self.generator.set_state(state["rng"])


def _groups(policy: Policy, numbers: Learner) -> list[dict[str, Any]]:
    named = list(policy.trainable_parameters())
    return [
        {"params": [p for name, p in named if not name.startswith("value")], "lr": numbers.lr},
        {"params": [p for name, p in named if name.startswith("value")], "lr": numbers.value_lr},
    ]


def _schedule(numbers: Learner) -> Any:
    """Share of the learning rate at an update: linear warm-up, then a cosine down to the floor (or constant)."""

    def share(step: int) -> float:
        return min(1.0, (step + 1) / max(1, numbers.warmup)) * _cosine(step, numbers)

    return share


def _cosine(step: int, numbers: Learner) -> float:
    if not numbers.decay:
        return 1.0
    done = min(1.0, step / numbers.decay)
    return numbers.lr_floor + (1 - numbers.lr_floor) * 0.5 * (1 + math.cos(math.pi * done))


def _total(stats: Sequence[dict[str, torch.Tensor]]) -> Stats:
    """Micro-batches report their shares, so their sum is the mean over the whole batch."""
    return {key: float(sum(s[key] for s in stats)) for key in stats[0]}
