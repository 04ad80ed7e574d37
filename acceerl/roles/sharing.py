"""How learner ranks divide a batch, and what each counts between two turns to tell the others."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np

from acceerl.types import Segment


@dataclass
class News:
    """What happened at one rank since it told the others; every number here is added up over ranks."""

    n_tasks: InitVar[int]
    decisions: int = 0  # received
    sampled: int = 0  # drawn for a batch
    env_steps: int = 0
    episodes: int = 0
    dreamt: int = 0  # imagined decisions received
    won: np.ndarray = field(init=False)  # int64 [tasks], real episodes that ended in success
    lost: np.ndarray = field(init=False)

    def __post_init__(self, n_tasks: int) -> None:
        self.won, self.lost = np.zeros(n_tasks, np.int64), np.zeros(n_tasks, np.int64)

    def take(self, segment: Segment) -> None:
        if segment.imagined:
            self.dreamt += len(segment)
            return
        self.decisions += len(segment)
        self.env_steps += int(segment.executed.sum())
        if segment.terminated or segment.truncated:
            self.episodes += 1
            ended = self.won if segment.terminated else self.lost
            ended[segment.assignment.task] += 1


def shares(fresh: np.ndarray, held: np.ndarray, batch: int) -> list[int]:
    """How many of `batch` decisions each rank draws: as evenly as what they hold allows, of new ones first.

    `held` [ranks] counts a replay's decisions, `fresh` those of them that were never drawn.

    >>> shares(np.array([40, 40]), np.array([40, 40]), 64)
    [32, 32]
    >>> shares(np.array([10, 90]), np.array([50, 90]), 64)  # the first rank gets little new: it gives little
    [10, 54]
    >>> shares(np.array([0, 4]), np.array([9, 7]), 10)
    [3, 7]
    """
    new = _fill(fresh.astype(int).tolist(), min(batch, int(fresh.sum())))
    old = _fill((held - fresh).astype(int).tolist(), batch - sum(new))
    return [a + b for a, b in zip(new, old, strict=True)]


def _fill(room: list[int], amount: int) -> list[int]:
    """`amount` poured evenly into vessels of these sizes; what does not divide goes to the first ones.

    >>> _fill([1, 9, 9], 10)
    [1, 5, 4]
    """
    poured = [0] * len(room)
    by_size = sorted(range(len(room)), key=room.__getitem__)
    for place, i in enumerate(by_size):
        each, rest = divmod(amount - sum(poured), len(room) - place)
        if room[i] > each:  # and so have all that follow
            for k, j in enumerate(sorted(by_size[place:])):
                poured[j] = each + (k < rest)
            break
        poured[i] = room[i]
    return poured
