"""Makes one shard from a list of episodes, whole or not at all: what import, convert, split and merge are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acceerl.stores import schema
from acceerl.stores.manifest import publish_shard
from acceerl.stores.merge import Part, join
from acceerl.stores.schema import Episode
from acceerl.stores.writer import Growing, refusal


@dataclass(frozen=True)
class Packing:
    """How frames are stored; `frames_a_chunk` 0: as suits the camera."""

    compression: str = "gzip"
    frames_a_chunk: int = 0
    env_args: dict[str, Any] = field(default_factory=dict)  # headers, robomimic's convention
    problem_info: dict[str, Any] = field(default_factory=dict)


def write_shard(final: Path, episodes: Iterable[Episode], packing: Packing) -> int:
    """Publishes the episodes as `final`, a `shard-NAME-K.hdf5`; returns how many there were, none: no shard.

    Raises ValueError when another process is at it or an episode is not whole, OSError when the disk refuses. Killed,
    it begins anew.
    """
    final.unlink(missing_ok=True)  # of a start that was killed before it could say so
    header = json.dumps(packing.env_args), json.dumps(packing.problem_info)
    with closing(Growing(final.with_suffix(".hdf5.partial"))) as growing:
        growing.forget()
        for episode in episodes:
            if problems := episode.problems():
                raise ValueError(
                    f"an episode of task {episode.task}, initial state {episode.init_state}: {problems[0]}: `acceerl "
                    "data validate` names its file and demo, `acceerl data import on_error=skip` leaves it out"
                )
            growing.add(schema.image(*header, episode, packing.compression, packing.frames_a_chunk))
        growing.publish()
    return growing.episodes


def copy_shard(final: Path, parts: Sequence[Part]) -> None:
    """Publishes demos of our files as `final`, chunks as they are. Raises OSError when the disk refuses."""
    final.unlink(missing_ok=True)
    with refusal(final):
        publish_shard(join(parts, final.with_suffix(".hdf5.merging")))
