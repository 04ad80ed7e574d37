"""What keeps a demo from being read: parts that are missing, of other lengths or types. Nothing is decompressed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from acceerl.stores import layouts
from acceerl.stores.layouts import Layout
from acceerl.stores.schema import FACTS, observation_rows

STEPS = ("actions", "rewards", "dones")
OPTIONAL = ("states", "expert_actions")


def structure(demo: h5py.Group, layout: Layout) -> list[tuple[str, str]]:
    """(field, message) of each fault; empty when `layouts.read_demo` will find what it needs."""
    if not isinstance(demo, h5py.Group):
        return [("", "is no group of datasets")]
    if layout.ours and (found := list(_facts(demo))):
        return found
    if "actions" not in demo:
        return [("actions", "is missing")]
    steps, total = layouts.steps_of(demo, layout), len(demo["actions"])
    if layout.ours and total != int(demo.attrs.get("num_samples", total)):
        return [("actions", f"{total} rows, but @num_samples says {demo.attrs['num_samples']}")]
    if steps < 1:
        return [("actions", f"no steps: {total} rows make no transition")]
    rows = observation_rows(total, layouts.stride_of(demo))
    found = [(name, "is missing") for name in STEPS if name not in demo]
    found += [_length(demo, name, total) for name in (*STEPS, *OPTIONAL) if name in demo and len(demo[name]) != total]
    if demo["actions"].dtype.kind != "f" or demo["actions"].ndim != 2:
        found.append(("actions", f"{demo['actions'].dtype} {demo['actions'].shape} is no list of vectors of numbers"))
    for group, count in _groups(layout, rows):
        found += _observations(demo, group, count, layout)
    return found


def _facts(demo: h5py.Group) -> Iterator[tuple[str, str]]:
    """Of our own files: everything is said, and can be so."""
    for name in FACTS:
        if name not in demo.attrs:
            yield f"@{name}", "is missing"
    if int(demo.attrs.get("decision_stride", 1)) < 1:
        yield "@decision_stride", f"{demo.attrs['decision_stride']} is no number of steps"
    try:
        layouts.fixtures_of(demo, Layout())
    except (ValueError, TypeError):
        yield "@fixtures", "is no JSON of places by body"


def odd_ones(data: h5py.Group, whole: Sequence[str], layout: Layout) -> dict[str, list[tuple[str, str]]]:
    """demo -> (field, message) of rows that have another shape than those of most demos: no batch could hold both."""
    found = defaultdict(list)
    for field in ("actions", *(f"obs/{key}" for key in (*(key for key, _ in layout.cameras), *layout.proprio))):
        shapes = {name: tuple(data[name][field].shape[1:]) for name in whole}
        usual = Counter(shapes.values()).most_common(1)[0][0] if shapes else ()
        for name in (name for name, shape in shapes.items() if shape != usual):
            found[name].append((field, f"rows of shape {shapes[name]}, other demos have {usual}"))
    return dict(found)


def _groups(layout: Layout, rows: int) -> Iterator[tuple[str, int]]:
    yield "obs", rows
    if layout.ours:
        yield "final_obs", 1
    if layout.next_obs:
        yield "next_obs", rows


def _observations(demo: h5py.Group, group: str, rows: int, layout: Layout) -> Iterator[tuple[str, str]]:
    cameras = [key for key, _ in layout.cameras]
    for key in (*cameras, *layout.proprio):
        name = f"{group}/{key}"
        if group not in demo or key not in demo[group]:
            yield name, "is missing, though other demos have it" if key in cameras else "is missing"
        elif len(demo[name]) != rows:
            yield _length(demo, name, rows)
        elif key in cameras and demo[name].dtype != np.uint8:
            yield name, f"{demo[name].dtype} is not uint8"
        elif key in cameras and (demo[name].ndim != 4 or demo[name].shape[-1] != 3):
            yield name, f"{demo[name].shape} is no list of RGB images"
        elif key not in cameras and demo[name].dtype.kind not in "fiu":
            yield name, f"{demo[name].dtype} is no number"


def _length(demo: h5py.Group, name: str, expected: int) -> tuple[str, str]:
    return name, f"{len(demo[name])} rows, expected {expected}"
