"""Reads LeRobot data sets (v2.0 to v3.0, on disk) as episodes, for `acceerl data import`; needs pyarrow, not lerobot.

`meta/info.json` names the features and where their files are. Row t holds what was seen before action t, and nothing
after the last action: T rows are an episode of T - 1 steps. Rewards and success are taken from `next.reward` and
`next.success`; a data set without them holds demonstrations, whose last step earns 1.
"""

from __future__ import annotations

import importlib
import io
import json
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.stores.layouts import Layout, upright
from acceerl.stores.reader import Entry
from acceerl.stores.schema import Episode

INFO = "meta/info.json"
IMAGES = ("observation.images.", "observation.")
DECODE_S = 600.0  # the longest that a film may take


def is_lerobot(path: Path) -> bool:
    return (path / INFO).is_file()


class LeRobot:
    """A data set below `path`: `entries`, and `[i]` reads an episode.

    Raises ValueError naming what is missing: pyarrow, a file, a feature.
    """

    def __init__(self, path: Path, layout: Layout | None = None) -> None:
        self.path = path
        self._info = json.loads((path / INFO).read_text())
        version = str(self._info.get("codebase_version", "?"))
        if not version.startswith(("v2.", "v3.")):
            raise ValueError(f"{path}: LeRobot {version} is not read here: convert it to v2.1 or v3.0 with lerobot")
        self._old = version.startswith("v2.")
        features = self._info["features"]
        for name in ("action", "observation.state"):
            if name not in features:
                raise ValueError(f"{path}: has no feature {name}, only {', '.join(sorted(features))}")
        cameras = tuple((key, _camera(key)) for key, f in features.items() if f["dtype"] in ("video", "image"))
        self.layout = layout or Layout("lerobot", cut=1, cameras=cameras, proprio=("observation.state",))
        self.problems: dict[int, list[tuple[str, str]]] = {}

    @cached_property
    def entries(self) -> list[Entry]:
        return [self._entry(row) for row in self._episodes]

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, i: int) -> Episode:
        """Raises ValueError naming the episode and what is wrong with its files."""
        about, entry = self._episodes[i], self.entries[i]
        try:
            return self._episode(about, entry)
        except (OSError, KeyError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{self.path}: {entry.demo} cannot be read ({error}): download it again") from error

    def _episode(self, about: dict[str, Any], entry: Entry) -> Episode:
        table, steps = self._table(about), entry.steps
        rows = {name: np.stack(table.column(name).to_pylist()) for name in table.column_names if _numeric(table, name)}
        images = {name: self._frames(about, table, key, steps + 1) for key, name in self.layout.cameras}
        proprio = np.asarray(rows["observation.state"], np.float32).reshape(steps + 1, -1)
        rewards, solved = _rewards(rows, steps)
        done = (np.arange(steps) == steps - 1).astype(np.uint8)
        return Episode(
            {name: frames[:-1] for name, frames in images.items()}, proprio[:-1],
            np.asarray(rows["action"], np.float32).reshape(steps + 1, -1)[:-1], rewards, done,
            {name: frames[-1] for name, frames in images.items()}, proprio[-1],
            entry.instruction, entry.task, success=solved, terminated=solved, truncated=not solved, source="expert",
        )  # fmt: skip

    def _entry(self, about: dict[str, Any]) -> Entry:
        words = (about.get("tasks") or [""])[0]
        name, steps = f"episode_{about['episode_index']:06d}", max(0, int(about["length"]) - 1)
        task = self._tasks.get(words, -1)
        return Entry(self.path, name, self.layout, steps, words, task, -1, -1, True, "expert", 1)

    @cached_property
    def _episodes(self) -> list[dict[str, Any]]:
        if self._old:
            return _lines(self.path / "meta/episodes.jsonl")
        files = sorted(self.path.glob("meta/episodes/*/*.parquet"))
        rows = [row for file in files for row in _parquet(file).to_pylist()]
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    @cached_property
    def _tasks(self) -> dict[str, int]:
        if self._old:
            return {row["task"]: int(row["task_index"]) for row in _lines(self.path / "meta/tasks.jsonl")}
        rows = _parquet(self.path / "meta/tasks.parquet").to_pylist()
        return {row.get("task", row.get("__index_level_0__", "")): int(row["task_index"]) for row in rows}

    def _table(self, about: dict[str, Any]) -> Any:
        index = int(about["episode_index"])
        if self._old:
            return _parquet(self.path / self._place("data_path", index))
        place = self._info["data_path"].format(
            chunk_index=int(about["data/chunk_index"]), file_index=int(about["data/file_index"])
        )
        return _parquet(self.path / place, filters=[("episode_index", "=", index)])

    def _place(self, template: str, index: int, **more: str) -> str:
        chunk = index // int(self._info.get("chunks_size", 1000))
        return str(self._info[template].format(episode_chunk=chunk, episode_index=index, **more))

    def _frames(self, about: dict[str, Any], table: Any, key: str, count: int) -> np.ndarray:
        """uint8 [count, H, W, 3]"""
        if self._info["features"][key]["dtype"] == "image":
            frames = np.stack([_picture(cell, self.path) for cell in table.column(key).to_pylist()])
        else:
            frames = _video(
                *self._film(about, key), count, float(self._info["fps"]), _size(self._info["features"][key])
            )
        if len(frames) != count:
            raise ValueError(f"{key} has {len(frames)} frames, expected {count}")
        return upright(frames, self.layout.flip)

    def _film(self, about: dict[str, Any], key: str) -> tuple[Path, float]:
        """The file and the second at which the episode begins in it."""
        if self._old:
            return self.path / self._place("video_path", int(about["episode_index"]), video_key=key), 0.0
        chunk, file = (int(about[f"videos/{key}/{part}"]) for part in ("chunk_index", "file_index"))
        place = self._info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        return self.path / place, float(about[f"videos/{key}/from_timestamp"])


def _camera(key: str) -> str:
    for prefix in IMAGES:
        key = key.removeprefix(prefix)
    return key.removesuffix("_rgb").removesuffix("_image")


def _rewards(rows: dict[str, np.ndarray], steps: int) -> tuple[np.ndarray, bool]:
    """float32 [steps] and success; what the last row earned is given to the step before, as for every cut layout."""
    if "next.reward" not in rows:
        solved = bool(rows["next.success"].any()) if "next.success" in rows else True
        return ((np.arange(steps) == steps - 1) & solved).astype(np.float32), solved
    earned = np.asarray(rows["next.reward"], np.float32).reshape(-1)
    kept = earned[:-1].copy()
    kept[-1:] = max(kept[-1], earned[-1])
    return kept, bool(rows["next.success"].any() if "next.success" in rows else (earned > 0).any())


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _parquet(path: Path, **options: Any) -> Any:
    try:
        return importlib.import_module("pyarrow.parquet").read_table(path, **options)
    except ImportError as error:
        raise ValueError("LeRobot data sets are Parquet files: pip install 'acceerl[lerobot]' to read them") from error


def _numeric(table: Any, name: str) -> bool:
    kind = str(table.schema.field(name).type)
    return kind.startswith(("float", "double", "int", "bool", "list<", "fixed_size_list<")) and "string" not in kind


def _picture(cell: dict[str, Any], root: Path) -> np.ndarray:
    from PIL import Image

    content = cell["bytes"] if cell.get("bytes") else (root / cell["path"]).read_bytes()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """Height and width; `shape` is [H, W, 3] or [3, H, W]."""
    shape = [int(side) for side in feature["shape"]]
    return (shape[1], shape[2]) if shape[0] == 3 else (shape[0], shape[1])


def _video(path: Path, start: float, count: int, fps: float, size: tuple[int, int]) -> np.ndarray:
    """uint8 [n <= count, H, W, 3] from a second on; half a frame earlier, so that rounding cannot miss the first."""
    import imageio_ffmpeg  # finds its ffmpeg on import

    seek = ["-ss", f"{max(0.0, start - 0.5 / fps):.6f}"] if start else []
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *seek, "-i", str(path), "-frames:v", str(count),
               "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DECODE_S, check=False)
    if done.returncode:
        raise OSError(f"{path}: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *size, 3)
