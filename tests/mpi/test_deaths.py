"""Processes that are killed, also at the worst instants: traffic goes on, and what hangs in MPI is ended in time."""

import os
import signal
from pathlib import Path

import pytest

from acceerl.runtime.stop import STUCK
from tests.mpi.launching import launch, registry  # noqa: F401  (fixtures)

pytestmark = pytest.mark.mpi
LINKS = ["observe", "act"]


@pytest.fixture
def server(launch):  # noqa: F811
    return launch("serve", "inference", 0, LINKS)


FOR_EVER = 10**9


def test_sigkill_of_clients_mid_traffic(launch, registry, server):  # noqa: F811
    survivor = launch("ask", "rollout", 1, LINKS, rounds=FOR_EVER)
    for _ in range(3):
        victim = launch("ask", "rollout", 0, LINKS, rounds=FOR_EVER)
        victim.saw("talking")
        victim.kill()
    launch("ask", "rollout", 0, LINKS, rounds=50).must_end_well(15)
    registry.request("rollout", "stop")
    survivor.must_end_well(15)
    assert "lost:" not in survivor.text
    assert all(f"lost rollout[0] {incarnation}" in server.text for incarnation in (1, 2, 3))


@pytest.mark.parametrize("rows", [8, 20_000])  # what MPI copies at once, and what it sends bit by bit
def test_a_server_that_talks_to_the_dead_gives_them_up(rows, launch):  # noqa: F811
    """MPICH would try for ever, inside the call."""
    server = launch("shout", "inference", 0, LINKS, rows=rows)
    listener = launch("listen", "rollout", 0, LINKS)
    listener.saw("listening")
    listener.kill()
    asker = launch("ask", "rollout", 1, LINKS, rounds=30)
    if server.ended(before=asker, seconds=25):  # a send that meets the closing socket may still make MPICH abort
        assert rows > 8, server.text
        server = launch("shout", "inference", 0, LINKS, rows=rows)
    else:
        server.saw("lost rollout[0]")
    asker.must_end_well(25)


def test_a_killed_process_leaves_no_shared_memory(launch, server):  # noqa: F811
    server.saw("serving")
    mapped = [line.split() for line in Path(f"/proc/{server.pid}/maps").read_text().splitlines() if "mpich_shm" in line]
    server.kill()
    assert mapped, "MPICH does not share memory that way any more: load_mpi need not forget its files"
    assert not any(Path(words[5]).exists() for words in mapped)


def test_connections_that_come_and_go_leave_nothing_in_mpi(launch, server):  # noqa: F811
    launch("come_and_go", "rollout", 0, LINKS, rounds=20).must_end_well(30)


def test_sigkill_of_a_server_mid_traffic(launch, registry, server):  # noqa: F811
    client = launch("ask", "rollout", 0, LINKS, rounds=FOR_EVER)
    for life in (1, 2):
        client.saw("talking", times=life)
        server.kill()
        client.saw("lost:", times=life)
        server = launch("serve", "inference", 0, LINKS)
    client.saw("talking", times=3)
    registry.request("rollout", "stop")
    client.must_end_well(15)


def test_fail_over_to_another_server(launch, registry, server):  # noqa: F811
    other = launch("serve", "inference", 1, LINKS)
    client = launch("ask", "rollout", 0, LINKS, rounds=FOR_EVER, servers=[0, 1])
    client.saw("talking")
    server.kill()
    assert "going to inference[1]" in client.saw("going to")
    client.saw("talking", times=2)
    registry.request("rollout", "stop")
    client.must_end_well(15)
    assert other.process.poll() is None


def test_fail_over_from_a_server_that_stands_still(launch, registry, server):  # noqa: F811
    launch("serve", "inference", 1, LINKS)
    client = launch("ask", "rollout", 0, LINKS, rounds=FOR_EVER, servers=[0, 1], silence_s=1)
    client.saw("talking")
    os.kill(server.pid, signal.SIGSTOP)
    assert "silent for 1 s; going to inference[1]" in client.saw("going to")
    client.saw("talking", times=2)
    registry.request("rollout", "stop")
    client.must_end_well(15)


def test_mismatch_is_refused_by_name(launch):  # noqa: F811
    launch("serve", "inference", 0, LINKS, spec={"proprio": 8, "chunk": 8})
    client = launch("ask", "rollout", 3, LINKS, rounds=1, spec={"proprio": 9})
    assert client.wait(15) == 1
    assert "ValueError: inference[0] and rollout[3] disagree on proprio: 8 and 9" in client.text
    launch("ask", "rollout", 3, LINKS, rounds=3, spec={"proprio": 8}).must_end_well(15)


def test_clients_killed_in_the_act_of_connecting(launch):  # noqa: F811
    """Accept may hang on them, or abort: the server or, once it has ended, its next life serves."""
    server = launch("serve", "inference", 0, LINKS, watchdog_s=6)
    server.saw("serving")
    victims = [launch("die_at_connect", "rollout", i, LINKS, ms=ms) for i, ms in enumerate((1, 2, 3, 5))]
    for victim in victims:
        victim.wait(15)
    client = launch("ask", "rollout", 9, LINKS, rounds=30)
    if server.ended(before=client, seconds=20):
        assert server.process.returncode != 0, server.text  # the watchdog's code, or MPICH's own abort
        launch("serve", "inference", 0, LINKS)
    client.must_end_well(20)


def test_watchdog_ends_a_server_that_hangs_in_accept(launch):  # noqa: F811
    server = launch("serve", "inference", 0, LINKS, watchdog_s=2, accept_s=60)
    server.saw("serving")
    launch("die_at_connect", "rollout", 0, LINKS, ms=-1).wait(10)
    assert server.wait(6) == STUCK, server.text
    launch("serve", "inference", 0, LINKS)
    launch("ask", "rollout", 0, LINKS, rounds=30).must_end_well(15)


def test_server_killed_before_accept(launch):  # noqa: F811
    """Connect may hang on it: then the watchdog ends the client in time, and its next life is served."""
    launch("die_before_accept", "inference", 0, LINKS).saw("serving")
    client = launch("ask", "rollout", 0, LINKS, rounds=30, watchdog_s=3)
    launch("serve", "inference", 0, LINKS).saw("serving")
    assert client.wait(12) in (0, STUCK), client.text
    launch("ask", "rollout", 0, LINKS, rounds=30).must_end_well(15)
