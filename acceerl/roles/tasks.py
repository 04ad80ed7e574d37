"""Which episode is played next: weighted training draws, or the fixed evaluation list.

Training draws from `spec.train_states` only, evaluation from `spec.eval_states` only; the two are disjoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from acceerl.types import Assignment, EnvSpec, EpisodeResult, Segment


class Tasks(Protocol):
    """What inference asks for episodes."""

    greedy: bool

    def next(self) -> Assignment | None:
        """The next episode, or None when there is none at the moment."""
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
    """Dynamic weighted resampling: a task is drawn in proportion to its weight (PAPER: failures + 1)."""

    greedy = False
    may_swap = True

    def __init__(self, spec: EnvSpec, seed: int, record_share: float = 0.0) -> None:
        self.spec, self.record_share = spec, record_share
        self.rng = np.random.default_rng(seed)
        self.weights = np.ones(spec.n_tasks)

    def next(self) -> Assignment:
        task = int(self.rng.choice(self.spec.n_tasks, p=self.weights / self.weights.sum()))
        states = self.spec.train_states
        state = states[int(self.rng.integers(len(states)))]
        record = bool(self.rng.random() < self.record_share)
        return Assignment(task, state, int(self.rng.integers(2**31)), record)

    def lost(self, assignment: Assignment) -> None:
        """Nothing to do: training draws again."""

    def ended(self, result: EpisodeResult, segment: Segment) -> None:
        """Nothing to do: the learner counts."""

    def swapped(self, version: int) -> None:
        """Nothing to do: training takes every version."""


class EvaluationTasks:
    """Rounds of fixed episodes, each round played greedily by one policy version.

    `finished(version, results)` is called at a round's end; `segment_seen` gets every segment (for videos). With
    `rounds=None` a new round opens whenever a newer version was swapped in.
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
    ) -> None:
        self.plan = evaluation_plan(spec, episodes, videos)
        self.finished, self.segment_seen = finished, segment_seen
        self.version = -1
        self.todo: deque[Assignment] = deque()
        self.results: list[EpisodeResult] = []
        self.rounds = 0

    @property
    def may_swap(self) -> bool:
        return self.version < 0 or len(self.results) == len(self.plan)

    def swapped(self, version: int) -> None:
        self.version = version
        self.results = []
        self.todo = deque(self.plan)

    def next(self) -> Assignment | None:
        return self.todo.popleft() if self.todo else None

    def lost(self, assignment: Assignment) -> None:
        self.todo.appendleft(assignment)

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
