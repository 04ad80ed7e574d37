"""Starts the daemons of a cluster, waits until they serve, and ends all that runs on its nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

from . import accounting, conf, namespaces, network
from .plan import HEAD, Cluster, Node
from .starting import Starting, environment, holder, spawn

# In a mount namespace of its own, each node has the cluster's names and its own shared memory, as a machine has.
NODE_MOUNTS = 'mount --bind "$0" /etc/hosts && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$@"'


def write_files(cluster: Cluster) -> None:
    for name in ("ns", "log", "state", "spool", "dev"):
        (cluster.folder / name).mkdir(exist_ok=True)
    cluster.conf.write_text(conf.slurm_conf(cluster))
    (cluster.folder / "gres.conf").write_text(conf.gres_conf(cluster))
    (cluster.folder / "hosts").write_text(conf.hosts(cluster))
    for node in cluster.nodes():
        for file in conf.gpu_files(cluster, node):
            device(Path(file))
    key = cluster.folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def device(file: Path) -> None:
    """A second /dev/null: Slurm sets CUDA_VISIBLE_DEVICES for device files only."""
    if not file.exists():
        os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def start(cluster: Cluster, deadline: float) -> None:
    """Starts everything; returns when all nodes are idle. `deadline`: of time.monotonic()."""
    starting = Starting(cluster, deadline)
    write_files(cluster)
    namespaces.make(holder(cluster, HEAD), HEAD, net=False)
    if cluster.options.netns:
        network.build(cluster)
    start_munge(starting)
    if cluster.options.accounting:
        accounting.start(starting)
    starting.spawn(HEAD, "slurmctld", ["slurmctld", "-D", "-c", "-f", str(cluster.conf)])
    for node in cluster.nodes():
        make_node(cluster, node)
        starting.spawn(node.name, node.name, slurmd(cluster, node))
    wait_until_idle(starting)


def start_munge(starting: Starting) -> None:
    cluster = starting.cluster
    words = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    files = [f"--{option}={cluster.folder / file}" for option, file in words.items()]
    starting.spawn(HEAD, "munged", ["munged", "--foreground", "--force", *files])
    starting.wait_for(cluster.munge_socket.exists, lambda: "munged made no socket")


def make_node(cluster: Cluster, node: Node) -> None:
    namespaces.make(holder(cluster, node.name), node.name, net=cluster.options.netns)
    if cluster.options.netns:
        network.connect(cluster, node, holder(cluster, node.name))


def start_node(cluster: Cluster, node: Node) -> None:
    spawn(cluster, node.name, node.name, slurmd(cluster, node))


def slurmd(cluster: Cluster, node: Node) -> list[str]:
    mounts = ["unshare", "--mount", "--propagation=slave", "sh", "-c", NODE_MOUNTS, str(cluster.folder / "hosts")]
    return [*mounts, "slurmd", "-D", "-N", node.name, "-f", str(cluster.conf)]


def wait_until_idle(starting: Starting) -> None:
    cluster = starting.cluster
    expected = {node.name for node in cluster.nodes()}

    def missing() -> set[str]:
        return expected - {name for name, state in node_states(cluster).items() if state == "idle"}

    def complaint() -> str:
        return f"nodes {', '.join(sorted(missing()))} are not idle: {node_states(cluster)}"

    starting.wait_for(lambda: not missing(), complaint)


def node_states(cluster: Cluster) -> dict[str, str]:
    """Slurm's word for each node; empty while slurmctld does not answer."""
    command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
    env = environment(cluster)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=env, check=False)
    except subprocess.TimeoutExpired:
        return {}
    return dict(line.split(None, 1) for line in done.stdout.splitlines())


def is_up(cluster: Cluster) -> bool:
    return any(namespaces.members(holder(cluster, HEAD)))


def stop(cluster: Cluster) -> None:
    """Ends all processes on all nodes, and removes everything but the logs. A half started cluster is fine."""
    names = [HEAD, *(node.name for node in cluster.nodes())]
    for name in reversed(names):  # the head last, so that jobs still find it when they end
        namespaces.end(holder(cluster, name), grace_s=1)
    if cluster.options.netns:
        network.demolish(cluster)
    for name in names:
        namespaces.release(holder(cluster, name))
    for path in cluster.folder.iterdir():
        if path.name not in ("log", "lock", "cluster.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (cluster.folder / "cluster.json").unlink()
