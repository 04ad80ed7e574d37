"""Segments of unequal length as one flat batch: the form in which the learner meets experience.

A policy evaluates observations in any order, so it gets them flat, N rows without padding; GAE runs along time,
so it gets [B, T] with a mask. A SegmentBatch holds both and the index maps between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch, Segment


@dataclass(frozen=True)
class SegmentBatch:
    """B segments of at most T decisions in N rows; each segment's bootstrap row follows its decisions.

    N = sum of (decisions + 1), or + 0 for a terminated segment, whose last observation nobody needs to value.
    `token_share` and `decision_share` say which part of a whole batch this one is. A mean over its tokens
    (policy loss, KL, entropy) or its decisions (value loss) times that share, summed over the micro-batches,
    is the mean over the whole batch: the one and only division by the number of micro-batches.
    """

    observations: ObservationBatch  # N
    tokens: Tensor  # int64 [N, C, D], 0 in bootstrap rows
    behaviour_logp: Tensor  # float32 [N, C, D], 0 in bootstrap rows
    token_mask: Tensor  # bool [N, C, D], True for tokens of executed control steps
    rows: Tensor  # int64 [B, T], row of each decision; padding points to row 0
    mask: Tensor  # bool [B, T], True at valid decisions
    bootstrap_rows: Tensor  # int64 [B], row of the observation after the last decision
    terminated: Tensor  # bool [B, T]
    truncated: Tensor  # bool [B, T]
    rewards: Tensor  # float32 [B, T]
    versions: Tensor  # int64 [B, T]
    imagined: Tensor  # bool [B]
    n_decisions: int
    n_tokens: int  # unmasked
    decision_share: float = 1.0
    token_share: float = 1.0

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> SegmentBatch:
        """Copies the segments into one batch on the CPU. Raises ValueError when there is none."""
        if not segments:
            raise ValueError("a batch needs at least one segment")
        token_mask = _rows(segments, [_executed(s) for s in segments])
        return cls(
            observations=_observations(segments),
            tokens=_rows(segments, [s.tokens for s in segments]).long(),
            behaviour_logp=_rows(segments, [s.logp for s in segments]),
            token_mask=token_mask,
            **_index(segments),
            terminated=_padded([_at_end(s, s.terminated) for s in segments]),
            truncated=_padded([_at_end(s, s.truncated) for s in segments]),
            rewards=_padded([s.rewards for s in segments]).float(),
            versions=_padded([s.versions for s in segments]),
            imagined=torch.tensor([s.imagined for s in segments]),
            n_decisions=sum(map(len, segments)),
            n_tokens=int(token_mask.sum()),
        )

    def to(self, device: torch.device | str) -> SegmentBatch:
        """The batch with its tensors on `device`; observations stay numpy, the policy moves what it needs."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def pad(self, flat: Tensor) -> Tensor:
        """[N, ...] -> [B, T, ...]; padding repeats row 0, so mask what you compute from it."""
        return flat[self.rows]

    def flat(self, padded: Tensor) -> Tensor:
        """[B, T] -> [N]; bootstrap rows are 0."""
        result = padded.new_zeros(len(self.tokens))
        result[self.rows[self.mask]] = padded[self.mask]
        return result

    def bootstrap(self, flat: Tensor) -> Tensor:
        """[N] -> [B], the entry of each segment's last observation; 0 where it terminated."""
        ended = (self.terminated & self.mask).any(-1)
        return torch.where(ended, 0, flat[self.bootstrap_rows])


def blank(spec: PolicySpec, rows: int, device: str = "cpu") -> tuple[ObservationBatch, Tensor]:
    """Black images and the tokens 0, for a pass that only has to be made: what `Policy.evaluate` takes."""
    images = {name: np.zeros((rows, *spec.image_size, 3), np.uint8) for name in spec.cameras}
    tokens = torch.zeros((rows, spec.chunk, spec.action_dim), dtype=torch.int64, device=device)
    return ObservationBatch(images, np.zeros((rows, spec.proprio), np.float32), ("",) * rows), tokens


