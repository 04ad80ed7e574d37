"""Windows as world models train on them: the past that is looked back on, then tick after tick of what came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acceerl.protocols import History, WorldSpec
from acceerl.types import ClipBatch


@dataclass
class Ticks:
    """One tick of N windows: what was done, and what was seen afterwards."""

    actions: Tensor  # float32 [N, S, D]
    executed: Tensor  # int64 [N]
    ended: Tensor  # int64 [N], after how many steps the frames were seen: fewer where a success ended a whole tick
    images: dict[str, Tensor]  # camera -> uint8 [N, H, W, 3]
    proprio: Tensor  # float32 [N, P]
    valid: Tensor  # float32 [N]

    def after(self, past: History, images: dict[str, Tensor], proprio: Tensor) -> History:
        """The past of the next tick, when these frames followed."""
        return advanced(past, self.actions, images, proprio)


def advanced(past: History, actions: Tensor, images: dict[str, Tensor], proprio: Tensor) -> History:
    """The past, one tick later: `actions` [N, S, D] were done and these frames seen."""
    return History(
        {c: torch.cat([frames[:, 1:], images[c][:, None]], dim=1) for c, frames in past.images.items()},
        torch.cat([past.proprio[:, 1:], proprio[:, None]], dim=1),
        torch.cat([past.actions, actions[:, None]], dim=1)[:, 1:],
    )


def ticks(
    windows: ClipBatch, spec: WorldSpec, device: torch.device, decided: bool = False
) -> tuple[History, list[Ticks]]:
    """Splits windows at `spec.context` frames. Raises ValueError naming what does not fit.

    `decided`: most ticks that a success cut short are shown as a dream would see them, as a whole tick whose later
    actions (here those of another window) had no effect any more, since the episode was over.
    """
    check(windows, spec)
    images = {c: torch.from_numpy(windows.images[c]).to(device) for c in spec.cameras}
    proprio = torch.from_numpy(windows.proprio).float().to(device)[..., : spec.proprio]
    actions = torch.from_numpy(windows.actions).float().to(device)
    ended = executed = torch.from_numpy(windows.executed).to(device)
    if decided:
        actions, executed = _decided(actions, executed, torch.from_numpy(windows.succeeded).to(device)[:, 1:])
    done = torch.arange(spec.stride, device=device) < executed[..., None]
    actions = actions * done[..., None]  # places that were not executed repeat an action
    valid = torch.from_numpy(windows.valid).float().to(device)
    k = spec.context
    past = History({c: x[:, :k] for c, x in images.items()}, proprio[:, :k], actions[:, : k - 1])
    return past, [
        Ticks(actions[:, t - 1], executed[:, t - 1].clamp(min=1), ended[:, t - 1].clamp(min=1),
              {c: x[:, t] for c, x in images.items()}, proprio[:, t], valid[:, t])
        for t in range(k, valid.shape[1])
    ]  # fmt: skip


def _decided(actions: Tensor, executed: Tensor, succeeded: Tensor) -> tuple[Tensor, Tensor]:
    """Fills ticks that ended with success with what another window did there: three in four of them."""
    n, _, stride, _ = actions.shape
    chosen = succeeded & (executed > 0) & (torch.arange(n, device=actions.device) % 4 > 0)[:, None]
    undone = torch.arange(stride, device=actions.device) >= executed[..., None]
    filled = torch.where((chosen[..., None] & undone)[..., None], actions.roll(1, dims=0), actions)
    return filled, torch.where(chosen, stride, executed)


def check(windows: ClipBatch, spec: WorldSpec) -> None:
    missing = [c for c in spec.cameras if c not in windows.images]
    if missing:
        raise ValueError(f"the windows have no camera {missing[0]} (they have {', '.join(windows.images)})")
    if windows.valid.shape[1] <= spec.context:
        frames = windows.valid.shape[1]
        raise ValueError(f"windows of {frames} frames: the world model needs {spec.context} of context and one more")
    found = {
        **{f"frames of {c}": (windows.images[c].shape[2:4], spec.image_size) for c in spec.cameras},
        "action dimension": (windows.actions.shape[3], spec.action_dim),
        "control steps a tick": (windows.actions.shape[2], spec.stride),
        "proprioception": (min(windows.proprio.shape[2], spec.proprio), spec.proprio),
    }
    for name, (has, wanted) in found.items():
        if has != wanted:
            raise ValueError(f"the windows' {name}: {has}, the world model was made for {wanted}")
