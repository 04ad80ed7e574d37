"""Meters: where roles count, gauge and book their waits, and how that becomes JSONL and TensorBoard. Read `RunMeter`.

A process writes JSON lines (one every `every` seconds, and one per event); the same numbers go to the supervisor
with heartbeats (`snapshot`), which alone writes TensorBoard.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class _Window:
    """What was booked since one reader's last look: gauge sums and waits; each reader owns one."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.sums: dict[str, float] = defaultdict(float)
        self.numbers: dict[str, int] = defaultdict(int)
        self.waits: dict[str, float] = defaultdict(float)
        self.counters: dict[str, float] = {}  # their values when the window opened

    def report(self, counters: dict[str, float]) -> dict[str, Any]:
        seconds = max(time.monotonic() - self.began, 1e-6)
        return {
            "seconds": round(seconds, 3),
            "counters": dict(counters),
            "rates": {k: (v - self.counters.get(k, 0)) / seconds for k, v in counters.items()},
            "gauges": {k: total / self.numbers[k] for k, total in self.sums.items()},
            "waiting": {whom: min(1.0, waited / seconds) for whom, waited in self.waits.items()},
            "rss_mb": rss_mb(),
        }


class RunMeter:
    """The Meter of a real process: thread-safe, about a microsecond a call.

    A line holds cumulative `counters`, their `rates` per second, the mean of each gauge, the share of time
    spent `waiting` for each peer (all since the line before) and `rss_mb`. An event is a line with `event`.
    Each line names role, index and pid, so that a restart (counters begin again) can be told from a reset.
    """

    def __init__(self, path: Path, role: str, index: int, every: float = 10.0) -> None:
        self._who = {"role": role, "index": index, "pid": os.getpid()}
        self._lock = threading.Lock()
        self._counters: dict[str, float] = defaultdict(float)
        self._line, self._heartbeat = _Window(), _Window()
        self._closed = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)  # a line reaches the disk's cache whole, so a kill loses none
        self._writer = threading.Thread(target=self._write_lines, args=(every,), name="metrics", daemon=True)
        self._writer.start()

    def count(self, name: str, by: float = 1) -> None:
        with self._lock:
            self._counters[name] += by

    def gauge(self, name: str, value: float) -> None:
        with self._lock:
            for window in (self._line, self._heartbeat):
                window.sums[name] += float(value)
                window.numbers[name] += 1

    def waiting(self, whom: str, seconds: float) -> None:
        with self._lock:
            self._line.waits[whom] += seconds
            self._heartbeat.waits[whom] += seconds

    def event(self, name: str, **fields: Any) -> None:
        self._write({"event": name, **fields})

    def snapshot(self) -> dict[str, Any]:
        """The report since the last snapshot, as a dictionary to send with a heartbeat."""
        with self._lock:
            report = self._heartbeat.report(self._counters)
            self._heartbeat = self._next_window()
        return _finite(report)

    def close(self) -> None:
        """Writes the last line. Call it before `os._exit`, which runs no clean-up."""
        self._closed.set()
        self._writer.join(timeout=5)

    def _next_window(self) -> _Window:
        window = _Window()
        window.counters = dict(self._counters)
        return window

    def _write_lines(self, every: float) -> None:
        while not self._closed.wait(every):
            self._write_line()
        self._write_line()

    def _write_line(self) -> None:
        with self._lock:
            report = self._line.report(self._counters)
            self._line = self._next_window()
        self._write(report)

    def _write(self, fields: dict[str, Any]) -> None:
        line = {"time": round(time.time(), 3), **self._who, **fields}
        text = json.dumps(_finite(line), default=_plain)
        with self._lock:
            self._file.write(text + "\n")


class NullMeter:
    """A Meter that forgets."""

    def count(self, name: str, by: float = 1) -> None: ...

    def gauge(self, name: str, value: float) -> None: ...

    def waiting(self, whom: str, seconds: float) -> None: ...

    def event(self, name: str, **fields: Any) -> None: ...


class ListMeter:
    """A Meter that keeps everything in plain lists and dictionaries, for tests and serial runs.

    >>> meter = ListMeter(); meter.count("updates"); meter.gauge("loss", 0.5); meter.counters["updates"]
    1
    """

    def __init__(self) -> None:
        self.counters: dict[str, float] = defaultdict(int)
        self.gauges: dict[str, list[float]] = defaultdict(list)
        self.waits: dict[str, float] = defaultdict(float)
        self.events: list[dict[str, Any]] = []

    def count(self, name: str, by: float = 1) -> None:
        self.counters[name] += by

    def gauge(self, name: str, value: float) -> None:
        self.gauges[name].append(value)

    def waiting(self, whom: str, seconds: float) -> None:
        self.waits[whom] += seconds

    def event(self, name: str, **fields: Any) -> None:
        self.events.append({"event": name, **fields})


class TensorBoard:
    """Writes scalars to event files without loading torch or TensorFlow. One writer per run: the supervisor."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # slow to import

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        rows = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=rows)))

    def close(self) -> None:
        self._writer.close()


def rss_mb() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _finite(value: Any) -> Any:
    """NaN and infinity become null, since JSON has neither and one strict reader would drop the whole file."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """numpy scalars and paths, which the json module does not know."""
    return value.item() if hasattr(value, "item") else str(value)
