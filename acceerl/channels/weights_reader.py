"""The reading end of a weights link over MPI: takes versions as weights.py offers them, checks and delivers them."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from acceerl.channels.connection import Connection
from acceerl.channels.links import Link
from acceerl.channels.snapshots import Layout, attach, machine
from acceerl.channels.weights_messages import Back, Offer, Pull, Seal
from acceerl.channels.wire import decode, encode
from acceerl.types import Weights

if TYPE_CHECKING:
    from acceerl.channels.mpi import Endpoint

log = logging.getLogger(__name__)


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
        endpoint.dial(link.server, publisher)

    def poll(self) -> Weights | None:
        while len(self.in_use) > 1:  # the role has come back from loading what followed it
            self._give_back(self.in_use.popleft())
        self.endpoint.pump_if_due()
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
        if memory is not None and offer.address:
            self._arrive(_Coming(offer, memory))
        elif memory is not None:
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

    def _look(self, coming: _Coming) -> None:
        """Has it come whole?"""
        if coming.missing or not coming.checksum:
            return
        self.coming = None
        if coming.whole:
            self._arrive(coming)
        else:
            self.corrupt += 1
            log.warning("%s: version %d failed its checksum, pulling it again", self.link.name, coming.offer.version)
            self._give_back(coming)
            self._pull(-1)

    def _arrive(self, version: _Coming) -> None:
        for replaced in list(self.arrived):
            self._give_back(replaced)
        self.arrived.append(version)
        self._pull(version.offer.version)

    def _give_back(self, version: _Coming) -> None:
        """Its memory may be written again, by the publisher whose it is or by the next pieces."""
        if version.offer.address:
            self._say(Back(version.offer.address), self.link.tag + 3)
        else:
            self.free.append(version.memory)
