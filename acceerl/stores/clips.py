"""Windows of consecutive frames for world models: `context` frames up to now and `horizon` after it, at random.

Images stay uint8 until a device has them. Reading needs no HDF5 (rows.py), so a `Clips` may be used by many processes,
forked or spawned, as it is: for example as a `torch.utils.data.DataLoader`'s data set (`__len__`, `__getitem__`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from acceerl.types import ClipBatch


class Source(Protocol):
    """Where windows are cut from: `Trajectories` on a disk, or a `Memory`."""

    @property
    def entries(self) -> Sequence[Recorded]: ...

    def frames(self, i: int, camera: str, start: int, stop: int, step: int) -> np.ndarray:
        """uint8 [n, H, W, 3], rows start, start + step, ... before stop; `entries[i].rows` is the final one."""
        ...

    def proprio(self, i: int) -> np.ndarray:
        """float32 [rows + 1, P]."""
        ...

    def executed(self, i: int, start: int, stop: int) -> np.ndarray:
        """The actions of control steps start to stop, float32 [stop - start, D]."""
        ...


class Recorded(Protocol):
    """What a window needs to know of an episode."""

    @property
    def rows(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def success(self) -> bool: ...
    @property
    def stride(self) -> int: ...
    @property
    def instruction(self) -> str: ...
    @property
    def cameras(self) -> tuple[str, ...]: ...
    @property
    def where(self) -> str: ...


class Clips:
    """Every window of some trajectories, in the order of their first frames; the final observation is a frame too.

    `stride`: control steps between two frames of a window, a multiple of those between two recorded ones (default: the
    same); windows begin at every recorded frame whatever it is. The last tick of an episode may be a shorter one.
    `pictures`: False leaves them out, for what learns from proprioception and actions alone.
    `pad`: a window for every frame that is now, short ones filled up; else whole windows only. Raises ValueError for
    trajectories without a whole window, without one of the `cameras` (default: all), or of a stride that does not fit.
    """

    def __init__(
        self,
        trajectories: Source,
        context: int,
        horizon: int,
        cameras: Sequence[str] = (),
        pad: bool = False,
        stride: int = 0,
        pictures: bool = True,
    ) -> None:
        if context < 1 or horizon < 0 or context + horizon < 2:
            raise ValueError(f"context={context}, horizon={horizon}: a window needs a frame for now and one more")
        self.trajectories, self.context, self.horizon, self.pad = trajectories, context, horizon, pad
        self.frames = context + horizon
        self.cameras = _cameras(trajectories, cameras) if pictures else ()
        self.stride = stride or _stride(trajectories)
        entries = trajectories.entries
        self._every = [_every(e, self.stride) for e in entries]
        self._counts = [self._windows(e.rows, every) for e, every in zip(entries, self._every, strict=True)]
        self._ends = np.cumsum(self._counts)
        if not sum(self._counts):
            longest = max((e.rows // every + 1 for e, every in zip(entries, self._every, strict=True)), default=0)
            raise ValueError(
                f"no episode has {self.frames} frames {self.stride} control steps apart (the longest has {longest}): "
                "choose a smaller context or horizon, or pad=True"
            )
        ticks = horizon if pad else 1
        self._final, self._nearly = self._before_success(0, ticks), self._before_success(ticks, ticks + 1)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> ClipBatch:
        return self.read([index])

    def read(self, indices: Sequence[int] | np.ndarray) -> ClipBatch:
        """The windows at flat indices, in that order; disk is read in file order, which is faster."""
        where = [self.locate(int(index)) for index in indices]
        order = sorted(range(len(where)), key=where.__getitem__)
        read = {i: self._one(*where[i]) for i in order}
        return ClipBatch.joined([read[i] for i in range(len(where))])

    def locate(self, index: int) -> tuple[int, int]:
        """Episode and first row of a flat index; the first row of a padded window may be before the episode."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        episode = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[episode - 1]) if episode else 0)
        return episode, row - ((self.context - 1) * self._every[episode] if self.pad else 0)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[ClipBatch]:
        """One shuffled pass over every window; a last batch that is not full is left out unless it is the only one."""
        order = rng.permutation(len(self))
        for start in range(0, max(len(self) - size, 0) + 1, size):
            yield self.read(order[start : start + size])

    def draw(
        self, size: int, rng: np.random.Generator, final_share: float = 0.0, part: tuple[int, int] = (0, 1)
    ) -> ClipBatch:
        """`size` random windows; a share of them is of those that end with a success, which are rare, and as many end
        less than a tick before one, where it takes a close look to tell.

        `part` (i, n): every n-th of them from the i-th on, for the i-th of n ranks that draw alike.
        """
        picked, kind = rng.integers(len(self), size=size), rng.random(size)
        for low, special in ((0.0, self._final), (final_share, self._nearly)):
            if len(special):
                picked = np.where((low <= kind) & (kind < low + final_share), rng.choice(special, size), picked)
        return self.read(picked[part[0] :: part[1]])

    def _before_success(self, first: int, last: int) -> np.ndarray:
        """Flat indices of the windows of those last ticks of successful episodes, int64 [n]."""
        ends = zip(self._ends.tolist(), self._counts, self._every, self.trajectories.entries, strict=True)
        ranges = [range(end - min(count, last * every), end - min(count, first * every))
                  for end, count, every, e in ends if e.success]  # fmt: skip
        return np.array([i for r in ranges for i in r], np.int64)

    def _windows(self, rows: int, every: int) -> int:
        """How many begin in an episode. Whole ones end at the last row, or at the end with a shorter tick."""
        return max(0, rows if self.pad else rows - (self.frames - 2) * every)

    def _one(self, episode: int, first: int) -> ClipBatch:
        entry, every = self.trajectories.entries[episode], self._every[episode]
        wanted = first + every * np.arange(self.frames)
        rows = np.minimum(np.maximum(wanted, 0), entry.rows)
        images = {c: self._rows(episode, c, rows, every)[None] for c in self.cameras}
        actions, executed = self._actions(episode, wanted, entry)
        proprio = self.trajectories.proprio(episode)[rows]
        valid = (wanted >= 0) & (wanted < entry.rows + every)
        succeeded = (rows == entry.rows) & entry.success
        proprio, actions, executed = proprio[None], actions[None], executed[None]
        return ClipBatch(images, proprio, actions, executed, valid[None], succeeded[None], (entry.instruction,))

    def _rows(self, episode: int, camera: str, rows: np.ndarray, every: int) -> np.ndarray:
        """Frames of these rows; a window whose rows are all within the episode is read at once."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first == (self.frames - 1) * every:
            return self.trajectories.frames(episode, camera, first, last + 1, every)
        distinct, back = np.unique(rows, return_inverse=True)
        frames = [self.trajectories.frames(episode, camera, row, row + 1, 1) for row in distinct.tolist()]
        return np.concatenate(frames)[back]

    def _actions(self, episode: int, wanted: np.ndarray, entry: Recorded) -> tuple[np.ndarray, np.ndarray]:
        """float32 [K - 1, S, D] and how many of each S were executed; only between two real frames."""
        first, count = int(wanted[0]) * entry.stride, (self.frames - 1) * self.stride
        if first >= 0 and first + count <= entry.steps:
            actions = self.trajectories.executed(episode, first, first + count)
            return actions.reshape(self.frames - 1, self.stride, -1), np.full(self.frames - 1, self.stride)
        begins = wanted[:-1] * entry.stride
        executed = np.where(begins < 0, 0, np.clip(entry.steps - begins, 0, self.stride))
        places = np.clip(begins[:, None] + np.arange(self.stride), 0, entry.steps - 1)
        low = int(places.min())
        return self.trajectories.executed(episode, low, int(places.max()) + 1)[places - low], executed


class Dataset(Protocol):
    """What can be mixed: `Clips`, `Windows`."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> Any: ...


