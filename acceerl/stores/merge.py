"""Joins episodes of our files into one shard without recompressing: writers publish with it, merge and split copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from acceerl.stores import schema

Part = tuple[Path, Sequence[str]]  # a file in our layout and some of its demos; no names: all


def merge(sources: Sequence[Path], path: Path) -> Path:
    """`join` of whole files."""
    return join([(source, ()) for source in sources], path)


def join(parts: Sequence[Part], path: Path) -> Path:
    """Writes the demos of `parts` (at least one) to a new file, headed as the first part's is.

    Raises OSError when the disk is full; nothing is left behind then. Killed midway it leaves half a file, so
    give a name beside the final one.
    """
    try:
        path.write_bytes(_header_of(parts[0][0]))
        with h5py.File(path, "r+") as file, _room(path, file, sum(_size(*part) for part in parts)):
            for source, names in parts:
                _copy(source, names, file["data"])
            file.flush()
    except (OSError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason(error), str(path)) from error
    return path


def reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _header_of(source: Path) -> memoryview:
    with h5py.File(source, "r", locking=False) as file:
        return schema.image(file["data"].attrs["env_args"], file["data"].attrs["problem_info"])


def _copy(source: Path, names: Sequence[str], data: h5py.Group) -> None:
    with h5py.File(source, "r", locking=False) as file:
        for name in names or sorted(file["data"], key=schema.number_of):
            schema.link(data, file["data"][name])


def _size(source: Path, names: Sequence[str]) -> int:
    """Bytes that the demos need, or a little more."""
    whole = source.stat().st_size
    if not names:
        return whole
    with h5py.File(source, "r", locking=False) as file:
        data = file["data"]
        steps = sum(int(data[name].attrs["num_samples"]) for name in names)
        return round(whole * steps / max(1, int(data.attrs["total"])))


@contextmanager
def _room(path: Path, file: h5py.File, size: int) -> Iterator[None]:
    """Reserves disk space before HDF5 writes, gives back what was not needed.

    HDF5 cannot take back a write that failed half way: closing such a file crashes the process.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, path.stat().st_size, size + (1 << 20))
        yield
    finally:
        os.ftruncate(handle, file.id.get_filesize())
        os.close(handle)
