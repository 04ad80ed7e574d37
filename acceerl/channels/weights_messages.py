"""What the two ends of a weights link say to each other; weights.py and weights_reader.py hold the ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pull:
    """Reader -> publisher: send me anything but this version (-1: I have none), in pieces or where you have it."""

    version: int
    machine: str  # where I am; "": send pieces in any case


@dataclass(frozen=True, slots=True)
class Back:
    """Reader -> publisher: the memory of this address is not mine any more."""

    address: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Publisher -> reader: this version lies at `address`, or follows in pieces when that is empty."""

    version: int
    layout: str
    checksum: str = ""  # of pieces: XXH3, 64 bits, of all bytes; empty: a Seal follows
    address: str = ""


@dataclass(frozen=True, slots=True)
class Seal:
    """Publisher -> reader: the checksum of the pieces, before or behind the last of them."""

    checksum: str
