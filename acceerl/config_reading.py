"""Plain data to nested records, and the error that names a wrong key. No key is known here: they stand in config.py."""

from __future__ import annotations

import difflib
import math
import types
import typing
from dataclasses import is_dataclass
from typing import Any, Literal


def read(cls: type, data: Any, at: str = "") -> Any:
    """Plain data as a record of `cls`; `at` is the dotted group it stands in. Raises ValueError naming the full key."""
    if not isinstance(data, dict):
        raise ValueError(f"{at.rstrip('.')} must be a group of keys, got {data!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in data:
        if key not in hints:
            raise ValueError(unknown_key(f"{at}{key}", [f"{at}{name}" for name in hints]))
    return cls(**{key: _value(hints[key], value, f"{at}{key}") for key, value in data.items()})


def unknown_key(key: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(key, choices, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(choices))}"
    return f"unknown configuration key {key}: {hint}"


def _value(hint: Any, value: Any, key: str) -> Any:
    if typing.get_origin(hint) is typing.Annotated:  # a number, or a word that means 0
        hint, word = typing.get_args(hint)
        value = 0 if value == word else value
    if is_dataclass(hint):
        return read(typing.cast(type, hint), value, f"{key}.")
    if typing.get_origin(hint) is Literal:
        return _choice(typing.get_args(hint), value, key)
    if typing.get_origin(hint) is list:
        (of,) = typing.get_args(hint)
        return [_typed(of, item, f"{key}[{i}]") for i, item in enumerate(_typed(list, value, key))]
    if isinstance(hint, types.GenericAlias):  # dict[str, ...]: a plug-in with its arguments
        return _typed(dict, value, key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _typed(hint, value, key)


def _choice(choices: tuple[Any, ...], value: Any, key: str) -> Any:
    if value not in choices:
        raise ValueError(f"{key}={value} is not known: choose from {', '.join(map(str, choices))}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a group of keys",
          list: "a list"}  # fmt: skip


def _typed(cls: type, value: Any, key: str) -> Any:
    if not isinstance(value, cls) or (cls is int and isinstance(value, bool)):
        raise ValueError(f"{key} must be {_NAMES.get(cls, cls.__name__)}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, got {value}")
    return value


def look_up(config: Any, key: str) -> Any:
    """`look_up(config, "learner.lr")`."""
    for part in key.split("."):
        config = getattr(config, part)
    return config
