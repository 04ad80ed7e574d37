"""Learner ranks for tests: as threads of one process, and `python ranks.py RUN RANK SIZE` as one real rank of a group.

The real one makes ten updates on made-up segments, of which each rank holds an uneven part, and writes what it got.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from acceerl.algo.batch import micro_batches
from acceerl.channels.collective import Collective, PeersLost, meet
from acceerl.config import Algo, Learner
from acceerl.policies.tiny import TinyPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.trainer import Trainer
from acceerl.types import Assignment, ObservationBatch, Segment

SPEC = PolicySpec(chunk=2, action_dim=2, bins=16, cameras=("front",), image_size=(16, 16), proprio=3)
NUMBERS = Learner(batch=24, micro_batch=12, weight_decay=0.01, value_warmup=2, grad_clip=0.5)
UPDATES = 10
# What follows these subtracts a mean or takes a softmax, so gradients of their shifts are nothing but rounding, which
# Adam scales up to whole steps: one rank with another micro_batch differs in them just as much. They are held still.
CANCELLED = (
    "stems.front.down.bias", "stems.front.mix.bias", "glance.film.weight", "glance.film.bias", "value_pool.bias",
)  # fmt: skip


def policy(seed: int = 0) -> TinyPolicy:
    return TinyPolicy(SPEC, width=16, layers=1, heads=2, channels=8, waves=6, seed=seed)


def identifiable(seed: int) -> TinyPolicy:
    """A policy of which every trained parameter matters to the loss."""
    made = policy(seed)
    for name in CANCELLED:
        made.get_parameter(name).requires_grad_(False)
    return made


def segment(number: int, acting: TinyPolicy, decisions: int = 4, success: bool = True) -> Segment:
    """What `acting` would have done in a world of noise; later decisions are worth nothing unless it succeeds."""
    rng = np.random.default_rng(number)
    images = {"front": rng.integers(0, 256, (decisions + 1, 16, 16, 3), np.uint8)}
    proprio = rng.standard_normal((decisions + 1, 3)).astype(np.float32)
    seen = ObservationBatch({"front": images["front"][:-1]}, proprio[:-1], ("go",) * decisions)
    chosen = acting.act(seen, greedy=False)
    rewards = np.zeros(decisions, np.float32)
    rewards[-1] = success
    return Segment(
        assignment=Assignment(number % 2, 0, number),
        episode=number,
        start=0,
        instruction="go",
        images=images,
        proprio=proprio,
        tokens=chosen.tokens,
        logp=chosen.logp,
        values=chosen.values,
        rewards=rewards,
        executed=np.full(decisions, 2, np.int16),
        versions=np.zeros(decisions, np.int64),
        terminated=success,
        truncated=not success,
    )


class Threads(Collective):
    """Ranks as threads of one process; `Threads.of(2)` makes them all."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: dict[int, torch.Tensor]) -> None:
        self.rank, self.size, self.meeting, self.table = rank, meeting.parties, meeting, table

    @classmethod
    def of(cls, size: int) -> list[Threads]:
        meeting, table = threading.Barrier(size), {}
        return [cls(rank, meeting, table) for rank in range(size)]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        parts = self._exchange(tensor)
        tensor.copy_(sum(parts[1:], start=parts[0]))

    def broadcast(self, tensor: torch.Tensor) -> None:
        tensor.copy_(self._exchange(tensor)[0])

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.table[self.rank] = tensor.detach().clone()
        self._wait()
        parts = [self.table[rank] for rank in range(self.size)]
        self._wait()
        return parts

    def _wait(self) -> None:
        try:
            self.meeting.wait(20)
        except threading.BrokenBarrierError as error:
            raise PeersLost(f"learner[{self.rank}] lost {self.names('learner')}") from error


def batch(update: int) -> list[Segment]:
    """The whole batch of an update: unequal lengths, both endings, and chunks of which not all steps were executed."""
    torch.manual_seed(update)
    acting, rng = policy(seed=3), np.random.default_rng(update)
    made = [segment(100 * update + i, acting, int(rng.integers(1, 8)), bool(i % 3)) for i in range(7)]
    return [replace(s, executed=_cut(s.executed, i)) for i, s in enumerate(made)]


def _cut(executed: np.ndarray, i: int) -> np.ndarray:
    cut = executed.copy()
    cut[-1] -= i % 2
    return cut


def part(update: int, rank: int, size: int) -> list[Segment]:
    """What a rank holds of it: uneven, and in one update the last rank has nothing."""
    if size == 1:
        return batch(update)
    if update == 4:
        return batch(update) if rank == 0 else []
    return [s for i, s in enumerate(batch(update)) if (rank == 1) == (i % 4 == update % 4)]


def trained(collective: Collective, seed: int) -> tuple[Trainer, list[dict[str, float]]]:
    trainer = Trainer(identifiable(seed), Algo(entropy_coef=0.01), NUMBERS, seed=0, collective=collective)
    trainer.share()
    stats = []
    for update in range(UPDATES):
        mine = part(update, collective.rank, collective.size)
        stats.append(trainer.update(micro_batches(mine, NUMBERS.micro_batch) if mine else [], update))
    return trainer, stats


if __name__ == "__main__":
    from acceerl.runtime.registry_client import RegistryClient

    run, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    client = RegistryClient(run, "learner", rank, timeout_s=20)
    client.announce()
    group = meet(client, size, connect_s=60, timeout_s=30)
    trainer, stats = trained(group, seed=rank)  # another start on each rank: rank 0's must win
    torch.save({"policy": trainer.policy.state_dict(), "stats": stats}, run / f"trained.{rank}.pt")
    os._exit(0)  # as learners do: gloo's threads must not outlive the interpreter's end