def micro_batches(segments: Sequence[Segment], max_decisions: int) -> list[SegmentBatch]:
    """Splits whole segments into batches of at most `max_decisions`, of nearly equal size, shares filled in.

    A single segment that is longer goes alone. The same segments give the same split.
    """
    batches = [SegmentBatch.of(part) for part in split(segments, max_decisions)]
    return shared(batches, sum(b.n_decisions for b in batches), sum(b.n_tokens for b in batches))


def shared(batches: Sequence[SegmentBatch], decisions: int, tokens: int) -> list[SegmentBatch]:
    """The batches as parts of a whole with so many decisions and unmasked tokens, say of all learner ranks."""
    return [
        replace(b, decision_share=b.n_decisions / decisions, token_share=b.n_tokens / max(tokens, 1)) for b in batches
    ]


def split(segments: Sequence[Segment], max_decisions: int) -> list[list[Segment]]:
    """The split of `micro_batches`: as few parts as the longest-first rule finds, filled evenly.

    Raises ValueError when there are no segments or `max_decisions` is below 1.
    """
    if not segments or max_decisions < 1:
        raise ValueError(f"cannot split {len(segments)} segments into parts of {max_decisions} decisions")
    n_parts = -(-sum(map(len, segments)) // max_decisions)
    while True:  # ends at one segment a part at the latest
        parts = _spread(segments, n_parts)
        if all(len(part) == 1 or sum(map(len, part)) <= max_decisions for part in parts):
            return parts
        n_parts += 1


def _spread(segments: Sequence[Segment], n_parts: int) -> list[list[Segment]]:
    """Longest first, each into the least filled part (Graham 1969)."""
    parts: list[list[Segment]] = [[] for _ in range(min(n_parts, len(segments)))]
    for segment in sorted(segments, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(segment)
    return parts


def _extra(segment: Segment) -> int:
    return 0 if segment.terminated else 1


def _executed(segment: Segment) -> np.ndarray:
    """bool [T, C, D]: control step c of a chunk was executed."""
    chunk = np.arange(segment.tokens.shape[1])
    return np.broadcast_to((chunk < segment.executed[:, None])[..., None], segment.tokens.shape)


def _at_end(segment: Segment, flag: bool) -> np.ndarray:
    flags = np.zeros(len(segment), bool)
    flags[-1:] = flag
    return flags


def _rows(segments: Sequence[Segment], arrays: list[np.ndarray]) -> Tensor:
    """One array [T, ...] per segment -> [N, ...], zeros in bootstrap rows."""
    padding = [((0, _extra(s)),) + ((0, 0),) * (a.ndim - 1) for s, a in zip(segments, arrays, strict=True)]
    return torch.from_numpy(np.concatenate([np.pad(a, p) for a, p in zip(arrays, padding, strict=True)]))


def _padded(arrays: list[np.ndarray]) -> Tensor:
    """One array [T_i] per segment -> [B, T], zeros behind the end."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in arrays], batch_first=True)


def _index(segments: Sequence[Segment]) -> dict[str, Any]:
    lengths = np.array([len(s) for s in segments])
    starts = np.cumsum([0] + [len(s) + _extra(s) for s in segments[:-1]])
    time = np.arange(lengths.max())
    mask = time < lengths[:, None]
    # a terminated segment has no bootstrap row: point to its last decision, a row that exists
    last = starts + lengths - [s.terminated for s in segments]
    return {
        "rows": torch.from_numpy(np.where(mask, starts[:, None] + time, 0)),
        "mask": torch.from_numpy(mask),
        "bootstrap_rows": torch.from_numpy(last),
    }


def _observations(segments: Sequence[Segment]) -> ObservationBatch:
    counts = [len(s) + _extra(s) for s in segments]
    pairs = list(zip(segments, counts, strict=True))
    return ObservationBatch(
        {name: np.concatenate([s.images[name][:n] for s, n in pairs]) for name in segments[0].images},
        np.concatenate([s.proprio[:n] for s, n in pairs]),
        tuple(s.instruction for s, n in pairs for _ in range(n)),
    )
