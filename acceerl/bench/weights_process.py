"""The processes of `acceerl bench weights`: `python -m acceerl.bench.weights_process FOLDER ROLE INDEX JSON`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from queue import SimpleQueue
from statistics import median
from typing import Any

import numpy as np
import torch

from acceerl.bench.peers import accept, connect, leave, perform
from acceerl.channels.links import LINKS
from acceerl.channels.mpi import Endpoint
from acceerl.channels.weights_reader import MpiReader
from acceerl.envs.skeleton import SkeletonEnv
from acceerl.policies.mlp import MlpPolicy
from acceerl.protocols import Policy, PolicySpec
from acceerl.roles.inference import Inference, Pace
from acceerl.roles.learner import pack, unpack
from acceerl.roles.rollout import rollout
from acceerl.roles.tasks import TrainingTasks
from acceerl.runtime.metrics import NullMeter
from acceerl.runtime.registry_client import RegistryClient
from acceerl.types import ActionBatch, ObservationBatch, Weights

HIDDEN, CHUNK, BINS = 256, 4, 11
PIECE, WINDOW, TAG = 4 << 20, 4, 7
CLOCK = "published"  # travels with the version: time.monotonic() when it was published
Options = dict[str, Any]
Beat = Callable[[], None]


def make_env(options: Options) -> SkeletonEnv:
    """Whose observations make a first layer of the wanted size."""
    return SkeletonEnv(side=max(1, isqrt(int(options["mb"] * 1e6 / (4 * 3 * HIDDEN)))))


def make_policy(options: Options) -> MlpPolicy:
    spec = make_env(options).spec
    return MlpPolicy(
        PolicySpec(CHUNK, spec.action_dim, BINS, spec.cameras, spec.image_size, spec.proprio), hidden=[HIDDEN]
    )


def learner(registry: RegistryClient, options: Options, beat: Beat) -> None:
    """Publishes the version that the bench asks for."""
    asked: SimpleQueue[str] = SimpleQueue()
    registry.on_request = asked.put
    endpoint = Endpoint(registry, ["policy_weights"], beat=beat)
    publisher, policy = endpoint.publisher("policy_weights"), make_policy(options)
    endpoint.start_pumper()
    _publish(publisher, policy, 0)
    while (what := asked.get(timeout=300)) != "stop":
        _publish(publisher, policy, int(what.removeprefix("publish ")))
    endpoint.finish(0)


def _publish(publisher: Any, policy: Policy, version: int) -> None:
    publisher.publish(Weights(version, pack(policy) | {CLOCK: np.array(time.monotonic())}))


@dataclass
class Watch:
    """When batches were answered and versions swapped in, in one inference process."""

    registry: RegistryClient
    batches: list[tuple[float, float]] = field(default_factory=list)  # begin and end of each, time.monotonic()
    report: dict[str, Any] = field(default_factory=dict)
    swap: dict[str, Any] | None = None  # the last one, until a few batches have followed it

    def load(self, policy: Policy, new: Weights) -> None:
        """What the role calls to swap; books how long the version travelled and how long copying it takes."""
        began = time.monotonic()
        published = float(new.arrays[CLOCK])
        arrays = {name: array for name, array in new.arrays.items() if name != CLOCK}
        unpack(policy, Weights(new.version, arrays))
        size = sum(array.nbytes for array in arrays.values())
        self.swap = {"version": new.version, "published": published, "bytes": size,
                     "seconds": began - published, "load_s": time.monotonic() - began}  # fmt: skip

    def look(self) -> None:
        """Between two steps of the role: tells the bench what it waits for."""
        if self.swap is not None and self._settled(self.swap):
            swap, self.swap = self.swap, None
            gap = self._longest_gap(swap["published"])
            self._say(f"version {swap['version']}", {**swap, "longest_gap_s": gap})
        if len(self.batches) >= 50 and "serving" not in self.report:
            self.batches.clear()  # the first ones are slower than usual
            self._say("serving", True)
        if "usual" in self.registry.requested and "usual" not in self.report:
            gaps = np.diff([end for _, end in self.batches])
            batch = median(end - begin for begin, end in self.batches)
            self._say("usual", {"gap_s": float(np.median(gaps)), "batch_s": batch})

    def _settled(self, swap: dict[str, Any]) -> bool:
        loaded = swap["published"] + swap["seconds"] + swap["load_s"]
        return not self.batches or sum(end > loaded for _, end in self.batches[-3:]) >= 3

    def _longest_gap(self, published: float) -> float:
        """Seconds between two answers, the later one after the version was published; 0 when nobody asks."""
        ends = [end for _, end in self.batches]
        later = next((i for i, end in enumerate(ends) if end > published), len(ends))
        return float(np.diff(ends[max(later - 1, 0) :]).max(initial=0.0))

    def _say(self, name: str, what: Any) -> None:
        self.report[name] = what
        self.registry.heartbeat(self.report)


class WatchedPolicy:
    """An `MlpPolicy` whose batches are timed."""

    def __init__(self, policy: MlpPolicy, watch: Watch) -> None:
        self._policy, self._watch = policy, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def act(self, observations: ObservationBatch, greedy: bool) -> ActionBatch:
        begin = time.monotonic()
        answer = self._policy.act(observations, greedy)
        self._watch.batches.append((begin, time.monotonic()))
        return answer


def inference(registry: RegistryClient, options: Options, beat: Beat) -> None:
    """The inference role itself, looked at between its steps."""
    torch.set_num_threads(1)
    endpoint = Endpoint(registry, ["observe", "act", "policy_weights"], beat=beat)
    watch = Watch(registry)
    policy: Any = WatchedPolicy(make_policy(options), watch)
    role = Inference(
        policy, endpoint.serving(), TrainingTasks(make_env(options).spec, 0), Pace(max_batch=options["clients"]),
        NullMeter(), weights=MpiReader(endpoint, LINKS["policy_weights"], 0, near=options["shared"]), load=watch.load,
    )  # fmt: skip
    for _ in role.run():
        watch.look()
        if "stop" in registry.requested:
            break
    endpoint.finish(0)


def client(registry: RegistryClient, options: Options, beat: Beat) -> None:
    """The rollout role on an environment that takes no time."""
    endpoint = Endpoint(registry, ["observe", "act"], beat=beat)
    for _ in rollout([make_env(options)], endpoint.requests(), NullMeter()):
        beat()
        if "stop" in registry.requested:
            break
    endpoint.finish(0)


def raw_sender(registry: RegistryClient, options: Options, beat: Beat) -> None:
    comm, buffer, signal = accept(registry), _buffer(options), np.zeros(1, np.uint8)
    for _ in range(options["versions"]):
        beat()
        comm.Recv(signal, 0, TAG)
        _in_windows(comm.Isend, buffer)
    leave(registry)


def raw_receiver(registry: RegistryClient, options: Options, beat: Beat) -> None:
    """Asks for one transfer after the other and times them."""
    comm, buffer, signal, rates = connect(registry, "learner"), _buffer(options), np.zeros(1, np.uint8), []
    for _ in range(options["versions"]):
        beat()
        began = time.monotonic()
        comm.Send(signal, 0, TAG)
        _in_windows(comm.Irecv, buffer)
        rates.append(buffer.nbytes / (time.monotonic() - began) / 1e9)
    registry.heartbeat({"gb_per_s": rates})
    leave(registry)


def _buffer(options: Options) -> np.ndarray:
    return np.ones(int(options["mb"] * 1e6), np.uint8)


def _in_windows(start: Callable[..., Any], buffer: np.ndarray) -> None:
    """The whole buffer in pieces, a few at a time."""
    flying: list[Any] = []
    for at in range(0, len(buffer), PIECE):
        if len(flying) == WINDOW:
            flying.pop(0).Wait()
        flying.append(start(buffer[at : at + PIECE], 0, TAG))
    for request in flying:
        request.Wait()


PLAYS = {
    ("link", "learner"): learner,
    ("link", "inference"): inference,
    ("link", "rollout"): client,
    ("raw", "learner"): raw_sender,
    ("raw", "inference"): raw_receiver,
}


if __name__ == "__main__":
    perform(PLAYS)
