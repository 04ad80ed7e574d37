"""Which episodes `acceerl collect` still has to play: counts wanted per task, what is on disk, shares of workers.

The k-th try at a task is the same episode whoever plays it: (collect seed, task, k) decide its initial state, its
noise and its `seed`, from which k is read back. So nothing but the shards is needed to go on after a kill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from acceerl.config import Collect, Config
from acceerl.stores.reader import Entry
from acceerl.types import Assignment, EnvSpec

TRIES = 1_000_000  # per task and collect seed; an episode's seed is `collect seed * TRIES + k`


@dataclass
class Share:
    """What one worker still has to bring of one task: tries that it may play, and how many of each class to keep."""

    task: int
    tries: Sequence[int]
    successes: int
    failures: int

    def takes(self, success: bool) -> bool:
        """Is an episode of this class still wanted? Counts it when it is."""
        if success and self.successes:
            self.successes -= 1
            return True
        if not success and self.failures:
            self.failures -= 1
            return True
        return False

    @property
    def wanted(self) -> int:
        return self.successes + self.failures

    @property
    def most(self) -> int:
        """Episodes that it can bring."""
        return min(self.wanted, len(self.tries))


def assignment(spec: EnvSpec, seed: int, task: int, k: int) -> Assignment:
    """The k-th try at a task, on a training state."""
    rng = np.random.default_rng((seed, task, k))
    return Assignment(task, spec.train_states[int(rng.integers(len(spec.train_states)))], seed * TRIES + k)


def chosen_tasks(collect: Collect, spec: EnvSpec) -> list[int]:
    """Raises ValueError for a task that the suite does not have."""
    for task in collect.tasks:
        if not 0 <= task < spec.n_tasks:
            raise ValueError(f"collect.tasks: the suite has tasks 0 to {spec.n_tasks - 1}, got {task}")
    return sorted(set(collect.tasks)) or list(range(spec.n_tasks))


def missing(config: Config, spec: EnvSpec, there: Iterable[Entry]) -> list[Share]:
    """What this part of the collection still lacks, per task, given the episodes `there` on disk."""
    collect, tasks = config.collect, chosen_tasks(config.collect, spec)
    mine = list(_mine(config, there))
    left = []
    for i, task in enumerate(tasks):
        played = {k: success for t, k, success in mine if t == task}
        if collect.successes + collect.failures:
            left.append(_to_targets(collect, task, played))
        else:
            left.append(_to_episodes(collect, task, split(collect.episodes, i, len(tasks)), played))
    return [share for share in left if share.wanted]


def _mine(config: Config, there: Iterable[Entry]) -> Iterator[tuple[int, int, bool]]:
    """(task, k, success) of this seed's and part's episodes."""
    for entry in there:
        seed, k = divmod(entry.seed, TRIES)
        if seed == config.seed and k % config.collect.parts == config.collect.part:
            yield entry.task, k, entry.success


def _to_targets(collect: Collect, task: int, played: dict[int, bool]) -> Share:
    """Goes on behind the last episode that was kept: those before it that were not kept were not wanted."""
    won, lost = (split(n, collect.part, collect.parts) for n in (collect.successes, collect.failures))
    solved = sum(played.values())
    first = max(played, default=collect.part - collect.parts) + collect.parts
    tries = range(first, min(collect.tries * (won + lost) * collect.parts, TRIES), collect.parts)
    return Share(task, tries, max(0, won - solved), max(0, lost - (len(played) - solved)))


def _to_episodes(collect: Collect, task: int, episodes: int, played: dict[int, bool]) -> Share:
    tries = [k for k in range(collect.part, episodes, collect.parts) if k not in played]
    return Share(task, tries, len(tries), 0 if collect.only_successes else len(tries))


def of_worker(left: Iterable[Share], worker: int, workers: int) -> list[Share]:
    """One worker's part of what is left. Who gets one more changes from task to task."""
    shares = []
    for share in left:
        place = (worker + share.task) % workers
        won, lost = split(share.successes, place, workers), split(share.failures, place, workers)
        shares.append(Share(share.task, share.tries[place::workers], won, lost))
    return [share for share in shares if share.wanted and share.tries]


def split(total: int, i: int, n: int) -> int:
    """The i-th of n nearly equal parts.

    >>> [split(5, i, 3) for i in range(3)]
    [2, 2, 1]
    """
    return total // n + (i < total % n)
