"""How openvla_oft answers fast: batches of a few sizes, recorded kernels (CUDA graphs), page-locked staging.

A batch is filled up to the next power of two and its prompts to a multiple of 16 tokens. So few shapes occur, and for
each of them a GPU replays what it recorded the first time, instead of being told a few thousand kernels anew. On a CPU
the same padded batch is computed as it is. What a row gets does not depend on what fills up its batch.

A prompt is tokenised once (prompts.py). Its keys and values cannot be kept: every position sees the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from acceerl.policies.openvla_oft.prompts import PromptBatch

WIDTHS = 16  # tokens
WARM_UP = 3  # passes before recording: libraries find their kernels and take their memory
Found = tuple[Tensor, Tensor]
Compute = Callable[[Tensor, PromptBatch], Found]


class Buckets:
    """`compute(pixels, prompts) -> (logits, values)`, all of N rows, for any N."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.graphs: dict[tuple[Any, ...], Recorded] = {}

    def __call__(self, pixels: Tensor, prompts: PromptBatch) -> Found:
        """What `compute` gives for these rows; on a GPU it is valid until the next call."""
        rows = len(pixels)
        pixels, prompts = filled(pixels, prompts)
        logits, values = self._run(pixels, prompts)
        return logits[:rows], values[:rows]

    def _run(self, pixels: Tensor, prompts: PromptBatch) -> Found:
        if pixels.device.type != "cuda":
            return self.compute(pixels, prompts)
        key = (pixels.shape, prompts.ids.shape, prompts.valid is None)
        with torch.cuda.device(pixels.device):  # of which streams and graphs are
            if key not in self.graphs:
                self.graphs[key] = Recorded(self.compute, pixels, prompts, next(iter(self.graphs.values()), None))
            return self.graphs[key](pixels, prompts)


def filled(pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, PromptBatch]:
    """With the first row repeated up to a power of two, and prompts up to a multiple of `WIDTHS`."""
    more = (1 << (len(pixels) - 1).bit_length()) - len(pixels)
    wider = -prompts.ids.shape[1] % WIDTHS
    valid = prompts.valid
    if valid is None and wider:
        valid = torch.ones_like(prompts.ids, dtype=torch.bool)

    def fill(tensor: Tensor, wider: int) -> Tensor:
        grown = torch.cat([tensor, tensor[:1].expand(more, *tensor.shape[1:])])
        return F.pad(grown, (0, wider)) if wider else grown

    rows = PromptBatch(
        fill(prompts.ids, wider),
        fill(prompts.actions, wider),
        None if valid is None else fill(valid, wider),
        fill(prompts.lengths, 0),
    )
    return fill(pixels, 0), rows


class Recorded:
    """The kernels of one shape; weights are read where they lay, so new ones must be copied into the same place.

    `beside`: another recording whose memory is used as well: only one runs at a time.
    """

    def __init__(self, compute: Compute, pixels: Tensor, prompts: PromptBatch, beside: Recorded | None) -> None:
        self.pixels = pixels.clone()
        self.prompts = replace(prompts, **{name: tensor.clone() for name, tensor in _tensors(prompts).items()})
        self._warm_up(compute)
        self.graph = torch.cuda.CUDAGraph()
        pool = beside.graph.pool() if beside else None
        # the thread that receives weights may ask for memory meanwhile: only this one is held to what can be recorded
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.found = compute(self.pixels, self.prompts)

    def _warm_up(self, compute: Compute) -> None:
        """On a stream of its own, as torch asks for."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                compute(self.pixels, self.prompts)
        torch.cuda.current_stream().wait_stream(side)

    def __call__(self, pixels: Tensor, prompts: PromptBatch) -> Found:
        self.pixels.copy_(pixels)
        for name, tensor in _tensors(prompts).items():
            getattr(self.prompts, name).copy_(tensor)
        self.graph.replay()
        return self.found


def _tensors(prompts: PromptBatch) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vars(prompts).items() if tensor is not None}


class Staging:
    """Page-locked memory through which pictures reach a GPU, one place for each camera, made once and grown."""

    def __init__(self) -> None:
        self.rooms: dict[str, Tensor] = {}
        self.copied: dict[str, torch.cuda.Event] = {}

    def __call__(self, camera: str, frames: np.ndarray, device: torch.device) -> Tensor:
        """uint8 [N, H, W, 3] on the device."""
        pictures = torch.from_numpy(np.ascontiguousarray(frames))
        if device.type != "cuda":
            return pictures.to(device)
        if camera in self.copied:
            self.copied[camera].synchronize()  # nobody may write what is still being read
        room = self._room(camera, pictures)
        room.copy_(pictures)
        there = room.to(device, non_blocking=True)
        self.copied[camera] = torch.cuda.Event()
        self.copied[camera].record(torch.cuda.current_stream(device))
        return there

    def _room(self, camera: str, pictures: Tensor) -> Tensor:
        held = self.rooms.get(camera)
        if held is None or len(held) < len(pictures) or held.shape[1:] != pictures.shape[1:]:
            held = self.rooms[camera] = torch.empty(pictures.shape, dtype=torch.uint8, pin_memory=True)
        return held[: len(pictures)]
