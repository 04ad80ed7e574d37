"""The learner role: takes Segments in, trains, publishes weights, saves checkpoints. trainer.py is one update.

Several ranks take one turn of the loop together: each tells its news (`_tell`), the sum over ranks is known to all, and
everybody decides alike from it. A rank whose replay is short gives less to the batch and never holds the others up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acceerl.algo.batch import SegmentBatch, micro_batches
from acceerl.channels.collective import Alone, Collective
from acceerl.channels.links import SegmentReceiver, WeightsPublisher
from acceerl.config import Learner as Numbers
from acceerl.protocols import Meter, Policy
from acceerl.roles.sharing import News, shares
from acceerl.roles.tasks import TaskWeights
from acceerl.roles.trainer import Trainer
from acceerl.stores.replay import Replay, merged, part_of
from acceerl.types import Segment, Weights

if TYPE_CHECKING:  # loads what most trainings do without
    from acceerl.channels.collective_pairs import DirectPublisher

Told = dict[str, np.ndarray]  # what all ranks told in a turn, added up


@dataclass
class Counters:
    """What a resumed run continues from; of all ranks together."""

    updates: int = 0
    decisions: int = 0  # received
    env_steps: int = 0
    episodes: int = 0
    sampled: int = 0  # decisions trained on
    dreamt: int = 0  # imagined decisions received
    seconds: float = 0.0  # of training, over all attempts


@dataclass
class Learner:
    """State of one learner rank; `run` is the loop. The policy version is the number of updates.

    `save(state)` writes a checkpoint, on rank 0, or on all ranks that have divided the policy; `prefetch` builds the
    next batch beside training (None: in line). `stop` asks whether this rank was told to leave: then all ranks save and
    leave together. `direct` sends weights from GPU to GPU, in place of `weights`. `dreams`: imagined Segments, of which
    a share of every batch is made until the policy wakes up; they are not part of a checkpoint.
    """

    trainer: Trainer
    segments: SegmentReceiver
    weights: WeightsPublisher
    replay: Replay
    tasks: TaskWeights
    numbers: Numbers
    meter: Meter
    save: Callable[[dict[str, Any]], None]
    busy: Callable[[], bool] = lambda: False  # is a checkpoint still being written?
    settle: Callable[[], None] = lambda: None  # waits until it is
    prefetch: Executor | None = None
    collective: Collective = field(default_factory=Alone)
    stop: Callable[[], bool] = lambda: False
    direct: DirectPublisher | None = None
    dreams: Dreams | None = None
    counters: Counters = field(default_factory=Counters)
    news: News = field(init=False)
    owed: int = 0  # credits not yet granted
    pending: Future[list[SegmentBatch]] | None = None
    wants_checkpoint: bool = False
    finished: bool = False  # the training is done, on every rank

    def __post_init__(self) -> None:
        self.news = News(len(self.tasks.successes))
        self.imagined = round(self.numbers.batch * (self.dreams.share if self.dreams else 0.0))  # of each batch
        self.leads = self.collective.rank == 0
        self.saved = self.clock = time.monotonic()

    def run(self) -> Iterator[bool]:
        """Yields True after an update, False when there was nothing to train on. Ends when the training is done.

        Or when a rank was asked to stop. Saves a checkpoint last.
        """
        self.trainer.share()
        self._publish()
        self.saved = self.clock = time.monotonic()
        while True:
            told = self._exchange()
            if told["done"] or told["stop"]:
                break
            updated = self._train(told)
            self._tick(updated)
            if told["checkpoint"]:
                self.checkpoint()
            yield updated
        self.finished = bool(told["done"])
        self.checkpoint()
        self.settle()

    def done(self) -> bool:
        minutes = self.counters.seconds / 60
        return self.counters.updates >= self.numbers.max_updates or minutes >= self.numbers.max_minutes

    def checkpoint(self) -> None:
        """Saves everything that a resumed run needs; a batch that was prefetched is sampled again."""
        self.wants_checkpoint, self.saved = False, time.monotonic()
        replays = self.collective.gather(self.replay.state_dict())
        if self.leads or self.trainer.held.divided:
            self.save(
                {
                    "trainer": self.trainer.state_dict(),
                    "counters": dict(vars(self.counters)),
                    "tasks": self.tasks.state_dict(),
                    "replay": merged(replays),
                }
            )
        if self.leads:
            self.meter.event("checkpoint", updates=self.counters.updates)

    def load(self, state: dict[str, Any], keep_replay: bool) -> None:
        """Continues from a checkpoint of any number of ranks."""
        self.trainer.load_state_dict(state["trainer"])
        self.counters = Counters(**state["counters"])
        self.tasks.load_state_dict(state["tasks"])
        if self.leads:
            self.meter.count("updates", self.counters.updates)
        if keep_replay:
            self.replay.restore(part_of(state["replay"], self.collective.rank, self.collective.size))

    def _tick(self, updated: bool) -> None:
        """Books the time since the last turn, as waiting when it ends without an update."""
        now = time.monotonic()
        if not updated:
            self.meter.waiting("inference" if self.pending is None else "batches", now - self.clock)
        self.counters.seconds += now - self.clock
        self.clock = now

    def _exchange(self) -> Told:
        """Takes what arrived, tells the other ranks, books everybody's news, gives credits back."""
        arrived = self.segments.poll()
        for segment in arrived:
            self._keep(segment)
            self.news.take(segment)
        self.owed += len(arrived)
        if self.dreams is not None:
            self.dreams.take(self.news, self.meter)
        told = self._tell()
        self._book(told, arrived)
        if self.dreams is not None and 0 < self.dreams.until <= self.counters.env_steps:
            self._wake()
        self._refuse_small_replay(told)
        self._grant(told)
        return told

    def _keep(self, segment: Segment) -> None:
        """A real Segment; where all batches are imagined it only paces the training."""
        if self.imagined < self.numbers.batch:
            self.replay.insert(segment)
        else:
            self.replay.count_elsewhere(len(segment), 0)

    def _tell(self) -> Told:
        """This rank's side of a turn, added up over ranks; what is told must be the same set of names everywhere."""
        mine, place = self.news, self.collective.mine
        self.news = News(len(mine.won))
        told = self.collective.total(
            vars(mine)
            | {
                "held": place(self.replay.decisions),
                "fresh": place(self.replay.fresh),
                "dreams": place(self.dreams.replay.decisions if self.dreams else 0),
                "full": bool(self.replay.evicted),
                "ready": self.pending is not None and self.pending.done(),
                "checkpoint": self.wants_checkpoint or (self.leads and self._checkpoint_due()),
                "done": self.done(),
                "stop": self.stop(),
            }
        )
        elsewhere = [int(told[name]) - getattr(mine, name) for name in ("decisions", "sampled")]
        self.replay.count_elsewhere(*elsewhere)
        return told

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self.saved >= self.numbers.checkpoint_every and not self.busy()

    def _book(self, told: Told, arrived: list[Segment]) -> None:
        for name in ("decisions", "env_steps", "episodes", "dreamt"):
            setattr(self.counters, name, getattr(self.counters, name) + int(told[name]))
        if told["episodes"]:
            self.tasks.add(told["won"], told["lost"])
            self.segments.set_task_weights(self.tasks.weights())
        for segment in arrived:
            if segment.terminated or segment.truncated:
                self.meter.event("episode", **_episode(segment, self.counters))

    def _wake(self) -> None:
        """From now on batches are real, and each real decision is trained on once. All ranks wake up in the same turn,
        since they count alike; dreamers wait for credits that do not come."""
        self.dreams, self.imagined = None, 0
        self.replay.limiter.repace(1.0)
        self.meter.event("awake", env_steps=self.counters.env_steps, updates=self.counters.updates)
        self.meter.gauge("imagined_share", 0.0)

    def _refuse_small_replay(self, told: Told) -> None:
        if told["full"] == self.collective.size and told["held"].sum() < self.numbers.batch - self.imagined:
            raise ValueError(
                f"the full replay holds {told['held'].sum():.0f} decisions, learner.batch is {self.numbers.batch}: "
                "raise replay.capacity or lower learner.batch"
            )

    def _grant(self, told: Told) -> None:
        """Gives credits back only while the pace allows more."""
        starved = told["held"].sum() < self.numbers.batch - self.imagined and self.pending is None
        if self.owed and (starved or self.replay.limiter.can_insert()):
            self.segments.grant(self.owed)
            self.owed = 0
        if self.dreams is not None:
            self.dreams.grant(self.numbers.batch)

    def _train(self, told: Told) -> bool:
        """Trains on the batch at hand after starting to build the next one, when every rank has built its own."""
        if self.pending is None:
            self.pending = self._start(told)
            return False
        if told["ready"] < self.collective.size:
            return False
        batches = self.pending.result()
        self.pending = self._start(told)
        self._update(batches)
        return True

    def _start(self, told: Told) -> Future[list[SegmentBatch]] | None:
        """Draws this rank's share of the next batch, if all ranks together have enough."""
        real = self.numbers.batch - self.imagined
        enough = told["held"].sum() >= real and told["dreams"].sum() >= self.imagined
        if not enough or not self.replay.limiter.can_sample():
            return None
        share = shares(told["fresh"], told["held"], real)[self.collective.rank]
        segments = self.replay.sample(share) if share else []
        segments += self._dreamt(shares(told["dreams"], told["dreams"], self.imagined)[self.collective.rank])
        self.news.sampled += sum(map(len, segments))
        return self._submit(segments)

    def _dreamt(self, share: int) -> list[Segment]:
        """Imagined Segments of so many decisions; training on them is paced by real ones too."""
        if not share or self.dreams is None:
            return []
        segments = self.dreams.replay.sample(share)
        self.replay.count_elsewhere(0, sum(map(len, segments)))
        return segments

    def _submit(self, segments: list[Segment]) -> Future[list[SegmentBatch]]:
        if self.prefetch is not None:
            return self.prefetch.submit(_build, segments, self.numbers.micro_batch)
        future: Future[list[SegmentBatch]] = Future()
        future.set_result(_build(segments, self.numbers.micro_batch))
        return future

    def _update(self, batches: list[SegmentBatch]) -> None:
        warming = self.trainer.warming
        stats = self.trainer.update(batches, self.counters.updates)
        decisions = int(stats.pop("decisions"))
        if warming and self.dreams is not None:  # values are learnt from dreams: reality waits for the policy
            self.replay.count_elsewhere(0, -decisions)
        if self.leads and self.counters.updates == 0:  # lets two runs be compared exactly
            self.meter.event("first_update", decisions=decisions, **stats)
        self.counters.updates += 1
        self.counters.sampled += decisions
        self._report(decisions, stats)
        if self.counters.updates % self.numbers.publish_every == 0:
            self._publish()

    def _report(self, decisions: int, stats: dict[str, float]) -> None:
        """Counters of the run come from rank 0 alone, so that nothing is counted twice."""
        if self.leads:
            self.meter.count("updates")
            self.meter.count("samples", decisions)
        for name, value in stats.items():
            self.meter.gauge(name, value)
        self.meter.gauge("success", self.tasks.success_rate())
        self.meter.gauge("replay_decisions", self.replay.decisions)
        if self.dreams is not None:
            self.meter.gauge("imagined_share", self.dreams.share)

    def _publish(self) -> None:
        """Offers a snapshot, so that training goes on while it travels. Every rank has the same: one is enough.

        A policy that is divided is gathered tensor by tensor, by all ranks.
        """
        gathered, version = self.trainer.held.gathered(), self.counters.updates
        if not self.leads:
            for _ in gathered if self.trainer.held.divided else ():
                pass
        elif self.direct is not None:
            self.direct.publish(version, self.trainer.policy.state_dict().items(), gathered)  # type: ignore[attr-defined]
        else:
            self.weights.publish(Weights(version, arrays(gathered)))


