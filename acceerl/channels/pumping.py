"""When a loop sleeps while it waits for messages, and the one thread that pumps for roles that compute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

SPINS = 4  # looks without sleeping after the last message; yielding instead costs a whole time slice when busy
MOVING_SPINS = 100  # the same while a message is half-way: a large one takes several looks at both ends
STEP = 20  # sleeps of one length before the next length
SHORTEST_S, LONGEST_S = 50e-6, 2e-3  # measured: 50 us costs 22 % of a core, 2 ms less than 3 %


class Idle:
    """Adaptive sleep: eager just after a message, cheap when nothing happens.

    >>> idle = Idle()
    >>> idle.rest(busy=True)
    >>> idle.quiet
    0
    """

    def __init__(self) -> None:
        self.quiet = 0

    def rest(self, busy: bool, at_most_s: float = LONGEST_S, moving: bool = False) -> None:
        """`busy`: something happened just now; `moving`: a message has begun and not ended."""
        if busy:
            self.quiet = 0
            return
        self.quiet += 1
        if self.quiet > (MOVING_SPINS if moving else SPINS):
            time.sleep(max(0.0, min(self._length(), at_most_s)))

    def _length(self) -> float:
        doublings = min(max(self.quiet - SPINS, 0) // STEP, 10)
        return float(min(SHORTEST_S * 2**doublings, LONGEST_S))


class Pumper:
    """The MPI thread of a role that computes: it alone pumps, the role's thread uses the ends' queues.

    What goes wrong in it is raised by the role's next call of an end.
    """

    def __init__(
        self, pump: Callable[[], bool], moving: Callable[[], bool], fail: Callable[[BaseException], None]
    ) -> None:
        self._pump, self._moving, self._fail = pump, moving, fail
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

    def _run(self) -> None:
        idle = Idle()
        try:
            while not self._closing.is_set():
                idle.rest(self._pump(), moving=self._moving())
        except Exception as error:  # noqa: BLE001  (not lost: the role's thread raises it)
            self._fail(error)
