"""Videos of episodes: cameras side by side over a caption that says what was asked and how it ended."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

Frame = np.ndarray | Mapping[str, np.ndarray]  # uint8 [H, W, 3], or camera -> that

HEIGHT = 256  # pixels; smaller cameras are enlarged by a whole factor, so that their pixels stay sharp
GAP = 8
LINE = 20  # height of a caption line
HOLD_S = 1.0  # the last frame stays, with the outcome
BACKGROUND = (24, 24, 27)
INK = (228, 228, 231)
OUTCOME_INK = {"success": (74, 222, 128), "failure": (248, 113, 113)}


def write_video(
    path: Path, frames: Sequence[Frame], fps: float = 20, *, instruction: str = "", outcome: str = ""
) -> None:
    """Writes H.264 that every browser plays (yuv420p); LIBERO and `tabletop` step at 20 Hz.

    `frames` are uint8 [H, W, 3] images or one dictionary of cameras each, all of one layout. The instruction stands
    below them all along; the outcome (`success` is green, `failure` red) for the last second. A killed writer
    leaves no half file at `path`. Raises ValueError when there are no frames.
    """
    import imageio_ffmpeg  # finds its ffmpeg on import

    if not frames:
        raise ValueError(f"no frames for {path}: an episode has at least its first observation")
    pictures = _pictures(frames, instruction, outcome, hold=round(HOLD_S * fps))
    first = next(pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
    size = (first.shape[1], first.shape[0])
    options = ["-crf", "23", "-preset", "veryfast", "-movflags", "+faststart"]
    writer = imageio_ffmpeg.write_frames(
        str(beside), size, fps=fps, codec="libx264", macro_block_size=2, quality=None, output_params=options
    )
    writer.send(None)
    writer.send(first)
    for picture in pictures:
        writer.send(picture)
    writer.close()
    os.replace(beside, path)


def _pictures(frames: Sequence[Frame], instruction: str, outcome: str, hold: int) -> Iterator[np.ndarray]:
    width = side_by_side(frames[0]).shape[1]
    running = _caption(width, instruction, "")
    for frame in frames:
        yield _contiguous(side_by_side(frame), running)
    ended = _contiguous(side_by_side(frames[-1]), _caption(width, instruction, outcome))
    for _ in range(hold):
        yield ended


def side_by_side(frame: Frame) -> np.ndarray:
    """uint8 [HEIGHT or more, W, 3]: the cameras in their order, enlarged, W even as H.264 wants it."""
    cameras = list(frame.values()) if isinstance(frame, Mapping) else [frame]
    factor = max(1, HEIGHT // cameras[0].shape[0])
    large = [camera.repeat(factor, 0).repeat(factor, 1) for camera in cameras]
    height = max(image.shape[0] for image in large)
    height += height % 2
    parts: list[np.ndarray] = []
    for image in large:
        gap = GAP if parts else 0
        parts.append(_blank(height, gap + image.shape[1]))
        parts[-1][: image.shape[0], gap:] = image
    whole = np.concatenate(parts, axis=1)
    return whole if whole.shape[1] % 2 == 0 else np.concatenate([whole, _blank(height, 1)], axis=1)


def _contiguous(image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.concatenate([image, caption]) if caption.size else image)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _caption(width: int, instruction: str, outcome: str) -> np.ndarray:
    """Lines of text as an image [H, width, 3]; its height depends on the instruction alone, so it never jumps."""
    from PIL import Image, ImageDraw, ImageFont

    if not instruction and not outcome:
        return _blank(0, width)
    lines = textwrap.wrap(instruction, max(10, width // 8)) or [""]
    image = Image.new("RGB", (width, LINE * (len(lines) + 1) + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + LINE * number), line, INK, font)
    draw.text((GAP, GAP // 2 + LINE * len(lines)), outcome, OUTCOME_INK.get(outcome, INK), font)
    return np.asarray(image)
