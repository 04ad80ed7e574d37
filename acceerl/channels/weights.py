"""The sending end of a weights link over MPI: readers pull, the publisher offers, nobody waits for a slow reader.

A reader says which version it has and on which machine it is; when the publisher has another one, it offers it. A
reader on the same machine maps the publisher's memory, and nothing travels; any other gets it in pieces beside
everything else, a few at a time, with a checksum that both ends work out while pieces travel. A version that is
replaced while it travels still arrives whole; the reader then asks again. Memory goes round: a reader gives a version
back when the next is in use.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from acceerl.channels.connection import Connection, Sending
from acceerl.channels.links import Link
from acceerl.channels.snapshots import Layout, Snapshot, Turns, machine
from acceerl.channels.weights_messages import Back, Offer, Pull, Seal
from acceerl.channels.wire import decode, encode
from acceerl.types import Weights

if TYPE_CHECKING:
    from acceerl.channels.mpi import Endpoint

PIECE = 4 << 20  # bytes
WINDOW = 4  # pieces on their way to one reader


@dataclass(slots=True, eq=False)
class _Version:
    number: int
    layout: Layout
    snapshot: Snapshot
    checksum: str = ""  # found while pieces travel to the first reader

    def offer(self, near: bool) -> Offer:
        return Offer(self.number, self.layout.text, self.checksum, self.snapshot.address if near else "")


@dataclass(slots=True)
class _Transfer:
    version: _Version
    hash: Any = field(default_factory=xxhash.xxh3_64)
    sent: int = 0  # bytes handed to the connection
    flying: deque[Sending] = field(default_factory=deque)
    sealed: bool = False

    @property
    def snapshot(self) -> Snapshot:
        return self.version.snapshot

    @property
    def done(self) -> bool:
        return self.sealed and not self.flying


class MpiPublisher:
    """See `links.WeightsPublisher`. `publish` makes the one copy, in the caller's thread; readers share it."""

    def __init__(self, endpoint: Endpoint, link: Link) -> None:
        self.endpoint, self.link, self.turns = endpoint, link, Turns()
        self.latest: _Version | None = None
        self.pulls: dict[Connection, Pull] = {}
        self.transfers: dict[Connection, _Transfer] = {}
        self.lent: dict[Connection, list[Snapshot]] = {}  # to readers on this machine
        self._lock = threading.Lock()  # around `latest` and its use
        endpoint.handlers[link.tag + 1] = self._on_pull
        endpoint.handlers[link.tag + 3] = self._on_back
        endpoint.on_lost.append(self._on_lost)
        endpoint.tickers.append(self._tick)

    def publish(self, weights: Weights) -> None:
        layout = Layout.of(weights.arrays)
        snapshot = self.turns.begin(layout.size)
        for name, place in layout.views(snapshot.buffer).items():
            np.copyto(place, weights.arrays[name])
        with self._lock:
            replaced, self.latest = self.latest, _Version(weights.version, layout, snapshot)
        if replaced is not None:
            self.turns.leave(replaced.snapshot)
        self.endpoint.ring()
        self.endpoint.pump()

    def pump(self) -> None:
        self.endpoint.pump()

    def _on_pull(self, connection: Connection, buffer: np.ndarray) -> None:
        self.pulls[connection] = decode(Pull, buffer, self.link.tag + 1)

    def _on_back(self, connection: Connection, buffer: np.ndarray) -> None:
        address, lent = decode(Back, buffer, self.link.tag + 3).address, self.lent.get(connection, [])
        for snapshot in [s for s in lent if s.address == address][:1]:
            lent.remove(snapshot)
            self.turns.leave(snapshot)

    def _on_lost(self, connection: Connection, why: str) -> None:
        """MPI may still send what flies, and a reader that lives on may still use what it mapped."""
        self.pulls.pop(connection, None)
        transfer = self.transfers.pop(connection, None)
        for snapshot in self.lent.pop(connection, []) + ([transfer.snapshot] if transfer else []):
            self.turns.abandon(snapshot)

    def _tick(self) -> bool:
        moved = False
        for connection, pull in list(self.pulls.items()):
            moved |= self._answer(connection, pull)
        for connection in list(self.transfers):
            moved |= self._advance(connection)
        return moved

    def _answer(self, connection: Connection, pull: Pull) -> bool:
        with self._lock:
            latest = self.latest
            if latest is None or latest.number == pull.version:
                return False
            self.turns.use(latest.snapshot)
        del self.pulls[connection]
        near = bool(pull.machine) and pull.machine == machine()
        if near:
            self.lent.setdefault(connection, []).append(latest.snapshot)
        else:
            self.transfers[connection] = _Transfer(latest, sealed=bool(latest.checksum))
        self.endpoint.post(connection, self.link.tag, encode(latest.offer(near), self.link.tag))
        return True

    def _advance(self, connection: Connection) -> bool:
        transfer = self.transfers[connection]
        moved = False
        while transfer.flying and transfer.flying[0].done:
            transfer.flying.popleft()
            moved = True
        size = transfer.snapshot.size
        while len(transfer.flying) < WINDOW and transfer.sent < size and connection.alive:
            self._send_piece(connection, transfer)
            moved = True
        if transfer.sent == size and not transfer.sealed:
            transfer.sealed, transfer.version.checksum = True, transfer.hash.hexdigest()
            self.endpoint.post(
                connection, self.link.tag + 4, encode(Seal(transfer.version.checksum), self.link.tag + 4)
            )
        if transfer.done and transfer.sent == size and connection in self.transfers:
            del self.transfers[connection]
            self.turns.leave(transfer.snapshot)
        return moved

    def _send_piece(self, connection: Connection, transfer: _Transfer) -> None:
        piece = transfer.snapshot.buffer[transfer.sent : transfer.sent + PIECE]
        transfer.sent += piece.nbytes
        transfer.flying.append(self.endpoint.post(connection, self.link.tag + 2, piece, bare=True))
        if not transfer.sealed:
            transfer.hash.update(piece.data)
