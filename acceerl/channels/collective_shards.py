"""A module whose parameters are divided over the ranks of a group (FSDP2), and their files, one of each rank.

Read this for what a tensor is while it is divided: `part` is what this rank holds of it, `whole` gathers it, `place`
gives each rank its part of a whole one. The calls that gather must be made by all ranks in the same order, and so must
each pass through the module and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Divided:
    """Divides `module` in place; `forward` then is a pass through it.

    `release`: give gathered parameters up after each pass through a block, and gather them again on the way back
    (ZeRO-3); else they stay until the last backward pass of an update, and parameters that are not trained stay whole
    on every rank (ZeRO-2). `narrow`: parts of the module whose parameters compute, and travel, in bfloat16; their
    gradients are added up in float32.
    """

    def __init__(self, module: nn.Module, device: str, release: bool, narrow: Sequence[nn.Module] = ()) -> None:
        mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        plain = MixedPrecisionPolicy(cast_forward_inputs=False)
        inside = {id(each) for part in narrow for each in part.modules()}
        frozen = set() if release else {p for p in module.parameters() if not p.requires_grad}
        for parameter in frozen:
            parameter.data = parameter.data.to(device)
        same: dict[str, Any] = {"mesh": mesh, "ignored_params": frozen}
        for unit in _units(module, narrow):
            policy = half if id(unit) in inside else plain
            fully_shard(unit, reshard_after_forward=release, mp_policy=policy, **same)
        self.forward: FSDPModule = fully_shard(module, reshard_after_forward=False, mp_policy=plain, **same)
        self.release = release
        self.units = [each for each in module.modules() if isinstance(each, FSDPModule)]
        for unit in self.units:
            unit.set_gradient_divide_factor(1.0)  # a loss is this rank's share of the whole one: gradients add up
            unit.set_force_sum_reduction_for_comms(True)  # gloo knows no other sum

    def accumulate(self, last: bool) -> None:
        """Before each pass of an update: gradients travel once, behind the last one."""
        self.forward.set_requires_gradient_sync(last)
        self.forward.set_is_last_backward(last)
        self.forward.set_reshard_after_backward(last or self.release)

    def recover(self) -> None:
        """After a pass that broke off, at whatever point: forgets it, and gives up what was gathered."""
        self.forward.reset_iter_state()
        for unit in self.units:
            unit.reshard()


def _units(module: nn.Module, narrow: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """What is gathered at a time, inner ones first: each block of a list of blocks, then the rest of a narrow part."""
    for each in reversed(list(module.modules())):
        if isinstance(each, nn.ModuleList):
            yield from each
    yield from narrow


def part(tensor: Tensor) -> Tensor:
    """This rank's part, in the same memory; all of a tensor that is not divided."""
    local: Tensor = tensor.detach()
    return local.to_local() if isinstance(local, DTensor) else local


def whole(tensor: Tensor) -> Tensor:
    """The gathered tensor, on every rank."""
    full: Tensor = tensor.detach()
    return full.full_tensor() if isinstance(full, DTensor) else full


def like(mine: Tensor, full: Tensor) -> Tensor:
    """A whole tensor that every rank has, divided (and on the device) as `mine` is."""
    full = full.to(part(mine).device)
    if not isinstance(mine, DTensor) or full.shape != mine.shape:
        return full
    return distribute_tensor(full, mine.device_mesh, mine.placements, src_data_rank=None)


def place(mine: Tensor, full: Tensor) -> None:
    """Gives this rank its part of a whole tensor that every rank has."""
    part(mine).copy_(part(like(mine, full)))


class Files:
    """Tensors by name in a folder, each rank's part in a file of its own. They can be read by any number of ranks."""

    def __init__(self) -> None:
        # of its own: what ranks tell each other while they write must not mix with what they tell while they train
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def write(self, tensors: Mapping[str, Tensor], folder: Path) -> Future[Any]:
        """Copies the tensors to the host, then writes them beside training.

        The future is done when all ranks have written, and fails on all of them when one could not.
        """
        writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
        future = dcp.async_save(dict(tensors), storage_writer=writer, process_group=self.group)
        assert isinstance(future, Future), "with a copy made before it returns there is one future"
        return future


def read(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fills the tensors, divided or whole, in place.

    Raises ValueError naming the folder when it lacks one of them, or holds one of another shape.
    """
    try:
        dcp.load(dict(tensors), checkpoint_id=str(folder), no_dist=not dist.is_initialized())
    except Exception as error:  # torch wraps whatever went wrong on whichever rank
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: cannot be read into this policy ({reason}): resume from an earlier one") from error
