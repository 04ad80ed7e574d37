"""A reader of weights in a process of its own: `python -m tests.unit.channels.pairs REGISTRY VERSIONS`.

Takes weights over gloo until it has version VERSIONS, then writes what it got beside its registry's file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from acceerl.channels.collective_pairs import DirectReader


class Folder:
    """A registry of files, for ends that need no more of it."""

    address = "127.0.0.1"

    def __init__(self, folder: Path, role: str = "learner", index: int = 0) -> None:
        self.folder, self.role, self.index, self.incarnation = folder, role, index, 1

    def publish(self, name: str, fact: Any) -> bool:
        path = self._file(self.role, self.index, name)
        path.with_suffix(".new").write_text(json.dumps(fact))
        path.with_suffix(".new").replace(path)
        return True

    def fact(self, role: str, index: int, name: str) -> Any:
        path = self._file(role, index, name)
        return json.loads(path.read_text()) if path.exists() else None

    def _file(self, role: str, index: int, name: str) -> Path:
        return self.folder / f"{role}.{index}.{name}.json"


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    registry = Folder(Path(sys.argv[1]), "inference", int(sys.argv[2]))
    reader, until = DirectReader(registry, "cpu", timeout_s=60), int(sys.argv[3])
    seen, limit = None, time.monotonic() + 240
    while time.monotonic() < limit and (seen is None or seen.version < until):
        seen = reader.poll() or seen
        time.sleep(5e-3)
        if seen is not None:
            registry.publish("seen", [seen.version, {name: t.tolist() for name, t in seen.arrays.items()}])
    os._exit(0)
