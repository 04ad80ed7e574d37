"""The processes of the doctor's MPI checks: `mpiexec python -m acceerl.launch.doctor_mpi PART FOLDER`.

`serve` answers one `connect` over a port; `deaf` opens a port and never accepts whom `knock` sends.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.channels.meeting import is_eagain
from acceerl.channels.mpi_library import load_mpi
from acceerl.runtime.rundir import replace_text
from acceerl.runtime.stop import Watchdog, die_with_keeper

SIZE = 1_000_000  # bytes
TIMED_OUT = 3  # exit code
PATIENCE_S = 3  # MPI's own time-out of Connect
BITE_S = 6.0  # and the watchdog's, for an MPI that has none
WAIT_S = 15.0  # for the server's port, or for a client


def serve(mpi: Any, folder: Path) -> int:
    port = mpi.Open_port()
    replace_text(folder / "port", port)
    comm = _meet(mpi, mpi.COMM_SELF.Accept, port, int(WAIT_S))
    buffer = np.zeros(SIZE, np.uint8)
    began = time.perf_counter()
    comm.Recv(buffer, source=0, tag=1)
    comm.Send(buffer, dest=0, tag=2)
    comm.Recv(buffer[:1], source=0, tag=3)
    took = 1e3 * (time.perf_counter() - began)
    name = mpi.Get_library_version().replace("\t", " ").splitlines()[0].strip("\x00 ")
    print(f"{' '.join(name.split())} ({_libmpi()}): 1 MB over a port and back in {took:.1f} ms", flush=True)
    return 0


def connect(mpi: Any, folder: Path) -> int:
    comm = _meet(mpi, mpi.COMM_SELF.Connect, _port(folder), int(WAIT_S))
    sent, back = np.arange(SIZE, dtype=np.int64).astype(np.uint8), np.zeros(SIZE, np.uint8)
    comm.Send(sent, dest=0, tag=1)
    comm.Recv(back, source=0, tag=2)
    comm.Send(back[:1], dest=0, tag=3)
    return 0 if np.array_equal(sent, back) else 1


def knock(mpi: Any, folder: Path) -> int:
    """Connects to somebody deaf, and says after how many seconds it was over."""
    port, began = _port(folder), time.monotonic()
    try:
        _meet(mpi, mpi.COMM_SELF.Connect, port, PATIENCE_S)
    except mpi.Exception:
        print(f"{time.monotonic() - began:.1f}", flush=True)
        return TIMED_OUT
    return 0


def deaf(mpi: Any, folder: Path) -> int:
    replace_text(folder / "port", mpi.Open_port())
    time.sleep(2 * WAIT_S)
    return 0


def _meet(mpi: Any, call: Callable[..., Any], port: str, timeout_s: int) -> Any:
    info = mpi.Info.Create()
    info.Set("timeout", str(timeout_s))
    until, pause = time.monotonic() + timeout_s, 0.01
    while True:
        try:
            return call(port, info)
        except mpi.Exception as error:  # EAGAIN: the other side has not looked yet
            if not is_eagain(error) or time.monotonic() > until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def _port(folder: Path) -> str:
    deadline = time.monotonic() + WAIT_S
    while not (folder / "port").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"connect waited {WAIT_S:.0f} s for the server's port")
        time.sleep(0.01)
    return (folder / "port").read_text()


def _libmpi() -> str:
    """The library that the loader chose, out of all that may be installed."""
    mapped = {text.split()[-1] for text in Path("/proc/self/maps").read_text().splitlines() if "/libmpi" in text}
    return ", ".join(sorted(mapped)) or "unknown library"


def main(part: str, folder: str) -> None:
    die_with_keeper()
    Watchdog(BITE_S if part == "knock" else 3 * WAIT_S, f"doctor {part}").start()
    code = 1
    try:
        mpi = load_mpi()
        code = {"serve": serve, "connect": connect, "knock": knock, "deaf": deaf}[part](mpi, Path(folder))
    except Exception as error:  # noqa: BLE001 - MPI is never finalised: it could wait for a peer for ever
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
