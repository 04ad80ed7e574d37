"""What a configuration changes for the doctor's checks: they run with the variables and the mpiexec that roles get."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

import psutil

from acceerl.config import Config
from acceerl.launch.doctor import Finding
from acceerl.runtime.placement import rows

MPIEXEC = "ACCEERL_DOCTOR_MPIEXEC"  # environment variable of the checks' processes: site.mpiexec
INTERFACE = "FI_TCP_IFACE"


def variables(config: Config, roles: Container[str] | None = None) -> dict[str, str]:
    """Environment variables of these roles' processes (None: of all), which the user's own override."""
    found = {MPIEXEC: config.site.mpiexec} if config.site.mpiexec else {}
    for row in rows(config):
        if roles is None or row.role in roles:
            found |= row.defaults
    return found


def put_on(given: Mapping[str, str]) -> None:
    """From here on this process and the checks that it starts run with `given`, as a role would."""
    os.environ.update({name: value for name, value in given.items() if name not in os.environ})


def wrong_interface() -> Finding | None:
    """Is the network device that the links shall use one of this machine's? None: it is, or none was chosen."""
    chosen = os.environ.get(INTERFACE)
    if chosen is None or chosen in psutil.net_if_addrs():
        return None
    return Finding("FAIL", f"site.interface={chosen} ({INTERFACE}) is no network device here: choose from {devices()}")


def devices() -> str:
    """The network devices of this machine that have an IPv4 address, the loopback last."""
    found = [name for name, seen in psutil.net_if_addrs().items() if any(a.family.name == "AF_INET" for a in seen)]
    return ", ".join(sorted(found, key=lambda name: (name == "lo", name))) or "none, since none has an address"


def network() -> str:
    """For a complaint about MPI: which device it used, and what else could be chosen."""
    chosen = os.environ.get(INTERFACE)
    if chosen is None:
        return f"with site.interface unset MPI chooses a device itself; here there are {devices()}"
    return f"site.interface={chosen} may be the wrong network; here there are {devices()}"
