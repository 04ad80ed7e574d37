"""The file of `json=PATH`, which several commands take: refused before minutes of work, not after them."""

from __future__ import annotations

import os
from pathlib import Path


def json_file(text: str) -> Path:
    """The file that `json=PATH` names. Raises ValueError when nothing can be written there."""
    path = Path(text)
    if not text or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"json={text}: give a file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"json={text}: you may not write there, give another file")
    return path
