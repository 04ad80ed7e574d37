"""The command line: one table of commands; each is configured by Hydra-style overrides and imported when called.

Users' mistakes end in one line on stderr and exit code 2; a crash shows its traceback and ends with 1.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import acceerl
from acceerl.bench.catalogue import BENCHES
from acceerl.bench.options import twice

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRONG_INPUT = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
USER_ERROR, CRASH, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True)
class Command:
    """`keys`: the groups of the schema that its help lists; `words`: positional words before the overrides.

    A command that is no job takes `options` (KEY=VALUE) in place of overrides.
    """

    help: str
    handler: Callable[[argparse.Namespace], int]
    example: str
    keys: tuple[str, ...] = ()
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name, choices; none: anything)
    job: bool = True  # takes overrides
    options: tuple[tuple[str, str, str], ...] = ()  # (key, default, meaning)
    optional: bool = False  # its words may be left out
    own_keys: bool = False  # parses its KEY=VALUE words itself


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except WRONG_INPUT as error:
        return _one_line(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            traceback.print_exc()
            return CRASH
        return _one_line(error)
    except KeyboardInterrupt:
        print("acceerl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - the outermost frame: whatever it was, the exit code must say crash
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
        print(_bench_help(parsed.words) if name == "bench" else command_help(name))
        return 0
    _check_words(name, parsed)
    return COMMANDS[name].handler(parsed)


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


def command_help(name: str) -> str:
    """Usage, groups with their choices, and every key with its default."""
    command = COMMANDS[name]
    words = "".join(f" {'|'.join(choices) or word.upper()}" for word, choices in command.words)
    words = f" [{words.strip()}]" if command.optional else words
    lines = [f"usage: acceerl {name}{words}{_flags(name)}", "", command.help, "", f"example: {command.example}"]
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
            return f"{own} [launch=slurm and overrides of a training]"
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
    if parsed.overrides and "=" not in (first := parsed.overrides[0]) and not first.startswith("~"):
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
    print(f"acceerl: error: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR


def _train(parsed: argparse.Namespace) -> int:
    from acceerl.launch import sweep, train
    from acceerl.launch.compose import multirun

    if parsed.multirun:
        if any(text.startswith("resume=") for text in parsed.overrides):
            raise ValueError("resume= continues one run: leave -m out")
        if not parsed.dry_run and sweep.wanted(parsed.overrides):
            return sweep.command(parsed.overrides)
        return multirun(parsed.overrides, _dry_train if parsed.dry_run else train.start)
    config, resumed = train.prepare("train", parsed.overrides)
    return _dry_train(config) if parsed.dry_run else train.start(config, resumed)


def _dry_train(config: Any) -> int:
    from acceerl.launch.train import describe

    print(describe(config))
    return 0


def _job(parsed: argparse.Namespace, overrides: list[str]) -> int:
    """Jobs that run in this process: `acceerl.jobs.NAME:run(config, run)`."""
    from acceerl.launch.train import prepare

    if any(text.startswith("json=") for text in overrides):
        raise ValueError(f"acceerl {parsed.command} writes no json=: leave it out (train, bench and doctor do)")
    if parsed.multirun:
        return _points(parsed, overrides)
    config, resumed = prepare(parsed.command, overrides)
    if parsed.dry_run:
        print(f"{parsed.command} of {config.suite} in one process on this machine; no links")
        return 0
    return _run_job(parsed.command, config, resumed)


def _points(parsed: argparse.Namespace, overrides: list[str]) -> int:
    """One after the other here, or with hydra/launcher=array as an array of Slurm jobs."""
    from acceerl.launch import sweep
    from acceerl.launch.compose import multirun

    if any(text.startswith("resume=") for text in overrides) or parsed.dry_run:
        raise ValueError(f"acceerl {parsed.command} -m takes neither resume= nor --dry-run")
    if sweep.LAUNCHER in overrides:
        raise ValueError(f"{sweep.LAUNCHER} is train's: use hydra/launcher=array")
    return multirun(overrides, partial(_run_job, parsed.command))


def _run_job(command: str, config: Any, resumed: Any = None) -> int:
    from acceerl.launch.train import open_run

    run: Callable[..., int] = importlib.import_module(f"acceerl.jobs.{command}").run
    opened = open_run(config, resumed)
    with opened.given_back_unless_begun():
        return run(config, opened)


def _plain_job(parsed: argparse.Namespace) -> int:
    return _job(parsed, parsed.overrides)


def _pretrain(parsed: argparse.Namespace) -> int:
    return _job(parsed, [*parsed.overrides, f"pretrain.what={parsed.words[0]}"])


def _report(parsed: argparse.Namespace) -> int:
    from acceerl.runtime.rundir import Run

    run = Run.open(parsed.words[0])
    importlib.import_module("acceerl.jobs.report").run(run.path)
    print(run.report)
    return 0


def _beside(parsed: argparse.Namespace) -> int:
    """Commands that look at runs and machines from outside: `acceerl.launch.NAME:command(words, options)`."""
    command: Callable[..., int] = importlib.import_module(f"acceerl.launch.{parsed.command}").command
    return command(parsed.words, parsed.options)


def _doctor(parsed: argparse.Namespace) -> int:
    """Of this machine; with launch=slurm and a training's other overrides, of each component that it would get."""
    if not parsed.overrides:
        return _beside(parsed)
    if "launch=slurm" not in parsed.overrides:
        words, keys = " ".join(parsed.overrides), ", ".join(parsed.options)
        raise ValueError(f"acceerl doctor takes no further words, got {words} (its keys: {keys}; with launch=slurm the "
                         "overrides of a training, too)")  # fmt: skip
    from acceerl.launch.doctor_cluster import doctor

    return doctor(parsed.overrides, Path(parsed.options["runs"]), parsed.options["json"])


