"""Drills on what processes stand on: the line to the registry is cut, and the disk of the run directory fills up."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.training import Training
from tests.e2e.drills.whole import broken_files
from tests.e2e.running import status, wait_for

SMALL_DISK = 2 << 30  # bytes; nobody wants a larger one filled


class Switch:
    """Stands between the processes of a run and its registry, by writing itself into registry.json; can be cut."""

    def __init__(self, registry: Path) -> None:
        where = json.loads(registry.read_text())
        self._there = where["host"], where["port"]
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lines: list[socket.socket] = []
        self.closed_until = 0.0  # time.monotonic()
        self.connected = 0  # lines that were ever opened
        beside = registry.with_suffix(".switch")
        beside.write_text(json.dumps({**where, "port": self._server.getsockname()[1]}))
        beside.chmod(0o600)
        beside.replace(registry)
        threading.Thread(target=self._serve, name="switch", daemon=True).start()

    def cut(self, seconds: float = 0.0) -> None:
        """Cuts every line, and lets nobody in for `seconds`."""
        self.closed_until = time.monotonic() + seconds
        lines, self._lines = self._lines, []
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            line, _ = self._server.accept()
            if time.monotonic() < self.closed_until:
                line.close()
                continue
            there = socket.create_connection(self._there)
            self._lines += [line, there]
            self.connected += 1
            for source, sink in ((line, there), (there, line)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def registry_cut(folder: Path, world: str = "latency", outage: float = 8.0) -> Outcome:
    """Cuts all lines to the registry, first for a moment, then for `outage` seconds: everyone is to come back."""
    outcome = Outcome("registry_cut")
    with Training(folder, world) as training:
        registry = training.run / "registry.json"
        wait_for("the registry", registry.exists)
        switch = Switch(registry)
        training.up(3)
        processes = len(status(training.run)["processes"])
        outcome.check("every process talks through the switch", switch.connected == processes)
        for seconds in (0.0, outage):
            before, began = switch.connected, time.monotonic()
            switch.cut(seconds)
            wait_for("everyone to come back", lambda before=before: switch.connected >= before + processes, outage + 30)
            outcome.figures[f"back_after_{seconds:g}_s_outage_s"] = time.monotonic() - began
            training.up(3)
        restarts = sum(row["restarts"] for row in status(training.run)["processes"])
        outcome.check("nobody was restarted for it", restarts == 0)
        outcome.check("the training goes on and ends with 0", training.finish() == 0)
        outcome.nothing("no file is broken", broken_files(training.run))
    return outcome


def disk_full(folder: Path, world: str = "latency", seconds: float = 60.0) -> Outcome:
    """Fills the disk under a training for `seconds`, frees it and resumes. Give it a disk of its own, as root:

    unshare -m sh -c 'mount -t tmpfs -o size=600m none /mnt && python -m tests.e2e.drills disk_full folder=/mnt/drill'
    """
    outcome = Outcome("disk_full")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).total > SMALL_DISK:
        raise ValueError(
            f"{folder} lies on a large disk, which this drill would fill: give it folder= on a small tmpfs"
        )
    with Training(folder, world) as training:
        training.up(3)
        saved = int(wait_for("a checkpoint", training.saved))
        ballast = _fill(folder / "ballast")
        with suppress(AssertionError):
            wait_for("the training to give up", lambda: training.job.poll() is not None, seconds)
        code = training.job.poll()
        outcome.figures |= {"updates_saved": saved, "exit_code": code}
        ballast.unlink()
        outcome.check("the training ended, or waits for room", code is None or code in (1, 2))
        outcome.check("what it says names the disk", code is None or "space" in training.said())
        outcome.check("the last checkpoint is still whole", not broken_files(training.run / "checkpoints"))
        if code is not None:
            training.resume()
        training.up(3)
        outcome.check("the training goes on and ends with 0", training.finish() == 0)
        outcome.check("beyond the checkpoint", training.saved() > saved)
    return outcome


def _fill(path: Path) -> Path:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return path
