"""Meters: what their lines, events and snapshots hold."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from acceerl.protocols import Meter
from acceerl.runtime.metrics import ListMeter, NullMeter, RunMeter, TensorBoard


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_counters_rates_means_waits_and_memory(tmp_path):
    meter = RunMeter(tmp_path / "metrics" / "rollout.3.jsonl", "rollout", 3, every=60)
    meter.count("env_steps", 8)
    meter.count("env_steps", 8)
    meter.gauge("queue", 1)
    meter.gauge("queue", 4)
    meter.waiting("inference", 1e6)
    time.sleep(0.05)
    meter.close()
    (line,) = lines_of(tmp_path / "metrics" / "rollout.3.jsonl")
    assert (line["role"], line["index"]) == ("rollout", 3)
    assert line["counters"] == {"env_steps": 16}
    assert line["rates"]["env_steps"] == pytest.approx(16 / line["seconds"], rel=0.05)
    assert line["gauges"] == {"queue": 2.5}
    assert line["waiting"] == {"inference": 1.0}
    assert line["rss_mb"] > 1


def test_lines_come_every_few_seconds_and_each_covers_its_own_time(tmp_path):
    meter = RunMeter(tmp_path / "x.jsonl", "learner", 0, every=0.1)
    meter.gauge("loss", 1.0)
    meter.count("updates")
    time.sleep(0.35)
    meter.close()
    first, *others = lines_of(tmp_path / "x.jsonl")
    assert first["gauges"] == {"loss": 1.0}
    assert all(line["gauges"] == {} and line["rates"] == {"updates": 0.0} for line in others)
    assert all(line["counters"] == {"updates": 1} for line in others)


def test_snapshots_and_lines_do_not_take_from_each_other(tmp_path):
    meter = RunMeter(tmp_path / "x.jsonl", "learner", 0, every=60)
    meter.gauge("loss", 2.0)
    assert meter.snapshot()["gauges"] == {"loss": 2.0}
    assert meter.snapshot()["gauges"] == {}
    meter.close()
    assert lines_of(tmp_path / "x.jsonl")[0]["gauges"] == {"loss": 2.0}


def test_events_are_lines_of_their_own_and_strict_json(tmp_path):
    meter = RunMeter(tmp_path / "x.jsonl", "learner", 0, every=60)
    meter.event("episode", task=np.int64(3), success=True, loss=float("nan"))
    event = lines_of(tmp_path / "x.jsonl")[0]  # there at once: a kill loses nothing
    assert (event["event"], event["task"], event["success"], event["loss"]) == ("episode", 3, True, None)
    meter.close()


def test_no_count_is_lost_between_threads(tmp_path):
    meter = RunMeter(tmp_path / "x.jsonl", "learner", 0, every=0.01)
    threads = [threading.Thread(target=lambda: [meter.count("n") for _ in range(2_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.snapshot()["counters"] == {"n": 8_000}
    meter.close()


def test_the_doubles_are_meters_too():
    meter: Meter = NullMeter()
    meter.event("nothing", x=1)
    meter = listed = ListMeter()
    meter.gauge("loss", 1.0)
    meter.waiting("learner", 0.5)
    meter.event("episode", task=1)
    assert (listed.gauges["loss"], listed.waits["learner"]) == ([1.0], 0.5)
    assert listed.events == [{"event": "episode", "task": 1}]


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    board = TensorBoard(tmp_path)
    board.scalars({"learner/loss": 0.25}, step=7)
    board.close()
    (file,) = tmp_path.iterdir()
    events = [Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load()]
    assert [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value] == [(7, "learner/loss", 0.25)]
