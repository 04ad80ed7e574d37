"""PPO's clipped policy loss per action token, the objective that GIPO is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from acceerl.algo.ratio import expand, log_ratio, masked_mean


def ppo_loss(
    logp: Tensor, behaviour_logp: Tensor, advantages: Tensor, *, clip: float, mask: Tensor | None = None
) -> Tensor:
    """`-mean(min(r * A, clamp(r, 1 - clip, 1 + clip) * A))` (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    Shapes, mask and errors as in `gipo_loss`; `clip` must be above 0.
    """
    if clip <= 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    ratio = log_ratio(logp, behaviour_logp, mask).exp()
    advantages = expand(advantages, logp, "advantages")
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(surrogate, mask)


@torch.no_grad()
def clipped_share(logp: Tensor, behaviour_logp: Tensor, mask: Tensor | None = None, *, clip: float) -> Tensor:
    """Share of unmasked tokens whose ratio lies outside [1 - clip, 1 + clip]; a scalar."""
    ratio = log_ratio(logp, behaviour_logp, mask).exp()
    return masked_mean(((ratio - 1).abs() > clip).to(logp.dtype), mask)
