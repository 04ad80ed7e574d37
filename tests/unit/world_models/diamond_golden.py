"""Weights and inputs of the comparison with DIAMOND's code; golden/diamond.npz is what its code makes of them.

To write that file again, with a checkout of github.com/eloialonso/diamond and a Python that has its requirements:

    PYTHONPATH=. python -m tests.unit.world_models.diamond_golden DIAMOND tests/golden/diamond.npz
"""

from __future__ import annotations

import sys
import types

import numpy as np
import torch

CHANNELS, DEPTHS, COND, CONTEXT, ACTIONS, SIDE = (32, 64, 32), (1, 2, 1), 64, 4, 6, 16
SIGMAS = (3.0, 0.2)  # of the two rows that the network alone is asked about
SAMPLERS = {"euler": {"num_steps_denoising": 3}, "heun": {"num_steps_denoising": 3, "order": 2}}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a DIAMOND agent's denoiser of this size, as its code lays them out."""
    found = {"noise_emb.weight": (1, COND // 2), "act_emb.0.weight": (ACTIONS, COND // CONTEXT)}
    for i in (0, 2):
        found |= _layer(f"cond_proj.{i}", COND, COND)
    found |= _layer("conv_in", CHANNELS[0], 3 * (CONTEXT + 1), 3, 3)
    levels = list(zip((CHANNELS[0], *CHANNELS[:-1]), CHANNELS, DEPTHS, strict=True))
    for i, (a, b, n) in enumerate(levels):
        found |= _blocks(f"unet.d_blocks.{i}", [a] + [b] * (n - 1), [b] * n)
        found |= _blocks(f"unet.u_blocks.{len(levels) - 1 - i}", [2 * b] * n + [a + b], [b] * n + [a])
    found |= _blocks("unet.mid_blocks", [CHANNELS[-1]] * 2, [CHANNELS[-1]] * 2, attention=True)
    for i in range(1, len(CHANNELS)):
        c, d = CHANNELS[i - 1], CHANNELS[-1 - i]
        found |= _layer(f"unet.downsamples.{i}.conv", c, c, 3, 3) | _layer(f"unet.upsamples.{i}.conv", d, d, 3, 3)
    found |= _layer("norm_out.norm", CHANNELS[0]) | _layer("conv_out", 3, CHANNELS[0], 3, 3)
    return {f"denoiser.inner_model.{name}": shape for name, shape in found.items()}


def weights() -> dict[str, torch.Tensor]:
    """Random weights, none of them zero: what begins as zero in training would hide a mistake."""
    rng, made = np.random.default_rng(0), {}
    for name, shape in sorted(shapes().items()):
        spread = 0.8 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
        made[name] = torch.from_numpy(rng.normal(0, spread, shape) + (1.0 if name.endswith("norm.weight") else 0.0))
    return made


def inputs() -> dict[str, torch.Tensor]:
    """Two rows: `frames` uint8 [2, K, H, W, 3], `actions` [2, K], `noise` and `noisy` [2, 3, H, W]."""
    rng = np.random.default_rng(1)
    return {
        "frames": torch.from_numpy(rng.integers(0, 256, (2, CONTEXT, SIDE, SIDE, 3), dtype=np.uint8)),
        "actions": torch.from_numpy(rng.integers(0, ACTIONS, (2, CONTEXT))),
        "noise": torch.from_numpy(rng.normal(size=(2, 3, SIDE, SIDE))),
        "noisy": torch.from_numpy(rng.normal(size=(2, 3, SIDE, SIDE))),
    }


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _blocks(name: str, before: list[int], after: list[int], attention: bool = False) -> dict[str, tuple[int, ...]]:
    found = {}
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        block = f"{name}.resblocks.{i}"
        found |= _layer(f"{block}.norm1.linear", 2 * a, COND) | _layer(f"{block}.norm2.linear", 2 * b, COND)
        found |= _layer(f"{block}.conv1", b, a, 3, 3) | _layer(f"{block}.conv2", b, b, 3, 3)
        found |= _layer(f"{block}.proj", b, a, 1, 1) if a != b else {}
        if attention:
            found |= _layer(f"{block}.attn.norm.norm", b) | _layer(f"{block}.attn.qkv_proj", 3 * b, b, 1, 1)
            found |= _layer(f"{block}.attn.out_proj", b, b, 1, 1)
    return found


def theirs(checkout: str):
    """DIAMOND's denoiser and sampler classes, without its data and tracker packages, which computing does not need."""
    for name, content in {"data": {"Batch": object}, "utils": {"LossAndLogs": tuple}}.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    sys.modules["models"] = types.ModuleType("models")
    sys.modules["models"].__path__ = [f"{checkout}/src/models"]
    from models import diffusion

    return diffusion


@torch.no_grad()
def golden(checkout: str) -> dict[str, np.ndarray]:
    """What DIAMOND's code computes, in double precision."""
    torch.set_default_dtype(torch.float64)
    code, given = theirs(checkout), inputs()
    inner = code.InnerModelConfig(3, CONTEXT, COND, list(DEPTHS), list(CHANNELS), [0] * len(DEPTHS), ACTIONS)
    model = code.Denoiser(code.DenoiserConfig(inner, 0.5, 0.3))
    model.load_state_dict({name.removeprefix("denoiser."): value for name, value in weights().items()})
    frames = given["frames"].permute(0, 1, 4, 2, 3).double() / 127.5 - 1
    factors = model.compute_conditioners(torch.tensor(SIGMAS))
    made = {"network": model.compute_model_output(given["noisy"], frames.flatten(1, 2), given["actions"], factors)}
    for name, settings in SAMPLERS.items():
        sampler = code.DiffusionSampler(model, code.DiffusionSamplerConfig(**settings))
        real = torch.randn
        torch.randn = lambda *_, **__: given["noise"]
        made[name] = sampler.sample(frames, given["actions"])[0]
        torch.randn = real
    return {name: value.numpy().astype(np.float32) for name, value in made.items()}


if __name__ == "__main__":
    np.savez_compressed(sys.argv[2], **golden(sys.argv[1]))
