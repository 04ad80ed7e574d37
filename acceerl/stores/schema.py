"""What one trajectory is, in memory (`Episode`) and as we write it to HDF5; read this before any other file here.

Letters in shapes: T control steps, R observation rows (T, or one per decision), H x W pixels, P proprioception
entries, D action dimensions, n simulator state entries. `data/README.md` has the same schema in words.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import h5py
import hdf5plugin
import numpy as np

FORMAT = "acceerl-trajectories"
FORMAT_VERSION = 1
ALIGNMENT = "obs[t] before actions[t]"
PROPRIO = ("proprio",)
NOT_FINITE = "holds NaN or infinity"
COMPRESSIONS = ("gzip", "blosc2", "none")
SEVERAL, SLICE = 4, 28_000  # frames a chunk of a camera that stands still, and bytes of each: deflate sees 32,768 back
UNCHANGED = 0.5
FACTS = {  # attributes of data/demo_N besides num_samples: Episode field -> type
    "instruction": str,
    "task": int,
    "init_state": int,
    "seed": int,
    "success": bool,
    "terminated": bool,
    "truncated": bool,
    "policy_version": int,
    "source": str,
    "decision_stride": int,
}


@dataclass
class Episode:
    """One trajectory; row t of `images` and `proprio` was seen before `actions[t * decision_stride]`.

    `actions` are those executed; `expert_actions`, where present, are the clean labels beside noisy ones.
    Unknown integers (task, init_state, seed, policy_version) are -1.

    >>> frames = np.zeros((2, 8, 8, 3), np.uint8)
    >>> Episode({"front": frames}, np.zeros((2, 4)), np.zeros((2, 7)), np.zeros(2), np.array([0, 1]),
    ...         {"front": frames[0]}, np.zeros(4), "open the drawer").problems()
    []
    """

    images: dict[str, np.ndarray]  # camera -> uint8 [R, H, W, 3], right side up
    proprio: np.ndarray  # float32 [R, P]
    actions: np.ndarray  # float32 [T, D]
    rewards: np.ndarray  # float32 [T]
    dones: np.ndarray  # uint8 [T], 1 where the episode ended
    final_images: dict[str, np.ndarray]  # camera -> uint8 [H, W, 3], after the last action
    final_proprio: np.ndarray  # float32 [P]
    instruction: str
    task: int = -1
    init_state: int = -1
    seed: int = -1
    success: bool = False
    terminated: bool = False
    truncated: bool = False
    policy_version: int = -1
    source: str = "policy"  # "policy" or "expert"
    decision_stride: int = 1  # control steps between observation rows
    states: np.ndarray | None = None  # float64 [T, n], before each action
    expert_actions: np.ndarray | None = None  # float32 [T, D]
    # position (m) and quaternion of bodies that stand still, where `states` leave their places out (LIBERO's files)
    fixtures: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    def problems(self) -> list[str]:
        """What is inconsistent, one line each; empty when the episode can be written."""
        found = [] if len(self) else ["actions: an episode needs at least one step"]
        found += [_length(name, rows, len(self)) for name, rows in self._per_step() if len(rows) != len(self)]
        rows = observation_rows(len(self), self.decision_stride)
        found += [_length(name, have, rows) for name, have in self._per_row() if len(have) != rows]
        if set(self.images) != set(self.final_images):
            found.append(f"final_obs: cameras {sorted(self.final_images)} differ from obs {sorted(self.images)}")
        found += [f"obs/{c}_rgb: {x.dtype} is not uint8" for c, x in self.images.items() if x.dtype != np.uint8]
        floats = [*self._per_step(), ("obs/proprio", self.proprio), ("final_obs/proprio", self.final_proprio)]
        return found + [f"{name}: {NOT_FINITE}" for name, rows in floats if not np.isfinite(rows).all()]

    def _per_step(self) -> list[tuple[str, np.ndarray]]:
        optional = [("states", self.states), ("expert_actions", self.expert_actions)]
        return [("rewards", self.rewards), ("dones", self.dones), ("actions", self.actions)] + [
            (name, rows) for name, rows in optional if rows is not None
        ]

    def _per_row(self) -> list[tuple[str, np.ndarray]]:
        return [("obs/proprio", self.proprio)] + [(f"obs/{c}_rgb", frames) for c, frames in self.images.items()]


def observation_rows(steps: int, stride: int) -> int:
    return -(-steps // stride)


def _length(name: str, rows: np.ndarray, expected: int) -> str:
    return f"{name}: {len(rows)} rows, expected {expected}"


def image(
    env_args: str, problem_info: str, episode: Episode | None = None, compression: str = "none", frames_a_chunk: int = 0
) -> memoryview:
    """The bytes of a file with no or one episode; both headers are JSON. Made in memory: a disk sees it whole."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        data = file.create_group("data")
        data.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, alignment=ALIGNMENT)
        data.attrs.update(env_args=env_args, problem_info=problem_info, num_demos=0, total=0)
        if episode is not None:
            _write_demo(data.create_group("demo_0"), episode, compression, frames_a_chunk)
            _count(data, len(episode))
    return content.getbuffer()


