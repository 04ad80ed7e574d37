"""Small files as other projects write them; as in examples.py, what belongs to time t holds t."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.unit.stores.examples import frames


def regenerated_file(path: Path, rows: int = 5, demos: int = 2) -> Path:
    """OpenVLA's script: row t holds what was seen before action t, upside down; no attributes at all."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i in range(demos):
            demo, times = data.create_group(f"demo_{i}"), np.arange(rows)
            _steps(demo, times)
            demo["obs/agentview_rgb"] = demo["obs/eye_in_hand_rgb"] = frames(times)[:, ::-1]
            demo["obs/ee_states"] = np.repeat(times[:, None], 6, 1).astype(np.float64)
            demo["obs/gripper_states"] = np.repeat(times[:, None], 2, 1).astype(np.float64)
    return path


def robomimic_file(path: Path, rows: int = 5, demos: int = 2, next_obs: bool = True) -> Path:
    """robomimic's dataset_states_to_obs.py: right side up, obs before and next_obs after every action."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_kwargs": {}})
        for i in range(demos):
            demo, times = data.create_group(f"demo_{i}"), np.arange(rows)
            demo.attrs["num_samples"] = rows
            _steps(demo, times)
            for group, seen in (("obs", times), ("next_obs", times + 1))[: 1 + next_obs]:
                for key in ("agentview_image", "robot0_eye_in_hand_image"):
                    demo.create_dataset(f"{group}/{key}", data=frames(seen), chunks=True, compression="gzip")
                for key, width in (("robot0_eef_pos", 3), ("robot0_eef_quat", 4), ("robot0_gripper_qpos", 2)):
                    demo[f"{group}/{key}"] = np.repeat(seen[:, None], width, 1).astype(np.float64)
    return path


def _steps(demo: h5py.Group, times: np.ndarray) -> None:
    last = (times == times[-1]).astype(np.uint8)
    demo["actions"] = np.repeat(times[:, None], 7, 1).astype(np.float64)
    demo["states"] = np.repeat(times[:, None], 6, 1).astype(np.float64)
    demo["rewards"], demo["dones"] = last, last


def lerobot_folder(path: Path, version: str = "v2.1", rows: int = 5, episodes: int = 2, video: bool = False) -> Path:
    """A LeRobot data set of the old kind (a file an episode) or the new; images as PNG in the Parquet files, or films,
    whose frames are `16 * t` grey in episode 0 and 8 more in episode 1."""
    import pyarrow.parquet as parquet  # type: ignore[import-not-found]

    old, shape = version.startswith("v2"), [3, 64, 64] if video else [8, 8, 3]
    info: dict[str, Any] = {
        "codebase_version": version, "fps": 20, "chunks_size": 1000, "total_episodes": episodes,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet" if old
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/episode_{episode_index:06d}.mp4" if old
        else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.images.image": {"dtype": "video" if video else "image", "shape": shape},
            "observation.state": {"dtype": "float32", "shape": [4]},
            "action": {"dtype": "float32", "shape": [7]},
        },
    }  # fmt: skip
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (path / folder).mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    tables = [_lerobot_rows(i, rows) for i in range(episodes)]
    if video:
        _films(path / "videos/observation.images.image", rows, episodes, old)
    about = [{"episode_index": i, "tasks": [f"task number {i}"], "length": rows} for i in range(episodes)]
    tasks = [{"task_index": i, "task": f"task number {i}"} for i in range(episodes)]
    if old:
        for i, table in enumerate(tables):
            parquet.write_table(_table(table), path / f"data/chunk-000/episode_{i:06d}.parquet")
        (path / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, about)) + "\n")
        (path / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)) + "\n")
        return path
    parquet.write_table(_table([row for table in tables for row in table]), path / "data/chunk-000/file-000.parquet")
    film = "videos/observation.images.image"
    first = {"data/chunk_index": 0, "data/file_index": 0, f"{film}/chunk_index": 0, f"{film}/file_index": 0}
    placed = [{**row, **first, f"{film}/from_timestamp": row["episode_index"] * rows / 20} for row in about]
    parquet.write_table(_table(placed), path / "meta/episodes/chunk-000/file-000.parquet")
    parquet.write_table(_table(tasks), path / "meta/tasks.parquet")
    return path


def _lerobot_rows(episode: int, rows: int) -> list[dict[str, Any]]:
    return [
        {
            "observation.images.image": {"bytes": _png(frames([t])[0]), "path": None},
            "observation.state": [float(t)] * 4,
            "action": [float(t)] * 7,
            "episode_index": episode,
            "frame_index": t,
            "task_index": episode,
        }
        for t in range(rows)
    ]


def _films(folder: Path, rows: int, episodes: int, old: bool) -> None:
    import imageio_ffmpeg

    grey = [[np.full((64, 64, 3), 16 * t + 8 * i, np.uint8) for t in range(rows)] for i in range(episodes)]
    films = {f"episode_{i:06d}.mp4": frames for i, frames in enumerate(grey)}
    if not old:
        films = {"chunk-000/file-000.mp4": [frame for frames in grey for frame in frames]}
    for name, film in films.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(str(folder / name), (64, 64), fps=20)
        writer.send(None)
        for frame in film:
            writer.send(frame)
        writer.close()


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow  # type: ignore[import-not-found]

    return pyarrow.Table.from_pylist(rows)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()
