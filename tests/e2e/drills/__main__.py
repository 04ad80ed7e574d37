"""`python -m tests.e2e.drills NAME key=value ... json=PATH folder=PATH`: runs one drill at full size and prints it.

Keys and defaults of a drill are those of its function. Exit code 0: every promise was kept, 1: one was broken.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.drills.cluster import cluster
from tests.e2e.drills.cuts import disk_full, registry_cut
from tests.e2e.drills.growth import memory
from tests.e2e.drills.kills import each_role, rollouts, supervisor
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.stops import stop_signal

DRILLS: dict[str, Callable[..., Outcome]] = {
    drill.__name__: drill
    for drill in (rollouts, each_role, supervisor, stop_signal, memory, registry_cut, disk_full, cluster)
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in DRILLS:
        print("\n\n".join([__doc__ or "", *map(usage, DRILLS.values())]))
        return 2
    drill = DRILLS[arguments[0]]
    given = dict(word.split("=", 1) for word in arguments[1:])
    to, folder = given.pop("json", ""), given.pop("folder", "")
    outcome = drill(Path(folder or tempfile.mkdtemp(prefix="drill-")).resolve(), **typed(drill, given))
    print(outcome.text())
    if to:
        outcome.write(Path(to))
    return 1 if outcome.failed(timed=True) else 0


def usage(drill: Callable[..., Outcome]) -> str:
    keys = " ".join(f"{name}={p.default}" for name, p in keys_of(drill).items())
    return f"{drill.__name__} {keys}\n    {drill.__doc__}"


def keys_of(drill: Callable[..., Outcome]) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(drill).parameters.items() if name != "folder"}


def typed(drill: Callable[..., Outcome], given: dict[str, str]) -> dict[str, Any]:
    """The words as what the drill's defaults are. Raises ValueError for a key that it does not have."""
    keys = keys_of(drill)
    for name in given.keys() - keys.keys():
        raise ValueError(f"{drill.__name__} has no key {name}: choose from {', '.join(keys)}")
    return {name: type(keys[name].default)(text) for name, text in given.items()}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
