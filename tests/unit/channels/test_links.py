"""The table itself, and how ends behave when nobody answers; a fake endpoint stands in for MPI."""

import dataclasses
import os
import time
from itertools import pairwise

import pytest

from acceerl.channels import ends, links
from acceerl.channels.connection import Connection
from acceerl.channels.links import LINKS, LinkTimeout, Peer, PeerLost
from acceerl.channels.pumping import FALSE_ALARMS, LONGEST_S, Idle
from acceerl.channels.wire import encode
from acceerl.types import Act, Observed


def test_every_tag_leaves_room_for_its_way_back_and_its_pieces():
    tags = sorted(link.tag for link in LINKS.values())
    assert all(b - a >= 3 for a, b in pairwise(tags))


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_one_end_serves_and_the_other_connects(link):
    assert link.server in link.senders + link.receivers
    assert link.clients and link.server not in link.clients


class FakeEndpoint:
    """Whom the end wants to reach, and what it sent."""

    def __init__(self, silence_s=60.0):
        self.me, self.silence_s, self.idle = Peer("rollout", 17, 1), silence_s, Idle()
        self.handlers, self.on_open, self.on_lost = {}, [], []
        self.dials, self.connections, self.posted = [], {}, []

    def dial(self, role, index):
        self.dials.append(index)

    def hang_up(self, role, index, why):
        connection = self.connections.pop(index, None)
        for call in self.on_lost if connection else ():
            call(connection, why)

    def connection(self, role, index):  # of either role: there is one table
        return self.connections.get(index)

    def post(self, connection, tag, buffer):
        self.posted.append((connection.peer.index, tag))

    def glance(self):
        """Nothing comes by itself."""

    def pump(self):
        return False

    def open(self, index):
        self.connections[index] = Connection(None, 0.0, peer=Peer("inference", index, 1), links=frozenset(LINKS))
        for call in self.on_open:
            call(self.connections[index])


REQUEST = Observed(slot=0, assignment=None, observation=None)


def test_clients_start_at_their_own_server():
    endpoint = FakeEndpoint()
    ends.MpiRequests(endpoint, (0, 1, 2))
    assert endpoint.dials == [17 % 3]


def test_requests_wait_for_the_connection_and_then_leave():
    endpoint = FakeEndpoint()
    requests = ends.MpiRequests(endpoint, (0,))
    requests.send(REQUEST)
    assert endpoint.posted == [] and requests.in_flight == 1
    endpoint.open(0)
    assert endpoint.posted == [(0, LINKS["observe"].tag)]


def test_silence_loses_the_server_and_turns_to_the_next():
    endpoint = FakeEndpoint(silence_s=0.02)
    requests = ends.MpiRequests(endpoint, (0, 1))
    endpoint.open(1)
    requests.send(REQUEST)
    with pytest.raises(
        PeerLost, match=r"rollout\[17\] lost inference\[1\] on link act: silent .* going to inference\[0\]"
    ):
        requests.wait(1.0)
    assert requests.in_flight == 0 and endpoint.dials == [1, 0]
    assert requests.poll() == []


def test_a_server_that_never_opens_hands_its_requests_to_the_next(monkeypatch):
    monkeypatch.setattr(ends, "PATIENCE_S", 0.01)
    endpoint = FakeEndpoint()
    requests = ends.MpiRequests(endpoint, (0, 1))
    requests.send(REQUEST)
    requests.wait(0.05)
    endpoint.open(requests.servers[requests.turn])
    assert len(endpoint.posted) == 1 and len(endpoint.dials) > 1


def test_the_deadline_names_both_ends_and_the_link(monkeypatch):
    monkeypatch.setattr(ends, "ACT", dataclasses.replace(links.LINKS["act"], deadline_s=0.05))
    requests = ends.MpiRequests(FakeEndpoint(), (1,))
    requests.send(REQUEST)
    with pytest.raises(LinkTimeout, match=r"rollout\[17\] waited 0 s for inference\[1\] on link act"):
        requests.wait(1.0)


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(ends, "time", made)
    return made


def test_a_server_that_says_not_yet_is_waited_for(clock):
    """Neither silent nor too late, as long as it says so; its word is no answer."""
    endpoint = FakeEndpoint(silence_s=30.0)
    requests = ends.MpiRequests(endpoint, (1,))
    endpoint.open(1)
    requests.send(REQUEST)
    word = encode(ends.NOT_YET, LINKS["act"].tag)
    for _ in range(10):
        clock.now += 29.0
        assert requests.poll() == [] and requests.in_flight == 1
        endpoint.handlers[LINKS["act"].tag](endpoint.connections[1], word)
    clock.now += 31.0
    with pytest.raises(PeerLost, match="silent for 30 s"):
        requests.poll()


