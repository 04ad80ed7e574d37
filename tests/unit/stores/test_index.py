"""The index is built once, forgotten when the file changes, and finds rows without HDF5 where it can."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from acceerl.stores import index
from acceerl.stores.reader import open_trajectories
from acceerl.stores.rows import OpenFile, Rows, locate
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode


@pytest.fixture
def shard(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(4, seed=1))
    return tmp_path / "shard-w0-0.hdf5"


def test_a_second_look_reads_the_cache_alone(shard, monkeypatch):
    first = open_trajectories(shard)
    monkeypatch.setattr(index, "opened", None)  # opening the file would fail
    again = open_trajectories(shard)
    assert again.entries == first.entries
    assert (again.observation(0, 2).images["front"] == first.observation(0, 2).images["front"]).all()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"nothing"), lambda path: path.unlink()])
def test_a_cache_that_is_damaged_or_gone_is_built_again(shard, damage):
    entries = open_trajectories(shard).entries
    damage(shard.parent / "index" / "shard-w0-0.hdf5.idx")
    assert open_trajectories(shard).entries == entries


def test_a_file_that_changed_is_looked_at_again(shard):
    open_trajectories(shard)
    with h5py.File(shard, "r+") as file:
        file["data/demo_0"].attrs["seed"] = 77
    os.utime(shard, ns=(0, 12345))
    assert open_trajectories(shard).entries[0].seed == 77


def test_a_folder_that_cannot_be_written_still_reads(shard, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    assert len(open_trajectories(shard)) == 1
    assert not (shard.parent / "index").exists()


NUMBERS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
STORED = {  # how a dataset is made -> how its rows are read
    "contiguous": ({}, "plain"),
    "chunks": ({"chunks": (1, 5, 3)}, "plain"),
    "gzip": ({"chunks": (1, 5, 3), "compression": "gzip"}, "deflate"),
    "shuffled": ({"chunks": (1, 5, 3), "compression": "gzip", "shuffle": True}, "deflate"),
    "several": ({"chunks": (2, 5, 3), "compression": "gzip"}, "deflate"),
    "slices": ({"chunks": (4, 2, 3), "compression": "gzip"}, "deflate"),  # neither divides its dimension
    "slices as they are": ({"chunks": (4, 2, 3)}, "plain"),
    "columns": ({"chunks": (4, 2, 1), "compression": "gzip"}, "hdf5"),
    "checked": ({"chunks": (1, 5, 3), "fletcher32": True}, "hdf5"),
}


@pytest.mark.parametrize(("options", "coding"), STORED.values(), ids=STORED)
def test_rows_are_those_of_hdf5(tmp_path, options, coding):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        located = locate(file.create_dataset("x", data=NUMBERS, **options))
    with h5py.File(path) as file:
        located = locate(file["x"])
    assert located.coding == coding
    opened = OpenFile(path)
    rows = Rows(opened, located)
    for start, stop, step in ((0, 6, 1), (2, 5, 1), (1, 6, 2), (0, 6, 5), (3, 3, 1), (5, 6, 1), (3, 6, 1)):
        assert (rows.read(start, stop, step) == NUMBERS[start:stop:step]).all()
    opened.close()


def test_shuffled_numbers_wider_than_a_byte_are_left_to_hdf5(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        wide = NUMBERS.astype(np.float32)
        file.create_dataset("x", data=wide, chunks=(1, 5, 3), compression="gzip", shuffle=True)
    with h5py.File(path) as file:
        located = locate(file["x"])
    assert located.coding == "hdf5"
    assert (Rows(OpenFile(path), located).read(0, 6) == NUMBERS).all()


def test_a_file_that_ends_early_is_an_error(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["x"] = NUMBERS
    with h5py.File(path) as file:
        located = locate(file["x"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="ends at byte"):
        Rows(OpenFile(path), located).read(0, 6)


def test_a_camera_that_stands_still_is_cut_into_slices_of_several_frames(tmp_path):
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 255, (1, 128, 128, 3), np.uint8), 9, axis=0)
    still[:, :30] = rng.integers(0, 255, (9, 30, 128, 3), np.uint8)  # something moves in it
    moving = rng.integers(0, 255, (9, 128, 128, 3), np.uint8)
    images = {"still": still, "moving": moving}
    last = {"still": still[0], "moving": moving[0]}
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(9, images=images, final_images=last))
    shard = tmp_path / "shard-w0-0.hdf5"
    with h5py.File(shard) as file:
        chunks = {name: file[f"data/demo_0/obs/{name}_rgb"] for name in images}
        assert (chunks["still"].chunks, chunks["moving"].chunks) == ((4, 64, 128, 3), (1, 128, 128, 3))
        assert chunks["still"].id.get_storage_size() < 0.6 * chunks["moving"].id.get_storage_size()
    found = open_trajectories(shard)
    for name, frames in images.items():
        assert (found.frames(0, name, 2, 8) == frames[2:8]).all()
        assert (found.frames(0, name, 0, 10) == [*frames, last[name]]).all()
