"""GIPO, PPO and the measures on ratios against the loops of slow.py."""

import math
from functools import partial

import pytest
import torch

from acceerl.algo import clipped_share, damped_share, effective_sample_size, gipo_loss, kl_k3, lag_stats, ppo_loss
from tests.unit.algo import slow

SHAPES = [(1, 1, 1), (3, 8, 7), (5, 2, 3), (7, 4, 7)]


def draw(shape, seed=0, spread=0.7):
    generator = torch.Generator().manual_seed(seed)
    logp = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    behaviour = logp + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    advantages = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[0, 0, 0] = True
    return logp, behaviour, advantages, mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_gipo_equals_the_loop(shape, sigma):
    logp, behaviour, advantages, mask = draw(shape)
    loss = gipo_loss(logp, behaviour, advantages[:, None, None], sigma=sigma, mask=mask)
    expected = slow.gipo(logp.tolist(), behaviour.tolist(), advantages.tolist(), sigma, mask.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_ppo_equals_the_loop(shape):
    logp, behaviour, advantages, mask = draw(shape)
    loss = ppo_loss(logp, behaviour, advantages[:, None, None], clip=0.2, mask=mask)
    expected = slow.ppo(logp.tolist(), behaviour.tolist(), advantages.tolist(), 0.2, mask.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_without_a_mask_every_token_counts():
    logp, behaviour, advantages, mask = draw((4, 3, 2))
    everything = torch.ones_like(mask)
    per_token = advantages[:, None, None]
    assert gipo_loss(logp, behaviour, per_token, sigma=1.0) == gipo_loss(
        logp, behaviour, per_token.expand_as(logp), sigma=1.0, mask=everything
    )
    assert ppo_loss(logp, behaviour, per_token, clip=0.2) == ppo_loss(
        logp, behaviour, per_token, clip=0.2, mask=everything
    )


def test_gipo_gradient_treats_the_weight_as_a_constant():
    logp, behaviour, advantages, mask = draw((4, 8, 7))
    logp.requires_grad_()
    gipo_loss(logp, behaviour, advantages[:, None, None], sigma=0.5, mask=mask).backward()
    ratio = (logp - behaviour).detach().exp()
    weight = torch.exp(-0.5 * (ratio.log() / 0.5) ** 2)
    expected = -(weight * ratio * advantages[:, None, None]) * mask / mask.sum()
    torch.testing.assert_close(logp.grad, expected)


def test_gipo_is_minus_the_mean_advantage_on_policy():
    logp, _, advantages, _ = draw((4, 8, 7))
    loss = gipo_loss(logp, logp.clone(), advantages[:, None, None], sigma=1.0)
    assert loss.item() == pytest.approx(-advantages.mean().item())


def test_no_gradient_reaches_the_behaviour_policy():
    logp, behaviour, advantages, _ = draw((2, 2, 2))
    logp.requires_grad_()
    behaviour.requires_grad_()
    (gipo_loss(logp, behaviour, advantages[:, None, None], sigma=1.0) + kl_k3(logp, behaviour)).backward()
    assert behaviour.grad is None
    assert logp.grad is not None


@pytest.mark.parametrize("loss", [partial(gipo_loss, sigma=1.0), partial(ppo_loss, clip=0.2)])
def test_masked_garbage_changes_neither_loss_nor_gradient(loss):
    clean, behaviour, advantages, mask = draw((3, 4, 2))
    dirty = torch.where(mask, clean, torch.nan)
    grads = []
    for logp in (clean, dirty):
        logp = logp.clone().requires_grad_()
        loss(logp, behaviour, advantages[:, None, None], mask=mask).backward()
        grads.append(logp.grad)
    torch.testing.assert_close(grads[0], grads[1])
    assert not grads[1][~mask].any()


def test_a_broken_ratio_stays_finite():
    logp = torch.tensor([[[0.0, -1.0]]], requires_grad=True)
    behaviour = torch.tensor([[[-500.0, -1.0]]])
    loss = gipo_loss(logp, behaviour, torch.ones(1, 1, 1), sigma=1.0) + kl_k3(logp, behaviour)
    loss.backward()
    assert loss.isfinite()
    assert logp.grad.isfinite().all()
    assert effective_sample_size(logp, behaviour).item() == pytest.approx(0.5)


def test_a_fully_masked_batch_is_zero():
    logp, behaviour, advantages, mask = draw((2, 2, 2))
    nothing = torch.zeros_like(mask)
    assert gipo_loss(logp, behaviour, advantages[:, None, None], sigma=1.0, mask=nothing) == 0
    assert effective_sample_size(logp, behaviour, nothing) == 0


def test_shapes_and_widths_that_make_no_sense_are_refused():
    logp, behaviour, advantages, _ = draw((5, 2, 3))
    with pytest.raises(ValueError, match=r"advantages .* does not broadcast"):
        gipo_loss(logp, behaviour, advantages, sigma=1.0)
    with pytest.raises(ValueError, match=r"mask .* does not broadcast"):
        ppo_loss(logp, behaviour, advantages[:, None, None], clip=0.2, mask=torch.ones(5))
    with pytest.raises(ValueError, match="sigma must be above 0"):
        gipo_loss(logp, behaviour, advantages[:, None, None], sigma=0.0)
    with pytest.raises(ValueError, match="clip must be above 0"):
        ppo_loss(logp, behaviour, advantages[:, None, None], clip=0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_kl_and_effective_sample_size_equal_the_loop(shape):
    logp, behaviour, _, mask = draw(shape)
    flat_mask = mask.flatten().tolist()
    kept = [slow.pick(x.flatten().tolist(), flat_mask) for x in (logp, behaviour)]
    assert kl_k3(logp, behaviour, mask).item() == pytest.approx(slow.kl_k3(*kept))
    assert effective_sample_size(logp, behaviour, mask).item() == pytest.approx(slow.effective_share(*kept))


def test_k3_estimates_the_true_kl():
    generator = torch.Generator().manual_seed(0)
    behaviour, policy = torch.randn(2, 16, generator=generator).log_softmax(-1)
    tokens = torch.multinomial(behaviour.exp(), 200_000, replacement=True, generator=generator)
    true = (behaviour.exp() * (behaviour - policy)).sum()
    assert kl_k3(policy[tokens], behaviour[tokens]).item() == pytest.approx(true.item(), rel=0.03)


def test_shares_count_tokens_beyond_the_bounds():
    ratios = torch.tensor([1.0, 1.1, 1.3, 0.7, 4.0, 0.2], dtype=torch.float64)
    logp, behaviour = ratios.log(), torch.zeros(6, dtype=torch.float64)
    beyond = sum(math.exp(-0.5 * math.log(r) ** 2) < 0.5 for r in ratios.tolist())
    assert damped_share(logp, behaviour, sigma=1.0).item() == pytest.approx(beyond / 6)
    assert clipped_share(logp, behaviour, clip=0.2).item() == pytest.approx(4 / 6)
    first_two = torch.tensor([1, 1, 0, 0, 0, 0])
    assert clipped_share(logp, behaviour, first_two, clip=0.2) == 0


def test_lag_counts_fresh_and_stale_versions():
    versions = torch.tensor([[10, 8, 7], [0, 99, 99]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    stats = {name: value.item() for name, value in lag_stats(versions, 10, mask).items()}
    assert stats == {"lag": pytest.approx(15 / 4), "lag_fresh": 0.5, "lag_stale": 0.25}
