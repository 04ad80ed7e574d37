"""The posted receives of all connections of a process, looked at with one MPI call however many peers there are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.channels.connection import EAGER, EAGER_TAG, Connection

DEPTH = 2  # receives posted for each connection: one may fill while the other is looked at


@dataclass(slots=True, eq=False)
class _Slot:
    connection: Connection
    buffer: np.ndarray
    number: int  # in order of posting, which is the order in which messages come


class Mailbox:
    """`mpi` is the module mpi4py.MPI."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._requests: list[Any] = []
        self._slots: list[_Slot] = []
        self._statuses: list[Any] = []
        self._posted = 0

    def open(self, connection: Connection) -> None:
        """Posts the first receives of a new connection."""
        for _ in range(DEPTH):
            slot = self._slot(connection, np.empty(EAGER, np.uint8))
            self._slots.append(slot)
            self._requests.append(self._receive(slot))
            self._statuses.append(self._mpi.Status())

    def close(self, connection: Connection) -> list[tuple[Any, np.ndarray]]:
        """Forgets a connection; returns requests and memory that MPI may still touch."""
        pairs = list(zip(self._slots, self._requests, strict=True))
        self._slots = [slot for slot, _ in pairs if slot.connection is not connection]
        self._requests = [request for slot, request in pairs if slot.connection is not connection]
        del self._statuses[len(self._slots) :]
        left = [(request, slot.buffer) for slot, request in pairs if slot.connection is connection]
        for request, _ in left:
            self._cancel(request)
        return left

    def collect(self) -> list[tuple[Connection, np.ndarray]]:
        """What has come, in order for each connection. An empty buffer: the receive was cancelled, the peer is gone."""
        if not self._requests:
            return []
        try:
            done = self._mpi.Request.Testsome(self._requests, self._statuses)
        except self._mpi.Exception:  # one of them failed, and only asking each tells which
            return self._ask_each()
        if not done:
            return []
        sizes = [self._size(self._statuses[i]) for i in range(len(done))]
        return self._take(list(zip(done, sizes, strict=True)))

    def _ask_each(self) -> list[tuple[Connection, np.ndarray]]:
        done, status = [], self._mpi.Status()
        for i, request in enumerate(self._requests):
            try:
                if request.Test(status):
                    done.append((i, self._size(status)))
            except self._mpi.Exception:
                done.append((i, 0))
        return self._take(done)

    def _size(self, status: Any) -> int:
        return 0 if status.Is_cancelled() else int(status.Get_count())

    def _take(self, done: list[tuple[int, int]]) -> list[tuple[Connection, np.ndarray]]:
        """Empties the slots (index, bytes) and posts them again."""
        taken = []
        for i, size in sorted(done, key=lambda entry: self._slots[entry[0]].number):
            slot = self._slots[i]
            mostly_full = size > EAGER // 2  # then the reader gets the memory itself, else a copy of the right size
            taken.append((slot.connection, slot.buffer[:size] if mostly_full else slot.buffer[:size].copy()))
            if size:
                self._slots[i] = self._slot(slot.connection, np.empty(EAGER, np.uint8) if mostly_full else slot.buffer)
                self._requests[i] = self._receive(self._slots[i])
        return taken

    def _cancel(self, request: Any) -> None:
        """Nothing will come any more, and an MPI that cannot cancel keeps its memory."""
        with suppress(self._mpi.Exception):
            if request:
                request.Cancel()

    def _slot(self, connection: Connection, buffer: np.ndarray) -> _Slot:
        self._posted += 1
        return _Slot(connection, buffer, self._posted)

    def _receive(self, slot: _Slot) -> Any:
        return slot.connection.comm.Irecv(slot.buffer, 0, EAGER_TAG)
