"""The ends of a weights link on a wire of the test's own: pieces, shared memory, damage, and whose memory is whose."""

from collections import defaultdict, deque

import numpy as np
import pytest

from acceerl.channels import weights, weights_reader
from acceerl.channels.connection import Sending
from acceerl.channels.links import LINKS, Peer
from acceerl.channels.snapshots import Layout, Turns
from acceerl.channels.weights import MpiPublisher
from acceerl.channels.weights_messages import Pull
from acceerl.channels.weights_reader import MpiReader
from acceerl.channels.wire import decode
from acceerl.types import Weights

LINK = LINKS["policy_weights"]


class Wire:
    """One direction of a connection; as a dictionary key it stands for the connection, as seen from its sender."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.alive, self.links = peer, True, {LINK.name}
        self.sent: deque[tuple[int, Sending]] = deque()


class End:
    """What the ends need of an `Endpoint`; `deliver` hands over one message."""

    def __init__(self) -> None:
        self.handlers, self.places, self.tickers = {}, {}, []
        self.on_open, self.on_lost = [], []

    def ring(self) -> None:
        """Nobody sleeps here."""

    def pump_if_due(self) -> None:
        self.pump()

    def pump(self) -> None:
        for tick in self.tickers:
            tick()

    def dial(self, role: str, index: int) -> None:
        pass

    def post(self, connection: Wire, tag: int, buffer: np.ndarray, bare: bool = False) -> Sending:
        sending = Sending(tag, buffer, bare)
        connection.sent.append((tag, sending))
        return sending


class Pair:
    """A publisher, a reader, and their connection."""

    def __init__(self, near: bool) -> None:
        self.there, self.here = End(), End()
        self.publisher = MpiPublisher(self.there, LINK)
        self.reader = MpiReader(self.here, LINK, 0, near=near)
        self.damage = 0  # pieces that are still to be damaged on their way
        self.connect()

    def connect(self) -> None:
        self.down, self.up = Wire(Peer("inference", 0)), Wire(Peer("learner", 0))
        for call in self.here.on_open:
            call(self.up)

    def cut(self) -> None:
        for call in self.there.on_lost:
            call(self.down, "cut")
        for call in self.here.on_lost:
            call(self.up, "cut")

    def move(self, most: int = 1000) -> None:
        """Ticks both ends and carries at most so many messages."""
        for _ in range(most):
            self.there.pump()
            self.here.pump()
            if self.up.sent:
                self.carry(self.up, self.there, self.down)
            elif self.down.sent:
                self.carry(self.down, self.here, self.up)

    def carry(self, wire: Wire, end: End, connection: Wire) -> None:
        tag, sending = wire.sent.popleft()
        given = sending.buffer
        if tag in end.places:
            place = end.places[tag](connection, given.nbytes)
            place[:] = given
            if self.damage:
                self.damage -= 1
                place[len(place) // 2] ^= 1
            given = place
        sending.done = True
        end.handlers[tag](connection, given)


def version(number: int, size: int = 5000) -> Weights:
    return Weights(number, {"w": np.full((size // 10, 10), number, np.float32), "n": np.array(number)})


def says(got: Weights | None, number: int) -> bool:
    return got is not None and got.version == number and bool((got.arrays["w"] == number).all())


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(weights, "PIECE", 1024)


@pytest.fixture(params=[True, False], ids=["shared", "pieces"])
def pair(request) -> Pair:
    return Pair(request.param)


def test_versions_arrive_one_after_another(pair):
    for number in range(1, 8):
        pair.publisher.publish(version(number))
        pair.move(60)
        assert says(pair.reader.poll(), number)
        assert pair.reader.poll() is None


def test_the_caller_may_change_what_it_published(pair):
    given = version(1)
    pair.publisher.publish(given)
    given.arrays["w"][:] = 7
    pair.move(60)
    assert says(pair.reader.poll(), 1)


def test_a_version_in_use_is_never_written_over(pair):
    """Whatever is published, replaced or on its way, what `poll` delivered last stays."""
    pair.publisher.publish(version(1))
    pair.move(60)
    held = pair.reader.poll()
    for number in range(2, 40):
        pair.publisher.publish(version(number))
        pair.move(number % 7)
        assert says(held, held.version)
        if number % 5 == 0 and (new := pair.reader.poll()):
            assert says(held, held.version), "the role may still compute on the one before"
            held = new
    pair.move(100)
    assert says(held, held.version) and says(pair.reader.poll(), 39)


def test_memory_goes_round(pair):
    pointers = defaultdict(int)
    for number in range(1, 30):
        pair.publisher.publish(version(number))
        pair.move(60)
        pointers[pair.reader.poll().arrays["w"].__array_interface__["data"][0]] += 1
    assert len(pointers) <= 4
    assert len(pair.publisher.turns._held) <= 4


def test_a_damaged_piece_is_noticed_and_the_version_pulled_again():
    pair = Pair(near=False)
    pair.damage = 1
    pair.publisher.publish(version(3))
    pair.move(200)
    assert pair.reader.corrupt == 1
    assert says(pair.reader.poll(), 3)


def test_a_reader_that_cannot_map_takes_pieces(monkeypatch):
    monkeypatch.setattr(weights_reader, "attach", lambda address, size: None)
    pair = Pair(near=True)
    pair.publisher.publish(version(2))
    pair.move(100)
    assert says(pair.reader.poll(), 2)
    assert pair.publisher.lent == {pair.down: []}


def test_what_a_lost_reader_may_still_use_is_not_written_again(pair):
    pair.publisher.publish(version(1))
    pair.move(60)
    held = pair.reader.poll()
    pair.cut()
    for number in range(2, 9):
        pair.publisher.publish(version(number))
    assert says(held, 1)
    pair.connect()
    pair.move(100)
    assert says(pair.reader.poll(), 8) and says(held, 1)


def test_a_version_that_flies_is_not_written_over():
    pair = Pair(near=False)
    pair.publisher.publish(version(1))
    pair.move(6)  # some pieces are there, some fly
    for number in range(2, 9):
        pair.publisher.publish(version(number))
    while not pair.reader.arrived:
        pair.move(1)
    assert says(pair.reader.poll(), 1) and pair.reader.corrupt == 0
    pair.move(60)
    assert says(pair.reader.poll(), 8)


def test_a_slow_reader_gets_the_latest_only(pair):
    for number in (1, 2, 3):
        pair.publisher.publish(version(number))
    pair.move(60)
    assert says(pair.reader.poll(), 3)


def test_turns_hand_out_no_memory_that_has_users():
    turns = Turns()
    first, second = turns.begin(10), turns.begin(10)
    assert first is not second
    turns.leave(first)
    assert turns.begin(10) is first
    turns.abandon(first)
    turns.leave(first)
    assert turns.begin(10) is not first


def test_objects_are_refused():
    with pytest.raises(ValueError, match="Python objects"):
        Layout.of({"x": np.array([object()])})


def test_a_pull_says_where_the_reader_is():
    pulls = [decode(Pull, Pair(near).up.sent[0][1].buffer) for near in (True, False)]
    assert pulls[0].machine and not pulls[1].machine
