"""The readers that `bench store` compares; each reads the same windows and says how long that took."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from acceerl.bench import store_peer
from acceerl.stores.clips import Clips
from acceerl.stores.plain import PlainSequences
from acceerl.stores.reader import open_trajectories
from acceerl.stores.rows import inflate

Window = tuple[str, int]  # demo and first frame
START_S = 60.0


class Reader(Protocol):
    def seconds(self, windows: Sequence[Window]) -> float: ...

    def close(self) -> None: ...


class Ours:
    """`Clips`: images, proprioception and actions of every window."""

    def __init__(self, shard: Path, frames: int) -> None:
        self._trajectories = open_trajectories(shard)
        self._clips = Clips(self._trajectories, 1, frames - 1)
        self._first, total = {}, 0
        for entry in self._trajectories.entries:
            self._first[entry.demo] = total
            total += entry.rows + 2 - frames

    def seconds(self, windows: Sequence[Window]) -> float:
        indices = [self._first[demo] + start for demo, start in windows]
        began = time.perf_counter()
        for index in indices:
            self._clips.read([index])
        return time.perf_counter() - began

    def close(self) -> None:
        self._trajectories.close()


class Raw:
    """The decompressor alone: the windows' frames are in memory as the file has them."""

    def __init__(self, shard: Path, frames: int) -> None:
        self._trajectories, self._frames = open_trajectories(shard), frames
        self._number = {entry.demo: i for i, entry in enumerate(self._trajectories.entries)}

    def seconds(self, windows: Sequence[Window]) -> float:
        packed = [
            part
            for demo, start in windows
            for part in self._trajectories.packed(self._number[demo], start, start + self._frames)
        ]
        began = time.perf_counter()
        for size, content in packed:
            inflate(content, size)
        return time.perf_counter() - began

    def close(self) -> None:
        self._trajectories.close()


class Slices:
    """h5py as robomimic uses it, in this process."""

    def __init__(self, path: Path, frames: int, keys: Sequence[str]) -> None:
        self._sequences = PlainSequences(path, frames, keys)

    def seconds(self, windows: Sequence[Window]) -> float:
        began = time.perf_counter()
        for demo, start in windows:
            self._sequences.read(demo, start)
        return time.perf_counter() - began

    def close(self) -> None:
        self._sequences.__exit__(None, None, None)


class Peer:
    """robomimic's own data set, in the Python that has it. Raises ValueError when it does not start."""

    def __init__(self, python: str, path: Path, frames: int, keys: Sequence[str]) -> None:
        command = [python, str(store_peer.__file__), str(path), str(frames), ",".join(keys)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise ValueError(f"peer={python}: {error.strerror}: name a Python that has robomimic") from error
        if self._answer() != "ready":
            self.close()
            raise ValueError(f"peer={python}: robomimic does not start there: pip install robomimic")

    def seconds(self, windows: Sequence[Window]) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(windows)) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        """Its next line; whatever else its packages print is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready" or line[:1].isdigit():
                return line.strip()
        return ""

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
