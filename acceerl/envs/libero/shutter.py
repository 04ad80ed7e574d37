"""The instant at which stock robosuite takes the pictures that a step returns: not the step's end.

Its observables sample on timers of their own that add up floating-point time and are pushed on by every reset, so
the pictures are some simulator steps old (one, after LIBERO's reset), and the lag moves within long episodes.
"""

from __future__ import annotations


class Shutter:
    """The timer that all observables of an environment share (robosuite/utils/observables.py, `Observable.update`).

    substep: seconds of a simulator step. period: seconds between two samples, a control step.
    """

    def __init__(self, substep: float, period: float) -> None:
        self._substep, self._period = substep, period
        self.restart(1)

    def restart(self, forced: int) -> None:
        """A reset that samples `forced` times at once: `reset` does it once, `set_init_state` once more."""
        self.elapsed, self.sampled = 0.0, False
        for _ in range(forced):
            self._advance(forced=True)

    def tick(self) -> bool:
        """Call after each simulator step; is this one pictured?"""
        return self._advance(forced=False)

    def _advance(self, forced: bool) -> bool:
        self.elapsed += self._substep
        sample = forced or (not self.sampled and self._period >= self.elapsed)
        self.sampled |= sample
        if self.elapsed >= self._period:
            sample |= not self.sampled
            self.elapsed %= self._period
            self.sampled = False
        return sample
