"""The dreamer role: the policy practises inside the world model, many dreams at a time, with no call between processes.

A dream begins at a real context, is played by the newest policy for `horizon` decisions at most, and goes to the
learner as a Segment marked `imagined`. Now and then whole episodes are dreamt from contexts whose real end is known:
the difference of imagined and real success is the gap, by which one sees (and can limit) a policy that exploits its
world model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from acceerl.channels.links import SegmentReceiver, SegmentSender, WeightsReader
from acceerl.config import Dreamer as Numbers
from acceerl.protocols import Meter, Policy
from acceerl.roles.contexts import RECORDED, Alphabet, start_at
from acceerl.roles.world_model import OWED
from acceerl.types import Segment, Weights
from acceerl.world_models.imagined import Imagination, Outcomes

HELD = 400  # contexts
NEVER = 2.0  # no probability of success exceeds it
FAIR = (0.1, 0.99)
COMPARED = 128  # contexts of a comparison with reality, at least an eighth known: chance alone makes 6 points


@dataclass
class Dream:
    """The decisions of one batch so far, as arrays over dreams."""

    sources: list[tuple[Segment, int]]
    observations: list[dict[str, np.ndarray]] = field(default_factory=list)
    bodies: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    logp: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    outcomes: list[Outcomes] = field(default_factory=list)


class Dreamer:
    """State of one dreamer; `run` is the loop."""

    def __init__(
        self,
        policy: Policy,
        imagination: Imagination,
        alphabet: Alphabet,
        contexts: SegmentReceiver,
        dreams: SegmentSender,
        policy_weights: WeightsReader,
        world_weights: WeightsReader,
        load_policy: Callable[[Policy, Weights], None],
        load_world: Callable[[Weights], None],
        numbers: Numbers,
        meter: Meter,
        seed: int,
        first_episode: int = 0,
    ) -> None:
        self.policy, self.imagination, self.alphabet = policy, imagination, alphabet
        self.contexts, self.dreams = contexts, dreams
        self.readers = (policy_weights, world_weights)
        self.load_policy, self.load_world = load_policy, load_world
        self.numbers, self.meter = numbers, meter
        self.rng = np.random.default_rng(seed)
        self.episodes = first_episode
        self.version = self.world_version = -1
        self.owed = 0.0
        self.held: deque[Segment] = deque(maxlen=HELD)
        self.horizon = numbers.horizon
        self.checked = time.monotonic()
        self.compared: deque[tuple[float, bool]] = deque(maxlen=4 * COMPARED)  # a dream's peak, its episode's success

    def run(self) -> Iterator[bool]:
        """Yields after each decision of a batch: True after work, False when there is nothing to do."""
        while True:
            self._receive()
            if self.version < 0 or self.world_version < 0 or not self.held or self.dreams.full or self._behind():
                self.meter.waiting("world_model" if not self.held or self._behind() else "learner", 0.0)
                yield False
            elif self._check_due():
                yield from self._compare()
            else:
                yield from self._practise()

    def _receive(self) -> None:
        arrived = self.contexts.poll()
        self.held.extend(arrived)
        self.contexts.grant(len(arrived))
        policy, world = (reader.poll() for reader in self.readers)
        if policy is not None:
            self.load_policy(self.policy, policy)
            self.version = policy.version
        if world is not None:
            self.load_world(world)
            self.world_version, self.owed = world.version, float(world.arrays.get(OWED, 0.0))

    def _behind(self) -> bool:
        """Has the world model yet to learn from many of the episodes that this policy played?"""
        return bool(self.numbers.max_owed) and self.owed > self.numbers.max_owed

    # Practice

    def _practise(self) -> Iterator[bool]:
        dream = Dream([self._source() for _ in range(self.numbers.batch)])
        began, version = time.monotonic(), (self.version, self.world_version)
        for _ in self._played(dream, self.horizon):
            yield True
        segments = self._segments(dream, *version)
        for segment in segments:
            self.dreams.try_send(segment)
        self._report(segments, time.monotonic() - began)
        yield True

    def _source(self) -> tuple[Segment, int]:
        """A context and the decision to begin at: tasks by their weights, then any recent episode of that task."""
        by_task: dict[int, list[Segment]] = {}
        for segment in self.held:
            by_task.setdefault(segment.assignment.task, []).append(segment)
        tasks = sorted(by_task)
        weights = self.dreams.task_weights
        share = np.array([1.0 if weights is None else weights[task] for task in tasks])
        segments = by_task[int(self.rng.choice(tasks, p=share / share.sum()))]
        segment = segments[int(self.rng.integers(len(segments)))]
        first = self.rng.random() < self.numbers.first_share
        return segment, 0 if first else int(self.rng.integers(len(segment)))

    def _played(self, dream: Dream, decisions: int) -> Iterator[None]:
        """Plays up to so many decisions; ends early when every dream is over. Yields after each decision."""
        spec = self.imagination.world.spec
        self.imagination.reset([start_at(s, i, spec, self.alphabet) for s, i in dream.sources])
        self._observe(dream)
        for _ in range(decisions):
            observations = self.imagination.observe()
            chosen = self.policy.act(observations, False)
            outcomes = self.imagination.step(chosen.actions)
            dream.tokens.append(chosen.tokens)
            dream.logp.append(chosen.logp)
            dream.values.append(chosen.values)
            dream.outcomes.append(outcomes)
            self._observe(dream)
            self.meter.count("imagined_decisions", int((outcomes.executed > 0).sum()))
            yield
            if self.imagination.over.all():
                return

    def _observe(self, dream: Dream) -> None:
        seen = self.imagination.observe()
        dream.observations.append(seen.images)
        dream.bodies.append(seen.proprio)

    def _segments(self, dream: Dream, version: int, world_version: int) -> list[Segment]:
        lengths = sum((outcomes.executed > 0).astype(int) for outcomes in dream.outcomes)
        return [
            self._segment(dream, n, int(length), version, world_version)
            for n, length in enumerate(np.asarray(lengths))
            if length
        ]

    def _segment(self, dream: Dream, n: int, t: int, version: int, world_version: int) -> Segment:
        source, index = dream.sources[n]
        self.episodes += 1
        last = dream.outcomes[t - 1]
        return Segment(
            assignment=source.assignment,
            episode=self.episodes,
            start=source.start + index,
            instruction=source.instruction,
            images={c: np.stack([x[c][n] for x in dream.observations[: t + 1]]) for c in dream.observations[0]},
            proprio=np.stack([x[n] for x in dream.bodies[: t + 1]]),
            tokens=np.stack([x[n] for x in dream.tokens[:t]]),
            logp=np.stack([x[n] for x in dream.logp[:t]]),
            values=np.array([x[n] for x in dream.values[:t]], np.float32),
            rewards=np.array([o.rewards[n] for o in dream.outcomes[:t]], np.float32),
            executed=np.array([o.executed[n] for o in dream.outcomes[:t]], np.int16),
            versions=np.full(t, version, np.int64),
            terminated=bool(last.terminated[n]),
            truncated=bool(last.truncated[n]),
            imagined=True,
            world_version=world_version,
        )

    def _report(self, segments: list[Segment], seconds: float) -> None:
        ended = [s.terminated for s in segments if s.terminated or s.truncated]
        if ended:
            self.meter.gauge("dream_success", float(np.mean(ended)))
        self.meter.gauge("dream_reward", float(np.mean([s.rewards.sum() for s in segments] or [0.0])))
        self.meter.gauge("batch_s", seconds)
        self.meter.count("dreams", len(segments))

    # Comparison with reality

    def _check_due(self) -> bool:
        known = sum(_known(segment) for segment in self.held)
        return known >= COMPARED // 8 and time.monotonic() - self.checked >= self.numbers.check_every

    def _compare(self) -> Iterator[bool]:
        """Dreams whole episodes from starts whose real end is known, and shortens dreams while the two differ.

        The threshold follows reality, but not below the success model's own: one that is too high costs some
        successes, one that is too low is what practice exploits.
        """
        self.checked = time.monotonic()
        known = [segment for segment in self.held if _known(segment)][-COMPARED:]
        dream, threshold = Dream([(segment, 0) for segment in known]), self.imagination.threshold
        self.imagination.own_threshold = NEVER
        for _ in self._played(dream, 10**6):
            yield True
        self.imagination.own_threshold = threshold
        imagined = float(np.mean(self.imagination.peak > threshold))
        real = float(np.mean([segment.terminated for segment in known]))
        self.meter.event("comparison", imagined=imagined, real=real, contexts=len(known), horizon=self.horizon,
                         threshold=threshold, version=self.version, world_version=self.world_version)  # fmt: skip
        self.meter.gauge("gap", imagined - real)
        if not self.numbers.threshold:
            self.compared.extend(zip(self.imagination.peak, (s.terminated for s in known), strict=True))
            self.imagination.own_threshold = 0.0  # the success model's own
            fair = fair_threshold(*zip(*self.compared, strict=True))
            self.imagination.own_threshold = max(fair, self.imagination.threshold)
        self.meter.gauge("threshold", self.imagination.threshold)
        if self.numbers.max_gap:
            shorter, longer = max(1, self.horizon // 2), min(self.numbers.horizon, self.horizon + 1)
            self.horizon = shorter if imagined - real > self.numbers.max_gap else longer
        self.meter.gauge("horizon", self.horizon)


def fair_threshold(peaks: Sequence[float], succeeded: Sequence[bool]) -> float:
    """The probability that as many dreams exceed at their peak as real episodes succeed.

    >>> fair_threshold([0.2, 0.4, 0.6, 0.8], [True, False, False, False]) > 0.6
    True
    """
    return float(np.clip(np.quantile(peaks, 1 - np.mean(succeeded)), *FAIR))


def _known(segment: Segment) -> bool:
    """Is it a whole live episode, whose end this run's policy reached?"""
    ended = segment.terminated or segment.truncated
    return segment.start == 0 and ended and int(segment.versions[0]) != RECORDED
