"""What `--help` prints, of everything and of each command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import acceerl
from acceerl.launch.commands import COMMANDS

_OF_TRAINING = ("json", "schedule", "channels", "launch", "tracker")  # what no other job reads


def help_of(name: str, words: list[str]) -> str:
    """Of a command; where `words` name a verb of `data` or a bench, of that."""
    own = {"bench": _bench_help, "data": _data_help}.get(name)
    return own(words) if own else command_help(name, *words[:1])


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: acceerl COMMAND [KEY=VALUE ...]      acceerl COMMAND --help shows the keys of a command", "",
        acceerl.__doc__ or "", "", *lines, "",
        "examples:", *[f"  {command.example}" for command in COMMANDS.values()], "",
        "exit codes: 0 done, 75 asked to stop (resume=RUN continues), 2 wrong input, 130 interrupted (Ctrl-C),",
        "1 crash; and what was checked is not in order (data validate, doctor: their findings go to stdout)",
        "ACCEERL_TRACEBACK=1 shows where a wrong input was found",
    ])  # fmt: skip


def command_help(name: str, word: str = "") -> str:
    """Usage, groups with their choices, and every key with its default; the example is of the first `word` after it."""
    command = COMMANDS[name]
    example = dict(command.others).get(word, command.example)
    words = "".join(f" {'|'.join(choices) or word.upper()}" for word, choices in command.words)
    words = f" [{words.strip()}]" if command.optional else words
    lines = [f"usage: acceerl {name}{words}{_flags(name)}", "", command.help, "", f"example: {example}"]
    if command.job:
        lines += ["", "groups (GROUP=CHOICE):", *_group_lines(), "", "keys and their defaults (KEY=VALUE):"]
        lines += _key_lines(command.keys, trains=name == "train")
    if command.options:
        lines += ["", "keys and their defaults (KEY=VALUE):"]
        lines += [f"  {f'{key}={default}':<12} {meaning}" for key, default, meaning in command.options]
    return "\n".join(lines)


def _flags(name: str) -> str:
    if not COMMANDS[name].job:
        own = " [KEY=VALUE ...]" if COMMANDS[name].options else ""
        if name == "doctor":
            return f"{own} [site.KEY=VALUE, or launch=slurm and overrides of a training]"
        if COMMANDS[name].paths:
            return " PATH [PATH ...] [KEY=VALUE ...]"
        return " [KEY=VALUE ...] [json=PATH]" if COMMANDS[name].own_keys else own
    return " [KEY=VALUE ...] [--dry-run] [-m]"


def _group_lines() -> list[str]:
    from acceerl.launch.compose import groups

    return [f"  {group:<12} {', '.join(choices)}" for group, choices in groups().items()]


def _key_lines(keys: tuple[str, ...], trains: bool) -> list[str]:
    from acceerl.config import Config, to_dict

    lines = []
    for key, value in to_dict(Config()).items():
        if isinstance(value, dict) and key in keys:
            lines += [f"  {name}={_shown(default)}" for name, default in _flat(key, value)]
        elif not isinstance(value, dict) and (trains or key not in _OF_TRAINING):
            lines.append(f"  {key}={_shown(value)}")
    return lines


def _flat(prefix: str, record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", value


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _data_help(words: list[str]) -> str:
    """`acceerl data VERB --help` is about that verb."""
    from acceerl.launch import data

    about = data.help_text(words[0] if words else "")
    return about if words and words[0] in data.VERBS else f"{command_help('data')}\n\n{about}"


def _bench_help(words: list[str]) -> str:
    """`acceerl bench NAME --help` is about that bench."""
    from acceerl.bench import catalogue

    if words and words[0] in catalogue.BENCHES:
        return catalogue.help_text(words[0])
    return "\n".join([command_help("bench"), "", "benches (each has a --help of its own):", *catalogue.overview()])
