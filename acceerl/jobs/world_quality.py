"""What both models are worth on held-out episodes: frames at horizons, success, false endings, videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acceerl.config import Dreamer
from acceerl.jobs.world_endings import endings
from acceerl.protocols import SuccessModel, WorldModel, WorldSpec
from acceerl.roles.contexts import padded, start_of
from acceerl.stores.memory import Kept
from acceerl.types import EnvSpec
from acceerl.world_models.imagined import Imagination, history
from acceerl.world_models.quality import (
    changed_error,
    expected_calibration_error,
    precision_recall_area,
    psnr,
    ssim,
)
from acceerl.world_models.windows import advanced

HORIZONS = (1, 8, 32)  # control steps
BATCH = 32


@dataclass
class Quality:
    """Figures on held-out episodes. Frames are means over cameras and over every start row of a few an episode."""

    episodes: int
    psnr: dict[int, float] = field(default_factory=dict)  # dB by horizon
    ssim: dict[int, float] = field(default_factory=dict)
    changed_over_copying: dict[int, float] = field(default_factory=dict)  # by horizon
    changed_by_camera: dict[str, float] = field(default_factory=dict)  # at 8 control steps
    proprio_error: float = float("nan")  # mean absolute, at 8 control steps
    success_pr_auc: float = float("nan")
    success_pr_auc_dreamt: float = float("nan")  # on the model's own frames, one tick ahead
    calibration_error: float = float("nan")
    false_endings: float = float("nan")  # share of imagined episodes, along real actions, that end too early
    missed_endings: float = float("nan")  # share of real successes that their imagined episodes do not see
    threshold: float = 0.5  # of the probability, above which an imagined episode has succeeded
    temperature: float = 1.0


def written(quality: Quality) -> dict[str, Any]:
    """Flat names to numbers, for JSON."""
    flat: dict[str, Any] = {}
    for name, value in vars(quality).items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def measure(
    world: WorldModel, success: SuccessModel, spec: EnvSpec, episodes: Sequence[Kept], videos: Path, numbers: Dreamer
) -> Quality:
    """Calibrates the success model on these episodes, then measures both; writes some videos, real over imagined.

    The success model gets its threshold too (world_endings.py).
    """
    modules: list[Any] = [world, success]
    for module in modules:
        module.eval()
    quality = Quality(len(episodes))
    for horizon in HORIZONS:
        _frames_at(world, episodes, horizon, quality)
    _judged(world, success, episodes, quality)
    imagination = Imagination(world, success, spec, threshold=2.0, doubt=numbers.doubt)  # so that no dream ends early
    quality.threshold, quality.false_endings, quality.missed_endings = endings(imagination, episodes, videos)
    return quality


def _frames_at(world: WorldModel, episodes: Sequence[Kept], horizon: int, quality: Quality) -> None:
    """Predicts `horizon` control steps along real actions, from every fourth row that has so many after it."""
    starts = [(e, row) for e in episodes for row in range(0, e.steps - horizon + 1, 4) if _has(e, row, horizon)]
    scores: dict[str, list[tuple[float, float, float, float]]] = {c: [] for c in world.spec.cameras}
    bodies = []
    for i in range(0, len(starts), BATCH):
        some = starts[i : i + BATCH]
        images, proprio = _ahead(world, some, horizon)
        felt = np.stack([e.proprio[_row(e, r + horizon)] for e, r in some])
        bodies.append(np.abs(proprio - felt[:, : proprio.shape[1]]))
        weight = len(some) / len(starts)
        for c, frames in images.items():
            true, before = (_true(some, c, h) for h in (horizon, 0))
            seen = psnr(frames, true) * weight, ssim(frames, true) * weight
            scores[c].append((*seen, *changed_error(frames, true, before)))
    if not starts:
        return
    sums = {c: np.sum(rows, axis=0) for c, rows in scores.items()}
    shares = {c: float(s[2] / max(s[3], 1e-9)) for c, s in sums.items()}
    quality.psnr[horizon] = float(np.mean([s[0] for s in sums.values()]))
    quality.ssim[horizon] = float(np.mean([s[1] for s in sums.values()]))
    total = np.sum(list(sums.values()), axis=0)
    quality.changed_over_copying[horizon] = float(total[2] / max(total[3], 1e-9))
    if horizon == HORIZONS[1]:
        quality.changed_by_camera, quality.proprio_error = shares, float(np.concatenate(bodies).mean())


def _true(starts: Sequence[tuple[Kept, int]], camera: str, later: int) -> torch.Tensor:
    """Real frames so many control steps after the starts, uint8 [N, H, W, 3]."""
    return torch.from_numpy(np.stack([e.images[camera][_row(e, step + later)] for e, step in starts]))


def _has(episode: Kept, step: int, horizon: int) -> bool:
    """Are there frames at both ends?"""
    return step % episode.stride == 0 and (step + horizon) % episode.stride == 0


def _row(episode: Kept, step: int) -> int:
    return step // episode.stride


def _ahead(
    world: WorldModel, starts: Sequence[tuple[Kept, int]], horizon: int
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Frames and proprioception after `horizon` control steps of the episodes' own actions."""
    stride = world.spec.stride
    device = next(world.parameters()).device  # type: ignore[attr-defined]
    past = history([start_of(e, step, world.spec) for e, step in starts], world.spec, device)
    for first in range(0, horizon, stride):
        n = min(stride, horizon - first)
        actions = np.stack([padded(e.actions[step + first : step + first + n], stride) for e, step in starts])
        told = torch.from_numpy(actions).to(device)
        images, proprio = world.predict(past, told, torch.full((len(starts),), n, device=device))
        past = advanced(past, told, images, proprio)
    return {c: x.cpu() for c, x in images.items()}, proprio.cpu().numpy()


