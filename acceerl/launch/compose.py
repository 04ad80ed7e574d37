"""The door of Hydra: YAML groups and overrides in, a checked `Config` out. Beside it only our plug-in imports hydra.

The schema's defaults come from config.py through Hydra's config store, so that a key has one home.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import acceerl
from acceerl.config import Config, from_dict, to_dict
from acceerl.config_reading import unknown_key
from acceerl.runtime.rundir import cannot_hold_runs

VERSION_BASE = "1.3"
_NO_SUCH_KEY = re.compile(r"Could not override '([^']+)'|is not in struct\s+full_key: (\S+)")
_FOLDER = re.compile(r"file://([^,\]'\"]+)")
_UNQUOTED = re.compile(r"at input '\[")
_STRUCTURAL = ("env", "policy", "suite", "name", "runs", "resume", "choices")  # what makes a run that run


def configs_folder() -> Path:
    """`acceerl/configs` in an installed wheel, `configs` beside the package in a checkout."""
    package = Path(acceerl.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no configs/config.yaml in {package} or beside it: reinstall acceerl")


def groups() -> dict[str, list[str]]:
    """Every configuration group and its choices."""
    folders = sorted(f for f in configs_folder().iterdir() if f.is_dir() and f.name != "hydra")
    return {f.name: sorted(p.stem for p in f.glob("*.yaml")) for f in folders}


def compose(job: str, overrides: Sequence[str]) -> Config:
    """The configuration of `job` under Hydra-style overrides (`env=libero`, `learner.lr=3e-4`).

    Raises ValueError, in one line, for an unknown key or choice or a value that the schema refuses.
    """
    _prepare()
    _check_searchpath(overrides)
    try:
        with hydra.initialize_config_dir(str(configs_folder()), job_name=job, version_base=VERSION_BASE):
            return to_config(hydra.compose("config", list(overrides), return_hydra_config=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error)) from error


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with single keys changed, as a resumed run takes them. Raises ValueError for anything else.

    Groups that the run was made with may be named again, so that one alias begins and continues it.
    """
    plain = OmegaConf.create(to_dict(config))
    OmegaConf.set_struct(plain, True)
    try:
        for text in overrides:
            _apply(plain, text)
        return from_dict(_plain(OmegaConf.to_container(plain, resolve=True)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error)) from error


def multirun(overrides: Sequence[str], point: Callable[[Config], int]) -> int:
    """Hydra's sweep: `point` once for each combination, each under a run name of its own.

    Returns 0; the first point that ends otherwise ends the sweep with its exit code.
    """
    _prepare()
    _check_searchpath(overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back to us, one line each, instead of Hydra's report

    begun = []

    def task(composed: DictConfig) -> str:
        config = _numbered(to_config(composed))
        begun.append(config.name)
        code = point(config)
        if code != 0:
            raise SystemExit(code)
        return str(Path(config.runs) / config.name)

    main = hydra.main(config_path=str(configs_folder()), config_name="config", version_base=VERSION_BASE)(task)
    argv, sys.argv = sys.argv, ["acceerl train", "--multirun", *overrides]  # hydra.main reads nothing else
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error)) from error
    except OSError as error:
        if begun or error.filename is None:
            raise
        raise ValueError(cannot_hold_runs(error.filename, error)) from error  # Hydra makes the folder of a sweep
    finally:
        sys.argv = argv
    return 0


def is_swept(text: str) -> bool:
    """Does an override give several values? Raises ValueError for what is no override."""
    try:
        return bool(OverridesParser.create().parse_overrides([text])[0].is_sweep_override())
    except HydraException as error:
        raise ValueError(explain(error)) from error


def to_config(composed: DictConfig) -> Config:
    """What Hydra composed, with the choices of the groups if it tells them (here or in its global record)."""
    told = composed.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return from_dict({**_plain(OmegaConf.to_container(ours, resolve=True)), "choices": _choices(told)})


def _choices(told: Any) -> dict[str, str]:
    chosen = told.runtime.choices if told is not None else {}
    return {group: choice for group, choice in chosen.items() if group in groups() and choice}


