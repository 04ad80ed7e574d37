"""What one trajectory is, in memory (`Episode`) and in an HDF5 group; read this before any other file here.

Letters in shapes: T control steps, R observation rows (T, or one per decision), H x W pixels, P proprioception
entries, D action dimensions, n simulator state entries. `data/README.md` has the same schema in words.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import h5py
import hdf5plugin
import numpy as np

FORMAT = "acceerl-trajectories"
FORMAT_VERSION = 1
ALIGNMENT = "obs[t] before actions[t]"
PROPRIO = ("proprio",)
COMPRESSIONS = ("gzip", "blosc2", "none")
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
        floats = [*self._per_step(), ("obs/proprio", self.proprio)]
        return found + [f"{name}: holds NaN or infinity" for name, rows in floats if not np.isfinite(rows).all()]

    def _per_step(self) -> list[tuple[str, np.ndarray]]:
        optional = [("states", self.states), ("expert_actions", self.expert_actions)]
        return [("rewards", self.rewards), ("dones", self.dones), ("actions", self.actions)] + [
            (name, rows) for name, rows in optional if rows is not None
        ]

    def _per_row(self) -> list[tuple[str, np.ndarray]]:
        return [("obs/proprio", self.proprio)] + [(f"obs/{c}_rgb", frames) for c, frames in self.images.items()]


@dataclass(frozen=True)
class Layout:
    """How a file's rows map to ours: `shift` rows between an action and the observation before it, images flipped."""

    shift: int = 0
    upside_down: bool = False
    proprio: tuple[str, ...] = PROPRIO  # obs keys, concatenated
    instruction: str = ""  # of the whole file, where demos do not say


OURS = Layout()
LIBERO_PROPRIO = ("ee_states", "gripper_states")