def link(data: h5py.Group, demo: h5py.Group) -> None:
    """Copies a demo of another file under the next number, chunks as they are."""
    data.copy(demo, data, f"demo_{data.attrs['num_demos']}")
    _count(data, int(demo.attrs["num_samples"]))


def _count(data: h5py.Group, steps: int) -> None:
    data.attrs["num_demos"] = int(data.attrs["num_demos"]) + 1
    data.attrs["total"] = int(data.attrs["total"]) + steps


def number_of(demo: str) -> int:
    return int(demo.removeprefix("demo_"))


def _write_demo(demo: h5py.Group, episode: Episode, compression: str, frames_a_chunk: int) -> None:
    for name, rows in episode._per_step():
        dtype = {"dones": np.uint8, "states": np.float64}.get(name, np.float32)
        demo.create_dataset(name, data=np.asarray(rows, dtype))
    demo.create_dataset("obs/proprio", data=np.asarray(episode.proprio, np.float32))
    demo.create_dataset("final_obs/proprio", data=np.asarray(episode.final_proprio, np.float32)[None])
    for camera, frames in episode.images.items():
        _write_frames(demo, f"obs/{camera}_rgb", frames, compression, frames_a_chunk)
        _write_frames(demo, f"final_obs/{camera}_rgb", episode.final_images[camera][None], compression, 1)
    demo.attrs["num_samples"] = len(episode)
    for name, kind in FACTS.items():
        demo.attrs[name] = kind(getattr(episode, name))
    if episode.fixtures:
        demo.attrs["fixtures"] = json.dumps(episode.fixtures)


def _write_frames(demo: h5py.Group, name: str, frames: np.ndarray, compression: str, a_chunk: int) -> None:
    chunks = chunks_of(frames, a_chunk if compression != "none" else 1)
    demo.create_dataset(name, data=frames, chunks=chunks, **filters(compression))


def chunks_of(frames: np.ndarray, a_chunk: int) -> tuple[int, ...]:
    """How frames are cut. One frame a chunk makes a random frame one small read; `a_chunk` 0 decides by the images.

    A camera that stands still shows nearly the same from frame to frame, but deflate sees 32 kB back, less than one
    frame. In chunks of SEVERAL frames, SLICE bytes of each, the frame before is near enough: a third of the bytes, and
    half of the time for a row of frames, though more for a single one. A camera that moves gains nothing.
    """
    height, width = frames.shape[1:3]
    deep = a_chunk or (SEVERAL if stands_still(frames) else 1)
    if min(deep, len(frames)) == 1:
        return (1, *frames.shape[1:])
    rows = 1 << max(0, (SLICE // (3 * width)).bit_length() - 1)
    return (min(deep, len(frames)), min(rows, height), *frames.shape[2:])


def stands_still(frames: np.ndarray) -> bool:
    """Do most bytes stay the same between neighbouring frames? Asked of a few pairs."""
    chosen = np.linspace(0, max(0, len(frames) - 2), min(8, len(frames) - 1)).astype(int)
    return len(chosen) > 0 and float(np.mean(frames[chosen] == frames[chosen + 1])) > UNCHANGED


def filters(compression: str) -> dict[str, Any]:
    """h5py keywords. gzip is read by plain tools; blosc2 is faster and needs the hdf5plugin filters."""
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    if compression == "blosc2":
        return dict(
            hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.NOFILTER)
        )  # bytes do not shuffle
    if compression == "none":
        return {}
    raise ValueError(f"compression {compression!r} is unknown: choose one of {', '.join(COMPRESSIONS)}")
