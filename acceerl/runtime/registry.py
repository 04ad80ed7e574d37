"""The control plane: who is alive, where, in which incarnation, and who wants to talk to whom. Not for bulk data.

JSON lines over TCP between one `Registry` (a thread of the supervisor) and one `RegistryClient` per process (a
background thread, no MPI in it). Address and token stand in `RUN/registry.json`, readable by its owner only.

A process that wants a server knocks; the server answers `come` with its port; the process says `here` and calls
Connect, and only then does the server call Accept. So neither blocks in MPI for a peer that is not alive.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acceerl.runtime.registry_client import Event, RegistryClient, RegistryRefused, RegistryTimeout

__all__ = ["Event", "Record", "Registry", "RegistryClient", "RegistryRefused", "RegistryTimeout"]

Key = tuple[str, int]  # role, index
LINE_LIMIT = 1 << 20  # bytes of one JSON line; counters of a process are a few hundred


@dataclass(slots=True)
class Record:
    """What the registry knows about one process."""

    role: str
    index: int
    incarnation: int = 0
    port: str = ""
    host: str = ""
    pid: int = 0
    alive: bool = True
    last_heartbeat: float = 0.0  # time.time() of the last counters
    last_heard: float = 0.0  # time.monotonic() of any line, pings included
    counters: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # what this life of it has published


class _Line:
    """One connected client, seen from the server. Lives in the loop's thread."""

    def __init__(self, writer: asyncio.StreamWriter, key: Key) -> None:
        self.writer, self.key, self.incarnation = writer, key, 0

    def push(self, **message: Any) -> None:
        if self.writer.transport.get_write_buffer_size() > LINE_LIMIT:  # a stopped reader must not fill our memory
            self.writer.transport.abort()
            return
        self.writer.write(json.dumps(message).encode() + b"\n")


