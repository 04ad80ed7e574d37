"""Meetings inside one MPI_COMM_WORLD, with a double for MPI."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest

from acceerl.channels import mpi_library
from acceerl.channels.links import Peer
from acceerl.channels.mpi_library import Misfit
from acceerl.channels.world import Lane, WorldMeetings, rank_table, refuse_other_size

NETMOD = "MPIR_CVAR_CH4_NETMOD"
TABLE = [("learner", 0), ("inference", 0), ("rollout", 0)]


class Registry:
    """What a process says to others."""

    def __init__(self, role: str, index: int = 0) -> None:
        self.role, self.index, self.told = role, index, []

    def tell(self, *words: object) -> None:
        self.told.append(words)


class Meeting:
    def __init__(self, role: str) -> None:
        world = SimpleNamespace(size=len(TABLE), allgather=lambda mine: TABLE)
        self.registry, self.adopted = Registry(role), []
        adopt = lambda lane, server: self.adopted.append((lane._rank, server))  # noqa: E731
        mpi = SimpleNamespace(COMM_WORLD=world)
        self.meetings = WorldMeetings(mpi, self.registry, lambda: None, lambda *_: False, adopt, len(TABLE))


def heard(role: str, index: int = 0, incarnation: int = 3) -> SimpleNamespace:
    return SimpleNamespace(role=role, index=index, incarnation=incarnation, data="")


def test_a_knock_is_answered_and_the_pair_taken_once():
    server = Meeting("inference")
    server.meetings.on_knock(heard("rollout"))
    server.meetings.on_knock(heard("rollout"))  # it knocked again before it heard the answer
    assert server.adopted == [(2, None)]
    assert server.registry.told == [("come", "rollout", 0)]


def test_a_client_takes_the_pair_when_it_is_told_to_come():
    client = Meeting("rollout")
    client.meetings.dial("inference", 0)
    client.meetings.pump()
    assert client.registry.told == [("knock", "inference", 0)]
    client.meetings.on_come(heard("inference"))
    client.meetings.on_come(heard("learner"))  # which it has not called
    assert client.adopted == [(1, Peer("inference", 0, 3))]


def test_who_loses_a_living_peer_cannot_go_on():
    client = Meeting("rollout")
    client.meetings.dial("inference", 0)
    client.meetings.on_come(heard("inference"))
    with pytest.raises(RuntimeError, match=r"lost inference\[0\]"):
        client.meetings.redial(("inference", 0), 0.0)


def test_who_loses_a_peer_that_has_left_waits_for_its_own_end():
    client = Meeting("rollout")
    client.meetings.dial("inference", 0)
    client.meetings.on_come(heard("inference"))
    client.meetings.on_gone(heard("inference"))
    client.meetings.redial(("inference", 0), 0.0)
    assert len(client.adopted) == 1


def test_a_lane_leads_to_its_rank_only():
    calls = []
    world = SimpleNamespace(
        Isend=lambda *words: calls.append(("send", *words[1:])),
        Irecv=lambda *words: calls.append(("recv", *words[1:])),
        Iprobe=lambda *words: calls.append(("probe", *words)),
    )  # fmt: skip
    lane = Lane(world, 7)
    lane.Isend(np.zeros(1), 0, 20)
    lane.Irecv(np.zeros(1), 0, 21)
    lane.Iprobe(0, 22)
    assert calls == [("send", 7, 20), ("recv", 7, 21), ("probe", 7, 22)]


@pytest.mark.parametrize(("found", "why"), [(1, "believes to be alone"), (5, "started another number")])
def test_a_world_of_another_size_is_refused(found, why):
    with pytest.raises(Misfit, match=why):
        refuse_other_size(found, 3, Registry("learner"))


def test_two_ranks_of_one_name_are_refused():
    with pytest.raises(Misfit, match=r"two ranks of the world say that they are rollout\[1\]"):
        rank_table([("rollout", 1), ("learner", 0), ("rollout", 1)])


@pytest.mark.parametrize(("installed", "own", "netmod"), [(True, "", "ofi"), (False, "", None), (True, "ucx", "ucx")])
def test_pypis_mpich_builds_its_world_over_ofi_unless_told_otherwise(monkeypatch, installed, own, netmod):
    def distribution(name: str) -> None:
        if not installed:
            raise PackageNotFoundError(name)

    comm = SimpleNamespace(Set_errhandler=lambda _: None)
    mpi = SimpleNamespace(COMM_SELF=comm, COMM_WORLD=comm, ERRORS_RETURN=0)
    monkeypatch.setattr(mpi_library, "distribution", distribution)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=mpi, rc=SimpleNamespace()))
    monkeypatch.setattr(os, "environ", {"PMI_RANK": "0"} | ({NETMOD: own} if own else {}))
    assert mpi_library.load_mpi(ports=False) is mpi
    assert os.environ.get(NETMOD) == netmod
    assert "FI_PROVIDER" not in os.environ, "the network is the site's choice"
