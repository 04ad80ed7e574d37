"""Generalised advantage estimation over padded segments, with truncation told apart from termination."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    bootstrap: Tensor,
    *,
    gamma: float,
    lam: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns per decision, both without gradient and in the shape of `rewards`.

    `delta_t = r_t + gamma * V_{t+1} - V_t` and `A_t = delta_t + gamma * lam * A_{t+1}`, returns `A_t + V_t`
    (Schulman et al. 2016, arXiv 1506.02438, eq. 16). Termination sets `V_{t+1}` to 0; truncation does not,
    because the task could have gone on. Both cut the trace (`A_{t+1}` counts as 0).

    Args:
        rewards, values: float [T] or [B, T]; values of the observations that were decided on.
        terminated, truncated: bool (or 0/1) of the same shape, normally set at the last valid decision only.
            One in the middle takes the next row's value as that of the observation after it.
        bootstrap: float [] or [B], value of the observation after the last valid decision.
        gamma, lam: per decision.
        mask: bool, same shape, True at valid decisions; `bootstrap` enters after the last of them, and masked
            entries of both results are 0. What stands in masked rewards or values does not matter.

    Raises ValueError when shapes differ or `bootstrap` is not one value per segment.
    """
    bootstrap = torch.as_tensor(bootstrap, dtype=values.dtype, device=values.device)
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask.bool()
    _check(rewards, bootstrap, values=values, terminated=terminated, truncated=truncated, mask=mask)
    terminated, ended = terminated.bool(), terminated.bool() | truncated.bool()
    advantages = torch.zeros_like(values)
    next_value, trace = bootstrap, torch.zeros_like(bootstrap)
    for t in reversed(range(rewards.shape[-1])):
        valid, value = mask[..., t], values[..., t]
        future = torch.where(terminated[..., t], 0.0, gamma * next_value)
        advantage = rewards[..., t] + future - value + torch.where(ended[..., t], 0.0, gamma * lam * trace)
        advantages[..., t] = torch.where(valid, advantage, 0.0)
        # a padded decision passes on what it got, so the bootstrap reaches the last valid one
        next_value, trace = torch.where(valid, value, next_value), torch.where(valid, advantage, trace)
    return advantages, torch.where(mask, advantages + values, 0.0)


def _check(rewards: Tensor, bootstrap: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        if tensor.shape != rewards.shape:
            raise ValueError(f"{name} {list(tensor.shape)} must have the shape of rewards {list(rewards.shape)}")
    if bootstrap.shape != rewards.shape[:-1]:
        raise ValueError(
            f"bootstrap {list(bootstrap.shape)} must hold one value per segment, {list(rewards.shape[:-1])}"
        )
