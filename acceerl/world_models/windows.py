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
    images: dict[str, Tensor]  # camera -> uint8 [N, H, W, 3]
    proprio: Tensor  # float32 [N, P]
    valid: Tensor  # float32 [N]
    succeeded: Tensor  # bool [N], the last step that was executed fulfilled the instruction

    def after(self, past: History, images: dict[str, Tensor], path: Tensor) -> History:
        """The past of the next tick, when these frames followed."""
        return advanced(past, self.actions, images, path)

    def truth(self, steps: int) -> tuple[Tensor, Tensor]:
        """Which of the tick's `steps` fulfilled the instruction, and which happened, bool [N, steps] each.

        One step stands for the tick's end.
        """
        step = torch.arange(1, steps + 1, device=self.executed.device)
        last = self.executed.clamp(max=steps)[:, None]
        counted = (step <= last) & (self.valid > 0)[:, None]
        return (step == last) & self.succeeded[:, None] & counted, counted


def asked(spec: WorldSpec, past: History, images: dict[str, Tensor], path: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What a success model is asked about a tick: frames uint8 [N, H, W, 3] a camera, and `felt` [N, K + S, P].

    With a body it is shown the frames that the tick begins with: the body tells what becomes of them, and at which
    step, more exactly than small pictures do. Without one it is shown the frames after the tick.
    """
    if not spec.proprio:
        return {c: images[c] for c in spec.cameras}, past.proprio.new_zeros(len(past), spec.context + 1, 0)
    return {c: past.images[c][:, -1] for c in spec.cameras}, torch.cat([past.proprio, path], dim=1)


def advanced(past: History, actions: Tensor, images: dict[str, Tensor], path: Tensor) -> History:
    """The past, one tick later: `actions` [N, S, D] were done, these frames seen and the last row of `path` felt."""
    proprio = path[:, -1]
    return History(
        {c: torch.cat([frames[:, 1:], images[c][:, None]], dim=1) for c, frames in past.images.items()},
        torch.cat([past.proprio[:, 1:], proprio[:, None]], dim=1),
        torch.cat([past.actions, actions[:, None]], dim=1)[:, 1:],
    )


def ticks(windows: ClipBatch, spec: WorldSpec, device: torch.device) -> tuple[History, list[Ticks]]:
    """Splits windows at `spec.context` frames. Raises ValueError naming what does not fit."""
    check(windows, spec)
    images = {c: torch.from_numpy(windows.images[c]).to(device) for c in spec.cameras}
    proprio = torch.from_numpy(windows.proprio).float().to(device)[..., : spec.proprio]
    actions = torch.from_numpy(windows.actions).float().to(device)
    executed = torch.from_numpy(windows.executed).to(device)
    done = torch.arange(spec.stride, device=device) < executed[..., None]
    actions = actions * done[..., None]  # places that were not executed repeat an action
    valid = torch.from_numpy(windows.valid).float().to(device)
    succeeded = torch.from_numpy(windows.succeeded).to(device)
    k = spec.context
    past = History({c: x[:, :k] for c, x in images.items()}, proprio[:, :k], actions[:, : k - 1])
    return past, [
        Ticks(actions[:, t - 1], executed[:, t - 1].clamp(min=1), {c: x[:, t] for c, x in images.items()},
              proprio[:, t], valid[:, t], succeeded[:, t])
        for t in range(k, valid.shape[1])
    ]  # fmt: skip


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
