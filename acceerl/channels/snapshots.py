"""Memory that versions of weights travel in: one flat buffer a version, laid out alike, shared with processes beside.

A buffer is a memfd, so that a process on the same machine maps it instead of receiving a copy, and so that the kernel
frees it when the last process that maps it is gone, however it went. Buffers are used in turns; who may still read
one is counted in `users`, and nobody writes into it before that is 0.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

ALIGN = 64  # bytes; torch and MKL like their rows to begin there
Arrays = Mapping[str, np.ndarray]


@cache
def machine() -> str:
    """The same text in all processes of one running kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Layout:
    """Where each array lies in a flat buffer; `text` is what travels.

    >>> layout = Layout.of({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)})
    >>> layout.size, Layout(layout.text) == layout
    (76, True)
    """

    text: str

    @classmethod
    def of(cls, arrays: Arrays) -> Layout:
        if any(array.dtype.hasobject for array in arrays.values()):
            raise ValueError("an array of Python objects cannot travel on a link")
        rows = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
        return cls(json.dumps(rows, separators=(",", ":")))

    @property
    def size(self) -> int:
        """Bytes of the whole buffer."""
        return max((start + nbytes for _, _, _, start, nbytes in _places(self.text)), default=0)

    def views(self, buffer: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays, as parts of `buffer` (uint8 [size])."""
        return {
            name: buffer[start : start + nbytes].view(dtype).reshape(shape)
            for name, dtype, shape, start, nbytes in _places(self.text)
        }


@lru_cache(8)
def _places(text: str) -> list[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    """(name, dtype, shape, first byte, bytes) of each array."""
    places, at = [], 0
    for name, kind, shape in json.loads(text):
        dtype = np.dtype(kind)
        at = -(-at // ALIGN) * ALIGN
        nbytes = dtype.itemsize * math.prod(shape)
        places.append((name, dtype, tuple(shape), at, nbytes))
        at += nbytes
    return places


@dataclass(eq=False)
class Snapshot:
    """One buffer that others on this machine can map; `address` tells them where it is."""

    size: int
    buffer: np.ndarray = field(init=False)  # uint8 [size]
    address: str = field(init=False)
    users: int = 0  # who may read it now

    def __post_init__(self) -> None:
        number = os.memfd_create("acceerl", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, number)
        os.truncate(number, max(self.size, 1))
        self.buffer = np.ndarray(self.size, np.uint8, mmap.mmap(number, max(self.size, 1)))
        self.address = f"{os.getpid()}/{number}/{os.fstat(number).st_ino}"


def attach(address: str, size: int, writable: bool = False) -> np.ndarray | None:
    """Another process' buffer, uint8 [size]; None when it cannot be had from here."""
    pid, number, inode = address.split("/")
    try:
        with Path(f"/proc/{pid}/fd/{number}").open("r+b" if writable else "rb") as file:
            there = os.fstat(file.fileno())
            if there.st_ino != int(inode) or there.st_size != max(size, 1):  # ids of another container's processes
                return None
            rights = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            return np.frombuffer(mmap.mmap(file.fileno(), max(size, 1), prot=rights), np.uint8)[:size]
    except (OSError, ValueError):
        return None


class Turns:
    """The snapshots of one publisher. Locked: one thread writes new ones, another serves readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Snapshot] = []

    def begin(self, size: int) -> Snapshot:
        """A snapshot that nobody reads, with one user: the caller."""
        with self._lock:
            self._held = [s for s in self._held if s.users or s.size == size]
            free = next((s for s in self._held if not s.users), None)
            if free is None:
                free = Snapshot(size)
                self._held.append(free)
            free.users = 1
            return free

    def use(self, snapshot: Snapshot) -> None:
        with self._lock:
            snapshot.users += 1

    def leave(self, snapshot: Snapshot) -> None:
        with self._lock:
            snapshot.users -= 1

    def abandon(self, snapshot: Snapshot) -> None:
        """Somebody who cannot be asked may read it for ever, so it is written no more."""
        with self._lock:
            self._held = [s for s in self._held if s is not snapshot]
