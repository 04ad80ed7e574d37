"""Imagination: an environment made of a world model and a success model. Read this to see what a dream is.

`Imagination` plays a batch of dreams with no call between processes; its verbs are an Env's, for N at once.
`ImaginedEnv` is one dream behind the Env protocol, so the contract tests of real environments run over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acceerl.protocols import History, SuccessModel, WorldModel, WorldSpec
from acceerl.types import Assignment, EnvSpec, ObservationBatch
from acceerl.world_models.windows import advanced, asked


@dataclass(frozen=True, eq=False)
class Start:
    """What a dream begins with: the last K real frames, S control steps apart, and what was done between them."""

    images: dict[str, np.ndarray]  # camera -> uint8 [K, H, W, 3]
    proprio: np.ndarray  # float32 [K, P]
    actions: np.ndarray  # float32 [K - 1, S, D]
    assignment: Assignment
    instruction: str
    steps: int = 0  # control steps of the episode before now


@dataclass(frozen=True)
class Outcomes:
    """What a chunk led to in each of N dreams; a dream that was over before has executed nothing."""

    rewards: np.ndarray  # float32 [N]
    executed: np.ndarray  # int64 [N]
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]


def potential(before: np.ndarray, after: np.ndarray, _: np.ndarray) -> np.ndarray:
    """The change of the probability of success, from the context's own on, so that what the context already shows
    earns nothing (potential-based shaping, Ng et al. 1999; PAPER: AcceRL)."""
    return after - before


def ending(_: np.ndarray, __: np.ndarray, succeeded: np.ndarray) -> np.ndarray:
    """1 where the dream ends with success, as in reality: a failure that looks half done earns nothing."""
    return succeeded.astype(np.float32)


EARNED = {"potential": potential, "success": ending}


class Imagination:
    """N dreams side by side. `reward`: what a chunk earns, by its name in `EARNED`.

    A dream ends with success when the probability exceeds `threshold` (0: the success model's own). `doubt`: standard
    deviations of the ensemble's opinions that are taken off their mean, so that a dream which the members disagree
    about earns little. `lucky`: each tick draws its luck; else the middle outcome follows, as it should where dreams
    of known actions are compared with what is known to have followed.
    """

    def __init__(
        self,
        world: WorldModel,
        success: SuccessModel,
        spec: EnvSpec,
        threshold: float = 0.0,
        doubt: float = 0.0,
        reward: str = "potential",
        lucky: bool = True,
        seed: int = 0,
    ) -> None:
        self.world, self.success, self.spec = world, success, spec
        self.own_threshold, self.doubt, self.earned = threshold, doubt, EARNED[reward]
        self.lucky, self.rng = lucky, np.random.default_rng(seed)
        self.stride = world.spec.stride
        self.device = next(world.parameters()).device  # type: ignore[attr-defined]
        self.starts: list[Start] = []
        self.over = self.succeeded = np.zeros(0, bool)
        self.peak = np.zeros(0, np.float32)

    def reset(self, starts: Sequence[Start]) -> None:
        """Begins len(starts) dreams. Raises ValueError for a context that the world model was not made for."""
        for start in starts:
            self._check(start)
        self.starts = list(starts)
        self.past = history(starts, self.world.spec, self.device)
        self.steps = np.array([start.steps for start in starts], np.int64)
        self.limits = np.array([self.spec.step_limits[start.assignment.task] for start in starts], np.int64)
        self.instructions = [start.instruction for start in starts]
        self.over = np.zeros(len(starts), bool)
        self.succeeded = np.zeros(len(starts), bool)
        self.probability = self._still()
        self.peak = np.zeros(len(starts), np.float32)  # the highest probability after the start

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def threshold(self) -> float:
        """Read anew each time: it comes with the success model's weights."""
        return self.own_threshold or float(getattr(self.success, "threshold", 0.5))

    def observe(self) -> ObservationBatch:
        """What the policy sees in each dream; frames stay bytes."""
        images = {c: frames[:, -1].cpu().numpy() for c, frames in self.past.images.items()}
        proprio = self.past.proprio[:, -1].cpu().numpy()
        return ObservationBatch(images, proprio, tuple(self.instructions))

    def step(self, actions: np.ndarray) -> Outcomes:
        """Plays a chunk, float32 [N, C, D], tick by tick; C is a multiple of the world model's stride."""
        before, first = self.probability.copy(), self.steps.copy()
        was_over = self.over.copy()
        for start in range(0, actions.shape[1], self.stride):
            self.tick(actions[:, start : start + self.stride])
        truncated = self.over & ~self.succeeded & ~was_over
        succeeded = self.succeeded & ~was_over
        gained = np.where(was_over, 0.0, self.earned(before, self.probability, succeeded)).astype(np.float32)
        return Outcomes(gained, self.steps - first, succeeded, truncated)

    def tick(self, actions: np.ndarray) -> None:
        """One step of the world model, float32 [N, S, D]; dreams that are over stay as they are."""
        left = np.maximum(np.minimum(self.limits - self.steps, self.stride), 1)
        done = torch.from_numpy(left).to(self.device)
        told = torch.from_numpy(np.ascontiguousarray(actions, np.float32)).to(self.device)
        images, path = self.world.predict(self.past, told, done, self.drawn())
        probability, executed, succeeded = self._judged(*asked(self.world.spec, self.past, images, path), left)
        self.past = self._kept(advanced(self.past, told, images, path))
        self.steps = self.steps + np.where(self.over, 0, executed)
        self.probability = np.where(self.over, self.probability, probability)
        self.peak = np.where(self.over, self.peak, np.maximum(self.peak, probability))
        self.succeeded |= ~self.over & succeeded
        self.over |= self.succeeded | (self.steps >= self.limits)

    def drawn(self) -> Tensor | None:
        """The luck of a tick, float32 [N]."""
        return torch.from_numpy(self.rng.random(len(self), np.float32)).to(self.device) if self.lucky else None

    def _judged(
        self, frames: dict[str, Tensor], felt: Tensor, left: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each tick, [N]: the probability of its likeliest step, or of the first above the threshold; the steps that
        it lasts; whether it succeeds."""
        likely = self._opinion(frames, felt)
        steps = np.arange(1, likely.shape[1] + 1) if likely.shape[1] > 1 else left[:, None]
        likely = np.where(steps <= left[:, None], likely, 0)
        above = likely > self.threshold
        succeeded = np.asarray(above.any(axis=1))
        chosen = np.where(succeeded, above.argmax(axis=1), likely.argmax(axis=1))
        probability = np.take_along_axis(likely, chosen[:, None], axis=1)[:, 0]
        first = np.take_along_axis(np.broadcast_to(steps, likely.shape), chosen[:, None], axis=1)[:, 0]
        return probability, np.where(succeeded, first, left), succeeded

    def _still(self) -> np.ndarray:
        """The probability of success where nothing moves on, float32 [N]: what a context shows already."""
        frames = {c: images[:, -1] for c, images in self.past.images.items()}
        return self._opinion(*asked(self.world.spec, self.past, frames, self.past.proprio[:, -1:]))[:, 0]

    def _opinion(self, frames: dict[str, Tensor], felt: Tensor) -> np.ndarray:
        """The probability of success at each step, float32 [N, S]: the ensemble's mean less its doubt."""
        opinions = self.success.probability(frames, felt, self.instructions)
        spread = opinions.std(dim=-1, correction=0)
        return (opinions.mean(dim=-1) - self.doubt * spread).clamp(0, 1).cpu().numpy()

    def _kept(self, new: History) -> History:
        """The new pasts of dreams that go on, the old ones of those that are over."""
        if not self.over.any():
            return new
        on = torch.from_numpy(~self.over).to(self.device)
        return History(
            {c: _where(on, images, self.past.images[c]) for c, images in new.images.items()},
            _where(on, new.proprio, self.past.proprio),
            _where(on, new.actions, self.past.actions),
        )

    def _check(self, start: Start) -> None:
        spec = self.world.spec
        missing = [c for c in spec.cameras if c not in start.images]
        if missing:
            raise ValueError(f"a context has no camera {missing[0]} (it has {', '.join(start.images)})")
        for name in spec.cameras:
            shape = start.images[name].shape
            if shape != (spec.context, *spec.image_size, 3):
                raise ValueError(
                    f"a context of frames {shape} of camera {name}: the world model needs {spec.context} of "
                    f"{spec.image_size}"
                )
        done, needed = start.actions.shape, (spec.context - 1, spec.stride, spec.action_dim)
        if done != needed:
            raise ValueError(f"a context of actions {done}: the world model needs {needed} (ticks, stride, dimensions)")
        if start.proprio.shape[1] < spec.proprio:
            raise ValueError(
                f"a context of {start.proprio.shape[1]} entries of proprioception: the world model needs {spec.proprio}"
            )


def history(starts: Sequence[Start], spec: WorldSpec, device: torch.device) -> History:
    """The starts of a batch as a world model's past."""
    return History(
        {c: torch.from_numpy(np.stack([s.images[c] for s in starts])).to(device) for c in spec.cameras},
        torch.from_numpy(np.stack([s.proprio for s in starts])).float().to(device)[..., : spec.proprio],
        torch.from_numpy(np.stack([s.actions for s in starts])).float().to(device),
    )


def _where(on: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(on.view(-1, *[1] * (new.ndim - 1)), new, old)
