"""Behaviour cloning: a policy learns to imitate recorded actions. Read this to see how a starting policy is made.

`Demonstrations` holds trajectories as flat arrays and draws samples; `clone` is the training loop. One sample is
the observation at a control step and the next `chunk` clean expert actions from there. Masked are actions beyond
the end of the trajectory and those after an executed action that was not the clean one: they answer noise that the
observation cannot foretell. Every step gives a sample, not only every chunk.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from acceerl.protocols import Policy, PolicySpec
from acceerl.types import ObservationBatch


class Trajectory(Protocol):
    """What cloning reads of a recorded episode; row t of the images was seen before action t."""

    images: dict[str, np.ndarray]  # camera -> uint8 [T, H, W, 3]
    proprio: np.ndarray  # float32 [T, P]
    actions: np.ndarray  # float32 [T, D], as executed
    expert_actions: np.ndarray | None  # float32 [T, D], clean labels where exploration noise was executed
    instruction: str


def _silent(step: int, figures: dict[str, float]) -> None:
    """The default progress: none."""


@dataclass(frozen=True)
class CloningBatch:
    """N samples."""

    observations: ObservationBatch
    actions: np.ndarray  # float32 [N, C, D]
    mask: np.ndarray  # float32 [N, C], 1 where the label follows from the observation


class Demonstrations:
    """Trajectories in memory, images once as uint8; one step of two 64-pixel cameras takes 24 KB.

    Raises ValueError when there are none, or when they lack a camera or the shapes that `spec` asks for.
    """

    def __init__(self, trajectories: Iterable[Trajectory], spec: PolicySpec) -> None:
        kept = [t for t in trajectories if len(t.actions)]
        if not kept:
            raise ValueError("no trajectories to clone from: collect some, or check the path and its filter")
        for trajectory in kept:
            _check(trajectory, spec)
        self.chunk = spec.chunk
        self.images = {name: np.concatenate([t.images[name] for t in kept]) for name in spec.cameras}
        self.proprio = np.concatenate([t.proprio for t in kept]).astype(np.float32)
        self.actions = np.concatenate([_labels(t) for t in kept]).astype(np.float32)
        lengths = np.array([len(t.actions) for t in kept])
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.ends = starts + np.concatenate([_foreseeable(t) for t in kept])
        self.first = np.unique(starts)
        self.instructions = [text for t in kept for text in [t.instruction] * len(t.actions)]

    def __len__(self) -> int:
        return len(self.actions)

    def draw(self, rng: np.random.Generator, count: int, first_share: float) -> CloningBatch:
        """Random samples: each with probability `first_share` at the first step of an episode, else anywhere.

        What an episode's first decision must find out (which of five bowls?), the gripper's later positions give
        away: drawn evenly, one sample in twenty would teach a policy to listen and to look for its target.
        """
        rows = rng.integers(len(self), size=count)
        first = rng.choice(self.first, size=count)
        return self.sample(np.where(rng.random(count) < first_share, first, rows))

    def sample(self, rows: np.ndarray) -> CloningBatch:
        """The samples that start at `rows`, int [N]."""
        steps = rows[:, None] + np.arange(self.chunk)
        mask = steps < self.ends[rows][:, None]
        observations = ObservationBatch(
            {name: frames[rows] for name, frames in self.images.items()},
            self.proprio[rows],
            tuple(self.instructions[row] for row in rows),
        )
        return CloningBatch(observations, self.actions[np.minimum(steps, len(self) - 1)], mask.astype(np.float32))


def clone(
    policy: Policy,
    demonstrations: Demonstrations,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: int = 100,
    label_sigma: float = 2.0,
    shift: int = 2,
    first_share: float = 0.33,
    ema: float = 0.99,
    grad_clip: float = 1.0,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, dict[str, float]], None] = _silent,
    every: int = 100,
    state: dict[str, Any] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Trains `policy` (a torch module) in place for `steps` updates of `batch` samples and returns the state.

    The policy ends with the exponential moving average of its weights. Every `every` updates `progress` gets the
    mean loss (nats a token) and decisions/s, and `checkpoint` a state that, given back as `state`, continues the
    same run: batches are drawn from (`seed`, step), so an interrupted training equals an uninterrupted one.
    """
    module = _module(policy)
    optimiser = torch.optim.AdamW(_groups(module, weight_decay), lr=lr, betas=(0.9, 0.98), fused=True)
    average, first = _start(module, optimiser, demonstrations, state)
    labels = label_table(policy.spec.bins, label_sigma).to(next(module.parameters()).device)
    module.train()
    losses, since = [], time.perf_counter()
    for step in range(first, steps):
        _set_lr(optimiser, lr * schedule(step, warmup, steps))
        rng = np.random.default_rng((seed, step))
        sample = augment(demonstrations.draw(rng, batch, first_share), shift, rng)
        losses.append(_update(policy, optimiser, sample, labels, grad_clip))
        _average(average, module, min(ema, step / (step + 10)))
        if (step + 1) % every == 0 or step + 1 == steps:
            seconds = time.perf_counter() - since
            rate = len(losses) * batch / seconds
            progress(step + 1, {"loss": float(np.mean(losses)), "decisions_per_s": rate})
            losses, since = [], time.perf_counter()
            if checkpoint is not None:
                checkpoint(_state(module, average, optimiser, step + 1))
            if stop():
                break
    final = _state(module, average, optimiser, min(step + 1, steps) if first < steps else first)
    module.load_state_dict(average)
    module.eval()
    return final


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate at an update: linear warm-up, then half a cosine to zero."""
    rise = (step + 1) / (warmup + 1)
    fall = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
    return min(rise, fall)


def label_table(bins: int, sigma: float) -> Tensor:
    """Softened labels, float32 [bins, bins]: row b has Gaussian weights around bin b, summing to 1.

    Bins are ordered, so a near miss is a small mistake: `sigma` (in bins) says how small. It is also the spread
    that a perfectly trained policy samples with, and so the exploration that reinforcement learning starts from.
    """
    bin_numbers = torch.arange(bins, dtype=torch.float32)
    return torch.softmax(-0.5 * ((bin_numbers - bin_numbers[:, None]) / sigma) ** 2, dim=-1)


def cloning_loss(logits: Tensor, actions: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to softened labels, mean over the tokens of steps that exist.

    `logits` [N, C, D, bins]; `actions` [N, C, D] in [-1, 1]; `mask` [N, C]; `labels` from `label_table`.
    """
    tokens = ((actions.clamp(-1, 1) + 1) * ((len(labels) - 1) / 2)).round().long()
    likelihood = (labels[tokens] * logits).sum(dim=-1) - logits.logsumexp(dim=-1)
    return -(likelihood.mean(dim=-1) * mask).sum() / mask.sum().clamp(min=1)


