"""Draws the next frame from a trained network, with nothing computed twice within a tick."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from acceerl.world_models.diffusion import edm
from acceerl.world_models.diffusion.network import Network
from acceerl.world_models.diffusion.settings import Settings
from acceerl.world_models.diffusion.unet import Modulation, Style


class Sampler:
    """From past and deeds to a frame; in bfloat16 the U-Net computes narrow, everything around it as it is."""

    def __init__(self, settings: Settings, dtype: torch.dtype, compile: bool) -> None:
        self.settings, self.dtype = settings, dtype
        self.sigmas = edm.schedule(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
        self.levels = edm.visited(self.sigmas, settings.order, settings.churn)
        self.step = torch.compile(_step) if compile else _step
        self._narrow: Network | None = None

    @torch.no_grad()
    def __call__(self, network: Network, past: Tensor, deeds: Tensor, draw: edm.Draw) -> Tensor:
        """`past` [N, K * C, H, W] in [-1, 1] and `deeds` [N, K, deeds] -> uint8 [N, C, H, W]."""
        s = self.settings
        factors, styles = self._prepared(network, deeds)
        worker = self._worker(network)
        dtype = worker.stem.weight.dtype
        seen = worker.see((past / s.sigma_data).to(dtype))

        def denoise(noisy: Tensor, sigma: float) -> Tensor:
            f = factors[sigma]
            output = self.step(worker, (noisy * f.c_in).to(dtype), seen, styles[sigma]).to(noisy.dtype)
            image = edm.denoised(noisy, output, f)
            return edm.from_bytes(edm.to_bytes(image, s.rounding == "down"), image.dtype)

        n, image, (h, w) = len(past), worker.head.out_channels, past.shape[2:]
        x = s.start * draw((n, image, h, w)).contiguous(memory_format=torch.channels_last)
        return edm.to_bytes(edm.sample(denoise, x, self.sigmas, draw, s.order, s.churn))

    def _prepared(
        self, network: Network, deeds: Tensor
    ) -> tuple[dict[float, edm.Preconditioning], dict[float, list[Style]]]:
        """EDM's factors and the U-Net's modulations at every level, from one pass."""
        n, sigma = len(deeds), torch.tensor(self.levels, dtype=deeds.dtype, device=deeds.device)
        factors = edm.preconditioning(sigma, self.settings.sigma_data, self.settings.offset)
        rows = factors.c_noise.repeat_interleave(n), deeds.repeat(len(self.levels), 1, 1)
        styles = network.styles(*rows)
        return (
            {level: edm.Preconditioning(*(f[i] for f in factors)) for i, level in enumerate(self.levels)},
            {level: [self._part(s, i * n, n) for s in styles] for i, level in enumerate(self.levels)},
        )

    def _part(self, style: Style, first: int, n: int) -> Style:
        one, two = (Modulation(*(self._cast(t[first : first + n]) for t in modulation)) for modulation in style)
        return one, two

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.dtype) if self.dtype == torch.bfloat16 else x

    def _worker(self, network: Network) -> Network:
        """The network in the sampler's precision. A narrow copy is filled anew each tick: never stale, and cheap."""
        if self.dtype != torch.bfloat16:
            return network
        weight = network.stem.weight
        if self._narrow is None or self._narrow.stem.weight.device != weight.device:
            self._narrow = deepcopy(network).requires_grad_(False).to(self.dtype)
        for ours, theirs in zip(self._narrow.parameters(), network.parameters(), strict=True):
            ours.copy_(theirs)
        return self._narrow


def _step(network: Network, noisy: Tensor, seen: Tensor, styles: list[Style]) -> Tensor:
    return network(noisy, seen, styles)
