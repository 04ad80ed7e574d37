"""The simulator as a witness: do the images show the stored states, and what would other cameras have seen?

Any environment can testify whose `set_state` takes the states that the file holds: for episodes that acceerl recorded,
the one that recorded them. LIBERO's published files hold MuJoCo's state without the controller's, and the places of
fixtures elsewhere: LiberoEnv's `set_simulator_state` takes both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from acceerl.config import Config
from acceerl.jobs.build import make_env
from acceerl.protocols import Env
from acceerl.stores.schema import Episode
from acceerl.types import Observation

LOOKS = 6  # rows of an episode that are drawn
BESIDE = 8  # rows before and after a drawn one, whose images might fit better
MOVED = 8  # grey levels by which a pixel must change in these rows to tell one from the other
FAINT = 0.5  # grey levels; smaller differences say nothing
WORSE = 1.5  # a neighbour's image fits better by this factor before it is believed
ALIKE = 6.0  # grey levels: mean difference of two renderings of one state by other drivers or meshes


def witness(config: Config) -> Env:
    """The environment that draws. Raises ValueError, too, where its simulator is not installed."""
    try:
        return make_env(config)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def drawn_anew(env: Env, episode: Episode, name: str) -> Episode:
    """The episode with this environment's cameras. Raises ValueError when it does not take the states."""
    if episode.states is None:
        raise ValueError(f"{name} holds no states to draw from")
    rows = range(0, len(episode), episode.decision_stride)
    seen = [_shown(env, episode, t, name) for t in rows]
    _restore(env, episode, len(episode) - 1, name)
    env.step(episode.actions[-1])
    last = env.observe()
    return dataclasses.replace(
        episode,
        images={camera: np.stack([o.images[camera] for o in seen]) for camera in last.images},
        proprio=np.stack([o.proprio for o in seen]),
        final_images=last.images,
        final_proprio=last.proprio,
    )


def alignment(env: Env, episode: Episode, name: str) -> list[tuple[str, str]]:
    """(field, message) of images that show another state than the one stored beside them, or are turned.

    Empty when the episode holds no states. Raises ValueError when the environment does not take them.
    """
    if episode.states is None:
        return []
    rows = len(episode.proprio)
    chosen = np.unique(np.linspace(0, rows - 1, min(LOOKS, rows)).astype(int))
    shown = {int(row): _shown(env, episode, int(row) * episode.decision_stride, name).images for row in chosen}
    cameras = sorted(set(episode.images) & set(next(iter(shown.values()))))
    return [found for camera in cameras for found in _compared(camera, episode.images[camera], shown)]


def _compared(camera: str, frames: np.ndarray, shown: dict[int, dict[str, np.ndarray]]) -> list[tuple[str, str]]:
    """Of the stored images as they are, turned, and of the rows beside; `shown` has the drawn images by row."""
    field, drawn = f"obs/{camera}_rgb", {row: images[camera] for row, images in shown.items()}
    if frames.shape[1:] != next(iter(drawn.values())).shape:
        return [(field, f"{frames.shape[1]} pixels high, the environment draws others: give it the same image_size")]
    others = {
        "are upside down": frames[:, ::-1],
        "are mirrored": frames[:, :, ::-1],
        "are turned by 180 degrees": frames[:, ::-1, ::-1],
    }
    own = _difference(frames, drawn)
    how, best = min(((how, _difference(turned, drawn)) for how, turned in others.items()), key=lambda fit: fit[1])
    if own > WORSE * best and own > FAINT:
        return [(field, f"{how} (mean difference {own:.1f} grey levels, {best:.1f} then)")]
    if late := _late(frames, drawn):
        return [(field, late)]
    return [(field, f"do not show the stored states (mean difference {own:.1f} grey levels)")] if own > ALIKE else []


def _difference(frames: np.ndarray, drawn: dict[int, np.ndarray]) -> float:
    return float(np.mean([np.abs(frames[row].astype(np.int16) - image).mean() for row, image in drawn.items()]))


def _late(frames: np.ndarray, drawn: dict[int, np.ndarray]) -> str:
    """What is wrong when images of other rows fit the drawn ones better than their own; empty when none does."""
    moving = {row: moves for row in drawn if (moves := _moving(frames, row)).any()}
    fits = [(by, *_fit(frames, drawn, moving, by)) for by in range(-BESIDE, BESIDE + 1) if by]
    better = [(by, own, beside) for by, own, beside in fits if own > WORSE * beside and own > FAINT]
    if not better:
        return ""
    by, own, beside = min(better, key=lambda fit: (fit[2] / fit[1], abs(fit[0])))
    rows = "one row" if abs(by) == 1 else f"{abs(by)} rows"
    after = ": obs[t] was taken after actions[t]" if by == -1 else ""
    numbers = f"mean difference where it moves {own:.1f} grey levels, {beside:.1f} then"
    return f"show the state {rows} {'later' if by < 0 else 'earlier'}{after} ({numbers})"


def _moving(frames: np.ndarray, row: int) -> np.ndarray:
    """bool [H, W]: pixels that change around a row. Most of a picture stays the same, and tells nothing about time."""
    around = frames[max(0, row - BESIDE) : row + BESIDE + 1]
    return np.asarray((around.max(0) - around.min(0)).max(-1) > MOVED)


def _fit(
    frames: np.ndarray, drawn: dict[int, np.ndarray], moving: dict[int, np.ndarray], by: int
) -> tuple[float, float]:
    """Mean differences where it moves: of drawn images and those stored in their rows, and in the rows `by` later."""
    rows = [row for row in moving if 0 <= row + by < len(frames)]

    def difference(shift: int) -> float:
        pairs = [(frames[row + shift][moving[row]], drawn[row][moving[row]]) for row in rows]
        return float(np.concatenate([np.abs(a.astype(np.int16) - b).ravel() for a, b in pairs]).mean())

    return (difference(0), difference(by)) if rows else (0.0, 0.0)


def _shown(env: Env, episode: Episode, step: int, name: str) -> Observation:
    _restore(env, episode, step, name)
    return env.observe()


def _restore(env: Env, episode: Episode, step: int, name: str) -> None:
    assert episode.states is not None
    refused = _restore_foreign(env, episode, step)
    if not refused:
        return
    try:
        env.set_state(episode.states[step])
    except (ValueError, TypeError, IndexError) as error:  # MuJoCo's own complaint about a wrong size is a TypeError
        why = f"{error}; {refused}" if hasattr(env, "set_simulator_state") else str(error)
        raise ValueError(
            f"{name}: {type(env).__name__} does not take its states ({why}): name the env and suite that recorded it"
        ) from error


def _restore_foreign(env: Any, episode: Episode, step: int) -> str:
    """Why the environment does not take the state as one of the simulator alone; empty when it has taken it."""
    if not hasattr(env, "set_simulator_state"):
        return "it takes its own alone"
    assert episode.states is not None
    try:
        task = _task(env, episode)
        env.set_simulator_state(task, episode.states[step], episode.fixtures, episode.actions[:step])
    except ValueError as error:
        return str(error)
    return ""


def _task(env: Env, episode: Episode) -> int:
    """By number and words, or by words alone: files of others do not say the number."""
    named = [task for task, words in enumerate(env.spec.instructions) if words == episode.instruction]
    if episode.task in named:
        return episode.task
    if len(named) != 1:
        raise ValueError(f"{'several tasks are' if named else 'no task is'} called {episode.instruction!r} there")
    return named[0]
