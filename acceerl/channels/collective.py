"""What the ranks of one role do together: sums, one rank's tensors for all, and how they find each other.

Read `Collective` for what a role may ask. `Alone` is the one rank of a small training and costs nothing; `Group` is
torch.distributed (gloo on the CPU, NCCL beside it on GPUs), which enters the package here only.

How ranks meet: rank 0 opens a store on a free port and makes its address known through the registry, with a random
`life`. A rank takes its seat in the store once; a store whose seat is taken belongs to an earlier life of this rank,
whose group is about to end, so it looks again. So ranks of two lives never meet.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    import torch.distributed as dist

    from acceerl.channels.collective_shards import Files

FACT = "rendezvous"  # name in the registry
LOOK_S = 0.1  # between two looks for a rank that has not come


class PeersLost(RuntimeError):
    """A rank died, fell silent or left the others: this rank's work since the last checkpoint is lost too."""


class Collective:
    """One rank's side of what all do together. Each call must be made by all ranks, in the same order.

    Raises PeersLost when one of the others does not take part in time.
    """

    rank, size = 0, 1

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replaces the tensor by its sum over ranks, bit for bit the same everywhere."""
        raise AssertionError("a subclass says how")

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Replaces the tensor by rank 0's."""
        raise AssertionError("a subclass says how")

    def total(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Sums over ranks of a few named numbers or arrays (float64), in one message; same names everywhere."""
        arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
        if self.size == 1:
            return arrays
        flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays.values()]))
        self.all_reduce(flat)
        parts = np.split(flat.numpy(), np.cumsum([array.size for array in arrays.values()])[:-1])
        return {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value` (anything JSON holds), in the order of ranks, everywhere."""
        if self.size == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self.total({"lengths": self.mine(len(text))})["lengths"].astype(int)
        table = torch.zeros(self.size, int(lengths.max()), dtype=torch.uint8)
        table[self.rank, : len(text)] = torch.from_numpy(text.copy())
        self.all_reduce(table)
        return [json.loads(bytes(row[:n].tolist())) for row, n in zip(table, lengths, strict=True)]

    def mine(self, value: float) -> np.ndarray:
        """float64 [size], `value` at this rank's place: what `total` turns into a table of all ranks."""
        table = np.zeros(self.size)
        table[self.rank] = value
        return table

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        if self.size > 1:
            self.total({"here": 1.0})

    def names(self, role: str) -> str:
        """The other ranks, for a message: `learner[0]`, or `learner[0] or learner[2]`."""
        return " or ".join(f"{role}[{other}]" for other in range(self.size) if other != self.rank)


class Alone(Collective):
    """The only rank: everything is its own already."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """The sum of one."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Rank 0 is here."""


class Group(Collective):
    """Ranks of `role` in processes of their own. `store` as from `meet`; a wait of `timeout_s` is a loss."""

    def __init__(
        self, role: str, rank: int, size: int, store: dist.Store, timeout_s: float, device: str = "cpu"
    ) -> None:
        import torch.distributed as dist

        self.role, self.rank, self.size = role, rank, size
        on_gpu = device.startswith("cuda")
        wait_in_calls()
        self._dist = dist
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
            device_id=torch.device(device) if on_gpu else None,
        )

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self._do("sum", lambda: self._dist.all_reduce(tensor))

    def broadcast(self, tensor: torch.Tensor) -> None:
        self._do("broadcast", lambda: self._dist.broadcast(tensor, src=0))

    def close(self) -> None:
        """For tests; a process of a training just ends."""
        self._dist.destroy_process_group()

    def _do(self, what: str, call: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            call()
        except RuntimeError as error:
            reason = _reason(str(error))
            me, waited = f"{self.role}[{self.rank}]", time.monotonic() - began
            others = self.names(self.role)
            raise PeersLost(f"{me} lost {others} after {waited:.0f} s in a {what} over ranks: {reason}") from error


def wait_in_calls() -> None:
    """NCCL's own way out of a time-out is to abort the process; waiting in the call raises what we can name.

    Read when a communicator is made. It matters most for readers of weights: one that dies must not end the learner.
    """
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")


class Directory(Protocol):
    """What meeting needs of the registry; `runtime.RegistryClient` has it."""

    role: str
    index: int
    incarnation: int

    @property
    def address(self) -> str:
        """Of this machine, as the others reach it."""
        ...

    def publish(self, name: str, fact: Any) -> bool: ...

    def fact(self, role: str, index: int, name: str) -> Any: ...


def meet(
    registry: Directory, size: int, connect_s: float, timeout_s: float, device: str = "cpu",
    beat: Callable[[], None] = lambda: None,
) -> Collective:  # fmt: skip
    """This process as one of `size` ranks of its role: its index is its rank. Returns when all have come.

    `timeout_s` is the longest that a rank waits for another later on; `beat` is called while waiting.
    Raises PeersLost naming who did not come within `connect_s`.
    """
    if size == 1:
        return Alone()
    if registry.address.startswith("127."):  # all on this machine: nothing depends on how its name resolves
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    until = time.monotonic() + connect_s
    if registry.index == 0:
        store, fact = _host(registry, connect_s)

        def tell() -> None:
            beat()
            registry.publish(FACT, fact)  # again and again: the line to the registry may be cut meanwhile

        _await_all(store, registry, size, connect_s, until, tell)
    else:
        store = _guest(registry, connect_s, until, beat)
        _await_all(store, registry, size, connect_s, until, beat)
    return Group(registry.role, registry.index, size, store, timeout_s, device)


def by_file(role: str, path: Path, rank: int, size: int, timeout_s: float, device: str = "cpu") -> Collective:
    """This process as one of `size` ranks that find each other by a file which all see, new for every meeting.

    For jobs without a registry. Raises PeersLost when one of the others does not come within `timeout_s`.
    """
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        return Group(role, rank, size, dist.FileStore(str(path), size), timeout_s, device)
    except RuntimeError as error:
        raise PeersLost(f"{role}[{rank}] waited {timeout_s:.0f} s for the others: {_reason(str(error))}") from error


def shard_files() -> Files:
    """For tensors that ranks have divided; all ranks must call it. Loads a part of torch that others do without."""
    from acceerl.channels.collective_shards import Files

    return Files()


def read_shards(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """See `collective_shards.read`."""
    from acceerl.channels.collective_shards import read

    read(tensors, folder)


def _reason(text: str) -> str:
    """The first sentence of torch's message, without the place in its source."""
    return (text.partition("] ")[2] or text).partition("\n")[0].partition(". ")[0]


def _host(registry: Directory, connect_s: float) -> tuple[dist.Store, list[Any]]:
    """Rank 0's store, listening on the one address that the others use, and what they must know to join."""
    listening = socket.create_server((registry.address, 0))
    port, life = listening.getsockname()[1], secrets.token_hex(8)
    store = _open(registry.address, port, connect_s, listening.detach())
    store.set("life", life)
    seated = _sit(store, registry)
    assert seated, "a new store has free seats"
    return store, [registry.address, port, life]


def _guest(registry: Directory, connect_s: float, until: float, beat: Callable[[], None]) -> dist.Store:
    while time.monotonic() < until:
        fact = registry.fact(registry.role, 0, FACT)
        store = _join(registry, fact, connect_s) if fact else None
        if store is not None:
            return store
        beat()
        time.sleep(LOOK_S)
    raise _late(registry, [0], connect_s)


def _join(registry: Directory, fact: Sequence[Any], connect_s: float) -> dist.Store | None:
    """The store that rank 0 spoke of; None when it has gone, is another's, or was joined by an earlier life of us."""
    host, port, life = fact
    try:
        socket.create_connection((host, port), timeout=LOOK_S).close()  # the store's own client would try for long
        store = _open(host, port, connect_s)
        return store if store.get("life").decode() == life and _sit(store, registry) else None
    except (OSError, RuntimeError):  # rank 0 has died since
        return None


def _open(host: str, port: int, connect_s: float, listening: int | None = None) -> dist.Store:
    import torch.distributed as dist

    return dist.TCPStore(
        host, port, is_master=listening is not None, timeout=timedelta(seconds=connect_s), wait_for_workers=False,
        master_listen_fd=listening,
    )  # fmt: skip


def _sit(store: dist.Store, registry: Directory) -> bool:
    """Takes this rank's seat. False when an earlier life of it sits there."""
    me = f"{registry.incarnation}-{os.getpid()}"
    return store.compare_set(_seat(registry.index), "", me).decode() == me


def _seat(rank: int) -> str:
    return f"seat/{rank}"


def _await_all(
    store: dist.Store, registry: Directory, size: int, connect_s: float, until: float, beat: Callable[[], None]
) -> None:
    while missing := [rank for rank in range(size) if not _sits(store, rank, registry)]:
        beat()
        if time.monotonic() > until:
            raise _late(registry, missing, connect_s)
        time.sleep(LOOK_S)


def _sits(store: dist.Store, rank: int, registry: Directory) -> bool:
    try:
        return bool(store.check([_seat(rank)]))
    except RuntimeError as error:
        raise PeersLost(f"{registry.role}[{registry.index}] lost {registry.role}[0] while ranks met") from error


def _late(registry: Directory, missing: Sequence[int], connect_s: float) -> PeersLost:
    whom = ", ".join(f"{registry.role}[{rank}]" for rank in missing)
    return PeersLost(f"{registry.role}[{registry.index}] waited {connect_s:.0f} s for {whom} to meet it")