def test_who_waits_long_for_an_answer_is_told_not_yet(clock):
    endpoint = FakeEndpoint(silence_s=40.0)
    serving = ends.MpiServing(endpoint)
    observe, act = LINKS["observe"].tag, LINKS["act"].tag
    for index in (0, 1):
        endpoint.open(index)
        endpoint.handlers[observe](endpoint.connections[index], encode(REQUEST, observe))
    (first, _), (second, _) = serving.poll()
    serving.reply(first, Act(0))
    assert endpoint.posted == [(0, act)]
    clock.now += 11.0
    serving.poll()
    assert endpoint.posted == [(0, act), (1, act)], "the one that has its answer hears no more"
    serving.poll()
    assert len(endpoint.posted) == 2, "a quarter of the silence that counts as death is often enough"
    serving.reply(second, Act(0))
    endpoint.handlers[observe](endpoint.connections[1], encode(REQUEST, observe))
    endpoint.hang_up("rollout", 1, "gone")
    clock.now += 11.0
    serving.poll()
    assert len(endpoint.posted) == 3, "nor does one that is gone"


def test_no_deadline_while_nothing_is_in_flight(monkeypatch):
    monkeypatch.setattr(ends, "ACT", dataclasses.replace(links.LINKS["act"], deadline_s=0.01))
    requests = ends.MpiRequests(FakeEndpoint(), (1,))
    assert requests.wait(0.05) == []


def test_answers_of_a_server_that_was_given_up_are_ignored():
    endpoint = FakeEndpoint()
    requests = ends.MpiRequests(endpoint, (0, 1))
    endpoint.open(1)
    requests.send(REQUEST)
    stranger = Connection(None, 0.0, peer=Peer("inference", 0, 1))
    endpoint.handlers[LINKS["act"].tag](stranger, encode(Act(0), LINKS["act"].tag))
    assert requests.poll() == [] and requests.in_flight == 1


def test_what_is_sent_in_a_lost_episode_reaches_nobody():
    endpoint = FakeEndpoint()
    requests = ends.MpiRequests(endpoint, (0, 1))
    endpoint.open(1)
    requests.send(REQUEST)
    endpoint.hang_up("inference", 1, "killed")
    requests.send(REQUEST)  # of a loop that has not heard of it yet
    with pytest.raises(PeerLost):
        requests.poll()
    endpoint.open(0)
    assert len(endpoint.posted) == 1 and requests.in_flight == 0


def test_a_peer_that_connects_again_gets_no_answer_to_what_it_asked_before():
    endpoint = FakeEndpoint()
    serving = ends.MpiServing(endpoint)
    endpoint.open(0)
    peer, again = endpoint.connections[0].peer, encode(REQUEST, LINKS["observe"].tag)
    endpoint.hang_up("rollout", 0, "silent")
    endpoint.open(0)  # the same life of it
    endpoint.handlers[LINKS["observe"].tag](endpoint.connections[0], again)
    serving.reply(peer, Act(0))
    assert endpoint.posted == [] and serving.poll() == []
    assert serving.lost() == [peer]
    assert [who for who, _ in serving.poll()] == [peer]
    serving.reply(peer, Act(0))
    assert endpoint.posted == [(0, LINKS["act"].tag)]


def test_idle_sleeps_longer_the_longer_it_is_quiet():
    idle = Idle()
    lengths = []
    for quiet in range(0, 400, 10):
        idle.quiet = quiet
        lengths.append(idle._length())
    assert lengths == sorted(lengths) and lengths[0] == 50e-6 and lengths[-1] == LONGEST_S


def test_idle_wakes_when_there_is_something_to_look_at():
    there, here = os.pipe()
    idle = Idle([there])
    idle.quiet = 1000
    idle.rest()
    assert idle.alarms == 0
    os.write(here, b"x")
    began = time.monotonic()
    for _ in range(20):  # a descriptor that is ready costs no wait
        idle.looked(busy=False)
        idle.rest(10.0)
    assert idle.alarms == 20 and time.monotonic() - began < 5.0
    os.close(there), os.close(here)


def test_idle_sleeps_although_a_descriptor_is_always_ready():
    there, here = os.pipe()
    os.write(here, b"x")
    idle, slept = Idle([there]), []
    for _ in range(FALSE_ALARMS + 2):
        idle.looked(busy=False)
        idle.rest()
    idle._length = lambda: slept.append(1) or 0.0
    idle.rest()
    assert slept
    idle.looked(busy=True)
    assert idle.alarms == 0


def test_idle_looks_once_in_vain_before_it_sleeps():
    there, here = os.pipe()
    idle = Idle([there])
    os.write(here, b"x")
    idle.looked(busy=True)
    idle.rest()
    assert idle.alarms == 0, "it waited for its descriptors right after a message"
    idle.looked(busy=False)
    idle.rest()
    assert idle.alarms == 1
    os.close(there), os.close(here)
