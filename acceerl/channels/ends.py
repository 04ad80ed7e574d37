"""Request and segment ends over an MPI endpoint: credits and fail-over. `links` says what they promise.

Messages go through queues that any thread may touch, so the same code serves roles that pump themselves and
roles with a pumping thread. No mpi4py in here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from acceerl.channels.connection import Connection
from acceerl.channels.links import LINKS, Ack, Link, LinkTimeout, Peer, PeerLost
from acceerl.channels.wire import decode, encode
from acceerl.types import Act, Observed, Segment

if TYPE_CHECKING:
    from acceerl.channels.mpi import Endpoint

OBSERVE, ACT = LINKS["observe"], LINKS["act"]
CHECK_S = 0.02  # between two looks at the deadlines
NOT_YET = Act(slot=-1)  # answers nothing: the server lives, and cannot answer before somebody else has done their part
PATIENCE_S = 10.0  # for a server that does not answer the knock, before the next one is tried


class MpiRequests:
    """See `links.Requests`. Knows one server at a time."""

    def __init__(self, endpoint: Endpoint, servers: tuple[int, ...]) -> None:
        self.endpoint, self.servers = endpoint, servers
        self.turn = endpoint.me.index % len(servers)
        self.inbox: deque[Act] = deque()
        self.outbox: deque[np.ndarray] = deque()  # until the connection is open
        self.slots: set[int] = set()
        self.grief: PeerLost | None = None
        self.since: float | None = None  # last sign of life while something was in flight, across servers
        self.heard = 0.0  # last sign of life of this server
        self.open: Connection | None = None  # to this server
        self.next_check = 0.0
        endpoint.handlers[ACT.tag] = self._on_act
        endpoint.on_open.append(self._on_open)
        endpoint.on_lost.append(self._on_lost)
        self._dial()

    @property
    def server(self) -> Peer:
        return Peer(OBSERVE.server, self.servers[self.turn])

    @property
    def in_flight(self) -> int:
        return len(self.slots)

    def send(self, observed: Observed) -> None:
        if self.grief is not None:  # it belongs to an episode that the next `poll` gives up
            return
        now = time.monotonic()
        self.since = self.since or now
        if not self.slots:
            self.heard = now
        self.slots.add(observed.slot)
        self.outbox.append(encode(observed, OBSERVE.tag, self.open.room if self.open is not None else None))
        self._flush()

    def poll(self) -> list[Act]:
        self.endpoint.pump()
        acts = []
        while self.inbox:
            acts.append(self.inbox.popleft())
            self.slots.discard(acts[-1].slot)
        if acts:
            self.since = time.monotonic() if self.slots else None
        if self.grief is not None or time.monotonic() >= self.next_check:
            self._check()
        return acts

    def wait(self, timeout_s: float) -> list[Act]:
        deadline = time.monotonic() + timeout_s
        if self.open is not None and self.open.idle:  # the request has left
            self.endpoint.glance()
            self.endpoint.idle.rest(timeout_s)
        while not (acts := self.poll()) and (left := deadline - time.monotonic()) > 0:
            self.endpoint.idle.rest(left)
        return acts

    def pump(self) -> None:
        self.endpoint.pump()

    def _dial(self) -> None:
        self.patience = time.monotonic() + PATIENCE_S
        self.heard = time.monotonic()
        self.endpoint.dial(OBSERVE.server, self.servers[self.turn])

    def _flush(self) -> None:
        while self.open is not None and self.open.alive and self.outbox:
            self.endpoint.post(self.open, OBSERVE.tag, self.outbox.popleft())

    def _on_open(self, connection: Connection) -> None:
        if connection is self.endpoint.connection(OBSERVE.server, self.servers[self.turn]):
            self.open = connection
            self.heard = time.monotonic()
            self._flush()

    def _on_act(self, connection: Connection, buffer: np.ndarray) -> None:
        if connection is not self.open:
            return
        self.heard = time.monotonic()
        act = decode(Act, buffer, ACT.tag)
        if act.slot != NOT_YET.slot:
            self.inbox.append(act)
        elif self.since is not None:
            self.since = self.heard

    def _on_lost(self, connection: Connection, why: str) -> None:
        if connection.peer is not None and connection.peer.role == OBSERVE.server:
            lost = connection.peer
            if lost.index == self.servers[self.turn]:
                self._move_on(lost, why)

    def _move_on(self, lost: Peer, why: str) -> None:
        """The next server, by turns; with one server that is its next incarnation."""
        self.turn = (self.turn + 1) % len(self.servers)
        self.open = None
        self.grief = PeerLost(self.endpoint.me, lost, ACT.name, why, self.server)
        for queue in (self.inbox, self.outbox, self.slots):
            queue.clear()
        if len(self.servers) > 1:
            self.endpoint.hang_up(lost.role, lost.index, "failed over")
        self._dial()

    def _check(self) -> None:
        now = time.monotonic()
        self.next_check = now + CHECK_S
        connection = self.open
        if connection is None and now > self.patience and self.grief is None:
            self._try_next()
        elif connection is not None and self.slots and now - self.heard > self.endpoint.silence_s:
            assert connection.peer is not None
            self.endpoint.hang_up(OBSERVE.server, connection.peer.index, f"silent for {self.endpoint.silence_s:.0f} s")
        if self.since is not None and now - self.since > ACT.deadline_s:
            since, self.since = self.since, None
            raise LinkTimeout(self.endpoint.me, now - since, self.server, ACT.name)
        if self.grief is not None:
            grief, self.grief = self.grief, None
            raise grief

    def _try_next(self) -> None:
        """No connection came about: what waits in the outbox was seen by nobody, so it goes to the next server."""
        self.endpoint.hang_up(OBSERVE.server, self.servers[self.turn], "no answer to the knock")
        self.turn = (self.turn + 1) % len(self.servers)
        self._dial()


class MpiServing:
    """See `links.Serving`.

    A peer may lose its connection and open another one in the same life. Until the role has read `lost`, all that it
    holds for this peer is of the old connection: answers are dropped, and new requests wait. Whoever waits long for an
    answer (a learner that computes for minutes holds all of them back) is told now and then that it is not forgotten.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.inbox: deque[tuple[Peer, Observed]] = deque()
        self.vanished: list[Peer] = []
        self.unanswered: set[tuple[Peer, int]] = set()  # with the slot; requests come in the pumping thread
        self.next_word = time.monotonic() + endpoint.silence_s / 4
        endpoint.handlers[OBSERVE.tag] = self._on_observe
        endpoint.on_lost.append(self._on_lost)

    def poll(self) -> list[tuple[Peer, Observed]]:
        self.endpoint.pump()
        if self.unanswered and time.monotonic() >= self.next_word:
            self._reassure()
        if not self.inbox:
            return []
        asked = [entry for entry in self.inbox if entry[0] not in self.vanished]
        self.inbox = deque(entry for entry in self.inbox if entry[0] in self.vanished)
        return asked

    def wait(self, timeout_s: float) -> list[tuple[Peer, Observed]]:
        deadline = time.monotonic() + timeout_s
        while True:
            asked = self.poll()
            left = deadline - time.monotonic()
            if asked or left <= 0:
                return asked
            self.endpoint.idle.rest(left)

    def reply(self, peer: Peer, act: Act) -> None:
        if self._post(peer, act):
            self.unanswered.discard((peer, act.slot))

    def _reassure(self) -> None:
        self.next_word = time.monotonic() + self.endpoint.silence_s / 4
        for peer in {peer for peer, _ in tuple(self.unanswered)}:
            self._post(peer, NOT_YET)

    def _post(self, peer: Peer, act: Act) -> bool:
        connection = self.endpoint.connection(peer.role, peer.index)
        if connection is None or connection.peer != peer or peer in self.vanished:
            return False
        self.endpoint.post(connection, ACT.tag, encode(act, ACT.tag))
        return True

    def lost(self) -> list[Peer]:
        gone, self.vanished = self.vanished, []
        return gone

    def pump(self) -> None:
        self.endpoint.pump()

    def _on_observe(self, connection: Connection, buffer: np.ndarray) -> None:
        assert connection.peer is not None
        observed = decode(Observed, buffer, OBSERVE.tag)
        self.unanswered.add((connection.peer, observed.slot))
        self.inbox.append((connection.peer, observed))

    def _on_lost(self, connection: Connection, why: str) -> None:
        peer = connection.peer
        if peer is not None and OBSERVE.name in connection.links:
            self.vanished.append(peer)
            self.inbox = deque(entry for entry in self.inbox if entry[0] != peer)
            self.unanswered -= {entry for entry in tuple(self.unanswered) if entry[0] == peer}


