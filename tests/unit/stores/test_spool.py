"""The replay's log: records come back exact, damage is named, logs nobody needs go, a full disk is one line."""

from __future__ import annotations

import dataclasses
import io
import resource

import numpy as np
import pytest

from acceerl.stores.spool import Spool, checksum, decode, encode
from tests.unit.stores.examples import CAMERAS, segment


def same(one, other) -> bool:
    return all(_same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))


def _same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other and type(one) is type(other)


def test_a_record_is_exact_with_frames_and_without():
    plain = segment(3, number=5)
    with_frames = dataclasses.replace(plain, frames={c: np.ones((3, 8, 4, 4, 3), np.uint8) for c in CAMERAS})
    empty = dataclasses.replace(
        plain, images={}, imagined=True, assignment=dataclasses.replace(plain.assignment, seed=9)
    )
    for one in (plain, with_frames, empty):
        parts = encode(one)
        record = b"".join([*parts, checksum(parts[1:])])
        assert same(decode(io.BytesIO(record)), one)


def test_arrays_that_are_not_contiguous_are_kept_right():
    one = dataclasses.replace(segment(4), values=np.arange(8, dtype=np.float32)[::2])
    parts = encode(one)
    assert decode(io.BytesIO(b"".join([*parts, checksum(parts[1:])]))).values.tolist() == [0, 2, 4, 6]


def test_segments_come_back_by_id_across_logs(tmp_path):
    spool = Spool(tmp_path, log_bytes=5000)
    ids = [spool.append(segment(number=number)) for number in range(10)]
    spool.flush()
    assert len(list(tmp_path.iterdir())) > 2
    assert all(same(spool.read(one), segment(number=number)) for number, one in enumerate(ids))
    spool.close()


def test_a_new_process_begins_a_new_log(tmp_path):
    first = Spool(tmp_path)
    one = first.append(segment(number=1))
    first.close()
    second = Spool(tmp_path)
    two = second.append(segment(number=2))
    second.close()
    assert one != two
    assert [second.read(i).episode for i in (one, two)] == [1, 2]


def test_lanes_share_a_folder_without_sharing_a_log(tmp_path):
    lanes = [Spool(tmp_path, log_bytes=1, lane=(i, 2)) for i in range(2)]
    ids = [lanes[i % 2].append(segment(number=i)) for i in range(6)]
    assert len({one >> 40 for one in ids}) == 6
    for lane in lanes:
        lane.flush()
    assert [lanes[0].read(one).episode for one in ids] == list(range(6)), "any lane reads any id"
    lanes[0].retain([ids[1]], logs=[lane.current for lane in lanes])
    assert sorted(int(path.stem[4:]) for path in tmp_path.iterdir()) == [1, 4, 5]
    for lane in lanes:
        lane.close()


def test_other_lanes_begin_behind_what_is_there(tmp_path):
    first = Spool(tmp_path)
    one = first.append(segment(number=1))
    first.close()
    lanes = [Spool(tmp_path, lane=(i, 3)) for i in range(3)]
    ids = [lane.append(segment(number=i)) >> 40 for i, lane in enumerate(lanes)]
    assert len({*ids, one >> 40}) == 4 and [k % 3 for k in ids] == [0, 1, 2]
    for lane in lanes:
        lane.close()


def test_logs_that_nobody_needs_go(tmp_path):
    spool = Spool(tmp_path, log_bytes=1)
    ids = [spool.append(segment(number=number)) for number in range(5)]
    spool.flush()
    spool.retain([ids[1]], logs=[spool.current])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log-000001.bin", "log-000004.bin"]
    assert spool.read(ids[1]).episode == 1
    spool.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_record_is_named(tmp_path, damage):
    spool = Spool(tmp_path)
    one = spool.append(segment())
    spool.close()
    log = tmp_path / "log-000000.bin"
    content = bytearray(log.read_bytes())
    content[-50] ^= 1
    if damage == "gone":
        log.unlink()
    else:
        log.write_bytes({"cut": content[:-30], "flip": content, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"log-000000\.bin: the segment at byte 0 is missing or damaged .*replay=drop"):
        spool.read(one)


def test_a_full_disk_is_one_clear_line(tmp_path):
    spool = Spool(tmp_path)
    whole = spool.append(segment())
    spool.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "log-000000.bin").stat().st_size + 100, before[1]))
    try:
        spool.append(segment())
        with pytest.raises(OSError, match=r"File too large.*log-000000\.bin.*free disk space and resume"):
            spool.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(spool.read(whole), segment())
    with pytest.raises(OSError, match="cannot be spooled"):
        spool.append(segment())
    with pytest.raises(OSError, match="cannot be spooled"):
        spool.close()
