"""Wilson intervals against published values and their own definition; the table in its three forms; videos."""

import json
import math

import imageio.v3 as iio
import numpy as np
import pytest

from acceerl.jobs.success import markdown, overall, table, wilson, write_table
from acceerl.jobs.video import side_by_side, write_video
from acceerl.types import EpisodeResult
from tests.unit.jobs.runs import film


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_examples(successes, episodes, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "episodes"), [(3, 10), (100, 200), (1, 1), (0, 1)])
def test_bounds_are_where_the_score_test_gives_in(successes, episodes):
    z, rate = 1.959964, successes / episodes
    for bound in wilson(successes, episodes):
        if 0 < bound < 1:
            assert (rate - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / episodes)


def test_without_episodes_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)
    assert math.isnan(overall([]))


RESULTS = [
    EpisodeResult(2, 100, True, 80, 5),
    EpisodeResult(0, 100, True, 90, 5),
    EpisodeResult(0, 101, False, 220, 5),
    EpisodeResult(2, 101, True, 100, 5),
]
INSTRUCTIONS = ["open | close", "unused", "push [bold]the cube"]


def test_rows_are_the_tasks_played_and_their_sum():
    rows = table(RESULTS, INSTRUCTIONS)
    assert [(r.task, r.episodes, r.successes, r.mean_steps) for r in rows] == [
        (0, 2, 1, 155.0), (2, 2, 2, 90.0), (None, 4, 3, 122.5)]  # fmt: skip
    assert rows[-1].rate == overall(RESULTS) == 0.75
    assert (rows[-1].low, rows[-1].high) == wilson(3, 4)


def test_the_table_is_printed_and_written(tmp_path, capsys):
    write_table(RESULTS, INSTRUCTIONS, tmp_path / "evaluation" / "after.json")
    printed = capsys.readouterr().out
    assert "push [bold]the cube" in printed
    assert "75.0 %" in printed
    data = json.loads((tmp_path / "evaluation" / "after.json").read_text())
    assert (data["success"], data["episodes"], data["version"]) == (0.75, 4, 5)
    assert [row["task"] for row in data["tasks"]] == [0, 2]
    assert data["results"][0]["init_state"] == 100
    assert "open \\| close" in (tmp_path / "evaluation" / "after.md").read_text()


def test_no_results_make_an_empty_table_of_valid_json(tmp_path):
    write_table([], INSTRUCTIONS, tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text())["success"] is None


def test_markdown_columns_line_up():
    lines = markdown(table(RESULTS, ["a", "b", "c"])).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 3


def test_a_video_plays_back_with_caption_and_outcome(tmp_path):
    path = tmp_path / "videos" / "one.mp4"
    write_video(path, film(10), fps=20, instruction="push the cube " * 8, outcome="success")
    frames = iio.imread(path, plugin="FFMPEG")
    assert len(frames) == 10 + 20
    assert iio.immeta(path, plugin="FFMPEG")["fps"] == 20
    below = frames[:, 260:]
    assert (below[5].max(), below[5].min()) > (150, 0)  # ink
    green = below[-1].astype(int)[..., 1] - below[-1].astype(int)[..., 0]
    assert green.max() > 60  # the outcome, at the end only
    assert (below[5].astype(int)[..., 1] - below[5].astype(int)[..., 0]).max() < 40
    assert [p.name for p in path.parent.iterdir()] == ["one.mp4"]


def test_plain_frames_need_no_caption(tmp_path):
    write_video(tmp_path / "plain.mp4", [np.full((31, 33, 3), 90, np.uint8)] * 3, fps=10)
    assert iio.imread(tmp_path / "plain.mp4", plugin="FFMPEG").shape[-1] == 3


def test_cameras_of_unequal_size_stand_side_by_side():
    shot = {"front": np.full((64, 64, 3), 200, np.uint8), "wrist": np.full((32, 48, 3), 100, np.uint8)}
    whole = side_by_side(shot)
    assert whole.shape == (256, 256 + 8 + 192, 3)
    assert whole[0, 0, 0] == 200
    assert whole[0, -1, 0] == 100


def test_no_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "none.mp4", [])
    assert not list(tmp_path.iterdir())
