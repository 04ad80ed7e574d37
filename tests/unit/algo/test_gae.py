"""GAE against the loop of slow.py: padding, truncation and termination told apart, cuts in the middle."""

import pytest
import torch

from acceerl.algo import gae
from tests.unit.algo import slow

GAMMA, LAM = 0.97, 0.9


def draw(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    flags = torch.rand(2, *shape, generator=generator) < 0.15
    bootstrap = torch.randn(shape[:-1], generator=generator, dtype=torch.float64)
    return rewards, values, flags[0], flags[1], bootstrap


@pytest.mark.parametrize("steps", [1, 2, 9, 64])
def test_one_segment_equals_the_loop(steps):
    args = draw((steps,), seed=steps)
    expected = slow.gae(*(x.tolist() for x in args), GAMMA, LAM)
    for result, wanted in zip(gae(*args, gamma=GAMMA, lam=LAM), expected, strict=True):
        torch.testing.assert_close(result, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(5))
def test_padded_segments_equal_the_loop_on_each(seed):
    rewards, values, terminated, truncated, bootstrap = draw((6, 12), seed)
    lengths = torch.randint(1, 13, (6,), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(12) < lengths[:, None]
    rewards, values = torch.where(mask, rewards, torch.nan), torch.where(mask, values, torch.nan)
    advantages, returns = gae(rewards, values, terminated, truncated, bootstrap, gamma=GAMMA, lam=LAM, mask=mask)
    for b, n in enumerate(lengths.tolist()):
        one = [x[b, :n].tolist() for x in (rewards, values, terminated, truncated)]
        expected = slow.gae(*one, bootstrap[b].item(), GAMMA, LAM)
        assert advantages[b, :n].tolist() == pytest.approx(expected[0])
        assert returns[b, :n].tolist() == pytest.approx(expected[1])
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def last(flag, steps=3):
    return torch.tensor([False] * (steps - 1) + [flag])


def test_truncation_bootstraps_and_termination_does_not():
    """The public AcceRL code bootstraps truncated segments with 0."""
    rewards, values, bootstrap = torch.zeros(3), torch.zeros(3), torch.tensor(10.0)
    no, yes = last(False), last(True)
    truncated, _ = gae(rewards, values, no, yes, bootstrap, gamma=GAMMA, lam=LAM)
    terminated, _ = gae(rewards, values, yes, no, bootstrap, gamma=GAMMA, lam=LAM)
    going_on, _ = gae(rewards, values, no, no, bootstrap, gamma=GAMMA, lam=LAM)
    assert truncated[-1].item() == pytest.approx(GAMMA * 10)
    torch.testing.assert_close(truncated, going_on)
    assert not terminated.any()


def test_terminated_and_truncated_at_once_counts_as_terminated():
    advantages, _ = gae(torch.ones(3), torch.zeros(3), last(True), last(True), torch.tensor(10.0), gamma=GAMMA, lam=LAM)
    assert advantages[-1] == 1.0


def test_a_terminated_segment_ignores_even_a_broken_bootstrap():
    advantages, _ = gae(
        torch.ones(3), torch.zeros(3), last(True), last(False), torch.tensor(torch.nan), gamma=GAMMA, lam=LAM
    )
    assert advantages.isfinite().all()


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_a_flag_in_the_middle_cuts_the_trace(kind):
    flags = {"terminated": torch.zeros(4, dtype=torch.bool), "truncated": torch.zeros(4, dtype=torch.bool)}
    flags[kind][1] = True
    values, bootstrap = torch.tensor([0.5, 0.25, 2.0, 1.0]), torch.tensor(3.0)
    before, _ = gae(torch.zeros(4), values, **flags, bootstrap=bootstrap, gamma=GAMMA, lam=LAM)
    after, _ = gae(torch.tensor([0.0, 0, 0, 100]), values, **flags, bootstrap=bootstrap, gamma=GAMMA, lam=LAM)
    torch.testing.assert_close(before[:2], after[:2])
    expected = -0.25 + (GAMMA * 2.0 if kind == "truncated" else 0.0)
    assert before[1].item() == pytest.approx(expected)


def test_with_lambda_one_the_return_is_the_discounted_sum():
    rewards = torch.tensor([1.0, 2.0, 3.0])
    none = last(False)
    _, returns = gae(rewards, torch.randn(3), none, none, torch.tensor(4.0), gamma=0.5, lam=1.0)
    assert returns[0].item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 4)


def test_results_carry_no_gradient():
    values = torch.zeros(3, requires_grad=True)
    results = gae(torch.ones(3), values, last(False), last(False), torch.tensor(0.0), gamma=GAMMA, lam=LAM)
    assert not any(r.requires_grad for r in results)


def test_shapes_that_do_not_fit_are_refused():
    flags = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="one value per segment"):
        gae(torch.zeros(2, 3), torch.zeros(2, 3), flags, flags, torch.zeros(3), gamma=GAMMA, lam=LAM)
    with pytest.raises(ValueError, match=r"values .* shape of rewards"):
        gae(torch.zeros(2, 3), torch.zeros(2, 4), flags, flags, torch.zeros(2), gamma=GAMMA, lam=LAM)
