"""`acceerl data VERB PATH ... KEY=VALUE`: the verbs, their options, and what they print."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from acceerl.bench.options import describe, parse
from acceerl.config import Config
from acceerl.jobs.data import importing, options, recipes, reshape, statistics, view
from acceerl.jobs.data.pieces import Plan, skipped_of
from acceerl.jobs.data.replay import alignment, witness
from acceerl.jobs.data.shown import counted, shown
from acceerl.stores.checks import Finding, Rules, misnumbered
from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate as findings
from acceerl.stores.validate import verify as changed

PROBLEMS_FOUND = 1  # exit code


@dataclass(frozen=True)
class Verb:
    help: str
    options: type
    run: Callable[[list[Path], Any], int]
    many: bool = True  # takes several paths
    makes: bool = False  # writes a data set or file, so that `to` must be given


def command(words: Sequence[str]) -> int:
    """`words` as they were typed after `acceerl data`. Raises ValueError for a verb, path or option that is wrong."""
    name, *rest = words
    if name not in VERBS:
        raise ValueError(f"acceerl data: {name}: give verb as one of {', '.join(VERBS)}")
    verb = VERBS[name]
    paths = [Path(word) for word in rest if "=" not in word or Path(word).exists()]
    given = [word for word in rest if Path(word) not in paths]
    if not paths or (len(paths) > 1 and not verb.many):
        wanted = "PATH" if paths or not verb.many else "PATH, one or more"
        raise ValueError(f"acceerl data {name}: give {wanted} (see acceerl data {name} --help)")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder: check the path")
    _refuse_twice(name, paths)
    chosen: Any = parse(verb.options, f"data {name}", given, others=())
    if verb.makes and not chosen.to:
        raise ValueError(f"acceerl data {name}: say where to write: to=PATH")
    if getattr(chosen, "launch", "local") == "slurm":
        from acceerl.launch.data_array import submit

        return submit(name, paths, chosen, given)
    return verb.run(paths, chosen)


def _refuse_twice(name: str, paths: Sequence[Path]) -> None:
    """A file that two paths name, or a folder and a path: its episodes would count double."""
    seen: dict[tuple[int, int], Path] = {}
    for path in paths:
        for place in dict.fromkeys((path, *_files(path))):
            about = place.stat()
            if first := seen.get((about.st_dev, about.st_ino)):
                twice = f"{place} is given twice, by {first} and by {path}"
                raise ValueError(f"acceerl data {name}: {twice}: its episodes would count double; leave one out")
            seen[about.st_dev, about.st_ino] = path


def help_text(name: str) -> str:
    """Usage and options of a verb; of all verbs when `name` is none."""
    if name in VERBS:
        verb = VERBS[name]
        path = "PATH [PATH ...]" if verb.many else "PATH"
        own = describe(verb.options)
        keys = ["", "options and their defaults (KEY=VALUE):", *own] if own else []
        return "\n".join([f"usage: acceerl data {name} {path}{' [KEY=VALUE ...]' * bool(own)}", "", verb.help, *keys])
    return "\n".join(["verbs (each has a --help of its own):", *[f"  {n:<9} {v.help}" for n, v in VERBS.items()]])


def inspect(paths: list[Path], _: options.Nothing) -> int:
    """Prints counts and one row an instruction. Raises ValueError naming an unreadable file."""
    trajectories = open_trajectories(paths)
    summary = trajectories.summary()
    trajectories.close()
    sources = ", ".join(f"{count} by {source}" for source, count in summary["sources"].items())
    where, first = " ".join(map(str, paths)), trajectories.entries[0]
    print(
        f"{where}: {counted(summary['files'], 'file')}, {counted(summary['episodes'], 'episode')} ({sources}), "
        f"{counted(summary['steps'], 'step')}"
    )
    shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in trajectories.shapes(0).items()]
    print(f"{first.layout.kind} layout; {', '.join(shapes)}; an observation every {counted(first.stride, 'step')}")
    print(f"{'episodes':>8} {'success':>8}  instruction")
    for name, row in summary["instructions"].items():
        print(f"{row['episodes']:>8} {100 * row['successes'] / row['episodes']:>6.1f} %  {name}")
    return 0


def validate(paths: list[Path], chosen: options.Validate) -> int:
    """Prints one line a problem. Returns 0 when there is none, else 1."""
    recipe = recipes.load(chosen.recipe) if chosen.recipe else None
    rules = Rules(chosen.limit, recipe.tasks if recipe else ())
    env = witness(drawing(chosen.render, chosen.suite, _height(paths[0]))) if chosen.render else None
    looks = partial(_looks, env) if env else None
    with shown("data validate", sum(len(_files(path)) for path in paths), "files") as advance:
        found = [finding for path in paths for finding in findings(path, rules, looks, advance)]
    if recipe and not found:
        found += recipes.compare(recipe, open_trajectories(paths), " ".join(map(str, paths)))
    if env:
        env.close()
    return _verdict(paths, found)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.h*5")) if path.is_dir() else [path]


def _height(path: Path) -> int:
    """Of the images, in pixels; 0 when none can be opened."""
    try:
        trajectories = open_trajectories(path, broken=True)
    except ValueError:
        return 0
    whole = [i for i in range(len(trajectories)) if i not in trajectories.problems]
    shapes = trajectories.shapes(whole[0]) if whole else {}
    return next((shape[0] for shape in shapes.values() if len(shape) == 3), 0)


def _looks(env: Any, episode: Any) -> list[tuple[str, str]]:
    name = f"episode of {episode.instruction!r}"
    return misnumbered(episode.task, episode.instruction, env.spec.instructions) + alignment(env, episode, name)


def verify(paths: list[Path], _: options.Nothing) -> int:
    """Prints one line a shard that is not as the manifest says. Returns 0 when there is none, else 1."""
    return _verdict(paths, [finding for path in paths for finding in changed(path)])


def _verdict(paths: list[Path], found: list[Finding]) -> int:
    for finding in found:
        print(finding)
    where = " ".join(map(str, paths))
    print(f"{where}: {counted(len(found), 'problem')}" if found else f"{where}: all is well")
    return PROBLEMS_FOUND if found else 0


def import_(paths: list[Path], chosen: options.Import) -> int:
    plan, done = importing.run(paths, chosen)
    if done:
        for finding in skipped_of(plan.to):
            print(f"left out: {finding}")
    return _made(plan, done, chosen)


def convert(paths: list[Path], chosen: options.Convert) -> int:
    config = drawing(chosen.render, chosen.suite, chosen.image_size) if chosen.render else None
    if config:
        witness(config).close()  # a simulator that is missing is missed before anything is written
    return _made(*reshape.convert(paths, chosen, config), chosen)


def merge(paths: list[Path], chosen: options.Merge) -> int:
    return _made(*reshape.merge(paths, chosen), chosen)


def split(paths: list[Path], chosen: options.Split) -> int:
    return max([_made(plan, done, chosen) for plan, done in reshape.split(paths, chosen)], default=0)


def _made(plan: Plan, done: bool, chosen: options.Making) -> int:
    if not done:
        print(f"{plan.growing}: share {chosen.share} is done, others are missing; the last one completes it")
        return 0
    counts = open_trajectories(plan.to).summary()
    print(f"{plan.to}: {', '.join(counted(counts[f'{noun}s'], noun) for noun in ('episode', 'step'))}, "
          f"{counted(counts['files'], 'shard')}")  # fmt: skip
    return 0


def stats(paths: list[Path], chosen: options.Stats) -> int:
    print(statistics.run(paths, chosen))
    return 0


def show(paths: list[Path], chosen: options.View) -> int:
    print(view.run(paths, chosen))
    return 0


def drawing(env: str, suite: str, image_size: int) -> Config:
    """The configuration of an environment that draws. Raises ValueError for an unknown one."""
    from acceerl.launch.compose import compose

    os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    size = [f"env.image_size={image_size}"] if image_size else []
    return compose("data", [f"env={env}", *([f"suite={suite}"] if suite else []), *size])


VERBS: dict[str, Verb] = {
    "import": Verb("LIBERO's, robomimic's or LeRobot's demonstrations as shards of ours", options.Import, import_,
                   makes=True),
    "inspect": Verb("what is in it: files, episodes, tasks, shapes", options.Nothing, inspect),
    "validate": Verb("look for faults; exit code 1 when there are any", options.Validate, validate),
    "stats": Verb("means, deviations, quantiles, counts by task; plots", options.Stats, stats),
    "split": Verb("by fraction, task or success, reproducibly", options.Split, split, makes=True),
    "merge": Verb("several of ours as one", options.Merge, merge, makes=True),
    "convert": Verb("another compression, chunking, resolution, or other images", options.Convert, convert, makes=True),
    "view": Verb("a contact sheet or a film", options.View, show, makes=True),
    "verify": Verb("checksums only; exit code 1 when one differs", options.Nothing, verify),
}  # fmt: skip
