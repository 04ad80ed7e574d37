"""One open connection to one peer: how buffers leave it and how large ones come in, over an MPI intercommunicator.

Two lanes. A message that fits the receives which the peer keeps posted (`eager` bytes, its hello says) goes as one
MPI message on `EAGER_TAG`. A larger one is announced there by a notice (tag, bytes) and follows on its own tag,
for which the peer posts a receive of just that size: nobody probes. Order holds within a lane.

Knows nothing about links or roles. The communicator is handed in, so this file does not import mpi4py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acceerl.channels.links import Peer
from acceerl.channels.near import Borrower, Lender
from acceerl.channels.wire import notice

LARGEST = 1 << 30  # bytes of one message; larger payloads go in pieces, since MPI counts in C ints
EAGER_TAG = 1
EAGER = 256 << 10  # bytes of a posted receive: an observation of two 128-pixel cameras fits twice
HELLO_ROOM = 16 << 10  # what any peer can take before its hello has come
INJECT = 16 << 10  # bytes up to which MPI copies a message at once; see mpi.py
FLYING = 8  # sends handed to MPI at a time; the rest waits here, where it can be dropped with the peer
NOBODY_TAG = 0  # never sent
STALL_S = 2.0  # how long MPI may refuse to take a message before the peer counts as dead
RETRY_S = 0.1  # between two tries


@dataclass(slots=True, eq=False)
class Sending:
    """A buffer on its way; it must not change until `done`."""

    tag: int
    buffer: np.ndarray
    bare: bool = False  # without a header of its own, so it needs a notice whatever its size
    announced: bool = False
    done: bool = False


Place = Callable[["Connection", int], np.ndarray]  # how many bytes -> where they go
Watch = Callable[["Connection", Any, np.ndarray, Callable[[int], None]], None]  # Mailbox.watch


@dataclass(slots=True, eq=False)
class Connection:
    """`peer` is None until the other side's hello has come. `alive` turns False once, for ever."""

    comm: Any
    deadline: float  # time.monotonic() until which the hello must come
    peer: Peer | None = None
    dialled: Peer | None = None  # set on the connecting side
    links: frozenset[str] = frozenset()
    eager: int = HELLO_ROOM  # bytes that the peer's posted receives hold
    lender: Lender | None = None  # set when the peer can map our memory
    borrower: Borrower = field(default_factory=Borrower)
    alive: bool = True
    refused: bool = False
    stalled: float | None = None  # since when MPI refuses to send
    retry_at: float = 0.0
    waiting: deque[Sending] = field(default_factory=deque)
    flying: int = 0  # sends that MPI has not finished

    def room(self, size: int) -> np.ndarray:
        """Memory for a message to be posted here, uint8 [size]."""
        return np.empty(size, np.uint8) if self.lender is None else self.lender.room(size)

    def post(self, tag: int, buffer: np.ndarray, bare: bool = False) -> Sending:
        """Queues a buffer, uint8 [bytes]; any thread may. `push` sends it."""
        if self.lender is not None and (told := self.lender.notice(tag, buffer)) is not None:
            buffer = told
        if buffer.nbytes > LARGEST:
            raise ValueError(f"a message of {buffer.nbytes} bytes to {self.peer} exceeds {LARGEST}")
        sending = Sending(tag, buffer, bare)
        self.waiting.append(sending)
        return sending

    def push(self, watch: Watch) -> bool:
        """Hands waiting buffers to MPI. True when something moved."""
        if self.stalled is not None and time.monotonic() < self.retry_at:
            return False
        moved = False
        while self.waiting and self.flying < FLYING:
            sending = self.waiting[0]
            if (sending.bare or sending.buffer.nbytes > self.eager) and not sending.announced:
                sending.announced = True
                self.waiting.appendleft(Sending(EAGER_TAG, notice(sending.tag, sending.buffer.nbytes)))
                continue
            self._launch(sending, watch)
            self.waiting.popleft()
            self.stalled = None
            moved = True
        return moved

    def stall(self) -> bool:
        """MPI took nothing because the way to the peer is closed. True: for so long that the peer must be dead."""
        now = time.monotonic()
        self.stalled = self.stalled or now
        self.retry_at = now + RETRY_S
        return now - self.stalled > STALL_S

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.flying)

    def _launch(self, sending: Sending, watch: Watch) -> None:
        """An MPI error here leaves `sending` where it is, to be tried again."""
        buffer, tag = sending.buffer, sending.tag if sending.announced else EAGER_TAG
        if buffer.nbytes > INJECT:
            # A send that meets a closed socket makes MPICH abort this process; one look lets MPI learn of the
            # closing first. Messages of up to INJECT bytes are copied at once and cannot fail later.
            self.comm.Iprobe(0, NOBODY_TAG)
        request = self.comm.Isend(buffer, 0, tag)
        if buffer.nbytes <= INJECT and request.Test():
            sending.done = True
        else:
            self.flying += 1
            watch(self, request, buffer, lambda _: self._landed(sending))

    def _landed(self, sending: Sending) -> None:
        sending.done = True
        self.flying -= 1
