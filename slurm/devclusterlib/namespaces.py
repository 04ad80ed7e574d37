"""What belongs to the cluster, without guessing: each node is a UTS namespace, and its processes are its members.

The namespace is held by a file (`unshare --uts=FILE`), so it outlives a crash of whoever made it, its number is not
used again meanwhile, and every descendant of a daemon is in it, however often it forked, changed session or name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

UTS, NET = "uts", "net"


def make(holder: Path, hostname: str, net: bool) -> None:
    """A node's namespaces, held by the files `holder.uts` and, with `net`, `holder.net`."""
    held = [held_by(holder, kind) for kind in (UTS, NET)[: 1 + net]]
    for file in held:
        file.touch()
    kinds = [f"--{kind}={file}" for kind, file in zip((UTS, NET), held, strict=False)]
    run("unshare", *kinds, "hostname", hostname)


def held_by(holder: Path, kind: str) -> Path:
    return holder.with_name(f"{holder.name}.{kind}")


def entering(holder: Path) -> list[str]:
    """The beginning of a command that runs inside."""
    kinds = [kind for kind in (UTS, NET) if held_by(holder, kind).exists()]
    return ["nsenter", *(f"--{kind}={held_by(holder, kind)}" for kind in kinds), "--"]


def members(holder: Path) -> Iterator[int]:
    """Process ids inside the node."""
    try:
        own = identity(held_by(holder, UTS))
    except FileNotFoundError:
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit() and is_member(int(entry), own):
            yield int(entry)


def is_member(pid: int, own: tuple[int, int]) -> bool:
    try:
        return identity(Path(f"/proc/{pid}/ns/uts")) == own
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # gone, a zombie, or a kernel thread


def identity(namespace: Path) -> tuple[int, int]:
    found = namespace.stat()
    return found.st_dev, found.st_ino


def end(holder: Path, grace_s: float) -> None:
    """Ends every member: SIGTERM, after `grace_s` seconds SIGKILL, until none is left."""
    deadline = time.monotonic() + grace_s
    send(holder, signal.SIGTERM)
    while any(members(holder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(holder)


def kill(holder: Path) -> None:
    """Ends every member at once: all are stopped first, so that none lives to report the end of another."""
    send(holder, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while send(holder, signal.SIGKILL):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {list(members(holder))} of {holder.name} survive SIGKILL for 10 s")
        time.sleep(0.05)


def send(holder: Path, number: int) -> int:
    """Signals every member; returns how many there were."""
    return sum(send_one(pid, holder, number) for pid in list(members(holder)))


def send_one(pid: int, holder: Path, number: int) -> bool:
    """Through a descriptor that is taken before the last look, so that a reused process id is never hit."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_member(pid, identity(held_by(holder, UTS))):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def release(holder: Path) -> None:
    """Lets go of the namespaces; they vanish with it, for nobody is inside any more."""
    for kind in (UTS, NET):
        file = held_by(holder, kind)
        while os.path.ismount(file) or is_namespace(file):
            run("umount", str(file))
        file.unlink(missing_ok=True)


def is_namespace(file: Path) -> bool:
    return file.exists() and file.stat().st_dev == Path("/proc/self/ns/uts").stat().st_dev


def run(*command: str) -> str:
    """Runs a small tool; its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
