"""The report of a made-up run: complete, self-contained, well-formed, and right about restarts, pauses and rates."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from acceerl.config import Config, from_dict
from acceerl.jobs import report
from acceerl.jobs.report import page, sections
from acceerl.jobs.report.charts import Chart, Line, labels, nice_ticks, short, svg, thin
from acceerl.jobs.report.costs import costs, guests_h
from acceerl.jobs.report.records import Records
from acceerl.jobs.success import wilson, write_table
from acceerl.runtime.rundir import Run
from tests.unit.jobs.runs import BEGAN, INSTRUCTIONS, line, make, results, span

MINUTES = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs"), minutes=MINUTES, videos=1)


@pytest.fixture(scope="module")
def html(run):
    assert report.run(run.path) == run.path / "report.html"
    return run.report.read_text()


@pytest.fixture(scope="module")
def records(run):
    return Records.read(run.metrics_folder)


VOID = {"meta", "source", "br", "path", "polygon", "link", "img"}


class Balance(HTMLParser):
    """Collects tags that close in the wrong order, and every address that a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_needs_nothing_from_outside(html):
    parser = Balance()
    parser.feed(html)
    assert not parser.wrong
    assert not parser.open
    assert parser.fetched
    assert all(address.startswith("data:video/mp4;base64,") for address in parser.fetched)
    assert not re.search(r"https?://|@import|url\(", html)


def test_every_drawing_is_valid_svg(html):
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) >= 20
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "nan" not in "".join(drawings)


def test_the_headline_is_before_and_after(run, html):
    before, after = (json.loads((run.path / "evaluation" / f"{x}.json").read_text()) for x in ("before", "after"))
    assert f"<b>{100 * before['success']:.1f}<small>" in html
    assert f"<b>{100 * after['success']:.1f}<small>" in html
    assert "intervals do not overlap" in html


def test_text_from_outside_is_escaped(html):
    assert "turn on the switch &lt;left&gt;" in html
    assert "<left>" not in html


def test_all_sections_are_there(html):
    for text in ("Policy lag", "Effective sample size", "KL(behaviour", "Control steps per second", "for inference",
                 "mean of tasks", INSTRUCTIONS[1], "sigma: 1.0", "1 torn lines"):  # fmt: skip
        assert text in html, text


def test_a_run_that_has_only_a_config_still_has_a_page(tmp_path):
    run = Run.create(Config(name="new", runs=str(tmp_path)))
    text = report.run(run.path).read_text()
    assert "No evaluation yet" in text
    assert "not started" in text


def test_evaluation_beside_training_is_shown_before_the_run_ends(tmp_path):
    run = Run.create(Config(name="going", runs=str(tmp_path)))
    for version, rate in ((100, 0.3), (20, 0.9)):
        write_table(results(rate, 0), INSTRUCTIONS, run.path / "evaluation" / f"version-{version:08d}.json")
    text = report.run(run.path).read_text()
    assert "so far · 200 episodes" in text
    newest = json.loads((run.path / "evaluation" / "version-00000100.json").read_text())
    assert f"<b>{100 * newest['success']:.1f}<small>" in text


def test_a_failed_run_says_why(tmp_path):
    run = Run.create(Config(name="bad", runs=str(tmp_path)))
    run.write_status({"state": "failed", "error": "learner[0] crashed <5> times", "attempt": 1})
    assert "learner[0] crashed &lt;5&gt; times" in report.run(run.path).read_text()


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run directory"):
        report.run(tmp_path)


def test_the_night_between_two_attempts_takes_no_time(records):
    assert records.duration == pytest.approx(MINUTES * 60, rel=0.03)


def test_totals_add_up_over_attempts_and_restarts(records):
    half = MINUTES * 30
    assert records.total("rollout", "env_steps") == pytest.approx(2 * half * 4 * 70)
    assert records.total("learner", "updates") == 2 * half / 4
    assert records.total("learner", "samples") == pytest.approx(2 * half * 16)


def test_rates_are_those_of_all_processes_together(records):
    for role, counter, rate in (("rollout", "env_steps", 280), ("learner", "updates", 0.25)):
        _, rates = records.rate(role, counter)
        assert np.median(rates) == pytest.approx(rate, rel=0.02)
        assert rates.min() >= 0


def test_a_restored_counter_makes_no_jump(records):
    _, rates = records.rate("learner", "updates")
    assert rates.max() < 0.5


def test_only_a_replaced_process_counts_as_restart(records):
    assert records.restarts("rollout", attempts=2) == 1
    assert records.restarts("learner", attempts=2) == 0


def test_torn_lines_are_counted_and_others_kept(tmp_path):
    good = line("rollout", 0, 1, 0, **span({"env_steps": 5}, {"x": None}, {"inference": 0.5}, 1))
    (tmp_path / "rollout.0.jsonl").write_text(good + good[:30] + "\n[1]\n" + '{"time": 1}\n' + good)
    records = Records.read(tmp_path)
    assert records.unreadable == 3
    assert records.total("rollout", "env_steps") == 5
    assert records.waited["rollout", "inference"] / records.seconds["rollout"] == 0.5


def test_a_learner_that_fell_back_to_its_checkpoint_does_not_count_backwards(tmp_path):
    rows = [(1, 10, 40), (1, 20, 80), (2, 30, 70), (2, 40, 110)]
    text = "".join(line("learner", 0, pid, at, **span({"updates": n}, {}, {}, 1)) for pid, at, n in rows)
    (tmp_path / "learner.0.jsonl").write_text(text)
    _, rates = Records.read(tmp_path).rate("learner", "updates", bins=4)
    assert rates.min() >= 0
    assert rates.max() == pytest.approx(4)


