"""One suite over every transport: inside one process, between processes over MPI ports, and in one MPI world."""

import pytest

from acceerl.channels.inline import Hub
from acceerl.channels.links import (
    Requests,
    SegmentReceiver,
    SegmentSender,
    Serving,
    WeightsPublisher,
    WeightsReader,
)
from tests.contract.link_scenarios import LINKS_OF, SCENARIOS
from tests.mpi.launching import launch, registry  # noqa: F401  (fixtures)


@pytest.mark.parametrize("name", SCENARIOS)
def test_inline(name):
    hub = Hub()
    plays = [play(hub.ends(role)) for role, play in SCENARIOS[name].items()]
    while plays:
        for play in list(plays):
            if next(play, "over") == "over":
                plays.remove(play)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "threads", "near"),
    [
        ("requests", False, True), ("experience", True, True), ("reality", True, True),
        ("requests", False, False), ("experience", True, False),
        ("weights", False, True), ("weights", True, True), ("weights", False, False), ("weights", True, False),
    ],
)  # fmt: skip
def test_mpi(name, threads, near, launch):  # noqa: F811
    """`near`: both ends are on one machine and share memory; otherwise all goes over MPI, weights in pieces."""
    processes = [
        launch(
            "scenario", role, 0, LINKS_OF[name], scenario=name, near=near,
            pumper=threads and role in ("learner", "world_model"),
        )
        for role in SCENARIOS[name]
    ]  # fmt: skip
    for process in processes:
        process.must_end_well(20)
    lent = [process.text.count("slots lent: 0") == 0 for process in processes]
    assert any(lent) == (near and name != "weights"), "large messages took the other way"


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "threads", "near"),
    [
        ("requests", False, True), ("requests", False, False), ("experience", True, True), ("reality", True, False),
        ("weights", True, True), ("weights", False, False),
    ],
)  # fmt: skip
def test_world(name, threads, near, launch):  # noqa: F811
    """The same between the ranks of one MPI_COMM_WORLD, over whatever network MPI chooses."""
    world = launch.world([
        {"play": "scenario", "scenario": name, "role": role, "index": 0, "links": LINKS_OF[name], "near": near,
         "pumper": threads and role in ("learner", "world_model")}
        for role in SCENARIOS[name]
    ])  # fmt: skip
    world.saw("slots lent:", 20, times=len(SCENARIOS[name]))


def test_inline_ends_are_links():
    ends = Hub().ends("rollout")
    kinds = {Requests: ends.requests(), Serving: ends.serving(), SegmentSender: ends.sender("experience")}
    kinds |= {SegmentReceiver: ends.receiver("experience"), WeightsPublisher: ends.publisher("policy_weights")}
    kinds |= {WeightsReader: ends.reader("policy_weights")}
    assert all(isinstance(end, kind) for kind, end in kinds.items())
