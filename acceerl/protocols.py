"""The sockets: what an Env, a Policy or a world model must do to be plugged in. Contract tests run over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from acceerl.types import ActionBatch, ClipBatch, EnvSpec, Observation, ObservationBatch, StepResult

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
class ChunkedEnv(Protocol):
    """What an Env may offer beside: a whole chunk in one call."""

    def step_chunk(self, actions: np.ndarray) -> Sequence[StepResult]:
        """Executes the rows of `actions`, float32 [C, D], until the episode ends; a result for each executed row."""
        ...


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


@dataclass(frozen=True)
class WorldSpec:
    """The world model's side of the contract with an environment, a policy and its own checkpoints."""

    cameras: tuple[str, ...]
    image_size: tuple[int, int]  # H, W in pixels
    proprio: int  # entries that it predicts; 0: none, for policies that do without
    action_dim: int
    stride: int  # S control steps of a tick, the step from one predicted frame to the next
    context: int  # K frames that it looks back on, S control steps apart


@dataclass
class History:
    """N pasts on the device that computes: K frames each, the last one is now, and what was done between them."""

    images: dict[str, torch.Tensor]  # camera -> uint8 [N, K, H, W, 3]
    proprio: torch.Tensor  # float32 [N, K, P]
    actions: torch.Tensor  # float32 [N, K - 1, S, D]

    def __len__(self) -> int:
        return len(self.proprio)


@runtime_checkable
class WorldModel(Protocol):
    """Predicts what the cameras will show and the body will feel. Also a `torch.nn.Module`, like a policy."""

    @property
    def spec(self) -> WorldSpec: ...

    def loss(self, windows: ClipBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """A differentiable scalar and figures to report, of windows of `spec.context` frames and at least one more.

        A frame that is not `valid` after now is not trained on, one before now is seen repeated, as in imagination.
        """
        ...

    def predict(
        self,
        past: History,
        actions: torch.Tensor,
        executed: torch.Tensor | None = None,
        luck: torch.Tensor | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One tick without gradients: the next frames, uint8 [N, H, W, 3] a camera, and the path of the body.

        `actions` is float32 [N, S, D]; of them `executed`, int64 [N] in 1..S, are done (default: all). The path is
        float32 [N, S, P], proprioception after each control step; its last row is that after the tick. Dreams draw
        `luck`, float32 [N] in 0..1, for each tick: which of the outcomes that can follow does; without it the
        middle one does. A model that draws for itself, or knows one outcome only, need not heed it.
        """
        ...


@runtime_checkable
class SuccessModel(Protocol):
    """Says at which control step of a tick the task is done, if at any. Also a `torch.nn.Module`.

    It sees the frames that the tick begins with, and feels the body after each of the last K ticks up to then and after
    each of the tick's S control steps: `felt` [N, K + S, P]. Where no proprioception is predicted it sees the frames
    after the tick instead, and is asked about its end alone (`felt` [N, K + 1, 0]). world_models/windows.py asks.

    One with an attribute `threshold` knows above which probability a dream has succeeded (others: one half), and one
    with a method `decide(threshold)` learns it from held-out episodes; with `calibrate(logits, labels)` and `logits`
    its probabilities are calibrated by them too.
    """

    @property
    def spec(self) -> WorldSpec: ...

    def loss(
        self,
        images: dict[str, torch.Tensor],
        felt: torch.Tensor,
        instructions: Sequence[str],
        labels: torch.Tensor,
        counted: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """`images` are uint8 [N, H, W, 3] a camera. Of M questions about each, row m N + n about picture n: `felt`
        float32 [M N, K + S, P], `instructions`, and `labels` bool [M N, S]: does this step fulfil the instruction?
        Steps that are not `counted`, bool [M N, S], never happened."""
        ...

    def probability(
        self, images: dict[str, torch.Tensor], felt: torch.Tensor, instructions: Sequence[str]
    ) -> torch.Tensor:
        """float32 [N, S, M] in [0, 1], without gradients: the opinions of the ensemble's M members on each step."""
        ...
