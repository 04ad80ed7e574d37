"""The `openvla_oft` policy: OpenVLA with parallel decoding and discrete actions (Kim et al. 2025).

A picture's patches from two vision towers, the instruction, and one empty place for each action token go through a
Llama once; every place answers with logits over the action tokens. Trained are LoRA adapters on all dense layers, the
rows of the head that are actions, and a value head; `state_dict` holds just these, so that a weights message, a
checkpoint and a policy file are as small as what changes. The rest is the checkpoint that the policy was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.policies.openvla_oft import images, lora, memory
from acceerl.policies.openvla_oft.actions import plain_scale, read_scale
from acceerl.policies.openvla_oft.checkpoint import (
    HEAD,
    Shards,
    cut_head,
    read_adapter,
    used,
    with_action_rows,
    write,
    write_adapter,
)
from acceerl.policies.openvla_oft.network import ValueHead, action_logits, load_network, random_network
from acceerl.policies.openvla_oft.prompts import PromptBatch, Prompts, made_up_encoder, read_encoder
from acceerl.policies.openvla_oft.serving import Buckets, Staging
from acceerl.policies.openvla_oft.settings import MEANS, PRECISIONS, STDS, check_bins, check_settings, pixel_scales
from acceerl.policies.openvla_oft.shape import named_shape, read_shape
from acceerl.policies.tokens import detokenise
from acceerl.protocols import Evaluation, PolicySpec
from acceerl.types import ActionBatch, ObservationBatch


class OpenVlaOftPolicy(nn.Module):
    """A Policy (see `protocols.Policy`) made from OpenVLA's checkpoint folder, or of `random` weights ("7b", "tiny").

    `statistics`: whose action scale, by its key in dataset_statistics.json; may be empty where there is one.
    `adapter`: a folder of peft's to merge in. `tune`: "lora", or "full" for every weight, held in float32.
    `crop`, `rotate`: see `images.prepare`. `gripper`: the last action dimension is LIBERO's gripper.
    `checkpointing`: recompute activations in the backward pass instead of keeping them. `buckets`: see serving.py.
    Raises ValueError for a checkpoint of another architecture or one that lacks a file, an unknown key, or an
    environment that does not fit.
    """

    kind = "openvla_oft"
    compact = False  # float16 would drop what LoRA learns
    memory_plan = staticmethod(memory.plan)  # for --dry-run, and for those who would not fit
    state_bytes = staticmethod(memory.state_bytes)
    host_bytes = staticmethod(memory.host_bytes)

    def __init__(
        self,
        spec: PolicySpec,
        checkpoint: str = "",
        random: str = "",
        statistics: str = "",
        adapter: str = "",
        tune: str = "lora",
        rank: int = 32,
        alpha: float = 16.0,
        value_width: int = 1024,
        precision: str = "bfloat16",
        temperature: float = 1.0,
        crop: bool = True,
        rotate: bool = False,
        gripper: bool = True,
        checkpointing: bool = False,
        buckets: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.kwargs: dict[str, Any] = {
            "checkpoint": checkpoint, "random": random, "statistics": statistics, "adapter": adapter, "tune": tune,
            "rank": rank, "alpha": alpha, "value_width": value_width, "precision": precision, "crop": crop,
            "rotate": rotate, "gripper": gripper, "seed": seed,
        }  # fmt: skip
        check_settings(spec, checkpoint, random, tune, precision, temperature)
        self._spec, self.temperature, self.checkpointing = spec, temperature, checkpointing
        self.tune, self.crop, self.rotate = tune, crop, rotate
        self.staging, self.answer = Staging(), Buckets(self._compute) if buckets else self._compute
        self.dtype = PRECISIONS[precision]
        self.places = spec.chunk * spec.action_dim
        generator = torch.Generator().manual_seed(seed)
        self._made_from(checkpoint, random, statistics, gripper, seed)
        if adapter:
            self._merge(adapter)
        if tune == "lora":
            lora.adapt([("", self.network)], rank, alpha, generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.value_head = ValueHead(self.action_rows.shape[1], value_width)
        self.trained = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        self.seed(seed)

    def _made_from(self, checkpoint: str, random: str, statistics: str, gripper: bool, seed: int) -> None:
        """Sets network, head, scales and words from a folder, or made up."""
        spec, held = self.spec, torch.float32 if self.tune == "full" else self.dtype
        if random:
            self.shape = replace(named_shape(random), bins=spec.bins)
            network, rows = random_network(self.shape, held, seed)
            self.means, self.stds = MEANS, STDS
            self.scale = plain_scale(spec.action_dim, spec.bins)
            self.prompts = Prompts(made_up_encoder, self.places)
        else:
            folder = Path(checkpoint)
            self.shape = read_shape(folder)
            check_bins(self.shape, spec, folder)
            self.means, self.stds = pixel_scales(folder)
            self.scale = read_scale(folder, statistics, self.shape.statistics, spec.action_dim, spec.bins, gripper)
            self.prompts = Prompts(read_encoder(folder), self.places)
            network, rows = load_network(folder, self.shape, held)
        self.network, self.action_rows = network, nn.Parameter(rows)

    def _merge(self, adapter: str) -> None:
        """Adds a folder of peft's to the weights."""

        def head(a: Tensor, b: Tensor, scale: float) -> None:
            rows = cut_head(b, self.shape.tokens, self.shape.bins)
            self.action_rows.data = lora.merge(self.action_rows.detach(), a, rows, scale)

        tensors, settings = read_adapter(Path(adapter))
        lora.merge_into(self.network, tensors, settings, adapter, head=head, used=lambda name: used(self.network, name))

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def seed(self, seed: int) -> None:
        """Restarts the stream of random numbers that `act` samples from."""
        self.generator = torch.Generator().manual_seed(seed)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What RL trains; the value head's names start with `value`."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def narrow_parts(self) -> tuple[nn.Module, ...]:
        """What may hold its weights in bfloat16 while it computes, where learner ranks divide them."""
        return () if self.dtype == torch.float32 else (self.network,)

    def blocks(self) -> Iterator[nn.Module]:
        """The layers of Llama and of both towers: nearly all of the computing, a few kinds, each kind many times."""
        vision = self.network.vision_backbone
        yield from self.network.language_model.model.layers
        yield from (*vision.featurizer.blocks, *vision.fused_featurizer.blocks)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained; the rest is in the checkpoint that the policy was made from."""
        state = super().state_dict(*args, **kwargs)
        return {name: state[name] for name in self.trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes what `state_dict` gave. Raises RuntimeError for other names or shapes, as torch does."""
        missing, unexpected = set(self.trained) - state_dict.keys(), state_dict.keys() - set(self.trained)
        if strict and (missing or unexpected):
            first = min(missing or unexpected)
            raise RuntimeError(f"{len(missing)} missing and {len(unexpected)} unexpected tensors, {first} the first")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def export(self, folder: str | PathLike[str]) -> None:
        """Writes the policy in the layout that it came from, the adapters merged, so that the original can run it.

        What was not trained comes from the original files, bit by bit. Raises ValueError for random weights.
        """
        if not self.kwargs["checkpoint"]:
            raise ValueError("random weights have no checkpoint to be written back to: make the policy from one")
        source = Path(self.kwargs["checkpoint"])
        if Path(folder).resolve() == source.resolve():
            raise ValueError(f"{folder} is the checkpoint that the policy was made from: give another folder")
        layers, parameters = dict(lora.adapted(self.network)), dict(self.network.named_parameters())

        def now(name: str, original: Tensor) -> Tensor:
            layer = layers.get(name.removesuffix(".weight"))
            if name == HEAD:
                return with_action_rows(original, self.action_rows.detach(), self.shape.tokens)
            if self.tune == "full" or self.kwargs["adapter"]:
                return layer.merged() if layer else parameters.get(name, original).detach()
            return lora.merge(original, layer.lora_A, layer.lora_B, layer.scale) if layer else original

        write(Shards(source), Path(folder), now)

    def export_adapter(self, folder: str | PathLike[str]) -> None:
        """Writes the adapters alone, as peft does; the head's rows and the value head are not adapters."""
        write_adapter(Path(folder), lora.exported(self.network), self.kwargs["rank"], self.kwargs["alpha"])

    def on_grid(self, actions: np.ndarray) -> np.ndarray:
        """The environment's actions [..., D] as the centres, in `policies.tokens`, of the tokens that imitate them."""
        return detokenise(self.scale.encode(actions), self.spec.bins)

    @torch.inference_mode()
    def act(self, observations: ObservationBatch, greedy: bool | Sequence[bool]) -> ActionBatch:
        """Chooses a chunk for each observation; `greedy` is one flag, or one a row."""
        logits, values = self.answer(*self._inputs(observations))
        logp = F.log_softmax(logits, dim=-1)
        rows = torch.as_tensor(greedy, device=logp.device).expand(len(observations))
        tokens = torch.where(rows[:, None, None], logp.argmax(dim=-1), self._sample(logp))
        chosen = logp.gather(-1, tokens[..., None])[..., 0].cpu().numpy()
        picked = tokens.cpu().numpy()
        return ActionBatch(picked.astype(np.int16), chosen, self.scale.to_env(picked), values.cpu().numpy())

    def evaluate(self, observations: ObservationBatch, tokens: np.ndarray | Tensor) -> Evaluation:
        """One differentiable pass; see `protocols.Policy.evaluate`. The value never trains the network."""
        logits, values = self._compute(*self._inputs(observations))
        index = torch.as_tensor(tokens).to(logits.device, torch.int64)
        logp = F.log_softmax(logits, dim=-1).gather(-1, index[..., None])[..., 0]
        return Evaluation(logp, logits, values)

    def _sample(self, logp: Tensor) -> Tensor:
        """Inverse-CDF sampling, one uniform number a token."""
        cumulative = logp.exp().cumsum(dim=-1)
        uniform = torch.rand((*logp.shape[:-1], 1), generator=self.generator).to(logp.device)
        return torch.searchsorted(cumulative, uniform * cumulative[..., -1:])[..., 0].clamp_(max=logp.shape[-1] - 1)

    def _inputs(self, observations: ObservationBatch) -> tuple[Tensor, PromptBatch]:
        device = self.action_rows.device
        return self.pixels(observations.images, device), self.prompts.batch(observations.instructions, device)

    def _compute(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, C, D, bins] and values float32 [N]."""
        with self._autocast(pixels.device):
            states = self.network(pixels, prompts, self.places, not (self.checkpointing and torch.is_grad_enabled()))
            logits = action_logits(states, self.action_rows) / self.temperature
        shape = (self.spec.chunk, self.spec.action_dim)
        return logits.unflatten(1, shape), self.value_head(states.detach())

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Of a full fine-tuning, whose weights are float32; else the weights themselves are of the precision."""
        if self.tune == "full" and self.dtype != torch.float32:
            return torch.autocast(device.type, self.dtype)
        return nullcontext()

    def pixels(self, frames: Mapping[str, np.ndarray], device: torch.device) -> Tensor:
        """uint8 [N, H, W, 3] of each camera -> [N, K, 6, 224, 224] for K cameras.

        Raises ValueError for an image of another size than the policy was made for.
        """
        seen = []
        for camera in self.spec.cameras:
            size = frames[camera].shape[1:3]
            if size != self.spec.image_size:
                raise ValueError(f"camera {camera!r} shows {size} pixels, this policy is for {self.spec.image_size}")
            ready = images.prepare(self.staging(camera, frames[camera], device), self.crop, self.rotate)
            seen.append(images.normalise(ready, self.means, self.stds))
        return torch.stack(seen, dim=1).to(torch.float32 if self.tune == "full" else self.dtype)
