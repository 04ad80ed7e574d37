"""The processes of the MPI tests: `python -m tests.mpi.plays JSON` under mpiexec. Not collected by pytest."""

import json
import os
import signal
import sys
import threading
import time

import numpy as np

from acceerl.channels import meeting
from acceerl.channels.links import PeerLost
from acceerl.channels.mpi import Endpoint
from acceerl.channels.pumping import Idle
from acceerl.channels.weights_reader import MpiReader
from acceerl.runtime.registry import RegistryClient
from acceerl.runtime.stop import Watchdog
from acceerl.runtime.world import rank
from acceerl.types import Act
from tests.contract.link_scenarios import SCENARIOS, observed


def scenario(endpoint: Endpoint, options: dict) -> None:
    """A play of the contract. `near=False`: everything goes over MPI, as if from another machine."""
    readers: list[MpiReader] = []
    if not endpoint.near:
        endpoint.reader = lambda link: readers.append(Endpoint.reader(endpoint, link)) or readers[0]
    pumper = endpoint.start_pumper if options.get("pumper") else None
    idle, lent = Idle(), 0
    for turn, _ in enumerate(SCENARIOS[options["scenario"]][endpoint.me.role](endpoint)):
        if turn == 0 and pumper:
            pumper()
        idle.looked(busy=False)
        idle.rest()
        lent = max(lent, *(len(c.lender.slots) for c in endpoint.connections if c.lender), 0, 0)
    print("slots lent:", lent)
    mapped = [end.mapped for end in (*readers, *(c.borrower for c in endpoint.connections)) if end.mapped]
    assert endpoint.near or not mapped, "the memory of a peer that counts as far was mapped"


def serve(endpoint: Endpoint, options: dict) -> None:
    """Echoes the seed of every request until it is killed."""
    meeting.ACCEPT_S = options.get("accept_s", meeting.ACCEPT_S)
    serving = endpoint.serving()
    print("serving as incarnation", endpoint.me.incarnation)
    while "stop" not in endpoint.registry.requested:
        for peer, asked in serving.wait(0.2):
            serving.reply(peer, Act(asked.slot, np.full((8, 7), asked.assignment.seed, np.float32)))
        for peer in serving.lost():
            print("lost", peer, peer.incarnation)


def ask(endpoint: Endpoint, options: dict) -> None:
    """Plays checked rounds; `rounds` answers in a row without a loss, then ends."""
    requests = endpoint.requests(options.get("servers"))
    good, total, deadline = 0, 0, time.monotonic() + options.get("seconds", 30)
    while good < options["rounds"] and not (good >= 20 and "stop" in endpoint.registry.requested):
        assert time.monotonic() < deadline, "too slow"
        try:
            total += 1
            requests.send(observed(0, seed=total))
            while not (acts := requests.wait(1.0)):
                assert time.monotonic() < deadline, "no answer"
        except PeerLost as lost:
            print("lost:", lost)
            good = 0
            continue
        assert acts[0].actions[0, 0] == total
        good += 1
        if good == 20:
            print("talking")
    print("done after", total)


def shout(endpoint: Endpoint, options: dict) -> None:
    """Answers rollout 0 again and again and hears of no death; the others get what they ask for."""
    endpoint._answers["gone"] = lambda event: None
    serving, listener = endpoint.serving(), None
    print("serving as incarnation", endpoint.me.incarnation)
    while "stop" not in endpoint.registry.requested:
        for peer, asked in serving.wait(0.001):
            listener = peer if peer.index == 0 else listener
            serving.reply(peer, Act(asked.slot, np.full((8, 7), asked.assignment.seed, np.float32)))
        if listener is not None:
            serving.reply(listener, Act(0, np.zeros((options["rows"], 7), np.float32)))
        for peer in serving.lost():
            print("lost", peer)
            listener = None


def listen(endpoint: Endpoint, options: dict) -> None:
    """Asks once and takes whatever comes."""
    requests, heard = endpoint.requests(), 0
    requests.send(observed(0, seed=1))
    while True:
        heard += len(requests.wait(0.1))
        if heard > 20:
            print("listening")


def come_and_go(endpoint: Endpoint, options: dict) -> None:
    """Hangs up and connects again, as long-lived trainings do with their rollouts."""
    requests = endpoint.requests()
    for turn in range(options["rounds"]):
        requests.send(observed(0, seed=turn))
        while not (acts := requests.wait(1.0)):
            pass
        assert acts[0].actions[0, 0] == turn
        comm = requests.open.comm
        endpoint.hang_up("inference", 0, "enough")
        assert not comm, "a communicator that nobody needs was kept"
        requests.grief = None
        endpoint.dial("inference", 0)
    print("done")


def die_at_connect(endpoint: Endpoint, options: dict) -> None:
    """A client that is killed `ms` after it said `here`; ms < 0: it says `here` and never calls Connect."""
    endpoint.requests()
    connect = endpoint.meetings._meet

    def meet(call, port, timeout_s):
        if options["ms"] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        killer = threading.Timer(options["ms"] / 1000, os.kill, (os.getpid(), signal.SIGKILL))
        killer.start()
        return connect(call, port, timeout_s)

    endpoint.meetings._meet = meet
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        endpoint.pump()
        time.sleep(0.001)


def lose_the_server(endpoint: Endpoint, options: dict) -> None:
    """A client that takes a living server of its world for silent."""
    requests = endpoint.requests()
    while endpoint.connection("inference", 0) is None:
        requests.poll()
    try:
        endpoint.hang_up("inference", 0, "silent")
        requests.wait(1.0)
    except RuntimeError as error:
        print("raised", error)
    endpoint.registry.tell("stop", "inference", 0)
    os._exit(1)  # the launcher ends the rest


def die_before_accept(endpoint: Endpoint, options: dict) -> None:
    """A server that says `come` and is killed when the client stands at the door."""
    endpoint.serving()
    print("serving as incarnation", endpoint.me.incarnation)
    endpoint.meetings._meet = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    while True:
        endpoint.pump()
        time.sleep(0.001)


def main() -> None:
    options = json.loads(sys.argv[1])
    if isinstance(options, list):  # the ranks of a world
        options = options[rank()]
    print("pid", os.getpid())
    registry = RegistryClient(options["run"], options["role"], options["index"], timeout_s=10)
    watchdog = Watchdog(options.get("watchdog_s", 15), f"{registry} MPI").start()
    endpoint = Endpoint(
        registry,
        options["links"],
        spec=options.get("spec"),
        beat=watchdog.beat,
        silence_s=options.get("silence_s", 60),
        near=options.get("near", True),
        world=options.get("world", 0),
    )
    globals()[options["play"]](endpoint, options)
    while options.get("world"):  # the first rank to leave would end the others: the test ends all
        time.sleep(0.1)
    endpoint.finish(0)


if __name__ == "__main__":
    try:
        main()
    finally:  # a failed process must not wait in MPI_Finalize
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
