"""`acceerl bench policy`: how many decisions a second openvla_oft takes, and learns from, and its share of the peak.

The peak is that of a large product of matrices in the same type on the same device. Sides take turns. Counted are the
operations of dense layers that are needed (two a weight and token there, as many back, twice that in full): what is
computed again for want of memory is no merit. Random weights, so no checkpoint is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from acceerl.algo.batch import micro_batches
from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.config import Algo, Learner
from acceerl.jobs.build import compiled, use
from acceerl.policies.openvla_oft import OpenVlaOftPolicy, flops
from acceerl.protocols import PolicySpec
from acceerl.roles.trainer import Trainer
from acceerl.types import Assignment, ObservationBatch, Segment

TOLD = "pick up the black bowl between the plate and the ramekin and place it on the plate " * 2
SPEC = PolicySpec(chunk=8, action_dim=7, bins=256, cameras=("agentview",), image_size=(256, 256), proprio=0)
FIGURES = {
    "policy.peak_tflops": "of a product of matrices in the policy's type on this device, 10^12 operations a second",
    "policy.decisions_per_s": "while it acts, in batches of `batch`, as inference does it; median",
    "policy.eager_decisions_per_s": "the same without graphs and padding",
    "policy.buckets_over_eager": "ratio of the two",
    "policy.acting_share": "of the peak, while it acts",
    "policy.samples_per_s": "decisions trained on, with the optimiser's step; median",
    "policy.learning_share": "of the peak, while it learns (model FLOPs utilisation)",
    "policy.gpu_gb": "the most memory that was in use on the GPU, 10^9 bytes",
}


@dataclass(frozen=True)
class Options:
    shape: str = option("tiny", "random weights of this shape", choices=("tiny", "7b"))
    device: str = option("cpu", "cpu or cuda")
    tune: str = option("lora", "what is trained", choices=("lora", "full"))
    precision: str = option("bfloat16", "of the weights", choices=("bfloat16", "float32"))
    batch: int = option(16, "decisions at a time while it acts", least=1)
    segment: int = option(28, "decisions of a segment, which goes through at a time while it learns", least=1)
    segments: int = option(9, "of an update", least=1)
    checkpointing: str = option("no", "recompute activations", choices=("no", "yes"))
    compile: str = option("no", "the learner's blocks by torch.compile", choices=("no", "yes"))
    rounds: int = option(5, "turns that all sides take, after one that is not counted", least=1)


def run(options: Options) -> Result:
    use(options.device)
    policy, segments = _policy(options), [_segment(options.segment)] * options.segments
    eager = policy._compute
    seen = _seen(options.batch)
    trainer = Trainer(policy, Algo(), Learner(batch=options.segment * options.segments, device=options.device), seed=0)
    batches = micro_batches(segments, options.segment)
    buckets = policy.answer

    def act(by: Any) -> None:
        policy.answer = by
        policy.act(seen, greedy=True)

    sides: dict[str, tuple[Callable[[], Any], float]] = {
        "peak": _product(options),
        "acting": (lambda: act(buckets), options.batch),
        "acting, eager": (lambda: act(eager), options.batch),
        "learning": (lambda: trainer.update(batches, 0), options.segment * options.segments),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.rounds + 1):
        for name, (once, amount) in sides.items():
            seconds = _seconds(once, options.device)
            rates[name] += [amount / seconds] if turn else []
    return _result(options, policy, rates)


def _policy(options: Options) -> OpenVlaOftPolicy:
    kept = options.checkpointing == "yes"
    policy = OpenVlaOftPolicy(
        SPEC, random=options.shape, tune=options.tune, precision=options.precision, checkpointing=kept
    )
    policy.to(options.device)
    return compiled(policy) if options.compile == "yes" else policy  # type: ignore[return-value]


def _seen(rows: int) -> ObservationBatch:
    frames = np.random.default_rng(0).integers(0, 256, (rows, *SPEC.image_size, 3), np.uint8)
    return ObservationBatch({"agentview": frames}, np.zeros((rows, 0), np.float32), (TOLD,) * rows)


def _segment(decisions: int) -> Segment:
    seen, shape = _seen(decisions + 1), (decisions, SPEC.chunk, SPEC.action_dim)
    zeros = np.zeros(decisions, np.float32)
    return Segment(
        Assignment(0, 0, 0), 0, 0, TOLD, seen.images, seen.proprio, np.full(shape, 128, np.int16),
        np.full(shape, -5.5, np.float32), zeros, zeros, np.full(decisions, SPEC.chunk, np.int16),
        np.zeros(decisions, np.int64), terminated=True, truncated=False,
    )  # fmt: skip


def _product(options: Options) -> tuple[Callable[[], Any], float]:
    """A product, and its operations in 10^12."""
    side = 8192 if options.device != "cpu" else 1024
    kind = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=options.device).to(kind) for _ in range(2))
    return lambda: a @ b, 2 * side**3 / 1e12


def _seconds(once: Callable[[], Any], device: str) -> float:
    """Of one call, with all that it set going."""
    began = time.perf_counter()
    once()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _result(options: Options, policy: OpenVlaOftPolicy, rates: dict[str, list[float]]) -> Result:
    middle = {name: median(found) for name, found in rates.items()}
    words = policy.prompts.batch([TOLD], torch.device("cpu")).ids.shape[1]
    there = flops.forward(policy.shape, 1, words) / 1e12
    learnt = flops.update(policy.shape, 1, words, options.tune == "full") / 1e12
    figures = {
        "peak_tflops": middle["peak"],
        "decisions_per_s": middle["acting"],
        "eager_decisions_per_s": middle["acting, eager"],
        "buckets_over_eager": middle["acting"] / middle["acting, eager"],
        "acting_share": middle["acting"] * there / middle["peak"],
        "samples_per_s": middle["learning"],
        "learning_share": middle["learning"] * learnt / middle["peak"],
    }
    if options.device != "cpu":
        figures["gpu_gb"] = torch.cuda.max_memory_allocated(options.device) / 1e9
    rows = [{"what": name, "lowest": min(found), "median": middle[name], "highest": max(found)}
            for name, found in rates.items()]  # fmt: skip
    return Result(rows, {f"policy.{name}": value for name, value in figures.items()})
