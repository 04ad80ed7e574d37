"""Small episodes, segments and files whose numbers say where they belong: frame t is filled with t."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from acceerl.stores.schema import Episode
from acceerl.types import Assignment, Segment

CAMERAS = ("front", "wrist")


def frames(times: Any, size: int = 8) -> np.ndarray:
    """uint8 [len(times), size, size, 3]: the frame of time t is t everywhere, save its top row, which is 255."""
    grown = np.repeat(np.asarray(times, np.uint8), size * size * 3).reshape(-1, size, size, 3)
    grown[:, 0] = 255
    return grown


def episode(steps: int = 5, *, stride: int = 1, task: int = 0, success: bool = True, **changes: Any) -> Episode:
    times = np.arange(0, steps, stride)
    last = np.arange(steps) == steps - 1
    values: dict[str, Any] = {
        "images": {camera: frames(times) for camera in CAMERAS},
        "proprio": np.repeat(times[:, None], 4, 1).astype(np.float32),
        "actions": np.repeat(np.arange(steps)[:, None], 7, 1).astype(np.float32),
        "rewards": (last & success).astype(np.float32),
        "dones": last.astype(np.uint8),
        "final_images": {camera: frames([steps])[0] for camera in CAMERAS},
        "final_proprio": np.full(4, steps, np.float32),
        "instruction": f"task number {task}",
        "task": task,
        "init_state": 3,
        "seed": 11,
        "success": success,
        "terminated": success,
        "truncated": not success,
        "policy_version": 2,
        "decision_stride": stride,
        "states": np.repeat(np.arange(steps)[:, None], 6, 1).astype(np.float64),
    }
    return Episode(**(values | changes))


def equal(one: Episode, other: Episode) -> bool:
    return all(_same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def libero_file(path: Path, rows: int = 5, demos: int = 2) -> Path:
    """LIBERO's published layout: row t holds action t, the state before it and the image *after* it, upside down."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
        data.attrs["env_args"] = json.dumps({"env_name": "Libero"})
        data.attrs.update(num_demos=demos, total=demos * rows, bddl_file_name="open_the_drawer.bddl")
        for i in range(demos):
            _libero_demo(data.create_group(f"demo_{i}"), rows)
    return path


def _libero_demo(demo: h5py.Group, rows: int) -> None:
    before, after = np.arange(rows), np.arange(1, rows + 1)
    demo["actions"] = np.repeat(before[:, None], 7, 1).astype(np.float64)
    demo["states"] = np.repeat(before[:, None], 6, 1).astype(np.float64)
    demo["rewards"] = demo["dones"] = (before == rows - 1).astype(np.uint8)
    demo["obs/agentview_rgb"] = demo["obs/eye_in_hand_rgb"] = frames(after)[:, ::-1]
    demo["obs/ee_states"] = np.repeat(after[:, None], 6, 1).astype(np.float64)
    demo["obs/gripper_states"] = np.repeat(after[:, None], 2, 1).astype(np.float64)


def segment(decisions: int = 2, *, number: int = 0, size: int = 8) -> Segment:
    """Every array holds `number`."""

    def full(*shape: int, dtype: str) -> np.ndarray:
        return np.full(shape, number, dtype)

    return Segment(
        Assignment(task=1, init_state=2, seed=3),
        episode=number,
        start=0,
        instruction="öffne die Schublade",
        images={camera: full(decisions + 1, size, size, 3, dtype="u1") for camera in CAMERAS},
        proprio=full(decisions + 1, 4, dtype="f4"),
        tokens=full(decisions, 8, 7, dtype="i2"),
        logp=full(decisions, 8, 7, dtype="f4"),
        values=full(decisions, dtype="f4"),
        rewards=full(decisions, dtype="f4"),
        executed=full(decisions, dtype="i2"),
        versions=full(decisions, dtype="i8"),
        terminated=True,
        truncated=False,
    )
