"""How much memory a GPU needs for openvla_oft, computed from the shape. Read this before you buy or ask for GPUs.

Counted are weights, gradients, AdamW's two moments, and what autograd keeps between the passes: for each layer the
tensors that PyTorch saves, which a test compares with those that it really saves. The allocator's own losses, CUDA's
context (half a gigabyte) and the simulator's are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acceerl.policies.openvla_oft.images import SIDE
from acceerl.policies.openvla_oft.shape import Language, Shape, Tower, named_shape, read_shape

PROMPT = 40  # tokens of a long instruction with its question; LIBERO's have 20 to 35
FLOAT, MOMENTS = 4, 8  # bytes of a float32 and of AdamW's two
GB = 1e9
ACTION_DIM = 7  # of the robots of OpenVLA


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    copies: int = 0  # of weights on their way from GPU to GPU

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations + self.copies

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients": self.gradients, "optimiser": self.optimiser,
                 "activations": self.activations, "copies for sending": self.copies}  # fmt: skip
        text = " + ".join(f"{size / GB:.2f} {name}" for name, size in parts.items() if size)
        return f"{self.total / GB:.2f} GB = {text}"


@dataclass(frozen=True)
class Dense:
    """A dense layer's sizes."""

    inputs: int
    outputs: int
    bias: bool = True


def dense_layers(shape: Shape) -> Iterator[Dense]:
    """Every dense layer of the network."""
    for tower in shape.towers:
        for _ in range(tower.blocks - 1):
            yield from (Dense(tower.width, 3 * tower.width), Dense(tower.width, tower.width))
            yield from (Dense(tower.width, tower.mlp), Dense(tower.mlp, tower.width))
    seen, width = sum(tower.width for tower in shape.towers), shape.language.hidden_size
    yield from (Dense(seen, 4 * seen), Dense(4 * seen, width), Dense(width, width))
    for _ in range(shape.language.num_hidden_layers):
        yield from _llama_layer(shape.language)


def _llama_layer(shape: Language) -> Iterator[Dense]:
    width, mlp = shape.hidden_size, shape.intermediate_size
    narrow = width * shape.num_key_value_heads // shape.num_attention_heads
    yield from (Dense(width, width, False), Dense(width, narrow, False), Dense(width, narrow, False))
    yield from (
        Dense(width, width, False),
        Dense(width, mlp, False),
        Dense(width, mlp, False),
        Dense(mlp, width, False),
    )


def network_parameters(shape: Shape) -> int:
    """Of vision, projector and language, without the head."""
    dense = sum(layer.inputs * layer.outputs + layer.bias * layer.outputs for layer in dense_layers(shape))
    language = shape.language
    others = language.vocab_size * language.hidden_size + (2 * language.num_hidden_layers + 1) * language.hidden_size
    return dense + others + sum(_tower_rest(tower) for tower in shape.towers)


def _tower_rest(tower: Tower) -> int:
    """Patches, positions, registers, norms and layer scale."""
    entry = 3 * tower.patch**2 + 1 + patches_of(tower) + (1 + tower.registers if tower.registers else 0)
    return tower.width * (entry + (tower.blocks - 1) * (4 + 2 * tower.scaled))


def adapter_parameters(shape: Shape, rank: int) -> int:
    return sum(rank * (layer.inputs + layer.outputs) for layer in dense_layers(shape))


def head_parameters(shape: Shape, value_width: int) -> int:
    """The head's action rows and the value head."""
    width = shape.language.hidden_size
    return shape.bins * width + (width + 1) + (width + 1) * value_width + value_width + 1


def state_bytes(settings: Mapping[str, Any]) -> int:
    """Of what is trained, which a message of weights holds."""
    shape, full = _shape(settings), settings.get("tune") == "full"
    own = network_parameters(shape) if full else adapter_parameters(shape, settings.get("rank", 32))
    return FLOAT * (head_parameters(shape, 1024) + own)


def host_bytes(settings: Mapping[str, Any]) -> int:
    """Of the host, while a policy is made, beyond the checkpoint's files: those are mapped and take no memory to keep.

    Published checkpoints are bfloat16: held in another type, merged with an adapter, or made up, weights are a copy.
    """
    shape, full = _shape(settings), settings.get("tune") == "full"
    element = FLOAT if full or settings.get("precision") == "float32" else 2
    copied = element == FLOAT or settings.get("random") or settings.get("adapter")
    own = 0 if full else adapter_parameters(shape, settings.get("rank", 32))
    return FLOAT * (own + head_parameters(shape, 1024)) + (element * network_parameters(shape) if copied else 0)


def _shape(settings: Mapping[str, Any]) -> Shape:
    name = settings.get("random", "")
    return named_shape(name) if name else read_shape(Path(settings.get("checkpoint", "")))


