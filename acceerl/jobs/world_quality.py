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
from acceerl.protocols import SuccessModel, WorldModel
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
from acceerl.world_models.windows import Ticks, advanced, asked

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
    success_pr_auc: float = float("nan")  # of decisions: does this one fulfil the instruction? Asked of real pasts
    success_pr_auc_every_step: float = float("nan")  # of control steps: is it this very one?
    success_pr_auc_dreamt: float = float("nan")  # of the ticks of whole imagined episodes, along real actions
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
    never = 2.0  # no probability exceeds it, so that no dream ends early
    imagination = Imagination(world, success, spec, threshold=never, doubt=numbers.doubt, lucky=False)
    found = endings(imagination, episodes, videos)
    quality.threshold, quality.false_endings, quality.missed_endings = found.threshold, found.false, found.missed
    quality.success_pr_auc_dreamt = precision_recall_area(found.probabilities, found.succeeded)
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
        images, path = world.predict(past, told, torch.full((len(starts),), n, device=device))
        past = advanced(past, told, images, path)
    return {c: x.cpu() for c, x in images.items()}, path[:, -1].cpu().numpy()


def _judged(world: WorldModel, success: SuccessModel, episodes: Sequence[Kept], quality: Quality) -> None:
    """Is the instruction fulfilled, and at which step? Asked of every tick from a decision on, whose past is real."""
    asked_of = [_tick(world, success, e) for e in episodes]
    logits, labels, counted = (list(column) for column in zip(*asked_of, strict=True))
    steps, truth = (torch.cat([x[c] for x, c in zip(rows, counted, strict=True)]) for rows in (logits, labels))
    calibrate = getattr(success, "calibrate", None)
    if calibrate is not None:
        quality.temperature = calibrate(steps, truth)
    each = [torch.sigmoid(x / quality.temperature).mean(dim=-1) * c for x, c in zip(logits, counted, strict=True)]
    whole = torch.cat([p.amax(dim=1) for p in each]).numpy()
    quality.success_pr_auc = precision_recall_area(whole, torch.cat([y.any(dim=1) for y in labels]).numpy())
    likely = torch.cat([p[c] for p, c in zip(each, counted, strict=True)]).numpy()
    quality.success_pr_auc_every_step = precision_recall_area(likely, truth.numpy())
    quality.calibration_error = expected_calibration_error(likely, truth.numpy())


def _tick(world: WorldModel, success: SuccessModel, e: Kept) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each decision of an episode: logits [T, S, M], which step fulfils the instruction, which happened [T, S]."""
    spec = world.spec
    begins = np.array([s for s in range(0, e.steps, spec.stride) if s % e.stride == 0])
    ends = np.minimum(begins + spec.stride, e.steps)
    past = history([start_of(e, s, spec) for s in begins], spec, torch.device("cpu"))
    told = torch.from_numpy(np.stack([padded(e.actions[a:b], spec.stride) for a, b in zip(begins, ends, strict=True)]))
    done = torch.from_numpy(ends - begins)
    _, path = world.predict(past, told, done)
    rows = np.minimum(-(-ends // e.stride), e.rows)
    after = {c: torch.from_numpy(e.images[c][rows]) for c in spec.cameras}
    shown, felt = asked(spec, past, after, path)
    won = torch.from_numpy(ends == e.steps) & e.success
    proprio, there = past.proprio[:, -1], torch.ones(len(begins))
    labels, counted = Ticks(told, done, after, proprio, there, won).truth(felt.shape[1] - spec.context)
    return _logits(success, shown, felt, [e.instruction] * len(begins)), labels, counted


def _logits(
    success: SuccessModel, frames: dict[str, torch.Tensor], felt: torch.Tensor, words: list[str]
) -> torch.Tensor:
    own = getattr(success, "logits", None)
    if own is not None:
        return torch.as_tensor(own(frames, felt, words))
    p = success.probability(frames, felt, words).clamp(1e-6, 1 - 1e-6)
    return torch.log(p / (1 - p))
