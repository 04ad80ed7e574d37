"""How good a world model's frames and a success model's answers are: pure functions over frames and scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CHANGED = 12  # grey levels of the largest channel, above which a pixel counts as changed


def psnr(predicted: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over frames uint8 [N, H, W, 3]; equal frames count as 60 dB."""
    errors = ((predicted.float() - true.float()) ** 2).mean(dim=(1, 2, 3)).clamp(min=255**2 * 1e-6)
    return float((10 * torch.log10(255**2 / errors)).mean())


def ssim(predicted: Tensor, true: Tensor, window: int = 7) -> float:
    """Structural similarity (Wang et al. 2004) with a uniform window, mean over frames uint8 [N, H, W, 3]."""
    a, b = (x.float().permute(0, 3, 1, 2) / 255 for x in (predicted, true))
    mean_a, mean_b = (F.avg_pool2d(x, window, 1) for x in (a, b))
    scale = window**2 / (window**2 - 1)  # unbiased, as in scikit-image
    var_a = scale * (F.avg_pool2d(a * a, window, 1) - mean_a**2)
    var_b = scale * (F.avg_pool2d(b * b, window, 1) - mean_b**2)
    both = scale * (F.avg_pool2d(a * b, window, 1) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def changed_error(predicted: Tensor, true: Tensor, before: Tensor) -> tuple[float, float]:
    """Sums of absolute errors over the pixels that changed since `before`: of the prediction, and of copying `before`.

    Frames are uint8 [N, H, W, 3]; the first over the second is the share of copying's error that is left.
    """
    truth, last = true.float(), before.float()
    changed = (truth - last).abs().amax(dim=-1) > CHANGED
    of_prediction = (predicted.float() - truth).abs().mean(dim=-1)[changed].sum()
    return float(of_prediction), float((last - truth).abs().mean(dim=-1)[changed].sum())


def precision_recall_area(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the precision-recall curve, as average precision: sum over recall steps of the precision there.

    Equal scores are one threshold. NaN when no label is true.

    >>> precision_recall_area(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.8333333333333333
    """
    positives = int(np.sum(labels))
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, last = np.cumsum(labels[order]), np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    precision, recall = hits[last] / (last + 1), hits[last] / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Mean distance of confidence from frequency over equal bins of probability, weighed by their counts."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(float(probabilities[place == b].mean() - labels[place == b].mean())) * float((place == b).mean())
            for b in range(bins) if (place == b).any()]  # fmt: skip
    return sum(gaps)
