"""The drills' arithmetic on runs that are written by hand: what it must find, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.drills.__main__ import DRILLS, typed
from tests.e2e.drills.curves import Rates, gaps, memory, success_break, update_times
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.whole import broken_files


def write(run: Path, role: str, lines: list[dict[str, Any]]) -> Path:
    (run / "metrics").mkdir(exist_ok=True, parents=True)
    who = {"role": role, "index": 0, "pid": 7}
    (run / "metrics" / f"{role}.0.jsonl").write_text("".join(json.dumps({**who, **line}) + "\n" for line in lines))
    return run


def episode(time: float, updates: int, success: bool = True) -> dict[str, Any]:
    return {"event": "episode", "time": time, "updates": updates, "success": success}


def test_the_longest_gap_between_updates_is_found(tmp_path: Path) -> None:
    """An update every second, seen through episodes every quarter; the update of second 5 comes two seconds late."""
    seen = [episode(t / 4, t // 4 if t < 20 or t >= 28 else 4) for t in range(40)]
    times = update_times(write(tmp_path, "learner", seen))
    assert times == [1, 2, 3, 4, 7, 8, 9]
    assert gaps(times, began=0, ended=10) == {"longest_gap_s": 3.0, "median_gap_s": 1.0}
    assert gaps(times, began=0, ended=20)["longest_gap_s"] == 11.0, "a learner that stops for good is the longest gap"


def test_throughput_is_back_when_a_whole_span_has_it() -> None:
    times = list(range(41))
    values = [10 * t if t <= 20 else 200 + 2 * (t - 20) if t <= 26 else 212 + 10 * (t - 26) for t in times]
    rates = Rates.of(times, values, span=4)
    assert rates.between(0, 16).tolist() == pytest.approx([10] * 16)
    assert rates.back_after(21, at_least=9, until=40) == 5
    assert rates.back_after(21, at_least=9, until=25) is None


def test_a_fall_of_success_is_told_from_noise(tmp_path: Path) -> None:
    even = [episode(t, t, t % 2 == 0) for t in range(400)]
    assert success_break(write(tmp_path / "even", "learner", even), [200]) < 1
    falling = [episode(t, t, t < 200) for t in range(400)]
    assert success_break(write(tmp_path / "falling", "learner", falling), [200]) > 10
    rising = [episode(t, t, t >= 200) for t in range(400)]
    assert success_break(write(tmp_path / "rising", "learner", rising), [200]) == 0


def test_a_leak_is_told_from_warming_up(tmp_path: Path) -> None:
    warming = [{"time": 10 * i, "rss_mb": 100 + min(i, 10)} for i in range(100)]
    [flat] = memory(write(tmp_path / "flat", "learner", warming), warm_up=120)
    assert (flat.name, flat.first_mb, flat.share) == ("learner.0", 110, 0) and abs(flat.fitted_share) < 1e-9
    leaking = [{"time": 10 * i, "rss_mb": 100 + 0.1 * i} for i in range(100)]
    [leak] = memory(write(tmp_path / "leak", "learner", leaking), warm_up=120)
    assert leak.slope_mb_per_min == pytest.approx(0.6) and leak.share > 0.05
    assert leak.fitted_share == pytest.approx(8.7 / leak.first_mb, rel=0.05)
    assert not memory(write(tmp_path / "short", "learner", warming[:20]), warm_up=120)


def test_a_torn_line_is_a_broken_file(tmp_path: Path) -> None:
    run = write(tmp_path, "learner", [episode(1, 1)])
    assert not broken_files(run)
    with (run / "metrics/learner.0.jsonl").open("a") as file:
        file.write('{"time": 2, "eve')
    (run / "checkpoints/ckpt-00000003").mkdir(parents=True)
    found = broken_files(run)
    assert len(found) == 2 and "learner.0.jsonl" in found[0] and "ckpt-00000003" in found[1]


def test_only_what_the_machine_cannot_slow_down_decides_a_test() -> None:
    outcome = Outcome("demo", {"seconds": 1.5, "unknown": None})
    outcome.check("fast", False, timed=True)
    assert outcome.failed() == [] and outcome.failed(timed=True) == ["fast"]
    outcome.nothing("whole", ["a.json: broken"])
    assert outcome.failed() == ["whole", "a.json: broken"]
    assert "BROKEN  fast" in outcome.text() and "demo.seconds" in outcome.text()


def test_the_command_line_takes_the_types_of_the_defaults() -> None:
    assert typed(DRILLS["rollouts"], {"minutes": "2", "seed": "3"}) == {"minutes": 2.0, "seed": 3}
    with pytest.raises(ValueError, match="no key minuets"):
        typed(DRILLS["rollouts"], {"minuets": "2"})
