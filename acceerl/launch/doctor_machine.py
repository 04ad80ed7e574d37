"""What `acceerl doctor` asks of the machine itself: files, clocks, limits, cores, memory, GPUs, loopback."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from acceerl.launch.doctor import Finding
from acceerl.runtime.registry import Registry, RegistryClient

GIB = 2**30
LITTLE_DISK, NO_DISK = 10 * GIB, GIB
SLOW_SYNC_MS = 200.0
SKEW_S = 2.0
LITTLE_MEMORY = 4 * GIB
FEW_FILES = 1024


def runs_folder(runs: Path) -> Finding:
    """Files that others read are written beside and renamed, checkpoints are synced, locks keep a second leader out."""
    try:
        with _folder(runs) as folder:
            sync_ms, locks = _rename(folder), _locks(folder)
    except OSError as error:
        return Finding(
            "FAIL", f"{runs.resolve()} cannot be written ({error.strerror}): use runs=DIR on a disk that can"
        )
    free = shutil.disk_usage(existing(runs)).free
    seen = f"{runs.resolve()}: {free / GIB:.0f} GiB free, fsync {sync_ms:.1f} ms, atomic rename, "
    if free < NO_DISK:
        return Finding("FAIL", f"{seen}which is no room for a checkpoint: make room, or use runs=DIR")
    if not locks:
        return Finding(
            "warn", f"{seen}but no file locks: never start one run twice (mount with locks, Lustre: -o flock)"
        )
    if free < LITTLE_DISK or sync_ms > SLOW_SYNC_MS:
        return Finding("warn", f"{seen}locks: little or slow; checkpoints and replay want room and speed")
    return Finding("ok", f"{seen}locks")


def _rename(folder: Path) -> float:
    """Replaces a file ten times, each whole at any moment; returns the median of one fsync in ms."""
    final, beside, times = folder / "final", folder / "beside", []
    for content in (f"{i}" * 4096 for i in range(10)):
        with beside.open("w") as file:
            file.write(content)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1e3 * (time.perf_counter() - began))
        os.replace(beside, final)
        if final.read_text() != content:
            raise OSError(0, "a renamed file does not show its new content")
    return statistics.median(times)


def _locks(folder: Path) -> bool:
    """Does a second lock on a locked file fail, as it must?"""
    with (folder / "lock").open("w") as first, (folder / "lock").open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def clock(runs: Path) -> Finding:
    """`watch` and `ps` judge a run on another node by the time it wrote."""
    with _folder(runs) as folder:
        before = time.time()
        (folder / "now").touch()
        stamp = (folder / "now").stat().st_mtime
        after = time.time()
    skew = max(before - stamp, stamp - after, 0.0)
    if skew > SKEW_S:
        return Finding("warn", f"the file server's clock and this machine's are {skew:.1f} s apart: let both use NTP")
    return Finding("ok", f"file times and this machine's clock agree within {max(skew, 0.01):.2f} s")


def registry(_runs: Path) -> Finding:
    """The control plane on its own port: announce, ask, answer."""
    with tempfile.TemporaryDirectory() as folder:
        server = Registry(folder)
        client = RegistryClient(folder, "doctor", 0, timeout_s=5)
        began = time.perf_counter()
        client.announce(timeout_s=5)
        took = 1e3 * (time.perf_counter() - began)
        client.close()
        server.wait_closed()
    return Finding("ok", f"TCP on 127.0.0.1, an answer in {took:.1f} ms")


def cpus(_runs: Path) -> Finding:
    lent, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup/cpu.max"))
    seen = f"{lent} of {there} cores" + (f", limited to the time of {quota:.1f}" if quota else "")
    if min(lent, quota or lent) < 2:
        return Finding("warn", f"{seen}: learner, inference and rollouts will share one; ask for more")
    return Finding("ok", seen)


def _quota(file: Path) -> float | None:
    """Cores that the control group grants, from `cpu.max`; None: no limit."""
    try:
        granted, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if granted == "max" else int(granted) / int(period)


def memory(_runs: Path) -> Finding:
    seen = psutil.virtual_memory()
    text = f"{seen.available / GIB:.1f} of {seen.total / GIB:.1f} GiB free"
    if seen.available < LITTLE_MEMORY:
        return Finding("warn", f"{text}: replay and a process per simulator want more; lower replay.capacity")
    return Finding("ok", text)


def open_files(_runs: Path) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files a process (the system allows {hard})"
    if soft < FEW_FILES:
        return Finding("warn", f"{text}: ulimit -n {min(4096, hard)}")
    return Finding("ok", text)


def shared_memory(_runs: Path) -> Finding:
    try:
        size = shutil.disk_usage("/dev/shm")
    except OSError:
        return Finding("warn", "there is no /dev/shm: torch data loaders and NCCL need it")
    text = f"{size.free / GIB:.2f} of {size.total / GIB:.2f} GiB free"
    if size.free < GIB / 4:
        return Finding("warn", f"{text}: NCCL and torch want more (containers: --shm-size=2g)")
    return Finding("ok", text)


def gpu(_runs: Path) -> Finding:
    found = shutil.which("nvidia-smi")
    if found is None:
        return Finding("info", "no NVIDIA GPU (no nvidia-smi): learner and inference run on the CPU")
    listed = subprocess.run([found, "-L"], capture_output=True, text=True, timeout=15, check=False)
    names = [text.split(" (UUID")[0] for text in listed.stdout.splitlines() if text.startswith("GPU")]
    if listed.returncode or not names:
        return Finding("warn", f"nvidia-smi finds none ({(listed.stderr or listed.stdout).strip()[:200]})")
    return Finding("ok", "; ".join(names))


@contextmanager
def _folder(runs: Path) -> Iterator[Path]:
    """A folder of our own where the runs are or will be; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=existing(runs)) as folder:
        yield Path(folder)


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there: `runs` is made by the first run."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())