def augment(sample: CloningBatch, shift: int, rng: np.random.Generator) -> CloningBatch:
    """Shifts each observation's frames by up to `shift` pixels either way, all cameras alike, edges repeated.

    (DrQ, Kostrikov et al. 2020. Pixels carry the geometry that actions need, so the shift must stay small.)
    """
    if shift == 0:
        return sample
    offsets = rng.integers(0, 2 * shift + 1, size=(len(sample.observations), 2))
    seen = sample.observations
    images = {name: _shifted(frames, offsets, shift) for name, frames in seen.images.items()}
    return CloningBatch(ObservationBatch(images, seen.proprio, seen.instructions), sample.actions, sample.mask)


def _shifted(frames: np.ndarray, offsets: np.ndarray, shift: int) -> np.ndarray:
    n, h, w, _ = frames.shape
    rows = np.clip(np.arange(h) + offsets[:, :1] - shift, 0, h - 1)
    columns = np.clip(np.arange(w) + offsets[:, 1:] - shift, 0, w - 1)
    return frames[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _update(
    policy: Policy, optimiser: torch.optim.Optimizer, sample: CloningBatch, labels: Tensor, grad_clip: float
) -> float:
    module = _module(policy)
    device = next(module.parameters()).device
    on_grid = getattr(policy, "on_grid", None)  # of a policy with tokens of its own: the actions by its scale
    wanted = sample.actions if on_grid is None else on_grid(sample.actions)
    actions, mask = torch.from_numpy(wanted).to(device), torch.from_numpy(sample.mask).to(device)
    logits = policy.evaluate(sample.observations, torch.zeros(actions.shape, dtype=torch.int64)).logits
    loss = cloning_loss(logits, actions, mask, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), grad_clip)
    optimiser.step()
    return float(loss.detach())


def _groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for matrices only: offsets, norms and single vectors have no scale to hold down."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    rest = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _start(
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    demonstrations: Demonstrations,
    state: dict[str, Any] | None,
) -> tuple[dict[str, Tensor], int]:
    """The averaged weights and the first step, of a fresh run or of the one in `state`."""
    if state is not None:
        module.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        device = next(module.parameters()).device
        return {name: tensor.to(device, copy=True) for name, tensor in state["average"].items()}, int(state["step"])
    normalise: Any = getattr(module, "normalise_proprio", None)  # a policy without proprioception has none
    if normalise is not None:
        std = demonstrations.proprio.std(axis=0)
        normalise(demonstrations.proprio.mean(axis=0), np.maximum(std, 0.05 * std.max() + 1e-6))
    return copy.deepcopy(module.state_dict()), 0


def _state(
    module: torch.nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer, step: int
) -> dict[str, Any]:
    parts = {"weights": module.state_dict(), "average": average, "optimiser": optimiser.state_dict()}
    return {"step": step, **copy.deepcopy(parts)}  # training goes on in the originals


@torch.no_grad()
def _average(average: dict[str, Tensor], module: torch.nn.Module, keep: float) -> None:
    for name, tensor in module.state_dict().items():
        average[name].lerp_(tensor, 1 - keep)


def _set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def _module(policy: Policy) -> torch.nn.Module:
    assert isinstance(policy, torch.nn.Module)
    return policy


def _labels(trajectory: Trajectory) -> np.ndarray:
    clean = getattr(trajectory, "expert_actions", None)
    return trajectory.actions if clean is None else clean


def _foreseeable(trajectory: Trajectory) -> np.ndarray:
    """For each step the first later one whose label answers unforeseeable noise, or the length; int [T].

    The label of a noisy step itself counts: the expert chose it before the noise came.
    """
    length = len(trajectory.actions)
    noisy = np.flatnonzero((trajectory.actions != _labels(trajectory)).any(axis=1))
    after = np.append(noisy + 1, length)
    return after[np.searchsorted(noisy, np.arange(length))]


def _check(trajectory: Trajectory, spec: PolicySpec) -> None:
    missing = [name for name in spec.cameras if name not in trajectory.images]
    if missing:
        raise ValueError(f"a trajectory has no camera {missing[0]!r} (it has {', '.join(trajectory.images)})")
    found = {
        "image size": (trajectory.images[spec.cameras[0]].shape[1:3], spec.image_size),
        "proprioception": (trajectory.proprio.shape[1], spec.proprio),
        "action dimension": (trajectory.actions.shape[1], spec.action_dim),
        "rows of images": (len(trajectory.images[spec.cameras[0]]), len(trajectory.actions)),
    }
    for name, (has, wanted) in found.items():
        if has != wanted:
            raise ValueError(f"a trajectory's {name} is {has}, the policy needs {wanted}")
