"""What a diffusion world model can be told, and the check that names a wrong value."""

from __future__ import annotations

from dataclasses import dataclass

from acceerl.protocols import WorldSpec

ROUNDING = ("nearest", "down")


@dataclass(frozen=True)
class Settings:
    """Sizes of the network, noise of its training, steps of its sampler. `DiffusionWorld` says what each one means."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    cond: int
    steps: int
    order: int
    churn: float
    sigma_min: float
    sigma_max: float
    rho: float
    sigma_data: float
    offset: float
    train_mean: float
    train_std: float
    train_max: float
    start: float
    rounding: str
    body: int
    ema: float

    def check(self, spec: WorldSpec) -> None:
        """Raises ValueError, naming the setting and the fix."""
        levels, sides = len(self.channels), spec.image_size
        for wrong, problem in (
            (not levels or levels != len(self.blocks), f"channels={self.channels} and blocks={self.blocks} must be "
             "lists of one length, a number a level"),
            (min(*self.channels, *self.blocks, self.body, self.steps) < 1, "channels, blocks, body and steps must be "
             "at least 1"),
            (any(side % 2 ** (levels - 1) for side in sides), f"images of {sides[0]} x {sides[1]} cannot be halved "
             f"{levels - 1} times: choose a size that {2 ** (levels - 1)} divides, or fewer levels"),
            (self.cond < 2 or self.cond % 2 or self.cond % spec.context, f"cond={self.cond} must be even and a "
             f"multiple of the context, {spec.context}"),
            (self.order not in (1, 2), f"order={self.order} must be 1 (Euler) or 2 (Heun)"),
            (not 0 < self.sigma_min <= self.sigma_max, f"sigma_min={self.sigma_min} must be above 0 and at most "
             f"sigma_max={self.sigma_max}"),
            (self.train_max < self.sigma_min, f"train_max={self.train_max} must be at least sigma_min"),
            (min(self.rho, self.sigma_data, self.train_std, self.start) <= 0, "rho, sigma_data, train_std and start "
             "must be above 0"),
            (min(self.churn, self.offset) < 0, "churn and offset must be at least 0"),
            (not 0 <= self.ema < 1, f"ema={self.ema} must be at least 0 and below 1"),
            (self.rounding not in ROUNDING, f"rounding={self.rounding!r} must be one of {', '.join(ROUNDING)}"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(f"world_model: {problem}")
