"""Importance ratios of action tokens and what is measured on them; every loss here starts from `log_ratio`.

Tokens keep the shape of `logp`, usually [N, C, D] (decisions, control steps, action dimensions). A mask is
True where a token counts; it and the advantages may have any shape that broadcasts to `logp`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# exp(60) is finite in float32 and far beyond any ratio that should still teach something: the bound keeps one
# broken token from turning a whole update into NaN.
_MAX_LOG_RATIO = 60.0


def log_ratio(logp: Tensor, behaviour_logp: Tensor, mask: Tensor | None = None) -> Tensor:
    """log(policy / behaviour) per token, 0 (ratio 1, no gradient) where masked, whatever stands there."""
    difference = (logp - behaviour_logp.detach()).clamp(max=_MAX_LOG_RATIO)
    return difference if mask is None else torch.where(expand(mask.bool(), logp, "mask"), difference, 0.0)


def expand(small: Tensor, logp: Tensor, name: str) -> Tensor:
    """`small` broadcast to the shape of `logp`. Raises ValueError naming `small` when it does not fit."""
    try:
        return small.expand_as(logp)
    except RuntimeError:
        hint = "add trailing axes, as in advantages[:, None, None]"
        raise ValueError(f"{name} {list(small.shape)} does not broadcast to {list(logp.shape)}: {hint}") from None


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over unmasked entries, divided once by their number; 0 when every entry is masked."""
    if mask is None:
        return values.mean()
    mask = expand(mask.bool(), values, "mask")
    # where, not a product: a masked NaN times 0 would still be NaN
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def kl_k3(logp: Tensor, behaviour_logp: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(behaviour || policy) per token, estimated from the tokens that behaviour drew; a scalar with gradient.

    `r - 1 - log r` with `r = exp(logp - behaviour_logp)`: unbiased, never negative, and 0 for equal policies
    (Schulman 2020, "Approximating KL divergence", estimator k3).
    """
    ratio = log_ratio(logp, behaviour_logp, mask)
    return masked_mean(torch.expm1(ratio) - ratio, mask)


@torch.no_grad()
def effective_sample_size(logp: Tensor, behaviour_logp: Tensor, mask: Tensor | None = None) -> Tensor:
    """Kish's effective sample size as a share of the unmasked tokens: 1 on-policy, towards 0 when few dominate.

    `(sum r)^2 / (n * sum r^2)` (Kish 1965), in logarithms so that large ratios do not overflow. 0 when every
    token is masked.
    """
    ratio = log_ratio(logp, behaviour_logp, mask)
    kept = torch.ones_like(ratio, dtype=torch.bool) if mask is None else expand(mask.bool(), logp, "mask")
    ratio = torch.where(kept, ratio, -torch.inf).flatten()
    size = torch.exp(2 * torch.logsumexp(ratio, 0) - torch.logsumexp(2 * ratio, 0))
    return torch.nan_to_num(size) / kept.sum().clamp(min=1)
