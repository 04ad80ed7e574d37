"""The sockets: what an Env, a Policy or a link end must do to be plugged in. Contract tests run over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from acceerl.types import ActionBatch, EnvSpec, Observation, ObservationBatch, StepResult

if TYPE_CHECKING:  # the rollout process imports this module and must not load torch
    import torch


@runtime_checkable
class Env(Protocol):
    """A simulator of one suite. Rendering happens in `observe` only, never in `step`."""

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode. Equal arguments give equal episodes under equal actions.

        Raises ValueError when `task` or `init_state` is outside the spec.
        """
        ...

    def step(self, action: np.ndarray) -> StepResult:
        """Executes one control step; `action` is float32 [D] in [-1, 1]."""
        ...

    def observe(self) -> Observation:
        """Renders every camera and reads proprioception."""
        ...

    @property
    def success(self) -> bool: ...

    def state(self) -> np.ndarray:
        """The simulator state, float64 [n]; `set_state` of it restores physics and success exactly."""
        ...

    def set_state(self, state: np.ndarray) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Expert(Protocol):
    """A scripted solver on privileged state."""

    def reset(self) -> None:
        """Forgets the episode; call after `Env.reset`."""
        ...

    def act(self) -> np.ndarray:
        """The next action, float32 [D] in [-1, 1]."""
        ...


@dataclass(frozen=True)
class PolicySpec:
    """The policy's side of the contract with an environment and with its own checkpoints."""

    chunk: int
    action_dim: int
    bins: int
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    proprio: int


@dataclass
class Evaluation:
    """What a training forward pass yields; gradients flow through all three."""

    logp: torch.Tensor  # float32 [N, C, D], log-probabilities of the given tokens
    logits: torch.Tensor  # [N, C, D, bins]
    values: torch.Tensor  # float32 [N]


@runtime_checkable
class Policy(Protocol):
    """A vision-language-action policy. Also a `torch.nn.Module`: state_dict, parameters, train and eval."""

    @property
    def spec(self) -> PolicySpec: ...

    def act(self, observations: ObservationBatch, greedy: bool | Sequence[bool]) -> ActionBatch:
        """Chooses a chunk for each observation, without gradients; greedy takes the most likely token."""
        ...

    def evaluate(self, observations: ObservationBatch, tokens: np.ndarray | torch.Tensor) -> Evaluation:
        """One differentiable pass: `tokens` is int [N, C, D]."""
        ...

    def trainable_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Named parameters that RL trains; names that start with `value` get the value learning rate."""
        ...


class Stop(Protocol):
    """Asked by every loop: has this process been told to leave?"""

    def is_set(self) -> bool: ...


class Meter(Protocol):
    """Where a role reports what it does. Calls are cheap; a reporter outside the role drains them."""

    def count(self, name: str, by: float = 1) -> None:
        """Adds to a counter (rates are derived from it)."""
        ...

    def gauge(self, name: str, value: float) -> None:
        """Sets a value (queue depth, lag, loss); a report carries the mean since the last one."""
        ...

    def waiting(self, whom: str, seconds: float) -> None:
        """Books time spent waiting for a peer, for the share-of-time table."""
        ...

    def event(self, name: str, **fields: Any) -> None:
        """Writes one line of its own to the metrics file (an episode's end, an evaluation round)."""
        ...
