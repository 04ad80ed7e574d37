"""The two ends of a weights link over MPI: the reader pulls, the publisher sends in pieces beside everything else.

A reader says which version it has; when the publisher has another one, it offers (size, checksum) and sends
4 MiB pieces, a few at a time, so that neither end ever waits and other links keep moving. A version that is
replaced while it travels still arrives whole; the reader then asks again.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from acceerl.channels.connection import Connection, Sending
from acceerl.channels.links import Link
from acceerl.channels.wire import decode, encode
from acceerl.types import Weights

if TYPE_CHECKING:
    from acceerl.channels.mpi import Endpoint

log = logging.getLogger(__name__)
PIECE = 4 << 20  # bytes
WINDOW = 4  # pieces on their way to one reader


@dataclass(frozen=True, slots=True)
class Pull:
    """Reader -> publisher: send me anything but this version (-1: I have none)."""

    version: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Publisher -> reader: so many bytes follow in pieces."""

    version: int
    size: int
    checksum: int  # CRC-32 of all bytes


@dataclass(frozen=True, slots=True)
class _Packed:
    offer: Offer
    buffer: np.ndarray  # uint8 [size], an encoded Weights


@dataclass(slots=True)
class _Transfer:
    packed: _Packed
    sent: int = 0  # bytes handed to the connection
    flying: deque[Sending] = field(default_factory=deque)

    @property
    def done(self) -> bool:
        return self.sent == self.packed.offer.size and not self.flying


class MpiPublisher:
    """See `links.WeightsPublisher`. `publish` copies into one buffer in the caller's thread; readers share it."""

    def __init__(self, endpoint: Endpoint, link: Link) -> None:
        self.endpoint, self.link = endpoint, link
        self.latest: _Packed | None = None
        self.pulls: dict[Connection, int] = {}
        self.transfers: dict[Connection, _Transfer] = {}
        endpoint.handlers[link.tag + 1] = self._on_pull
        endpoint.on_lost.append(self._on_lost)
        endpoint.tickers.append(self._tick)

    def publish(self, weights: Weights) -> None:
        buffer = encode(weights, self.link.tag)
        self.latest = _Packed(Offer(weights.version, buffer.nbytes, zlib.crc32(buffer.data)), buffer)
        self.endpoint.pump()

    def pump(self) -> None:
        self.endpoint.pump()

    def _on_pull(self, connection: Connection, buffer: np.ndarray) -> None:
        self.pulls[connection] = decode(Pull, buffer, self.link.tag + 1).version

    def _on_lost(self, connection: Connection, why: str) -> None:
        self.pulls.pop(connection, None)
        self.transfers.pop(connection, None)

    def _tick(self) -> bool:
        latest = self.latest
        for connection in [c for c, version in self.pulls.items() if latest and version != latest.offer.version]:
            assert latest is not None
            del self.pulls[connection]
            self.transfers[connection] = _Transfer(latest)
            self.endpoint.post(connection, self.link.tag, encode(latest.offer, self.link.tag))
        moved = False
        for connection in list(self.transfers):
            moved |= self._advance(connection)
        return moved

    def _advance(self, connection: Connection) -> bool:
        transfer = self.transfers[connection]
        moved = False
        while transfer.flying and transfer.flying[0].done:
            transfer.flying.popleft()
            moved = True
        while len(transfer.flying) < WINDOW and transfer.sent < transfer.packed.offer.size and connection.alive:
            piece = transfer.packed.buffer[transfer.sent : transfer.sent + PIECE]
            transfer.sent += piece.nbytes
            transfer.flying.append(self.endpoint.post(connection, self.link.tag + 2, piece, bare=True))
            moved = True
        if transfer.done:
            self.transfers.pop(connection, None)
        return moved


class MpiReader:
    """See `links.WeightsReader`. Pieces land in place, in memory that the delivered arrays then own.

    The notice of a piece comes behind the offer in the same lane, so the offer has been handled.
    """

    def __init__(self, endpoint: Endpoint, link: Link, publisher: int) -> None:
        self.endpoint, self.link, self.publisher = endpoint, link, publisher
        self.arrived: deque[Weights] = deque(maxlen=1)
        self.offer: Offer | None = None
        self.buffer = np.empty(0, np.uint8)
        self.placed = self.checked = self.crc = 0
        self.corrupt = 0  # transfers that failed their checksum
        endpoint.handlers[link.tag] = self._on_offer
        endpoint.handlers[link.tag + 2] = self._on_piece
        endpoint.places[link.tag + 2] = self._place
        endpoint.on_open.append(self._on_open)
        endpoint.dial(link.server, publisher)

    def poll(self) -> Weights | None:
        self.endpoint.pump()
        try:
            return self.arrived.popleft()
        except IndexError:
            return None

    def pump(self) -> None:
        self.endpoint.pump()

    def _is_publisher(self, connection: Connection) -> bool:
        peer = connection.peer
        return peer is not None and (peer.role, peer.index) == (self.link.server, self.publisher)

    def _on_open(self, connection: Connection) -> None:
        if self._is_publisher(connection) and self.link.name in connection.links:
            self._pull(connection, -1)  # a restarted learner may have gone back: take what it has now

    def _pull(self, connection: Connection, version: int) -> None:
        self.endpoint.post(connection, self.link.tag + 1, encode(Pull(version), self.link.tag + 1))

    def _on_offer(self, connection: Connection, buffer: np.ndarray) -> None:
        self.offer = decode(Offer, buffer, self.link.tag)
        self.buffer = np.empty(self.offer.size, np.uint8)
        self.placed = self.checked = self.crc = 0

    def _place(self, connection: Connection, size: int) -> np.ndarray:
        self.placed += size
        return self.buffer[self.placed - size : self.placed]

    def _on_piece(self, connection: Connection, piece: np.ndarray) -> None:
        assert self.offer is not None
        self.crc = zlib.crc32(piece.data, self.crc)
        self.checked += piece.nbytes
        if self.checked < self.offer.size:
            return
        if self.crc == self.offer.checksum:
            self.arrived.append(decode(Weights, self.buffer, self.link.tag))
            self._pull(connection, self.offer.version)
        else:
            self.corrupt += 1
            log.warning("%s: version %d failed its checksum, pulling it again", self.link.name, self.offer.version)
            self._pull(connection, -1)
        self.offer = None
