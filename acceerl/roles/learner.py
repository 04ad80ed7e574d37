"""The learner role: takes Segments in, trains, publishes weights, saves checkpoints. trainer.py is one update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from acceerl.algo.batch import SegmentBatch, micro_batches
from acceerl.channels.links import SegmentReceiver, WeightsPublisher
from acceerl.config import Learner as Numbers
from acceerl.protocols import Meter, Policy
from acceerl.roles.tasks import TaskWeights
from acceerl.roles.trainer import Trainer
from acceerl.stores.replay import Replay
from acceerl.types import Segment, Weights


@dataclass
class Counters:
    """What a resumed run continues from."""

    updates: int = 0
    decisions: int = 0  # received
    env_steps: int = 0
    episodes: int = 0
    sampled: int = 0  # decisions trained on
    seconds: float = 0.0  # of training, over all attempts


@dataclass
class Learner:
    """State of one learner rank; `run` is the loop. The policy version is the number of updates.

    `save(state)` writes a checkpoint; `prefetch` builds the next batch beside training (None: in line).
    """

    trainer: Trainer
    segments: SegmentReceiver
    weights: WeightsPublisher
    replay: Replay
    tasks: TaskWeights
    numbers: Numbers
    meter: Meter
    save: Callable[[dict[str, Any]], None]
    prefetch: Executor | None = None
    counters: Counters = field(default_factory=Counters)
    owed: int = 0  # credits not yet granted
    pending: Future[list[SegmentBatch]] | None = None
    wants_checkpoint: bool = False

    def run(self) -> Iterator[bool]:
        """Yields True after an update, False when there was nothing to train on. Ends when the training is done."""
        self._publish()
        clock = saved = time.monotonic()
        while not self.done():
            self._take()
            updated = self._train()
            now = time.monotonic()
            self.counters.seconds += now - clock
            clock = now
            if self.wants_checkpoint or now - saved >= self.numbers.checkpoint_every:
                self.checkpoint()
                saved = time.monotonic()
            yield updated
        self.checkpoint()

    def done(self) -> bool:
        minutes = self.counters.seconds / 60
        return self.counters.updates >= self.numbers.max_updates or minutes >= self.numbers.max_minutes

    def checkpoint(self) -> None:
        """Saves everything that a resumed run needs; a batch that was prefetched is sampled again."""
        self.wants_checkpoint = False
        self.save(
            {
                "trainer": self.trainer.state_dict(),
                "counters": dict(vars(self.counters)),
                "tasks": self.tasks.state_dict(),
                "replay": self.replay.state_dict(),
            }
        )
        self.meter.event("checkpoint", updates=self.counters.updates)

    def load(self, state: dict[str, Any], keep_replay: bool) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.counters = Counters(**state["counters"])
        self.tasks.load_state_dict(state["tasks"])
        self.meter.count("updates", self.counters.updates)
        if keep_replay:
            self.replay.restore(state["replay"])

    def _take(self) -> None:
        """Moves what arrived into the replay; gives credits back only while the pace allows more."""
        arrived = self.segments.poll()
        for segment in arrived:
            self._book(segment)
        if self.replay.evicted and self.replay.decisions < self.numbers.batch:
            raise ValueError(
                f"the full replay holds {self.replay.decisions} decisions, learner.batch is {self.numbers.batch}: "
                "raise replay.capacity or lower learner.batch"
            )
        self.owed += len(arrived)
        starved = self.replay.decisions < self.numbers.batch and self.pending is None
        if self.owed and (starved or self.replay.can_insert()):
            self.segments.grant(self.owed)
            self.owed = 0

    def _book(self, segment: Segment) -> None:
        self.replay.insert(segment)
        self.tasks.book(segment)
        self.counters.decisions += len(segment)
        self.counters.env_steps += int(segment.executed.sum())
        if segment.terminated or segment.truncated:
            self.counters.episodes += 1
            self.segments.set_task_weights(self.tasks.weights())
            self.meter.event("episode", **_episode(segment, self.counters))

    def _train(self) -> bool:
        """Trains on the batch at hand after starting to build the next one."""
        if self.pending is None:
            self.pending = self._start()
        if self.pending is None or not self.pending.done():
            return False
        batches = self.pending.result()
        self.pending = self._start()
        self._update(batches)
        return True

    def _start(self) -> Future[list[SegmentBatch]] | None:
        if not self._enough():
            return None
        return self._submit(self.replay.sample(self.numbers.batch))

    def _enough(self) -> bool:
        return self.replay.can_sample() and self.replay.decisions >= self.numbers.batch

    def _submit(self, segments: list[Segment]) -> Future[list[SegmentBatch]]:
        if self.prefetch is not None:
            return self.prefetch.submit(micro_batches, segments, self.numbers.micro_batch)
        future: Future[list[SegmentBatch]] = Future()
        future.set_result(micro_batches(segments, self.numbers.micro_batch))
        return future

    def _update(self, batches: list[SegmentBatch]) -> None:
        stats = self.trainer.update(batches, self.counters.updates)
        decisions = sum(b.n_decisions for b in batches)
        if self.counters.updates == 0:  # lets two runs be compared exactly
            self.meter.event("first_update", decisions=decisions, **stats)
        self.counters.updates += 1
        self.counters.sampled += decisions
        self.meter.count("updates")
        self.meter.count("samples", decisions)
        for name, value in stats.items():
            self.meter.gauge(name, value)
        self.meter.gauge("success", self.tasks.success_rate())
        self.meter.gauge("replay_decisions", self.replay.decisions)
        if self.counters.updates % self.numbers.publish_every == 0:
            self._publish()

    def _publish(self) -> None:
        """Offers a snapshot, so that training goes on while it travels."""
        self.weights.publish(Weights(self.counters.updates, pack(self.trainer.policy)))


def pack(policy: Policy) -> dict[str, np.ndarray]:
    """A snapshot of the policy's tensors as arrays of their own, in state_dict order."""
    state: dict[str, torch.Tensor] = policy.state_dict()  # type: ignore[attr-defined]
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def unpack(policy: Policy, weights: Weights) -> None:
    """The inverse of `pack`: copies a version's tensors into the policy."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.arrays.items()}
    policy.load_state_dict(tensors)  # type: ignore[attr-defined]


def _episode(segment: Segment, counters: Counters) -> dict[str, Any]:
    return {
        "task": segment.assignment.task,
        "success": segment.terminated,
        "decisions": segment.start + len(segment),
        "version": int(segment.versions[0]),
        "env_steps": counters.env_steps,
        "updates": counters.updates,
    }
