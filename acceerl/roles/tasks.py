"""Which episode is played next: weighted training draws, or the fixed evaluation list.

Training draws from `spec.train_states` only, evaluation from `spec.eval_states` only; the two are disjoint. An
environment stays with a task for a while, since some simulators (LIBERO's) take seconds to make another one ready.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Protocol

import numpy as np

from acceerl.types import Assignment, EnvSpec, EpisodeResult, Segment


class Tasks(Protocol):
    """What inference asks for episodes."""

    greedy: bool

    def next(self, slot: Hashable) -> Assignment | None:
        """The next episode of the environment `slot`, or None when there is none at the moment."""
        ...

    def lost(self, assignment: Assignment) -> None:
        """The environment that played it vanished."""
        ...

    def ended(self, result: EpisodeResult, segment: Segment) -> None: ...

    @property
    def may_swap(self) -> bool:
        """May the policy's weights change now?"""
        ...

    def swapped(self, version: int) -> None: ...


class TrainingTasks:
    """Dynamic weighted resampling: a task is drawn in proportion to its weight (PAPER: failures + 1).

    `stint`: episodes in a row that an environment plays of a task before its next is drawn. Every stint has the same
    length, so tasks are played in proportion to their weights whatever it is.
    """

    greedy = False
    may_swap = True

    def __init__(self, spec: EnvSpec, seed: int, record_share: float = 0.0, stint: int = 1) -> None:
        self.spec, self.record_share, self.stint = spec, record_share, stint
        self.rng = np.random.default_rng(seed)
        self.weights = np.ones(spec.n_tasks)
        self.stints: dict[Hashable, tuple[int, int]] = {}  # environment -> its task, episodes left of it

    def next(self, slot: Hashable) -> Assignment:
        task = self._task(slot)
        states = self.spec.train_states
        state = states[int(self.rng.integers(len(states)))]
        record = bool(self.rng.random() < self.record_share)
        return Assignment(task, state, int(self.rng.integers(2**31)), record)

    def _task(self, slot: Hashable) -> int:
        task, left = self.stints.get(slot, (0, 0))
        if not left:
            task, left = int(self.rng.choice(self.spec.n_tasks, p=self.weights / self.weights.sum())), self.stint
        self.stints[slot] = task, left - 1
        return task

    def lost(self, assignment: Assignment) -> None:
        """Nothing to do: training draws again."""

    def ended(self, result: EpisodeResult, segment: Segment) -> None:
        """Nothing to do: the learner counts."""

    def swapped(self, version: int) -> None:
        """Nothing to do: training takes every version."""


class EvaluationTasks:
    """Rounds of fixed episodes, each round played greedily by one policy version.

    `finished(version, results)` is called at a round's end; `segment_seen` gets every segment (for videos). A new round
    opens with the newest version once the last is over, `every` seconds after it began at the earliest.
    """

    greedy = True

    def __init__(
        self,
        spec: EnvSpec,
        episodes: int,
        finished: Callable[[int, list[EpisodeResult]], None],
        *,
        videos: int = 0,
        segment_seen: Callable[[Segment], None] | None = None,
        every: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every, self.clock, self.began = every, clock, -math.inf
        self.plan = evaluation_plan(spec, episodes, videos)
        self.finished, self.segment_seen = finished, segment_seen
        self.version = -1
        self.todo: dict[int, deque[Assignment]] = {}  # by task
        self.tasks: dict[Hashable, int] = {}  # environment -> the task that it played last
        self.results: list[EpisodeResult] = []
        self.rounds = 0

    @property
    def may_swap(self) -> bool:
        over = self.version < 0 or len(self.results) == len(self.plan)
        return over and self.clock() - self.began >= self.every

    def swapped(self, version: int) -> None:
        self.version, self.began = version, self.clock()
        self.results = []
        self.todo = {}
        for assignment in self.plan:
            self.todo.setdefault(assignment.task, deque()).append(assignment)

    def next(self, slot: Hashable) -> Assignment | None:
        """Of the task that the environment is at, else of one that few others are at."""
        open_tasks = [task for task, todo in self.todo.items() if todo]
        if not open_tasks:
            return None
        if self.tasks.get(slot) not in open_tasks:
            players = Counter(self.tasks.values())
            self.tasks[slot] = min(open_tasks, key=lambda task: (players[task], -len(self.todo[task])))
        return self.todo[self.tasks[slot]].popleft()

    def lost(self, assignment: Assignment) -> None:
        self.todo[assignment.task].appendleft(assignment)

    def ended(self, result: EpisodeResult, segment: Segment) -> None:
        if self.segment_seen is not None:
            self.segment_seen(segment)
        self.results.append(result)
        if len(self.results) == len(self.plan):
            self.rounds += 1
            self.finished(self.version, self.results)


def evaluation_plan(spec: EnvSpec, episodes: int, videos: int = 0) -> list[Assignment]:
    """`episodes` fixed episodes: every task once with state 0, then with state 1, …; seeds are part of the plan.

    Raises ValueError when there are fewer evaluation states than the plan needs.
    """
    available = spec.n_tasks * len(spec.eval_states)
    if episodes > available:
        raise ValueError(f"evaluator.episodes={episodes} is more than the {available} evaluation states of the suite")
    return [
        Assignment(i % spec.n_tasks, spec.eval_states[i // spec.n_tasks], seed=i, record=i < videos)
        for i in range(episodes)
    ]


class TaskWeights:
    """Failures among a task's last 100 episodes, plus 1 (PAPER §2: dynamic weighted resampling)."""

    WINDOW = 100

    def __init__(self, n_tasks: int) -> None:
        self.successes: list[deque[bool]] = [deque(maxlen=self.WINDOW) for _ in range(n_tasks)]

    def add(self, won: np.ndarray, lost: np.ndarray) -> None:
        """Counts newly ended episodes; both are whole numbers [n_tasks]."""
        for task, window in enumerate(self.successes):
            window.extend([True] * int(won[task]) + [False] * int(lost[task]))

    def weights(self) -> np.ndarray:
        """float64 [n_tasks]."""
        return np.array([1.0 + sum(not s for s in window) for window in self.successes])

    def success_rate(self) -> float:
        """Over the tasks that have been played, each with equal weight; NaN before the first episode ended."""
        rates = [sum(w) / len(w) for w in self.successes if w]
        return float(np.mean(rates)) if rates else float("nan")

    def state_dict(self) -> dict[str, list[list[bool]]]:
        return {"successes": [list(w) for w in self.successes]}

    def load_state_dict(self, state: dict[str, list[list[bool]]]) -> None:
        for window, saved in zip(self.successes, state["successes"], strict=True):
            window.clear()
            window.extend(saved)
