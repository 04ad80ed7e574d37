"""How buffers leave: two lanes, and a peer whose door is closed."""

import numpy as np
import pytest

from acceerl.channels import connection
from acceerl.channels.connection import EAGER_TAG, INJECT, Connection
from acceerl.channels.wire import read_notice


class Eagain(Exception):
    """MPI took nothing."""


class Request:
    def __init__(self, complete):
        self.complete = complete

    def Test(self):
        return self.complete


class Comm:
    """Notes what is sent; refuses while `closed`."""

    def __init__(self):
        self.sent, self.closed, self.looks = [], False, 0

    def Isend(self, buffer, dest, tag):
        if self.closed:
            raise Eagain
        self.sent.append((tag, buffer))
        return Request(buffer.nbytes <= INJECT)

    def Iprobe(self, source, tag):
        self.looks += 1


class Watch(list):
    """Stands for the mailbox: keeps what is to be called when a send is over."""

    def __call__(self, connection, request, buffer, done):
        self.append(done)


def buffer(size):
    return np.zeros(size, np.uint8)


def test_a_small_message_is_done_at_once():
    line, watch = Connection(Comm(), 0.0, eager=100_000), Watch()
    sending = line.post(20, buffer(500))
    assert line.push(watch) and sending.done and line.idle
    assert [tag for tag, _ in line.comm.sent] == [EAGER_TAG] and not watch


def test_what_the_peer_has_no_room_for_is_announced():
    line, watch = Connection(Comm(), 0.0, eager=100_000), Watch()
    small, large = line.post(30, buffer(90_000)), line.post(30, buffer(100_001))
    line.push(watch)
    assert [tag for tag, _ in line.comm.sent] == [EAGER_TAG, EAGER_TAG, 30]
    assert read_notice(line.comm.sent[1][1]) == (30, 100_001)
    assert not small.done and not large.done and line.flying == 2
    for done in watch:
        done(0)
    assert small.done and large.done and line.idle


def test_bytes_without_a_header_are_announced_however_few():
    line = Connection(Comm(), 0.0, eager=100_000)
    line.post(72, buffer(10), bare=True)
    line.push(Watch())
    assert [tag for tag, _ in line.comm.sent] == [EAGER_TAG, 72]


def test_mpi_learns_of_a_closed_socket_before_a_large_send():
    line = Connection(Comm(), 0.0, eager=100_000)
    line.post(30, buffer(INJECT))
    line.push(Watch())
    assert line.comm.looks == 0
    line.post(30, buffer(INJECT + 1))
    line.push(Watch())
    assert line.comm.looks == 1


def test_a_refused_message_is_tried_again_and_nothing_is_sent_twice(monkeypatch):
    monkeypatch.setattr(connection, "RETRY_S", 0.0)
    line = Connection(Comm(), 0.0, eager=100_000)
    line.comm.closed = True
    line.post(30, buffer(200_000))
    for _ in range(3):
        with pytest.raises(Eagain):
            line.push(Watch())
        assert line.stall() is False
    line.comm.closed = False
    line.push(Watch())
    assert [tag for tag, _ in line.comm.sent] == [EAGER_TAG, 30]
    assert line.stalled is None


def test_a_peer_that_refuses_for_long_counts_as_dead(monkeypatch):
    line = Connection(Comm(), 0.0)
    assert line.stall() is False
    monkeypatch.setattr(connection, "STALL_S", -1.0)
    assert line.stall() is True


def test_only_so_many_sends_are_with_mpi_at_a_time():
    line = Connection(Comm(), 0.0, eager=100_000)
    for _ in range(20):
        line.post(30, buffer(90_000))
    line.push(Watch())
    assert line.flying == connection.FLYING and len(line.waiting) == 20 - connection.FLYING
