"""Writes episodes into HDF5 shards that are whole or absent; read this to record trajectories.

While a shard grows it is a folder, `shard-<writer>-<k>.hdf5.partial/`, of one-episode files; when it is full or
closed they are merged into one file, which then gets its name. So HDF5 never changes a file that already holds
something: killed inside a flush, it can lose everything in the file, not only what was being written.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import h5py

from acceerl.stores import schema
from acceerl.stores.manifest import publish_shard, register
from acceerl.stores.merge import merge, reason
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
        self.written = 0  # episodes
        self._header, self._compression = (json.dumps(env_args), json.dumps(problem_info)), compression
        self._max_episodes, self._max_bytes = max_episodes, max_bytes
        self._shard: Growing | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.published: list[Path] = recover(self.folder, writer_id)

    def write(self, episode: Episode) -> None:
        """Appends one episode; when this returns, SIGKILL can no longer lose it."""
        problems = episode.problems()
        if problems:
            raise ValueError(f"{self.folder}: episode refused: {'; '.join(problems)}")
        image = schema.image(*self._header, episode, self._compression)
        self._shard = self._shard or self._next_shard()
        self._shard.add(image)
        self.written += 1
        if self._shard.episodes >= self._max_episodes or self._shard.bytes >= self._max_bytes:
            self.close()

    def close(self) -> list[Path]:
        """Publishes the shard in hand; returns every shard that this writer has published."""
        if self._shard is not None:
            shard, self._shard = self._shard, None
            self.published += shard.publish()
        return self.published

    def _next_shard(self) -> Growing:
        k = 1 + max(_numbers(self.folder, self.writer_id), default=-1)
        return Growing(self.folder / f"shard-{self.writer_id}-{k}.hdf5.partial")

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:  # after an error the whole episodes stay as they are; the next start publishes them
            self.close()


class Growing:
    """A shard in progress, of a living writer or left by a dead one."""

    def __init__(self, partial: Path) -> None:
        self.partial = partial
        with refusal(partial):
            partial.mkdir(exist_ok=True)
            self._lock = _lock(partial)
        self.episodes, self.bytes = 0, 0

    def add(self, image: memoryview) -> None:
        path = self.partial / f"episode-{self.episodes:06d}.hdf5"
        with refusal(self.partial):
            _write_whole(path, image)
        self.episodes, self.bytes = self.episodes + 1, self.bytes + len(image)

    def forget(self) -> None:
        """Removes the episodes that a dead writer left here."""
        for path in self.partial.glob("episode-*"):
            path.unlink()

    def publish(self) -> list[Path]:
        """The shard, or nothing when there was no whole episode."""
        final = self.partial.with_suffix("")
        if not final.exists():  # else killed after publishing, before this folder was removed
            sources = [path for path in sorted(self.partial.glob("episode-*.hdf5")) if _readable(path)]
            with refusal(self.partial):
                if sources:
                    publish_shard(merge(sources, self.partial.with_suffix(".merging")))
        shutil.rmtree(self.partial)
        self.close()
        return [final] if final.exists() else []

    def close(self) -> None:
        """Lets the next writer have what is here."""
        self._lock.close()


def _write_whole(path: Path, content: memoryview) -> None:
    beside = path.with_suffix(".part")
    try:
        beside.write_bytes(content)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    beside.rename(path)


def _lock(partial: Path) -> TextIO:
    stream = (partial / "writer.lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            stream.close()
            raise ValueError(f"{partial}: its writer is alive: recover after it has ended") from error
        log.debug("%s: this file system has no locks: %s", partial, error)
    return stream


@contextmanager
def refusal(partial: Path) -> Iterator[None]:
    """Says what to do when the disk refuses."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno or 0,
            f"{partial}: cannot be written ({reason(error)}): free some disk space or choose another folder, then run "
            "the same command again; published shards are untouched",
        ) from error


def _readable(path: Path) -> bool:
    """False for what a machine that lost power left; it is set aside, since the folder around it will go."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "demo_0" in file["data"]
    except (OSError, KeyError) as error:
        kept = path.rename(path.parent.with_suffix(f".{path.stem}.unreadable"))
        log.warning("%s: an episode cannot be recovered (%s); kept as %s", path, error, kept.name)
        return False


def _numbers(folder: Path, writer_id: str) -> Iterator[int]:
    for path in folder.glob("shard-*.hdf5*"):
        name = SHARD.match(path.name)
        if name and name["writer"] == writer_id:
            yield int(name["k"])


def recover(folder: str | Path, writer_id: str | None = None) -> list[Path]:
    """Publishes the whole episodes of shards that dead writers left; returns those shards.

    Raises ValueError when such a writer is alive, OSError when the disk is full; what was left then stays.
    """
    shards = [path for path in sorted(Path(folder).glob("shard-*.hdf5")) if _of(path, writer_id)]
    for shard in shards:  # killed between the rename and the manifest entry
        if not (shard.parent / "manifest" / f"{shard.stem}.json").exists():
            register(shard)
    left = [path for path in sorted(Path(folder).glob("shard-*.hdf5.partial")) if _of(path, writer_id)]
    return [shard for partial in left for shard in Growing(partial).publish()]


def _of(path: Path, writer_id: str | None) -> bool:
    name = SHARD.match(path.name)
    return name is not None and writer_id in (None, name["writer"])