def _data(parsed: argparse.Namespace) -> int:
    from acceerl.launch import data

    return {"inspect": data.inspect, "validate": data.validate}[parsed.words[0]](parsed.words[1])


def _bench(parsed: argparse.Namespace) -> int:
    from acceerl.bench import catalogue

    catalogue.run(parsed.words[0], parsed.overrides)
    return 0


def _bench_help(words: list[str]) -> str:
    """`acceerl bench NAME --help` is about that bench."""
    from acceerl.bench import catalogue

    if words and words[0] in catalogue.BENCHES:
        return catalogue.help_text(words[0])
    return "\n".join([command_help("bench"), "", "benches (each has a --help of its own):", *catalogue.overview()])


_TRAINING = ("algo", "learner", "replay", "inference", "rollout", "evaluator", "deadlines", "supervisor", "tracking",
             "placement", "slurm", "sweep", "site")  # fmt: skip
_OF_TRAINING = ("json", "schedule", "channels", "launch", "tracker")  # what no other job reads
COMMANDS: dict[str, Command] = {
    "train": Command(
        "reinforcement learning: rollouts, inference and learner as processes of this machine or of a Slurm job",
        _train, "acceerl train experiment=tabletop_spatial", _TRAINING,
    ),
    "evaluate": Command(
        "success table and videos of a policy on the evaluation states",
        _plain_job, "acceerl evaluate env=tabletop start=tabletop_spatial", ("evaluator", "inference"),
    ),
    "collect": Command(
        "episodes of the scripted expert or a policy into HDF5 shards",
        _plain_job, "acceerl collect env=tabletop collect.episodes=100 collect.to=data/spatial", ("collect",),
    ),
    "pretrain": Command(
        "a starting policy by behaviour cloning from HDF5 shards",
        _pretrain, "acceerl pretrain policy pretrain.data=data/spatial", ("pretrain",),
        words=(("what", ("policy",)),),
    ),
    "data": Command(
        "look at HDF5 trajectories, or check them (findings on stdout; exit code 1 when there are any)",
        _data, "acceerl data validate data/spatial", words=(("what", ("inspect", "validate")), ("path", ())), job=False,
    ),
    "bench": Command(
        "how fast this machine runs: links, training, environments, weights, trajectories; JSON with json=PATH",
        _bench, "acceerl bench links json=links.json", words=(("name", tuple(BENCHES)),), job=False, own_keys=True,
    ),
    "report": Command(
        "one HTML page about a run", _report, "acceerl report runs/NAME", words=(("run", ()),), job=False,
    ),
    "watch": Command(
        "a live table of a training's processes; ends with it, with 0 done, 75 stopped, 1 failed or lost",
        _beside, "acceerl watch runs/NAME", words=(("run", ()),), job=False,
        options=(("once", "false", "true: one table, then end"), ("every", "2", "seconds between two looks")),
    ),
    "ps": Command(
        "one line per training below runs/", _beside, "acceerl ps", words=(("runs", ()),), job=False, optional=True,
        options=(("runs", "runs", "the folder"),),
    ),
    "stop": Command(
        "ask a training for a checkpoint and to leave, and wait for both", _beside, "acceerl stop runs/NAME",
        words=(("run", ()),), job=False,
    ),
    "join": Command(
        "more rollouts for a running training, which may come and go at any time",
        _beside, "acceerl join runs/NAME processes=8 nodes=2 partition=preempt", words=(("run", ()),), job=False,
        options=(("processes", "2", "rollouts on each node"), ("nodes", "1", "one job each, with launch=slurm"),
                 ("launch", "", "local or slurm; empty: as the training"),
                 ("minutes", "", "time limit of the jobs; empty: the training's slurm.minutes"),
                 ("partition", "", "empty: the training's site.cpu.partition")),
    ),
    "doctor": Command(
        "check this machine, or with launch=slurm each node type of a job, and say what to do; exit code 1: a failure",
        _doctor, "acceerl doctor", job=False, own_keys=True,
        options=(("runs", "runs", "where runs will be written"), ("json", "", "file for the findings as JSON")),
    ),
}  # fmt: skip