class MpiSender:
    """See `links.SegmentSender`. Starts without credit; each receiver grants some when the connection opens."""

    def __init__(self, endpoint: Endpoint, link: Link, receivers: tuple[int, ...]) -> None:
        self.endpoint, self.link = endpoint, link
        self.lossy = link.when_full == "drop_oldest"
        self.credits: dict[Connection, int] = {}
        self.depths: dict[Connection, int] = {}
        self.outbox: deque[Segment] = deque()  # only on links that drop
        self.dropped = 0
        self._task_weights: np.ndarray | None = None
        self._lock = threading.Lock()  # acknowledgements come in the pumping thread
        endpoint.handlers[link.tag + 1] = self._on_ack
        endpoint.on_lost.append(self._on_lost)
        if link.server != endpoint.me.role:
            for index in receivers:
                endpoint.dial(link.server, index)

    @property
    def task_weights(self) -> np.ndarray | None:
        return self._task_weights

    def try_send(self, segment: Segment) -> bool:
        self.endpoint.pump()
        connection = self._take_credit()
        if connection is not None:
            self._send(connection, segment)
        elif self.lossy:
            self._keep(segment)
        return connection is not None or self.lossy

    def pump(self) -> None:
        self.endpoint.pump()

    @property
    def full(self) -> bool:
        self.endpoint.pump()
        with self._lock:
            return not any(credit > 0 for credit in self.credits.values())

    def _take_credit(self) -> Connection | None:
        """The receiver with the most room: most credit left, then the emptier inbox."""
        with self._lock:
            best = max(self.credits, key=lambda c: (self.credits[c], -self.depths[c]), default=None)
            if best is None or self.credits[best] <= 0:
                return None
            self.credits[best] -= 1
            return best

    def _send(self, connection: Connection, segment: Segment) -> None:
        self.endpoint.post(connection, self.link.tag, encode(segment, self.link.tag, connection.room))

    def _keep(self, segment: Segment) -> None:
        self.outbox.append(segment)
        while len(self.outbox) > 4:  # enough to start at once when credit comes; more would only be older
            self.outbox.popleft()
            self.dropped += 1

    def _on_ack(self, connection: Connection, buffer: np.ndarray) -> None:
        ack = decode(Ack, buffer, self.link.tag + 1)
        with self._lock:
            self.credits[connection] = self.credits.get(connection, 0) + ack.credits
            self.depths[connection] = ack.depth
        if ack.task_weights is not None:
            self._task_weights = ack.task_weights
        while self.outbox and (target := self._take_credit()) is not None:
            self._send(target, self.outbox.popleft())

    def _on_lost(self, connection: Connection, why: str) -> None:
        with self._lock:
            self.credits.pop(connection, None)
            self.depths.pop(connection, None)


