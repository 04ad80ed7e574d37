"""Reads rows of HDF5 datasets without HDF5: their bytes are where the index says. Read this for the reader's speed.

HDF5 spends as long on finding a chunk and its filters as on decompressing a small image, and its zlib takes twice as
long as libdeflate. A dataset that is contiguous, or in chunks of a few rows with no filter but deflate, is read with
`pread` and one call of the decompressor a chunk, which is also safe after a fork; anything else goes through HDF5.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import deflate
import h5py
import msgspec
import numpy as np

DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
Coding = Literal["plain", "deflate", "hdf5"]
CODINGS: dict[tuple[int, ...], Coding] = {(): "plain", (DEFLATE,): "deflate"}  # by the filters of a dataset


class About(NamedTuple):
    """What every dataset has, see `Located`."""

    name: str
    rows: int
    shape: tuple[int, ...]
    dtype: str


class Located(msgspec.Struct, frozen=True):
    """Where the rows of one dataset are. `chunk`: rows, and items of the next dimension, in one; others are whole."""

    name: str  # in the file
    rows: int
    shape: tuple[int, ...]  # of one row
    dtype: str
    coding: Coding
    chunk: tuple[int, int] = (0, 0)  # zeros: contiguous
    offsets: bytes = b""  # int64 in the file: of each chunk, or of the first row
    sizes: bytes = b""  # int32, bytes of each chunk


def locate(dataset: h5py.Dataset) -> Located:
    """Raises TypeError for what is no dataset of rows."""
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape:
        raise TypeError(f"{dataset.name}: no dataset of rows")
    plan, row = dataset.id.get_create_plist(), dataset.shape[1:]
    about = About(dataset.name, dataset.shape[0], row, dataset.dtype.str)
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if dataset.file.userblock_size or dataset.dtype.hasobject or plan.get_external_count():
        return Located(*about, "hdf5")
    if dataset.chunks is None and (offset := dataset.id.get_offset()) is not None:
        return Located(*about, "plain", (0, 0), np.int64(offset).tobytes())
    shuffled = filters[:1] == [SHUFFLE] and dataset.dtype.itemsize == 1  # does nothing to bytes
    coding = CODINGS.get(tuple(filters[shuffled:]))
    if dataset.chunks is None or coding is None or not row or dataset.chunks[2:] != row[1:]:
        return Located(*about, "hdf5")
    return _chunked(dataset, about, coding)


def _chunked(dataset: h5py.Dataset, about: About, coding: Coding) -> Located:
    rows, items = dataset.chunks[:2]
    across = -(-dataset.shape[1] // items)
    count = -(-dataset.shape[0] // rows) * across
    offsets, sizes = np.zeros(count, np.int64), np.zeros(count, np.int32)
    skipped = 0  # filters that HDF5 left out for a chunk

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        nonlocal skipped
        place = chunk.chunk_offset[0] // rows * across + chunk.chunk_offset[1] // items
        offsets[place], sizes[place] = chunk.byte_offset, chunk.size
        skipped |= chunk.filter_mask

    dataset.id.chunk_iter(note)
    if skipped or not sizes.all():
        return Located(*about, "hdf5")
    return Located(*about, coding, (rows, items), offsets.tobytes(), sizes.tobytes())


def inflate(packed: bytes | memoryview, size: int, name: str = "a chunk") -> bytes | bytearray:
    """Undoes deflate; `size` bytes are expected. Raises OSError when they are damaged."""
    try:
        raw: bytes | bytearray = deflate.zlib_decompress(packed, size)
    except deflate.DeflateError as error:
        raise OSError(f"{name} does not decompress: {error}") from error
    if len(raw) != size:
        raise OSError(f"{name} decompresses to {len(raw)} bytes, not {size}")
    return raw


class Rows:
    """One dataset of an open file."""

    def __init__(self, file: OpenFile, located: Located) -> None:
        self._file, self.located = file, located
        self.dtype = np.dtype(located.dtype)
        self._bytes = self.dtype.itemsize * int(np.prod(located.shape, dtype=np.int64))
        self._offsets: list[int] = np.frombuffer(located.offsets, np.int64).tolist()
        self._sizes: list[int] = np.frombuffer(located.sizes, np.int32).tolist()
        if located.chunk[0]:
            self._shape = (*located.chunk, *located.shape[1:])
            self._size = self.dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))  # of a chunk, full at the edge
            self._across = -(-located.shape[0] // located.chunk[1])

    def __len__(self) -> int:
        return self.located.rows

    def read(self, start: int, stop: int, step: int = 1) -> np.ndarray:
        """Rows start, start + step, ... before `stop`, in the file's dtype. Raises OSError when they are damaged."""
        rows = range(start, stop, step)
        assert not len(rows) or 0 <= rows[0] <= rows[-1] < len(self), f"rows {rows} of {len(self)}"
        if self.located.coding == "hdf5":
            return np.asarray(self._file.hdf5()[self.located.name][start:stop:step])
        if not self.located.chunk[0]:
            return self._contiguous(start, stop)[::step]
        out = np.empty((len(rows), *self.located.shape), self.dtype)
        if out.size and step == 1 and self.located.chunk[0] == 1 == self._across:
            self._rows(start, stop, _bytes_of(out))
        else:
            self._gather(rows, out)
        return out

    def packed(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Size and deflated bytes of each chunk that the rows need."""
        assert self.located.coding == "deflate"
        deep = self.located.chunk[0]
        chunks = self._stored(start // deep * self._across, -(-min(stop, len(self)) // deep) * self._across)
        return [(self._size, bytes(content)) for content in chunks]

    def _contiguous(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((max(0, stop - start), *self.located.shape), self.dtype)
        if out.size:
            self._file.fill(_bytes_of(out), self._offsets[0] + start * self._bytes)
        return out

    def _rows(self, start: int, stop: int, flat: memoryview) -> None:
        """Whole rows one after the other, a chunk each."""
        at, size, deflated = 0, self._size, self.located.coding == "deflate"
        for content in self._stored(start, stop):
            flat[at : at + size] = inflate(content, size, self.located.name) if deflated else content
            at += size

    def _gather(self, rows: range, out: np.ndarray) -> None:
        """Each chunk that is needed is decompressed once, and its part copied."""
        if not rows:
            return
        deep, high = self.located.chunk
        layers = range(rows.start // deep, rows[-1] // deep + 1)
        dense = len(rows) * 2 >= len(layers) * deep  # else chunks that nobody wants would be read, too
        chunks = self._stored(layers[0] * self._across, (layers[-1] + 1) * self._across) if dense else None
        for layer in layers:
            first = layer * deep
            if wanted := _within(rows, first, deep):
                begin = (wanted.start - rows.start) // rows.step
                to = slice(begin, begin + len(wanted))
                of = slice(wanted.start - first, wanted[-1] - first + 1, rows.step)
                mine = self._stored(layer * self._across, (layer + 1) * self._across) if chunks is None else chunks
                self._copy(itertools.islice(mine, self._across), out[to], of, high)
            elif chunks is not None:
                next(itertools.islice(chunks, self._across - 1, None))

    def _copy(self, slices: Iterator[memoryview], out: np.ndarray, of: slice, high: int) -> None:
        """The chunks that lie side by side, into rows of the result."""
        for i, content in enumerate(slices):
            raw = inflate(content, self._size, self.located.name) if self.located.coding == "deflate" else content
            block = np.frombuffer(raw, self.dtype).reshape(self._shape)
            top = i * high
            if self._across == 1:
                out[...] = block[of]
            else:
                out[:, top : top + high] = block[of, : self.located.shape[0] - top]

    def _stored(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes of chunks, each valid until the next read; written one after the other, they are read at once."""
        offsets, sizes = self._offsets[start:stop], self._sizes[start:stop]
        total = sum(sizes)
        if offsets[-1] + sizes[-1] - offsets[0] == total:
            whole, at = self._file.read(offsets[0], total), 0
            for size in sizes:
                yield whole[at : at + size]
                at += size
        else:
            for offset, size in zip(offsets, sizes, strict=True):
                yield self._file.read(offset, size)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _within(rows: range, first: int, count: int) -> range:
    """Those of `rows` from `first` on, `count` at most."""
    skip = max(0, -(-(first - rows.start) // rows.step))
    return range(rows.start + skip * rows.step, min(rows.stop, first + count), rows.step)


class OpenFile:
    """A published, hence immutable, file: its descriptor, and HDF5's view of it where that is needed.

    For one thread at a time. The descriptor may cross a fork, since `pread` moves no position; HDF5's handle may not,
    so a child opens its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._buffer = bytearray(1 << 16)  # fresh memory for every read would cost more than the read
        self._hdf5: dict[int, h5py.File] = {}  # process id -> its handle; the parent's is neither ours to use nor close

    def hdf5(self) -> h5py.File:
        mine = os.getpid()
        if mine not in self._hdf5:
            # locks are missing on some cluster file systems, and a cache for each dataset would add up
            self._hdf5[mine] = h5py.File(self.path, "r", locking=False, rdcc_nbytes=0)
        return self._hdf5[mine]

    def read(self, offset: int, size: int) -> memoryview:
        """Bytes of the file, valid until the next `read`. Raises OSError when it ends before."""
        if len(self._buffer) < size:
            self._buffer = bytearray(2 * size)
        into = memoryview(self._buffer)[:size]
        self.fill(into, offset)
        return into

    def fill(self, into: memoryview, offset: int) -> None:
        """Raises OSError when the file ends before `into` is full."""
        done = 0
        while done < len(into):
            got = os.preadv(self.descriptor, [into[done:]], offset + done)
            if got == 0:
                raise OSError(f"{self.path} ends at byte {offset + done}")
            done += got

    def close(self) -> None:
        if (mine := self._hdf5.pop(os.getpid(), None)) is not None:
            mine.close()
        os.close(self.descriptor)
