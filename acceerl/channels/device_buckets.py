"""A policy's tensors packed into a few large buckets on the device where they are, so that they travel as few messages.

Hundreds of small messages would cost more than their bytes. A publisher has two snapshots in turns, so that a reader
that is slow, or dead and not yet known to be, holds one of them and nobody up. While both are read, a version finds no
place and is left out.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

BUCKET = 256 << 20  # bytes; one tensor may be larger
ALIGN = 64
SNAPSHOTS = 2
WEIGHT = 1_000_003  # of a bucket's place in its checksum


@dataclass(frozen=True)
class Layout:
    """Name, type and shape of each tensor, in order; where they lie follows from it."""

    rows: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> Layout:
        return cls(tuple((name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors))

    @classmethod
    def read(cls, rows: list[Any]) -> Layout:
        return cls(tuple((name, kind, tuple(shape)) for name, kind, shape in rows))

    @cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """(bucket, first byte in it, bytes) of each tensor."""
        found, bucket, at = [], 0, 0
        for _, kind, shape in self.rows:
            size = getattr(torch, kind).itemsize * math.prod(shape)
            if at and at + size > BUCKET:
                bucket, at = bucket + 1, 0
            found.append((bucket, at, size))
            at = -(-(at + size) // ALIGN) * ALIGN
        return found

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes of each bucket."""
        ends = [0] * (self.places[-1][0] + 1 if self.places else 0)
        for bucket, at, size in self.places:
            ends[bucket] = -(-(at + size) // ALIGN) * ALIGN
        return ends


class Snapshot:
    """One version in buckets, uint8 [bytes] each."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout, self.version, self.users = layout, -1, 0
        self.buckets = [torch.zeros(size, dtype=torch.uint8, device=device) for size in layout.sizes]

    def tensors(self) -> dict[str, Tensor]:
        """The version's tensors, as parts of the buckets."""
        rows = zip(self.layout.rows, self.layout.places, strict=True)
        return {
            name: self.buckets[bucket][at : at + size].view(getattr(torch, kind)).view(shape)
            for (name, kind, shape), (bucket, at, size) in rows
        }

    def sums(self) -> list[int]:
        """A checksum of each bucket: the sum of its words, and of its place."""
        return [
            WEIGHT * place + int(bucket.view(torch.int32).sum(dtype=torch.int64))
            for place, bucket in enumerate(self.buckets)
        ]

    def offer(self) -> str:
        """What a reader must know before the buckets come."""
        return json.dumps({"version": self.version, "layout": self.layout.rows, "sums": self.sums()})


class Turns:
    """The snapshots of a publisher. `write` never waits; `newest` does, for those who send."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.skipped = 0  # versions that found no place
        self._change = threading.Condition()
        self._held: list[Snapshot] = []
        self._latest: Snapshot | None = None

    def write(self, version: int, layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copies the tensors of this layout; goes through all of them in any case."""
        place = self._place(layout)
        if place is None:
            self.skipped += 1
            for _ in tensors:
                pass  # other ranks gather them too
            return
        mine = place.tensors()
        for name, tensor in tensors:
            mine[name].copy_(tensor)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        place.version = version
        with self._change:
            self._latest = place
            place.users -= 1
            self._change.notify_all()

    def _place(self, layout: Layout) -> Snapshot | None:
        with self._change:
            self._held = [held for held in self._held if held.users or held.layout == layout]
            free = [held for held in self._held if not held.users and held is not self._latest]
            if not free and len(self._held) < SNAPSHOTS:
                free = [Snapshot(layout, self.device)]
                self._held += free
            if not free and self._latest is not None and not self._latest.users:
                free, self._latest = [self._latest], None  # everybody who could has it
            if not free:
                return None
            free[0].users += 1
            return free[0]

    def newest(self, but: int, wait_s: float) -> Snapshot | None:
        """The latest version as soon as it is another one than `but`, in use until `leave`; None when none comes."""
        with self._change:
            self._change.wait_for(lambda: self._latest is not None and self._latest.version != but, wait_s)
            if self._latest is None or self._latest.version == but:
                return None
            self._latest.users += 1
            return self._latest

    def leave(self, snapshot: Snapshot | None) -> None:
        with self._change:
            if snapshot is not None:
                snapshot.users -= 1


def beside(device: torch.device) -> AbstractContextManager[Any]:
    """A stream of its own, so that what a thread sends waits for nobody's computing."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()
