"""What the settings of openvla_oft may be, and how pictures are scaled; each mistake gets one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from acceerl.policies.openvla_oft.shape import Shape, read_json
from acceerl.protocols import PolicySpec

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TUNES = ("lora", "full")
# DINOv2's and SigLIP's, where no preprocessor_config.json says
MEANS = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))
STDS = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5))


def check_settings(
    spec: PolicySpec, checkpoint: str, random: str, tune: str, precision: str, temperature: float
) -> None:
    """Raises ValueError for a setting that cannot be, or an environment that does not fit."""
    if bool(checkpoint) == bool(random):
        raise ValueError("openvla_oft needs policy.checkpoint, a folder of OpenVLA's layout (or policy.random=tiny)")
    if precision not in PRECISIONS:
        raise ValueError(f"policy.precision={precision} is not known: choose from {', '.join(PRECISIONS)}")
    if tune not in TUNES:
        raise ValueError(f"policy.tune={tune} is not known: choose from {', '.join(TUNES)}")
    if temperature <= 0:
        raise ValueError(f"policy.temperature={temperature} must be above 0")
    if not spec.cameras or spec.image_size[0] != spec.image_size[1]:
        raise ValueError(f"openvla_oft needs a camera with square images, not {spec.cameras} of {spec.image_size}")


def check_bins(shape: Shape, spec: PolicySpec, folder: Path) -> None:
    """Raises ValueError unless the checkpoint has the action tokens that the configuration says."""
    if shape.bins != spec.bins:
        raise ValueError(f"{folder}: has {shape.bins} action tokens: set policy.bins={shape.bins}")


def pixel_scales(folder: Path) -> tuple[Any, Any]:
    """Mean and standard deviation of each colour, for each tower. Raises ValueError when the file has others."""
    found = read_json(folder / "preprocessor_config.json", "copy the checkpoint again")
    means, stds = found.get("means", MEANS), found.get("stds", STDS)
    if np.shape(means) != (2, 3) or np.shape(stds) != (2, 3):
        raise ValueError(f"{folder}/preprocessor_config.json: means and stds must be two times three numbers")
    return means, stds
