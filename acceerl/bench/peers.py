"""Two processes of a bench that talk over plain MPI calls: how they meet, and how they leave."""

from __future__ import annotations

import os
import time
from typing import Any

from acceerl.channels.meeting import is_eagain
from acceerl.channels.mpi import load_mpi
from acceerl.runtime.registry_client import RegistryClient

MEET_S = "30"


def accept(registry: RegistryClient) -> Any:
    """Opens a port, announces it and waits for the other process; the communicator between the two."""
    mpi = load_mpi()
    port = mpi.Open_port()
    registry.announce(port)
    return mpi.COMM_SELF.Accept(port, _timeout(mpi))


def connect(registry: RegistryClient, role: str) -> Any:
    mpi = load_mpi()
    registry.announce()
    port, _ = registry.peer(role, 0)
    deadline = time.monotonic() + float(MEET_S)
    while True:
        try:
            return mpi.COMM_SELF.Connect(port, _timeout(mpi))
        except mpi.Exception as error:  # the other one has announced its port and does not accept yet
            if not is_eagain(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def leave(registry: RegistryClient) -> None:
    """When asked to, and without MPI_Finalize, which would wait for a peer that is gone."""
    while "stop" not in registry.requested:
        time.sleep(0.05)
    os._exit(0)


def _timeout(mpi: Any) -> Any:
    info = mpi.Info.Create()
    info.Set("timeout", MEET_S)
    return info
