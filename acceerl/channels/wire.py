"""How records become bytes: a fixed header, the scalars and the arrays' shapes as msgpack, then aligned raw arrays.

A message is one contiguous buffer: `HEADER`, the msgpack, and every array at a multiple of 64 bytes. There is no
pickle, so a peer can send nonsense but not code. Decoding copies nothing: arrays are views of the received
buffer, which the transport allocates afresh for each message, so the views own it. Array layouts travel with
each message (optional parts and T vary); what must agree for a whole connection stands in the `Hello`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np

Record = TypeVar("Record")
MAGIC = 0xACCE
VERSION = 3
ALIGN = 64
HEADER = struct.Struct("<HHIIIQQ")  # magic, wire version, tag, bytes of fields, of fields and shapes, of all, announced
LENT_TAG = 3  # a header that tells of a message in memory lent to the receiver: tag, its bytes; then the address
NOTICE_TAG = 2  # a bare header that announces a large message: tag instead of fields, bytes announced


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
    proof: str = ""  # of whoever dials: see near.py
    near: bool = False  # in the answer: lend me large messages, I can map your memory
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


def encode(record: Any, tag: int, room: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
    """Lays a record of `acceerl.types` or `links.Ack` out in one buffer, uint8 [bytes]; arrays are copied.

    `room(bytes)` gives the buffer, a fresh one by default.
    """
    arrays = _own.arrays = []
    fields = _encoder.encode(record)
    shapes = _encoder.encode([(array.dtype.str, array.shape) for array in arrays])
    total = text = HEADER.size + len(fields) + len(shapes)
    starts = []
    for array in arrays:
        starts.append(total + ALIGN - 1 & -ALIGN)
        total = starts[-1] + array.nbytes
    buffer = np.empty(total, np.uint8) if room is None else room(total)
    data = buffer.data
    HEADER.pack_into(data, 0, MAGIC, VERSION, tag, len(fields), text - HEADER.size, total, 0)
    data[HEADER.size : text] = fields + shapes
    for array, start in zip(arrays, starts, strict=True):
        np.ndarray(array.shape, array.dtype, buffer, start)[...] = array
    return buffer


def decode(kind: type[Record], buffer: np.ndarray, tag: int | None = None) -> Record:
    """Rebuilds a record; its arrays are views of `buffer` (uint8 [bytes]). Raises WireError on foreign bytes."""
    fields_end, text_end = _check_header(buffer, tag)
    try:
        _own.arrays = _views(buffer, text_end, _read_shapes(buffer.data[fields_end:text_end]))
        known: Any = kind
        record: Record = _decoder(known).decode(buffer.data[HEADER.size : fields_end])
        return record
    except (ValueError, TypeError, IndexError, OverflowError, msgspec.MsgspecError) as error:
        raise WireError(f"message for {kind.__name__} cannot be read: {error}") from error


def notice(tag: int, size: int) -> np.ndarray:
    """Announces a message of `size` bytes that follows on `tag`."""
    buffer = np.empty(HEADER.size, np.uint8)
    HEADER.pack_into(buffer.data, 0, MAGIC, VERSION, NOTICE_TAG, tag, 0, HEADER.size, size)
    return buffer


def read_notice(buffer: np.ndarray) -> tuple[int, int]:
    """(tag, size) of a notice."""
    _, _, _, tag, _, _, size = HEADER.unpack_from(buffer.data)
    return int(tag), int(size)


def lent_notice(tag: int, size: int, where: str) -> np.ndarray:
    """Tells of a message of `size` bytes that lies in lent memory."""
    total = HEADER.size + len(where)
    header = HEADER.pack(MAGIC, VERSION, LENT_TAG, tag, 0, total, size)
    return np.frombuffer(header + where.encode(), np.uint8)


def read_lent(buffer: np.ndarray) -> tuple[int, int, str]:
    """(tag, size, where) of such a notice. Raises WireError for one that is cut."""
    _, _, _, tag, _, total, size = HEADER.unpack_from(buffer.data)
    if total != len(buffer):
        raise WireError(f"a notice says {total} bytes and has {len(buffer)}")
    return int(tag), int(size), bytes(buffer.data[HEADER.size :]).decode("ascii", "replace")


def tag_of(buffer: np.ndarray) -> int:
    """The tag in a message's header. Raises WireError on foreign bytes."""
    if len(buffer) < HEADER.size:
        raise WireError(f"message of {len(buffer)} bytes is shorter than its header")
    magic, _, tag, *_ = HEADER.unpack_from(buffer.data)
    if magic != MAGIC:
        raise WireError(f"message does not start with {MAGIC:#x}: the peer is not acceerl")
    return int(tag)


def _check_header(buffer: np.ndarray, tag: int | None) -> tuple[int, int]:
    """Where the fields and the shapes end."""
    if len(buffer) < HEADER.size:
        raise WireError(f"message of {len(buffer)} bytes is shorter than its header")
    magic, version, got_tag, fields, text, total, _ = HEADER.unpack_from(buffer.data)
    if magic != MAGIC:
        raise WireError(f"message does not start with {MAGIC:#x}: the peer is not acceerl")
    if version != VERSION:
        raise WireError(f"message has wire version {version}, this process speaks {VERSION}")
    if total != len(buffer) or not fields <= text <= total - HEADER.size:
        raise WireError(f"message says {total} bytes ({text} of them text) and has {len(buffer)}")
    if tag is not None and got_tag != tag:
        raise WireError(f"message has tag {got_tag}, expected {tag}")
    return HEADER.size + fields, HEADER.size + text


def _views(buffer: np.ndarray, at: int, shapes: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
    arrays = []
    for name, shape in shapes:
        at = at + ALIGN - 1 & -ALIGN  # so that views are aligned
        arrays.append(np.ndarray(shape, _dtype(name), buffer, at))
        at += arrays[-1].nbytes
    if at != len(buffer):
        raise WireError(f"array shapes need {at} bytes and the message has {len(buffer)}")
    return arrays


@cache
def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.hasobject:
        raise WireError("message carries Python objects")
    return dtype


class _Own(threading.local):
    """The arrays of the message that this thread writes or reads."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []


_own = _Own()


def _set_aside(value: Any) -> Any:
    """What msgspec does not know: arrays travel behind the text, which holds their numbers; numpy scalars are plain."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        _own.arrays.append(value)
        return len(_own.arrays) - 1
    if isinstance(value, np.generic):
        return value.item()
    kind = "an array of Python objects" if isinstance(value, np.ndarray) else type(value).__name__
    raise ValueError(f"{kind} cannot travel on a link")


_encoder = msgspec.msgpack.Encoder(enc_hook=_set_aside)
_read_shapes = msgspec.msgpack.Decoder(list[tuple[str, tuple[int, ...]]]).decode


def _fetch(kind: type, number: Any) -> np.ndarray:
    assert kind is np.ndarray, f"{kind} cannot travel on a link"
    if not isinstance(number, int) or number < 0:
        raise WireError(f"an array is named {number!r}")
    return _own.arrays[number]


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_fetch)
