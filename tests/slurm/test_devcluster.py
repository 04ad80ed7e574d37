"""`slurm/devcluster` itself: it ends exactly what it started, says what is wrong, and can cut a node off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.clusters import SCRIPT, Cluster, namespace, wait
from tests.slurm.conftest import started

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SMALL = ("--cpu-nodes=1", "--gpu-nodes=0", "--cpus-per-node=2")


@pytest.fixture
def small() -> Iterator[Cluster]:
    cluster = Cluster(Path(f"/tmp/dc-small-{os.getpid()}"), *SMALL)
    yield cluster
    cluster.command("down")
    shutil.rmtree(cluster.folder)


@pytest.fixture(scope="module")
def apart() -> Iterator[Cluster]:
    """Nodes with network namespaces, and accounting."""
    options = ("--netns", "--accounting", "--node-timeout=6", "--set=MessageTimeout=5")
    yield from started(Cluster(Path(f"/tmp/dc-apart-{os.getpid()}"), *SMALL, *options))


def members(cluster: Cluster) -> set[str]:
    """Processes on the nodes, before `down` takes the nodes away."""
    own = {file.stat().st_ino for file in (cluster.folder / "ns").glob("*.uts")}
    return {pid for pid in os.listdir("/proc") if pid.isdigit() and namespace(pid) in own}


def alive(pids: set[str]) -> set[str]:
    return {pid for pid in pids if namespace(pid)}


def test_down_ends_everything_even_a_daemon_that_a_job_left(small: Cluster, tmp_path: Path) -> None:
    small.up()
    small.ask("srun", "sh", "-c", f"setsid sleep 600 > /dev/null 2>&1 & echo $! > {tmp_path}/pid")
    ours = members(small)
    assert (tmp_path / "pid").read_text().strip() in ours  # it outlived its job
    assert small.command("down").returncode == 0
    assert not alive(ours)
    assert sorted(path.name for path in small.folder.iterdir()) == ["lock", "log"]
    mounts = Path("/proc/self/mounts").read_text()
    assert str(small.folder) not in mounts


def test_up_twice_is_one_cluster_and_other_options_are_refused(small: Cluster) -> None:
    small.up()
    ours = members(small)
    assert "already up" in small.up()
    assert members(small) == ours
    other = small.command("up", *SMALL, "--cpus-per-node=3")
    assert (other.returncode, "other options" in other.stderr) == (2, True)
    assert "already up" in small.up()


def test_up_cleans_what_a_killed_up_left(small: Cluster) -> None:
    command = [sys.executable, str(SCRIPT), "--folder", str(small.folder), "up", *SMALL]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as half:
        wait((small.folder / "munge.socket").exists, 30, lambda: "a start that is under way")
        half.send_signal(signal.SIGKILL)
    left = members(small)
    assert left
    assert small.command("down").returncode == 0
    assert not alive(left)
    assert "nodes idle" in small.up()


def test_a_start_that_fails_says_why_and_leaves_nothing(small: Cluster) -> None:
    done = small.command("up", *SMALL, "--set", "SelectType=select/nonsense")
    assert done.returncode == 1
    assert "select/nonsense" in done.stderr
    assert sorted(path.name for path in small.folder.iterdir()) == ["lock", "log"]


def test_who_is_not_root_is_told(tmp_path: Path) -> None:
    command = ["python3", str(SCRIPT), "--folder", str(tmp_path), "up"]
    program = f"import os, subprocess; os.setuid(65534); raise SystemExit(subprocess.call({command!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "must run as root" in done.stderr


def test_status_logs_and_env(small: Cluster) -> None:
    small.up()
    status = small.command("status")
    assert "slurmctld" in status.stdout and "cpu1" in status.stdout, status.stderr
    assert "slurmd started" in small.command("logs", "cpu1").stdout
    assert small.command("env").stdout == f"export SLURM_CONF={small.folder}/slurm.conf\n"
    assert "choose one of cpu1" in small.command("crash", "cpu9").stderr


def test_sacct_knows_the_jobs(apart: Cluster) -> None:
    apart.wait_for_idle()
    apart.ask("srun", "--job-name=counted", "true")
    rows = ("sacct", "--allocations", "--noheader", "--parsable2", "--name=counted", "--format=State,Account")
    wait(lambda: apart.ask(*rows) == "COMPLETED|research", 60, lambda: f"its row: {apart.ask(*rows)}")


def test_an_unknown_account_is_refused(apart: Cluster) -> None:
    words = ["sbatch", "--account=nobody", "--wrap=true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=apart.env)
    assert done.returncode != 0
    assert "Invalid account" in done.stderr


def test_a_cut_node_is_down_and_comes_back(apart: Cluster) -> None:
    apart.wait_for_idle()
    assert apart.command("cut", "cpu1").returncode == 0
    wait(lambda: apart.node_states()["cpu1"].startswith("down"), 60, lambda: f"down: {apart.node_states()}")
    assert apart.command("join", "cpu1").returncode == 0
    apart.wait_for_idle()
