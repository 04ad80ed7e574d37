"""GIPO, the policy loss made for stale data: a Gaussian in log-ratio damps tokens instead of clipping them."""

from __future__ import annotations

import torch
from torch import Tensor

from acceerl.algo.ratio import expand, log_ratio, masked_mean


def gipo_loss(
    logp: Tensor, behaviour_logp: Tensor, advantages: Tensor, *, sigma: float, mask: Tensor | None = None
) -> Tensor:
    """`-mean(w * r * A)` with `r = exp(logp - behaviour_logp)` and the detached weight `w` of `gipo_weight`.

    Unlike PPO's clip, a token that drifted keeps a gradient, only a smaller one, on both sides of 1
    (GIPO, arXiv 2603.03955).

    Args:
        logp: float [N, C, D] or any shape, log-probability of each token under the policy in training.
        behaviour_logp: same shape, under the policy version that chose the token; no gradient flows into it.
        advantages: broadcastable to `logp`, [N, 1, 1] for one advantage per decision.
        sigma: width in log-ratio; 1.0 on LIBERO, 0.5 elsewhere in the paper.
        mask: broadcastable to `logp`, True where the token counts; the mean is over these tokens.

    Raises ValueError when `sigma` is not above 0 or a shape does not broadcast.
    """
    ratio = log_ratio(logp, behaviour_logp, mask)
    surrogate = gipo_weight(ratio, sigma) * ratio.exp() * expand(advantages, logp, "advantages")
    return -masked_mean(surrogate, mask)


def gipo_weight(ratio: Tensor, sigma: float) -> Tensor:
    """`exp(-0.5 * (log r / sigma)^2)` of log-ratios of any shape, detached."""
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    return torch.exp(-0.5 * (ratio.detach() / sigma) ** 2)


def damped_share(logp: Tensor, behaviour_logp: Tensor, mask: Tensor | None = None, *, sigma: float) -> Tensor:
    """Share of unmasked tokens that GIPO damps to less than half (weight < 0.5); a scalar without gradient."""
    weight = gipo_weight(log_ratio(logp, behaviour_logp, mask), sigma)
    return masked_mean((weight < 0.5).to(logp.dtype), mask)
