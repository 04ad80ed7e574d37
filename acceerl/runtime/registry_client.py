"""A process' own line to the registry: announce, knock, heartbeats, and what peers and the supervisor say."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGISTRY = "ACCEERL_REGISTRY"  # environment variable of keeper steps: the address file's content, and its run
PING_S = 5.0  # an idle line says that its node still lives


class RegistryTimeout(TimeoutError):
    """A wait on the control plane outlived its deadline; the text names who waited for whom."""


class RegistryRefused(ValueError):
    """The registry does not take this client: wrong token, or a newer incarnation of it runs."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a peer told this process: `what` is knock, come, here or gone."""

    what: str
    role: str
    index: int
    incarnation: int
    data: Any = None


class RegistryClient:
    """One process' line to the registry; reconnects by itself. Thread-safe.

    `events` fills with what peers say (the MPI endpoint drains it), `requested` with what the supervisor asked
    for ("stop", "drain", "checkpoint"); `on_request` is called with each, in the reading thread. Raises
    RegistryTimeout when no registry answers within `timeout_s`, RegistryRefused when it says no.
    """

    def __init__(self, run_dir: str | Path, role: str, index: int, timeout_s: float = 60.0) -> None:
        self.path, self.role, self.index = Path(run_dir) / "registry.json", role, index
        self.incarnation = 0
        self.events: deque[Event] = deque()
        self.requested: set[str] = set()
        self.on_request: Callable[[str], None] | None = None
        self.refused: str | None = None
        self._lost_at: float | None = time.monotonic()
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = threading.Condition()
        self._sending = threading.Lock()
        self._socket: socket.socket | None = None
        self._closing = threading.Event()
        self._count = 0
        self._host = "127.0.0.1"  # the registry's
        threading.Thread(target=self._run, name="registry-client", daemon=True).start()
        try:
            self._wait(lambda: self._lost_at is None, timeout_s, f"the registry of {run_dir}")
        except (RegistryTimeout, RegistryRefused):
            self._closing.set()  # else its thread would go on trying
            raise

    def __str__(self) -> str:
        return f"{self.role}[{self.index}]"

    @property
    def disconnected_s(self) -> float:
        """How long the registry has been out of reach, 0.0 while connected; a process without one should end."""
        since = self._lost_at
        return 0.0 if since is None else time.monotonic() - since

    def announce(self, port: str = "", timeout_s: float = 30.0) -> int:
        """Makes this process known (with its MPI port, if it serves) and returns its incarnation, from 1."""
        message = {"op": "announce", "port": port, "host": socket.gethostname(), "pid": os.getpid()}
        answer = self._ask(message, timeout_s, "the registry to take its announcement")
        self.incarnation = int(answer["incarnation"])
        return self.incarnation

    def peer(self, role: str, index: int, timeout_s: float = 30.0) -> tuple[str, int]:
        """(port, incarnation) of a living process; waits until it has announced itself."""
        deadline, what = time.monotonic() + timeout_s, f"{role}[{index}] to announce itself"
        while time.monotonic() < deadline:
            answer = self._ask({"op": "peer", "role": role, "index": index}, timeout_s, what)
            if answer["incarnation"] is not None:
                return answer["port"], answer["incarnation"]
            time.sleep(0.05)
        raise RegistryTimeout(f"{self} waited {timeout_s:.0f} s for {what}")

    @property
    def address(self) -> str:
        """This machine as other processes of the run reach it: the end of its own line to the registry."""
        line = self._socket
        own = line.getsockname()[0] if line is not None else "127.0.0.1"
        # on the supervisor's machine the line may be local although the run is not
        return self._host if own.startswith("127.") else str(own)

    def publish(self, name: str, fact: Any) -> bool:
        """Makes a small fact (JSON) about this life of the process known, until it ends or another takes its place."""
        return self._send({"op": "fact", "name": name, "fact": fact})

    def fact(self, role: str, index: int, name: str, timeout_s: float = 30.0) -> Any:
        """What a living process published under `name`; None when it does not live or has not."""
        what = f"the registry to tell about {role}[{index}]"
        return self._ask({"op": "peer", "role": role, "index": index}, timeout_s, what).get("facts", {}).get(name)

    def tell(self, what: str, role: str, index: int, data: Any = None) -> bool:
        """Passes `what` on to a process, if it is there. False: the registry is out of reach."""
        return self._send({"op": "tell", "what": what, "to": [role, index], "data": data})

    def knock(self, role: str, index: int) -> bool:
        return self.tell("knock", role, index)

    def heartbeat(self, counters: dict[str, Any]) -> bool:
        return self._send({"op": "beat", "counters": counters})

    def report_gone(self, role: str, index: int) -> bool:
        """For keepers on other nodes: the process has ended."""
        return self._send({"op": "gone", "role": role, "index": index})

    def ask(self, what: str, by: str, timeout_s: float = 10.0) -> None:
        """Asks the supervisor itself for something (`stop`); `by` becomes its reason. Returns when it was taken."""
        self._ask({"op": "ask", "what": what, "by": by}, timeout_s, f"the supervisor to take `{what}`")

    def places(self, role: str, count: int, least: int, timeout_s: float = 10.0) -> int:
        """The first of `count` indices in a row, from `least` on, that nobody else gets in this attempt of the run."""
        message = {"op": "places", "role": role, "count": count, "least": least}
        return int(self._ask(message, timeout_s, f"the registry to give {count} places")["first"])

    def close(self) -> None:
        self._closing.set()
        line = self._socket
        if line is not None:
            line.shutdown(socket.SHUT_RDWR)  # wakes the reading thread; close() would not

    def _ask(self, message: dict[str, Any], timeout_s: float, whom: str) -> dict[str, Any]:
        with self._answered:
            self._count += 1
            number = self._count
        self._send({**message, "id": number})
        self._wait(lambda: number in self._answers, timeout_s, whom, resend={**message, "id": number})
        return self._answers.pop(number)

    def _wait(
        self, done: Callable[[], bool], timeout_s: float, whom: str, resend: dict[str, Any] | None = None
    ) -> None:
        deadline = time.monotonic() + timeout_s
        with self._answered:
            while not done():
                if self.refused:
                    raise RegistryRefused(f"{self}: {self.refused}")
                if time.monotonic() > deadline:
                    raise RegistryTimeout(f"{self} waited {timeout_s:.0f} s for {whom}")
                if not self._answered.wait(min(2.0, timeout_s)) and resend:
                    self._send(resend)  # the line may have been cut between question and answer

    def _send(self, message: dict[str, Any]) -> bool:
        with self._sending:
            if self._socket is None:
                return False
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:  # the reading thread sees the same end and reconnects
                return False
            return True

    def _run(self) -> None:
        while not (self._closing.is_set() or self.refused):
            try:
                self._live()
            except (OSError, ValueError, KeyError):  # no registry yet, or not any more: `disconnected_s` tells
                self._note_loss()
            self._closing.wait(0.2)
        with self._answered:
            self._answered.notify_all()

    def _live(self) -> None:
        """One connection from hello to its end."""
        where = self._where()
        with socket.create_connection((where["host"], where["port"]), timeout=10) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hello = {"role": self.role, "index": self.index, "incarnation": self.incarnation, "token": where["token"]}
            line.sendall(json.dumps(hello).encode() + b"\n")
            line.settimeout(PING_S)
            self._socket, self._host = line, where["host"]
            try:
                self._read(line)
            finally:
                self._note_loss()
                with self._sending:
                    self._socket = None

    def _where(self) -> dict[str, Any]:
        """Host, port and token. On a cluster the file may be that of an earlier attempt for a minute (NFS)."""
        given = json.loads(os.environ.get(REGISTRY, "{}"))
        return dict(given if given.get("run") == str(self.path.parent) else json.loads(self.path.read_text()))

    def _note_loss(self) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()

    def _read(self, line: socket.socket) -> None:
        rest = b""
        while not self._closing.is_set():
            try:
                raw = line.recv(65536)
            except TimeoutError:
                self._send({"op": "ping"})
                continue
            if not raw:
                return
            *lines, rest = (rest + raw).split(b"\n")
            for text in lines:
                self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if "error" in message:
            self.refused = message["error"]
        elif event == "request":
            self.requested.add(message["what"])
            if self.on_request:
                self.on_request(message["what"])
        elif event == "welcome":
            self._lost_at = None
        elif event:
            role, index, incarnation = message["sender"]
            self.events.append(Event(event, role, index, incarnation, message["data"]))
        with self._answered:
            if "id" in message:
                self._answers[message["id"]] = message
            self._answered.notify_all()
