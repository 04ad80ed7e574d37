"""The two ends of a weights link over MPI: the reader pulls, the publisher offers, nobody waits for a slow reader.

A reader says which version it has and on which machine it is; when the publisher has another one, it offers it. A
reader on the same machine maps the publisher's memory; any other gets it in pieces beside everything else, a few at a
time, with a checksum that both ends work out while pieces travel. A version that is replaced while it travels still
arrives whole; the reader then asks again. Memory goes round: a reader gives a version back when the next is in use.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from acceerl.channels.connection import Connection, Sending
from acceerl.channels.links import Link
from acceerl.channels.snapshots import Layout, Snapshot, Turns, attach, machine
from acceerl.channels.wire import decode, encode
from acceerl.types import Weights

if TYPE_CHECKING:
    from acceerl.channels.mpi import Endpoint

log = logging.getLogger(__name__)
PIECE = 4 << 20  # bytes
WINDOW = 4  # pieces on their way to one reader
SLICE = 32 << 20  # bytes that a reader checks between two looks at its other links, 4 ms


@dataclass(frozen=True, slots=True)
class Pull:
    """Reader -> publisher: send me anything but this version (-1: I have none), in pieces or where you have it."""

    version: int
    machine: str  # where I am; "": send pieces in any case


@dataclass(frozen=True, slots=True)
class Back:
    """Reader -> publisher: the memory of this address is not mine any more."""

    address: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Publisher -> reader: this version lies at `address`, or follows in pieces when that is empty."""

    version: int
    layout: str
    checksum: str = ""  # XXH3, 64 bits, of all bytes; empty: a Seal follows
    address: str = ""


@dataclass(frozen=True, slots=True)
class Seal:
    """Publisher -> reader: the checksum of the pieces, before or behind the last of them."""

    checksum: str


@dataclass(slots=True, eq=False)
class _Version:
    number: int
    layout: Layout
    snapshot: Snapshot
    checksum: str = ""  # found when the first reader asks

    def offer(self, near: bool) -> Offer:
        if near and not self.checksum:
            self.checksum = xxhash.xxh3_64_hexdigest(self.snapshot.buffer.data)
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


class _Coming:
    """A version on its way to a reader: `check` what has come, until `missing` is 0 and the `checksum` is known."""

    def __init__(self, offer: Offer, memory: np.ndarray) -> None:
        self.offer, self.memory, self.layout = offer, memory, Layout(offer.layout)
        self.checksum = offer.checksum
        self.hash = xxhash.xxh3_64()
        self.placed = self.checked = 0  # bytes

    @property
    def missing(self) -> int:
        return self.layout.size - self.checked

    def check(self, size: int) -> None:
        """The next `size` bytes are there."""
        self.hash.update(self.memory[self.checked : self.checked + size].data)
        self.checked += size

    @property
    def whole(self) -> bool:
        return bool(self.hash.hexdigest() == self.checksum)

    def weights(self) -> Weights:
        return Weights(self.offer.version, self.layout.views(self.memory))