def test_rolling_success_equals_the_loop():
    rng = np.random.default_rng(0)
    x, won = np.arange(140.0), rng.random(140) < 0.4
    drawn = sections.rolling(x, won)
    for at, rate, low, high in zip(drawn.x, drawn.y, drawn.low, drawn.high, strict=True):
        seen = won[max(0, int(at) + 1 - sections.WINDOW) : int(at) + 1]
        assert rate == pytest.approx(seen.mean())
        assert (low, high) == pytest.approx(wilson(seen.sum(), len(seen)))
    assert drawn.x[-1] == 139


@pytest.mark.parametrize("episodes", [0, 1, 5])
def test_few_episodes_draw_little(episodes):
    drawn = sections.rolling(np.arange(float(episodes)), np.ones(episodes, bool))
    assert len(drawn.x) == min(episodes, 1)


def test_tasks_over_time_leave_blanks_where_nothing_was_played(tmp_path):
    events = [(0, 0, True), (100, 0, False), (55, 3, True)]
    text = "".join(line("learner", 0, 1, at, event="episode", task=t, success=s) for at, t, s in events)
    (tmp_path / "learner.0.jsonl").write_text(text)
    rates = sections.tasks_over_time(Records.read(tmp_path), columns=2)
    assert rates[0] == [1.0, 0.0]
    assert np.isnan(rates[3][0])
    assert rates[3][1] == 1.0


def test_videos_beyond_the_limit_are_named_not_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_VIDEO_BYTES", 10)
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path, size in zip(files, (8, 5), strict=True):
        path.write_bytes(b"x" * size)
    text = page.videos(files, {})
    assert text.count("<video") == 1
    assert "b.mp4" in text


def test_overlapping_intervals_are_called_that():
    before = {"success": 0.5, "low": 0.4, "high": 0.6, "episodes": 100}
    after = {"success": 0.55, "low": 0.45, "high": 0.65, "episodes": 100}
    assert "intervals overlap" in page.headline(before, after, True)
    assert "so far" in page.headline(before, after, False)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7), (0.001, 0.0013), (5, 5), (0, 0), (1e6, 3.3e6)])
def test_ticks_cover_the_data_with_few_round_numbers(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 8
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_neighbouring_ticks_never_read_the_same():
    for low, high in [(3.72, 3.735), (0, 9e-4), (-0.002, 0.0015), (1000, 1004), (0, 2.5e6), (-4, -1)]:
        texts = labels(nice_ticks(low, high))
        assert len(set(texts)) == len(texts), texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1.23M"), (25000, "25k"), (0.25, "0.25"), (-0.00012, "-1.2e-4"), (1e-5, "1e-5")],
)
def test_numbers_on_axes_are_short(value, text):
    assert short(value) == text


def test_charts_survive_gaps_single_points_and_constants():
    x = np.arange(5.0)
    for y in (np.array([1, np.nan, 2, 3, np.nan]), np.full(5, 2.0), np.array([np.nan, np.nan, 7, np.nan, np.nan])):
        text = svg(Chart("a < b", [Line(x, y)], "steps"))
        ElementTree.fromstring(text)
        assert "nan" not in text
    assert not Chart("empty", [Line(x, np.full(5, np.nan))], "steps")
    assert not Chart("empty", [Line(np.zeros(0), np.zeros(0))], "steps")


def test_thinning_keeps_means():
    line = thin(Line(np.arange(1000.0), np.arange(1000.0) * 2))
    assert len(line.x) <= 160
    assert np.allclose(line.y, 2 * line.x)


def test_time_is_zero_at_the_first_line(records):
    assert records.active(BEGAN) == pytest.approx(0, abs=10)


def test_cpu_and_gpu_hours_are_those_that_the_processes_of_a_role_held(records, html):
    """Four rollouts for 20 minutes; on the cluster learner and inference share one GPU, or have one each."""
    found = costs(Config(), records.seconds)
    assert found["rollout"].cpu_h == pytest.approx(4 * MINUTES / 60, rel=0.05)
    assert {cost.gpu_h for cost in found.values()} == {0.0}
    hour = {"learner": 3600.0, "inference": 3600.0, "rollout": 7200.0}
    one = from_dict({"launch": "slurm", "learner": {"threads": 4}, "placement": {"gpus": 1}})
    assert {role: (c.cpu_h, c.gpu_h) for role, c in costs(one, hour).items()} == {
        "learner": (4.0, 0.5), "inference": (1.0, 0.5), "rollout": (2.0, 0.0),
    }  # fmt: skip
    two = from_dict({"launch": "slurm", "placement": {"gpus": 2}})
    assert [costs(two, hour)[role].gpu_h for role in ("learner", "inference")] == [1.0, 1.0]
    assert "GPU-hours.</p>" in html and "hours of wall clock" in html


def test_the_hours_of_rollouts_that_joined_are_told_apart(records):
    two_of_four = from_dict({"rollout": {"processes": 2}})
    assert guests_h(two_of_four, records.lived) == pytest.approx(2 * MINUTES / 60, rel=0.05)
    assert guests_h(from_dict({"rollout": {"processes": 4}}), records.lived) == 0
