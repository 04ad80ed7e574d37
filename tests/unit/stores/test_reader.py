"""Refusals of files that are missing, empty, foreign, cut or in progress, and what validate finds."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate
from acceerl.stores.windows import Windows
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode, libero_file


@pytest.fixture
def shard(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(task=1))
        out.write(episode(7, task=2, success=False))
    return tmp_path / "shard-w0-0.hdf5"


def refused(path) -> str:
    with pytest.raises(ValueError) as caught:
        open_trajectories(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def test_a_missing_file(tmp_path):
    assert "no such file" in refused(tmp_path / "none.hdf5")


def test_an_empty_folder(tmp_path):
    assert "holds no .hdf5 file" in refused(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.hdf5").touch()
    assert f"did you mean {tmp_path}/data?" in refused(tmp_path)


def test_a_folder_with_unfinished_shards_only(tmp_path):
    (tmp_path / "shard-a-0.hdf5.partial").touch()
    assert "1 unfinished: run recover" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\x03\x04 not hdf5", "is not an HDF5 file")],
)
def test_a_file_that_is_not_hdf5(tmp_path, content, message):
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    assert message in refused(path)


def test_a_shard_in_progress(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode())
        assert "in progress" in refused(tmp_path / "shard-w0-0.hdf5.partial")


def test_a_cut_file(shard):
    shard.write_bytes(shard.read_bytes()[:-3000])
    assert "truncated" in refused(shard)


def test_a_foreign_hdf5_file(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["weights"] = [1]
    assert "of no layout known here" in refused(path)


def test_a_future_format_version(shard):
    with h5py.File(shard, "r+") as file:
        file["data"].attrs["format_version"] = 99
    assert "format 99" in refused(shard)


def test_an_episode_without_its_attributes(shard):
    with h5py.File(shard, "r+") as file:
        del file["data/demo_1"].attrs["task"]
    assert "demo_1 @task: is missing" in refused(shard)


def test_damage_inside_a_frame_is_named_when_it_is_read(shard):
    with h5py.File(shard) as file:
        chunk = file["data/demo_1/obs/front_rgb"].id.get_chunk_info(3)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    shard.write_bytes(content)
    found = open_trajectories(shard)
    found.observation(1, 2)
    with pytest.raises(ValueError, match=r"shard-w0-0\.hdf5: demo_1 cannot be read"):
        found.observation(1, 3)
    assert [(finding.demo, finding.field) for finding in validate(shard)] == [("", "sha256"), ("demo_1", "")]


def test_validate_names_demo_and_field(shard):
    with h5py.File(shard, "r+") as file:
        file["data/demo_0/actions"][2, 3] = np.nan
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = np.zeros(3, np.float32)
    found = {(finding.demo, finding.field): finding.message for finding in validate(shard)}
    assert found["demo_0", "actions"] == "holds NaN or infinity"
    assert found["demo_1", "rewards"] == "3 rows, expected 7"


def test_validate_is_content_with_good_files(shard, tmp_path):
    assert validate(shard.parent) == []
    assert validate(libero_file(tmp_path / "libero_demo.hdf5")) != []  # beside a manifest it should be listed
    other = tmp_path / "libero"
    other.mkdir()
    libero_file(other / "open_the_drawer_demo.hdf5")
    assert validate(other) == []


def test_the_summary_counts(shard):
    summary = open_trajectories(shard).summary()
    assert (summary["episodes"], summary["steps"], summary["successes"]) == (2, 12, 1)
    assert summary["instructions"]["task number 2"] == {"episodes": 1, "successes": 0}


def test_windows_pad_the_end_and_say_so(shard):
    windows = Windows(open_trajectories(shard), chunk=3)
    assert len(windows) == 12
    batch = windows.read([4, 0, 11, 6])
    assert batch.valid.tolist() == [1, 3, 1, 3]
    assert batch.actions[:, :, 0].tolist() == [[4, 4, 4], [0, 1, 2], [6, 6, 6], [1, 2, 3]]
    assert batch.observations.images["front"][:, 1, 0, 0].tolist() == [4, 0, 6, 1]
    assert batch.observations.instructions[0] == "task number 1"


def test_a_pass_over_windows_shows_each_once(shard):
    windows = Windows(open_trajectories(shard), chunk=2)
    batches = list(windows.batches(4, np.random.default_rng(0)))
    starts = [
        (o, int(a))
        for batch in batches
        for o, a in zip(batch.observations.instructions, batch.actions[:, 0, 0], strict=True)
    ]
    assert len(batches) == 3
    assert len(set(starts)) == 12


def test_windows_prefer_clean_labels(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(expert_actions=episode().actions + 100))
    assert Windows(open_trajectories(tmp_path), chunk=1)[2].actions[0, 0, 0] == 102


def test_many_files_are_read_with_few_handles(tmp_path, monkeypatch):
    monkeypatch.setattr("acceerl.stores.reader.MAX_FILES", 2)
    with TrajectoryWriter(tmp_path, {}, {}, "w0", max_episodes=1) as out:
        for i in range(5):
            out.write(episode(seed=i))
    found = open_trajectories(tmp_path)
    for _ in range(2):
        assert [int(found.observation(i, 1).proprio[0]) for i in range(5)] == [1] * 5
        assert sorted(found[i].seed for i in range(5)) == list(range(5))
    assert len(found._files) == 2
