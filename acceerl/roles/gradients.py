"""What learner ranks share of their tensors: summed gradients, rank 0's start, and a check that nobody drifted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from acceerl.channels.collective import Collective
from acceerl.protocols import Policy

BUCKET = 1 << 24  # entries; a few large messages are fast and need little memory beside the gradients


def sum_gradients(parameters: Sequence[torch.nn.Parameter], collective: Collective, bucket: int = BUCKET) -> None:
    """Adds up the gradients of all ranks in flat float32 buckets, in place.

    A parameter without a gradient on any rank keeps none, so that the optimiser leaves it alone as it would on one
    rank; one that has a gradient somewhere gets it everywhere.
    """
    if collective.size == 1:
        return
    for group in _buckets(parameters, bucket):
        flat = torch.cat([part for p in group for part in _flat(p)])
        collective.all_reduce(flat)
        _scatter(group, flat)


def share_state(policy: Policy, collective: Collective) -> None:
    """Copies rank 0's parameters and buffers to every rank."""
    if collective.size > 1:
        for tensor in _state(policy).values():
            collective.broadcast(tensor)


def check_equal(parameters: Iterable[torch.nn.Parameter], collective: Collective, update: int) -> None:
    """Raises RuntimeError naming the ranks whose parameters are not bit for bit rank 0's."""
    if collective.size == 1:
        return
    sums = collective.total({"sums": collective.mine(_fingerprint(parameters))})["sums"]
    differ = [f"learner[{rank}]" for rank in range(collective.size) if sums[rank] != sums[0]]
    if differ:
        raise RuntimeError(
            f"{', '.join(differ)} drifted from learner[0]: other parameters at update {update}; "
            "restarting all ranks from the checkpoint"
        )


def _state(policy: Policy) -> dict[str, Tensor]:
    state: dict[str, Any] = policy.state_dict()  # type: ignore[attr-defined]
    return state


def _buckets(parameters: Sequence[torch.nn.Parameter], entries: int) -> Iterator[list[torch.nn.Parameter]]:
    group: list[torch.nn.Parameter] = []
    held = 0
    for parameter in parameters:
        if group and held + parameter.numel() > entries:
            yield group
            group, held = [], 0
        group.append(parameter)
        held += parameter.numel()
    if group:
        yield group


def _flat(parameter: torch.nn.Parameter) -> tuple[Tensor, Tensor]:
    """The gradient as one row, and a 1 that says that there is one."""
    grad, where = parameter.grad, parameter.device
    if grad is None:
        return torch.zeros(parameter.numel(), device=where), torch.zeros(1, device=where)
    return grad.detach().reshape(-1).float(), torch.ones(1, device=where)


def _scatter(group: Sequence[torch.nn.Parameter], flat: Tensor) -> None:
    parts = flat.split([n for p in group for n in (p.numel(), 1)])
    there = torch.cat(parts[1::2]).tolist()  # one look at the device for all
    for parameter, part, ranks in zip(group, parts[::2], there, strict=True):
        if ranks:
            parameter.grad = _laid_out(part.view_as(parameter).to(parameter.dtype), parameter)


def _laid_out(gradient: Tensor, parameter: torch.nn.Parameter) -> Tensor:
    """In the parameter's own memory format: fused optimisers go through both as they lie, whatever their strides."""
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)


def _fingerprint(parameters: Iterable[torch.nn.Parameter]) -> float:
    """A sum over the bits, the same in any order and exact in float64."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = 0
    for place, p in enumerate(parameters, 1):
        total += place * int(p.detach().view(bits[p.element_size()]).sum(dtype=torch.int64))
    return float(total % (1 << 50))
