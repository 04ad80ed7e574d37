"""How a loop sleeps while it waits for messages, and the one thread that pumps for roles that compute.

libfabric watches its sockets with an epoll descriptor, and such a descriptor can itself be waited for: so a process
sleeps until the network has something for its MPI, instead of looking again and again. Where there is none (another
MPI), it looks at growing intervals.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

LOOKS = 1  # in vain before the first sleep: MPI may have read what only its next look shows
STEP = 20  # sleeps of one length before the next length
SHORTEST_S, LONGEST_S = 50e-6, 2e-3  # of blind sleeps; measured: 50 us costs 22 % of a core, 2 ms less than 3 %
ASLEEP_S = 10e-3  # longest wait on descriptors: news from the registry ring no bell
FALSE_ALARMS = 50  # wakes in a row without a message, after which the descriptors are not believed until the next one


class Idle:
    """Sleeps until one of `descriptors` is readable, or adaptively without any: short just after a message.

    >>> idle = Idle()
    >>> idle.looked(busy=False)
    >>> idle.quiet
    1
    """

    def __init__(self, descriptors: Sequence[int] = ()) -> None:
        self.descriptors = list(descriptors)
        self.quiet = self.alarms = 0

    def looked(self, busy: bool) -> None:
        """`busy`: the look was not in vain."""
        if busy:
            self.quiet = self.alarms = 0
        else:
            self.quiet += 1

    def rest(self, at_most_s: float = ASLEEP_S) -> None:
        """Sleeps, unless there may be something to see at once."""
        if self.quiet < LOOKS:
            return
        if self.descriptors and self.alarms < FALSE_ALARMS:
            woken = select.select(self.descriptors, [], [], max(0.0, min(ASLEEP_S, at_most_s)))[0]
            self.alarms = self.alarms + 1 if woken else 0
        else:
            time.sleep(max(0.0, min(self._length(), at_most_s)))

    def _length(self) -> float:
        doublings = min(max(self.quiet - LOOKS, 0) // STEP, 10)
        return float(min(SHORTEST_S * 2**doublings, LONGEST_S))


class Pumper:
    """The MPI thread of a role that computes: it alone pumps, the role's thread uses the ends' queues.

    What goes wrong in it is raised by the role's next call of an end.
    """

    def __init__(
        self, pump: Callable[[], bool], descriptors: Sequence[int], fail: Callable[[BaseException], None]
    ) -> None:
        self._pump, self._fail = pump, fail
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._idle = Idle([*descriptors, self._bell] if descriptors else [])
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpi", daemon=True)

    def start(self) -> Pumper:
        sys.setswitchinterval(1e-4)  # with the default 5 ms a round trip beside Python work takes 10 ms
        self._thread.start()
        return self

    @property
    def ident(self) -> int | None:
        return self._thread.ident

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread. Raises TimeoutError when it hangs in MPI."""
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"waited {timeout_s:.0f} s for the MPI thread to end")

    def ring(self) -> None:
        """Another thread has queued something to send."""
        if threading.get_ident() != self._thread.ident:
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                with suppress(BlockingIOError):  # nobody rang
                    os.eventfd_read(self._bell)
                self._idle.looked(self._pump())
                self._idle.rest()
        except Exception as error:  # noqa: BLE001  (not lost: the role's thread raises it)
            self._fail(error)
