"""The mathematics of learning: losses, advantages, batching. No I/O, no other rooms; start with `loss.total_loss`."""

from acceerl.algo.batch import SegmentBatch, micro_batches, shared
from acceerl.algo.gae import gae
from acceerl.algo.gipo import damped_share, gipo_loss
from acceerl.algo.lag import lag_stats
from acceerl.algo.loss import stat_names, total_loss
from acceerl.algo.normalise import LaggedNormaliser
from acceerl.algo.ppo import clipped_share, ppo_loss
from acceerl.algo.ratio import effective_sample_size, kl_k3

__all__ = [
    "LaggedNormaliser",
    "SegmentBatch",
    "clipped_share",
    "damped_share",
    "effective_sample_size",
    "gae",
    "gipo_loss",
    "kl_k3",
    "lag_stats",
    "micro_batches",
    "ppo_loss",
    "shared",
    "stat_names",
    "total_loss",
]
