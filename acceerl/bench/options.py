"""KEY=VALUE words to the options of a bench or a verb of `data`: a small dataclass each, checked as the config is."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

Record = TypeVar("Record")
_KINDS = {int: "a whole number", float: "a number"}


def option(default: Any, about: str, *, least: float | None = None, choices: Sequence[str] = ()) -> Any:
    """A field of an options dataclass: `about` is its help, `least` its smallest value, `choices` what it may hold.

    A tuple as default takes a comma-separated list.
    """
    return dataclasses.field(default=default, metadata={"about": about, "least": least, "choices": tuple(choices)})


def parse(cls: type[Record], command: str, words: Sequence[str], others: Sequence[str] = ("json",)) -> Record:
    """`command` takes the words, and `others`, which its caller has read.

    Raises ValueError, in one line, for a key that is unknown or given twice, and for a value that cannot be.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        if key not in fields:
            raise ValueError(_unknown(key, command, list(fields), others))
        if key in given:
            raise ValueError(twice(key))
        given[key] = _checked(f"{command.split(' ', 1)[-1]}'s {key}", hints[key], text, fields[key].metadata)
    return cls(**given)


def twice(key: str) -> str:
    return f"{key} is given twice: keep one {key}="


def describe(cls: type) -> list[str]:
    """One line an option: `KEY=DEFAULT  what it does`."""
    fields = dataclasses.fields(cls)
    shown = [f"{f.name}={_shown(f.default)}" for f in fields]
    width = max(map(len, shown), default=0)
    return [f"  {text:<{width}}  {f.metadata['about']}" for text, f in zip(shown, fields, strict=True)]


def _unknown(key: str, command: str, known: list[str], others: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    choices = ", ".join(sorted([*known, *others])) or "nothing: it has no options"
    hint = f"did you mean {close[0]}?" if close else f"choose from {choices}"
    return f"unknown option {key} of {command}: {hint}"


def _checked(name: str, hint: Any, text: str, rules: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(_chosen(name, part, rules["choices"]) for part in text.split(","))
    if hint is str:
        return _chosen(name, text, rules["choices"])
    try:
        number = hint(text)
    except ValueError:
        raise ValueError(f"{name} must be {_KINDS[hint]}, got {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {text}")
    if rules["least"] is not None and not number >= rules["least"]:
        raise ValueError(f"{name} must be at least {rules['least']:g}, got {text}")
    return number


def _chosen(name: str, text: str, choices: tuple[str, ...]) -> str:
    if choices and text not in choices:
        raise ValueError(f"{name} cannot be {text!r}: choose from {', '.join(choices)}")
    return text


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
