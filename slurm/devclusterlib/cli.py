"""The commands of `slurm/devcluster`."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import daemons, namespaces, network, starting
from .plan import HEAD, Cluster, Options, design, load

PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sinfo": "slurm-wlm", "munged": "munge", "ip": "iproute2",
            "unshare": "util-linux", "nsenter": "util-linux", "mount": "mount"}  # fmt: skip
ACCOUNTING_PACKAGES = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"}


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except (ValueError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="devcluster", description="A real Slurm of several nodes on this machine.")
    default = Path(f"/tmp/acceerl-devcluster-{os.getuid()}")
    top.add_argument("--folder", type=Path, default=default, help="where the cluster lives (default %(default)s)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_up(commands.add_parser("up", help="start it; returns when every node is idle"))
    for name, command, text in (
        ("down", down, "end it, with every process on its nodes"),
        ("status", status, "its daemons, and what sinfo says"),
        ("env", env, 'eval "$(slurm/devcluster env)" makes sbatch, srun and sinfo talk to it'),
    ):
        commands.add_parser(name, help=text).set_defaults(command=command)
    for name, command, text in (
        ("cut", cut, "pull a node's network cable (needs --netns)"),
        ("crash", crash, "kill everything on a node at once, as a power failure does"),
        ("join", join, "bring a cut or crashed node back"),
    ):
        add_node_command(commands.add_parser(name, help=text)).set_defaults(command=command)
    logs = commands.add_parser("logs", help="the end of its logs, or of one node's")
    logs.add_argument("node", nargs="?", help="a node, slurmctld or munged")
    logs.add_argument("-n", dest="lines", type=int, default=20)
    logs.set_defaults(command=show_logs)
    inside = add_node_command(commands.add_parser("exec", help="run a command on a node, outside of any job"))
    inside.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    inside.set_defaults(command=execute)
    return top


def add_up(up_parser: argparse.ArgumentParser) -> None:
    option, defaults = up_parser.add_argument, Options()
    for name, text in (
        ("cpu-nodes", "nodes cpu1, cpu2, ..."),
        ("gpu-nodes", "nodes gpu1, gpu2, ..."),
        ("gpus", "stand-in GPUs of each GPU node"),
        ("cpus-per-node", "may be more than this machine has"),
        ("memory-per-node", "MB that Slurm hands out"),
        ("node-timeout", "seconds until a silent node counts as down"),
        ("requeue-delay", "seconds before a requeued job starts again; Slurm's own default is 120"),
        ("grace", "seconds that a preempted job has left"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        option(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default %(default)s)")
    option("--accounting", action="store_true", help="with slurmdbd, so that sacct works")
    option("--netns", action="store_true", help="each node in a network namespace, so that it can be cut off")
    option("--set", dest="settings", action="append", default=[], metavar="Key=Value", help="a line of slurm.conf")
    option("--timeout", type=float, default=60, help="seconds to wait for the nodes (default %(default)s)")
    up_parser.set_defaults(command=up)


def add_node_command(node_parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    node_parser.add_argument("node")
    return node_parser


def up(args: argparse.Namespace) -> int:
    names = Options.__dataclass_fields__
    options = Options(
        **{name: getattr(args, name) for name in names if name != "settings"},
        settings=tuple(args.settings),
    )
    check_machine(options)
    started = time.monotonic()
    with locked(args.folder):
        old = load(args.folder)
        if old and daemons.is_up(old):
            return already_up(old, options)
        if old:
            daemons.stop(old)  # what a crash or a reboot left behind
        start_or_clean(design(args.folder, options), started + args.timeout)
    print(f"devcluster: {options.nodes} nodes idle after {time.monotonic() - started:.1f} s in {args.folder}")
    return 0


def already_up(old: Cluster, options: Options) -> int:
    if old.options != options:
        raise ValueError(f"a cluster with other options runs in {old.folder}: end it with `devcluster down` first")
    print(f"devcluster: already up in {old.folder}")
    return 0


def start_or_clean(cluster: Cluster, deadline: float) -> None:
    """A start that fails or is interrupted leaves nothing running."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(cluster.folder / "log", ignore_errors=True)
    cluster.save()
    try:
        daemons.start(cluster, deadline)
    except BaseException:
        daemons.stop(cluster)
        raise