def observation_rows(steps: int, stride: int) -> int:
    return -(-steps // stride)


def _length(name: str, rows: np.ndarray, expected: int) -> str:
    return f"{name}: {len(rows)} rows, expected {expected}"


def layout_of(data: h5py.Group) -> Layout | None:
    """The layout of a file's `data` group, None when it is neither ours nor LIBERO's.

    Raises ValueError when it is ours, of a format version that this code does not know.
    """
    if data.attrs.get("format") == FORMAT:
        version = int(data.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ValueError(f"format {version}, this acceerl reads {FORMAT_VERSION}: use the acceerl that wrote it")
        return OURS
    if "problem_info" not in data.attrs or not all("obs/agentview_rgb" in demo for demo in data.values()):
        return None
    words = json.loads(data.attrs["problem_info"]).get("language_instruction", "")
    return Layout(shift=1, upside_down=True, proprio=LIBERO_PROPRIO, instruction="".join(words).strip().strip('"'))


def image(env_args: str, problem_info: str, episode: Episode | None = None, compression: str = "none") -> memoryview:
    """The bytes of a file with no or one episode; both headers are JSON. Made in memory: a disk sees it whole."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        data = file.create_group("data")
        data.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, alignment=ALIGNMENT)
        data.attrs.update(env_args=env_args, problem_info=problem_info, num_demos=0, total=0)
        if episode is not None:
            _write_demo(data.create_group("demo_0"), episode, compression)
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


def _write_demo(demo: h5py.Group, episode: Episode, compression: str) -> None:
    for name, rows in episode._per_step():
        dtype = {"dones": np.uint8, "states": np.float64}.get(name, np.float32)
        demo.create_dataset(name, data=np.asarray(rows, dtype))
    demo.create_dataset("obs/proprio", data=np.asarray(episode.proprio, np.float32))
    demo.create_dataset("final_obs/proprio", data=np.asarray(episode.final_proprio, np.float32)[None])
    for camera, frames in episode.images.items():
        _write_frames(demo, f"obs/{camera}_rgb", frames, compression)
        _write_frames(demo, f"final_obs/{camera}_rgb", episode.final_images[camera][None], compression)
    demo.attrs["num_samples"] = len(episode)
    for name, kind in FACTS.items():
        demo.attrs[name] = kind(getattr(episode, name))


def _write_frames(demo: h5py.Group, name: str, frames: np.ndarray, compression: str) -> None:
    """One frame a chunk: a random frame then costs one small read instead of a whole episode."""
    demo.create_dataset(name, data=frames, chunks=(1, *frames.shape[1:]), **filters(compression))


def filters(compression: str) -> dict[str, Any]:
    """h5py keywords. gzip is read by plain tools; blosc2 is faster and needs the hdf5plugin filters."""
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    if compression == "blosc2":
        return dict(
            hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.NOFILTER)
        )  # bytes do not shuffle
    if compression == "none":
        return {}
    raise ValueError(f"compression {compression!r} is unknown: choose one of {', '.join(COMPRESSIONS)}")


def steps_of(demo: h5py.Group, layout: Layout) -> int:
    return int(demo["actions"].shape[0]) - layout.shift


def read_demo(demo: h5py.Group, layout: Layout) -> Episode:
    """A whole trajectory, [T - 1] steps of a LIBERO demo: its first action has no observation before it."""
    rows = observation_rows(steps_of(demo, layout), stride_of(demo))
    obs, cameras = demo["obs"], cameras_of(demo)
    final, last = (demo["final_obs"], 0) if "final_obs" in demo else (obs, rows)
    return Episode(
        images={camera: frames_of(obs, camera, slice(0, rows), layout) for camera in cameras},
        proprio=proprio_of(obs, slice(0, rows), layout),
        actions=read_steps(demo, "actions", layout),
        rewards=read_steps(demo, "rewards", layout),
        dones=read_steps(demo, "dones", layout),
        final_images={camera: frames_of(final, camera, last, layout) for camera in cameras},
        final_proprio=proprio_of(final, last, layout),
        states=_if_there(demo, "states", layout),
        expert_actions=_if_there(demo, "expert_actions", layout),
        **facts_of(demo, layout),
    )


def _if_there(demo: h5py.Group, name: str, layout: Layout) -> np.ndarray | None:
    return read_steps(demo, name, layout) if name in demo else None


def stride_of(demo: h5py.Group) -> int:
    return int(demo.attrs.get("decision_stride", 1))


def read_steps(demo: h5py.Group, name: str, layout: Layout, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows `start` to `stop` (our control steps) of a per-step dataset, in our dtype."""
    end = None if stop is None else stop + layout.shift
    dtype = {"dones": np.uint8, "states": np.float64}.get(name, np.float32)
    return np.asarray(demo[name][start + layout.shift : end], dtype)


def cameras_of(demo: h5py.Group) -> list[str]:
    return [name.removesuffix("_rgb") for name in demo["obs"] if name.endswith("_rgb")]


def frames_of(obs: h5py.Group, camera: str, rows: int | slice, layout: Layout) -> np.ndarray:
    """uint8 [..., H, W, 3], right side up."""
    return upright(obs[f"{camera}_rgb"][rows], layout.upside_down)


def upright(frames: np.ndarray, upside_down: bool) -> np.ndarray:
    return np.ascontiguousarray(frames[..., ::-1, :, :]) if upside_down else frames


def proprio_of(obs: h5py.Group, rows: int | slice, layout: Layout) -> np.ndarray:
    """float32 [..., P]"""
    return np.concatenate([np.asarray(obs[key][rows], np.float32) for key in layout.proprio], axis=-1)


def facts_of(demo: h5py.Group, layout: Layout) -> dict[str, Any]:
    """An Episode's scalars. LIBERO says none of them: its demos are expert successes by construction."""
    if layout == OURS:
        return {name: kind(demo.attrs[name]) for name, kind in FACTS.items()}
    solved = bool(demo["dones"][-1])
    return {"instruction": layout.instruction, "success": solved, "terminated": solved, "source": "expert"}
