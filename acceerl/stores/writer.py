"""Writes episodes into HDF5 shards that are whole or absent; read this to record trajectories.

A shard grows as `shard-<writer>-<k>.hdf5.partial`, flushed after each episode, and gets its name when it is full
or closed. SIGKILL costs the episode in hand; the others come back with `recover`, which a writer that restarts
under the same id calls by itself.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from acceerl.stores import schema
from acceerl.stores.manifest import publish_shard, register
from acceerl.stores.schema import Episode

log = logging.getLogger(__name__)
SHARD = re.compile(r"shard-(?P<writer>.+)-(?P<k>\d+)\.hdf5")


class TrajectoryWriter:
    """Appends episodes to the shards of one writer; no two living writers may share a `writer_id`.

    `env_args` and `problem_info` are JSON-able and say how to rebuild the environment (robomimic's convention).
    A shard is published after `max_episodes` or `max_bytes`. Raises ValueError for an inconsistent episode and
    OSError when the disk refuses; episodes before that one are safe either way.

    >>> import tempfile
    >>> with TrajectoryWriter(tempfile.mkdtemp(), {"env_name": "tabletop"}, {}, "w0") as writer:
    ...     writer.written
    0
    """

    def __init__(
        self,
        folder: str | Path,
        env_args: dict[str, Any],
        problem_info: dict[str, Any],
        writer_id: str,
        compression: str = "gzip",
        max_episodes: int = 500,
        max_bytes: int = 1 << 30,
    ) -> None:
        schema.filters(compression)  # refuses an unknown name before the first episode is played
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", writer_id):
            raise ValueError(f"writer_id {writer_id!r} becomes a file name: use letters, digits, _ . -")
        self.folder, self.writer_id = Path(folder), writer_id
        self.written = 0
        self.published: list[Path] = []
        self._header, self._compression = (env_args, problem_info), compression
        self._max_episodes, self._max_bytes = max_episodes, max_bytes
        self._file: h5py.File | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.published += recover(self.folder, writer_id)

    def write(self, episode: Episode) -> None:
        """Appends one episode; when this returns, SIGKILL can no longer lose it."""
        problems = episode.problems()
        if problems:
            raise ValueError(f"{self.folder}: episode refused: {'; '.join(problems)}")
        with _Refusal(self):
            file = self._file or self._start()
            with _room(self._partial, file, episode.bytes_at_most()):
                append(file, episode, self._compression)
        self.written += 1
        if file["data"].attrs["num_demos"] >= self._max_episodes or self._size() >= self._max_bytes:
            self.close()

    def close(self) -> list[Path]:
        """Publishes the shard in hand; returns every shard that this writer has published."""
        if self._file is not None:
            with _Refusal(self):
                self._file.close()
                self._file = None
                self.published.append(publish_shard(self._partial))
        return self.published

    def _start(self) -> h5py.File:
        k = 1 + max(_numbers(self.folder, self.writer_id), default=-1)
        self._partial = self.folder / f"shard-{self.writer_id}-{k}.hdf5.partial"
        self._file = create(self._partial, *self._header)
        return self._file

    def _size(self) -> int:
        return self._partial.stat().st_size

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Refusal:
    """Turns what HDF5 raises when the disk refuses into one line, and lets go of the shard (`recover` finds it)."""

    def __init__(self, writer: TrajectoryWriter) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, RuntimeError)):
            file, self.writer._file = self.writer._file, None
            if file is not None:
                abandon(file)
            raise OSError(
                f"{self.writer._partial}: cannot be written ({_reason(error)}): free some disk space or choose another "
                f"folder, then run recover({str(self.writer.folder)!r}); published shards are untouched"
            ) from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def abandon(file: h5py.File) -> None:
    """Closes a file whose last write failed; the close fails for the same reason and has nothing to add."""
    try:
        file.close()
    except (OSError, RuntimeError) as error:
        log.debug("closing a shard that could not be written: %s", error)


@contextmanager
def _room(path: Path, file: h5py.File, size: int) -> Iterator[None]:
    """Reserves disk space before HDF5 writes, gives back what was not needed.

    HDF5 cannot take back a write that failed half way: closing such a file crashes the process.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, path.stat().st_size, size)
        yield
    finally:
        os.ftruncate(handle, file.id.get_filesize())
        os.close(handle)


