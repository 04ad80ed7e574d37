"""Weights from one process to each reader over a communicator of just these two: NCCL between GPUs, gloo in tests.

For policies that are too large to go through the host. A reader opens a store (a small TCP server) and makes its
address known; the publisher has a thread for each reader, which joins that store, makes the communicator, sends, and
gives it up when the reader is gone. So neither the training nor another reader waits for one that is slow or dead. What
is sent is said in the store first: nobody waits inside a communicator for data that may never come.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from acceerl.channels.collective import Directory, wait_in_calls
from acceerl.channels.device_buckets import Layout, Snapshot, Turns, beside
from acceerl.types import Weights

log = logging.getLogger(__name__)
FACT = "weights_store"  # name in the registry
LOOK_S, FIND_S = 5e-3, 0.5  # between two looks for an offer, and for readers
SENDER, RECEIVER = 0, 1


class Pair:
    """A communicator of two, one message at a time. RuntimeError when the other side does not do its part in time."""

    def __init__(self, store: dist.Store, me: int, backend: str, timeout_s: float) -> None:
        self.backend, self.timeout_s = backend, timeout_s
        self.group: Any
        if backend == "nccl":
            wait_in_calls()
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=timeout_s)
            self.group = dist.ProcessGroupNCCL(store, me, 2, options)
        else:
            self.group = dist.ProcessGroupGloo(store, me, 2, timedelta(seconds=timeout_s))

    def send(self, tensor: Tensor) -> None:
        self._wait(self.group.send([tensor], RECEIVER, 0))

    def receive(self, tensor: Tensor) -> None:
        self._wait(self.group.recv([tensor], SENDER, 0))

    def _wait(self, work: Any) -> None:
        """Looks instead of waiting where it is NCCL, whose wait could not be left; gloo's ends by itself."""
        until, pause = time.monotonic() + self.timeout_s, 1e-5
        while self.backend == "nccl" and not work.is_completed():
            if time.monotonic() > until:
                raise RuntimeError(f"waited {self.timeout_s:.0f} s for the other side")
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)
        work.wait(timedelta(seconds=self.timeout_s))  # raises what went wrong

    def abort(self) -> None:
        """Gives the communicator up, whatever is under way; gloo's goes with its last reference."""
        if self.backend == "nccl":
            self.group.abort()
        self.group = None


