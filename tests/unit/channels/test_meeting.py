"""Both sides of a meeting, with an MPI that refuses, hangs up or answers as the test says."""

from collections import deque
from types import SimpleNamespace

import pytest

from acceerl.channels import meeting
from acceerl.channels.meeting import ACCEPTS, Meetings


class MpiError(Exception):
    def __init__(self, text):
        self.text = text

    def Get_error_string(self):
        return self.text


class Mpi:
    """`answers`: what each Connect or Accept does, "ok" or an error's text."""

    Exception = MpiError
    ERRORS_RETURN = None
    Info = SimpleNamespace(Create=lambda: SimpleNamespace(Set=lambda *_: None, Free=lambda: None))

    def __init__(self):
        self.answers, self.calls = deque(), []
        self.COMM_SELF = SimpleNamespace(Connect=self._call("connect"), Accept=self._call("accept"))

    def _call(self, name):
        def call(port, info):
            self.calls.append((name, port))
            if (answer := self.answers.popleft()) != "ok":
                raise MpiError(answer)
            return SimpleNamespace(Set_errhandler=lambda _: None)

        return call


@pytest.fixture
def end(monkeypatch):
    """Meetings of a process, with what it told, whom it met and who it talks to."""
    for name in ("ROUND_S", "KNOCK_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(meeting, name, 0.0)
    told, met, talks, mpi = [], [], set(), Mpi()
    registry = SimpleNamespace(tell=lambda what, role, index, data=None: told.append((what, role, index, data)))
    meetings = Meetings(
        mpi, registry, lambda: None, lambda role, index: (role, index) in talks, lambda comm, peer: met.append(peer)
    )
    return SimpleNamespace(meetings=meetings, told=told, met=met, talks=talks, mpi=mpi)


def event(role="rollout", index=0, incarnation=1, data=None):
    return SimpleNamespace(role=role, index=index, incarnation=incarnation, data=data)


def test_a_client_knocks_until_it_is_told_to_come_and_connects_from_pump_to_pump(end):
    end.meetings.dial("inference", 0)
    end.meetings.pump()
    end.meetings.pump()
    assert end.told == [("knock", "inference", 0, None)] * 2
    end.meetings.on_come(event("inference", 0, 3, "port"))
    assert end.told[-1] == ("here", "inference", 0, None)
    end.mpi.answers.extend(["... (EAGAIN) ...", "... (EAGAIN) ...", "ok"])
    end.meetings.pump()
    while not end.met:  # a few milliseconds between two tries
        end.meetings.pump()
    assert end.mpi.calls == [("connect", "port")] * 3
    assert [(peer.role, peer.incarnation) for peer in end.met] == [("inference", 3)]


def test_a_server_that_dies_is_not_called_any_more(end):
    end.meetings.dial("inference", 0)
    end.meetings.on_come(event("inference", 0, 3, "port"))
    end.mpi.answers.append("... (EAGAIN) ...")
    end.meetings.pump()
    end.meetings.on_gone(event("inference", 0, 3))
    end.meetings.pump()
    assert len(end.mpi.calls) == 1 and end.told[-1] == ("knock", "inference", 0, None)


def test_a_call_that_fails_for_good_starts_over_with_a_knock(end):
    end.meetings.dial("inference", 0)
    end.meetings.on_come(event("inference", 0, 3, "port"))
    end.mpi.answers.append("time-out")
    end.meetings.pump()
    end.meetings.pump()
    assert end.told[-1] == ("knock", "inference", 0, None) and not end.met


def test_a_guest_is_accepted_although_the_dead_left_a_message_before_it(end):
    end.meetings.port = "mine"
    end.meetings.on_knock(event())
    end.meetings.pump()
    assert end.told == [("come", "rollout", 0, "mine")]
    end.meetings.on_here(event())
    end.mpi.answers.extend(["time-out", "ok"])
    end.meetings.pump()
    end.meetings.pump()
    assert end.met == [None] and end.mpi.calls == [("accept", "mine")] * 2


def test_a_guest_that_never_comes_does_not_stay(end):
    end.meetings.on_here(event())
    end.mpi.answers.extend(["time-out"] * ACCEPTS)
    for _ in range(ACCEPTS + 1):
        end.meetings.pump()
    assert len(end.mpi.calls) == ACCEPTS and not end.met


def test_guests_come_one_at_a_time(end):
    end.meetings.on_knock(event(index=0))
    end.meetings.on_knock(event(index=1))
    for _ in range(3):
        end.meetings.pump()
    assert [index for _, _, index, _ in end.told] == [0]
    end.meetings.on_here(event(index=0))
    end.mpi.answers.append("ok")
    end.meetings.pump()
    assert [index for _, _, index, _ in end.told] == [0, 1]


def test_a_peer_that_one_talks_to_is_neither_knocked_at_nor_called(end):
    end.meetings.dial("inference", 0)
    end.talks.add(("inference", 0))
    end.meetings.pump()
    end.meetings.on_come(event("inference", 0, 3, "port"))
    end.meetings.pump()
    assert not end.told and not end.mpi.calls


def test_a_client_does_not_knock_again_while_the_hello_of_its_server_is_on_its_way(end):
    """The endpoint talks to a server from Connect on; a second connection would end the first."""
    end.meetings.dial("inference", 0)
    end.meetings.on_come(event("inference", 0, 3, "port"))
    end.mpi.answers.append("ok")
    end.meetings.adopt = lambda comm, peer: end.talks.add(("inference", 0))
    end.meetings.pump()
    before = list(end.told)
    end.meetings.pump()
    end.meetings.on_come(event("inference", 0, 3, "port"))
    end.meetings.pump()
    assert end.told == before and len(end.mpi.calls) == 1
