"""The link table and the ends that roles hold: read this first if you want to know who may say what to whom.

Every fact about a link (tag, ends, payload, what happens when it is full, how long anyone waits) is one row of
`LINKS`. The Protocols below are all that a role sees of a link; `inline` and `mpi` both implement them, and one
contract suite runs over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from acceerl.types import Act, Observed, Segment, Weights

WhenFull = Literal["block", "drop_oldest", "latest"]


@dataclass(frozen=True, slots=True)
class Link:
    """One row of the table. `server` is the end that opens a port; the other end connects to it."""

    name: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    payload: type
    tag: int  # MPI tag; +1 is the way back (acknowledgements, pulls), +2 to +4 see weights.py
    when_full: WhenFull
    deadline_s: float
    server: str

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(role for role in self.senders + self.receivers if role != self.server)


LINKS: dict[str, Link] = {
    row.name: row
    for row in (
        Link("observe", ("rollout", "evaluator"), ("inference",), Observed, 10, "block", 120.0, "inference"),
        Link("act", ("inference",), ("rollout", "evaluator"), Act, 20, "block", 120.0, "inference"),
        Link("experience", ("inference",), ("learner",), Segment, 30, "block", 600.0, "learner"),
        Link("reality", ("inference",), ("world_model",), Segment, 40, "drop_oldest", 600.0, "world_model"),
        Link("contexts", ("world_model",), ("dreamer",), Segment, 50, "drop_oldest", 600.0, "world_model"),
        Link("dreams", ("dreamer",), ("learner",), Segment, 60, "drop_oldest", 600.0, "learner"),
        Link("policy_weights", ("learner",), ("inference", "dreamer"), Weights, 70, "latest", 600.0, "learner"),
        Link("world_weights", ("world_model",), ("dreamer",), Weights, 80, "latest", 600.0, "world_model"),
    )
}


class Peer(NamedTuple):
    """The other end of a connection: a process in one of its lives (`incarnation` counts its starts)."""

    role: str
    index: int  # type: ignore[assignment]  # hides the tuple's method of that name
    incarnation: int = 0

    def __str__(self) -> str:
        return f"{self.role}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Ack:
    """Way back of a segment link: how many more segments the receiver takes, and the latest task weights."""

    credits: int
    depth: int = 0  # segments in the receiver's inbox
    task_weights: np.ndarray | None = None  # float [tasks]


def timeout_text(waiter: object, seconds: float, peer: object, link: str) -> str:
    """The one sentence that every time-out on a link speaks.

    >>> timeout_text("rollout[17]", 120, "inference[1]", "act")
    'rollout[17] waited 120 s for inference[1] on link act'
    """
    return f"{waiter} waited {seconds:.0f} s for {peer} on link {link}"


class LinkTimeout(RuntimeError):
    """A wait outlived the link's deadline. `waiter` and `peer` are the two ends, `link` the row's name."""

    def __init__(self, waiter: object, seconds: float, peer: object, link: str) -> None:
        super().__init__(timeout_text(waiter, seconds, peer, link))
        self.waiter, self.seconds, self.peer, self.link = str(waiter), seconds, str(peer), link


class PeerLost(RuntimeError):
    """The server died or fell silent: everything in flight is forgotten, and the next send goes to `next_peer`."""

    def __init__(self, waiter: object, peer: object, link: str, why: str, next_peer: object = None) -> None:
        then = f"; going to {next_peer}" if next_peer is not None else ""
        super().__init__(f"{waiter} lost {peer} on link {link}: {why}{then}")
        self.waiter, self.peer, self.link = str(waiter), str(peer), link


@runtime_checkable
class Requests(Protocol):
    """Client end of observe and act (rollout, evaluator): one request in flight per environment slot."""

    def send(self, observed: Observed) -> None:
        """Queues one request and returns at once."""
        ...

    def poll(self) -> list[Act]:
        """The replies that have come, without waiting. Raises PeerLost once per lost server."""
        ...

    def wait(self, timeout_s: float) -> list[Act]:
        """Like poll, but sleeps until something comes or `timeout_s` is over (then []).

        Raises PeerLost when the server died or was silent (reset the environments and ask for new
        assignments; the end reconnects by itself), LinkTimeout when requests are in flight and nothing came
        for the link's deadline. A server that lives says so meanwhile: whom it waits for has a deadline of its own.
        """
        ...

    @property
    def in_flight(self) -> int: ...

    def pump(self) -> None: ...


@runtime_checkable
class Serving(Protocol):
    """Server end of observe and act (inference). A peer is an opaque, hashable id."""

    def poll(self) -> list[tuple[Peer, Observed]]: ...

    def wait(self, timeout_s: float) -> list[tuple[Peer, Observed]]:
        """Like poll, but sleeps (adaptively, pumping) until something comes or `timeout_s` is over."""
        ...

    def reply(self, peer: Peer, act: Act) -> None:
        """Queues the answer; an answer to a peer that is gone is dropped."""
        ...

    def lost(self) -> list[Peer]:
        """Peers that vanished since the last call; drop what is held for them."""
        ...

    def pump(self) -> None: ...


@runtime_checkable
class SegmentSender(Protocol):
    """Sending end of experience, reality, contexts or dreams."""

    def try_send(self, segment: Segment) -> bool:
        """Sends if a receiver has credit left. False: nobody has, the segment is still the caller's.

        On links that drop the oldest this is always True and `dropped` counts.
        """
        ...

    @property
    def task_weights(self) -> np.ndarray | None:
        """float [tasks], the latest that came back with an acknowledgement."""
        ...

    @property
    def dropped(self) -> int: ...

    @property
    def full(self) -> bool:
        """Has nobody credit left? Whoever makes Segments only to have them dropped may wait instead."""
        ...

    def pump(self) -> None: ...


@runtime_checkable
class SegmentReceiver(Protocol):
    """Receiving end of a segment link. Whoever takes segments must grant as many credits in time."""

    def poll(self) -> list[Segment]: ...

    def grant(self, n: int) -> None:
        """Gives `n` credits back, to the senders whose segments came first."""
        ...

    def set_task_weights(self, weights: np.ndarray) -> None:
        """float [tasks]; travels with the next acknowledgements."""
        ...

    @property
    def depth(self) -> int:
        """Segments that have arrived and were not polled yet."""
        ...

    def pump(self) -> None: ...


@runtime_checkable
class WeightsPublisher(Protocol):
    """Sending end of a weights link: latest wins, nobody waits for a slow reader."""

    def publish(self, weights: Weights) -> None:
        """Offers a new version. Copies the arrays before it returns, so they may change afterwards."""
        ...

    def pump(self) -> None: ...


@runtime_checkable
class WeightsReader(Protocol):
    """Reading end of a weights link."""

    def poll(self) -> Weights | None:
        """The newest complete version, each at most once; None when there is nothing new.

        After a learner restart from a checkpoint the version may go back: it is delivered too. The arrays are to be
        read only, and they hold the version until the `poll` after the one that delivers the next: a policy may
        compute on them as they are.
        """
        ...

    def pump(self) -> None: ...


@runtime_checkable
class Ends(Protocol):
    """What makes a process' ends: `inline.InlineEnds` or `mpi.Endpoint`. Ask for each end once."""

    def requests(self, servers: Sequence[int] | None = None) -> Requests:
        """`servers`: the inference indices to use; process i starts at servers[i mod len]."""
        ...

    def serving(self) -> Serving: ...

    def sender(self, link: str, receivers: Sequence[int] = (0,)) -> SegmentSender: ...

    def receiver(self, link: str, credits: int = 8) -> SegmentReceiver:
        """`credits`: how many ungranted segments each sender may have outstanding."""
        ...

    def publisher(self, link: str) -> WeightsPublisher: ...

    def reader(self, link: str, publisher: int = 0) -> WeightsReader: ...

    def pump(self) -> object: ...
