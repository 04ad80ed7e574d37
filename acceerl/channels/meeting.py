"""How two processes come to a connection: knock, come, here, then MPI's Connect and Accept. Read with mpi.py.

The client knocks through the registry, the server answers `come` with its port, the client says `here` and calls
Connect; only then does the server call Accept. Either side may die in between, so neither call may hang:

- MPI gives up a send after EAGAIN_TRIES (mpi_library.py), hence Connect returns within milliseconds while a living
  server does not look at its network, and within a fraction of a second when it is dead. It is simply called again,
  from pump to pump. A server that took the message and does not call Accept costs MPI's time-out.
- Accept has MPI's own time-out, which ends it when the guest died at the door. What a dead client had already sent is
  the next Accept's first catch and makes it fail, so a guest that stands in Connect gets several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acceerl.channels.control import ControlPlane, Heard
from acceerl.channels.links import Peer

ACCEPT_S = 2  # the client stands at the door, so Accept takes milliseconds or hangs; MPI's own time-out
ACCEPTS = 3  # tries for one guest
CONNECT_S = 20  # a server may be busy with a batch; a watchdog must allow for more than this
CONNECT_PAUSE_S = 0.005  # before the second try, doubled each time up to a second:
LONGEST_PAUSE_S = 1.0  # MPICH 5.0 keeps something of each failed Connect and aborts at about the 96th of a process
TURN_S = 2.0  # how long a guest that was told to come may keep the next one waiting
ROUND_S = 0.05  # between two looks at the servers that we want
KNOCK_S = 0.3  # between two knocks at a server that does not answer
Key = tuple[str, int]


@dataclass(slots=True)
class _Call:
    """A client's attempt to connect."""

    server: Peer
    port: str
    until: float
    next: float = 0.0
    pause: float = CONNECT_PAUSE_S


class Meetings:
    """Both sides of all meetings of one process.

    `talks_to(role, index)`: is there a connection, if only a beginning one? `adopt(comm, server)` takes a new
    communicator; `server` is None on the accepting side.
    """

    def __init__(
        self, mpi: Any, registry: ControlPlane, beat: Callable[[], None],
        talks_to: Callable[[str, int], bool], adopt: Callable[[Any, Peer | None], None],
    ) -> None:  # fmt: skip
        self.mpi, self.registry, self.beat = mpi, registry, beat
        self.talks_to, self.adopt = talks_to, adopt
        self.port = ""  # set by processes that serve
        self.dials: dict[Key, float] = {}  # servers we want, and when to knock next
        self.calls: dict[Key, _Call] = {}
        self.knocks: dict[Key, int] = {}  # clients that want us, in order, with their incarnations
        self.guests: dict[Key, int] = {}  # clients that stand in Connect now, and how often Accept failed for them
        self.turn_over = 0.0
        self.next_round = 0.0  # when to look after the dials again

    def open_port(self) -> str:
        """Makes this process reachable; returns what others should know of it."""
        self.port = str(self.mpi.Open_port())
        return self.port

    def due(self, now: float) -> bool:
        """Is there anything for `pump` to do?"""
        return now >= self.next_round or bool(self.calls or self.guests or self.knocks)

    def pump(self) -> bool:
        """True when a connection came about."""
        now = time.monotonic()
        if now >= self.next_round:
            self._knock(now)
        met = bool(self.calls) and self._connect()
        return (bool(self.guests or self.knocks) and self._accept()) or met

    def dial(self, role: str, index: int) -> None:
        """Asks for a connection to a server, kept up by itself until `hang_up`."""
        self.dials.setdefault((role, index), 0.0)
        self.next_round = 0.0

    def hang_up(self, key: Key) -> None:
        self.dials.pop(key, None)
        self.calls.pop(key, None)

    def redial(self, key: Key, after: float) -> None:
        """The connection is gone; knock in so many seconds."""
        if key in self.dials:
            self.dials[key] = time.monotonic() + after

    def met(self, key: Key) -> None:
        """The connection is open: what the client knocked meanwhile is answered."""
        self.knocks.pop(key, None)

    def on_knock(self, event: Heard) -> None:
        self.knocks[event.role, event.index] = event.incarnation

    def on_here(self, event: Heard) -> None:
        self.guests[event.role, event.index] = 0

    def on_come(self, event: Heard) -> None:
        key = (event.role, event.index)
        if key in self.dials and key not in self.calls and not self.talks_to(*key):
            server = Peer(event.role, event.index, event.incarnation)
            self.calls[key] = _Call(server, event.data, time.monotonic() + CONNECT_S)
            self.registry.tell("here", *key)

    def on_gone(self, event: Heard) -> None:
        key = (event.role, event.index)
        if self.knocks.get(key) == event.incarnation:
            del self.knocks[key]
        self.guests.pop(key, None)
        if key in self.calls and self.calls[key].server.incarnation == event.incarnation:
            del self.calls[key]

    def _knock(self, now: float) -> None:
        self.next_round = now + ROUND_S
        for key, due in self.dials.items():
            if now >= due and key not in self.calls and not self.talks_to(*key):
                self.registry.tell("knock", *key)
                self.dials[key] = now + KNOCK_S

    def _connect(self) -> bool:
        now, met = time.monotonic(), False
        for key, call in list(self.calls.items()):
            if now < call.next:
                continue
            comm, again = self._meet(self.mpi.COMM_SELF.Connect, call.port, CONNECT_S)
            call.next = time.monotonic() + call.pause
            call.pause = min(2 * call.pause, LONGEST_PAUSE_S)
            if comm is not None or not again or now > call.until:
                del self.calls[key]
            if comm is not None:
                self.adopt(comm, call.server)
                met = True
        return met

    def _accept(self) -> bool:
        comm = None
        if self.guests:
            key = next(iter(self.guests))
            comm, _ = self._meet(self.mpi.COMM_SELF.Accept, self.port, ACCEPT_S)
            self.guests[key] += 1
            if comm is not None or self.guests[key] == ACCEPTS:
                del self.guests[key]
                self.turn_over = 0.0
            if comm is not None:
                self.adopt(comm, None)
        if self.knocks and time.monotonic() > self.turn_over:
            key = next(iter(self.knocks))
            del self.knocks[key]
            self.registry.tell("come", *key, data=self.port)
            self.turn_over = time.monotonic() + TURN_S
        return comm is not None

    def _meet(self, call: Callable[..., Any], port: str, timeout_s: int) -> tuple[Any, bool]:
        """(communicator or None, may it be tried again?)"""
        self.beat()
        info = self.mpi.Info.Create()
        info.Set("timeout", str(timeout_s))
        try:
            comm = call(port, info)
            comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        except self.mpi.Exception as error:  # the peer died or is busy; who still wants to talk knocks again
            return None, is_eagain(error)
        finally:
            info.Free()
            self.beat()
        return comm, False


def is_eagain(error: Any) -> bool:
    """Did MPI give up for now, because the way to the peer is not open (yet, or any more)?"""
    return "EAGAIN" in error.Get_error_string()
