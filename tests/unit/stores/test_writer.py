"""Shards are whole or absent: rotation, publishing, the manifest, refusals, a full disk, SIGKILL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import pytest

from acceerl.stores import files, schema
from acceerl.stores.manifest import manifest
from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import listing, validate
from acceerl.stores.writer import TrajectoryWriter, recover
from tests.unit.stores.examples import episode, equal, frames

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "trajectory.txt"


def writer(folder: Path, writer_id: str = "w0", **options) -> TrajectoryWriter:
    return TrajectoryWriter(folder, {"env_name": "tabletop"}, {"suite": "spatial"}, writer_id, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("shard-*"))


def script(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, **options)


def test_the_layout_is_the_golden_one(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode(expert_actions=episode().actions))
        out.write(episode(20, stride=8, success=False, states=None))
    assert listing(tmp_path / "shard-w0-0.hdf5") == GOLDEN.read_text()


def test_plain_hdf5_tools_read_it(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode())
    code = "import h5py, sys; print(h5py.File(sys.argv[1])['data/demo_0/obs/front_rgb'][4].max())"
    assert script(code, tmp_path / "shard-w0-0.hdf5").stdout == "255\n"


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path):
    out = writer(tmp_path, max_episodes=2)
    out.write(episode())
    assert names(tmp_path) == ["shard-w0-0.hdf5.partial"]
    out.write(episode())
    assert names(tmp_path) == ["shard-w0-0.hdf5"]
    out.write(episode())
    assert out.close() == [tmp_path / "shard-w0-0.hdf5", tmp_path / "shard-w0-1.hdf5"]


def test_a_shard_ends_at_its_size_too(tmp_path):
    with writer(tmp_path, max_bytes=1) as out:
        out.write(episode())
        out.write(episode())
    assert len(out.published) == 2


def test_a_second_run_of_a_writer_never_touches_its_published_shards(tmp_path):
    for _ in range(2):
        with writer(tmp_path) as out:
            out.write(episode())
    assert names(tmp_path) == ["shard-w0-0.hdf5", "shard-w0-1.hdf5"]


def test_the_manifest_counts_and_checksums(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode(5, task=1))
        out.write(episode(4, task=1, success=False))
    entry = manifest(tmp_path)["shards"]["shard-w0-0.hdf5"]
    assert entry["sha256"] == files.sha256(tmp_path / "shard-w0-0.hdf5")
    assert entry["tasks"] == {"1": {"episodes": 2, "successes": 1}}
    assert (entry["episodes"], entry["steps"]) == (2, 9)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest(tmp_path)


def test_writers_side_by_side_lose_no_manifest_entry(tmp_path):
    def record(name: str) -> None:
        with writer(tmp_path, name, max_episodes=1) as out:
            for _ in range(3):
                out.write(episode())

    threads = [threading.Thread(target=record, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(manifest(tmp_path)["shards"]) == 12
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": episode(4).rewards}, "rewards: 4 rows, expected 5"),
        ({"images": {"front": frames(range(5))}}, "cameras"),
        ({"actions": episode().actions * float("nan")}, "actions: holds NaN"),
        ({"proprio": episode(3).proprio}, "obs/proprio: 3 rows, expected 5"),
        ({"images": {camera: frames(range(5)) * 1.0 for camera in ("front", "wrist")}}, "float64 is not uint8"),
    ],
)
def test_an_inconsistent_episode_is_refused_and_the_shard_goes_on(tmp_path, changes, message):
    with writer(tmp_path) as out:
        out.write(episode())
        with pytest.raises(ValueError, match=message):
            out.write(episode(**changes))
    assert len(open_trajectories(tmp_path)) == 1


def test_an_interrupt_inside_an_episode_leaves_no_half_of_it(tmp_path, monkeypatch):
    out = writer(tmp_path)
    out.write(episode())
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        out.write(episode())
    monkeypatch.undo()
    out.close()
    assert validate(tmp_path) == []
    assert len(open_trajectories(tmp_path)) == 1


def interrupted(path: Path, content) -> None:
    with path.open("wb") as stream:
        stream.write(content[:100])
    raise KeyboardInterrupt


@pytest.mark.parametrize(("option", "value"), [("compression", "zip"), ("writer_id", "a/b")])
def test_bad_options_are_refused_at_once(tmp_path, option, value):
    with pytest.raises(ValueError, match=value):
        writer(tmp_path, **{option: value})


FULL = """
import os, resource, sys
import numpy as np
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode

noise = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)  # 60 kB that do not compress
one = episode(images={"front": noise, "wrist": noise})

