"""The command line: words to a command of commands.py, which is configured by Hydra-style overrides.

Users' mistakes end in one line on stderr and exit code 2; a crash shows its traceback and ends with 1.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import acceerl
from acceerl.bench.options import twice
from acceerl.launch.commands import COMMANDS, Command
from acceerl.launch.helping import help_of, overview

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRONG_INPUT = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
GPU_FULL = "lower pretrain.batch, learner.micro_batch or evaluator.envs, or choose a larger GPU"
USER_ERROR, CRASH, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # here a closed pipe can still be told from a crash
        return code
    except WRONG_INPUT as error:
        return _one_line(error)
    except BrokenPipeError:  # `| head` has seen enough; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("acceerl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever it was, the exit code must say crash
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _one_line(error)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported yet
            return _one_line(ValueError(f"{str(error).partition('.')[0]}: {GPU_FULL}"))
        traceback.print_exc()
        return CRASH


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"acceerl {acceerl.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name}: choose from {', '.join(COMMANDS)}")
    parsed = _parser(name).parse_intermixed_args(rest)
    if parsed.help:
        print(help_of(name, parsed.words))
        return 0
    _check_words(name, parsed)
    return COMMANDS[name].handler(parsed)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"acceerl {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("words", nargs="*")
    if COMMANDS[name].job:
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("-m", "--multirun", action="store_true")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(f"{self.prog}: {message} (see {self.prog} --help)")


def _check_words(name: str, parsed: argparse.Namespace) -> None:
    """Splits positional words from overrides or options and refuses what the command does not take."""
    command = COMMANDS[name]
    parsed.options, parsed.words = _options(command, parsed.words)
    expected = command.words[: len(parsed.words)] if command.optional else command.words
    parsed.command, parsed.overrides = name, parsed.words[len(expected) :]
    parsed.words = parsed.words[: len(expected)]
    for i, (word, choices) in enumerate(expected):
        given = parsed.words[i] if i < len(parsed.words) else ""
        if not given or (choices and given not in choices):
            wanted = ", ".join(choices) if choices else word.upper()
            raise ValueError(f"acceerl {name}: {given or 'a word is missing'}: give {word} as one of {wanted}"
                             if choices else f"acceerl {name}: give {wanted} (see acceerl {name} --help)")  # fmt: skip
    if parsed.overrides and not (command.job or command.own_keys):
        keys = f" (its keys: {', '.join(parsed.options)})" if parsed.options else ""
        raise ValueError(f"acceerl {name} takes no further words, got {' '.join(parsed.overrides)}{keys}")
    if not command.paths and parsed.overrides and "=" not in (first := parsed.overrides[0]) and first[:1] != "~":
        raise ValueError(f"{first} is no override: write KEY=VALUE (see acceerl {name} --help)")


def _options(command: Command, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options of a command that is no job, and the words that are none of them."""
    defaults = {key: default for key, default, _ in command.options}
    given: dict[str, str] = {}
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in defaults:
            others.append(word)
        elif key in given:
            raise ValueError(twice(key))
        else:
            given[key] = value
    return defaults | given, others


def _one_line(error: BaseException) -> int:
    if os.environ.get("ACCEERL_TRACEBACK"):
        traceback.print_exc()
    print(f"acceerl: error: {' '.join(_said(error).split())}", file=sys.stderr)
    return USER_ERROR


def _said(error: BaseException) -> str:
    """The system's own errors begin with a number that nobody knows by heart."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)
