"""What a dev cluster consists of: its options, its nodes and where each of them is reached."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

HEAD = "head"  # where slurmctld, munged and the accounting run; no jobs
LONGEST_SOCKET = 100  # characters; the kernel allows 108 for the path of a Unix socket


@dataclass(frozen=True)
class Options:
    """What the user chose; two `up` with equal options mean the same cluster."""

    cpu_nodes: int = 2
    gpu_nodes: int = 2
    gpus: int = 1  # stand-ins, for each GPU node
    cpus_per_node: int = 8
    memory_per_node: int = 16_000  # MB that Slurm hands out; nothing enforces it
    accounting: bool = False
    netns: bool = False
    node_timeout: int = 20  # seconds until a silent node counts as down
    requeue_delay: int = 20  # seconds that a requeued job waits; as long, a step's credential is valid
    grace: int = 30  # seconds between the preemption's signal and its kill
    settings: tuple[str, ...] = ()  # lines of slurm.conf, `Key=Value`

    def __post_init__(self) -> None:
        for name in ("cpus_per_node", "memory_per_node", "node_timeout", "requeue_delay"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give at least 1")
        if min(self.cpu_nodes, self.gpu_nodes, self.gpus, self.grace) < 0 or not 1 <= self.nodes <= 250:
            raise ValueError("a cluster has 1 to 250 nodes, and no count is negative")
        for line in self.settings:
            if "=" not in line:
                raise ValueError(f"--set {line}: give it as Key=Value, a line of slurm.conf")

    @property
    def nodes(self) -> int:
        return self.cpu_nodes + self.gpu_nodes


@dataclass(frozen=True)
class Node:
    name: str
    address: str
    port: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A cluster in its folder: options, addresses `prefix.1` to `prefix.254`, ports from `port` on."""

    folder: Path
    options: Options
    prefix: str
    port: int

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge.socket"

    @property
    def database_port(self) -> int:
        return self.port + 2

    @property
    def dbd_port(self) -> int:
        return self.port + 1

    @property
    def head_address(self) -> str:
        return f"{self.prefix}.254"

    @property
    def bridge(self) -> str:
        return f"dc{folder_hash(self.folder)}br"

    def nodes(self) -> list[Node]:
        """CPU nodes first; each has a port of its own, because without namespaces they share the machine's."""
        kinds = [("cpu", 0, self.options.cpu_nodes), ("gpu", self.options.gpus, self.options.gpu_nodes)]
        named = [(f"{kind}{i + 1}", gpus) for kind, gpus, count in kinds for i in range(count)]
        return [Node(n, f"{self.prefix}.{i}", self.port + 2 + i, gpus) for i, (n, gpus) in enumerate(named, 1)]

    def node(self, name: str) -> Node:
        for node in self.nodes():
            if node.name == name:
                return node
        raise ValueError(f"no node {name}: choose one of {', '.join(n.name for n in self.nodes())}")

    def save(self) -> None:
        text = json.dumps({"options": asdict(self.options), "prefix": self.prefix, "port": self.port})
        beside = self.folder / "cluster.json.new"
        beside.write_text(text)
        beside.rename(self.folder / "cluster.json")


def load(folder: Path) -> Cluster | None:
    """The cluster that was started in `folder`, whether or not it still runs; None: there is none."""
    file = folder / "cluster.json"
    if not file.exists():
        return None
    saved = json.loads(file.read_text())
    saved["options"]["settings"] = tuple(saved["options"]["settings"])
    return Cluster(folder, Options(**saved["options"]), saved["prefix"], saved["port"])


def design(folder: Path, options: Options) -> Cluster:
    """A cluster with free ports and, with namespaces, a network that this machine is not in."""
    if len(str(folder)) + len("/munge.socket") > LONGEST_SOCKET:
        raise ValueError(f"--folder {folder} is too long for a Unix socket: give one below 85 characters")
    number = int(folder_hash(folder), 16)
    wanted = (f"10.213.{(number + i) % 256}" for i in range(256))
    prefix = free_prefix(wanted) if options.netns else f"127.213.{number % 256}"
    return Cluster(folder, options, prefix, free_ports(3 + options.nodes))


def folder_hash(folder: Path) -> str:
    """Four hexadecimal digits: interface names have 15 characters at most."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:4]


def free_prefix(wanted: Iterator[str]) -> str:
    taken = subprocess.run(["ip", "-4", "route", "show"], capture_output=True, text=True, check=True).stdout
    for prefix in wanted:
        if f"{prefix}." not in taken:
            return prefix
    raise ValueError("every network 10.213.x.0/24 is in use on this machine")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on, below those that the kernel gives to clients."""
    start = 17000 + os.getpid() % 100 * 100  # two `up` at once do not look at the same ones
    for first in chain(range(start, 32000, 100), range(17000, start, 100)):
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise ValueError(f"no {count} free ports in a row between 17000 and 32000")


def is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
