"""The replay's disk: an append-only log of segments, written by a thread; read this for the record format.

A folder of `log-<k>.bin` files, each begun by one process and never appended to by another. A record is a length,
a JSON header of that length, the arrays one after another, and the CRC32 of header and arrays. An id is
`k << 40 | offset`, so that finding a segment needs no index.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from acceerl.types import Assignment, Segment

OFFSET_BITS = 40
LOG_BYTES = 64 << 20  # a log is removed as a whole, so logs are small beside a replay
QUEUE_SEGMENTS = 256
DEADLINE_S = 120.0
SLOW = f"waited {DEADLINE_S:.0f} s for this disk: it hangs or is too slow; choose another, or set replay=drop"
NUMBER = struct.Struct("<I")
FACTS = ("episode", "start", "instruction", "terminated", "truncated", "imagined")
ARRAYS = ("proprio", "tokens", "logp", "values", "rewards", "executed", "versions")
BY_CAMERA = ("images", "frames")


class Spool:
    """Writes segments in arrival order beside the caller; `append` costs an id and a place in a queue.

    Of several writers, `lane=(i, n)` writes the logs whose number is i modulo n: ids are unique over lanes, and any
    lane reads any id. When the disk refuses, the next `append` or `flush` raises OSError naming the file.
    """

    def __init__(self, folder: Path, log_bytes: int | None = None, lane: tuple[int, int] = (0, 1)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._log_bytes, self._lanes = folder, log_bytes or LOG_BYTES, lane[1]
        first = 1 + max(map(_number, folder.glob("log-*.bin")), default=-1)
        self._k, self._offset = first + (lane[0] - first) % lane[1], 0
        self._stream: BinaryIO | None = None  # the thread's
        self._failed: Future[None] | None = None
        self._room = threading.BoundedSemaphore(QUEUE_SEGMENTS)
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "spool")

    def append(self, segment: Segment) -> int:
        """Queues a segment and returns its id; waits for a slow disk at most DEADLINE_S."""
        self._check()
        parts = encode(segment)
        size = sum(map(len, parts)) + NUMBER.size
        if not self._room.acquire(timeout=DEADLINE_S):
            raise OSError(
                f"{self.folder}: the learner waited {DEADLINE_S:.0f} s to spool: this disk hangs or is too slow"
            )
        with self._lock:
            if self._offset and self._offset + size > self._log_bytes:
                self._k, self._offset = self._k + self._lanes, 0
            segment_id = self._k << OFFSET_BITS | self._offset
            self._offset += size
            self._thread.submit(self._write, self._k, parts).add_done_callback(self._written)
        return segment_id

    def flush(self) -> None:
        """Returns when everything appended so far is on the disk."""
        try:
            self._thread.submit(self._sync).result(DEADLINE_S)
        except TimeoutError as error:
            raise OSError(f"{self.folder}: a checkpoint {SLOW}") from error
        self._check()

    def read(self, segment_id: int) -> Segment:
        """Raises ValueError naming the log when the record is missing or torn."""
        path, offset = self._log(segment_id >> OFFSET_BITS), segment_id & ((1 << OFFSET_BITS) - 1)
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                return decode(stream)
        except (OSError, ValueError, struct.error) as error:
            raise ValueError(
                f"{path}: the segment at byte {offset} is missing or damaged ({error}): resume with replay=drop"
            ) from error

    @property
    def current(self) -> int:
        """The number of the log in hand."""
        return self._k

    def retain(self, ids: Iterable[int], logs: Sequence[int]) -> None:
        """Removes the logs that hold none of `ids` and come before the one in hand of their lane, `logs[lane]`."""
        needed = {segment_id >> OFFSET_BITS for segment_id in ids}
        for path in self.folder.glob("log-*.bin"):
            k = _number(path)
            if k < logs[k % len(logs)] and k not in needed:
                path.unlink()

    def close(self) -> None:
        """Writes what is queued and ends the thread; OSError when something could not be written."""
        self._thread.submit(self._end_log)
        self._thread.shutdown()
        self._check()

    def _write(self, k: int, parts: list[memoryview]) -> None:
        path = self._log(k)
        if self._failed:
            return  # offsets after a torn record are wrong, so nothing may follow it
        if self._stream is None or self._stream.name != str(path):
            self._end_log()
            self._stream = path.open("xb", buffering=0)
        try:
            for part in [*parts, checksum(parts[1:])]:
                _write_all(self._stream, part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def _sync(self) -> None:
        if self._stream and not self._failed:
            os.fsync(self._stream.fileno())

    def _end_log(self) -> None:
        if self._stream:
            self._sync()
            self._stream.close()

    def _written(self, done: Future[None]) -> None:
        self._room.release()
        if done.exception() and not self._failed:
            self._failed = done

    def _check(self) -> None:
        error = self._failed.exception() if self._failed else None
        if error is not None:
            raise OSError(f"{error}: the replay cannot be spooled: free disk space and resume, or set replay=drop")

    def _log(self, k: int) -> Path:
        return self.folder / f"log-{k:06d}.bin"


def _number(log: Path) -> int:
    return int(log.stem.removeprefix("log-"))


def _write_all(stream: BinaryIO, part: memoryview) -> None:
    while len(part):
        part = part[stream.write(part) :]


def encode(segment: Segment) -> list[memoryview]:
    """A record as buffers, without its checksum; arrays are not copied: leave the segment as it is until written."""
    arrays = dict(_arrays(segment))
    header = {
        "assignment": asdict(segment.assignment),
        "facts": {name: getattr(segment, name) for name in FACTS},
        "arrays": {name: [array.dtype.str, array.shape] for name, array in arrays.items()},
    }
    text = json.dumps(header).encode()
    body = [memoryview(text), *map(_bytes, arrays.values())]
    return [memoryview(NUMBER.pack(len(text))), *body]


def checksum(parts: Iterable[memoryview]) -> memoryview:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return memoryview(NUMBER.pack(crc))


def _arrays(segment: Segment) -> Iterable[tuple[str, np.ndarray]]:
    yield from ((name, getattr(segment, name)) for name in ARRAYS)
    for group in BY_CAMERA:
        yield from ((f"{group}/{camera}", array) for camera, array in getattr(segment, group).items())


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def decode(stream: BinaryIO) -> Segment:
    """Reads one record. Raises ValueError or struct.error when it is torn."""
    text = stream.read(NUMBER.unpack(stream.read(NUMBER.size))[0])
    header = json.loads(text)
    specs = {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in header["arrays"].items()}
    body = bytearray(sum(_size(*spec) for spec in specs.values()))
    if stream.readinto(body) < len(body):  # type: ignore[attr-defined]
        raise ValueError("the record ends early")
    if NUMBER.unpack(stream.read(NUMBER.size))[0] != zlib.crc32(body, zlib.crc32(text)):
        raise ValueError("its checksum differs")
    return _segment(header, dict(_split(body, specs)))


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))


def _split(body: bytearray, specs: dict[str, Any]) -> Iterable[tuple[str, np.ndarray]]:
    """Arrays as views of the one buffer, so that an image is in memory once."""
    offset = 0
    for name, (dtype, shape) in specs.items():
        yield name, np.frombuffer(body, dtype, int(np.prod(shape)), offset).reshape(shape)
        offset += _size(dtype, shape)


def _segment(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Segment:
    groups: dict[str, Any] = {
        group: {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{group}/")}
        for group in BY_CAMERA
    }
    plain: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    return Segment(assignment=Assignment(**header["assignment"]), **header["facts"], **plain, **groups)
