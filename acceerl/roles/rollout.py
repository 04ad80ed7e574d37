"""The rollout role: steps K environments in one process, one request in flight for each. No torch, no hydra.

Evaluators run the same function; what makes them evaluators is the inference instance that they talk to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from acceerl.channels.links import PeerLost, Requests
from acceerl.protocols import ChunkedEnv, Env, Meter
from acceerl.types import Act, Assignment, Observation, Observed, StepResult

PATIENCE = 0.05  # seconds between two looks at the stop flag; the link's own deadline ends the wait for good


def rollout(envs: Sequence[Env], requests: Requests, meter: Meter) -> Iterator[bool]:
    """Yields True after each chunk or reset, False when every environment waits for its answer.

    Environments interleave: while one waits for its action, another steps. When the inference instance is lost,
    the episodes in the making are abandoned and every environment asks its successor for a new one.
    """
    players = [Player(slot, env, meter) for slot, env in enumerate(envs)]
    _send_all(requests, players)
    while True:
        try:
            acts = _wait(requests, meter)
            for act in acts:
                requests.send(players[act.slot].answer(act))
                yield True
        except PeerLost:
            meter.count("failovers")
            _send_all(requests, players)
            continue
        if not acts:
            yield False


def _wait(requests: Requests, meter: Meter) -> list[Act]:
    began = time.monotonic()
    acts = requests.wait(PATIENCE)
    meter.waiting("inference", time.monotonic() - began)
    return acts


def _send_all(requests: Requests, players: Sequence[Player]) -> None:
    for player in players:
        requests.send(player.idle())


class Player:
    """One environment and the episode that it is in."""

    def __init__(self, slot: int, env: Env, meter: Meter) -> None:
        self.slot, self.env, self.meter = slot, env, meter
        self.chunked = env if isinstance(env, ChunkedEnv) else None
        self.assignment: Assignment | None = None

    def idle(self) -> Observed:
        """Asks for an Assignment."""
        self.assignment = None
        return Observed(self.slot, None, None)

    def answer(self, act: Act) -> Observed:
        if act.assignment is not None:
            return self._begin(act.assignment)
        assert act.actions is not None and self.assignment is not None, "actions came for an idle environment"
        return self._play(act.actions, self.assignment)

    def _begin(self, assignment: Assignment) -> Observed:
        self.assignment = assignment
        self.env.reset(assignment.task, assignment.init_state, assignment.seed)
        return Observed(self.slot, assignment, self.env.observe(), first=True)

    def _play(self, actions: np.ndarray, assignment: Assignment) -> Observed:
        """Executes the chunk until it or the episode ends. Renders once, or at every step of a recorded episode."""
        frames: list[Observation] = []
        results = self._filmed(actions, frames) if assignment.record else self._steps(actions)
        executed, last = len(results), results[-1]
        self.meter.count("env_steps", executed)
        return Observed(
            self.slot,
            assignment,
            frames[-1] if frames else self.env.observe(),
            reward=sum(result.reward for result in results),
            executed=executed,
            terminated=last.terminated,
            truncated=last.truncated and not last.terminated,
            frames=_stack([frame.images for frame in frames]) if frames else None,
        )

    def _steps(self, actions: np.ndarray) -> Sequence[StepResult]:
        return self.chunked.step_chunk(actions) if self.chunked else list(_until_end(self.env, actions))

    def _filmed(self, actions: np.ndarray, frames: list[Observation]) -> Sequence[StepResult]:
        results = []
        for result in _until_end(self.env, actions):
            results.append(result)
            frames.append(self.env.observe())
        return results


def _until_end(env: Env, actions: np.ndarray) -> Iterator[StepResult]:
    """Executes the chunk until it or the episode ends."""
    for action in actions:
        result = env.step(action)
        yield result
        if result.terminated or result.truncated:
            return


def _stack(frames: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {camera: np.stack([frame[camera] for frame in frames]) for camera in frames[0]}