def fill(folder, limit):
    with TrajectoryWriter(folder, {}, {}, "w0") as out:
        out.write(one)
    out = TrajectoryWriter(folder, {}, {}, "w0")
    for _ in range(3):
        out.write(one)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # of one file, so a large one meets a full disk
    try:
        out.write(one)
        out.close()
    except OSError as error:
        os.write(1, f"{error}\\n".encode())
    sys.exit()

for limit in sys.argv[2:]:
    child = os.fork()
    if not child:
        fill(f"{sys.argv[1]}/{limit}", int(limit))
    assert os.waitpid(child, 0)[1] == 0, "crashed"
"""
# bytes a file may take -> episodes that must survive; the larger two meet the limit while merging
LIMITS = {0: 4, 50_000: 4, 200_000: 5, 400_000: 5}


def test_a_full_disk_is_one_clear_line_and_loses_no_episode(tmp_path):
    done = script(FULL, tmp_path, *LIMITS)
    assert (done.returncode, done.stderr) == (0, "")
    for (limit, survivors), line in zip(LIMITS.items(), done.stdout.splitlines(), strict=True):
        folder = tmp_path / str(limit)
        assert f"{folder}/shard-w0-1.hdf5.partial: cannot be written (File too large): free some disk space" in line
        assert names(folder) == ["shard-w0-0.hdf5", "shard-w0-1.hdf5.partial"]
        recover(folder)
        assert len(open_trajectories(folder)) == survivors
        assert validate(folder) == []


KILLED = """
import os, signal, sys, time
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode

def record(folder, told):
    with TrajectoryWriter(folder, {}, {}, "w0", max_episodes=7) as out:
        while True:
            out.write(episode(20, seed=out.written))
            os.write(told, b".")

for folder, delay in zip(sys.argv[1::2], map(float, sys.argv[2::2])):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        record(folder, write)
    os.read(read, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    print(1 + sum(len(got) for got in iter(lambda: os.read(read, 1 << 16), b"")))
"""


def test_sigkill_at_any_moment_loses_at_most_the_episode_in_hand(tmp_path):
    rng = random.Random(0)
    folders = [tmp_path / str(i) for i in range(6)]
    done = script(KILLED, *(word for folder in folders for word in (folder, rng.uniform(0, 0.1))))
    assert done.returncode == 0, done.stderr
    for folder, told in zip(folders, map(int, done.stdout.split()), strict=True):
        with writer(folder):
            pass  # a writer that restarts under its id recovers what it left
        found = open_trajectories(folder)
        assert told <= len(found) <= told + 1
        assert validate(folder) == []
        assert all(equal(found[i], episode(20, seed=found[i].seed)) for i in range(len(found)))


def test_an_episode_that_lost_power_is_set_aside(tmp_path):
    leave(tmp_path, episodes=2)
    (tmp_path / "shard-w0-0.hdf5.partial" / "episode-000000.hdf5").write_bytes(b"\x89HDF")
    assert recover(tmp_path) == [tmp_path / "shard-w0-0.hdf5"]
    assert names(tmp_path) == ["shard-w0-0.hdf5", "shard-w0-0.hdf5.episode-000000.unreadable"]
    assert len(open_trajectories(tmp_path)) == 1


def test_a_left_shard_without_an_episode_disappears(tmp_path):
    leave(tmp_path, episodes=0)
    assert recover(tmp_path) == []
    assert names(tmp_path) == []


def leave(folder: Path, episodes: int) -> None:
    """What a killed writer leaves."""
    partial = folder / "shard-w0-0.hdf5.partial"
    partial.mkdir()
    for i in range(episodes):
        (partial / f"episode-{i:06d}.hdf5").write_bytes(schema.image("{}", "{}", episode(), "gzip"))


def test_recover_refuses_a_shard_whose_writer_lives(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode())
        code = "import sys; from acceerl.stores.writer import recover; recover(sys.argv[1])"
        assert "its writer is alive" in script(code, tmp_path).stderr
    assert len(open_trajectories(tmp_path)) == 1


def test_recover_completes_what_a_kill_while_publishing_left(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode())
    (tmp_path / "manifest" / "shard-w0-0.json").unlink()
    leave(tmp_path, episodes=1)
    assert recover(tmp_path, "other") == []
    assert recover(tmp_path, "w0") == [tmp_path / "shard-w0-0.hdf5"]
    assert names(tmp_path) == ["shard-w0-0.hdf5"]
    assert len(manifest(tmp_path)["shards"]) == 1
    assert len(open_trajectories(tmp_path)) == 1


def test_images_are_stored_one_frame_a_chunk(tmp_path):
    with writer(tmp_path) as out:
        out.write(episode())
    with h5py.File(tmp_path / "shard-w0-0.hdf5") as file:
        assert file["data/demo_0/obs/front_rgb"].chunks == (1, 8, 8, 3)
