"""One open connection to one peer: ordered sends and receives of byte buffers over an MPI intercommunicator.

Knows nothing about links or roles. The communicator is handed in, so this file does not import mpi4py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acceerl.channels.links import Peer

LARGEST = 1 << 30  # bytes of one message; larger payloads go in pieces, since MPI counts in C ints
HELLO_TAG = 1
ANY_TAG = -1  # MPI.ANY_TAG in the MPICH ABI, which the Endpoint checks
FLYING = 8  # sends handed to MPI at a time; the rest waits here, where it can be dropped with the peer


@dataclass(slots=True, eq=False)
class Sending:
    """A buffer on its way; it must not change until `done`."""

    tag: int
    buffer: np.ndarray
    request: Any = None
    done: bool = False


Place = Callable[["Connection", int], np.ndarray]  # how many bytes -> where they go


@dataclass(slots=True, eq=False)
class Connection:
    """`peer` is None until the other side's hello has come. `alive` turns False once, for ever."""

    comm: Any
    status: Any  # an MPI.Status of its own
    deadline: float  # time.monotonic() until which the hello must come
    peer: Peer | None = None
    dialled: Peer | None = None  # set on the connecting side
    links: frozenset[str] = frozenset()
    alive: bool = True
    refused: bool = False
    waiting: deque[Sending] = field(default_factory=deque)
    flying: deque[Sending] = field(default_factory=deque)
    coming: deque[tuple[Any, int, np.ndarray]] = field(default_factory=deque)

    def post(self, tag: int, buffer: np.ndarray) -> Sending:
        """Queues a buffer, uint8 [bytes]; any thread may. `progress` sends it."""
        if buffer.nbytes > LARGEST:
            raise ValueError(f"a message of {buffer.nbytes} bytes to {self.peer} exceeds {LARGEST}")
        sending = Sending(tag, buffer)
        self.waiting.append(sending)
        return sending

    def push(self) -> bool:
        """Hands waiting buffers to MPI and notes finished ones. True when something moved."""
        moved = False
        while self.flying and self.flying[0].request.Test():
            self.flying.popleft().done = moved = True
        while self.waiting and len(self.flying) < FLYING:
            sending = self.waiting.popleft()
            sending.request = self.comm.Isend(sending.buffer, 0, sending.tag)
            self.flying.append(sending)
            moved = True
        return moved

    def pull(self, places: dict[int, Place]) -> list[tuple[int, np.ndarray]]:
        """(tag, buffer) of every message that is complete, in order; buffers are fresh memory.

        `places[tag]` yields the memory for tags whose messages land in a larger buffer; such a message waits
        until all before it were handled, since they say where it goes.
        """
        while self._sees_one():
            tag, size = self.status.Get_tag(), self.status.Get_count()
            place = places.get(tag)
            if place is not None and self.coming and self.coming[-1][1] != tag:
                break
            buffer = np.empty(size, np.uint8) if place is None else place(self, size)
            self.coming.append((self.comm.Irecv(buffer, 0, tag), tag, buffer))
        arrived = []
        while self.coming and self.coming[0][0].Test():
            _, tag, buffer = self.coming.popleft()
            arrived.append((tag, buffer))
        return arrived

    def _sees_one(self) -> bool:
        # MPI looks before it moves bytes: what one look brings in, only the next one shows. A sleep costs more.
        return bool(self.comm.Iprobe(0, ANY_TAG, self.status) or self.comm.Iprobe(0, ANY_TAG, self.status))

    @property
    def moving(self) -> bool:
        return bool(self.flying or self.coming)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.flying)

    def remains(self) -> list[tuple[Any, np.ndarray]]:
        """Requests that MPI may still touch, with their memory: keep them alive when the peer is dead."""
        return [(s.request, s.buffer) for s in self.flying] + [(request, buffer) for request, _, buffer in self.coming]