class Registry:
    """The server. Thread-safe; every method returns at once except `wait_closed`.

    `host` is the address that clients connect to: the default serves one machine; give the node's name on a
    cluster. A process is gone when `gone` is called, when its line is closed for `grace_s`, when nothing was
    heard for `silent_s` although this process listened, or when a new incarnation announces itself.
    """

    def __init__(
        self, run_dir: str | Path, token: str | None = None, host: str = "127.0.0.1", grace_s: float = 3.0,
        silent_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.path = Path(run_dir) / "registry.json"
        self.token = secrets.token_hex(16) if token is None else token
        self.host, self.grace_s, self.silent_s = host, grace_s, silent_s
        self._lock = threading.Lock()  # guards the three tables below, which other threads read
        self._records: dict[Key, Record] = {}
        self._standing: dict[str | None, str] = {}  # stop and drain hold for processes that come later too
        self._asked: dict[str, str] = {}  # what an operator asks of the supervisor, and who asked
        self._given: dict[str, int] = {}  # by role: the first index that no guest was given yet
        self._lines: dict[Key, _Line] = {}  # from here on: the loop's thread only
        self._friends: defaultdict[Key, set[Key]] = defaultdict(set)
        self._looked = self._awake = time.monotonic()  # when `_watch` last looked, and since when without a pause
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self._thread.start()
        if not self._ready.wait(10) or self._failure:
            raise RegistryTimeout(f"the registry could not listen on {host}: {self._failure or 'no answer in 10 s'}")

    def processes(self) -> dict[Key, Record]:
        """A snapshot of every process that ever announced itself."""
        with self._lock:
            return {key: replace(record, counters=dict(record.counters)) for key, record in self._records.items()}

    def request(self, role: str | None, what: str) -> None:
        """Asks every process of a role (None: all) to `stop`, `drain` or `checkpoint`."""
        if what != "checkpoint":
            with self._lock:
                self._standing[role] = what
        self._soon(self._push_request, role, what)

    def asked(self, what: str) -> str:
        """Who has asked the supervisor to `stop`, as `acceerl stop` does; empty: nobody."""
        with self._lock:
            return self._asked.get(what, "")

    def gone(self, role: str, index: int) -> None:
        """Reports a death (from the keeper that saw the exit): peers drop the process at once."""
        with self._lock:
            record = self._records.get((role, index))
            incarnation = record.incarnation if record else 0
        self._soon(self._bury, (role, index), incarnation)

    def close(self) -> None:
        self._soon(self._loop.stop)

    def wait_closed(self, timeout_s: float = 5.0) -> None:
        """Closes and waits for the thread. Raises RegistryTimeout after `timeout_s`."""
        self.close()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise RegistryTimeout(f"supervisor waited {timeout_s:.0f} s for its registry thread to end")
        self.path.unlink(missing_ok=True)

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            bind = "127.0.0.1" if self.host in ("127.0.0.1", "localhost") else "0.0.0.0"
            serve = asyncio.start_server(self._serve, bind, 0, limit=LINE_LIMIT)
            server = self._loop.run_until_complete(serve)
            self._write_address(server.sockets[0].getsockname()[1])
            self._loop.call_later(1.0, self._watch)
        except OSError as error:
            self._failure = str(error)
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        server.close()
        for line in self._lines.values():
            line.writer.transport.abort()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _write_address(self, port: int) -> None:
        beside = self.path.with_suffix(f".{os.getpid()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump({"host": self.host, "port": port, "token": self.token}, file)
        os.replace(beside, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = None
        try:
            line = self._greet(json.loads(await asyncio.wait_for(reader.readline(), 10)), writer)
            while line is not None and (raw := await reader.readline()):
                self._handle(line, json.loads(raw))
        except (OSError, ValueError, TypeError, KeyError) as error:
            writer.write(json.dumps({"error": f"the registry cannot read this line: {error}"}).encode() + b"\n")
        except asyncio.CancelledError:
            return  # the registry is closing; asyncio would log a cancelled handler as a failure
        finally:
            writer.close()
            if line is not None and self._lines.get(line.key) is line:
                del self._lines[line.key]
                self._loop.call_later(self.grace_s, self._bury_unless_back, line.key, line.incarnation)

    def _greet(self, hello: dict[str, Any], writer: asyncio.StreamWriter) -> _Line | None:
        line = _Line(writer, (str(hello["role"]), int(hello["index"])))
        if not hmac.compare_digest(str(hello.get("token")), self.token):
            line.push(error="wrong token: this client does not belong to the run")
            return None
        record = self._records.get(line.key)
        line.incarnation = int(hello.get("incarnation") or 0)
        if record and 0 < line.incarnation < record.incarnation:
            line.push(error=f"{line.key[0]}[{line.key[1]}] was replaced by incarnation {record.incarnation}")
            return None
        self._supersede(line.key)
        self._lines[line.key] = line
        if record and record.incarnation == line.incarnation:
            record.alive, record.last_heard = True, time.monotonic()
        line.push(event="welcome")
        for role, what in self._standing.items():
            if role in (None, line.key[0]):
                line.push(event="request", what=what)
        return line

    def _supersede(self, key: Key) -> None:
        """Closes the line that a process held before; if its owner still lives, it learns that it was replaced."""
        old = self._lines.pop(key, None)
        if old is not None:
            old.push(error="a newer process took this place")
            old.writer.close()

    def _handle(self, line: _Line, message: dict[str, Any]) -> None:
        record = self._records.get(line.key)
        if record and record.incarnation == line.incarnation:
            record.last_heard = time.monotonic()
        op = message["op"]
        if op == "tell":
            self._relay(line, (message["to"][0], int(message["to"][1])), message)
        elif op == "beat" and record:
            with self._lock:
                record.last_heartbeat, record.counters = time.time(), message["counters"]
        elif op == "fact" and record and record.incarnation == line.incarnation:
            record.facts[message["name"]] = message["fact"]
        elif op == "announce":
            line.push(id=message["id"], incarnation=self._announce(line, message))
        elif op == "peer":
            line.push(id=message["id"], **self._describe((message["role"], int(message["index"]))))
        elif op == "ask":
            with self._lock:
                self._asked.setdefault(message["what"], message["by"])
            line.push(id=message["id"])
        elif op == "places":
            line.push(id=message["id"], first=self._places(message["role"], message["count"], message["least"]))
        elif op == "gone":
            self.gone(message["role"], int(message["index"]))

    def _announce(self, line: _Line, message: dict[str, Any]) -> int:
        key, old = line.key, self._records.get(line.key)
        if old and old.incarnation != line.incarnation:
            self._bury(key, old.incarnation)
            line.incarnation = old.incarnation + 1
        line.incarnation = max(line.incarnation, 1)
        fresh = Record(*key, line.incarnation, message["port"], message["host"], message["pid"])
        fresh.last_heard = time.monotonic()
        with self._lock:
            self._records[key] = fresh
        return line.incarnation

    def _places(self, role: str, count: int, least: int) -> int:
        """The first of `count` indices in a row. None is given out twice, so a guest never takes another's place."""
        first = max(least, self._given.get(role, 0))
        self._given[role] = first + count
        return first

    def _describe(self, key: Key) -> dict[str, Any]:
        record = self._records.get(key)
        if record is None or not record.alive:
            return {"port": None, "incarnation": None}
        return {"port": record.port, "incarnation": record.incarnation, "facts": record.facts}

    def _relay(self, line: _Line, to: Key, message: dict[str, Any]) -> None:
        self._friends[to].add(line.key)
        self._friends[line.key].add(to)
        target = self._lines.get(to)
        if target is not None:
            target.push(event=message["what"], sender=[*line.key, line.incarnation], data=message.get("data"))

    def _push_request(self, role: str | None, what: str) -> None:
        for key, line in self._lines.items():
            if role in (None, key[0]):
                line.push(event="request", what=what)

    def _bury_unless_back(self, key: Key, incarnation: int) -> None:
        line = self._lines.get(key)
        if line is None or line.incarnation != incarnation:
            self._bury(key, incarnation)

    def _bury(self, key: Key, incarnation: int) -> None:
        record = self._records.get(key)
        if record is None or record.incarnation != incarnation or not record.alive:
            return
        record.alive = False
        for friend in self._friends.pop(key, set()):
            if friend in self._lines:
                self._lines[friend].push(event="gone", sender=[*key, incarnation], data=None)

    def _watch(self) -> None:
        """Buries who was not heard of. After a pause of this process, SIGSTOP say, what they said waits unread."""
        now = time.monotonic()
        if now - self._looked > self.silent_s / 2:
            self._awake = now
        self._looked = now
        for key, record in list(self._records.items()):
            if record.alive and now - max(record.last_heard, self._awake) > self.silent_s:
                self._bury(key, record.incarnation)
        self._loop.call_later(1.0, self._watch)
