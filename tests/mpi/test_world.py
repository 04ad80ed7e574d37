"""channels=world between real processes: who is refused, and what a lost peer means there."""

from __future__ import annotations

import pytest

from acceerl.runtime.registry import Registry
from tests.mpi.launching import launch, registry  # noqa: F401  (fixtures)

pytestmark = pytest.mark.mpi
LINKS = ["observe", "act"]


def rank(play: str, role: str, index: int = 0, **options: object) -> dict[str, object]:
    return {"play": play, "role": role, "index": index, "links": LINKS, **options}


def test_a_process_that_is_alone_is_refused(launch):  # noqa: F811
    alone = launch.world([rank("serve", "inference")], size=2)
    assert alone.wait(20) != 0
    assert "inference[0] finds 1 of 2 processes in MPI_COMM_WORLD: it believes to be alone" in alone.text
    assert "site.pmi" in alone.text


def test_two_ranks_of_one_name_are_refused(launch, tmp_path):  # noqa: F811
    """By the world, whoever they registered with: one registry would refuse the older one, sometimes before it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Registry(elsewhere, grace_s=0.5)
    both = launch.world([rank("serve", "inference"), rank("ask", "inference", run=str(elsewhere))])
    assert both.wait(20) != 0
    other.wait_closed()
    assert "two ranks of the world say that they are inference[0]" in both.text


def test_six_clients_are_served(launch):  # noqa: F811
    clients = [rank("ask", "rollout", i, rounds=50) for i in range(6)]
    world = launch.world([rank("serve", "inference"), *clients])
    world.saw("done after 50", 30, times=6)


def test_a_client_that_loses_a_living_server_says_that_the_world_is_over(launch):  # noqa: F811
    world = launch.world([rank("serve", "inference"), rank("lose_the_server", "rollout")])
    assert world.wait(20) != 0
    assert "raised lost inference[0], and a world (channels=world) has one connection to each" in world.text