@dataclass
class Dreams:
    """The imagined side of a learner rank: its link, what it holds, its share of every batch, and the environment steps
    `until` which the policy practises so (0: always)."""

    segments: SegmentReceiver
    replay: Replay
    share: float
    until: int = 0
    owed: int = 0

    def take(self, news: News, meter: Meter) -> None:
        arrived = self.segments.poll()
        self.owed += len(arrived)
        for segment in arrived:
            self.replay.insert(segment)
            news.take(segment)
        lags = [int(segment.world_version) for segment in arrived]
        if lags:
            meter.gauge("world_version", max(lags))

    def grant(self, batch: int) -> None:
        """Asks for more while less than four batches wait: older dreams are of an older policy."""
        if self.owed and self.replay.decisions < 4 * batch:
            self.segments.grant(self.owed)
            self.owed = 0


def _build(segments: list[Segment], most: int) -> list[SegmentBatch]:
    """A rank that has nothing to give trains on no batch at all."""
    return micro_batches(segments, most) if segments else []


def pack(policy: Policy) -> dict[str, np.ndarray]:
    """The policy's tensors as arrays, in state_dict order: views of those that are in host memory."""
    state: dict[str, torch.Tensor] = policy.state_dict()  # type: ignore[attr-defined]
    return arrays(state.items())


