"""The whole objective of one micro-batch: fresh values, GAE, normalisation, policy loss, value loss, KL, entropy.

Values are recomputed in the very forward pass that trains (stale ones would bias the advantages of old data),
so everything after that pass happens here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acceerl.algo.batch import SegmentBatch
from acceerl.algo.gae import gae
from acceerl.algo.gipo import damped_share, gipo_loss
from acceerl.algo.lag import lag_stats
from acceerl.algo.normalise import LaggedNormaliser
from acceerl.algo.ppo import clipped_share, ppo_loss
from acceerl.algo.ratio import effective_sample_size, kl_k3, log_ratio, masked_mean
from acceerl.config import Algo
from acceerl.protocols import Evaluation


def total_loss(
    evaluation: Evaluation,
    batch: SegmentBatch,
    cfg: Algo,
    normaliser: LaggedNormaliser,
    *,
    version: int = 0,
    value_only: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`policy + value_coef * MSE + kl_coef * KL - entropy_coef * entropy` (AcceRL), times the batch's shares.

    Args:
        evaluation: of `policy.evaluate(batch.observations, batch.tokens)`.
        batch: on the same device.
        normaliser: gets this batch's advantages added; call its `step()` once per update.
        version: the policy version in training, for the lag.
        value_only: leaves the value loss alone (warm-up of the value head).
        generator: of the permutation when `cfg.shuffle_advantages`, a control in which nothing can be learned.

    Returns:
        The loss to call `backward()` on, to be summed over micro-batches and divided by nothing, and detached
        scalars on the device, already multiplied by the same shares: their sum is the whole batch's mean.
    """
    advantages, returns = advantages_and_returns(evaluation.values, batch, cfg)
    normaliser.add(advantages, batch.mask)
    normalised = batch.flat(torch.where(batch.mask, normaliser(advantages), 0.0))
    if cfg.shuffle_advantages:
        normalised = _shuffled(normalised, batch, generator)
    value_loss = masked_mean((batch.pad(evaluation.values) - returns) ** 2, batch.mask)
    terms = _policy_terms(evaluation, batch, normalised, cfg)
    loss = batch.decision_share * cfg.value_coef * value_loss
    if not value_only:
        loss = loss + batch.token_share * (
            terms["policy_loss"] + cfg.kl_coef * terms["kl"] - cfg.entropy_coef * terms["entropy"]
        )
    by_token = terms | _token_stats(evaluation, batch, cfg)
    by_decision = _decision_stats(evaluation, batch, advantages, returns, version) | {"value_loss": value_loss}
    stats = {name: batch.token_share * x.detach() for name, x in by_token.items()}
    stats |= {name: batch.decision_share * x.detach() for name, x in by_decision.items()}
    return loss, stats | {"loss": loss.detach()}


def stat_names(cfg: Algo) -> tuple[str, ...]:
    """The keys of `total_loss`' scalars, for a learner rank that has no batch and adds zeros to the others'."""
    damping = "damped_share" if cfg.loss == "gipo" else "clipped_share"
    by_token = ("policy_loss", "kl", "entropy", "ratio", "effective_sample_size", damping)
    by_decision = ("advantage", "return", "reward", "imagined_share", "value", "lag", "lag_fresh", "lag_stale")
    return (*by_token, *by_decision, "value_loss", "loss")


def advantages_and_returns(values: Tensor, batch: SegmentBatch, cfg: Algo) -> tuple[Tensor, Tensor]:
    """GAE on values [N] of a fresh forward pass; both results [B, T] without gradient, not yet normalised.

    With `algo.truncation=failure` nothing comes after a step limit; segments that are merely cut bootstrap.
    """
    values = values.detach().float()
    final = batch.terminated | batch.truncated if cfg.truncation == "failure" else batch.terminated
    return gae(
        batch.rewards,
        batch.pad(values),
        final,
        batch.truncated,
        batch.bootstrap(values),
        gamma=cfg.gamma,
        lam=cfg.lam,
        mask=batch.mask,
    )


def entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean entropy in nats of token distributions, logits [N, C, D, bins], mask [N, C, D]; a scalar."""
    logp = torch.log_softmax(logits.float(), -1)
    # a bin that is ruled out has log-probability -inf: bounded, it contributes 0 instead of 0 * inf
    finite = logp.clamp(min=torch.finfo(logp.dtype).min)
    return masked_mean(-(logp.exp() * finite).sum(-1), mask)


def _policy_terms(evaluation: Evaluation, batch: SegmentBatch, advantages: Tensor, cfg: Algo) -> dict[str, Tensor]:
    tokens = (evaluation.logp, batch.behaviour_logp)
    per_token, mask = advantages[:, None, None], batch.token_mask
    if cfg.loss == "gipo":
        policy_loss = gipo_loss(*tokens, per_token, sigma=cfg.sigma, mask=mask)
    else:
        policy_loss = ppo_loss(*tokens, per_token, clip=cfg.clip, mask=mask)
    # without a coefficient the entropy is only reported: no graph through all bins
    logits = evaluation.logits if cfg.entropy_coef else evaluation.logits.detach()
    return {"policy_loss": policy_loss, "kl": kl_k3(*tokens, mask), "entropy": entropy(logits, mask)}


def _shuffled(flat: Tensor, batch: SegmentBatch, generator: torch.Generator | None) -> Tensor:
    """[N] with the entries of decisions permuted among themselves; bootstrap rows stay 0."""
    rows = batch.rows[batch.mask]
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    result = flat.clone()
    result[rows] = flat[rows[order]]
    return result


@torch.no_grad()
def _token_stats(evaluation: Evaluation, batch: SegmentBatch, cfg: Algo) -> dict[str, Tensor]:
    tokens = (evaluation.logp.detach(), batch.behaviour_logp, batch.token_mask)
    ratio = masked_mean(log_ratio(*tokens).exp(), batch.token_mask)
    stats = {"ratio": ratio, "effective_sample_size": effective_sample_size(*tokens)}
    if cfg.loss == "gipo":
        return stats | {"damped_share": damped_share(*tokens, sigma=cfg.sigma)}
    return stats | {"clipped_share": clipped_share(*tokens, clip=cfg.clip)}


def _decision_stats(
    evaluation: Evaluation, batch: SegmentBatch, advantages: Tensor, returns: Tensor, version: int
) -> dict[str, Tensor]:
    imagined = batch.imagined[:, None].expand_as(batch.mask).float()
    means = {"advantage": advantages, "return": returns, "reward": batch.rewards, "imagined_share": imagined}
    means["value"] = batch.pad(evaluation.values.detach())
    stats = {name: masked_mean(x, batch.mask) for name, x in means.items()}
    return stats | lag_stats(batch.versions, version, batch.mask)
