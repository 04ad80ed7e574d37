"""The inference role: batches requests, answers them, and assembles Segments. Read with segments.py and tasks.py."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from acceerl.channels.links import Peer, SegmentSender, Serving, WeightsReader
from acceerl.protocols import Meter, Policy
from acceerl.roles.segments import SegmentMaker
from acceerl.roles.tasks import Tasks, TrainingTasks
from acceerl.types import Act, Assignment, Observation, ObservationBatch, Observed, Segment, Weights

Slot = tuple[Peer, int]  # one environment: the process and its index there


@dataclass(frozen=True)
class Pace:
    """When a batch is computed.

    The default fires as PAPER §2 says: at `max_batch` requests, or when the oldest has waited `max_wait` seconds
    since it was queued, or at once when every known environment has asked (nobody is left to wait for).
    `lockstep`: only when every environment has asked, and `expected` of them are known. `turn`: after so many
    decisions of one policy version, inference cuts all segments and waits for the next version.
    """

    max_batch: int = 16
    max_wait: float = 0.005
    lockstep: bool = False
    expected: int = 0
    turn: int = 0


@dataclass
class _Request:
    slot: Slot
    observation: Observation
    queued: float


class Inference:
    """State of one instance; `run` is the loop."""

    def __init__(
        self,
        policy: Policy,
        serving: Serving,
        tasks: Tasks,
        pace: Pace,
        meter: Meter,
        *,
        segments: SegmentSender | None = None,
        reality: SegmentSender | None = None,
        weights: WeightsReader | None = None,
        load: Callable[[Policy, Weights], None] | None = None,
        version: int = -1,
        first_episode: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy, self.serving, self.tasks, self.pace, self.meter = policy, serving, tasks, pace, meter
        self.segments, self.weights, self.load, self.clock = segments, weights, load, clock
        self.reality = reality
        self.version = version
        self.episodes = first_episode
        self.queue: deque[_Request] = deque()
        self.unassigned: deque[Slot] = deque()
        self.makers: dict[Slot, SegmentMaker] = {}
        self.known: set[Slot] = set()
        self.assigned: dict[Slot, Assignment] = {}  # handed out, first observation still to come
        self.outbox: deque[Segment] = deque()
        self.served = 0  # decisions since the last swap

    def run(self) -> Iterator[bool]:
        """Yields after each step: True after work, False when there was nothing to do."""
        while True:
            yield self.step()

    def step(self) -> bool:
        self._forget_lost()
        self._swap()
        worked = self._receive()
        self._assign()
        if self._turn_over():
            self._cut_all()
        self._flush()
        if self._ready():
            self._answer()
            worked = True
        self.meter.gauge("queue", len(self.queue))
        return worked

    def _forget_lost(self) -> None:
        for peer in self.serving.lost():
            for slot in [s for s in self.known if s[0] == peer]:
                self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        """Drops everything that is held for an environment; its episode, if it was in one, is lost."""
        self.known.discard(slot)
        self.unassigned = deque(s for s in self.unassigned if s != slot)
        self.queue = deque(r for r in self.queue if r.slot != slot)
        maker, assignment = self.makers.pop(slot, None), self.assigned.pop(slot, None)
        if maker is not None:
            self.meter.count("segments_lost")
            assignment = maker.assignment
        if assignment is not None:
            self.tasks.lost(assignment)

    def _swap(self) -> None:
        """Takes a newer version between two batches; receiving it went on beside serving."""
        if self.weights is None or self.load is None or not self.tasks.may_swap:
            return
        new = self.weights.poll()
        if new is None:
            return
        self.load(self.policy, new)
        self.version = new.version
        self.served = 0
        self._weigh_tasks()
        self.tasks.swapped(new.version)
        self.meter.gauge("policy_version", new.version)

    def _weigh_tasks(self) -> None:
        """With a new version only, so that lock-step runs do not depend on when an acknowledgement arrived."""
        weights = self.segments.task_weights if self.segments is not None else None
        if weights is not None and isinstance(self.tasks, TrainingTasks):
            self.tasks.weights = weights

    def _receive(self) -> bool:
        began = self.clock()
        arrived = self.serving.wait(self._patience())
        self.meter.waiting("learner" if self.outbox else "rollout", self.clock() - began)
        for peer, observed in arrived:
            slot = (peer, observed.slot)
            self._outcome(slot, observed)
            self.known.add(slot)
            if observed.observation is None or observed.ended:
                self.unassigned.append(slot)
            else:
                self.queue.append(_Request(slot, observed.observation, self.clock()))
        return bool(arrived)

    def _patience(self) -> float:
        """Seconds to wait for requests: none when a batch is ready, else until the oldest request's time is up."""
        if self._ready():
            return 0.0
        if not self.queue or self.outbox or self.pace.lockstep:
            return 0.01
        return max(0.0, self.pace.max_wait - (self.clock() - self.queue[0].queued))

    def _outcome(self, slot: Slot, observed: Observed) -> None:
        if observed.first:
            self.assigned.pop(slot, None)
            self.makers[slot] = SegmentMaker(self.episodes, observed)
            self.episodes += 1
        elif observed.observation is not None:
            maker = self.makers[slot]
            segment = maker.outcome(observed)
            if segment is not None:
                self._complete(slot, maker, segment, observed.ended)
        else:  # new, or starting over
            self._forget(slot)

    def _complete(self, slot: Slot, maker: SegmentMaker, segment: Segment, ended: bool) -> None:
        if self.segments is not None:
            self.outbox.append(segment)
        if self.reality is not None:
            self.reality.try_send(segment)
        if ended:
            result = maker.result()
            del self.makers[slot]
            self.meter.count("episodes")
            self.meter.gauge("episode_success", float(result.success))
            self.tasks.ended(result, segment)

    def _assign(self) -> None:
        while self.unassigned:
            slot = self.unassigned[0]
            assignment = self.tasks.next(slot)
            if assignment is None:
                return
            self.unassigned.popleft()
            self.assigned[slot] = assignment
            self.serving.reply(slot[0], Act(slot[1], assignment=assignment))

    def _flush(self) -> None:
        if self.segments is None:
            return
        while self.outbox and self.segments.try_send(self.outbox[0]):
            self.outbox.popleft()

    def _ready(self) -> bool:
        """May a batch be computed now? A full learner and a finished turn hold it back."""
        if not self.queue or self.version < 0:
            return False
        if self.outbox or self._turn_over():
            return False
        asked = len(self.queue)
        everyone = len(self.known) - len(self.unassigned)
        if self.pace.lockstep:
            return len(self.known) >= self.pace.expected and asked >= everyone
        waited = self.clock() - self.queue[0].queued
        return asked >= min(self.pace.max_batch, everyone) or waited >= self.pace.max_wait

    def _turn_over(self) -> bool:
        return bool(self.pace.turn) and self.served >= self.pace.turn

    def _cut_all(self) -> None:
        """Ends the turn: what was decided with this version goes to the learner, and the episodes go on."""
        for request in self.queue:
            segment = self.makers[request.slot].cut()
            if segment is not None and self.segments is not None:
                self.outbox.append(segment)

    def _answer(self) -> None:
        size = len(self.queue) if self.pace.lockstep else min(len(self.queue), self.pace.max_batch)
        requests = [self.queue.popleft() for _ in range(size)]
        batch = ObservationBatch.stack([r.observation for r in requests])
        chosen = self.policy.act(batch, self.tasks.greedy)
        for i, request in enumerate(requests):
            chunk = chosen.chunk(i, self.version)
            self.makers[request.slot].decide(chunk)
            self.serving.reply(request.slot[0], Act(request.slot[1], actions=chunk.actions))
        self.served += size
        self.meter.count("decisions", size)
        self.meter.gauge("batch", size)
        self.meter.gauge("queued_ms", 1e3 * (self.clock() - requests[0].queued))