def arrays(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Tensors as arrays, by their names."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors}


def unpack(policy: Policy, weights: Weights) -> None:
    """Makes a version the policy's. Parameters in host memory then are the version's arrays, without a copy.

    So the arrays must stay as they are until the next version is unpacked, and nobody may train this policy. Raises
    RuntimeError naming what differs when they belong to another policy.
    """
    state: dict[str, torch.Tensor] = policy.state_dict(keep_vars=True)  # type: ignore[attr-defined]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", ".*not writable.*")  # nor do we write
        tensors = {name: torch.as_tensor(array) for name, array in weights.arrays.items()}
        if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in state.items()}:
            policy.load_state_dict(tensors)  # type: ignore[attr-defined]  # which says what differs
        for name, mine in state.items():
            _take(mine, tensors[name])


def _take(mine: torch.Tensor, new: torch.Tensor) -> None:
    """Copies buffers, which a forward pass may write, and what is on a GPU, where recorded kernels know its place."""
    own = mine.device.type == "cpu" and (mine.device, mine.dtype) == (new.device, new.dtype)
    if isinstance(mine, torch.nn.Parameter) and own:
        mine.data = new
    else:
        mine.copy_(new)


def _episode(segment: Segment, counters: Counters) -> dict[str, Any]:
    return {
        "task": segment.assignment.task,
        "success": segment.terminated,
        "decisions": segment.start + len(segment),
        "version": int(segment.versions[0]),
        "env_steps": counters.env_steps,
        "updates": counters.updates,
    }