def _judged(world: WorldModel, success: SuccessModel, episodes: Sequence[Kept], quality: Quality) -> None:
    """Every real frame, and frames dreamt one tick ahead, against whether they show the instruction fulfilled."""
    logits, labels = [], []
    for e in episodes:
        frames = {c: torch.from_numpy(e.images[c]) for c in success.spec.cameras}
        logits.append(_logits(success, frames, _felt(e, success.spec), [e.instruction] * (e.rows + 1)))
        labels.append(np.arange(e.rows + 1) == (e.rows if e.success else -1))
    dreamt, shown = _dreamt_frames(world, success, episodes)
    scores, truth = torch.cat([*logits, dreamt]), np.concatenate([*labels, shown])
    calibrate = getattr(success, "calibrate", None)
    if calibrate is not None:
        quality.temperature = calibrate(scores, torch.from_numpy(truth))
    probabilities = torch.sigmoid(scores / quality.temperature).mean(dim=1).numpy()
    real = len(truth) - len(shown)
    quality.success_pr_auc = precision_recall_area(probabilities[:real], truth[:real])
    quality.success_pr_auc_dreamt = precision_recall_area(probabilities[real:], shown)
    quality.calibration_error = expected_calibration_error(probabilities, truth)


def _dreamt_frames(
    world: WorldModel, success: SuccessModel, episodes: Sequence[Kept]
) -> tuple[torch.Tensor, np.ndarray]:
    """Logits of frames dreamt one tick ahead, and labels: each episode's last one, and those of its other decisions."""
    stride, logits, truth = world.spec.stride, [], []
    for e in episodes:
        steps = [s for s in range(0, e.steps, stride) if s % e.stride == 0]
        starts = [start_of(e, s, world.spec) for s in steps]
        actions = np.stack([padded(e.actions[s : s + stride], stride) for s in steps])
        past = history(starts, world.spec, torch.device("cpu"))
        told = torch.from_numpy(actions)
        after = advanced(past, told, *world.predict(past, told))
        frames = {c: images[:, -1] for c, images in after.images.items()}
        logits.append(_logits(success, frames, after.proprio, [e.instruction] * len(steps)))
        truth.append(np.array([s == steps[-1] and e.success for s in steps]))
    return torch.cat(logits), np.concatenate(truth)


def _felt(episode: Kept, spec: WorldSpec) -> torch.Tensor:
    """Proprioception of the last K ticks at each row, float32 [rows + 1, K, P]; before the first row it is repeated."""
    back = spec.stride // episode.stride * np.arange(spec.context - 1, -1, -1)
    rows = np.arange(episode.rows + 1)[:, None] - back
    return torch.from_numpy(episode.proprio[np.maximum(rows, 0), : spec.proprio])


def _logits(
    success: SuccessModel, frames: dict[str, torch.Tensor], felt: torch.Tensor, words: list[str]
) -> torch.Tensor:
    own = getattr(success, "logits", None)
    if own is not None:
        return torch.as_tensor(own(frames, felt, words))
    p = success.probability(frames, felt, words).clamp(1e-6, 1 - 1e-6)
    return torch.log(p / (1 - p))
