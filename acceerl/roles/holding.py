"""How learner ranks hold the policy: each all of it, or each a part of every tensor. `HOLDINGS` decides by a word.

A pass through the policy, the sum of gradients, their norm and what is saved are all that differs; the trainer asks
for these and is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acceerl.channels.collective import Collective
from acceerl.protocols import Evaluation, Policy
from acceerl.roles.gradients import check_equal, share_state, sum_gradients
from acceerl.types import ObservationBatch

State = dict[str, Any]


class Whole:
    """Every rank holds the whole policy, and gradients are added up once an update."""

    divided = False

    def __init__(self, policy: Policy, collective: Collective, device: str) -> None:
        self.policy, self.collective, self.device = policy, collective, device

    def begin(self) -> None:
        """Rank 0's policy becomes that of all."""
        share_state(self.policy, self.collective)

    def evaluate(self, observations: ObservationBatch, tokens: Tensor) -> Evaluation:
        return self.policy.evaluate(observations, tokens)

    def recover(self) -> None:
        """After a pass that broke off."""

    def passes(self, batches: np.ndarray) -> int:
        """How many passes this rank makes in an update, of the numbers of micro-batches [ranks] that they have."""
        return int(batches[self.collective.rank])

    def accumulate(self, last: bool) -> None:
        """Before each pass: is it the last of an update?"""

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up gradients over ranks."""
        sum_gradients(parameters, self.collective)

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        """Scales gradients of a norm above `most` down to it; returns the norm before."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not norm <= most:  # torch's own clipping writes every gradient in any case
            _scale(gradients, most, norm)
        return norm

    def mine(self, parameter: nn.Parameter) -> Tensor:
        """What this rank holds of it."""
        return parameter.detach()

    def check(self, parameters: Iterable[nn.Parameter], update: int) -> None:
        """Raises RuntimeError naming a rank whose parameters are not the others'."""
        check_equal(parameters, self.collective, update)

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's tensors, whole, one after another; all ranks must go through them."""
        yield from _state(self.policy).items()

    def state(self, optimiser: torch.optim.Optimizer) -> State:
        return {"policy": _state(self.policy), "optimiser": optimiser.state_dict()}

    def load(self, state: State, optimiser: torch.optim.Optimizer) -> None:
        """Takes a state of ranks that held the policy whole, or of ranks that had divided it."""
        if "moments" in state:
            _read(state, self.policy, optimiser)
            return
        self.policy.load_state_dict(state["policy"])  # type: ignore[attr-defined]
        optimiser.load_state_dict(_fused(state["optimiser"]))


class Divided(Whole):
    """Every rank holds a part of every tensor (FSDP2), and all make as many passes: each gathers what it needs."""

    divided = True

    def __init__(self, policy: Policy, collective: Collective, device: str, *, release: bool) -> None:
        from acceerl.channels import collective_shards as shards

        super().__init__(policy, collective, device)
        super().begin()
        narrow: tuple[nn.Module, ...] = getattr(policy, "narrow_parts", tuple)()
        self.shards = shards
        self.module = shards.Divided(_Pass(policy), device, release, narrow)

    def begin(self) -> None:
        """Was done before the policy was divided."""

    def evaluate(self, observations: ObservationBatch, tokens: Tensor) -> Evaluation:
        return Evaluation(*self.module.forward(observations, tokens))  # type: ignore[operator]

    def recover(self) -> None:
        self.module.recover()

    def passes(self, batches: np.ndarray) -> int:
        return int(batches.max())

    def accumulate(self, last: bool) -> None:
        self.module.accumulate(last)

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """The last pass has done it."""

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        gradients = [self.shards.part(p.grad) for p in parameters if p.grad is not None]
        squares = float(torch.nn.utils.get_total_norm(gradients)) ** 2
        norm = float(self.collective.total({"squares": squares})["squares"]) ** 0.5
        if not norm <= most:
            _scale(gradients, most, norm)
        return norm

    def mine(self, parameter: nn.Parameter) -> Tensor:
        return self.shards.part(parameter)

    def check(self, parameters: Iterable[nn.Parameter], update: int) -> None:
        """No number is held twice."""

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.shards.whole(tensor)) for name, tensor in _state(self.policy).items())

    def state(self, optimiser: torch.optim.Optimizer) -> State:
        """The tensors stay divided; `stores.checkpoint` has them in files beside the rest."""
        tensors = _named(self.policy, optimiser)
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
        moments = [name for name, parameter in self.policy.trainable_parameters() if parameter in optimiser.state]
        return {"tensors": tensors, "moments": moments, "groups": groups}

    def load(self, state: State, optimiser: torch.optim.Optimizer) -> None:
        if "moments" in state:
            _read(state, self.policy, optimiser)
            return
        for name, mine in _state(self.policy).items():
            self.shards.place(mine, state["policy"][name])
        optimiser.load_state_dict(_fused(state["optimiser"]))
        for parameter, numbers in optimiser.state.items():
            numbers |= {key: self.shards.like(parameter, value) for key, value in numbers.items()}


class _Pass(nn.Module):
    """`evaluate` as a forward pass, since gathering hangs on those."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: ObservationBatch, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.policy.evaluate(observations, tokens)
        # not views: a hook on a view is lost when somebody writes into it
        return found.logp.clone(), found.logits.clone(), found.values.clone()


HOLDINGS: dict[str, Callable[[Policy, Collective, str], Whole]] = {
    "none": Whole,
    "zero2": partial(Divided, release=False),
    "zero3": partial(Divided, release=True),
}


def _scale(gradients: Iterable[Tensor], most: float, norm: float) -> None:
    factor = most / (torch.tensor(norm) + 1e-6)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device))


def _state(policy: Policy) -> dict[str, Tensor]:
    state: dict[str, Tensor] = policy.state_dict()  # type: ignore[attr-defined]
    return state


def _fused(optimiser: State) -> State:
    """An optimiser's state with the groups' implementation set to ours: checkpoints carry the one that they had."""
    groups = [{**group, "fused": True, "foreach": None} for group in optimiser["param_groups"]]
    return {**optimiser, "param_groups": groups}


def _named(policy: Policy, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The policy's tensors and the optimiser's, by names that do not depend on how ranks hold them."""
    named = {f"policy.{name}": tensor for name, tensor in _state(policy).items()}
    for name, parameter in policy.trainable_parameters():
        named |= {f"optimiser.{name}.{key}": value for key, value in optimiser.state.get(parameter, {}).items()}
    return named


def _read(state: State, policy: Policy, optimiser: torch.optim.Optimizer) -> None:
    """Fills policy and optimiser from the files of ranks that had divided them; `state["read"]` reads in place."""
    parameters = dict(policy.trainable_parameters())
    optimiser.state.clear()
    for name in state["moments"]:
        optimiser.state[parameters[name]] = _no_moments(parameters[name])
    state["read"](_named(policy, optimiser))
    for group, saved in zip(optimiser.param_groups, state["groups"], strict=True):
        group |= saved


def _no_moments(parameter: nn.Parameter) -> dict[str, Tensor]:
    """What AdamW begins with."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
