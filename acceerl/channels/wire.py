"""How records become bytes: a fixed header, a line of JSON for scalars and shapes, then aligned raw arrays.

A message is one contiguous buffer: `HEADER`, the JSON, and every array at a multiple of 64 bytes. There is no
pickle, so a peer can send nonsense but not code. Decoding copies nothing: arrays are views of the received
buffer, which the transport allocates afresh for each message, so the views own it. Array layouts travel with
each message (optional parts and T vary); what must agree for a whole connection stands in the `Hello`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Record = TypeVar("Record")
MAGIC = 0xACCE
VERSION = 2
ALIGN = 64
HEADER = struct.Struct("<HHIQQQ")  # magic, wire version, tag, sequence, JSON bytes, total bytes
NOTICE_TAG = 2  # a bare header that announces a large message: its tag stands as sequence, its size as JSON bytes


class WireError(ValueError):
    """Bytes that are not a message of this version."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of each side of a connection: who speaks, on which links, about arrays of which sizes.

    `spec` holds what both sides must agree on, e.g. {"cameras": ["front"], "image_size": [64, 64], "proprio": 8}.
    """

    role: str
    index: int
    incarnation: int
    links: list[str]
    wire: int = VERSION
    eager: int = 0  # bytes that the sender's posted receives hold
    spec: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""  # set in the answer when the connection is refused

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Hello:
        try:
            fields = json.loads(raw)
            return cls(**{f.name: fields[f.name] for f in dataclasses.fields(cls) if f.name in fields})
        except (ValueError, TypeError) as error:
            raise WireError(f"a peer sent a hello that cannot be read: {error}") from error


def mismatch(mine: Hello, theirs: Hello) -> str:
    """One line that names what two sides disagree on, or "". Keys that only one side knows are not compared.

    >>> a = Hello("rollout", 3, 1, ["act"], spec={"proprio": 8})
    >>> mismatch(a, Hello("inference", 0, 1, ["act"], spec={"proprio": 9, "chunk": 8}))
    'rollout[3] and inference[0] disagree on proprio: 8 and 9'
    """
    ends = f"{mine.role}[{mine.index}] and {theirs.role}[{theirs.index}]"
    if mine.wire != theirs.wire:
        return f"{ends} disagree on the wire version: {mine.wire} and {theirs.wire}; install the same acceerl"
    theirs_spec = theirs.spec
    for key, value in json.loads(json.dumps(mine.spec)).items():
        other = json.loads(json.dumps(theirs_spec.get(key, value)))
        if other != value:
            return f"{ends} disagree on {key}: {value} and {other}"
    if not set(mine.links) & set(theirs.links):
        return f"{ends} have no link in common: {mine.links} and {theirs.links}"
    return ""


def encode(record: Any, tag: int, sequence: int = 0) -> np.ndarray:
    """Lays a record of `acceerl.types` or `links.Ack` out in one fresh buffer, uint8 [bytes]; arrays are copied."""
    arrays: list[np.ndarray] = []
    fields = _codec(type(record)).pack(record, arrays)
    shapes = [[array.dtype.str, array.shape] for array in arrays]
    text = json.dumps([fields, shapes], separators=(",", ":")).encode()
    offsets, total = _layout(HEADER.size + len(text), [array.nbytes for array in arrays])
    buffer = np.empty(total, np.uint8)
    HEADER.pack_into(buffer.data, 0, MAGIC, VERSION, tag, sequence, len(text), total)
    buffer[HEADER.size : HEADER.size + len(text)] = np.frombuffer(text, np.uint8)
    for offset, array in zip(offsets, arrays, strict=True):
        place = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(place, array)
    return buffer


def decode(kind: type[Record], buffer: np.ndarray, tag: int | None = None) -> Record:
    """Rebuilds a record; its arrays are views of `buffer` (uint8 [bytes]). Raises WireError on foreign bytes."""
    text_bytes = _check_header(buffer, tag)
    try:
        fields, shapes = json.loads(buffer[HEADER.size : HEADER.size + text_bytes].tobytes())
        arrays = _views(buffer, HEADER.size + text_bytes, shapes)
        return typing.cast(Record, _codec(kind).unpack(fields, arrays))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise WireError(f"message for {kind.__name__} cannot be read: {error}") from error


def notice(tag: int, size: int) -> np.ndarray:
    """Announces a message of `size` bytes that follows on `tag`."""
    buffer = np.empty(HEADER.size, np.uint8)
    HEADER.pack_into(buffer.data, 0, MAGIC, VERSION, NOTICE_TAG, tag, size, HEADER.size)
    return buffer


def read_notice(buffer: np.ndarray) -> tuple[int, int]:
    """(tag, size) of a notice."""
    _, _, _, tag, size, _ = HEADER.unpack_from(buffer.data)
    return int(tag), int(size)


def tag_of(buffer: np.ndarray) -> int:
    """The tag in a message's header. Raises WireError on foreign bytes."""
    _check_header(buffer, None)
    return int(HEADER.unpack_from(buffer.data)[2])