class MpiReader:
    """See `links.WeightsReader`. `near=False`: pieces are asked for even of a publisher on this machine.

    The notice of a piece comes behind the offer in the same lane, so the offer has been handled.
    """

    def __init__(self, endpoint: Endpoint, link: Link, publisher: int, near: bool = True) -> None:
        self.endpoint, self.link, self.publisher = endpoint, link, publisher
        self.near = near
        self.machine = ""
        self.source: Connection | None = None
        self.coming: _Coming | None = None
        self.arrived: deque[_Coming] = deque(maxlen=1)
        self.in_use: deque[_Coming] = deque()  # delivered: the latest, and until the next `poll` the one before
        self.free: list[np.ndarray] = []  # memory for pieces
        self.mapped: dict[str, np.ndarray] = {}  # the publisher's, by address: mapping anew costs as much as checking
        self.corrupt = 0  # transfers that failed their checksum
        endpoint.handlers[link.tag] = self._on_offer
        endpoint.handlers[link.tag + 2] = self._on_piece
        endpoint.handlers[link.tag + 4] = self._on_seal
        endpoint.places[link.tag + 2] = self._place
        endpoint.on_open.append(self._on_open)
        endpoint.on_lost.append(self._on_lost)
        endpoint.tickers.append(self._tick)
        endpoint.dial(link.server, publisher)

    def poll(self) -> Weights | None:
        while len(self.in_use) > 1:  # the role has come back from loading what followed it
            self._give_back(self.in_use.popleft())
        self.endpoint.pump()
        try:
            new = self.arrived.popleft()
        except IndexError:
            return None
        self.in_use.append(new)
        return new.weights()

    def pump(self) -> None:
        self.endpoint.pump()

    def _is_publisher(self, connection: Connection) -> bool:
        peer = connection.peer
        return peer is not None and (peer.role, peer.index) == (self.link.server, self.publisher)

    def _on_open(self, connection: Connection) -> None:
        if self._is_publisher(connection) and self.link.name in connection.links:
            self.source, self.machine = connection, machine() if self.near else ""
            self._pull(-1)  # a restarted learner may have gone back: take what it has now

    def _on_lost(self, connection: Connection, why: str) -> None:
        if connection is self.source:
            self.source = self.coming = None  # MPI may still write into its memory, which is thus not used again
            self.mapped.clear()

    def _pull(self, version: int) -> None:
        self._say(Pull(version, self.machine), self.link.tag + 1)

    def _say(self, word: Pull | Back, tag: int) -> None:
        if self.source is not None:
            self.endpoint.post(self.source, tag, encode(word, tag))

    def _on_offer(self, connection: Connection, buffer: np.ndarray) -> None:
        offer = decode(Offer, buffer, self.link.tag)
        size = Layout(offer.layout).size
        memory = self._mapped(offer.address, size) if offer.address else self._memory(size)
        if memory is not None:
            self.coming = _Coming(offer, memory)
        else:
            log.info("%s: cannot map %s's memory, taking pieces", self.link.name, connection.peer)
            self._say(Back(offer.address), self.link.tag + 3)
            self.machine = ""
            self._pull(-1)

    def _mapped(self, address: str, size: int) -> np.ndarray | None:
        self.mapped = {known: memory for known, memory in self.mapped.items() if len(memory) == size}
        memory = self.mapped.get(address)
        if memory is None and (memory := attach(address, size)) is not None:
            self.mapped[address] = memory
        return memory

    def _memory(self, size: int) -> np.ndarray:
        self.free = [memory for memory in self.free if len(memory) == size]
        return self.free.pop() if self.free else np.empty(size, np.uint8)

    def _place(self, connection: Connection, size: int) -> np.ndarray:
        assert self.coming is not None
        coming = self.coming
        coming.placed += size
        return coming.memory[coming.placed - size : coming.placed]

    def _on_piece(self, connection: Connection, piece: np.ndarray) -> None:
        assert self.coming is not None
        self.coming.check(piece.nbytes)
        self._look(self.coming)

    def _on_seal(self, connection: Connection, buffer: np.ndarray) -> None:
        assert self.coming is not None
        self.coming.checksum = decode(Seal, buffer, self.link.tag + 4).checksum
        self._look(self.coming)

    def _tick(self) -> bool:
        """Checks a version that is mapped, in slices, since this process has others to answer."""
        coming = self.coming
        if coming is None or not coming.offer.address:
            return False
        coming.check(min(SLICE, coming.missing))
        self._look(coming)
        return True

    def _look(self, coming: _Coming) -> None:
        """Has it come whole?"""
        if coming.missing or not coming.checksum:
            return
        self.coming = None
        if coming.whole:
            for replaced in list(self.arrived):
                self._give_back(replaced)
            self.arrived.append(coming)
            self._pull(coming.offer.version)
        else:
            self.corrupt += 1
            log.warning("%s: version %d failed its checksum, pulling it again", self.link.name, coming.offer.version)
            self._give_back(coming)
            self._pull(-1)

    def _give_back(self, version: _Coming) -> None:
        """Its memory may be written again, by the publisher whose it is or by the next pieces."""
        if version.offer.address:
            self._say(Back(version.offer.address), self.link.tag + 3)
        else:
            self.free.append(version.memory)
