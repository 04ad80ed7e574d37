"""Learner ranks for tests: as threads of one process, and `python ranks.py RUN RANK SIZE` as one real rank of a group.

The real one makes ten updates on made-up segments, of which each rank holds an uneven part, and writes what it got,
once for each of `CASES`.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from acceerl.algo.batch import micro_batches
from acceerl.channels.collective import Collective, PeersLost, meet, read_shards
from acceerl.config import Algo, Config, Learner
from acceerl.jobs.saving import Saver
from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.policies.tiny import TinyPolicy
from acceerl.protocols import Policy, PolicySpec
from acceerl.roles.trainer import Trainer
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.types import Assignment, ObservationBatch, Segment

SPEC = PolicySpec(chunk=2, action_dim=2, bins=16, cameras=("front",), image_size=(16, 16), proprio=3)
NUMBERS = Learner(batch=24, micro_batch=12, weight_decay=0.01, value_warmup=2, grad_clip=0.5)
UPDATES = 10
# What follows these subtracts a mean or takes a softmax, so gradients of their shifts are nothing but rounding, which
# Adam scales up to whole steps: one rank with another micro_batch differs in them just as much. They are held still.
CANCELLED = (
    "stems.front.down.bias", "stems.front.mix.bias", "glance.film.weight", "glance.film.bias", "value_pool.bias",
)  # fmt: skip


class Case(NamedTuple):
    """One way to hold one policy; `value_head.pool.bias` and the like are CANCELLED of openvla_oft."""

    shard: str = "none"
    policy: str = "tiny"
    checkpointing: bool = False

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


CASES = [Case(), Case("zero2"), Case("zero3")]
if find_spec("transformers"):
    CASES += [Case("none", "openvla"), Case("zero2", "openvla"), Case("zero3", "openvla", True)]


def openvla(seed: int, checkpointing: bool = False) -> OpenVlaOftPolicy:
    """LoRA on random weights; both factors are random, since a step's direction is noise where all gradients are 0."""
    spec = replace(SPEC, image_size=(224, 224), proprio=0)
    made = OpenVlaOftPolicy(spec, random="tiny", precision="float32", rank=4, value_width=16, crop=False,
                            checkpointing=checkpointing)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        if name.endswith("lora_B"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    made.get_parameter("value_head.pool.bias").requires_grad_(False)
    return made


def policy(seed: int = 0) -> TinyPolicy:
    return TinyPolicy(SPEC, width=16, layers=1, heads=2, channels=8, waves=6, seed=seed)


def identifiable(seed: int) -> TinyPolicy:
    """A policy of which every trained parameter matters to the loss."""
    made = policy(seed)
    for name in CANCELLED:
        made.get_parameter(name).requires_grad_(False)
    return made


def segment(number: int, acting: Policy, decisions: int = 4, success: bool = True) -> Segment:
    """What `acting` would have done in a world of noise; later decisions are worth nothing unless it succeeds."""
    rng, spec = np.random.default_rng(number), acting.spec
    images = {"front": rng.integers(0, 256, (decisions + 1, *spec.image_size, 3), np.uint8)}
    proprio = rng.standard_normal((decisions + 1, spec.proprio)).astype(np.float32)
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


def batch(update: int, case: Case = CASES[0]) -> list[Segment]:
    """The whole batch of an update: unequal lengths, both endings, and chunks of which not all steps were executed."""
    torch.manual_seed(update)
    acting, rng = acting_policy(case), np.random.default_rng(update)
    count, longest = (7, 8) if case.policy == "tiny" else (3, 4)
    made = [segment(100 * update + i, acting, int(rng.integers(1, longest)), bool(i % 3)) for i in range(count)]
    return [replace(s, executed=_cut(s.executed, i)) for i, s in enumerate(made)]


def acting_policy(case: Case) -> Policy:
    return policy(seed=3) if case.policy == "tiny" else openvla(seed=3)


def _cut(executed: np.ndarray, i: int) -> np.ndarray:
    cut = executed.copy()
    cut[-1] -= i % 2
    return cut


def part(update: int, rank: int, size: int, case: Case = CASES[0]) -> list[Segment]:
    """What a rank holds of it: uneven, and in one update the last rank has nothing."""
    if size == 1:
        return batch(update, case)
    if update == 4:
        return batch(update, case) if rank == 0 else []
    return [s for i, s in enumerate(batch(update, case)) if (rank == 1) == (i % 4 == update % 4)]


def trainer(collective: Collective, seed: int, case: Case = CASES[0]) -> Trainer:
    made = identifiable(seed) if case.policy == "tiny" else openvla(seed, case.checkpointing)
    numbers = replace(NUMBERS, shard=case.shard if collective.size > 1 else "none")
    return Trainer(made, Algo(entropy_coef=0.01), numbers, seed=0, collective=collective)


def trained(collective: Collective, seed: int, case: Case = CASES[0]) -> tuple[Trainer, list[dict[str, float]]]:
    made = trainer(collective, seed, case)
    made.share()
    stats = []
    for update in range(UPDATES):
        mine = part(update, collective.rank, collective.size, case)
        stats.append(made.update(micro_batches(mine, NUMBERS.micro_batch) if mine else [], update))
    return made, stats


def report(made: Trainer, stats: list[dict[str, float]]) -> dict:
    return {"policy": {name: tensor.clone() for name, tensor in made.held.gathered()}, "stats": stats}


class Unspooled:
    """A replay that has nothing on disk."""

    def retain(self, ids: list, logs: dict) -> None:
        assert not ids


def saved(run: Path, made: Trainer, collective: Collective) -> None:
    """Writes a checkpoint while an update goes on, whose numbers must not get into it."""
    saver = Saver(Run(run), Config(), SPEC, Unspooled(), collective)
    replay = {"ids": [], "logs": {}}
    saver({"trainer": made.state_dict(), "counters": {"updates": UPDATES}, "replay": replay})
    once_more(made, collective)
    saver.settle()
    collective.barrier()  # rank 0 gives it its name


def resumed(run: Path, collective: Collective, case: Case) -> Trainer:
    """Another start, which the checkpoint must replace."""
    made, path = trainer(collective, 7, case), checkpoint.latest(Run(run).checkpoints)
    made.share()
    state = checkpoint.load(path)["trainer"]
    made.load_state_dict(state | {"read": partial(read_shards, folder=path / checkpoint.DIVIDED)})
    return made


def once_more(made: Trainer, collective: Collective) -> Trainer:
    mine = part(UPDATES, collective.rank, collective.size)
    made.update(micro_batches(mine, NUMBERS.micro_batch) if mine else [], UPDATES)
    return made


if __name__ == "__main__":
    from acceerl.runtime.registry_client import RegistryClient

    run, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    client = RegistryClient(run, "learner", rank, timeout_s=20)
    client.announce()
    group = meet(client, size, connect_s=60, timeout_s=30)
    # another start on each rank: rank 0's must win
    reports = {case.name: report(*trained(group, rank, case)) for case in CASES}
    saved(run, trained(group, rank, Case("zero3"))[0], group)
    for shard in ("none", "zero2"):
        reports[f"resumed-{shard}"] = report(once_more(resumed(run, group, Case(shard)), group), [])
    torch.save(reports, run / f"trained.{rank}.pt")
    os._exit(0)  # as learners do: gloo's threads must not outlive the interpreter's end
