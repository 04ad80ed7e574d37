"""Policy lag: how many versions old the decisions are that an update learns from. Nothing is dropped for it."""

from __future__ import annotations

import torch
from torch import Tensor

from acceerl.algo.ratio import masked_mean

FRESH = 2  # versions; the bounds that the AcceRL paper reports
STALE = 10


@torch.no_grad()
def lag_stats(versions: Tensor, current: int, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Lag of `versions` (int, any shape) behind version `current`, over the unmasked entries.

    Returns scalars: `lag` (mean, in versions), `lag_fresh` (share at most 2 old), `lag_stale` (share at least
    10 old).
    """
    lag = current - torch.as_tensor(versions)
    return {
        "lag": masked_mean(lag.float(), mask),
        "lag_fresh": masked_mean((lag <= FRESH).float(), mask),
        "lag_stale": masked_mean((lag >= STALE).float(), mask),
    }