class Mixture:
    """Draws from several data sets, each with its weight whatever its size.

    Raises ValueError when weights and data sets do not match, or windows of two data sets differ in shape.

    >>> Mixture([], [])
    Traceback (most recent call last):
    ValueError: a mixture of 0 data sets with 0 weights: give one weight above 0 for each
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float]) -> None:
        if not datasets or len(datasets) != len(weights) or min(weights) <= 0:
            raise ValueError(
                f"a mixture of {len(datasets)} data sets with {len(weights)} weights: give one weight above 0 for each"
            )
        _refuse_unlike(datasets)
        self.datasets = list(datasets)
        self.shares = np.asarray(weights, float) / sum(weights)

    def draw(self, size: int, rng: np.random.Generator) -> Any:
        """A batch of `size` random windows, in random order of data sets; of the data sets' own kind."""
        counts = rng.multinomial(size, self.shares)
        batches = [
            dataset.read(rng.integers(len(dataset), size=count))
            for dataset, count in zip(self.datasets, counts, strict=True)
            if count
        ]
        return type(batches[0]).joined(batches)


def _refuse_unlike(datasets: Sequence[Dataset]) -> None:
    """A window of each is read: arrays of other shapes, or other cameras, would end in the middle of a training."""
    first = dict(_shapes(datasets[0].read([0])))
    for dataset in datasets[1:]:
        shapes = dict(_shapes(dataset.read([0])))
        for field in sorted(first.keys() | shapes.keys()):
            one, other = (has.get(field, "missing") for has in (first, shapes))
            if one != other:
                raise ValueError(
                    f"{_place(datasets[0])} and {_place(dataset)} cannot be mixed: {field} is {one} in a window of the "
                    f"one, {other} of the other (`acceerl data convert` changes sizes and cameras)"
                )


def _shapes(batch: Any, name: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """(field, shape of one window) of every array of a batch."""
    if isinstance(batch, np.ndarray):
        yield name, batch.shape[1:]
    parts = batch if isinstance(batch, dict) else getattr(batch, "__dataclass_fields__", {})
    for part in parts:
        inner = batch[part] if isinstance(batch, dict) else getattr(batch, part)
        yield from _shapes(inner, f"{name} {part}".strip())


def _place(dataset: Any) -> str:
    """For people: the first file of a data set."""
    entries = dataset.trajectories.entries if hasattr(dataset, "trajectories") else ()
    return str(entries[0].where) if entries else type(dataset).__name__


def _cameras(trajectories: Source, wanted: Sequence[str]) -> tuple[str, ...]:
    for entry in trajectories.entries:
        for name in wanted:
            if name not in entry.cameras:
                raise ValueError(f"{entry.where} has no camera {name}: choose from {', '.join(entry.cameras)}")
    every = [set(entry.cameras) for entry in trajectories.entries]
    return tuple(wanted) or tuple(sorted(set.intersection(*every))) if every else ()


def _stride(trajectories: Source) -> int:
    strides = sorted({entry.stride for entry in trajectories.entries})
    if len(strides) > 1:
        raise ValueError(f"episodes with frames {strides} control steps apart cannot be mixed: choose one kind")
    return strides[0] if strides else 1


def _every(entry: Recorded, stride: int) -> int:
    """Recorded rows between two frames of a window."""
    if stride % entry.stride:
        raise ValueError(
            f"{entry.where} has a frame every {entry.stride} control steps: windows {stride} apart do not fit"
        )
    return stride // entry.stride