def create(path: Path, env_args: dict[str, Any], problem_info: dict[str, Any]) -> h5py.File:
    file = h5py.File(path, "w-")
    schema.write_header(file.create_group("data"), env_args, problem_info)
    file.flush()  # from here on the file opens after a SIGKILL
    return file


def append(file: h5py.File, episode: Episode, compression: str) -> None:
    """Writes an anonymous group and links it when it is whole, so that a half episode is never seen."""
    demo = file.create_group(None)
    schema.write_demo(demo, episode, compression)
    _link(file["data"], demo, len(episode))
    file.flush()


def _link(data: h5py.Group, demo: h5py.Group, steps: int) -> None:
    count = int(data.attrs["num_demos"])
    data[f"demo_{count}"] = demo
    data.attrs["num_demos"] = count + 1
    data.attrs["total"] = int(data.attrs["total"]) + steps


def _numbers(folder: Path, writer_id: str) -> Iterator[int]:
    for path in folder.glob("shard-*.hdf5*"):
        name = SHARD.match(path.name)
        if name and name["writer"] == writer_id:
            yield int(name["k"])


# After a SIGKILL


def recover(folder: str | Path, writer_id: str | None = None) -> list[Path]:
    """Publishes the whole episodes of shards that dead writers left; returns the new shards.

    Call it for all writers (`writer_id=None`) only when none is alive. A left file that cannot be opened at all is
    kept under `.unreadable` with a warning. Raises OSError when the disk is full; the left file then stays.
    """
    folder = Path(folder)
    mine = [path for path in sorted(folder.glob("shard-*.hdf5")) if _of(path, writer_id)]
    for shard in mine:  # killed between the rename and the manifest entry
        if not (folder / "manifest" / f"{shard.stem}.json").exists():
            register(shard)
    left = [path for path in sorted(folder.glob("shard-*.hdf5.partial")) if _of(path, writer_id)]
    return [shard for shard in map(_rescue, left) if shard is not None]


def _of(path: Path, writer_id: str | None) -> bool:
    name = SHARD.match(path.name)
    return name is not None and writer_id in (None, name["writer"])


def _rescue(partial: Path) -> Path | None:
    """Copies the whole episodes out: the left file itself is not trusted to be appended to or renamed."""
    copy = partial.with_suffix(".recovered")
    final: Path | None = None
    if not partial.with_suffix("").exists():  # else killed between publishing the copy and removing the original
        copy.unlink(missing_ok=True)
        try:
            source = _open_left(partial)
            if source is None:
                return None
            with source:
                copied = _copy_whole(source, copy)
            final = publish_shard(copy) if copied else None
            copy.unlink(missing_ok=True)
        except RuntimeError as error:  # what h5py raises when a copy meets a full disk
            raise OSError(f"{copy}: cannot be written ({_reason(error)}): free some disk space") from error
    partial.unlink()
    return final


def _open_left(partial: Path) -> h5py.File | None:
    try:
        return h5py.File(partial, "r")
    except OSError as error:
        if error.errno == errno.EAGAIN or "already open" in str(error):
            raise ValueError(f"{partial}: its writer is alive: recover after it has ended") from error
        kept = partial.rename(partial.with_suffix(".unreadable"))
        log.warning("%s: no episode could be recovered (%s); kept as %s", partial, error, kept.name)
        return None


def _copy_whole(source: h5py.File, path: Path) -> int:
    """Copies compressed chunks as they are; returns how many episodes."""
    data = source["data"]
    with create(path, *(json.loads(data.attrs[name]) for name in ("env_args", "problem_info"))) as file:
        for i in range(int(data.attrs["num_demos"])):
            demo = file.create_group(None)
            for name in data[f"demo_{i}"]:
                source.copy(data[f"demo_{i}"][name], demo, name)
            demo.attrs.update(data[f"demo_{i}"].attrs)
            _link(file["data"], demo, int(demo.attrs["num_samples"]))
        return int(file["data"].attrs["num_demos"])
