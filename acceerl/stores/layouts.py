"""How other people's HDF5 files map to an `Episode`: alignment, orientation, names. Read it before you trust a file.

| kind | written by | rows | images |
|---|---|---|---|
| acceerl | us | obs[t] before actions[t], the last one in final_obs | right side up |
| libero | LIBERO's published demonstrations | obs[t] after actions[t] | upside down |
| regenerated | OpenVLA's regenerate_libero_dataset.py | obs[t] before actions[t], none after the last | upside down |
| robomimic | robomimic's dataset_states_to_obs.py | obs[t] before actions[t], next_obs[t] after | right side up |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from acceerl.stores.schema import FACTS, FORMAT, FORMAT_VERSION, PROPRIO, Episode, observation_rows

FLIPS = ("none", "rows", "columns", "both")  # how a file's images are turned against ours
LIBERO = ("libero", "regenerated")  # kinds of files that hold LIBERO's images as it draws them
LIBERO_PROPRIO = ("ee_states", "gripper_states")
ROBOMIMIC_PROPRIO = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
NAMES = {"eye_in_hand": "wrist", "robot0_eye_in_hand": "wrist"}  # of cameras, as LIBERO's environment here has them
CAMERA = re.compile(r"(.+)_(rgb|image)")
SCENE = re.compile(r"[A-Z_]+SCENE\d+_")


@dataclass(frozen=True)
class Layout:
    """One file's conventions. `shift`: rows from an observation to the action that followed it; `cut`: last actions
    that no observation follows."""

    kind: str = "acceerl"
    shift: int = 0
    cut: int = 0
    flip: str = "none"
    cameras: tuple[tuple[str, str], ...] = ()  # (key under obs, our name of the camera)
    proprio: tuple[str, ...] = PROPRIO  # keys under obs, concatenated
    next_obs: bool = False
    instruction: str = ""  # of the whole file, where demos do not say

    @property
    def ours(self) -> bool:
        return self.kind == "acceerl"


def layout_of(path: Path, data: h5py.Group) -> Layout | None:
    """The layout of a file's `data` group, None when it is unknown.

    Raises ValueError when it is ours, of a format version that this code does not know, or has no observations.
    """
    keys = sorted({key for demo in _groups(data) for key in demo.get("obs", ())})
    cameras = tuple((key, _camera(key)) for key in keys if CAMERA.fullmatch(key))
    if data.attrs.get("format") == FORMAT:
        return _ours(data, keys)
    if "agentview_rgb" in keys:
        return _libero(path, data, cameras)
    if "env_args" not in data.attrs:
        return None
    if not cameras:
        raise ValueError(
            "robomimic's layout without images: make them from its states first (robomimic's dataset_states_to_obs.py)"
        )
    return _robomimic(data, keys, cameras)


def _groups(data: h5py.Group) -> list[h5py.Group]:
    """The demos; what is no group is a fault that structure.py names."""
    return [demo for demo in data.values() if isinstance(demo, h5py.Group)]


def _ours(data: h5py.Group, keys: Iterable[str]) -> Layout:
    version = int(data.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise ValueError(f"format {version}, this acceerl reads {FORMAT_VERSION}: use the acceerl that wrote it")
    return Layout(cameras=tuple((key, key.removesuffix("_rgb")) for key in keys if key.endswith("_rgb")))


def _libero(path: Path, data: h5py.Group, cameras: tuple[tuple[str, str], ...]) -> Layout:
    """Only the published files carry `problem_info`; the regenerated ones carry nothing, their name is the task.

    The instruction is the benchmark's, which is made from the name of the task. `problem_info` has the BDDL file's own
    words, other ones in three suites of four ("Pick the akita black bowl ..."): no policy is evaluated with those.
    """
    task = Path(str(data.attrs.get("bddl_file_name", ""))).stem or path.stem.removesuffix("_demo")
    words = SCENE.sub("", task).replace("_", " ")
    if "problem_info" not in data.attrs:
        return Layout("regenerated", 0, 1, "rows", cameras, LIBERO_PROPRIO, instruction=words)
    return Layout("libero", 1, 0, "rows", cameras, LIBERO_PROPRIO, instruction=words)


def _robomimic(data: h5py.Group, keys: Iterable[str], cameras: tuple[tuple[str, str], ...]) -> Layout:
    next_obs = all("next_obs" in demo for demo in _groups(data))
    name = str(json.loads(data.attrs["env_args"]).get("env_name", ""))
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()  # PickPlaceCan: pick place can
    proprio = tuple(key for key in ROBOMIMIC_PROPRIO if key in keys)
    return Layout("robomimic", 0, 0 if next_obs else 1, "none", cameras, proprio, next_obs, words)


def _camera(key: str) -> str:
    match = CAMERA.fullmatch(key)
    name = match[1] if match else key
    return NAMES.get(name, name)


def steps_of(demo: h5py.Group, layout: Layout) -> int:
    return max(0, int(demo["actions"].shape[0]) - layout.shift - layout.cut)


def stride_of(demo: h5py.Group) -> int:
    return int(demo.attrs.get("decision_stride", 1))


def read_demo(demo: h5py.Group, layout: Layout) -> Episode:
    """A whole trajectory; T - 1 steps where the first action has no observation before it, or the last none after."""
    rows = observation_rows(steps_of(demo, layout), stride_of(demo))
    obs, (final, last) = demo["obs"], final_of(demo, layout, rows)
    return Episode(
        images={name: frames_of(obs, key, slice(0, rows), layout) for key, name in layout.cameras},
        proprio=proprio_of(obs, slice(0, rows), layout),
        actions=read_steps(demo, "actions", layout),
        rewards=read_steps(demo, "rewards", layout),
        dones=read_steps(demo, "dones", layout),
        final_images={name: frames_of(final, key, last, layout) for key, name in layout.cameras},
        final_proprio=proprio_of(final, last, layout),
        states=read_steps(demo, "states", layout) if "states" in demo else None,
        expert_actions=read_steps(demo, "expert_actions", layout) if "expert_actions" in demo else None,
        fixtures=fixtures_of(demo, layout),
        **facts_of(demo, layout),
    )


def final_of(demo: h5py.Group, layout: Layout, rows: int) -> tuple[h5py.Group, int]:
    """Group and row of the observation after the last action."""
    if layout.ours:
        return demo["final_obs"], 0
    return (demo["next_obs"], rows - 1) if layout.next_obs else (demo["obs"], rows)


def read_steps(demo: h5py.Group, name: str, layout: Layout) -> np.ndarray:
    """A per-step dataset as our control steps, in our dtype. What a cut last step earned is given to the one before."""
    dtype = {"dones": np.uint8, "states": np.float64}.get(name, np.float32)
    rows = np.asarray(demo[name][layout.shift :], dtype)
    kept = rows[: len(rows) - layout.cut]
    if layout.cut and len(kept) and name in ("rewards", "dones"):
        kept[-1] = max(kept[-1], rows[-1])
    return kept


def frames_of(obs: h5py.Group, key: str, rows: int | slice, layout: Layout) -> np.ndarray:
    """uint8 [..., H, W, 3], right side up."""
    return upright(obs[key][rows], layout.flip)


def upright(frames: np.ndarray, flip: str) -> np.ndarray:
    """[..., H, W, 3] turned back."""
    if flip in ("rows", "both"):
        frames = frames[..., ::-1, :, :]
    if flip in ("columns", "both"):
        frames = frames[..., ::-1, :]
    return np.ascontiguousarray(frames)


def proprio_of(obs: h5py.Group, rows: int | slice, layout: Layout) -> np.ndarray:
    """float32 [..., P]"""
    return np.concatenate([np.asarray(obs[key][rows], np.float32) for key in layout.proprio], axis=-1)


def facts_of(demo: h5py.Group, layout: Layout) -> dict[str, Any]:
    """An Episode's scalars. Others' files say few: their demos are an expert's, and the last row tells success."""
    if layout.ours:
        return {name: kind(demo.attrs[name]) for name, kind in FACTS.items()}
    solved = bool(demo["rewards"][()].any()) if layout.kind == "robomimic" else bool(demo["dones"][-1:].any())
    words = json.loads(demo.attrs.get("ep_meta", "{}")).get("lang", "") or layout.instruction
    return {"instruction": words, "success": solved, "terminated": solved, "truncated": not solved, "source": "expert"}


def fixtures_of(demo: h5py.Group, layout: Layout) -> dict[str, list[float]]:
    """Places of what stands still: LIBERO draws them for each demo and keeps them in its MuJoCo model alone.

    Raises ValueError or TypeError for JSON of ours that holds something else.
    """
    if layout.ours:
        places = json.loads(demo.attrs.get("fixtures", "{}"))
        return {str(body): [float(number) for number in place] for body, place in dict(places).items()}
    return still_bodies(str(demo.attrs.get("model_file", "")))


def still_bodies(model: str) -> dict[str, list[float]]:
    """Position and quaternion of the bodies of MuJoCo's XML that are fixed to the world; none where it has no XML."""
    try:
        world = ElementTree.fromstring(model).find("worldbody") if model else None
    except ElementTree.ParseError:
        return {}
    bodies = [] if world is None else world.findall("body")
    return {body.get("name", ""): _pose(body) for body in bodies if not _moves(body) and body.get("name")}


def _moves(body: ElementTree.Element) -> bool:
    return body.find("freejoint") is not None or body.find("joint") is not None


def _pose(body: ElementTree.Element) -> list[float]:
    return [float(number) for number in f"{body.get('pos', '0 0 0')} {body.get('quat', '1 0 0 0')}".split()]
