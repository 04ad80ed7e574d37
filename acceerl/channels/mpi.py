"""Links between processes over MPI: read this to learn how processes find, meet and lose each other.

The recipe was found by trial (docs: libfabric's tcp provider under MPICH's ofi netmod; anything else crashes on
dynamic processes): one thread makes all MPI calls, errors return, nothing is ever finalised or disconnected,
and a process leaves by `Endpoint.finish`. What a meeting ends in, a port's communicator or two ranks of one world,
is known in meeting.py and world.py alone.

What a dead peer does to MPI, and what is done about it: a send to it is refused for ever, inside the call, with the
processor busy (hence EAGAIN_TRIES, after which the call fails and is tried again later); a send that meets a closing
socket makes MPICH abort this process (hence INJECT: up to this size a message is copied at once and cannot fail
later). `beat` feeds a watchdog that ends this process where all that was not enough, and its keeper restarts it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from acceerl.channels import ends
from acceerl.channels.connection import EAGER, EAGER_TAG, HELLO_ROOM, Connection, Place, Sending
from acceerl.channels.control import ControlPlane, Heard
from acceerl.channels.links import LINKS, Peer
from acceerl.channels.mailbox import Mailbox
from acceerl.channels.meeting import Key, Meetings, is_eagain
from acceerl.channels.mpi_library import epolls, load_mpi
from acceerl.channels.near import Lender, Proof, can_map
from acceerl.channels.pumping import Idle, Pumper
from acceerl.channels.weights import MpiPublisher
from acceerl.channels.weights_reader import MpiReader
from acceerl.channels.wire import LENT_TAG, NOTICE_TAG, Hello, WireError, mismatch, read_notice, tag_of
from acceerl.channels.world import WorldMeetings

log = logging.getLogger(__name__)
HELLO_S = 10.0
REFUSED_S = 5.0  # before dialling a peer again with which talking failed
FLUSH_S = 2.0
DUE_S = 20e-3  # without a pump, after which an end that relies on another one pumps itself


class Endpoint:
    """A process' place in the data plane: its port, its connections and its ends (`links.Ends`).

    `links` are the rows this process takes part in, `spec` what it must agree on with its peers (image size,
    proprio, chunk ...), `beat` is called at every pump and around every call that can hang. `near`: large messages go
    through shared memory where both ends are on one machine. `world`: how many processes of the training share one
    MPI_COMM_WORLD, which then takes the place of ports; 0: none do. Ends are made once, before the first pump. Use it
    from one thread, or call `start_pumper` and use the ends from another one.

    Raises ValueError (from any call of an end) when a peer refuses the connection; the text names the cause.
    Raises Misfit when MPI's world has another size than `world`.
    """

    def __init__(
        self,
        registry: ControlPlane,
        links: Sequence[str],
        spec: dict[str, Any] | None = None,
        beat: Callable[[], None] = lambda: None,
        silence_s: float = 60.0,
        near: bool = True,
        world: int = 0,
    ) -> None:
        self.registry, self.beat, self.silence_s, self.near = registry, beat, silence_s, near
        before = epolls()
        self.mpi = load_mpi(ports=not world)
        # In a world, ranks of one node talk through memory, which wakes no descriptor.
        self.idle = Idle([] if world else sorted(epolls() - before))  # for ends that wait
        role, index = registry.role, registry.index
        self.mailbox = Mailbox(self.mpi)
        parts = (self.mpi, registry, beat, self._talks_to, self._adopt)
        self.meetings = WorldMeetings(*parts, world) if world else Meetings(*parts)
        serves = any(LINKS[link].server == role for link in links)
        self.me = Peer(role, index, registry.announce(self.meetings.open_port() if serves else ""))
        self.page = Proof()
        self.hello = Hello(
            role, index, self.me.incarnation, sorted(links), eager=EAGER, proof=self.page.address, spec=spec or {}
        )
        self.connections: list[Connection] = []
        self.open: dict[Key, Connection] = {}
        self.handlers: dict[int, Callable[[Connection, np.ndarray], None]] = {}
        self.places: dict[int, Place] = {}
        self.on_open: list[Callable[[Connection], None]] = []
        self.on_lost: list[Callable[[Connection, str], None]] = []
        self.tickers: list[Callable[[], bool]] = []
        self.failure: BaseException | None = None
        self.pumped_at = 0.0
        self._remains: list[tuple[Any, np.ndarray]] = []
        self._pumper: Pumper | None = None
        self._answers = {
            "knock": self.meetings.on_knock,
            "come": self.meetings.on_come,
            "here": self.meetings.on_here,
            "gone": self._on_gone,
        }

    # Ends, see links.Ends

    def requests(self, servers: Sequence[int] | None = None) -> ends.MpiRequests:
        return ends.MpiRequests(self, tuple(servers or (0,)))

    def serving(self) -> ends.MpiServing:
        return ends.MpiServing(self)

    def sender(self, link: str, receivers: Sequence[int] = (0,)) -> ends.MpiSender:
        return ends.MpiSender(self, LINKS[link], tuple(receivers))

    def receiver(self, link: str, credits: int = 8, senders: Sequence[int] = (0,)) -> ends.MpiReceiver:
        return ends.MpiReceiver(self, LINKS[link], credits, tuple(senders))

    def publisher(self, link: str) -> MpiPublisher:
        return MpiPublisher(self, LINKS[link])

    def reader(self, link: str, publisher: int = 0) -> MpiReader:
        return MpiReader(self, LINKS[link], publisher, self.near)

    # Life

    def start_pumper(self) -> Pumper:
        """Moves all MPI calls to a thread of its own, for roles that compute (learner, world_model, dreamer)."""
        self._pumper = Pumper(self._pump, self.idle.descriptors, self._fail)
        return self._pumper.start()

    def pump(self) -> bool:
        """Moves everything that can move without waiting. True when something happened."""
        if self.failure is not None:
            raise self.failure
        if self._pumper is not None:
            return False
        return self._pump()

    def glance(self) -> None:
        """The part of `pump` after which one may sleep, for ends that wait often and for one peer."""
        if self.failure is None and self._pumper is None:
            self.idle.looked(self._receive())

    def ring(self) -> None:
        """Wakes the pumping thread, if there is one: there is something to do for it."""
        if self._pumper is not None:
            self._pumper.ring()

    def pump_if_due(self) -> None:
        """For ends that are asked at every turn of a loop which another end pumps anyway."""
        if self.failure is not None or time.monotonic() - self.pumped_at > DUE_S:
            self.pump()

    def finish(self, code: int) -> NoReturn:
        """Lets queued sends leave (at most FLUSH_S), says goodbye and ends the process without MPI_Finalize."""
        if self._pumper is not None:
            try:
                self._pumper.close()
            except TimeoutError as error:
                print(f"{self.me}: {error}; leaving without a flush", file=sys.stderr, flush=True)
                os._exit(code)
            self._pumper = None
        deadline = time.monotonic() + FLUSH_S
        while time.monotonic() < deadline and not all(c.idle for c in self.connections):
            self._pump()
        self.registry.report_gone(self.me.role, self.me.index)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def dial(self, role: str, index: int) -> None:
        """Asks for a connection to a server, kept up by itself until `hang_up`."""
        self.meetings.dial(role, index)

    def hang_up(self, role: str, index: int, why: str) -> None:
        self.meetings.hang_up((role, index))
        for connection in [c for c in self.connections if _is(c.dialled, role, index)]:
            self._drop(connection, why)

    def connection(self, role: str, index: int) -> Connection | None:
        """The open connection to a process, or None."""
        return self.open.get((role, index))

    def post(self, connection: Connection, tag: int, buffer: np.ndarray, bare: bool = False) -> Sending:
        """Queues a message and, in the pumping thread, hands it to MPI at once."""
        sending = connection.post(tag, buffer, bare)
        if self._pumper is not None:
            self.ring()
        elif connection.alive:
            self._guard(connection, connection.push, self.mailbox.watch)
        return sending

    # Pumping

    def _fail(self, error: BaseException) -> None:
        self.failure = error

    def _pump(self) -> bool:
        self.beat()
        self.pumped_at = time.monotonic()
        busy = bool(self.registry.events) and self._hear()
        busy |= self.meetings.due(self.pumped_at) and self.meetings.pump()
        busy |= self._receive()
        for connection in self.connections[:]:
            if connection.waiting or connection.peer is None or connection.refused:
                busy |= self._progress(connection)
        for tick in self.tickers:
            busy |= tick()
        self.idle.looked(busy)
        return busy

    def _receive(self) -> bool:
        """Takes what has come on the eager lanes; False when that was nothing."""
        messages = self.mailbox.collect()
        for connection, buffer in messages:
            self._take(connection, buffer)
        return bool(messages)

    def _hear(self) -> bool:
        events = self.registry.events
        while events:
            event = events.popleft()
            self._answers[event.what](event)
        return True

    def _on_gone(self, event: Heard) -> None:
        self.meetings.on_gone(event)
        gone = Peer(event.role, event.index, event.incarnation)
        for connection in [c for c in self.connections if (c.peer or c.dialled) == gone]:
            self._drop(connection, "the registry says that it is gone")

    def _talks_to(self, role: str, index: int) -> bool:
        """Also while the server's hello is on its way: a second connection would end the first."""
        return any(_is(connection.peer or connection.dialled, role, index) for connection in self.connections)

    def _adopt(self, comm: Any, server: Peer | None) -> None:
        connection = Connection(comm, time.monotonic() + HELLO_S, dialled=server)
        self.connections.append(connection)
        self.mailbox.open(connection)
        if server is not None:
            self.post(connection, EAGER_TAG, np.frombuffer(self.hello.to_bytes(), np.uint8))

    def _guard(self, connection: Connection, step: Callable[..., Any], *args: Any) -> Any:
        """Runs an MPI step; an MPI error ends the connection, at once or when it does not pass, and yields None."""
        try:
            return step(*args)
        except self.mpi.Exception as error:
            if not is_eagain(error) or connection.stall():
                self._drop(connection, error.Get_error_string().splitlines()[0])
            return None

    def _progress(self, connection: Connection) -> bool:
        moved = False
        if connection.waiting:
            moved = bool(self._guard(connection, connection.push, self.mailbox.watch))
        if connection.peer is None or connection.refused:
            self._expire(connection)
        return moved or not connection.alive

    def _expire(self, connection: Connection) -> None:
        if connection.refused and connection.idle:
            self._drop(connection, "refused")
        elif time.monotonic() > connection.deadline:
            self._drop(connection, f"no hello within {HELLO_S:.0f} s")

    def _take(self, connection: Connection, buffer: np.ndarray) -> None:
        """One message of the eager lane."""
        if not connection.alive:
            return
        try:
            if not len(buffer):
                self._drop(connection, "MPI says that it is gone")
            elif connection.peer is None:
                self._greet(connection, Hello.from_bytes(buffer.tobytes()))
            elif (tag := tag_of(buffer)) == NOTICE_TAG:
                self._guard(connection, self._expect, connection, *read_notice(buffer))
            elif tag == LENT_TAG:
                self._handle(connection, *connection.borrower.take(buffer))
            else:
                self._handle(connection, tag, buffer)
        except WireError as error:
            self._refuse(connection, str(error))

    def _expect(self, connection: Connection, tag: int, size: int) -> None:
        """Posts the receive for a large message that a notice announced."""
        place = self.places.get(tag)
        buffer = np.empty(size, np.uint8) if place is None else place(connection, size)
        request = connection.comm.Irecv(buffer, 0, tag)
        self.mailbox.watch(connection, request, buffer, lambda got: self._landed(connection, tag, buffer, got))

    def _landed(self, connection: Connection, tag: int, buffer: np.ndarray, got: int) -> None:
        if got == len(buffer):
            self._handle(connection, tag, buffer)
        else:
            self._drop(connection, "MPI says that it is gone")

    def _handle(self, connection: Connection, tag: int, buffer: np.ndarray) -> None:
        try:
            if connection.alive:
                self.handlers[tag](connection, buffer)
        except (WireError, KeyError) as error:
            self._refuse(connection, repr(error))

    def _refuse(self, connection: Connection, error: str) -> None:
        """Our fault or the peer's, so it must be seen; whoever dialled tries again later."""
        log.warning("%s: %s sent nonsense: %s", self.me, connection.peer or connection.dialled or "a peer", error)
        self._drop(connection, f"it sent nonsense: {error}", REFUSED_S)

    def _greet(self, connection: Connection, theirs: Hello) -> None:
        if theirs.refusal:
            raise ValueError(theirs.refusal)
        if connection.dialled is None:
            refusal = mismatch(self.hello, theirs)
            near = self.near and not refusal and can_map(theirs.proof)
            answer = replace(self.hello, refusal=refusal, near=near)
            connection.refused = bool(refusal)
            self.post(connection, EAGER_TAG, np.frombuffer(answer.to_bytes(), np.uint8))
            if refusal:
                return
        connection.peer = Peer(theirs.role, theirs.index, theirs.incarnation)
        connection.eager = theirs.eager or HELLO_ROOM
        connection.lender = Lender() if self.near and theirs.near else None
        connection.links = frozenset(self.hello.links) & frozenset(theirs.links)
        key = (theirs.role, theirs.index)
        if key in self.open:
            self._drop(self.open[key], "it connected again")
        self.open[key] = connection
        self.meetings.met(key)
        for call in self.on_open:
            call(connection)

    def _drop(self, connection: Connection, why: str, redial_after: float = 0.0) -> None:
        """Forgets a connection without a word to the peer: Disconnect could wait for the dead for ever, Free is local.

        MPICH has 2,048 communicators to give, and rollouts come and go for days.
        """
        if not connection.alive:
            return
        connection.alive = False
        self.connections.remove(connection)
        if connection.dialled:
            self.meetings.redial((connection.dialled.role, connection.dialled.index), redial_after)
        kept = self.mailbox.close(connection)
        self._remains = [(r, b) for r, b in self._remains if not self._over(r)] + kept
        with suppress(self.mpi.Exception):  # then it stays with MPI, one of many
            connection.comm.Free()
        if connection.peer is None:
            return
        key = (connection.peer.role, connection.peer.index)
        if self.open.get(key) is connection:
            del self.open[key]
        for call in self.on_lost:
            call(connection, why)

    def _over(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self.mpi.Exception:
            return True


def _is(peer: Peer | None, role: str, index: int) -> bool:
    return peer is not None and (peer.role, peer.index) == (role, index)
