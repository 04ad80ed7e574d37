"""How inference turns one environment's requests and answers into Segments."""

from __future__ import annotations

import numpy as np

from acceerl.types import ActionChunk, Assignment, EpisodeResult, Observation, Observed, Segment

MAX_DECISIONS = 64


def longest(steps: int, chunk: int) -> int:
    """Decisions of a segment at most, of episodes of so many control steps: a longer one is cut.

    >>> longest(37, 8), longest(10_000, 8)
    (5, 64)
    """
    return min(MAX_DECISIONS, -(-steps // chunk))


def rows(decisions: int, longest: int) -> int:
    """Observations of a micro-batch of so many decisions: segments are whole, one that was cut off has one more.

    `longest`: decisions of a segment. Assumed are four decisions or more in the others.

    >>> rows(8, 28), rows(64, 28)
    (29, 80)
    """
    return max(longest + 1, decisions + decisions // 4)


class SegmentMaker:
    """Collects one episode's decisions; hands out a Segment when the episode ends or 64 decisions are full.

    Call order: `open(first observation)`, then alternately `decide(chunk)` and `outcome(observed)`.
    """

    def __init__(self, episode: int, observed: Observed) -> None:
        assert observed.first and observed.observation is not None and observed.assignment is not None
        self.assignment: Assignment = observed.assignment
        self.episode = episode
        self.start = 0
        self.steps = 0
        self.first_version = -1
        self._clear(observed.observation)

    def _clear(self, observation: Observation) -> None:
        self.observations = [observation]
        self.chunks: list[ActionChunk] = []
        self.outcomes: list[Observed] = []

    def decide(self, chunk: ActionChunk) -> None:
        assert len(self.chunks) == len(self.outcomes), "a decision before the outcome of the last one"
        if self.first_version < 0:
            self.first_version = chunk.version
        self.chunks.append(chunk)

    def outcome(self, observed: Observed) -> Segment | None:
        """Books what the last chunk led to; returns a Segment when one is complete."""
        assert observed.observation is not None and len(self.chunks) == len(self.outcomes) + 1
        self.outcomes.append(observed)
        self.observations.append(observed.observation)
        self.steps += observed.executed
        full = len(self.chunks) >= MAX_DECISIONS
        return self.cut() if full or observed.ended else None

    def cut(self) -> Segment | None:
        """Hands out the decisions so far (None when there are none); the episode goes on in the next Segment."""
        assert len(self.chunks) == len(self.outcomes), "a decision is still open"
        if not self.chunks:
            return None
        segment = self._segment()
        self.start += len(segment)
        self._clear(self.observations[-1])
        return segment

    def result(self) -> EpisodeResult:
        return EpisodeResult(
            self.assignment.task,
            self.assignment.init_state,
            self._last_terminated,
            self.steps,
            self.first_version,
        )

    def _segment(self) -> Segment:
        last = self.outcomes[-1]
        self._last_terminated = last.terminated
        return Segment(
            assignment=self.assignment,
            episode=self.episode,
            start=self.start,
            instruction=self.observations[0].instruction,
            images={c: np.stack([o.images[c] for o in self.observations]) for c in self.observations[0].images},
            proprio=np.stack([o.proprio for o in self.observations]),
            tokens=np.stack([c.tokens for c in self.chunks]),
            logp=np.stack([c.logp for c in self.chunks]),
            values=np.array([c.value for c in self.chunks], np.float32),
            rewards=np.array([o.reward for o in self.outcomes], np.float32),
            executed=np.array([o.executed for o in self.outcomes], np.int16),
            versions=np.array([c.version for c in self.chunks], np.int64),
            terminated=last.terminated,
            truncated=last.truncated,
            frames=self._frames(),
        )

    def _frames(self) -> dict[str, np.ndarray]:
        if not self.assignment.record:
            return {}
        chunk = len(self.chunks[0].actions)
        recorded = [o.frames or {} for o in self.outcomes]
        return {c: np.stack([_padded(f[c], chunk) for f in recorded]) for c in recorded[0]}


def _padded(frames: np.ndarray, chunk: int) -> np.ndarray:
    """Repeats the last frame for the control steps that were not executed: [executed, …] -> [chunk, …]."""
    missing = chunk - len(frames)
    return frames if missing == 0 else np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
