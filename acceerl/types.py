"""The nouns: plain records that every room shares. numpy only, no behaviour beyond shapes.

Letters in shapes: N observations, T decisions of a segment, C actions in a chunk (`chunk`), D action
dimensions (`dim`), H x W pixels, P proprioception entries, K frames of a window, S control steps between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """What an environment shows and takes; two environments with equal specs are interchangeable.

    Train and evaluation initial states are disjoint ranges of one index space (checked here), so that no
    training run can touch an evaluation state by accident.

    >>> spec = EnvSpec(("front",), (64, 64), 8, 7, ("pick up the cube",), (48,), range(0, 100), range(100, 120))
    >>> spec.n_tasks
    1
    """

    cameras: tuple[str, ...]
    image_size: tuple[int, int]  # H, W in pixels, the same for every camera
    proprio: int
    action_dim: int
    instructions: tuple[str, ...]  # one per task
    step_limits: tuple[int, ...]  # control steps per episode, one per task
    train_states: range
    eval_states: range

    def __post_init__(self) -> None:
        if set(self.train_states) & set(self.eval_states):
            raise ValueError("train_states and eval_states overlap: give the env disjoint initial states")
        if len(self.instructions) != len(self.step_limits):
            raise ValueError("an env needs one instruction and one step limit per task")

    @property
    def n_tasks(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees at one decision. Arrays travel as they are: a benchmark's images may be of floats.

    >>> Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(8, np.float32), "open the drawer").instruction
    'open the drawer'
    """

    images: dict[str, np.ndarray]  # camera -> uint8 [H, W, 3], right side up
    proprio: np.ndarray  # float32 [P]
    instruction: str


@dataclass(frozen=True, slots=True)
class ObservationBatch:
    """N observations stacked, the form that policies compute on."""

    images: dict[str, np.ndarray]  # camera -> uint8 [N, H, W, 3]
    proprio: np.ndarray  # float32 [N, P]
    instructions: tuple[str, ...]  # N

    def __len__(self) -> int:
        return len(self.instructions)

    @classmethod
    def stack(cls, observations: Sequence[Observation]) -> ObservationBatch:
        cameras = observations[0].images
        return cls(
            {name: np.stack([o.images[name] for o in observations]) for name in cameras},
            np.stack([o.proprio for o in observations]),
            tuple(o.instruction for o in observations),
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """One control step's outcome. `terminated`: the task ended (success); `truncated`: a limit ended it."""

    reward: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class ActionChunk:
    """What a policy answers to one observation; token (c, d) chose action dimension d of control step c.

    >>> c = ActionChunk(np.zeros((8, 7), np.int16), np.zeros((8, 7), np.float32), np.zeros((8, 7), np.float32), 0.5, 3)
    >>> c.version
    3
    """

    tokens: np.ndarray  # int16 [C, D]
    logp: np.ndarray  # float32 [C, D], log-probability of each token under the policy that acted
    actions: np.ndarray  # float32 [C, D] in [-1, 1], what the environment executes
    value: float
    version: int


@dataclass(frozen=True, slots=True)
class ActionBatch:
    """N action chunks stacked, the form that policies return."""

    tokens: np.ndarray  # int16 [N, C, D]
    logp: np.ndarray  # float32 [N, C, D]
    actions: np.ndarray  # float32 [N, C, D]
    values: np.ndarray  # float32 [N]

    def chunk(self, i: int, version: int) -> ActionChunk:
        return ActionChunk(self.tokens[i], self.logp[i], self.actions[i], float(self.values[i]), version)


@dataclass(frozen=True, slots=True)
class Assignment:
    """An episode to play: inference hands it to a rollout that asked for one."""

    task: int
    init_state: int
    seed: int
    record: bool = False  # render frames between decisions too


@dataclass(frozen=True, slots=True)
class Observed:
    """Payload of link `observe`: one environment's request, with the outcome of the chunk before.

    `observation is None`: the environment is idle and asks for an Assignment. `first`: the observation opens
    an episode, so there is no outcome to read. `ended` episodes are answered with an Assignment, all others
    with actions.
    """

    slot: int  # which environment of the sending process
    assignment: Assignment | None
    observation: Observation | None
    first: bool = False
    reward: float = 0.0  # sum over the executed control steps
    executed: int = 0  # control steps of the chunk that were executed
    terminated: bool = False
    truncated: bool = False
    frames: dict[str, np.ndarray] | None = None  # recorded: camera -> uint8 [executed, H, W, 3]

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True, slots=True)
class Act:
    """Payload of link `act`, the answer to one Observed: actions, or the next Assignment."""

    slot: int
    actions: np.ndarray | None = None  # float32 [C, D]
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive decisions of one episode, at most 64, with the observation after the last one.

    `terminated` and `truncated` speak of the last decision; both False means that the episode goes on in the
    next segment (or was cut) and the last observation bootstraps the return. Truncation bootstraps as well.
    """

    assignment: Assignment
    episode: int  # unique within a run
    start: int  # index of the first decision within the episode
    instruction: str
    images: dict[str, np.ndarray]  # camera -> uint8 [T+1, H, W, 3]
    proprio: np.ndarray  # float32 [T+1, P]
    tokens: np.ndarray  # int16 [T, C, D]
    logp: np.ndarray  # float32 [T, C, D]
    values: np.ndarray  # float32 [T], value estimates of the policy that acted
    rewards: np.ndarray  # float32 [T]
    executed: np.ndarray  # int16 [T], how many of the C actions were executed
    versions: np.ndarray  # int64 [T]
    terminated: bool
    truncated: bool
    imagined: bool = False
    world_version: int = -1  # of the world and success model that imagined it
    frames: dict[str, np.ndarray] = field(default_factory=dict)  # camera -> uint8 [T, C, H, W, 3]

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class Weights:
    """Payload of the weight links: named tensors as flat arrays, with the version they belong to."""

    version: int
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What is known of a finished episode, for the success table and the task weights."""

    task: int
    init_state: int
    success: bool
    steps: int
    version: int  # policy version of its first decision
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """N windows of K = context + horizon frames, S control steps apart; frame `context - 1` is now.

    `actions[n, k]` were executed between frames k and k + 1; of the S places `executed[n, k]` count (0 where a frame is
    padding), the others repeat the last action.
    """

    images: dict[str, np.ndarray]  # camera -> uint8 [N, K, H, W, 3]
    proprio: np.ndarray  # float32 [N, K, P]
    actions: np.ndarray  # float32 [N, K - 1, S, D]
    executed: np.ndarray  # int64 [N, K - 1]
    valid: np.ndarray  # bool [N, K], false: before the first or after the last frame of its episode, which is repeated
    succeeded: np.ndarray  # bool [N, K], true: the frame shows the instruction fulfilled
    instructions: tuple[str, ...]  # N

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """Batches of equal shapes, one after the other."""
        parts = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(cls)}
        return cls(**{name: _joined(several) for name, several in parts.items()})


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(item for part in parts for item in part)
    return np.concatenate(parts)
