"""Large messages between processes of one machine: laid out where the receiver can map them, told of by a short notice.

The way through MPI costs such a message four copies and the system calls of a socket; this way it costs two copies.
The sender, which dialled, lends memory; the receiver says in its hello whether it can map the sender's memory at all
(the same machine, user and process namespace). A receiver copies a message out and gives the memory back at once, by
a byte in it. When either process dies, the kernel frees what the other one does not hold.
"""

from __future__ import annotations

import threading

import numpy as np

from acceerl.channels.snapshots import Snapshot, attach, machine
from acceerl.channels.wire import ALIGN, WireError, lent_notice, read_lent

SMALLEST = 16 << 10  # bytes of a message below which MPI is as good
MOST = 256 << 20  # bytes lent to one receiver
FREE, LENT = 0, 1  # the first byte; the message begins at ALIGN


class Proof:
    """A page of this process' memory: who can map it can map what it lends."""

    def __init__(self) -> None:
        self._page = Snapshot(1)
        self.address = f"{machine()}:{self._page.address}"


def can_map(proof: str) -> bool:
    """Does `Proof.address` of another process lead to its memory from here?"""
    where, _, address = proof.partition(":")
    return bool(where) and where == machine() and attach(address, 1) is not None


class Lender:
    """Memory that one receiver can map, in slots of powers of two. Threads may share it."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.slots: dict[str, Snapshot] = {}  # by what the receiver is told
        self._lock = threading.Lock()

    def room(self, size: int) -> np.ndarray:
        """Memory for a message, uint8 [size]: the receiver's to map if it is worth it and something is free."""
        slot = self._lend(ALIGN + size) if size >= SMALLEST else None
        return np.empty(size, np.uint8) if slot is None else slot.buffer[ALIGN : ALIGN + size]

    def notice(self, tag: int, message: np.ndarray) -> np.ndarray | None:
        """What tells the receiver of a message, uint8 [bytes]; None for one that lies in nobody's slot."""
        for where, slot in list(self.slots.items()):
            if message.base is slot.buffer:
                return lent_notice(tag, message.nbytes, where)
        return None

    def _lend(self, size: int) -> Snapshot | None:
        with self._lock:
            slot = self._slot(1 << (size - 1).bit_length())
            if slot is not None:
                slot.buffer[0] = LENT
            return slot

    def _slot(self, size: int) -> Snapshot | None:
        """A free one, or a new one while there is room for it."""
        for slot in self.slots.values():
            if slot.size == size and slot.buffer[0] == FREE:
                return slot
        if size + sum(slot.size for slot in self.slots.values()) > self.most:
            return None
        slot = Snapshot(size)
        self.slots[f"{size}:{slot.address}"] = slot
        return slot


class Borrower:
    """The receiver's side of one connection."""

    def __init__(self) -> None:
        self.mapped: dict[str, np.ndarray] = {}

    def take(self, notice: np.ndarray) -> tuple[int, np.ndarray]:
        """(tag, message), the message copied, its memory given back. Raises WireError when it cannot be mapped."""
        tag, size, where = read_lent(notice)
        memory = self.mapped.get(where)
        if memory is None:
            memory = self.mapped[where] = _attach(where)
        if ALIGN + size > len(memory):
            raise WireError(f"a message of {size} bytes is said to lie in {len(memory)} lent bytes")
        message = memory[ALIGN : ALIGN + size].copy()
        memory[0] = FREE
        return tag, message


def _attach(where: str) -> np.ndarray:
    size, _, address = where.partition(":")
    memory = attach(address, int(size), writable=True) if size.isdigit() else None
    if memory is None:
        raise WireError(f"memory lent at {where!r} cannot be mapped")
    return memory
