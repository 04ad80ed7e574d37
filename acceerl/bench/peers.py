"""Two processes of a bench that talk over plain MPI calls: how they meet, and how they leave."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from acceerl.channels.meeting import is_eagain
from acceerl.channels.mpi_library import load_mpi
from acceerl.runtime.registry_client import RegistryClient
from acceerl.runtime.stop import Watchdog, die_with_keeper

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


def perform(plays: Mapping[tuple[str, str], Callable[..., None]]) -> NoReturn:
    """The process of a bench, `FOLDER ROLE INDEX OPTIONS`: plays its part, named by options["play"] and its role."""
    try:
        die_with_keeper()
        folder, role, index, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
        registry = RegistryClient(folder, role, index)
        watchdog = Watchdog(60, f"{role}[{index}] of the bench").start()
        plays[options["play"], role](registry, options, watchdog.beat)
    finally:  # a failed process must not wait in MPI_Finalize
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
