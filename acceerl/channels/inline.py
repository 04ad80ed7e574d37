"""Links inside one process: deques between roles that are stepped in turn. For tests, debugging and laptops.

Nothing here ever sleeps or blocks, `wait` included: the serial runner steps the other roles instead.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence

import numpy as np

from acceerl.channels.links import LINKS, Peer, PeerLost
from acceerl.types import Act, Observed, Segment, Weights


class Still:
    """Nothing moves by itself inside one process, so there is nothing to pump."""

    def pump(self) -> None:
        """Does nothing."""


class Hub:
    """Where the ends of one process meet.

    >>> hub = Hub()
    >>> requests, serving = hub.ends("rollout", 0).requests(), hub.ends("inference", 0).serving()
    >>> requests.send(Observed(slot=0, assignment=None, observation=None))
    >>> [(peer, observed)] = serving.poll()
    >>> serving.reply(peer, Act(slot=0))
    >>> requests.poll()
    [Act(slot=0, actions=None, assignment=None)]
    """

    def __init__(self) -> None:
        self.serving: dict[int, InlineServing] = {}
        self.clients: dict[Peer, InlineRequests] = {}
        self.receivers: defaultdict[str, dict[int, InlineReceiver]] = defaultdict(dict)
        self.latest: dict[tuple[str, int], Weights] = {}
        self.backlog: defaultdict[int, deque[tuple[Peer, Observed]]] = defaultdict(deque)

    def ends(self, role: str, index: int = 0) -> InlineEnds:
        return InlineEnds(self, Peer(role, index))

    def drop(self, peer: Peer) -> None:
        """Pretends that a process died: its server calls it lost, or its clients lose their server."""
        for server in self.serving.values():
            server.vanish(peer)
        self.clients.pop(peer, None)
        if peer.role == "inference":
            self.backlog[peer.index].clear()
            for client in self.clients.values():
                client.lose(peer)


class InlineEnds(Still):
    """The ends of one role instance; the same methods as `mpi.Endpoint`."""

    def __init__(self, hub: Hub, me: Peer) -> None:
        self.hub, self.me = hub, me

    def requests(self, servers: Sequence[int] | None = None) -> InlineRequests:
        candidates = tuple(servers or (0,))
        client = InlineRequests(self.hub, self.me, candidates)
        self.hub.clients[self.me] = client
        return client

    def serving(self) -> InlineServing:
        return self.hub.serving.setdefault(self.me.index, InlineServing(self.hub, self.me))

    def sender(self, link: str, receivers: Sequence[int] = (0,)) -> InlineSender:
        return InlineSender(self.hub, link, tuple(receivers))

    def receiver(self, link: str, credits: int = 8) -> InlineReceiver:
        return self.hub.receivers[link].setdefault(self.me.index, InlineReceiver(link, credits))

    def publisher(self, link: str) -> InlinePublisher:
        return InlinePublisher(self.hub, (link, self.me.index))

    def reader(self, link: str, publisher: int = 0) -> InlineReader:
        return InlineReader(self.hub, (link, publisher))


class InlineRequests(Still):
    """See `links.Requests`."""

    def __init__(self, hub: Hub, me: Peer, servers: tuple[int, ...]) -> None:
        self.hub, self.me, self.servers = hub, me, servers
        self.turn = me.index % len(servers)
        self.inbox: deque[Act] = deque()
        self.waiting: set[int] = set()
        self.grief: PeerLost | None = None

    @property
    def in_flight(self) -> int:
        return len(self.waiting)

    def send(self, observed: Observed) -> None:
        self.waiting.add(observed.slot)
        self.hub.backlog[self.servers[self.turn]].append((self.me, observed))

    def poll(self) -> list[Act]:
        if self.grief is not None:
            grief, self.grief = self.grief, None
            raise grief
        acts = list(self.inbox)
        self.inbox.clear()
        self.waiting -= {act.slot for act in acts}
        return acts

    def wait(self, timeout_s: float) -> list[Act]:
        return self.poll()

    def lose(self, server: Peer) -> None:
        if self.servers[self.turn] != server.index:
            return
        self.turn = (self.turn + 1) % len(self.servers)
        self.inbox.clear()
        self.waiting.clear()
        next_peer = Peer("inference", self.servers[self.turn])
        self.grief = PeerLost(self.me, server, "act", "the process is gone", next_peer)


class InlineServing(Still):
    """See `links.Serving`."""

    def __init__(self, hub: Hub, me: Peer) -> None:
        self.hub, self.inbox = hub, hub.backlog[me.index]
        self.vanished: list[Peer] = []

    def poll(self) -> list[tuple[Peer, Observed]]:
        asked = list(self.inbox)
        self.inbox.clear()
        return asked

    def wait(self, timeout_s: float) -> list[tuple[Peer, Observed]]:
        return self.poll()

    def reply(self, peer: Peer, act: Act) -> None:
        client = self.hub.clients.get(peer)
        if client is not None:
            client.inbox.append(act)

    def lost(self) -> list[Peer]:
        gone, self.vanished = self.vanished, []
        return gone

    def vanish(self, peer: Peer) -> None:
        if peer not in self.hub.clients:
            return
        self.vanished.append(peer)
        kept = [entry for entry in self.inbox if entry[0] != peer]
        self.inbox.clear()
        self.inbox.extend(kept)


class InlineSender(Still):
    """See `links.SegmentSender`."""

    def __init__(self, hub: Hub, link: str, receivers: tuple[int, ...]) -> None:
        self.hub, self.link, self.indices = hub, LINKS[link], receivers
        self.dropped = 0
        self.lossy = self.link.when_full == "drop_oldest"

    def _receivers(self) -> list[InlineReceiver]:
        known = self.hub.receivers[self.link.name]
        return [known[i] for i in self.indices if i in known]

    def try_send(self, segment: Segment) -> bool:
        receivers = self._receivers()
        if not receivers:
            self.dropped += self.lossy
            return self.lossy
        target = max(receivers, key=lambda receiver: receiver.room(self))
        if target.room(self) > 0:
            target.accept(self, segment)
            return True
        if self.lossy:
            self.dropped += target.replace_oldest(self, segment)
        return self.lossy

    @property
    def full(self) -> bool:
        return not any(receiver.room(self) > 0 for receiver in self._receivers())

    @property
    def task_weights(self) -> np.ndarray | None:
        return next((r.task_weights for r in self._receivers() if r.task_weights is not None), None)


class InlineReceiver(Still):
    """See `links.SegmentReceiver`."""

    def __init__(self, link: str, credits: int) -> None:
        self.link, self.credits = link, credits
        self.inbox: deque[Segment] = deque()
        self.owed: deque[InlineSender] = deque()  # whose credits `grant` gives back, in order of arrival
        self.outstanding: Counter[InlineSender] = Counter()
        self.task_weights: np.ndarray | None = None

    def room(self, sender: InlineSender) -> int:
        return self.credits - self.outstanding[sender]

    def accept(self, sender: InlineSender, segment: Segment) -> None:
        self.inbox.append(segment)
        self.owed.append(sender)
        self.outstanding[sender] += 1

    def replace_oldest(self, sender: InlineSender, segment: Segment) -> int:
        """Makes room for `segment`; returns how many segments were dropped (always one)."""
        if self.inbox:
            self.inbox.popleft()
            self.inbox.append(segment)
        return 1

    def poll(self) -> list[Segment]:
        segments = list(self.inbox)
        self.inbox.clear()
        return segments

    def grant(self, n: int) -> None:
        for _ in range(min(n, len(self.owed))):
            self.outstanding[self.owed.popleft()] -= 1

    def set_task_weights(self, weights: np.ndarray) -> None:
        self.task_weights = np.array(weights)

    @property
    def depth(self) -> int:
        return len(self.inbox)


class InlinePublisher(Still):
    """See `links.WeightsPublisher`."""

    def __init__(self, hub: Hub, key: tuple[str, int]) -> None:
        self.hub, self.key = hub, key

    def publish(self, weights: Weights) -> None:
        copies = {name: array.copy() for name, array in weights.arrays.items()}
        self.hub.latest[self.key] = Weights(weights.version, copies)


class InlineReader(Still):
    """See `links.WeightsReader`."""

    def __init__(self, hub: Hub, key: tuple[str, int]) -> None:
        self.hub, self.key = hub, key
        self.seen: Weights | None = None

    def poll(self) -> Weights | None:
        latest = self.hub.latest.get(self.key)
        if latest is self.seen:
            return None
        self.seen = latest
        return latest