def plan(
    settings: Mapping[str, Any], pictures: int, *, learner_rows: int, serving_rows: int, ranks: int = 1,
    shard: str = "none", copies: int = 0,
) -> dict[str, Memory]:  # fmt: skip
    """What a learner rank and a process that serves need, for the policy's `settings`, with `pictures` cameras.

    `copies`: of a message of weights, which both keep on their GPU where it goes from one to the other.
    Raises ValueError when there is no checkpoint to read the shape from.
    """
    shape = _shape(settings)
    same: dict[str, Any] = {
        "pictures": pictures,
        "places": settings.get("chunk", 8) * ACTION_DIM,
        "rank": settings.get("rank", 32),
        "full": settings.get("tune") == "full",
        "element": FLOAT if settings.get("precision") == "float32" else 2,
    }
    kept = bool(settings.get("checkpointing"))
    learner = learner_memory(shape, micro_batch=learner_rows, checkpointing=kept, ranks=ranks, shard=shard, **same)
    found = {"learner": learner, "inference": inference_memory(shape, batch=serving_rows, **same)}
    held = copies * state_bytes(settings)
    return {role: replace(memory, copies=held) for role, memory in found.items()}


def learner_memory(
    shape: Shape,
    *,
    micro_batch: int,
    pictures: int = 1,
    places: int = 56,
    rank: int = 32,
    full: bool = False,
    element: int = 2,
    checkpointing: bool = False,
    value_width: int = 1024,
    ranks: int = 1,
    shard: str = "none",
) -> Memory:
    """Of one learner rank, with `micro_batch` rows; `element`: bytes of a number in the forward pass.

    `full`: every weight is trained, held in float32; its activations are counted as float32, an upper bound.
    """
    heads, network = head_parameters(shape, value_width), network_parameters(shape)
    trained = heads + (network if full else adapter_parameters(shape, rank))
    frozen = 0 if full else network * element
    kept = FLOAT if full else element
    activations = micro_batch * activation_bytes(shape, pictures, places, 0 if full else rank, kept, checkpointing)
    if shard == "none":
        cast = network * element if full and element < FLOAT else 0  # autocast's copy
        return Memory(frozen + cast + trained * FLOAT, trained * FLOAT, trained * MOMENTS, activations)
    gathered, parted = trained * element, -(-trained // ranks)
    if shard == "zero3":
        gathered, frozen = 2 * _largest_block(shape) * element, -(-frozen // ranks)  # one in use, the next on its way
    return Memory(frozen + gathered + parted * FLOAT, trained * FLOAT + parted * FLOAT, parted * MOMENTS, activations)


def _largest_block(shape: Shape) -> int:
    """Parameters of a Llama layer, the largest that is gathered at a time."""
    return sum(layer.inputs * layer.outputs for layer in _llama_layer(shape.language))


def inference_memory(
    shape: Shape,
    *,
    batch: int,
    pictures: int = 1,
    places: int = 56,
    rank: int = 32,
    element: int = 2,
    full: bool = False,
) -> Memory:
    """Of an inference process: weights, and the widest moment of a forward pass."""
    held = (FLOAT + element) if full and element < FLOAT else element
    adapters = 0 if full else adapter_parameters(shape, rank)
    weights = network_parameters(shape) * held + (adapters + head_parameters(shape, 1024)) * FLOAT
    tokens = _sequence(shape, pictures, places)
    language = shape.language
    layer = tokens * (3 * language.intermediate_size + 4 * language.hidden_size) * element
    return Memory(weights, activations=batch * layer)


def activation_bytes(
    shape: Shape, pictures: int, places: int, rank: int, element: int, checkpointing: bool = False
) -> int:
    """What autograd keeps for one row, in bytes. With `checkpointing`: each layer's input, and one layer in full."""
    tokens = _sequence(shape, pictures, places)
    layer = tokens * _llama_token(shape.language, rank, element)
    layers = [(layer, tokens * shape.language.hidden_size * element)] * shape.language.num_hidden_layers
    for tower in shape.towers:
        seen = pictures * (patches_of(tower) + (1 + tower.registers if tower.registers else 0))
        layers += [(seen * _block_token(tower, rank, element), seen * tower.width * element)] * (tower.blocks - 1)
    between = _projector(shape, pictures, rank, element) + 2 * FLOAT * tokens * shape.language.hidden_size
    if checkpointing:
        return between + sum(given for _, given in layers) + max(kept for kept, _ in layers)
    return between + sum(kept for kept, _ in layers)


def _llama_token(shape: Language, rank: int, element: int) -> int:
    """Two norms in float32; queries, keys, values, their mix, and the inputs of both halves; four in the wide part."""
    width, mlp = shape.hidden_size, shape.intermediate_size
    narrow = width * shape.num_key_value_heads // shape.num_attention_heads
    states = 2 * width * FLOAT + (4 * width + 2 * narrow) * element
    return states + (4 * mlp + 7 * rank) * element + (shape.num_attention_heads + 2) * FLOAT


def _block_token(tower: Tower, rank: int, element: int) -> int:
    """Both norms' inputs and outputs, queries, keys, values and their mix; two in the wide part."""
    return (8 * tower.width + 2 * tower.mlp + 4 * rank + 4) * element + tower.heads * FLOAT


def _projector(shape: Shape, pictures: int, rank: int, element: int) -> int:
    seen, width = sum(tower.width for tower in shape.towers), shape.language.hidden_size
    return pictures * patches_of(shape.towers[0]) * (9 * seen + 2 * width + 3 * rank) * element


def patches_of(tower: Tower) -> int:
    """Tokens that a picture becomes."""
    return (SIDE // tower.patch) ** 2


def _sequence(shape: Shape, pictures: int, places: int) -> int:
    return pictures * patches_of(shape.towers[0]) + PROMPT + places + 1
