"""How much openvla_oft computes for one decision: what a rate is compared with. Dense layers only, a lower bound."""

from __future__ import annotations

from acceerl.policies.openvla_oft.memory import dense_layers, patches_of
from acceerl.policies.openvla_oft.shape import Shape


def forward(shape: Shape, pictures: int, words: int) -> float:
    """Floating-point operations of a pass through the network: two a weight and token.

    `words`: positions of a row that are no patches, its prompt and places for actions.
    """
    layers = list(dense_layers(shape))
    patches, counts = patches_of(shape.towers[0]), []
    for tower in shape.towers:
        tokens = pictures * (patches + (1 + tower.registers if tower.registers else 0))
        counts += [tokens] * 4 * (tower.blocks - 1)
    counts += [pictures * patches] * 3
    counts += [pictures * patches + words] * (len(layers) - len(counts))
    return float(sum(2 * layer.inputs * layer.outputs * tokens for layer, tokens in zip(layers, counts, strict=True)))


def update(shape: Shape, pictures: int, words: int, full: bool) -> float:
    """Of a decision that is trained on: the way back is twice the way there, with LoRA once: W has no gradient."""
    return (3 if full else 2) * forward(shape, pictures, words)
