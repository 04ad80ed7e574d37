"""With --accounting: a MariaDB and a slurmdbd of the cluster's own, and an account `research` that jobs run under."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
from contextlib import closing

from . import namespaces
from .plan import HEAD, Cluster
from .starting import Starting, environment, holder

USER, DATABASE = "slurm", "slurm_acct"


def start(starting: Starting) -> None:
    """Returns when slurmdbd serves and knows the cluster, its account and its users; slurmctld comes afterwards."""
    cluster = starting.cluster
    password = secrets.token_hex(16)
    start_database(starting, password)
    write_conf(cluster, password)
    starting.spawn(HEAD, "slurmdbd", ["slurmdbd", "-D"])
    starting.wait_for(lambda: listens(cluster.head_address, cluster.dbd_port), lambda: "slurmdbd does not listen")
    register(cluster)


def start_database(starting: Starting, password: str) -> None:
    """A MariaDB in the cluster's folder, on a port of its own; the machine's is left alone."""
    cluster = starting.cluster
    data = cluster.folder / "database"
    own = ["--no-defaults", f"--datadir={data}", "--user=root"]
    quick = ["--auth-root-authentication-method=socket", "--skip-test-db"]
    namespaces.run("mariadb-install-db", *own, *quick)
    first = data / "first.sql"
    first.touch(mode=0o600)
    first.write_text(
        f"CREATE DATABASE {DATABASE};\nCREATE USER '{USER}'@'%' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';\n"
    )
    where = [f"--bind-address={cluster.head_address}", f"--port={cluster.database_port}", "--skip-name-resolve"]
    files = [f"--socket={data / 'socket'}", f"--pid-file={data / 'pid'}", f"--init-file={first}"]
    starting.spawn(HEAD, "mariadbd", ["mariadbd", *own, *where, *files, "--innodb-buffer-pool-size=32M"])
    starting.wait_for(
        lambda: listens(cluster.head_address, cluster.database_port), lambda: "the database does not listen"
    )


def write_conf(cluster: Cluster, password: str) -> None:
    file = cluster.folder / "slurmdbd.conf"
    file.touch(mode=0o600)  # slurmdbd refuses a file that others can read
    lines = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={cluster.munge_socket}",
        "DbdHost": HEAD,
        "DbdAddr": cluster.head_address,
        "DbdPort": cluster.dbd_port,
        "SlurmUser": "root",
        "PidFile": cluster.folder / "state" / "slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": cluster.head_address,
        "StoragePort": cluster.database_port,
        "StorageUser": USER,
        "StoragePass": password,
        "StorageLoc": DATABASE,
    }
    file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))


def listens(address: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def register(cluster: Cluster) -> None:
    """The account that everybody's jobs run under unless they name another; unknown ones are refused."""
    for words in (
        ["add", "cluster", "devcluster"],
        ["add", "account", "research", "cluster=devcluster"],
        *(["add", "user", name, "account=research", "defaultaccount=research"] for name in users()),
    ):
        inside = [*namespaces.entering(holder(cluster, HEAD)), "sacctmgr", "--immediate", *words]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=30, env=environment(cluster), check=False)
        if done.returncode and "Nothing new added" not in done.stdout + done.stderr:
            raise RuntimeError(f"`sacctmgr {' '.join(words)}` failed: {done.stdout.strip()} {done.stderr.strip()}")


def users() -> list[str]:
    """Who submits jobs here: root, and whoever called sudo."""
    return sorted({pwd.getpwuid(os.geteuid()).pw_name, os.environ.get("SUDO_USER", "root")})
