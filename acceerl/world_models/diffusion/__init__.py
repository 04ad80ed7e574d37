"""The `diffusion` world model: frames sampled by an EDM denoiser, after DIAMOND (Alonso et al. 2024)."""

from acceerl.world_models.diffusion.diamond import from_diamond, load_diamond
from acceerl.world_models.diffusion.world import DiffusionWorld

__all__ = ["DiffusionWorld", "from_diamond", "load_diamond"]
