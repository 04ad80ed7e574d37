"""What world models and dreams take from Segments, and back: episodes to train on, and starts to dream from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from acceerl.protocols import WorldSpec
from acceerl.stores.memory import Kept
from acceerl.types import Assignment, Segment
from acceerl.world_models.imagined import Start

RECORDED = -1  # policy version of contexts that no policy of this run produced


@dataclass(frozen=True)
class Alphabet:
    """How a policy's tokens read as actions: `centres` float32 [bins], `chunk` control steps a decision."""

    centres: np.ndarray
    chunk: int

    def actions(self, segment: Segment) -> np.ndarray:
        """float32 [T, C, D]."""
        return np.asarray(self.centres[segment.tokens], np.float32)

    def tokens(self, actions: np.ndarray) -> np.ndarray:
        """The nearest tokens of actions in [-1, 1], int16 of the same shape."""
        edges = (self.centres[1:] + self.centres[:-1]) / 2
        return np.searchsorted(edges, actions).astype(np.int16)


def kept(segment: Segment, alphabet: Alphabet) -> Kept:
    """A live Segment as an episode to train on: every frame where it was recorded, else those at decisions."""
    done = [steps[:n] for steps, n in zip(alphabet.actions(segment), segment.executed, strict=True)]
    images, proprio, stride = segment.images, segment.proprio, alphabet.chunk
    if segment.frames:
        images, proprio, stride = _every_frame(segment), _every_body(segment), 1
    return Kept(
        images, proprio, np.concatenate(done), stride, segment.instruction, segment.assignment.task,
        segment.assignment.init_state, segment.terminated, f"episode {segment.episode}",
        segment.start * alphabet.chunk, live=True,
    )  # fmt: skip


def context(episode: Kept, alphabet: Alphabet) -> Segment:
    """A recorded episode as the Segment that a policy would have made of it, without what a policy says."""
    c = alphabet.chunk
    assert c % episode.stride == 0, f"{episode.where}: frames every {episode.stride} steps, decisions every {c}"
    every = c // episode.stride
    t = -(-episode.steps // c)
    rows = np.minimum(np.arange(t + 1) * every, episode.rows)
    padded = np.concatenate([episode.actions, np.repeat(episode.actions[-1:], t * c - episode.steps, axis=0)])
    tokens = alphabet.tokens(padded).reshape(t, c, -1)
    executed = np.minimum(c, episode.steps - c * np.arange(t)).astype(np.int16)
    frames = {name: _between(x, t, c) for name, x in episode.images.items()} if episode.stride == 1 else {}
    return Segment(
        assignment=Assignment(episode.task, max(episode.init_state, 0), 0),
        episode=-1,
        start=0,
        instruction=episode.instruction,
        images={name: x[rows] for name, x in episode.images.items()},
        proprio=episode.proprio[rows],
        tokens=tokens,
        logp=np.zeros(tokens.shape, np.float32),
        values=np.zeros(t, np.float32),
        rewards=np.zeros(t, np.float32),
        executed=executed,
        versions=np.full(t, RECORDED, np.int64),
        terminated=episode.success,
        truncated=not episode.success,
        frames=frames,
    )


def start_at(segment: Segment, i: int, spec: WorldSpec, alphabet: Alphabet) -> Start:
    """The context before decision `i` of a Segment: the world model's K frames, S control steps apart.

    Before an episode's first frame, and where a Segment has no frames between its decisions, the oldest is repeated.
    """
    now = i * alphabet.chunk
    wanted = now - spec.stride * np.arange(spec.context - 1, -1, -1)
    fine = bool(segment.frames) or spec.stride % alphabet.chunk == 0
    steps = np.maximum(wanted, 0) if fine else np.full(spec.context, now)
    actions = alphabet.actions(segment).reshape(-1, segment.tokens.shape[2])
    done = [actions[a:b] if fine and b > a else np.zeros((spec.stride, actions.shape[1]), np.float32)
            for a, b in pairwise(steps)]  # fmt: skip
    return Start(
        {c: np.stack([_frame(segment, c, int(step), alphabet.chunk) for step in steps]) for c in spec.cameras},
        np.stack([_body(segment, int(step), alphabet.chunk) for step in steps]),
        np.stack(done) if done else np.zeros((0, spec.stride, actions.shape[1]), np.float32),
        segment.assignment,
        segment.instruction,
        (segment.start + i) * alphabet.chunk,
    )


def _frame(segment: Segment, camera: str, step: int, chunk: int) -> np.ndarray:
    i, within = divmod(step, chunk)
    return segment.frames[camera][i, within - 1] if within else segment.images[camera][i]


def _body(segment: Segment, step: int, chunk: int) -> np.ndarray:
    """Proprioception after `step` control steps: known at decisions, on the line between them elsewhere."""
    i, within = divmod(step, chunk)
    if not within:
        return segment.proprio[i]
    share = within / chunk
    return (1 - share) * segment.proprio[i] + share * segment.proprio[i + 1]


def _every_frame(segment: Segment) -> dict[str, np.ndarray]:
    """uint8 [steps + 1, H, W, 3] a camera."""
    done = segment.executed
    return {
        name: np.concatenate([segment.images[name][:1], *(f[:n] for f, n in zip(frames, done, strict=True))])
        for name, frames in segment.frames.items()
    }


def _every_body(segment: Segment) -> np.ndarray:
    """float32 [steps + 1, P]: links carry proprioception at decisions only, so it is a line between them."""
    rows = [segment.proprio[:1]]
    for before, after, n in zip(segment.proprio[:-1], segment.proprio[1:], segment.executed, strict=True):
        rows.append(before + (after - before) * (np.arange(1, n + 1) / n)[:, None])
    return np.concatenate(rows).astype(np.float32)


def _between(frames: np.ndarray, decisions: int, chunk: int) -> np.ndarray:
    """[steps + 1, ...] -> [T, C, ...], the last frame repeated."""
    places = np.minimum(1 + np.arange(decisions * chunk), len(frames) - 1)
    return frames[places].reshape(decisions, chunk, *frames.shape[1:])


def start_of(episode: Kept, step: int, spec: WorldSpec) -> Start:
    """The context at a control step of a recorded episode; before its first frame that one is repeated."""
    steps = np.maximum(step - spec.stride * np.arange(spec.context - 1, -1, -1), 0)
    rows = steps // episode.stride
    zeros = np.zeros((spec.stride, episode.actions.shape[1]), np.float32)
    done = [padded(episode.actions[a:b], spec.stride) if b > a else zeros
            for a, b in pairwise(steps)]  # fmt: skip
    return Start(
        {c: episode.images[c][rows] for c in spec.cameras},
        episode.proprio[rows],
        np.stack(done) if done else np.zeros((0, *zeros.shape), np.float32),
        Assignment(episode.task, max(episode.init_state, 0), 0),
        episode.instruction,
        step,
    )


def padded(actions: np.ndarray, stride: int) -> np.ndarray:
    """The actions of a tick that may have been cut short, float32 [stride, D]; the last one is repeated."""
    return np.concatenate([actions, np.repeat(actions[-1:], stride - len(actions), axis=0)]).astype(np.float32)