class DirectPublisher:
    """The sending end. `readers`: who may come, as (role, index); a thread looks for their stores in the registry."""

    def __init__(
        self, registry: Directory, readers: Sequence[tuple[str, int]], backend: str, device: str, timeout_s: float
    ) -> None:
        self.registry, self.readers, self.backend = registry, readers, backend
        self.device, self.timeout_s = torch.device(device), timeout_s
        self.turns = Turns(self.device)
        self.lives: dict[tuple[str, int], str] = {}  # of the readers that have a thread
        self.closing = threading.Event()
        self.threads = [_started(self._find, "weights readers")]

    def publish(self, version: int, like: Iterable[tuple[str, Tensor]], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Offers a copy, made on the device; without a free place for it, the next one is offered.

        `like`: tensors of the same names, types and shapes, so that `tensors` may be made one after another.
        """
        self.turns.write(version, Layout.of(like), tensors)

    def close(self) -> None:
        """For tests; a process of a training just ends."""
        self.closing.set()
        for thread in self.threads:
            thread.join(self.timeout_s)

    def _find(self) -> None:
        while not self.closing.wait(FIND_S):
            for reader in self.readers:
                fact = self.registry.fact(*reader, FACT)
                if fact and self.lives.get(reader) != fact[2]:
                    self.lives[reader] = fact[2]
                    name = f"weights to {reader[0]}[{reader[1]}]"
                    self.threads = [thread for thread in self.threads if thread.is_alive()]
                    self.threads.append(_started(self._serve, name, name, fact))

    def _serve(self, name: str, fact: Sequence[Any]) -> None:
        """One reader in one of its lives, until something fails: then it is looked for anew."""
        pair = None
        try:
            store, lane = _enter(fact, self.backend, self.timeout_s)
            pair = Pair(dist.PrefixStore(f"pair/{lane}", store), SENDER, self.backend, self.timeout_s)
            with beside(self.device):
                self._feed(pair, store, lane)
        except (RuntimeError, OSError) as error:
            if pair is not None:  # else it has been dead for a while
                log.info("%s ended: %s", name, str(error).partition("\n")[0])
        finally:
            if pair is not None:
                pair.abort()
            self.lives = {reader: life for reader, life in self.lives.items() if life != fact[2]}

    def _feed(self, pair: Pair, store: dist.Store, lane: int) -> None:
        have, number = -1, 0
        while not self.closing.is_set():
            snapshot = self.turns.newest(but=have, wait_s=FIND_S)
            try:
                if store.check([f"left/{lane}"]):  # which fails when the reader is gone
                    raise RuntimeError("the reader could not take it")
                if snapshot is not None:
                    number += 1
                    store.set(f"offer/{lane}/{number}", snapshot.offer())
                    for bucket in snapshot.buckets:
                        pair.send(bucket)
                    have = snapshot.version
            finally:
                self.turns.leave(snapshot)


def _enter(fact: Sequence[Any], backend: str, timeout_s: float) -> tuple[dist.Store, int]:
    """The reader's store, and which of its senders this is: a restarted learner comes after the one before."""
    host, port, _ = fact
    socket.create_connection((host, port), timeout=timeout_s).close()  # the store's own client would try for long
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    lane = store.add("senders", 1)
    store.set(f"sender/{lane}", backend)
    return store, lane


def _started(run: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    thread.start()
    return thread


class DirectReader:
    """See `links.WeightsReader`; the arrays are tensors on `device`. Receives in a thread of its own."""

    def __init__(self, registry: Directory, device: str, timeout_s: float) -> None:
        self.device, self.timeout_s = torch.device(device), timeout_s
        listening = socket.create_server((registry.address, 0))
        host, port = registry.address, listening.getsockname()[1]
        self.fact = [host, port, secrets.token_hex(8)]
        self.store = dist.TCPStore(
            host, port, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )  # fmt: skip
        self.corrupt = 0  # versions that failed their checksum
        self._tell: Callable[[], Any] = lambda: registry.publish(FACT, self.fact)
        self._lock = threading.Lock()
        self._new: Snapshot | None = None
        self._used: list[Snapshot] = []  # delivered: the latest, and until the next `poll` the one before
        self._free: list[Snapshot] = []
        self._closing = threading.Event()
        self._tell()
        self._thread = _started(self._run, "weights")

    def poll(self) -> Weights | None:
        if len(self._used) > 1 and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the role's copies may still read the older one
        with self._lock:
            self._free += self._used[:-1]
            self._used = self._used[-1:]
            new, self._new = self._new, None
            if new is None:
                return None
            self._used.append(new)
        return Weights(new.version, new.tensors())  # type: ignore[arg-type]

    def pump(self) -> None:
        """Needs nobody's help."""

    def close(self) -> None:
        """For tests; a process of a training just ends."""
        self._closing.set()
        self._thread.join(self.timeout_s)

    def _run(self) -> None:
        lane = 1
        while not self._closing.is_set():
            if self.store.check([f"sender/{lane}"]):
                self._follow(lane)
                lane = max(lane + 1, self.store.add("senders", 0))
            else:
                self._tell()  # again and again: the line to the registry may be cut meanwhile
                self._closing.wait(FIND_S)

    def _follow(self, lane: int) -> None:
        """Takes what one sender offers, until another one comes or it fails."""
        pair, number = None, 1
        try:
            backend = self.store.get(f"sender/{lane}").decode()
            pair = Pair(dist.PrefixStore(f"pair/{lane}", self.store), RECEIVER, backend, self.timeout_s)
            while not self._closing.wait(LOOK_S) and self.store.add("senders", 0) == lane:
                if self.store.check([f"offer/{lane}/{number}"]):
                    with beside(self.device):
                        self._take(pair, self.store.get(f"offer/{lane}/{number}").decode())
                    number += 1
        except RuntimeError as error:
            log.info("the learner's weights: %s", str(error).partition("\n")[0])
        finally:
            self.store.set(f"left/{lane}", "")
            if pair is not None:
                pair.abort()

    def _take(self, pair: Pair, offer: str) -> None:
        said = json.loads(offer)
        layout = Layout.read(said["layout"])
        with self._lock:
            fits = [held for held in self._free if held.layout == layout]
            place = fits[0] if fits else Snapshot(layout, self.device)
            self._free = [held for held in fits if held is not place]
        for bucket in place.buckets:
            pair.receive(bucket)
        place.version = said["version"]
        if place.sums() != said["sums"]:
            self.corrupt += 1
            raise RuntimeError(f"version {place.version} failed its checksum")
        with self._lock:
            self._free += [self._new] if self._new is not None else []
            self._new = place
