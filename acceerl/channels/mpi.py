"""Links between processes over MPI ports: read this to learn how processes find, meet and lose each other.

The recipe was found by trial (docs: libfabric's tcp provider under MPICH's ofi netmod; anything else crashes on
dynamic processes): one thread makes all MPI calls, errors return, nothing is ever finalised or disconnected,
and a process leaves by `Endpoint.finish`. Only this file imports mpi4py, and only inside a function, because
child processes that import it abort the job.

To meet, the client knocks through the registry, the server answers `come` with its port, and the client says
`here` and calls Connect; only then does the server call Accept. A peer killed in between can still leave either
call hanging beyond its time-out: `beat` feeds a watchdog that then ends this process, and its keeper restarts it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from acceerl.channels import ends
from acceerl.channels.connection import ANY_TAG, HELLO_TAG, Connection, Place, Sending
from acceerl.channels.control import ControlPlane, Heard
from acceerl.channels.links import LINKS, Peer
from acceerl.channels.pumping import Pumper
from acceerl.channels.weights import MpiPublisher, MpiReader
from acceerl.channels.wire import Hello, WireError, mismatch

ACCEPT_S = 2  # the client stands at the door, so Accept takes milliseconds or hangs; MPI's own time-out
CONNECT_S = 20  # a server may be busy with a batch; a watchdog must allow for more than this
TURN_S = 2.0  # how long a guest that was told to come may keep the next one waiting
KNOCK_S = 1.0  # between two knocks at a server that does not answer
HELLO_S = 10.0
FLUSH_S = 2.0
Key = tuple[str, int]


def load_mpi() -> Any:
    """Imports and initialises MPI with the settings that survive dying peers. Raises RuntimeError outside mpiexec."""
    if not any(name.startswith("PMI") for name in os.environ):
        raise RuntimeError("start this process with `mpiexec -n 1`: MPI ports crash in a bare process")
    os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
    os.environ.setdefault("FI_PROVIDER", "tcp")
    import mpi4py

    mpi4py.rc.finalize = False
    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    MPI.COMM_SELF.Set_errhandler(MPI.ERRORS_RETURN)
    MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    return MPI


class Endpoint:
    """A process' place in the data plane: its port, its connections and its ends (`links.Ends`).

    `links` are the rows this process takes part in, `spec` what it must agree on with its peers (image size,
    proprio, chunk ...), `beat` is called at every pump and around every call that can hang. Ends are made once,
    before the first pump. Use it from one thread, or call `start_pumper` and use the ends from another one.

    Raises ValueError (from any call of an end) when a peer refuses the connection; the text names the cause.
    """

    def __init__(
        self,
        registry: ControlPlane,
        links: Sequence[str],
        spec: dict[str, Any] | None = None,
        beat: Callable[[], None] = lambda: None,
        silence_s: float = 60.0,
    ) -> None:
        self.registry, self.beat, self.silence_s = registry, beat, silence_s
        self.mpi = load_mpi()
        assert self.mpi.ANY_TAG == ANY_TAG, "connection.py counts on MPICH's constants"
        role, index = registry.role, registry.index
        serves = any(LINKS[link].server == role for link in links)
        self.port = self.mpi.Open_port() if serves else ""
        self.me = Peer(role, index, registry.announce(self.port))
        self.hello = Hello(role, index, self.me.incarnation, sorted(links), spec=spec or {})
        self.connections: list[Connection] = []
        self.open: dict[Key, Connection] = {}
        self.dials: dict[Key, float] = {}  # servers we want, and when to knock next
        self.knocks: dict[Key, int] = {}  # clients that want us, in order, with their incarnations
        self.guests: list[Key] = []  # clients that stand in Connect now
        self.turn_over = 0.0
        self.handlers: dict[int, Callable[[Connection, np.ndarray], None]] = {}
        self.places: dict[int, Place] = {}
        self.on_open: list[Callable[[Connection], None]] = []
        self.on_lost: list[Callable[[Connection, str], None]] = []
        self.tickers: list[Callable[[], bool]] = []
        self.moving = False  # a message of some connection has begun and not ended
        self.failure: BaseException | None = None
        self._remains: list[tuple[Any, np.ndarray]] = []
        self._pumper: Pumper | None = None
        self._answers = {
            "knock": self._on_knock,
            "come": self._on_come,
            "here": self._on_here,
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
        return MpiReader(self, LINKS[link], publisher)

    # Life

    def start_pumper(self) -> Pumper:
        """Moves all MPI calls to a thread of its own, for roles that compute (learner, world_model, dreamer)."""
        self._pumper = Pumper(self._pump, lambda: self.moving, self._fail)
        return self._pumper.start()

    def pump(self) -> bool:
        """Moves everything that can move without waiting. True when something happened."""
        if self.failure is not None:
            raise self.failure
        if self._pumper is not None:
            return False
        return self._pump()

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
        self.dials.setdefault((role, index), 0.0)

    def hang_up(self, role: str, index: int, why: str) -> None:
        self.dials.pop((role, index), None)
        for connection in [
            c for c in self.connections if c.dialled and (c.dialled.role, c.dialled.index) == (role, index)
        ]:
            self._drop(connection, why)

    def connection(self, role: str, index: int) -> Connection | None:
        """The open connection to a process, or None."""
        return self.open.get((role, index))

    def post(self, connection: Connection, tag: int, buffer: np.ndarray) -> Sending:
        """Queues a message and, in the pumping thread, hands it to MPI at once."""
        sending = connection.post(tag, buffer)
        if self._pumper is None and connection.alive:
            self._guard(connection, connection.push)
        return sending

    # Pumping

    def _fail(self, error: BaseException) -> None:
        self.failure = error

    def _pump(self) -> bool:
        self.beat()
        busy = self._hear()
        self._knock()
        self._receive_guests()
        self.moving = False
        for connection in list(self.connections):
            busy |= self._progress(connection)
            self.moving |= connection.moving
        for tick in self.tickers:
            busy |= tick()
        return busy

    def _hear(self) -> bool:
        events = self.registry.events
        heard = bool(events)
        while events:
            event = events.popleft()
            self._answers[event.what](event)
        return heard

    def _on_knock(self, event: Heard) -> None:
        self.knocks[event.role, event.index] = event.incarnation

    def _on_here(self, event: Heard) -> None:
        self.guests.append((event.role, event.index))

    def _on_gone(self, event: Heard) -> None:
        key = (event.role, event.index)
        if self.knocks.get(key) == event.incarnation:
            del self.knocks[key]
        self.guests = [guest for guest in self.guests if guest != key]
        for connection in list(self.connections):
            peer = connection.peer or connection.dialled
            if peer == Peer(*key, event.incarnation):
                self._drop(connection, "the registry says that it is gone")

    def _on_come(self, event: Heard) -> None:
        key = (event.role, event.index)
        if key not in self.dials or any(
            c.dialled and (c.dialled.role, c.dialled.index) == key for c in self.connections
        ):
            return
        self.registry.tell("here", *key)
        comm = self._meet(self.mpi.COMM_SELF.Connect, event.data, CONNECT_S)
        if comm is None:
            return
        connection = self._adopt(comm)
        connection.dialled = Peer(event.role, event.index, event.incarnation)
        self.post(connection, HELLO_TAG, np.frombuffer(self.hello.to_bytes(), np.uint8))

    def _knock(self) -> None:
        now = time.monotonic()
        for key, due in self.dials.items():
            if now >= due and key not in self.open:
                self.registry.tell("knock", *key)
                self.dials[key] = now + KNOCK_S

    def _receive_guests(self) -> None:
        if self.guests:
            self.guests.pop(0)
            comm = self._meet(self.mpi.COMM_SELF.Accept, self.port, ACCEPT_S)
            if comm is not None:
                self._adopt(comm)
            self.turn_over = 0.0
        if self.knocks and time.monotonic() > self.turn_over:
            key = next(iter(self.knocks))
            del self.knocks[key]
            self.registry.tell("come", *key, data=self.port)
            self.turn_over = time.monotonic() + TURN_S

    def _meet(self, call: Callable[..., Any], port: str, timeout_s: int) -> Any:
        """Accept or Connect: the two calls that can hang. None when MPI gave up."""
        self.beat()
        info = self.mpi.Info.Create()
        info.Set("timeout", str(timeout_s))
        try:
            comm = call(port, info)
            comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        except self.mpi.Exception:  # the peer died or went away; who still wants to talk knocks again
            return None
        finally:
            info.Free()
            self.beat()
        return comm

    def _adopt(self, comm: Any) -> Connection:
        connection = Connection(comm, self.mpi.Status(), time.monotonic() + HELLO_S)
        self.connections.append(connection)
        return connection

    def _guard(self, connection: Connection, step: Callable[[], Any]) -> Any:
        """Runs an MPI step; an MPI error ends the connection and yields None."""
        try:
            return step()
        except self.mpi.Exception as error:
            self._drop(connection, error.Get_error_string().splitlines()[0])
            return None

    def _progress(self, connection: Connection) -> bool:
        moved = bool(self._guard(connection, connection.push))
        if not connection.alive:
            return True
        arrived = self._guard(connection, lambda: connection.pull(self.places)) or ()
        for tag, buffer in arrived:
            if connection.alive:
                self._take(connection, tag, buffer)
        self._expire(connection)
        return moved or bool(arrived)

    def _expire(self, connection: Connection) -> None:
        if connection.peer is None and time.monotonic() > connection.deadline:
            self._drop(connection, f"no hello within {HELLO_S:.0f} s")
        elif connection.refused and connection.idle:
            self._drop(connection, "refused")

    def _take(self, connection: Connection, tag: int, buffer: np.ndarray) -> None:
        try:
            if connection.peer is None:
                self._greet(connection, Hello.from_bytes(buffer.tobytes()))
            else:
                self.handlers[tag](connection, buffer)
        except (WireError, KeyError) as error:
            self._drop(connection, f"it sent nonsense: {error!r}")

    def _greet(self, connection: Connection, theirs: Hello) -> None:
        if theirs.refusal:
            raise ValueError(theirs.refusal)
        if connection.dialled is None:
            refusal = mismatch(self.hello, theirs)
            answer = replace(self.hello, refusal=refusal)
            connection.refused = bool(refusal)
            self.post(connection, HELLO_TAG, np.frombuffer(answer.to_bytes(), np.uint8))
            if refusal:
                return
        connection.peer = Peer(theirs.role, theirs.index, theirs.incarnation)
        connection.links = frozenset(self.hello.links) & frozenset(theirs.links)
        key = (theirs.role, theirs.index)
        if key in self.open:
            self._drop(self.open[key], "it connected again")
        self.open[key] = connection
        for call in self.on_open:
            call(connection)

    def _drop(self, connection: Connection, why: str) -> None:
        """Forgets a connection without a word to MPI: Disconnect could wait for the dead for ever."""
        if not connection.alive:
            return
        connection.alive = False
        self.connections.remove(connection)
        if connection.dialled and (key := (connection.dialled.role, connection.dialled.index)) in self.dials:
            self.dials[key] = 0.0
        self._remains = [(r, b) for r, b in self._remains if not self._over(r)] + connection.remains()
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


__all__ = ["Endpoint", "Pumper", "load_mpi"]
