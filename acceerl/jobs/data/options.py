"""What the verbs of `acceerl data` take as KEY=VALUE; the command line parses and explains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acceerl.stores.layouts import FLIPS
from acceerl.stores.schema import COMPRESSIONS


def option(default: Any, about: str, *, least: float | None = None, choices: Sequence[str] = ()) -> Any:
    """A field, described in the way that the benches' options are."""
    return dataclasses.field(default=default, metadata={"about": about, "least": least, "choices": tuple(choices)})


@dataclass(frozen=True)
class Making:
    """Of every verb that writes a data set."""

    to: str = option("", "the folder to make; it appears when it is complete, until then it is FOLDER.partial")
    workers: int = option(1, "processes", least=1)
    share: str = option("1/1", "K/N: the K-th of N parts only, for jobs that work side by side")
    launch: str = option("local", "slurm: as an array of jobs", choices=("local", "slurm"))
    jobs: int = option(8, "of the array", least=1)
    minutes: int = option(240, "time limit of a job", least=1)
    site: str = option("default", "the cluster, a file of configs/site")
    sites: str = option("", "a folder that holds site/NAME.yaml, beside configs/")
    episodes_per_shard: int = option(50, "at most", least=1)


@dataclass(frozen=True)
class Import(Making):
    recipe: str = option("", "of data/recipes: known tasks get their numbers, unknown ones are faults")
    on_error: str = option("stop", "what a broken demo or file does", choices=("stop", "skip"))
    limit: float = option(1.0, "largest action that is not a fault; 0: any", least=0)
    flip: str = option("auto", "how images are turned; auto: as the format says", choices=("auto", *FLIPS))
    cameras: str = option("", "KEY:NAME,...: these only, by their keys in the file; empty: all, by usual names")
    instruction: str = option("", "of every demo, where the files do not say")
    compression: str = option("gzip", "of images", choices=COMPRESSIONS)


@dataclass(frozen=True)
class Convert(Making):
    compression: str = option("gzip", "of images", choices=COMPRESSIONS)
    frames_a_chunk: int = option(0, "of images; 0: one of a camera that moves, four of one that stands still", least=0)
    image_size: int = option(0, "pixels a side; 0: as they are", least=0)
    cameras: str = option("", "NAME,...: these only; empty: all")
    render: str = option("", "an env (tabletop, libero): draw the images anew from the stored states")
    suite: str = option("", "of that env")


@dataclass(frozen=True)
class Merge(Making):
    pass


@dataclass(frozen=True)
class Split(Making):
    by: str = option("fraction", "what decides", choices=("fraction", "task", "success"))
    fractions: str = option("train:0.9,val:0.1", "NAME:SHARE,... of the episodes of every task")
    seed: int = option(0, "of the choice", least=0)


@dataclass(frozen=True)
class Validate:
    recipe: str = option("", "of data/recipes: its tasks, cameras and counts are asked for, too")
    limit: float = option(1.0, "largest action; 0: any", least=0)
    render: str = option("", "an env (tabletop, libero): images must show the stored states")
    suite: str = option("", "of that env")


@dataclass(frozen=True)
class Nothing:
    """Of verbs that take paths alone."""


@dataclass(frozen=True)
class Stats:
    json: str = option("", "file for the numbers")
    plot: str = option("", "file for the plots, as PNG")
    images: int = option(200, "frames of which means and deviations of colours are taken", least=0)


@dataclass(frozen=True)
class View:
    to: str = option("", "a file: .png is a contact sheet, .mp4 a film of one episode after the other")
    episodes: str = option("", "numbers: 0,5,7; empty: spread over the data")
    count: int = option(6, "episodes, when none are named", least=1)
    frames: int = option(8, "of each episode on a sheet", least=1)
