"""`learner.micro_batch=auto`: how many decisions fit into memory at a time, found by doubling.

On a GPU a blank batch goes through the policy and back until memory runs out; on a CPU, where that would end in the
kernel's killing somebody, the bytes that autograd keeps for one decision are compared with what is free.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from acceerl.roles.segments import rows
from acceerl.roles.trainer import Trainer

SHARE = 0.5  # of the host's free memory, which inference, rollouts and the replay want too
MOMENTS = 8  # bytes of AdamW's two for each number, which are not there before the first step


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The last of 1, 2, 4, ... up to `most` that fits; `most` itself where all before it do.

    Raises ValueError when not even 1 does.

    >>> [largest(lambda n: n <= 11, most) for most in (6, 64)]
    [6, 8]
    """
    if not fits(1):
        raise ValueError(
            "learner.micro_batch=auto: not even one decision fits into memory: set policy.checkpointing=true, "
            "learner.shard=zero3 with more learner.ranks, or take a larger GPU"
        )
    size = 1
    while size < most and fits(min(2 * size, most)):
        size = min(2 * size, most)
    return size


def micro_batch(trainer: Trainer, longest: int, free_bytes: int) -> int:
    """For this trainer; all its ranks must ask, and the smallest answer counts.

    `longest`: decisions of a segment, which is never split over micro-batches; `free_bytes`: of the host.
    """
    on_gpu = trainer.numbers.device.startswith("cuda")
    fits = _fits_on_gpu(trainer) if on_gpu else _fits_on_host(trainer, free_bytes)
    most = -(-trainer.numbers.batch // trainer.collective.size)
    return largest(lambda decisions: fits(rows(decisions, longest)), most)


def _fits_on_gpu(trainer: Trainer) -> Callable[[int], bool]:
    """Tries, with room held for what the optimiser will need. A rank that has no room stops all at that size."""
    numbers = sum(trainer.held.mine(parameter).numel() for parameter in trainer.parameters)

    def everywhere(done: bool) -> bool:
        return not trainer.collective.total({"failed": not done})["failed"]

    def fits(rows: int) -> bool:
        room = _room(MOMENTS * numbers, trainer.numbers.device)
        found = everywhere(room is not None) and everywhere(_passes(trainer, rows))
        del room
        torch.cuda.empty_cache()
        return found

    return fits


def _room(size: int, device: str) -> torch.Tensor | None:
    """So many bytes; None when there are no more."""
    try:
        return torch.empty(size, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return None


def _passes(trainer: Trainer, rows: int) -> bool:
    try:
        trainer.rehearse(rows)
    except torch.OutOfMemoryError:
        return False
    return True


def _fits_on_host(trainer: Trainer, free_bytes: int) -> Callable[[int], bool]:
    each, size = kept_bytes(trainer), trainer.collective.size
    mine = float(trainer.collective.total({"free": free_bytes})["free"]) / size**2  # ranks may share a machine
    return lambda rows: each * rows <= SHARE * mine


def kept_bytes(trainer: Trainer) -> int:
    """What autograd keeps for the way back of one row, without the parameters (divided ones count when gathered)."""
    kept: dict[int, int] = {}

    def book(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(book, lambda tensor: tensor):
        trainer.rehearse(1)
    parameters = trainer.policy.parameters()  # type: ignore[attr-defined]
    own = {trainer.held.mine(parameter).data_ptr() for parameter in parameters}
    return sum(size for place, size in kept.items() if place not in own)