def check_machine(options: Options) -> None:
    need_root()
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = PACKAGES | (ACCOUNTING_PACKAGES if options.accounting else {})
    missing = sorted({package for program, package in packages.items() if not shutil.which(program, path=path)})
    if missing:
        raise ValueError(f"programs are missing: apt-get install {' '.join(missing)}")
    if subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True, check=False).returncode:
        raise ValueError("this root may not make namespaces: start the container with --privileged")


def need_root() -> None:
    if os.geteuid():
        raise ValueError("must run as root (it starts daemons and namespaces): sudo slurm/devcluster ...")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One command changes a cluster at a time. The folder must be ours: others can make files in /tmp too."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise ValueError(f"{folder} belongs to somebody else: give another --folder")
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another devcluster command is at work in {folder}") from None
        yield


def running(args: argparse.Namespace) -> Cluster:
    need_root()
    cluster = load(args.folder)
    if cluster is None or not daemons.is_up(cluster):
        raise ValueError(f"no cluster runs in {args.folder}: start one with `devcluster up`")
    return cluster


def down(args: argparse.Namespace) -> int:
    need_root()
    cluster = load(args.folder)
    if cluster is None:
        print(f"devcluster: nothing to end in {args.folder}")
        return 0
    with locked(args.folder):
        daemons.stop(cluster)
    print(f"devcluster: down; its logs stay in {args.folder / 'log'}")
    return 0


def status(args: argparse.Namespace) -> int:
    cluster = running(args)
    print(f"{'node':8} {'address':15} {'daemons':32} others")
    places = [(HEAD, cluster.head_address), *((node.name, node.address) for node in cluster.nodes())]
    for name, address in places:
        names = [(pid, comm(pid)) for pid in namespaces.members(starting.holder(cluster, name))]
        own = [
            f"{what} {pid}" for pid, what in names if what in ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd")
        ]
        print(f"{name:8} {address:15} {', '.join(own) or 'none':32} {len(names) - len(own)}")
    print(flush=True)
    return subprocess.run(["sinfo"], env=starting.environment(cluster), timeout=30, check=False).returncode


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def env(args: argparse.Namespace) -> int:
    cluster = load(args.folder)
    if cluster is None:
        raise ValueError(f"no cluster runs in {args.folder}: start one with `devcluster up`")
    print(f"export SLURM_CONF={cluster.conf}")
    return 0


def show_logs(args: argparse.Namespace) -> int:
    files = sorted((args.folder / "log").glob(f"{args.node or '*'}.log"))
    if not files:
        raise ValueError(f"no such log in {args.folder / 'log'}")
    return subprocess.run(["tail", "-v", "-n", str(args.lines), *map(str, files)], check=False).returncode


def cut(args: argparse.Namespace) -> int:
    cluster = running(args)
    node = cluster.node(args.node)
    if not cluster.options.netns:
        raise ValueError("nodes share this machine's network: start the cluster with `devcluster up --netns`")
    network.switch(cluster, node, up=False)
    return 0


def crash(args: argparse.Namespace) -> int:
    cluster = running(args)
    node = cluster.node(args.node)
    if cluster.options.netns:
        network.switch(cluster, node, up=False)  # a machine without power closes no connection either
    namespaces.kill(starting.holder(cluster, node.name))
    return 0


def join(args: argparse.Namespace) -> int:
    cluster = running(args)
    node = cluster.node(args.node)
    if cluster.options.netns:
        network.switch(cluster, node, up=True)
    if slurmd_of(cluster, node.name) is None:
        daemons.start_node(cluster, node)
    return 0


def execute(args: argparse.Namespace) -> int:
    cluster = running(args)
    pid = slurmd_of(cluster, cluster.node(args.node).name)
    if pid is None:
        raise ValueError(f"{args.node} is down: `devcluster join {args.node}` brings it back")
    command = ["nsenter", f"--target={pid}", "--uts", "--net", "--mount", "--", *(args.words or ["sh"])]
    return subprocess.run(command, env=starting.environment(cluster), check=False).returncode


def slurmd_of(cluster: Cluster, name: str) -> int | None:
    found = (pid for pid in namespaces.members(starting.holder(cluster, name)) if comm(pid) == "slurmd")
    return next(found, None)
