"""The world_model role: keeps the world and the success model true to reality while the policy changes.

It trains on recorded and live episodes, a set number of updates for each live one, publishes averaged weights to the
dreamers and hands them real contexts to dream from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from acceerl.channels.links import SegmentReceiver, SegmentSender, WeightsPublisher
from acceerl.config import World as Numbers
from acceerl.protocols import Meter, WorldSpec
from acceerl.roles.contexts import Alphabet, context, kept
from acceerl.roles.world_trainer import BODY_BATCH, WorldTrainer, drawn, motion_of
from acceerl.stores.clips import Clips
from acceerl.stores.memory import Kept, Memory
from acceerl.types import ClipBatch, Segment, Weights

OWED = "owed"  # among the published arrays
WARMUP = 50  # updates of a role's life over all its restarts


@dataclass
class WorldModelRole:
    """State of the role; `run` is the loop. `save(state)` writes a checkpoint."""

    trainer: WorldTrainer
    memory: Memory
    alphabet: Alphabet
    reality: SegmentReceiver
    contexts: list[SegmentSender]
    weights: WeightsPublisher
    numbers: Numbers
    meter: Meter
    save: Callable[[dict[str, Any]], None]
    checkpoint_every: float
    seed: int
    episodes: int = 0  # live ones that ended, over all lives of this process
    owed: float = 0.0  # updates
    told: float = 0.0  # of them, when weights were last published
    recent: deque[Segment] = field(default_factory=lambda: deque(maxlen=200))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng((self.seed, self.trainer.updates))
        self.saved = time.monotonic()
        self.recorded = self._clips(Memory(self.memory.recorded)) if self.memory.recorded else None
        self.recorded_motion = motion_of(Memory(self.memory.recorded), self.trainer.world)
        self.live: Clips | None = None
        self.live_motion: Clips | None = None

    @property
    def spec(self) -> WorldSpec:
        return self.trainer.world.spec

    def run(self) -> Iterator[bool]:
        """Yields True after an update, False when there was nothing to do."""
        self._publish()
        while True:
            arrived = self._take()
            self._hand_out()
            updated = self.owed >= 1 and self.trainer.updates < self.numbers.max_updates and self._update()
            if time.monotonic() - self.saved >= self.checkpoint_every:
                self.checkpoint()
            yield updated or arrived

    def checkpoint(self) -> None:
        self.saved = time.monotonic()
        self.save({"trainer": self.trainer.state_dict(), "episodes": self.episodes})
        self.meter.event("checkpoint", updates=self.trainer.updates)

    def load(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.episodes = state["episodes"]

    def _take(self) -> bool:
        arrived = self.reality.poll()
        for segment in arrived:
            if len(segment):
                self.memory.add(kept(segment, self.alphabet))
                self.recent.append(segment)
            if segment.terminated or segment.truncated:
                self.episodes += 1
                self.owed = min(self.owed + self.numbers.updates_per_episode, 100.0)
        self.reality.grant(len(arrived))
        if arrived:
            self.live = None  # windows are listed anew when the next batch is drawn
            self.meter.gauge("live_episodes", len(self.memory.live))
        return bool(arrived)

    def _hand_out(self) -> None:
        """Fills every dreamer's credit, so that none runs out of contexts during an update."""
        for sender in self.contexts:
            while (self.recent or self.memory.recorded) and not sender.full:
                sender.try_send(self._context())
                self.meter.count("contexts")

    def _context(self) -> Segment:
        """A recorded episode or a live one, with the frames between decisions where a context reaches back to them."""
        recorded = self.memory.recorded
        share = self.numbers.recorded_share if self.recent else 1.0
        if recorded and self.rng.random() < share:
            chosen = context(recorded[int(self.rng.integers(len(recorded)))], self.alphabet)
        else:
            chosen = self.recent[int(self.rng.integers(len(self.recent)))]
        between = self.spec.context > 1 and self.spec.stride % self.alphabet.chunk
        return chosen if between else replace(chosen, frames={})

    def _update(self) -> bool:
        if self.live is None and self.memory.live:
            self.live = self._clips(Memory(list(self.memory.live)))
            self.live_motion = motion_of(Memory(list(self.memory.live)), self.trainer.world)
        if self.live is None and self.recorded is None:
            return False
        began = time.monotonic()
        windows = self._windows()
        # a fresh optimiser's first steps are as long as its longest whatever the gradient: not on a pretrained model
        share = min(1.0, (self.trainer.updates + 1) / WARMUP)
        figures = self.trainer.update(windows, share)
        self._learn_body(share)
        for _ in range(self.numbers.success_updates):
            self.trainer.learn_success(self._windows(), share)
        self.owed -= 1
        self.meter.gauge("owed", self.owed)
        for name, value in figures.items():
            self.meter.gauge(name, value)
        self.meter.gauge("update_s", time.monotonic() - began)
        self.meter.count("updates")
        paid = self.told >= 1 > self.owed  # whoever waits for that must hear of it
        if paid or self.trainer.updates % self.numbers.publish_every == 0:
            self._publish()
        return True

    def _windows(self) -> ClipBatch:
        return drawn(self.recorded, self.live, self.numbers.recorded_share, self.numbers.batch, self.rng)

    def _learn_body(self, lr_share: float) -> None:
        """By recorded or live episodes, of which the latter may show only the ends of ticks."""
        both = {clips: share for clips, share in ((self.recorded_motion, self.numbers.recorded_share),
                (self.live_motion, 1 - self.numbers.recorded_share)) if clips is not None}  # fmt: skip
        shares = np.array(list(both.values())) + 1e-9
        for _ in range(self.numbers.body_updates if both else 0):
            chosen = list(both)[int(self.rng.choice(len(both), p=shares / shares.sum()))]
            self.trainer.learn_body(chosen.draw(BODY_BATCH, self.rng), lr_share)

    def _clips(self, memory: Memory) -> Clips | None:
        """Windows of one tick; None while no episode is long enough."""
        spec = self.spec
        fit = Memory([e for e in memory.entries if _fits(e, spec)])
        return Clips(fit, spec.context, 1, spec.cameras, pad=spec.context > 1, stride=spec.stride) if len(fit) else None

    def _publish(self) -> None:
        """Both models' averaged weights under one version, and how many updates are owed."""
        arrays = {
            f"{name}.{key}": tensor.detach().cpu().numpy()
            for name, state in self.trainer.averaged().items()
            for key, tensor in state.items()
        }
        self.told = self.owed
        self.weights.publish(Weights(self.trainer.updates, arrays | {OWED: np.array(self.owed, np.float32)}))


def _fits(episode: Kept, spec: WorldSpec) -> bool:
    """Frames only at decisions are too far apart for a world model with shorter ticks."""
    return episode.rows > 0 and spec.stride % episode.stride == 0


def load_world(world: Any, success: Any, weights: Weights) -> None:
    """Makes a published version the two models'."""
    for name, model in (("world", world), ("success", success)):
        prefix = f"{name}."
        state = {key.removeprefix(prefix): torch.from_numpy(array) for key, array in weights.arrays.items()
                 if key.startswith(prefix)}  # fmt: skip
        model.load_state_dict(state)  # which copies
