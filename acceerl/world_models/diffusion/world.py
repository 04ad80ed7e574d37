"""`DiffusionWorld`: the WorldModel that samples the next frame, and how it is trained on its own mistakes.

The formulas stand in edm.py, the network in network.py and unet.py, proprioception in body.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acceerl.protocols import History, WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.diffusion import edm
from acceerl.world_models.diffusion.body import Body, between
from acceerl.world_models.diffusion.network import Network
from acceerl.world_models.diffusion.sampling import Sampler
from acceerl.world_models.diffusion.settings import Settings
from acceerl.world_models.parts import PRECISIONS, check_precision
from acceerl.world_models.windows import check


class Brain(nn.Module):
    """All that is trained: the denoiser, and the body where proprioception is predicted."""

    def __init__(self, spec: WorldSpec, settings: Settings) -> None:
        super().__init__()
        deeds = spec.stride * (spec.action_dim + 1)
        sizes = settings.channels, settings.blocks, settings.cond
        self.network = Network(3 * len(spec.cameras), spec.context, deeds, *sizes)
        self.body = Body(spec.proprio, spec.context, deeds, settings.body) if spec.proprio else None


class DiffusionWorld(nn.Module):
    """A WorldModel (see `protocols.WorldModel`) that denoises the next frame of all cameras together.

    Its size: `channels` and residual `blocks` of every level of the U-Net, `cond` numbers that condition it, `body`
    hidden units for proprioception. Its sampler: `steps` noise levels from `sigma_max` to `sigma_min`, spaced by `rho`,
    `order` 1 (Euler) or 2 (Heun), `churn`, from noise of deviation `start`; frames are rounded to the `nearest` grey
    level or `down`. Its training: images of deviation `sigma_data`, log-normal noise (`train_mean`, `train_std`, at
    most `train_max`) and `offset` noise, weights averaged with decay `ema`. `precision="bfloat16"` is faster where the
    processor has it, `compile` where a frame of one shape is sampled many times.
    Raises ValueError for settings that do not fit each other or the spec.
    """

    kind = "diffusion"

    def __init__(
        self,
        spec: WorldSpec,
        channels: Sequence[int] = (64, 64, 64, 64),
        blocks: Sequence[int] = (2, 2, 2, 2),
        cond: int = 256,
        steps: int = 3,
        order: int = 1,
        churn: float = 0.0,
        sigma_min: float = 2e-3,
        sigma_max: float = 5.0,
        rho: float = 7,
        sigma_data: float = 0.5,
        offset: float = 0.3,
        train_mean: float = -0.4,
        train_std: float = 1.2,
        train_max: float = 20.0,
        start: float = 1.0,
        rounding: str = "nearest",
        body: int = 256,
        ema: float = 0.999,
        precision: str = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._spec = spec
        self.settings = Settings(
            tuple(channels), tuple(blocks), cond, steps, order, churn, sigma_min, sigma_max, rho, sigma_data, offset,
            train_mean, train_std, train_max, start, rounding, body, ema,
        )  # fmt: skip
        self.settings.check(spec)
        check_precision(precision)
        plain = asdict(self.settings)
        self.kwargs: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        self.dtype = PRECISIONS[precision]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.brain = Brain(spec, self.settings)
            self.brain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.brain).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.sampler = Sampler(self.settings, self.dtype, compile)
        self.seed(seed)

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    def seed(self, seed: int) -> None:
        """Restarts the stream of random numbers of training and sampling."""
        self._seed = seed
        self._generator: torch.Generator | None = None

    def normalise_proprio(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Sets the scale of proprioception, float [P] each, `std` above 0; call once, before training."""
        for brain in (self.brain, self.average):
            if brain.body is not None:
                brain.body.get_buffer("mean").copy_(torch.as_tensor(mean))
                brain.body.get_buffer("std").copy_(torch.as_tensor(std))

    @torch.no_grad()
    def after_update(self) -> None:
        """Moves the average towards the weights: call after each optimiser step. The first steps count for more."""
        updates = self.get_buffer("updates").add_(1)
        decay = torch.clamp((updates + 1) / (updates + 10), max=self.settings.ema)
        for mean, weight in zip(self.average.parameters(), self.brain.parameters(), strict=True):
            mean.lerp_(weight, (1 - decay).to(mean.dtype))

    def loss(self, windows: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """See `protocols.WorldModel.loss`. Later frames of a window are predicted from the model's own earlier ones."""
        check(windows, self.spec)
        images = self._images({name: torch.from_numpy(windows.images[name]) for name in self.spec.cameras})
        felt = list(self._float(windows.proprio[..., : self.spec.proprio]).unbind(dim=1))
        actions, counted = self._float(windows.actions), self._float(windows.valid)
        whole = self._deeds(actions, None)
        coming = self._deeds(actions, torch.from_numpy(windows.executed).to(self._device))
        k, pixels, body = self.spec.context, [], []
        with torch.autocast(self._device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            for now in range(k - 1, len(images) - 1):
                deeds = torch.cat((whole[:, now - k + 1 : now], coming[:, now : now + 1]), dim=1)
                error, images[now + 1] = self._frame_error(images[now - k + 1 : now + 2], deeds)
                pixels.append(_mean(error, counted[:, now + 1]))
                if self.brain.body is not None:
                    guess = self.brain.body(torch.stack(felt[now - k + 1 : now + 1], dim=1), deeds)
                    body.append(_mean(self.brain.body.error(guess, felt[now + 1]), counted[:, now + 1]))
                    felt[now + 1] = guess.detach()
        losses = {"denoising": torch.stack(pixels).mean()}
        if body:
            losses["proprio"] = torch.stack(body).mean()
        return torch.stack(list(losses.values())).sum(), {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def predict(
        self, past: History, actions: Tensor, executed: Tensor | None = None, luck: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `protocols.WorldModel.predict`; its luck is the sampler's noise.

        By averaged weights in eval mode, by the present ones in train mode.
        """
        brain = self.brain if self.training else self.average
        before = self._deeds(past.actions.to(self._real), None)
        deeds = torch.cat((before, self._deeds(actions.to(self._real), executed)[:, None]), dim=1)
        seen = torch.cat(self._images({name: past.images[name] for name in self.spec.cameras}), dim=1)
        frame = self.sampler(brain.network, seen, deeds, self._draw).permute(0, 2, 3, 1)
        images = dict(zip(self.spec.cameras, frame.split(3, dim=-1), strict=True))
        if brain.body is None:
            return images, past.proprio.new_zeros(len(past), self.spec.stride, 0)
        now = past.proprio[:, -1].to(self._real)
        return images, between(now, brain.body(past.proprio.to(self._real), deeds), self.spec.stride, executed)

    def _frame_error(self, frames: Sequence[Tensor], deeds: Tensor) -> tuple[Tensor, Tensor]:
        """Error of each row at a random noise level, [N], and what the model makes of the noisy frame."""
        s, clean, network = self.settings, frames[-1], self.brain.network
        sigma = edm.training_levels(self._draw((len(clean),)), s.train_mean, s.train_std, s.sigma_min, s.train_max)
        noisy = edm.add_noise(clean, sigma, s.offset, self._draw)
        factors = edm.preconditioning(sigma, s.sigma_data, s.offset)
        wide = edm.Preconditioning(*(f[:, None, None, None] for f in factors))
        seen = network.see(torch.cat(tuple(frames[:-1]), dim=1) / s.sigma_data)
        output = network(noisy * wide.c_in, seen, network.styles(factors.c_noise, deeds)).to(clean.dtype)
        error = (output - edm.target(clean, noisy, wide)).square().mean(dim=(1, 2, 3))
        own = edm.to_bytes(edm.denoised(noisy, output.detach(), wide), s.rounding == "down")
        return error, edm.from_bytes(own, clean.dtype)

    def _images(self, frames: dict[str, Tensor]) -> list[Tensor]:
        """uint8 [N, K, H, W, 3] a camera -> K times [N, C, H, W] in [-1, 1], laid out channels-last."""
        stacked = torch.cat([f.to(self._device) for f in frames.values()], dim=-1)
        return list(edm.from_bytes(stacked, self._real).permute(0, 1, 4, 2, 3).unbind(dim=1))

    def _deeds(self, actions: Tensor, executed: Tensor | None) -> Tensor:
        """[..., S, D] and how many of each S are done -> [..., S * D + S]: actions, 0 where not done, and which are."""
        places = torch.arange(self.spec.stride, device=actions.device)
        done = places < (self.spec.stride if executed is None else executed[..., None])
        done = done.to(actions.dtype).expand(actions.shape[:-1])
        return torch.cat(((actions * done[..., None]).flatten(-2), done), dim=-1)

    def _float(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._real)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of the model's own stream."""
        if self._generator is None or self._generator.device != self._device:
            self._generator = torch.Generator(self._device).manual_seed(self._seed)
        return torch.randn(shape, generator=self._generator, device=self._device, dtype=self._real)

    @property
    def _device(self) -> torch.device:
        return self.brain.network.stem.weight.device

    @property
    def _real(self) -> torch.dtype:
        return self.brain.network.stem.weight.dtype


def _mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Of the rows that count; 0 when none does."""
    return (errors * weights).sum() / weights.sum().clamp(min=1)
