"""Whole episodes in imagination, along their real actions: do they end as they really did, and films of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acceerl.jobs.video import write_video
from acceerl.roles.contexts import padded, start_of
from acceerl.stores.memory import Kept
from acceerl.world_models.imagined import Imagination

THRESHOLDS = np.append(np.arange(0.3, 0.99, 0.01), 0.99)  # of the probability of success, from which one is chosen
FALSE = 0.01  # of imagined episodes may end in a success that was none
BATCH = 32
VIDEOS = 4


@dataclass(frozen=True, eq=False)
class Endings:
    """How imagined episodes end, along the real actions of episodes whose end is known."""

    threshold: float  # that was chosen and given to the success model
    false: float  # share of the episodes that end too early, or in a success that was none
    missed: float  # share of the real successes; NaN without any
    probabilities: np.ndarray  # float32 [ticks of all episodes], of success
    succeeded: np.ndarray  # bool [ticks], really


def endings(imagination: Imagination, episodes: Sequence[Kept], videos: Path) -> Endings:
    """Chooses the threshold of success and counts false and missed endings.

    Both are cross-validated: each half of the episodes is judged by the threshold that the other half chose. The
    success model gets the higher of the two. Writes some videos, real over imagined.
    """
    dreams = [_along(imagination, episodes[i : i + BATCH], VIDEOS if i == 0 else 0)
              for i in range(0, len(episodes), BATCH)]  # fmt: skip
    probabilities = [p for batch, _ in dreams for p in batch]
    halves = [range(0, len(episodes), 2), range(1, len(episodes), 2)]
    chosen = [_chosen([episodes[i] for i in half], [probabilities[i] for i in half], imagination) for half in halves]
    false, missed = [], []
    for half, threshold in zip(halves, chosen[::-1], strict=True):
        for i in half:
            end = _end(probabilities[i], threshold)
            false.append(_is_false(episodes[i], end, imagination.stride))
            missed += [end is None] if episodes[i].success else []
    threshold = max(chosen)
    decide = getattr(imagination.success, "decide", None)
    if decide is not None:
        decide(threshold)
    for n, film in enumerate(dreams[0][1]):
        ended = _end(probabilities[n], threshold)
        _film(videos / f"imagined_{n}.mp4", episodes[n], film, imagination.stride, ended)
    won = [(np.arange(len(p)) == len(p) - 1) & e.success for p, e in zip(probabilities, episodes, strict=True)]
    return Endings(
        threshold, float(np.mean(false)), float(np.mean(missed)) if missed else float("nan"),
        np.concatenate(probabilities), np.concatenate(won),
    )  # fmt: skip


def _chosen(episodes: Sequence[Kept], probabilities: Sequence[np.ndarray], imagination: Imagination) -> float:
    """The lowest threshold by which at most `FALSE` of these imagined episodes end in a success that was none."""
    for threshold in THRESHOLDS:
        ends = [_end(p, threshold) for p in probabilities]
        false = [_is_false(e, end, imagination.stride) for e, end in zip(episodes, ends, strict=True)]
        if sum(false) <= FALSE * len(episodes):
            break
    return float(threshold)


def _end(probabilities: np.ndarray, threshold: float) -> int | None:
    """The tick that an imagined episode succeeds at."""
    above = np.flatnonzero(probabilities > threshold)
    return int(above[0]) + 1 if len(above) else None


def _is_false(episode: Kept, end: int | None, stride: int) -> bool:
    return end is not None and (not episode.success or end < -(-episode.steps // stride))


def _along(
    imagination: Imagination, episodes: Sequence[Kept], film: int
) -> tuple[list[np.ndarray], list[list[dict[str, np.ndarray]]]]:
    """The probability of success after every tick of each imagined episode, and the first films."""
    stride = imagination.stride
    imagination.reset([start_of(e, 0, imagination.world.spec) for e in episodes])
    seen: list[np.ndarray] = []
    films: list[list[dict[str, np.ndarray]]] = [[_seen(imagination, n)] for n in range(min(film, len(episodes)))]
    ticks = [-(-e.steps // stride) for e in episodes]
    for tick in range(max(ticks)):
        chunks = [e.actions[min(tick * stride, e.steps - 1) :][:stride] for e in episodes]
        imagination.tick(np.stack([padded(chunk, stride) for chunk in chunks]))
        seen.append(imagination.probability)
        for n, dreamt in enumerate(films):
            if tick < ticks[n]:
                dreamt.append(_seen(imagination, n))
    together = np.stack(seen, axis=1)
    return [row[:count] for row, count in zip(together, ticks, strict=True)], films


def _seen(imagination: Imagination, n: int) -> dict[str, np.ndarray]:
    return {c: frames[n, -1].cpu().numpy() for c, frames in imagination.past.images.items()}


def _film(path: Path, episode: Kept, imagined: list[dict[str, np.ndarray]], stride: int, end: int | None) -> None:
    """Real cameras, then imagined ones, side by side; a frame a tick."""
    rows = np.minimum(np.arange(len(imagined)) * stride // episode.stride, episode.rows)
    frames = [
        {f"real {c}": episode.images[c][row] for c in dream} | {f"imagined {c}": x for c, x in dream.items()}
        for row, dream in zip(rows, imagined, strict=True)
    ]
    agree = (end is not None) == episode.success
    outcome = f"real {'success' if episode.success else 'failure'}, imagined {'success' if end else 'failure'}"
    words = f"{episode.instruction} | {outcome}"
    write_video(path, frames, fps=2, instruction=words, outcome="success" if agree else "failure")
