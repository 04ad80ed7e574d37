"""What the data plane needs from the control plane; `runtime.registry.RegistryClient` has it, tests may fake it."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol


class Heard(Protocol):
    """Something that a peer said, or was said about it: `what` is knock, come, here or gone."""

    @property
    def what(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def data(self) -> Any: ...


class ControlPlane(Protocol):
    """One process' line to all others, for words and not for bulk data."""

    role: str
    index: int

    @property
    def events(self) -> deque[Any]:
        """`Heard` things, filled by another thread, emptied by the endpoint."""
        ...

    def announce(self, port: str = "") -> int:
        """Makes this process and its port known; returns its incarnation."""
        ...

    def tell(self, what: str, role: str, index: int, data: Any = None) -> bool: ...

    def report_gone(self, role: str, index: int) -> bool: ...
