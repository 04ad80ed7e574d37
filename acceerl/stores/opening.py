"""Opens published trajectory files, and says in one line why one cannot be opened."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

RESTORE = "the file is damaged: copy or download it again"
BUSY = "is being written by another process: wait until it is closed"


def shards_of(path: Path) -> list[Path]:
    """The published files under a path: itself, or the `*.hdf5` of a folder (or `*.h5`, as others call them)."""
    if not path.is_dir() or path.suffix == ".partial":
        return [path]
    shards = sorted([*path.glob("*.hdf5"), *path.glob("*.h5")])
    if not shards and any((path / "data").glob("*.hdf5")):
        raise ValueError(f"{path}: holds no .hdf5 file itself: did you mean {path / 'data'}?")
    if not shards:
        left = (
            f", only {len(unfinished(path))} unfinished: run recover on it"
            if unfinished(path)
            else ": collect or import some"
        )
        raise ValueError(f"{path}: holds no .hdf5 file{left}")
    return shards


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial"))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A published, hence immutable, shard; without HDF5's locks, which some cluster file systems lack.

    Raises ValueError naming the file, what is wrong with it and what to do.
    """
    refusal = wrong_with(path)
    if refusal:
        raise ValueError(f"{path}: {refusal}")
    try:
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        raise ValueError(f"{path}: {first_line(error)}: {RESTORE}") from error
    with file:
        yield file


def wrong_with(path: Path) -> str:
    """Why a path cannot be opened, with the fix; empty when it can."""
    if not path.exists():
        return "no such file or folder: check the path"
    if path.suffix == ".partial":
        return "a shard in progress: close its writer, or recover the folder when the writer has died"
    if path.stat().st_size == 0:
        return "is empty: copy or download it again"
    if being_written(path):
        return BUSY
    return "" if h5py.is_hdf5(path) else "is not an HDF5 file: convert it, or name another"


def being_written(path: Path) -> bool:
    """Does another process hold it open for writing? HDF5's writers lock their file; without locks nobody can tell."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(handle)
    return False


def first_line(error: BaseException) -> str:
    return (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
