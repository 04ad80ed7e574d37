"""The formulas of edm.py against EDM's own (Karras et al. 2022), written out one number at a time."""

import math

import numpy as np
import pytest
import torch

from acceerl.world_models.diffusion import edm


def normal(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [2e-3, 0.3, 5.0, 20.0])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_preconditioning_is_the_table(sigma, offset):
    factors = edm.preconditioning(torch.tensor([sigma], dtype=torch.float64), 0.5, offset)
    level = math.sqrt(sigma**2 + offset**2)
    assert factors.c_in.item() == pytest.approx(1 / math.sqrt(level**2 + 0.25))
    assert factors.c_skip.item() == pytest.approx(0.25 / (level**2 + 0.25))
    assert factors.c_out.item() == pytest.approx(level * 0.5 / math.sqrt(level**2 + 0.25))
    assert factors.c_noise.item() == pytest.approx(math.log(level) / 4)


def test_the_schedule_goes_from_high_to_low_to_zero():
    high, low, rho = 5 ** (1 / 7), 2e-3 ** (1 / 7), 7
    assert edm.schedule(3, 2e-3, 5.0, rho) == pytest.approx([5.0, ((high + low) / 2) ** 7, 2e-3, 0.0])
    assert edm.schedule(1, 2e-3, 5.0, rho) == pytest.approx([5.0, 0.0])


def test_training_levels_are_log_normal_and_clipped():
    levels = edm.training_levels(normal()((100_000,)), -0.4, 1.2, 2e-3, 20.0)
    assert levels.log().mean().item() == pytest.approx(-0.4, abs=0.02)
    assert levels.log().std().item() == pytest.approx(1.2, abs=0.02)
    extreme = edm.training_levels(torch.tensor([-99.0, 99.0]), -0.4, 1.2, 2e-3, 20.0)
    assert extreme.tolist() == pytest.approx([2e-3, 20.0])


def test_noise_has_its_level_and_an_offset_for_each_channel():
    noise = edm.add_noise(torch.zeros(500, 3, 8, 8), torch.full((500,), 2.0), 0.3, normal())
    assert noise.std().item() == pytest.approx(math.hypot(2.0, 0.3), rel=0.02)
    shifts = edm.add_noise(torch.zeros(500, 3, 8, 8), torch.zeros(500), 0.3, normal())
    assert shifts.std(dim=(2, 3)).max() == 0
    assert shifts[:, :, 0, 0].std().item() == pytest.approx(0.3, rel=0.1)


def test_target_and_denoised_are_inverse():
    clean, noisy = normal(1)((4, 3, 8, 8)), normal(2)((4, 3, 8, 8))
    factors = edm.preconditioning(torch.tensor(0.7, dtype=torch.float64), 0.5, 0.3)
    assert torch.allclose(edm.denoised(noisy, edm.target(clean, noisy, factors), factors), clean)


def test_the_target_has_unit_variance_at_every_level():
    clean = 0.5 * normal(1)((2000, 1, 4, 4))
    for sigma in (0.01, 0.5, 5.0):
        noisy = clean + sigma * normal(2)((2000, 1, 4, 4))
        factors = edm.preconditioning(torch.tensor(sigma, dtype=torch.float64), 0.5, 0.0)
        assert edm.target(clean, noisy, factors).std().item() == pytest.approx(1, rel=0.02)


def test_bytes_survive_the_round_trip_and_are_clamped():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(edm.to_bytes(edm.from_bytes(levels)), levels)
    assert edm.to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    between = torch.tensor([100.7 / 127.5 - 1])
    assert edm.to_bytes(between).item() == 101
    assert edm.to_bytes(between, down=True).item() == 100


def gaussian(noisy, sigma):
    """The best guess of data from N(0, 0.25) under noise: what a perfect network would say."""
    return noisy * 0.25 / (0.25 + sigma**2)


def exact(start, high):
    """Where EDM's ordinary differential equation takes `start` at level `high`, for such data."""
    return start * 0.5 / math.sqrt(0.25 + high**2)


@pytest.mark.parametrize(("order", "steps", "error"), [(1, 400, 2e-2), (2, 60, 3e-3)])
def test_the_sampler_solves_the_equation(order, steps, error):
    start = 5 * normal()((1, 1, 8, 8))
    found = edm.sample(gaussian, start, edm.schedule(steps, 2e-3, 5.0, 7), normal(), order)
    assert (found - exact(start, 5.0)).abs().max() < error


def test_heun_is_nearer_than_euler_at_equal_steps():
    start, sigmas = 5 * normal()((1, 1, 8, 8)), edm.schedule(10, 2e-3, 5.0, 7)
    errors = [(edm.sample(gaussian, start, sigmas, normal(), n) - exact(start, 5.0)).abs().max() for n in (1, 2)]
    assert errors[1] < errors[0] / 2


def test_churn_adds_noise_and_keeps_the_distribution():
    start, sigmas = 5 * normal()((1, 1, 100, 100)), edm.schedule(100, 2e-3, 5.0, 7)
    plain, churned = (edm.sample(gaussian, start, sigmas, normal(7), 2, churn) for churn in (0.0, 20.0))
    assert not torch.allclose(plain, churned, atol=0.1)
    assert churned.std().item() == pytest.approx(0.5, rel=0.05)
    assert edm.churned(1.0, 10, 1.0) == pytest.approx(1.1)
    assert edm.churned(1.0, 10, 99.0) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("churn", [0.0, 2.0])
def test_visited_names_every_level_that_is_asked_for(order, churn):
    asked, sigmas = [], edm.schedule(4, 2e-3, 5.0, 7)

    def denoise(noisy, sigma):
        asked.append(sigma)
        return gaussian(noisy, sigma)

    edm.sample(denoise, normal()((1, 1, 2, 2)), sigmas, normal(), order, churn)
    assert list(dict.fromkeys(asked)) == edm.visited(sigmas, order, churn)
    assert np.all(np.array(asked) > 0)