def _check_searchpath(overrides: Sequence[str]) -> None:
    """Hydra itself only warns of a folder that is not there, and of nothing that it then does not find."""
    for folder in (f for text in overrides if text.startswith("hydra.searchpath=") for f in _FOLDER.findall(text)):
        if not Path(folder).is_dir():
            raise ValueError(f"hydra.searchpath: {folder} is no folder: name one that holds GROUP/NAME.yaml")


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's messages as one line that names the key and what it may hold."""
    text = str(error)
    if match := _NO_SUCH_KEY.search(text):
        return _explain_key(match.group(1) or match.group(2))
    if isinstance(error, MissingConfigException) and error.options:
        missing = (error.missing_cfg_file or "").split("/")
        choices = ", ".join(sorted(error.options))
        return (f"{missing[0]}={missing[-1]} is not known: choose from {choices}, or name the folder that holds "
                f"{missing[0]}/{missing[-1]}.yaml: 'hydra.searchpath=[file://FOLDER]'")  # fmt: skip
    told = re.sub(r"\s+", " ", text).strip()
    if isinstance(error, OverrideParseException) and _UNQUOTED.search(told):
        key, _, value = error.override.partition("=")
        quoted = ",".join(f'"{part.strip()}"' for part in value.strip("[]").split(","))
        return f"{error.override} cannot be read: texts with signs need quotes: '{key}=[{quoted}]'"
    return told


def _explain_key(key: str) -> str:
    if key.split(".")[0] in ("env", "policy") and "." in key:  # plug-ins take arguments that no schema knows
        return f"unknown configuration key {key} (to pass a new argument to the plug-in: +{key}=...)"
    group, _, leaf = key.rpartition(".")
    below = [
        name for name in _keys_of(to_dict(Config()), "") if name.startswith(f"{group}.") and name.endswith(f".{leaf}")
    ]
    if below and group:
        return f"unknown configuration key {key}: did you mean {' or '.join(below)}?"
    return unknown_key(key, _keys_beside(key))


def _keys_of(record: dict[str, Any], at: str) -> list[str]:
    inner = [
        _keys_of(value, f"{at}{name}.") if isinstance(value, dict) else [f"{at}{name}"]
        for name, value in record.items()
    ]
    return [key for keys in inner for key in keys]


def _keys_beside(key: str) -> list[str]:
    """The keys of the deepest group that `key` names rightly, in full."""
    record, prefix = to_dict(Config()), ""
    for part in key.split(".")[:-1]:
        if not isinstance(record.get(part), dict):
            break
        record, prefix = record[part], f"{prefix}{part}."
    names = {f"{prefix}{name}" for name in record}
    return sorted(names if prefix else names | groups().keys())


def _prepare() -> None:
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name="schema", node=to_dict(Config()))
    OmegaConf.register_new_resolver("given", _given, replace=True)


def _given(text: str) -> str | None:
    """For configs of launchers, where null is a site's default and an empty text would be passed on."""
    return text or None


def _apply(plain: DictConfig, text: str) -> None:
    parsed = OverridesParser.create().parse_overrides([text])[0]
    key = parsed.key_or_group
    if parsed.is_add() or parsed.is_delete() or parsed.is_sweep_override():
        raise ValueError(f"{text}: a resumed run takes plain KEY=VALUE overrides only")
    kept = plain.choices.get(key) if key in groups() else OmegaConf.select(plain, key)
    fixed = key in groups() or key.split(".")[0] in _STRUCTURAL
    if fixed and parsed.value() != kept:
        raise ValueError(f"{text}: a resumed run keeps its {key}{f'={kept}' if kept else ''}; leave it out (acceerl "
                         "train resume=RUN continues as it was), or start a new run to change it")  # fmt: skip
    if not fixed and key != "hydra.searchpath":  # whose groups have been read when the run was made
        OmegaConf.update(plain, key, parsed.value())


def _numbered(config: Config) -> Config:
    """One run directory a point: NAME-0, NAME-1, ...; points of an array may begin in the same second."""
    name = config.name or time.strftime("%Y-%m-%d_%H-%M-%S")
    return from_dict({**to_dict(config), "name": f"{name}-{HydraConfig.get().job.num}"})


def _plain(value: Any) -> Any:
    """Keys as text all the way down (YAML reads `1: x` as a number), so that the run's config reads back equal."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value
