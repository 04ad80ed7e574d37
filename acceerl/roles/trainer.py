"""What one update is: micro-batches through the policy, the total loss, one optimiser step. No links here.

Several learner ranks make one update together: each has a part of the batch (maybe none), and losses are weighed by
the counts of the whole, so that summed gradients are those of one rank with all of it. holding.py says how ranks hold
the policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from acceerl.algo.batch import SegmentBatch, blank, shared
from acceerl.algo.loss import advantages_and_returns, stat_names, total_loss
from acceerl.algo.normalise import LaggedNormaliser
from acceerl.channels.collective import Alone, Collective
from acceerl.config import Algo, Learner
from acceerl.protocols import Policy
from acceerl.roles.holding import HOLDINGS

Stats = dict[str, float]
CHECK_EVERY = 100  # updates between two looks whether all ranks still have the same parameters


class Trainer:
    """Policy, optimiser and the statistics that live from update to update."""

    def __init__(
        self, policy: Policy, algo: Algo, numbers: Learner, seed: int, collective: Collective | None = None
    ) -> None:
        self.policy, self.algo, self.numbers = policy, algo, numbers
        self.collective = collective or Alone()
        self.updates = 0
        self.normaliser = LaggedNormaliser()
        self.generator = torch.Generator().manual_seed(seed)
        self.held = HOLDINGS[numbers.shard](policy, self.collective, numbers.device)
        self.parameters = [p for _, p in policy.trainable_parameters()]
        # fused: one pass over parameters, gradients and moments, where the default makes one for each operation
        self.optimiser = torch.optim.AdamW(_groups(policy, numbers), weight_decay=numbers.weight_decay, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, [_schedule(numbers, numbers.value_warmup), _schedule(numbers)]
        )

    def share(self) -> None:
        """Begins with rank 0's policy on every rank."""
        self.held.begin()

    def update(self, micro_batches: Sequence[SegmentBatch], version: int) -> Stats:
        """One optimiser step on the micro-batches of all ranks; statistics are of the whole, and so is `decisions`."""
        began = time.monotonic()
        whole, passes = self._count(micro_batches)
        batches = shared(micro_batches, **whole)
        if self.algo.normalise == "batch" or not self.normaliser.ready:
            self._measure(batches, passes)
        self.optimiser.zero_grad(set_to_none=True)
        stats = [self._backward(batch, version, n + 1 == passes) for n, batch in enumerate(batches)]
        for n in range(len(batches), passes):
            self._accompany(n + 1 == passes, self.warming)
        norm = self._step()
        mean = self._mean(stats)
        return mean | {"decisions": whole["decisions"], "grad_norm": norm, "update_s": time.monotonic() - began}

    def rehearse(self, rows: int) -> None:
        """A pass through the policy and back on a blank batch, of which nothing stays: does it fit into memory?

        Raises torch.OutOfMemoryError when it does not; training may go on all the same.
        """
        try:
            self._accompany(last=True, value_only=False, rows=rows)
        except torch.OutOfMemoryError:
            self.held.recover()
            raise
        finally:
            self.optimiser.zero_grad(set_to_none=True)

    def _count(self, batches: Sequence[SegmentBatch]) -> tuple[dict[str, int], int]:
        """Decisions and unmasked tokens of the whole batch, over all ranks; and how many passes this rank makes."""
        mine = {"decisions": sum(b.n_decisions for b in batches), "tokens": sum(b.n_tokens for b in batches)}
        told = self.collective.total({**mine, "batches": self.collective.mine(len(batches))})
        passes = self.held.passes(told.pop("batches"))
        return {name: int(count) for name, count in told.items()}, passes

    def _measure(self, batches: Sequence[SegmentBatch], passes: int) -> None:
        """Before the first update there are no numbers to normalise with: a pass without gradients finds them.

        Otherwise they would depend on how the batch happens to be split over micro-batches and ranks. And where rewards
        shift between updates, as those of dreams do with their threshold, numbers of before are not these advantages'.
        """
        with torch.no_grad():
            for batch in batches:
                batch = batch.to(self.numbers.device)
                values = self.held.evaluate(batch.observations, batch.tokens).values
                self.normaliser.add(advantages_and_returns(values, batch, self.algo)[0], batch.mask)
            for _ in range(len(batches), passes):
                self.held.evaluate(*blank(self.policy.spec, 1, self.numbers.device))
        self._end_normalising({})

    def _accompany(self, last: bool, value_only: bool, rows: int = 1) -> None:
        """A pass that adds nothing, beside ranks that have a micro-batch more than this one."""
        self.held.accumulate(last)
        found = self.held.evaluate(*blank(self.policy.spec, rows, self.numbers.device))
        nothing = 0.0 * found.values.sum()
        if not value_only:
            nothing = nothing + 0.0 * found.logp.sum()
        nothing.backward()

    def _step(self) -> float:
        self.held.reduce(self.parameters)
        norm = self.held.clip(self.parameters, self.numbers.grad_clip)
        self.optimiser.step()
        self.scheduler.step()
        self.updates += 1
        if self.updates % CHECK_EVERY == 0:
            self.held.check(self.parameters, self.updates)
        return norm

    def _mean(self, stats: Sequence[dict[str, torch.Tensor]]) -> Stats:
        """Micro-batches report their shares, so their sum over all ranks is the mean over the whole batch."""
        names = stat_names(self.algo)
        return self._end_normalising({name: float(sum(s[name] for s in stats)) for name in names})

    def _end_normalising(self, values: Stats) -> Stats:
        """Ends the normaliser's step with the sums of all ranks; `values` are summed in the same message."""
        sums = self.collective.total(values | {"advantages": self.normaliser.sums.cpu().numpy()})
        self.normaliser.step(torch.from_numpy(sums.pop("advantages")))
        return {name: float(value) for name, value in sums.items()}

    @property
    def warming(self) -> bool:
        return self.updates < self.numbers.value_warmup

    def _backward(self, batch: SegmentBatch, version: int, last: bool) -> dict[str, torch.Tensor]:
        self.held.accumulate(last)
        batch = batch.to(self.numbers.device)
        evaluation = self.held.evaluate(batch.observations, batch.tokens)
        loss, stats = total_loss(
            evaluation,
            batch,
            self.algo,
            self.normaliser,
            version=version,
            value_only=self.warming,
            generator=self.generator,
        )
        loss.backward()
        return stats

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.held.state(self.optimiser),
            "scheduler": self.scheduler.state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "updates": self.updates,
            "rng": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held.load(state, self.optimiser)
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


def _schedule(numbers: Learner, first: int = 0) -> Any:
    """Share of the learning rate at an update: linear warm-up, then a cosine down to the floor (or constant).

    `first`: the update at which these parameters begin to learn. Adam's first steps are as long as its longest.
    """

    def share(step: int) -> float:
        return min(1.0, (max(0, step - first) + 1) / max(1, numbers.warmup)) * _cosine(step, numbers)

    return share


def _cosine(step: int, numbers: Learner) -> float:
    if not numbers.decay:
        return 1.0
    done = min(1.0, step / numbers.decay)
    return numbers.lr_floor + (1 - numbers.lr_floor) * 0.5 * (1 + math.cos(math.pi * done))
