"""A line between the supervisor and a keeper step: JSON messages over TCP, never waiting. Both ends use `Line`."""

from __future__ import annotations

import json
import socket
import time
from typing import Any


class Line:
    """One end. `lost`: the other one is gone; then nothing arrives and sending does nothing."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._read, self._unsent = end, b"", b""
        self.heard = time.monotonic()
        self.lost = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        self._unsent += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Sends what the network takes now; the rest follows with the next call."""
        try:
            while self._unsent and not self.lost:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.lost = True

    def receive(self) -> list[dict[str, Any]]:
        """Whole messages that have arrived."""
        while not self.lost:
            try:
                raw = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                raw = b""
            self.lost = not raw
            self._read += raw
            self.heard = time.monotonic()
        *whole, self._read = self._read.split(b"\n")
        return [json.loads(text) for text in whole]

    def close(self) -> None:
        self.lost = True
        self._socket.close()
