"""The `regression` world model: one step, cheap enough for a CPU. Read this to see the socket used.

A U-Net over the cameras of the last frames, all layers modulated (FiLM, Perez et al. 2018) by the body's state and the
actions of the tick. Each pixel is a mixture of the colour that it paints and of the same pixel in the last K frames, so
what stands still stays as it was, and what a gripper hid comes back from the frame that last showed it. Attention at
the coarsest level lets the cameras tell each other what only one of them sees. A small network of its own predicts
the body's path through the tick from the actions and a level of luck (law.py), and the painter is told that path. Its
coarsest features say which luck is likely: what only pictures tell, as whether there is something between the fingers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.protocols import History, WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.law import Law, bent, pinball
from acceerl.world_models.parts import PRECISIONS, Scaled, check_precision
from acceerl.world_models.windows import Ticks, ticks

Halves = tuple[Callable[..., Any], Callable[..., Any]]
POINTS = 6  # a camera
SCALE = 127.5
SEEN = 16  # channels of the coarsest grid, which foretell luck
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of luck: the middles of the ranges whose shares are foretold
MEDIAN = 0.5  # where no luck is drawn
SAME = 0.2  # deviations of the body's end, summed: levels of luck that end so near to each other are hard to tell apart
CHANGED = 0.1  # in [-1, 1] units: about what a person sees


class RegressionWorld(Scaled):
    """See `protocols.WorldModel`. Predicts the mean, so what it cannot know it blurs.

    `channels` of the finest grid, whose places are `patch` pixels a side, doubled at each of two coarser ones.
    `focus`: how much more an error counts where the true frame changes. `compile`: training runs through
    `torch.compile`, which takes minutes at the start. Raises ValueError for an image whose sides
    4 * patch does not divide.
    """

    kind = "regression"

    def __init__(
        self,
        spec: WorldSpec,
        patch: int = 4,
        channels: int = 48,
        blocks: int = 2,
        condition: int = 192,
        focus: float = 4.0,
        precision: str = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(spec.proprio)
        if patch < 1 or any(side % (4 * patch) for side in spec.image_size):
            raise ValueError(
                f"the regression world model needs images whose sides 4 * patch = {4 * patch} divides, not "
                f"{spec.image_size}: choose another world_model.patch"
            )
        check_precision(precision)
        self._spec, self.patch, self.precision, self.focus = spec, patch, precision, focus
        self.kwargs: dict[str, Any] = {
            "patch": patch, "channels": channels, "blocks": blocks, "condition": condition, "focus": focus,
            "precision": precision,
        }  # fmt: skip
        self._halves: Halves = (self._see, self._paint)
        self._compiled: Halves = (torch.compile(self._see), torch.compile(self._paint)) if compile else self._halves
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(spec, channels, blocks, condition)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what CPUs convolve fastest

    def _build(self, spec: WorldSpec, channels: int, blocks: int, condition: int) -> None:
        told = spec.context * spec.proprio + spec.stride * (spec.action_dim + 1) + (spec.context - 1) * spec.action_dim
        self.body = Law(spec)
        self.condition = nn.Sequential(
            nn.Linear(told + (spec.stride + 1) * spec.proprio, condition), nn.SiLU(),
            nn.Linear(condition, condition), nn.SiLU(),
        )  # fmt: skip
        pixels = 3 * len(spec.cameras) * self.patch**2
        height, width = (side // self.patch for side in spec.image_size)
        self.points = nn.Linear(condition, POINTS * len(spec.cameras) * 3)
        self.enter = nn.Conv2d(pixels * spec.context + POINTS * len(spec.cameras) * 3, channels, 1)
        widths = [channels, 2 * channels, 4 * channels]
        grids = [(height >> level, width >> level) for level in range(3)]
        self.places = nn.ParameterList(
            nn.Parameter(torch.randn(1, c, *g) * 0.1) for c, g in zip(widths, grids, strict=True)
        )
        self.down = nn.ModuleList(_stage(c, blocks, condition) for c in widths[:2])
        self.shrink = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:2])
        self.middle = _stage(widths[2], blocks, condition)
        self.mix = Mix(widths[2])
        self.foretell = nn.Sequential(
            nn.Conv2d(widths[2], SEEN, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(SEEN * grids[2][0] * grids[2][1], len(LEVELS)),
        )  # fmt: skip
        self.grow = nn.ModuleList(nn.Conv2d(2 * c, 4 * c, 1) for c in widths[:2])
        self.join = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in widths[:2])
        self.up = nn.ModuleList(_stage(c, blocks, condition) for c in widths[:2])
        sources = len(spec.cameras) * (spec.context + 1) * self.patch**2
        self.leave = nn.Conv2d(channels, pixels + sources, 1)

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    def loss(self, windows: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """See `protocols.WorldModel.loss`. Later ticks see the model's own frames, as in imagination."""
        device = self.get_buffer("proprio_mean").device
        past, future = ticks(windows, self._spec, device)
        pictures, luck = (torch.zeros((), device=device) for _ in range(2))
        for tick in future:
            sight = self._sight(past, tick.actions, tick.executed)
            path, end, shares = self._fitted(past, tick)
            frames = self._painted(sight, path, end)
            pictures = pictures + self._picture_loss(frames, past, tick)
            luck = luck + (_divergence(sight.omens, shares) * tick.valid).mean()
            past = tick.after(past, _bytes(frames.detach(), self._spec.cameras), self._unscaled(path))
        losses = {"picture_loss": pictures / len(future), "luck_loss": luck / len(future)}
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        return losses["picture_loss"] + losses["luck_loss"], figures

    def body_loss(self, windows: ClipBatch, luck: Tensor) -> Tensor:
        """The mean pinball loss of the body's own law, each window at its level `luck` [N], over the steps of a tick.

        The windows need no pictures, so thousands cost a moment. Their frames are every `u`-th control step, from the
        first frame of a context on to the end of a tick.
        """
        device, spec = self.get_buffer("proprio_mean").device, self._spec
        body = self._scaled(torch.from_numpy(windows.proprio).to(device)[..., : spec.proprio])
        ahead = spec.stride // windows.actions.shape[2]  # frames of the tick
        actions = torch.from_numpy(windows.actions).to(device)[:, -ahead:].flatten(1, 2)
        executed = torch.from_numpy(windows.executed).to(device)[:, -ahead:].sum(dim=1)
        path = self.body(body[:, :-ahead:ahead], actions, executed, luck)
        error = body[:, -ahead:] - path[:, windows.actions.shape[2] - 1 :: windows.actions.shape[2]]
        return pinball(error, luck).mean()

    @torch.no_grad()
    def predict(
        self, past: History, actions: Tensor, executed: Tensor | None = None, luck: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `protocols.WorldModel.predict`."""
        done = executed if executed is not None else torch.full((len(past),), self._spec.stride, device=actions.device)
        sight = self._sight(past, actions, done)
        drawn = _everywhere(MEDIAN, past) if luck is None else luck
        path = self._law(past, actions, done, bent(sight.omens.softmax(dim=1), drawn))
        return _bytes(self._painted(sight, path, path[:, -1]), self._spec.cameras), self._unscaled(path)

    @torch.no_grad()
    def relived(self, past: History, tick: Ticks) -> Tensor:
        """The body's path through a tick that happened, by the luck that came true, float32 [N, S, P]."""
        path, _, _ = self._fitted(past, tick)
        return self._unscaled(path)

    def _picture_loss(self, frames: Tensor, past: History, tick: Ticks) -> Tensor:
        """Absolute and squared errors in [-1, 1] units, of each camera's pixels that change and of those that do not.

        Both have a mean of their own: in a view that hardly changes the few pixels that do are what matters.
        """
        truth = _stacked(tick.images, self._spec.cameras)
        last = _stacked({c: past.images[c][:, -1] for c in self._spec.cameras}, self._spec.cameras)
        error = ((frames - truth).abs() + (frames - truth) ** 2).unflatten(1, (-1, 3)).mean(dim=2)
        changed = ((truth - last).abs().unflatten(1, (-1, 3)).amax(dim=2) > CHANGED).float()
        valid = tick.valid[:, None, None, None]
        moving, still = _mean(error, changed * valid), _mean(error, (1 - changed) * valid)
        return ((self.focus * moving + still) / (1 + self.focus)).mean()

    def _sight(self, past: History, actions: Tensor, executed: Tensor) -> Sight:
        told = self._told(past, actions, executed)
        path = self._law(past, actions, executed, _everywhere(MEDIAN, past))
        seen = torch.stack([past.images[c] for c in self._spec.cameras], dim=2)  # uint8 [N, K, M, H, W, 3]
        with torch.autocast(seen.device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            see, _ = self._compiled if self.training else self._halves  # batches of one size
            omens, *levels = see(seen, told, path)
        return Sight(seen, told, levels, omens.float())

    def _painted(self, sight: Sight, path: Tensor, end: Tensor) -> Tensor:
        """The next frames, cameras stacked, float32 [N, 3 M, H, W] in [-1, 1]. Where its true `end` [N, P] is known,
        that is what is painted by: so the painter never shows a grip that the body does not feel."""
        with torch.autocast(sight.seen.device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            _, paint = self._compiled if self.training else self._halves
            painted: Tensor = paint(sight.told, path, end, *sight.levels)
            return self._blend(painted.float(), sight.seen)

    @torch.no_grad()  # `body_loss` teaches the law, by windows without pictures, which come by thousands
    def _law(self, past: History, actions: Tensor, executed: Tensor, luck: Tensor) -> Tensor:
        """Where the actions take the body at each step, scaled [N, S, P]."""
        if not self._spec.proprio:
            return past.proprio[:, -1:].expand(-1, self._spec.stride, -1)
        path: Tensor = self.body(self._scaled(past.proprio), actions, executed, luck)
        return path

    def _fitted(self, past: History, tick: Ticks) -> tuple[Tensor, Tensor, Tensor]:
        """The path by the level of luck that ends nearest to the true end, that end [N, P], and how likely it makes
        each level, [N, L]: all alike where luck decides nothing. A tick that never happened ends by middling luck."""
        laws = [self._law(past, tick.actions, tick.executed, _everywhere(level, past)) for level in LEVELS]
        paths = torch.stack(laws, dim=1)
        middling = paths[:, len(LEVELS) // 2, -1]
        end = torch.where(tick.valid[:, None] > 0, self._scaled(tick.proprio), middling)
        off = (paths[:, :, -1] - end[:, None]).abs().sum(dim=-1)
        each = torch.arange(len(past), device=off.device)
        return paths[each, off.argmin(dim=1)], end, (-off / SAME).softmax(dim=1)

    def _told(self, past: History, actions: Tensor, executed: Tensor) -> Tensor:
        """Proprioception, the tick's actions and which of them are done, and the sums of earlier ticks' actions."""
        n = len(past)
        done = (torch.arange(self._spec.stride, device=actions.device) < executed[:, None]).float()
        earlier = past.actions.sum(dim=2).flatten(1) / self._spec.stride
        return torch.cat(
            [
                self._scaled(past.proprio).flatten(1),
                (actions * done[..., None]).flatten(1),
                done,
                earlier.reshape(n, -1),
            ],
            dim=1,
        )

    def _see(self, seen: Tensor, told: Tensor, path: Tensor) -> tuple[Tensor, ...]:
        """The way down, which is told where the body would go: what luck looks likely [N, L], and three levels' grids,
        the coarsest first."""
        condition = self._condition(told, path, path[:, -1])
        bytes_ = F.pixel_unshuffle(seen.permute(0, 1, 2, 5, 3, 4).flatten(1, 3), self.patch)  # bytes move fastest
        pixels = bytes_.to(PRECISIONS[self.precision]) * (1 / SCALE) - 1
        x = torch.cat([pixels, self._pointed(condition).to(pixels.dtype)], dim=1)
        x, kept = self.enter(x.contiguous(memory_format=torch.channels_last)), []
        for level, (stage, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            x = _run(stage, x + self.places[level], condition)
            kept.append(x)
            x = shrink(x)
        x = self.mix(_run(self.middle, x + self.places[2], condition))
        return self.foretell(x), x, *kept[::-1]

    def _paint(self, told: Tensor, path: Tensor, end: Tensor, x: Tensor, *kept: Tensor) -> Tensor:
        """The way up, by where the body does go: of each of M cameras three colours and K + 1 scores,
        [N, (4 + K) M, H, W]."""
        condition = self._condition(told, path, end)
        for level, fine in zip((1, 0), kept, strict=True):
            x = F.pixel_shuffle(self.grow[level](x), 2)
            x = _run(self.up[level], self.join[level](torch.cat([x, fine], dim=1)), condition)
        return F.pixel_shuffle(self.leave(x), self.patch)

    def _condition(self, told: Tensor, path: Tensor, end: Tensor) -> Tensor:
        condition: Tensor = self.condition(torch.cat([told, path.flatten(1), end], dim=1))
        return condition

    def _pointed(self, condition: Tensor) -> Tensor:
        """Where the body's parts will be in each picture, [N, 3 maps a point, h, w]: nearness, and signed distances.

        A convolution knows no place but by its borders, and the place of a gripper follows from its pose alone.
        """
        h, w = self.places[0].shape[2:]
        u, v, size = self.points(condition)[..., None, None].chunk(3, dim=1)
        x = torch.linspace(-1, 1, w, device=u.device) - u
        y = torch.linspace(-1, 1, h, device=u.device)[:, None] - v
        scale = F.softplus(size) + 0.1
        near = torch.exp(-((x / scale) ** 2 + (y / scale) ** 2))
        return torch.cat([near, near * x / scale, near * y / scale], dim=1)

    def _blend(self, painted: Tensor, seen: Tensor) -> Tensor:
        """Mixes what is painted with what was seen, by the scores; the last frame begins as the likeliest."""
        m, k = len(self._spec.cameras), self._spec.context
        scores = painted[:, 3 * m :].unflatten(1, (k + 1, m))
        favour = torch.zeros(k + 1, 1, 1, 1, device=scores.device)
        favour[-1] = 1.0
        shares = (scores + favour).softmax(dim=1)[:, :, :, None]  # [N, K + 1, M, 1, H, W]
        old = seen.permute(0, 1, 2, 5, 3, 4).float() * (1 / SCALE) - 1
        mixed = shares[:, 0] * painted[:, : 3 * m].unflatten(1, (m, 3)) + (shares[:, 1:] * old).sum(dim=1)
        return mixed.flatten(1, 2)


@dataclass(frozen=True, eq=False)
class Sight:
    """What the way down saw of a batch of ticks."""

    seen: Tensor  # uint8 [N, K, M, H, W, 3]
    told: Tensor  # float32 [N, T]
    levels: list[Tensor]  # the grids, the coarsest first
    omens: Tensor  # float32 [N, L], logits of the ranges of luck


class Film(nn.Module):
    """A residual block of two convolutions whose middle the condition scales and shifts."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, channels), channels)
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(condition, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.silu(self.norm(x) * (1 + scale) + shift))
        return x + self.second(F.silu(inner))


class Mix(nn.Module):
    """Attention over all places of a grid."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        heads = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).unflatten(-1, x.shape[2:])


def _everywhere(level: float, past: History) -> Tensor:
    """The same luck for all, float32 [N]."""
    return torch.full((len(past),), level, device=past.proprio.device)


def _divergence(logits: Tensor, shares: Tensor) -> Tensor:
    """Kullback and Leibler's, of logits from the true shares, [N, L] each -> [N]."""
    return F.kl_div(logits.log_softmax(dim=1), shares, reduction="none").sum(dim=1)


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over frames and places, [N, M, H, W] -> [M]."""
    return (error * weight).sum(dim=(0, 2, 3)) / weight.sum(dim=(0, 2, 3)).clamp(min=1)


def _stage(channels: int, blocks: int, condition: int) -> nn.ModuleList:
    return nn.ModuleList(Film(channels, condition) for _ in range(blocks))


def _run(stage: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    for block in stage:  # type: ignore[attr-defined]
        x = block(x, condition)
    return x


def _stacked(images: dict[str, Tensor], cameras: tuple[str, ...]) -> Tensor:
    """uint8 [N, H, W, 3] a camera -> float32 [N, 3 M, H, W] in [-1, 1]."""
    return torch.cat([images[c] for c in cameras], dim=-1).permute(0, 3, 1, 2).float() * (1 / SCALE) - 1


def _bytes(frames: Tensor, cameras: tuple[str, ...]) -> dict[str, Tensor]:
    """The inverse of `_stacked`, rounded to 8 bits."""
    pixels = ((frames + 1) * SCALE).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return {c: pixels[..., 3 * i : 3 * i + 3].contiguous() for i, c in enumerate(cameras)}