def _check_header(buffer: np.ndarray, tag: int | None) -> int:
    if len(buffer) < HEADER.size:
        raise WireError(f"message of {len(buffer)} bytes is shorter than its header")
    magic, version, got_tag, _, text_bytes, total = HEADER.unpack_from(buffer.data)
    if magic != MAGIC:
        raise WireError(f"message does not start with {MAGIC:#x}: the peer is not acceerl")
    if version != VERSION:
        raise WireError(f"message has wire version {version}, this process speaks {VERSION}")
    if total != len(buffer):
        raise WireError(f"message says {total} bytes and has {len(buffer)}")
    if tag is not None and got_tag != tag:
        raise WireError(f"message has tag {got_tag}, expected {tag}")
    return int(text_bytes)


def _layout(start: int, sizes: list[int]) -> tuple[list[int], int]:
    """Where each array begins (aligned, so that views are aligned), and the total size, all in bytes."""
    offsets, at = [], start
    for size in sizes:
        at = -(-at // ALIGN) * ALIGN
        offsets.append(at)
        at += size
    return offsets, at


def _views(buffer: np.ndarray, start: int, shapes: list[Any]) -> list[np.ndarray]:
    kinds = [(np.dtype(name), tuple(shape)) for name, shape in shapes]
    if any(dtype.hasobject for dtype, _ in kinds):
        raise WireError("message carries Python objects")
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in kinds]
    offsets, total = _layout(start, sizes)
    if total != len(buffer) or any(size < 0 for size in sizes):
        raise WireError(f"array shapes need {total} bytes and the message has {len(buffer)}")
    return [
        buffer[offset : offset + size].view(dtype).reshape(shape)
        for offset, size, (dtype, shape) in zip(offsets, sizes, kinds, strict=True)
    ]


@dataclass(frozen=True)
class _Codec:
    """`pack(value, arrays)` gives JSON and appends arrays; `unpack(json, arrays)` undoes it."""

    pack: Callable[[Any, list[np.ndarray]], Any]
    unpack: Callable[[Any, list[np.ndarray]], Any]


def _add(array: np.ndarray, arrays: list[np.ndarray]) -> int:
    if array.dtype.hasobject:
        raise ValueError("an array of Python objects cannot travel on a link")
    arrays.append(array)
    return len(arrays) - 1


_ARRAY = _Codec(lambda v, arrays: _add(np.asarray(v), arrays), lambda j, arrays: arrays[j])
_ARRAYS = _Codec(
    lambda v, arrays: {name: _add(np.asarray(array), arrays) for name, array in v.items()},
    lambda j, arrays: {name: arrays[i] for name, i in j.items()},
)


_codecs: dict[Any, _Codec] = {}


def _scalar(kind: type) -> _Codec:
    return _Codec(lambda v, arrays: kind(v), lambda j, arrays: kind(j))


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        lambda v, arrays: None if v is None else inner.pack(v, arrays),
        lambda j, arrays: None if j is None else inner.unpack(j, arrays),
    )


def _codec(kind: Any) -> _Codec:
    codec = _codecs.get(kind)
    if codec is None:
        codec = _codecs[kind] = _compose(kind)
    return codec


def _compose(kind: Any) -> _Codec:
    """A codec from a type's annotations: scalars, arrays, dicts of arrays, records, `| None`."""
    if kind in (int, float, bool, str):
        return _scalar(kind)
    if kind is np.ndarray:
        return _ARRAY
    if kind == dict[str, np.ndarray]:
        return _ARRAYS
    if isinstance(kind, types.UnionType):
        (inner,) = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
        return _optional(_codec(inner))
    assert dataclasses.is_dataclass(kind), f"{kind} cannot travel on a link"
    return _record(typing.cast(type, kind))


def _record(kind: type) -> _Codec:
    hints = typing.get_type_hints(kind)
    parts = [(f.name, _codec(hints[f.name])) for f in dataclasses.fields(kind)]
    return _Codec(
        lambda v, arrays: [codec.pack(getattr(v, name), arrays) for name, codec in parts],
        lambda j, arrays: kind(*[codec.unpack(x, arrays) for (_, codec), x in zip(parts, j, strict=True)]),
    )
