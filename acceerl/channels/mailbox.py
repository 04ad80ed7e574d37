"""All requests that MPI works on for a process, looked at with one call however many peers there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.channels.connection import EAGER, EAGER_TAG, Connection

DEPTH = 2  # receives posted for each connection: one may fill while the other is looked at


_Done = Callable[[int], None] | None


@dataclass(slots=True, eq=False)
class _Watched:
    """`done(bytes)` is called when the request is complete; 0 bytes of a receive: it was cancelled."""

    connection: Connection
    buffer: np.ndarray  # which MPI may touch until then
    number: int  # in order of posting, which is the order in which messages come
    done: _Done  # None: a receive of the eager lane


class Mailbox:
    """`mpi` is the module mpi4py.MPI."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._requests: list[Any] = []
        self._watched: list[_Watched] = []
        self._statuses: list[Any] = []
        self._posted = 0

    def open(self, connection: Connection) -> None:
        """Posts the first receives of a new connection."""
        for _ in range(DEPTH):
            self._receive(connection)

    def watch(self, connection: Connection, request: Any, buffer: np.ndarray, done: _Done) -> None:
        """Looks after a request; `done` None: a receive of the eager lane."""
        self._posted += 1
        self._watched.append(_Watched(connection, buffer, self._posted, done))
        self._requests.append(request)
        self._statuses.append(self._mpi.Status())

    def close(self, connection: Connection) -> list[tuple[Any, np.ndarray]]:
        """Forgets a connection; returns requests and memory that MPI may still touch."""
        pairs = list(zip(self._watched, self._requests, strict=True))
        self._watched = [watched for watched, _ in pairs if watched.connection is not connection]
        self._requests = [request for watched, request in pairs if watched.connection is not connection]
        del self._statuses[len(self._watched) :]
        left = [(request, watched) for watched, request in pairs if watched.connection is connection]
        for request, watched in left:
            if watched.done is None:
                self._cancel(request)
        return [(request, watched.buffer) for request, watched in left]

    def collect(self) -> list[tuple[Connection, np.ndarray]]:
        """Messages of the eager lane, in order for each connection. An empty one: the peer is gone."""
        if not self._requests:
            return []
        try:
            done = self._mpi.Request.Testsome(self._requests, self._statuses)
        except self._mpi.Exception:  # one of them failed, and only asking each tells which
            return self._take(self._ask_each())
        if not done:
            return []
        sizes = [self._size(status) for status in self._statuses[: len(done)]]
        if len(done) == 1 and sizes[0] and (watched := self._watched[done[0]]).done is None:  # as nearly always
            return [(watched.connection, self._empty(done[0], watched, sizes[0]))]
        return self._take(list(zip(done, sizes, strict=True)))

    def _ask_each(self) -> list[tuple[int, int]]:
        """After a failure: MPI forgot the requests that are complete, and their statuses tell which of them failed."""
        over = [i for i, request in enumerate(self._requests) if not request]
        if over:
            told = zip(over, self._statuses, strict=False)
            return [(i, 0 if status.Get_error() else self._size(status)) for i, status in told]
        done, status = [], self._mpi.Status()
        for i, request in enumerate(self._requests):
            try:
                if request.Test(status):
                    done.append((i, self._size(status)))
            except self._mpi.Exception:
                done.append((i, 0))
        return done

    def _size(self, status: Any) -> int:
        return 0 if status.Is_cancelled() else int(status.Get_count())

    def _take(self, done: list[tuple[int, int]]) -> list[tuple[Connection, np.ndarray]]:
        """Of completed requests (index, bytes): messages, whose receives are posted again; and who waits is told."""
        complete = [(i, self._watched[i], size) for i, size in done]
        if len(complete) > 1:
            complete.sort(key=lambda entry: entry[1].number)
        taken = [(w.connection, self._empty(i, w, size)) for i, w, size in complete if size and w.done is None]
        over = [(i, watched, size) for i, watched, size in complete if not (size and watched.done is None)]
        for i, _, _ in sorted(over, key=lambda entry: -entry[0]):
            del self._watched[i], self._requests[i], self._statuses[-1]
        for _, watched, size in over:
            if watched.done is not None:
                watched.done(size)
            elif watched.connection.alive:
                taken.append((watched.connection, watched.buffer[:0]))
        return taken

    def _empty(self, i: int, watched: _Watched, size: int) -> np.ndarray:
        """The message; the memory is the reader's when it is mostly full, else it gets a copy of the right size."""
        message = watched.buffer[:size]
        if size > EAGER // 2:
            watched.buffer = np.empty(EAGER, np.uint8)
        else:
            message = message.copy()
        self._requests[i] = watched.connection.comm.Irecv(watched.buffer, 0, EAGER_TAG)
        self._posted += 1
        watched.number = self._posted
        return message

    def _receive(self, connection: Connection) -> None:
        buffer = np.empty(EAGER, np.uint8)
        self.watch(connection, connection.comm.Irecv(buffer, 0, EAGER_TAG), buffer, None)

    def _cancel(self, request: Any) -> None:
        """Nothing will come any more, and an MPI that cannot cancel keeps its memory."""
        with suppress(self._mpi.Exception):
            if request:
                request.Cancel()
