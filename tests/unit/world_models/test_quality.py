"""Measures of frames and answers against numbers by hand and against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from acceerl.world_models.quality import (
    changed_error,
    expected_calibration_error,
    precision_recall_area,
    psnr,
    ssim,
)


def noise(seed: int, n: int = 2, side: int = 10) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8))


def flat(*shades: int) -> torch.Tensor:
    return torch.tensor(shades, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)


def test_psnr_by_hand():
    assert psnr(flat(110), flat(100)) == pytest.approx(10 * math.log10(255**2 / 100))  # 28.13 dB
    assert psnr(flat(0), flat(255)) == pytest.approx(0.0)
    assert psnr(flat(7), flat(7)) == pytest.approx(60.0)
    assert psnr(flat(110, 7), flat(100, 7)) == pytest.approx((28.1308 + 60) / 2, abs=1e-3), "a mean over frames"
    assert psnr(flat(100), flat(110)) == psnr(flat(110), flat(100)), "bytes do not wrap round"


def slow_ssim(a: np.ndarray, b: np.ndarray, window: int = 7) -> float:
    """As scikit-image's structural_similarity(a, b, channel_axis=-1, data_range=1): every whole window, one by one."""
    values = []
    for y in range(a.shape[0] - window + 1):
        for x in range(a.shape[1] - window + 1):
            for channel in range(3):
                p, q = (i[y : y + window, x : x + window, channel].astype(float).ravel() / 255 for i in (a, b))
                both = np.cov(p, q)  # unbiased
                top = (2 * p.mean() * q.mean() + 1e-4) * (2 * both[0, 1] + 9e-4)
                values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (both[0, 0] + both[1, 1] + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_the_slow_one():
    a = noise(0)
    b = (a.float() * 0.8 + noise(1).float() * 0.2).round().to(torch.uint8)
    expected = np.mean([slow_ssim(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)])
    assert 0.5 < expected < 0.99
    assert ssim(a, b) == pytest.approx(expected, abs=1e-4)
    assert ssim(a, noise(2)) == pytest.approx(np.mean([slow_ssim(*p) for p in zip(a.numpy(), noise(2).numpy(),
                                                                                 strict=True)]), abs=1e-4)  # fmt: skip


def test_ssim_by_hand():
    assert ssim(noise(0), noise(0)) == pytest.approx(1.0)
    p, q = 100 / 255, 200 / 255  # without structure only the means count
    assert ssim(flat(100), flat(200)) == pytest.approx((2 * p * q + 1e-4) / (p * p + q * q + 1e-4), abs=1e-3)


def test_the_changed_error_counts_changed_pixels_only():
    before, true, predicted = (torch.full((1, 2, 2, 3), 100, dtype=torch.uint8) for _ in range(3))
    true[0, 0, 0] = 160  # changed by 60, predicted half way
    predicted[0, 0, 0] = 130
    true[0, 0, 1, 2] = 113  # one channel just above the threshold of 12, not predicted
    true[0, 1, 0] = 112  # just not changed
    predicted[0, 1, 1] = 0  # wrong, but where nothing changed
    error, copying = changed_error(predicted, true, before)
    assert (error, copying) == pytest.approx((30 + 13 / 3, 60 + 13 / 3))


def test_a_perfect_and_a_copied_frame():
    before, true = noise(0), noise(1)
    assert changed_error(true, true, before)[0] == 0
    error, copying = changed_error(before, true, before)
    assert error == copying > 0
    assert changed_error(noise(2), before, before) == (0, 0), "nothing changed"


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0], 1.0),
        ([0.9, 0.8, 0.7, 0.1], [0, 0, 0, 1], 1 / 4),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 1 / 2 + 1 / 2 * 2 / 3),  # the example of scikit-learn's manual: 0.83
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 1 / 4),  # all at one threshold, whatever their order
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1], 1 / 4),
        ([0.9, 0.5, 0.5, 0.5, 0.2], [1, 0, 1, 0, 1], 1 / 3 + 1 / 3 * 2 / 4 + 1 / 3 * 3 / 5),
        ([0.3, 0.2], [1, 1], 1.0),
    ],
)
def test_average_precision_by_hand(scores: list[float], labels: list[int], expected: float):
    order = np.random.default_rng(0).permutation(len(scores))
    for chosen in (np.arange(len(scores)), order):
        found = precision_recall_area(np.array(scores)[chosen], np.array(labels, bool)[chosen])
        assert found == pytest.approx(expected)


def test_average_precision_needs_a_success():
    assert math.isnan(precision_recall_area(np.array([0.5, 0.1]), np.array([False, False])))


def test_calibration_error_by_hand():
    probabilities, labels = np.array([0.05, 0.05, 0.95, 0.95, 1.0]), np.array([False, True, True, True, False])
    expected = abs(0.05 - 0.5) * 2 / 5 + abs(2.9 / 3 - 2 / 3) * 3 / 5  # 1.0 belongs to the last bin
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
