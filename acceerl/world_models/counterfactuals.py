"""What did not happen, for a success model to say no to.

The deeds of a data set look alike: the hand at a place, the fingers opening. A judge that is shown nothing else learns
the gesture: it neither reads the words nor looks at the picture, and is right about every recorded episode. A policy
that practises before it then makes the gesture anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = (1.0, 2.5)  # deviations that a coordinate is led away
OTHERS = 0.4  # share of the bodies that end where another's deed was done, if that is far


@dataclass(frozen=True)
class Questions:
    """Of M x N rows, row m N + n about picture n: see `protocols.SuccessModel.loss`."""

    felt: Tensor
    words: list[str]
    labels: Tensor
    counted: Tensor


def with_counterfactuals(happened: Questions, generator: torch.Generator) -> Questions:
    """What happened; the same with the next row's words, which fulfils those only if they are its own; and, where there
    is a body, gestures that end elsewhere, which fulfil nothing."""
    words, labels = happened.words, happened.labels
    others = words[1:] + words[:1]
    same = torch.tensor([a == b for a, b in zip(words, others, strict=True)], device=labels.device)
    parts = [happened, Questions(happened.felt, others, labels & same[:, None], happened.counted)]
    if happened.felt.shape[2]:
        felt, counts = elsewhere(happened, generator)
        parts.append(Questions(felt, words, torch.zeros_like(labels), happened.counted & counts[:, None]))
    return Questions(
        torch.cat([part.felt for part in parts]),
        [text for part in parts for text in part.words],
        torch.cat([part.labels for part in parts]),
        torch.cat([part.counted for part in parts]),
    )


def elsewhere(happened: Questions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bodies [N, K + S, P] that make the same gestures elsewhere, past and all, since one that is led away within a
    tick would be known by its haste; and which of them fulfil nothing there, bool [N].

    Some end where another of the deeds was done, if that is a deviation away; the others are led aside in one or two
    coordinates, to where none was.
    """
    felt, n = happened.felt, len(happened.felt)
    deviation = felt.flatten(0, 1).std(dim=0, correction=0).clamp(min=1e-6)
    aside = _led_aside(n, felt.shape[2], generator).to(felt.device) * deviation
    ends, done = felt[:, -1], happened.labels.any(dim=1)
    deeds = ends[done]
    if not len(deeds):
        return felt + aside[:, None], ~done
    alone = torch.cdist((ends + aside) / deviation, deeds / deviation).amin(dim=1) >= FAR[0]
    there = deeds[torch.randint(len(deeds), (n,), generator=generator).to(felt.device)] - ends
    chosen = torch.rand(n, generator=generator).to(felt.device) < OTHERS
    counts = torch.where(chosen, (there / deviation).norm(dim=1) >= FAR[0], alone)
    return felt + torch.where(chosen[:, None], there, aside)[:, None], counts


def _led_aside(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Deviations [n, size]: one or two entries of a row are far from 0, of either sign."""
    rank = torch.rand((n, size), generator=generator).argsort(dim=1)
    chosen = rank < torch.randint(1, 3, (n, 1), generator=generator)
    length = FAR[0] + (FAR[1] - FAR[0]) * torch.rand((n, size), generator=generator)
    sign = 1 - 2 * torch.randint(2, (n, size), generator=generator)
    return chosen * length * sign
