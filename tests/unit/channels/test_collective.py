"""How ranks of a role meet, what they tell each other, and how a lost one is named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceerl.channels import collective
from acceerl.channels.collective import Alone, PeersLost
from acceerl.runtime.registry import Registry

ROOT = Path(__file__).parents[3]


@dataclass
class Fake:
    """What meeting needs of the registry."""

    index: int
    incarnation: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    role: str = "learner"
    address: str = "127.0.0.1"

    def publish(self, name: str, fact: Any) -> bool:
        self.facts[name] = fact
        return True

    def fact(self, role: str, index: int, name: str) -> Any:
        return self.facts.get(name)


def test_one_rank_keeps_what_it_says():
    alone = Alone()
    assert alone.total({"n": 3, "table": np.array([[1, 2]])})["table"].tolist() == [[1.0, 2.0]]
    assert alone.gather({"ids": [1]}) == [{"ids": [1]}]
    assert collective.meet(Fake(0), 1, connect_s=0, timeout_s=0).size == 1


def test_a_seat_is_taken_once_so_that_two_lives_never_meet():
    store, fact = collective._host(Fake(0), 5)
    joined = collective._join(Fake(1), fact, 5)
    assert joined is not None and joined.check(["seat/0", "seat/1"])
    assert collective._join(Fake(1, incarnation=2), fact, 5) is None, "the group of the first life is about to end"
    assert collective._join(Fake(2), [*fact[:2], "another"], 5) is None, "somebody else listens on that port now"
    del joined, store
    gone = collective._join(Fake(2), ["127.0.0.1", 9, "life"], 5)
    assert gone is None


def test_who_does_not_come_is_named_and_waiting_beats():
    beats: list[float] = []
    store, _ = collective._host(Fake(0), 5)
    until = time.monotonic() + 0.3
    with pytest.raises(PeersLost, match=r"learner\[0\] waited 0 s for learner\[1\], learner\[2\] to meet it"):
        collective._await_all(store, Fake(0), 3, 0.3, until, lambda: beats.append(time.monotonic()))
    assert beats
    with pytest.raises(PeersLost, match=r"learner\[1\] waited 0 s for learner\[0\] to meet it"):
        collective._guest(Fake(1), 0.3, time.monotonic() + 0.3, lambda: None)


RANK = """
import os, sys
from acceerl.channels.collective import PeersLost, meet
from acceerl.runtime.registry_client import RegistryClient
client = RegistryClient(sys.argv[1], "learner", int(sys.argv[2]), timeout_s=20)
client.announce()
ranks = meet(client, 2, connect_s=60, timeout_s=float(sys.argv[3]))
told = ranks.total({"mine": ranks.mine(ranks.rank + 1), "all": [1, 2]})
print(told["mine"].tolist(), told["all"].tolist(), ranks.gather({"rank": ranks.rank, "more": "x" * ranks.rank}))
sys.stdout.flush()
if ranks.rank == 1:
    os._exit(3) if sys.argv[4] == "dies" else sys.stdin.read()
try:
    ranks.barrier()
except PeersLost as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "timeout"), [("dies", 60), ("hangs", 3)])
def test_real_ranks_talk_and_name_the_one_they_lose(tmp_path: Path, fault: str, timeout: int):
    registry = Registry(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank), str(timeout), fault],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = ranks[0].communicate(timeout=120)[0].splitlines()
        assert said[0] == "[1.0, 2.0] [2.0, 4.0] [{'rank': 0, 'more': ''}, {'rank': 1, 'more': 'x'}]"
        assert said[1].startswith("learner[0] lost learner[1] after ")
    finally:
        ranks[1].communicate(timeout=30)  # closes its input, and so ends it
        registry.wait_closed()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[../gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1. More of it", "Connection closed by peer [127"),
        ("NCCL communicator was aborted on rank 0.", "NCCL communicator was aborted on rank 0."),
        ("", ""),
    ],
)
def test_the_reason_is_the_first_sentence(text, expected):
    assert collective._reason(text).startswith(expected)
