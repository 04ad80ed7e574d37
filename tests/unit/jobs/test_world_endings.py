"""What counts as success in a dream, on a world that grows brighter and a success model that feels brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from acceerl.jobs.world_endings import Endings, endings
from acceerl.stores.memory import Kept
from acceerl.world_models.imagined import Imagination
from tests.unit.world_models.worlds import ENV, Brighter, Reading


class Deciding(Reading):
    """It can be told what counts as success."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))

    def decide(self, threshold: float) -> None:
        self.get_buffer("threshold").fill_(threshold)


def episode(shade: int, steps: int, success: bool) -> Kept:
    """Begins at a brightness; the dream of it ends `steps` 128ths brighter."""
    frames = np.full((steps + 1, 16, 16, 3), shade, np.uint8)
    body = np.full((steps + 1, 2), shade, np.float32)
    return Kept({"front": frames}, body, np.zeros((steps, 2), np.float32), 1, "go left", 0, 0, success, "test")


def judged(episodes: list[Kept], folder: Path) -> tuple[Endings, Deciding]:
    success = Deciding()
    return endings(Imagination(Brighter(), success, ENV, threshold=2.0), episodes, folder), success


def test_the_lowest_threshold_without_false_endings_is_chosen(tmp_path):
    good, bad = episode(90, 10, True), episode(60, 10, False)  # 100 / 128 at the end, one tick before it 98; 70 / 128
    found, success = judged([good, good, bad, bad], tmp_path)
    assert 98 / 128 <= found.threshold < 100 / 128, "an end before the last tick would be false too"
    assert (found.false, found.missed) == (0.0, 0.0)
    assert float(success.threshold) == np.float32(found.threshold)
    assert len(list(tmp_path.glob("imagined_*.mp4"))) == 4


def test_a_failure_that_looks_like_success_costs_missed_endings(tmp_path):
    good, liar = episode(90, 10, True), episode(95, 10, False)  # which ends at 105 / 128
    found, _ = judged([good, good, liar, liar], tmp_path)
    assert found.threshold >= 105 / 128
    assert (found.false, found.missed) == (0.0, 1.0)


def test_every_tick_has_a_probability_and_the_last_of_a_success_succeeded(tmp_path):
    found, _ = judged([episode(90, 5, True), episode(60, 4, False)], tmp_path)  # three ticks, and two
    assert (found.probabilities * 128).tolist() == [92, 94, 96, 62, 64]
    assert found.succeeded.tolist() == [False, False, True, False, False]


def test_a_dream_goes_by_what_the_success_model_was_told():
    success = Deciding()
    imagination = Imagination(Brighter(), success, ENV)
    assert imagination.threshold == 0.5
    success.decide(0.75)
    assert imagination.threshold == 0.75
    assert Imagination(Brighter(), success, ENV, threshold=0.9).threshold == 0.9
