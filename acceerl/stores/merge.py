"""Joins trajectory files into one shard without recompressing; writers publish with it, `acceerl data merge` too."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from acceerl.stores import schema


def merge(sources: Sequence[Path], path: Path) -> Path:
    """Writes every episode of `sources` (files in our layout, at least one) to a new file, headed as the first is.

    Raises OSError when the disk is full; nothing is left behind then. Killed midway it leaves half a file, so
    give a name beside the final one.
    """
    try:
        path.write_bytes(_header_of(sources[0]))
        with h5py.File(path, "r+") as file, _room(path, file, sum(source.stat().st_size for source in sources)):
            for source in sources:
                _copy(source, file["data"])
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


def _copy(source: Path, data: h5py.Group) -> None:
    with h5py.File(source, "r", locking=False) as file:
        for name in sorted(file["data"], key=schema.number_of):
            schema.link(data, file["data"][name])


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
