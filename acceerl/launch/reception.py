"""Where keeper steps call their supervisor: a listening socket that lets in whoever knows the token. Never waits."""

from __future__ import annotations

import hmac
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

from acceerl.launch.line import Line

HELLO_S = 10.0  # seconds in which a connection says who it is


class Reception:
    """`where` is what a step must know to call: host, port and token."""

    def __init__(self, address: str) -> None:
        self._server = socket.create_server(("0.0.0.0", 0), backlog=256)
        self._server.setblocking(False)
        self._callers: list[Line] = []  # connected, not yet introduced
        self.where: dict[str, Any] = {
            "host": address, "port": self._server.getsockname()[1], "token": secrets.token_hex(16),
        }  # fmt: skip

    def arrivals(self) -> Iterator[tuple[Line, dict[str, Any]]]:
        """Who has called since the last look, with the first message. Strangers are hung up on."""
        self._accept()
        for caller in list(self._callers):
            hello = next(iter(caller.receive()), None)
            if hello is not None and hmac.compare_digest(str(hello.get("token")), str(self.where["token"])):
                self._callers.remove(caller)
                yield caller, hello
            elif hello is not None or caller.lost or time.monotonic() - caller.heard > HELLO_S:
                self._callers.remove(caller)
                caller.close()

    def close(self) -> None:
        self._server.close()
        for caller in self._callers:
            caller.close()

    def _accept(self) -> None:
        while True:
            try:
                self._callers.append(Line(self._server.accept()[0]))
            except BlockingIOError:
                return
