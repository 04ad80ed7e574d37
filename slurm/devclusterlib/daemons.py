"""Starts the daemons of a cluster, waits until they serve, and ends all that runs on its nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import conf, namespaces, network
from .plan import HEAD, Cluster, Node

# In a mount namespace of its own, each node has the cluster's names and its own shared memory, as a machine has.
NODE_MOUNTS = 'mount --bind "$0" /etc/hosts && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$@"'


def holder(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "ns" / name


def log_of(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "log" / f"{name}.log"


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


class Starting:
    """The daemons of a start that is under way: one that ends early ends the wait for all."""

    def __init__(self, cluster: Cluster, deadline: float) -> None:
        self.cluster, self.deadline = cluster, deadline
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, where: str, name: str, command: list[str]) -> None:
        self.daemons[name] = spawn(self.cluster, where, name, command)

    def wait_for(self, happened: Callable[[], bool], complaint: Callable[[], str]) -> None:
        while not happened():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > self.deadline:
                problem = f"{dead[0]} ended with exit code {self.daemons[dead[0]].poll()}" if dead else complaint()
                raise RuntimeError(f"{problem}; the last lines of the logs:\n{last_words(self.cluster)}")
            time.sleep(0.1)


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
    starting.spawn(HEAD, "slurmctld", ["slurmctld", "-D", "-c", "-f", str(cluster.conf)])
    for node in cluster.nodes():
        make_node(cluster, node)
        starting.spawn(node.name, node.name, slurmd(cluster, node))
    wait_until_idle(starting)


def start_munge(starting: Starting) -> None:
    cluster = starting.cluster
    words = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    files = [f"--{option}={cluster.folder / file}" for option, file in words.items()]
    log = f"--log-file={log_of(cluster, 'munged-own')}"
    starting.spawn(HEAD, "munged", ["munged", "--foreground", "--force", *files, log])
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


def spawn(cluster: Cluster, where: str, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a daemon on a node, in a session of its own; its words go to log/NAME.log."""
    with log_of(cluster, name).open("ab") as log:
        return subprocess.Popen(
            [*namespaces.entering(holder(cluster, where)), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(cluster),
            start_new_session=True,
            cwd=cluster.folder,
        )


def environment(cluster: Cluster) -> dict[str, str]:
    """Without the Slurm job that this may run in; /usr/sbin is where Debian keeps the daemons."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    return kept | {
        "SLURM_CONF": str(cluster.conf),
        "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin",
    }


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


def last_words(cluster: Cluster, lines: int = 5) -> str:
    """The end of each log, for a cluster that does not start."""
    ends = {file.name: file.read_text(errors="replace").splitlines()[-lines:] for file in logs(cluster)}
    return "\n".join(f"{name}: {line}" for name, end in ends.items() for line in end)


def logs(cluster: Cluster) -> list[Path]:
    return sorted((cluster.folder / "log").glob("*.log"))


def is_up(cluster: Cluster) -> bool:
    return any(namespaces.members(holder(cluster, HEAD)))


def stop(cluster: Cluster) -> None:
    """Ends all processes on all nodes, and removes everything but the logs. A half started cluster is fine."""
    names = [HEAD, *(node.name for node in cluster.nodes())]
    for name in names[1:]:
        namespaces.end(holder(cluster, name), grace_s=1)
    namespaces.end(holder(cluster, HEAD), grace_s=5)
    if cluster.options.netns:
        network.demolish(cluster)
    for name in names:
        namespaces.release(holder(cluster, name))
    for path in cluster.folder.iterdir():
        if path.name not in ("log", "lock", "cluster.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (cluster.folder / "cluster.json").unlink()
