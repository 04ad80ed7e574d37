"""Files that are whole or absent: fsync, rename, checksum. The three stores share these few functions."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Forces a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(beside: Path, final: Path) -> None:
    """Renames what was written beside to its final name, so that a reader sees all of it or nothing."""
    sync(beside)
    beside.rename(final)
    sync(final.parent)


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` atomically; writers that race leave one of their versions, never a mixture."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    beside.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    sync(beside)
    beside.replace(path)
    sync(path.parent)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
