"""LaggedNormaliser: last step's numbers, sums over micro-batches and ranks, save and load."""

import pytest
import torch

from acceerl.algo import LaggedNormaliser


def normalised(x, by):
    return (x - by.mean()) / (by.std(unbiased=False) + 1e-5)


def test_uses_the_step_before_and_its_own_batch_at_first():
    scales = torch.tensor([[1], [5], [2]])
    first, second, third = scales * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    normaliser = LaggedNormaliser()
    for now, by in ((first, first), (second, first), (third, second)):
        normaliser.add(now)
        torch.testing.assert_close(normaliser(now), normalised(now, by))
        normaliser.step()


def test_micro_batches_and_masks_add_up():
    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(1)) + 3
    mask = torch.rand(4, 10, generator=torch.Generator().manual_seed(2)) < 0.6
    whole, parts = LaggedNormaliser(), LaggedNormaliser()
    whole.add(x[mask])
    for row, keep in zip(torch.where(mask, x, torch.nan), mask, strict=True):
        parts.add(row, keep)
    whole.step()
    parts.step()
    torch.testing.assert_close(whole(x), parts(x))
    torch.testing.assert_close(whole(x), normalised(x, x[mask]))


def test_ranks_merge_by_sums():
    x = torch.randn(2, 30, generator=torch.Generator().manual_seed(3))
    ranks = [LaggedNormaliser(), LaggedNormaliser()]
    for rank, part in zip(ranks, x, strict=True):
        rank.add(part)
    total = ranks[0].sums + ranks[1].sums
    for rank in ranks:
        rank.step(total)
    torch.testing.assert_close(ranks[0](x), normalised(x, x))
    torch.testing.assert_close(ranks[0](x), ranks[1](x))


def test_a_saved_normaliser_goes_on():
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(4))
    normaliser, other = LaggedNormaliser(), LaggedNormaliser()
    normaliser.add(x[0])
    normaliser.step()
    normaliser.add(x[1])
    other.load_state_dict(normaliser.state_dict())
    for one in (normaliser, other):
        torch.testing.assert_close(one(x[2]), normalised(x[2], x[0]))
        one.step()
        torch.testing.assert_close(one(x[2]), normalised(x[2], x[1]))


def test_equal_advantages_do_not_explode():
    normaliser = LaggedNormaliser()
    normaliser.add(torch.full((10,), 0.1))
    normaliser.step()
    assert normaliser(torch.full((10,), 0.1)).abs().max() < 1e-3


def test_an_empty_step_keeps_the_numbers():
    normaliser = LaggedNormaliser()
    normaliser.add(torch.tensor([1.0, 3.0]))
    normaliser.step()
    normaliser.step()
    assert normaliser(torch.tensor([2.0])).item() == pytest.approx(0)


def test_asking_before_adding_is_refused():
    with pytest.raises(ValueError, match="no advantages yet"):
        LaggedNormaliser()(torch.zeros(3))
