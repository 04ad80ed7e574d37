"""The processes of `acceerl bench links`: `python -m acceerl.bench.links_process FOLDER ROLE INDEX JSON`.

A client asks from the moment it is connected, measures a window when the registry says so, and idles from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from acceerl.bench.peers import accept, connect, leave, perform
from acceerl.channels.mpi import Endpoint
from acceerl.channels.mpi_library import epolls
from acceerl.channels.pumping import Idle
from acceerl.runtime.registry_client import RegistryClient
from acceerl.types import Act, Assignment, Observation, Observed

PATIENCE = 0.05  # the rollout's, see roles/rollout.py
SERVING_PATIENCE = 0.01  # the inference role's, see Inference._patience
TALKING = 50  # pairs after which a client counts as connected and warm
TAG = 7
Options = dict[str, Any]


def client(registry: RegistryClient, options: Options, beat: Callable[[], None]) -> None:
    """A rollout whose environment takes no time, with one request in flight."""
    endpoint = Endpoint(registry, ["observe", "act"], beat=beat, near=options["near"])
    requests, request = endpoint.requests(), _request(options)

    def ask() -> None:
        requests.send(request)
        while not requests.wait(PATIENCE):
            beat()

    _measure(registry, options, ask)
    while "stop" not in registry.requested:
        requests.wait(PATIENCE)
    endpoint.finish(0)


def server(registry: RegistryClient, options: Options, beat: Callable[[], None]) -> None:
    """An inference whose policy takes no time."""
    endpoint = Endpoint(registry, ["observe", "act"], beat=beat, near=options["near"])
    serving = endpoint.serving()
    act = Act(0, np.zeros((1, options["reply"] // 4), np.float32))
    while "stop" not in registry.requested:
        for peer, _ in serving.wait(SERVING_PATIENCE):
            serving.reply(peer, act)
    endpoint.finish(0)


def raw_client(registry: RegistryClient, options: Options, beat: Callable[[], None]) -> None:
    """The same bytes, probes and sleeps over one communicator, with nothing around them."""
    end = RawEnd(connect(registry, "inference"), options["reply"])
    request = np.zeros(options["request"], np.uint8)

    def ask() -> None:
        end.send(request)
        while not end.wait(PATIENCE):
            beat()

    _measure(registry, options, ask)
    leave(registry)


def raw_server(registry: RegistryClient, options: Options, beat: Callable[[], None]) -> None:
    end = RawEnd(accept(registry), options["request"])
    reply = np.zeros(options["reply"], np.uint8)
    while "stop" not in registry.requested:
        beat()
        if end.wait(SERVING_PATIENCE):
            end.send(reply)
    leave(registry)


class RawEnd:
    """One side of a conversation in turns, over plain calls: what the ends cost is what they add to this."""

    def __init__(self, comm: Any, size: int) -> None:
        self.comm, self.buffer = comm, np.empty(size, np.uint8)
        self.sending: Any = None
        self.coming: Any = None
        self.idle = Idle(sorted(epolls()))

    def send(self, buffer: np.ndarray) -> None:
        if self.sending is not None:
            self.sending.Wait()
        self.sending = self.comm.Isend(buffer, 0, TAG)
        self.idle.looked(busy=True)

    def wait(self, timeout_s: float) -> bool:
        """True when a message has come into `buffer`, False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self.coming is None and (self.comm.Iprobe(0, TAG) or self.comm.Iprobe(0, TAG)):
                self.coming = self.comm.Irecv(self.buffer, 0, TAG)
            if self.coming is not None and self.coming.Test():
                self.coming = None
                return True
            if self.sending is not None and self.sending.Test():
                self.sending = None
            if (left := deadline - time.monotonic()) <= 0:
                return False
            self.idle.looked(busy=False)
            self.idle.rest(left)


def _measure(registry: RegistryClient, options: Options, ask: Callable[[], None]) -> None:
    """Asks and asks; tells when it is warm, and after the measured window what it saw there."""
    for _ in range(TALKING):
        ask()
    registry.heartbeat({"talking": True})
    while "measure" not in registry.requested and "stop" not in registry.requested:
        ask()
    taken, began, cpu = [], time.perf_counter(), time.process_time()
    now, until = began, began + options["seconds"]
    while now < until:
        ask()
        before, now = now, time.perf_counter()
        taken.append(now - before)
    cpu_s = time.process_time() - cpu
    quantiles = dict(zip(("p50_us", "p90_us", "p99_us"), 1e6 * np.percentile(taken, (50, 90, 99)), strict=True))
    measured = {"pairs": len(taken), "seconds": now - began, "cpu_s": cpu_s, **quantiles}
    registry.heartbeat({"talking": True, "measured": measured})


def _request(options: Options) -> Observed:
    pixels = np.zeros((1, options["request"] // 3, 3), np.uint8)
    return Observed(0, Assignment(0, 0, 0), Observation({"front": pixels}, np.zeros(8, np.float32), "do nothing"))


PLAYS = {
    ("links", "rollout"): client,
    ("links", "inference"): server,
    ("raw", "rollout"): raw_client,
    ("raw", "inference"): raw_server,
}


if __name__ == "__main__":
    perform(PLAYS)
