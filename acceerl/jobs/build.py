"""The only factory: turns configuration entries into environments, policies and specs."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acceerl.config import Config, Plugin
from acceerl.protocols import Env, Expert, PolicySpec
from acceerl.runtime.rundir import Run
from acceerl.types import EnvSpec

if TYPE_CHECKING:  # rollout processes build environments only and must not load torch
    from acceerl.protocols import Policy
SPEC_FILE = "spec.json"
BRINGS = ("checkpoint", "random")  # settings of a policy that comes with weights of its own, or says that it has none
RANDOM = "random"  # start=random: fresh weights, for whoever must say that they are meant


def locate(target: str) -> Any:
    """The class that `_target_` names. Raises ValueError naming what could not be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except RuntimeError as error:  # a simulator without its GL library says so on import
        raise ValueError(str(error)) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_: {target} cannot be imported ({error}): give it as module.Class") from error


def instantiate(plugin: Plugin, group: str, *args: Any) -> Any:
    """Calls the plug-in's class with its own keys. Raises ValueError for a key that the class does not take."""
    cls = locate(plugin["_target_"])
    kwargs = {key: value for key, value in plugin.items() if key != "_target_"}
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(inspect.signature(cls).parameters)
        raise ValueError(f"{group}: {plugin['_target_']} does not fit ({error}); it takes {takes}") from error
    _check_types(cls, kwargs, group)
    return cls(*args, **kwargs)


def _check_types(cls: Any, kwargs: dict[str, Any], group: str) -> None:
    """A value must be of its default's type, where that is a plain one: `policy.width=big` ends here."""
    for name, value in kwargs.items():
        wanted = type(inspect.signature(cls).parameters[name].default)
        if wanted is float and isinstance(value, int):
            continue
        if wanted in (int, float, str, bool) and not isinstance(value, wanted):
            raise ValueError(f"{group}.{name} must be of type {wanted.__name__}, got {value!r}")


def refuse_unasked(config: Config, what: str) -> None:
    """Whoever forgets `start=` would find out after hours that an untrained policy has played. Raises ValueError."""
    brings = any(config.policy.get(key) for key in BRINGS)
    if config.policy and not (config.start or brings):
        raise ValueError(f"{what} without start= plays random weights: give start=FILE, or start={RANDOM} to mean it")


def make_env(config: Config) -> Env:
    if not config.env:
        raise ValueError("no env is configured: add env=tabletop (or another file of configs/env/)")
    env: Env = instantiate(config.env, "env")
    return env


def env_spec(config: Config) -> EnvSpec:
    """What the configured environment shows; it is made and closed for the question."""
    env = make_env(config)
    try:
        return env.spec
    finally:
        env.close()


def make_expert(config: Config, env: Env) -> Expert:
    """The scripted expert that the env's configuration names (`collect.expert`)."""
    if not config.collect.expert:
        raise ValueError(f"{config.env['_target_']} has no scripted expert: use collect.by=policy or collect.expert")
    expert: Expert = instantiate(config.collect.expert, "collect.expert", env)
    return expert


def policy_spec(config: Config, spec: EnvSpec) -> PolicySpec:
    return PolicySpec(
        chunk=config.policy["chunk"],
        action_dim=spec.action_dim,
        bins=config.policy["bins"],
        cameras=spec.cameras,
        image_size=spec.image_size,
        proprio=spec.proprio,
    )


def make_policy(config: Config, spec: EnvSpec, start: str | Path | None = None, device: str = "cpu") -> Policy:
    """The configured policy with weights from `start` (default: `config.start`; empty or RANDOM: fresh ones).

    Raises ValueError when the weights belong to another policy, or when there is no such device.
    """
    if not config.policy:
        raise ValueError("no policy is configured: add policy=tiny (or another file of configs/policy/)")
    use(device)
    own = {key: value for key, value in config.policy.items() if key not in ("chunk", "bins")}
    policy: Policy = instantiate(own, "policy", policy_spec(config, spec))
    where = config.start if start is None else start
    if where and where != RANDOM:
        load_weights(policy, where)
    policy.to(device)  # type: ignore[attr-defined]
    return policy


def check_compiled(config: Config) -> None:
    """Raises ValueError when learner.compile is asked for of a policy that has nothing to compile."""
    if config.learner.compile and not hasattr(locate(config.policy["_target_"]), "blocks"):
        raise ValueError(f"learner.compile=true: {config.policy['_target_']} has no `blocks`: leave it out")


def compiled(policy: Policy) -> Policy:
    """The same policy with each of its blocks compiled when it first runs.

    Block by block: equal ones share what the compiler made, and what gathers or recomputes a block stays around it.
    """
    import torch

    for block in policy.blocks():  # type: ignore[attr-defined]
        block.forward = torch.compile(block.forward)
    return policy


def use(device: str) -> None:
    """Makes a GPU this process' own: streams, graphs and page-locked memory are of the current one.

    Raises ValueError when this machine has no such device.
    """
    import torch

    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device {device} is unknown: choose cpu, cuda or cuda:NUMBER")
    if kind == "cpu":
        return
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise ValueError(f"device {device}, but torch {torch.__version__} sees {count} GPUs here: set it to cpu")
    if number:
        torch.cuda.set_device(device)


def release(device: str) -> None:
    """Gives back what a policy that is not used any more held; it and its recorded graphs refer to each other."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()


def load_weights(policy: Policy, where: str | Path) -> None:
    """Copies weights from a file, or from a starting policy of the package by its name, into `policy`.

    Raises ValueError naming the file and the difference when they belong to another policy.
    """
    from acceerl.policies.saved import load_into, shipped

    load_into(policy, Path(where) if Path(where).suffix else shipped(str(where)))


def spec_to_dict(spec: EnvSpec) -> dict[str, Any]:
    """Plain data of a spec, so that processes need no simulator to know it."""
    plain = dataclasses.asdict(spec)
    for key in ("train_states", "eval_states"):
        plain[key] = [plain[key].start, plain[key].stop]
    return plain


def spec_from_dict(plain: dict[str, Any]) -> EnvSpec:
    ranges = {key: range(*plain[key]) for key in ("train_states", "eval_states")}
    tuples = {k: tuple(plain[k]) for k in ("cameras", "image_size", "instructions", "step_limits")}
    return EnvSpec(**(plain | ranges | tuples))


def write_spec(run: Run, spec: EnvSpec) -> None:
    (run.path / SPEC_FILE).write_text(json.dumps(spec_to_dict(spec), indent=1) + "\n")


def read_spec(run: Run) -> EnvSpec:
    return spec_from_dict(json.loads((run.path / SPEC_FILE).read_text()))
