"""Receives of many peers, looked at together: one that fails must not cost the others their messages."""

import numpy as np
import pytest

from acceerl.channels.connection import EAGER, Connection
from acceerl.channels.mailbox import DEPTH, Mailbox


class MpiError(Exception):
    """ERR_IN_STATUS."""


class Status:
    def __init__(self):
        self.error, self.count, self.cancelled = 0, 0, False

    def Get_error(self):
        return self.error

    def Get_count(self):
        return self.count

    def Is_cancelled(self):
        return self.cancelled


class Request:
    """`arrives`: bytes that have come, None: nothing yet, or an error as an Exception."""

    def __init__(self):
        self.arrives, self.over, self.cancelled = None, False, False

    def __bool__(self):
        return not self.over

    def Cancel(self):
        self.cancelled = True

    def Test(self):
        return False


class Mpi:
    """Completes what has arrived as MPICH does: statuses in order, completed requests null, then perhaps an error."""

    Exception, Status = MpiError, Status

    class Request:
        @staticmethod
        def Testsome(requests, statuses):
            done = [i for i, request in enumerate(requests) if request.arrives is not None]
            for j, i in enumerate(done):
                requests[i].over = True
                failed = requests[i].arrives < 0
                statuses[j].error, statuses[j].count = (1, 0) if failed else (0, requests[i].arrives)
            if any(requests[i].arrives < 0 for i in done):
                raise MpiError
            return done


class Comm:
    def __init__(self):
        self.posted = []

    def Irecv(self, buffer, source, tag):
        buffer[:4] = len(self.posted)
        self.posted.append(Request())
        return self.posted[-1]


@pytest.fixture
def lines():
    return [Connection(Comm(), 0.0), Connection(Comm(), 0.0)]


@pytest.fixture
def mailbox(lines):
    mailbox = Mailbox(Mpi)
    for line in lines:
        mailbox.open(line)
    return mailbox


def test_messages_come_in_the_order_in_which_their_receives_were_posted(mailbox, lines):
    for request in lines[0].comm.posted:
        request.arrives = 4
    taken = mailbox.collect()
    assert [(line is lines[0], int(message[0])) for line, message in taken] == [(True, 0), (True, 1)]
    assert len(lines[0].comm.posted) == 2 * DEPTH and mailbox.collect() == []


def test_a_large_message_hands_its_memory_over_and_a_small_one_is_a_copy(mailbox, lines):
    lines[0].comm.posted[0].arrives = EAGER
    lines[1].comm.posted[0].arrives = 100
    large, small = (message for _, message in mailbox.collect())
    assert len(large) == EAGER and len(small) == 100
    assert small.base is None


def test_one_that_fails_costs_the_others_nothing(mailbox, lines):
    lines[0].comm.posted[0].arrives = -1
    lines[1].comm.posted[0].arrives = 7
    taken = {id(line): len(message) for line, message in mailbox.collect()}
    assert taken == {id(lines[0]): 0, id(lines[1]): 7}


def test_a_large_request_tells_who_waits_for_it(mailbox, lines):
    told, request = [], Request()
    mailbox.watch(lines[0], request, np.zeros(8, np.uint8), told.append)
    request.arrives = 8
    assert mailbox.collect() == [] and told == [8]


def test_a_closed_connection_leaves_its_requests_cancelled(mailbox, lines):
    left = mailbox.close(lines[0])
    assert len(left) == DEPTH and all(request.cancelled for request, _ in left)
    lines[1].comm.posted[0].arrives = 5
    assert [line for line, _ in mailbox.collect()] == [lines[1]]