class MpiReceiver:
    """See `links.SegmentReceiver`."""

    def __init__(self, endpoint: Endpoint, link: Link, credits: int, senders: tuple[int, ...]) -> None:
        self.endpoint, self.link, self.initial = endpoint, link, credits
        self.inbox: deque[Segment] = deque()
        self.owed: deque[Connection] = deque()  # whose credits `grant` gives back, in order of arrival
        self.task_weights: np.ndarray | None = None
        endpoint.handlers[link.tag] = self._on_segment
        endpoint.on_open.append(self._on_open)
        if link.server != endpoint.me.role:
            for index in senders:
                endpoint.dial(link.server, index)

    @property
    def depth(self) -> int:
        return len(self.inbox)

    def poll(self) -> list[Segment]:
        self.endpoint.pump()
        segments = []
        while self.inbox:
            segments.append(self.inbox.popleft())
        return segments

    def grant(self, n: int) -> None:
        owed: dict[Connection, int] = {}
        for _ in range(min(n, len(self.owed))):
            connection = self.owed.popleft()
            owed[connection] = owed.get(connection, 0) + 1
        for connection, credits in owed.items():
            self._acknowledge(connection, credits)

    def set_task_weights(self, weights: np.ndarray) -> None:
        self.task_weights = np.array(weights)

    def pump(self) -> None:
        self.endpoint.pump()

    def _acknowledge(self, connection: Connection, credits: int) -> None:
        if connection.alive:
            ack = Ack(credits, self.depth, self.task_weights)
            self.endpoint.post(connection, self.link.tag + 1, encode(ack, self.link.tag + 1))

    def _on_open(self, connection: Connection) -> None:
        assert connection.peer is not None
        if self.link.name in connection.links and connection.peer.role in self.link.senders:
            self._acknowledge(connection, self.initial)

    def _on_segment(self, connection: Connection, buffer: np.ndarray) -> None:
        self.inbox.append(decode(Segment, buffer, self.link.tag))
        self.owed.append(connection)
