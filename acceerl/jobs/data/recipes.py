"""Recipes: YAML files that say where a data set comes from and what it must hold. They download nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

import acceerl
from acceerl.stores.checks import Finding
from acceerl.stores.reader import Trajectories


@dataclass(frozen=True)
class Recipe:
    """`tasks` in order, by instruction; `expect` counts: files, episodes, episodes_per_task, steps, each if given."""

    name: str
    about: str
    tasks: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()
    image_size: int = 0
    expect: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()  # what makes it here


def folder() -> Path:
    """`acceerl/recipes` in an installed wheel, `data/recipes` beside the package in a checkout."""
    package = Path(acceerl.__file__).parent
    for place in (package / "recipes", package.parent / "data" / "recipes"):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no recipes in {package} or beside it: reinstall acceerl")


def names() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load(name: str) -> Recipe:
    """One of data/recipes, or a YAML file. Raises ValueError for an unknown one, or for a key that none has."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder() / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"recipe {name} is not known: choose from {', '.join(names())}, or name a YAML file")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a recipe is a group of keys")
    unknown = sorted(content.keys() - {f.name for f in fields(Recipe)})
    missing = sorted({"about", "tasks"} - content.keys())
    if unknown or missing:
        raise ValueError(f"{path}: {f'unknown key {unknown[0]}' if unknown else f'{missing[0]} is missing'}")
    lists = {key: tuple(content[key]) for key in ("tasks", "cameras", "command") if key in content}
    return Recipe(**{"name": path.stem, **content, **lists})


def compare(recipe: Recipe, trajectories: Trajectories, path: str) -> list[Finding]:
    """What differs between a data set and its recipe."""
    counts = trajectories.summary()
    found: list[tuple[str, str]] = []
    found += [
        (key, f"{counts[key]:,}, expected {recipe.expect[key]:,}")
        for key in ("files", "episodes", "steps")
        if key in recipe.expect and counts[key] != recipe.expect[key]
    ]
    each, by_task = recipe.expect.get("episodes_per_task"), counts["instructions"]
    for task in recipe.tasks:
        have = by_task.get(task, {}).get("episodes", 0)
        if each is not None and have != each:
            found.append(("episodes", f"{have} of {task!r}, expected {each}"))
    for i, entry in enumerate(trajectories.entries):
        found += [(f"{entry.demo} {field}", message) for field, message in _pictures(recipe, trajectories, i)]
    return [Finding(path, "", field, message) for field, message in found]


def _pictures(recipe: Recipe, trajectories: Trajectories, i: int) -> list[tuple[str, str]]:
    if i in trajectories.problems:
        return []
    shapes = trajectories.shapes(i)
    missing = [(f"obs/{name}", "is missing") for name in recipe.cameras if name not in shapes]
    wanted = (recipe.image_size, recipe.image_size, 3)
    return missing + [
        (f"obs/{name}", f"{shapes[name][0]} pixels high, expected {recipe.image_size}")
        for name in recipe.cameras
        if recipe.image_size and name in shapes and shapes[name] != wanted
    ]
