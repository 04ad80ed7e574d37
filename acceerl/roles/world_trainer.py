"""One update of a world and a success model: windows through both losses, one step of each optimiser. No links here.

The pretraining job and the world_model role train by it alike. Several ranks train one model together, each on
windows of its own draw, with gradients averaged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acceerl.channels.collective import Alone, Collective
from acceerl.protocols import History, SuccessModel, WorldModel
from acceerl.roles.gradients import share_state, sum_gradients
from acceerl.stores.clips import Clips
from acceerl.stores.memory import Memory
from acceerl.types import ClipBatch
from acceerl.world_models.counterfactuals import Questions, with_counterfactuals
from acceerl.world_models.windows import Ticks, asked, ticks

BODY_BATCH, BODY_LR, BODY_LR_LATER = 256, 2e-3, 2e-4  # from nothing, and beside the other models
SUCCESS_BATCH, SUCCESS_LR, SUCCESS_DECAY = 96, 5e-3, 0.1  # it would know a thousand episodes by heart
FINAL_SHARE = 0.2  # of the windows end with a success, which in most data one in forty does; as many just before one


@dataclass(frozen=True)
class Rates:
    """What the optimisers need."""

    lr: float
    weight_decay: float
    ema: float = 0.99
    grad_clip: float = 1.0


class WorldTrainer:
    """Both models, their optimisers, and the moving averages of their weights that others get to use.

    A model with a method `after_update` keeps an average of its own.
    """

    def __init__(
        self, world: WorldModel, success: SuccessModel, rates: Rates, seed: int, collective: Collective | None = None
    ) -> None:
        self.models: dict[str, Any] = {"world": world, "success": success}
        self.rates, self.seed, self.collective = rates, seed, collective or Alone()
        self.optimisers = {"world": _optimiser(self.models["world"], rates.weight_decay),
                           "success": _optimiser(self.models["success"], SUCCESS_DECAY)}  # fmt: skip
        if hasattr(world, "body_loss"):
            self.optimisers["body"] = torch.optim.AdamW(self.models["world"].parameters(), weight_decay=0.0)
        self.averages = {name: copy.deepcopy(model.state_dict()) for name, model in self.models.items()}
        self.updates = self.body_updates = 0

    @property
    def world(self) -> WorldModel:
        model: WorldModel = self.models["world"]
        return model

    @property
    def success(self) -> SuccessModel:
        model: SuccessModel = self.models["success"]
        return model

    def share(self) -> None:
        """Begins with rank 0's models on every rank."""
        for model in self.models.values():
            share_state(model, self.collective)

    def fit_body(self, motion: ClipBatch, updates: int) -> float:
        """A model with a method `body_loss` learns the law of its body before anything else, from windows without
        pictures: what it paints hangs on where the body is, and frames are too dear to learn that from. Returns the
        last loss."""
        law: Any = self.models["world"]
        optimiser = torch.optim.AdamW(law.parameters(), lr=BODY_LR, weight_decay=0.0)
        rng, loss = np.random.default_rng(self.seed), torch.zeros(())
        for step in range(updates):
            optimiser.param_groups[0]["lr"] = BODY_LR * (1 - step / updates)
            chosen = _chosen(motion, rng.integers(len(motion), size=BODY_BATCH))
            loss = law.body_loss(chosen, self._luck(rng))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        self.averages["world"] = copy.deepcopy(law.state_dict())
        return float(loss.detach())

    def fit_success(self, clips: Clips, updates: int) -> float:
        """The success model learns from true ticks before the world model paints any: to read words and look at places
        takes ten thousand successes, and painted ticks are too dear for that. Returns the last loss."""
        judge: Any = self.models["success"]
        optimiser = _optimiser(judge, SUCCESS_DECAY)
        rng, loss = np.random.default_rng((self.seed, 9)), torch.zeros(())
        judge.train()
        for self.updates in range(updates):  # what is drawn follows from it
            self._seed("success")
            loss, _ = self._success_loss(clips.draw(SUCCESS_BATCH, rng, FINAL_SHARE), dreamt=False)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # rank 0 alone: it shares what it has learnt
            self._stepped(judge, optimiser, SUCCESS_LR * (1 - self.updates / updates))
        self.updates = 0
        self.averages["success"] = copy.deepcopy(judge.state_dict())
        return float(loss.detach())

    def learn_body(self, motion: ClipBatch, lr_share: float = 1.0) -> None:
        """One step of the law alone, which is cheap: it follows what a policy does by many small ones."""
        law, optimiser = self.models["world"], self.optimisers["body"]
        optimiser.zero_grad(set_to_none=True)
        rng = np.random.default_rng((self.seed, self.body_updates, self.collective.rank))
        (law.body_loss(motion, self._luck(rng, len(motion))) / self.collective.size).backward()
        self._descend(law, optimiser, BODY_LR_LATER * lr_share)
        learnt = {name: p for name, p in law.named_parameters() if p.grad is not None}
        _average(self.averages["world"], learnt, self.rates.ema)
        self.body_updates += 1

    def _luck(self, rng: np.random.Generator, size: int = BODY_BATCH) -> Tensor:
        device = next(self.models["world"].parameters()).device
        return torch.from_numpy(rng.random(size, np.float32)).to(device)

    def update(self, windows: ClipBatch, lr_share: float = 1.0, dreamt: bool = True) -> dict[str, float]:
        """One step of both models; `dreamt`: the success model sees, every other time, what the world model painted."""
        figures = self._learn("world", lambda: self.world.loss(windows), lr_share)
        figures |= self.learn_success(windows, lr_share, dreamt and self.updates % 2 == 1)
        self.updates += 1
        return figures

    def learn_success(self, windows: ClipBatch, lr_share: float = 1.0, dreamt: bool = False) -> dict[str, float]:
        """One step of the success model alone: by true ticks, which cost a fifth of what painted ones do, it follows
        the failures that a policy invents."""
        return self._learn("success", lambda: self._success_loss(windows, dreamt), lr_share)

    def _learn(
        self, name: str, loss_of: Callable[[], tuple[Tensor, dict[str, float]]], lr_share: float
    ) -> dict[str, float]:
        self._seed(name)
        self.models[name].train()
        loss, told = loss_of()
        self.optimisers[name].zero_grad(set_to_none=True)
        (loss / self.collective.size).backward()
        return told | {f"{name}_grad_norm": self._step(name, lr_share)}

    def _seed(self, name: str) -> None:
        """What a model draws follows from the update's number, so that a resumed training equals an unbroken one."""
        reseed = getattr(self.models[name], "seed", None)
        if reseed is not None:
            reseed(self._number())

    def _number(self) -> int:
        numbers = (self.seed, self.updates, self.collective.rank)
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])

    def _step(self, name: str, lr_share: float) -> float:
        model = self.models[name]
        norm = self._descend(model, self.optimisers[name], self.rates.lr * lr_share)
        own = getattr(model, "after_update", None)
        if own is not None:
            own()
        keep = 0.0 if own else min(self.rates.ema, self.updates / (self.updates + 10))
        _average(self.averages[name], model.state_dict(), keep)
        return norm

    def _descend(self, model: nn.Module, optimiser: torch.optim.Optimizer, lr: float) -> float:
        """A step of what has a gradient on some rank; returns the gradient's norm."""
        sum_gradients([p for p in model.parameters() if p.requires_grad], self.collective)
        return self._stepped(model, optimiser, lr)

    def _stepped(self, model: nn.Module, optimiser: torch.optim.Optimizer, lr: float) -> float:
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), self.rates.grad_clip))
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        return norm

    def _success_loss(self, windows: ClipBatch, dreamt: bool) -> tuple[Tensor, dict[str, float]]:
        """On the ticks of the windows as the world model plays them, and on what did not happen in them.

        Ticks after the first begin with frames that are the world model's own, or with `dreamt` false with true ones.
        """
        spec, words = self.world.spec, list(windows.instructions)
        self.models["world"].eval()
        past, future = ticks(windows, spec, next(self.models["world"].parameters()).device)
        shown: list[dict[str, Tensor]] = []
        asking: list[tuple[Tensor, Tensor, Tensor]] = []
        for tick in future:
            images, path = self._played(past, tick, dreamt)
            frames, felt = asked(spec, past, images, path)
            shown.append(frames)
            asking.append((felt, *tick.truth(felt.shape[1] - spec.context)))
            past = tick.after(past, images, path if dreamt else tick.proprio[:, None])
        felt, labels, counted = (torch.cat(column) for column in zip(*asking, strict=True))
        happened = Questions(felt, words * len(future), labels, counted)
        asked_of = with_counterfactuals(happened, self._generator())
        images = {c: torch.cat([frames[c] for frames in shown]) for c in spec.cameras}
        return self.success.loss(images, asked_of.felt, asked_of.words, asked_of.labels, asked_of.counted)

    def _played(self, past: History, tick: Ticks, dreamt: bool) -> tuple[dict[str, Tensor], Tensor]:
        """The frames after a tick and the body's path through it: the world model's, or true frames and, of a model
        that draws luck, the path by the luck that came true."""
        relived = getattr(self.world, "relived", None)
        if not dreamt and relived is not None:
            return tick.images, relived(past, tick)
        images, path = self.world.predict(past, tick.actions, tick.executed)
        return (images if dreamt else tick.images), path

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._number())

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """The weights that others get to use."""
        return self.averages

    def state_dict(self) -> dict[str, Any]:
        return {
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "averages": self.averages,
            "updates": self.updates,
            "body_updates": self.body_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, model in self.models.items():
            model.load_state_dict(state["models"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.averages = copy.deepcopy(state["averages"])
        self.updates, self.body_updates = state["updates"], state["body_updates"]


def motion_of(memory: Memory, world: WorldModel) -> Clips | None:
    """Windows without pictures that show the body at every recorded step of a tick and at the ticks before it; None
    for a world model without a method `body_loss`, without a body to predict, or without an episode yet."""
    spec, fit = world.spec, Memory([episode for episode in memory.entries if episode.rows > 0])
    unit = math.lcm(*(episode.stride for episode in fit.entries))
    if not (hasattr(world, "body_loss") and spec.proprio and len(fit)) or spec.stride % unit:
        return None
    ahead = spec.stride // unit  # frames of a tick
    return Clips(fit, (spec.context - 1) * ahead + 1, ahead, spec.cameras, True, unit, pictures=False)


def drawn(
    recorded: Clips | None, live: Clips | None, recorded_share: float, size: int, rng: np.random.Generator
) -> ClipBatch:
    """A batch of windows of recorded and live episodes, of either alone where there are no others."""
    if recorded is None or live is None:
        only = recorded or live
        assert only is not None, "nothing to train on"
        return only.draw(size, rng, FINAL_SHARE)
    old = int(rng.binomial(size, recorded_share))
    parts = [clips.draw(count, rng, FINAL_SHARE) for clips, count in ((recorded, old), (live, size - old)) if count]
    return ClipBatch.joined(parts)


def _chosen(windows: ClipBatch, which: Any) -> ClipBatch:
    """Some of the windows, by a slice or by their numbers."""
    return ClipBatch(
        {c: x[which] for c, x in windows.images.items()},
        windows.proprio[which],
        windows.actions[which],
        windows.executed[which],
        windows.valid[which],
        windows.succeeded[which],
        tuple(np.array(windows.instructions, object)[which]),
    )


def _optimiser(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Decay for matrices only: offsets, norms and single vectors have no scale to hold down."""
    named = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in named if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], fused=True)


@torch.no_grad()
def _average(average: dict[str, Tensor], learnt: Mapping[str, Tensor], keep: float) -> None:
    for name, tensor in learnt.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - keep)
        else:
            average[name].copy_(tensor)
