"""`acceerl data view`: episodes to look at, as a contact sheet (PNG) or a film (mp4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from acceerl.jobs.data.options import View
from acceerl.jobs.video import side_by_side, write_video
from acceerl.stores.reader import Trajectories, open_trajectories

CELL = 128  # pixels a side of a frame on a sheet
LINE = 18
MARGIN = 6


def run(sources: Sequence[Path], options: View) -> str:
    """Writes the file and returns one line about it. Raises ValueError for a wrong name or episode."""
    to = Path(options.to)
    if to.suffix not in (".png", ".mp4"):
        raise ValueError(f"to={options.to}: give a file that ends in .png (a contact sheet) or .mp4 (a film)")
    trajectories = open_trajectories(sources)
    chosen = _chosen(options, len(trajectories))
    if to.suffix == ".png":
        _sheet(trajectories, chosen, options.frames).save(to)
    else:
        _film(trajectories, chosen, to)
    trajectories.close()
    return f"{to}: episodes {', '.join(map(str, chosen))} of {len(trajectories)}"


def _chosen(options: View, there: int) -> list[int]:
    if not options.episodes:
        return [int(i) for i in np.unique(np.linspace(0, there - 1, min(options.count, there)).astype(int))]
    try:
        wanted = [int(text) for text in options.episodes.split(",")]
    except ValueError:
        raise ValueError(f"episodes={options.episodes}: write numbers with commas between them") from None
    for i in wanted:
        if not 0 <= i < there:
            raise ValueError(f"episodes={options.episodes}: there are 0 to {there - 1}")
    return wanted


def _sheet(trajectories: Trajectories, chosen: Sequence[int], frames: int):  # type: ignore[no-untyped-def]
    """An image with a row for each episode and camera, its frames spread over its time."""
    from PIL import Image, ImageDraw, ImageFont

    strips = [strip for i in chosen for strip in _strips(trajectories, i, frames)]
    width = max(image.shape[1] for _, image in strips) + 2 * MARGIN
    height = sum(image.shape[0] + (LINE if words else 0) + MARGIN for words, image in strips) + MARGIN
    sheet = Image.new("RGB", (width, height), (24, 24, 27))
    draw, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(size=13), MARGIN
    for words, image in strips:
        if words:
            draw.text((MARGIN, y), words, (228, 228, 231), font)
            y += LINE
        sheet.paste(Image.fromarray(image), (MARGIN, y))
        y += image.shape[0] + MARGIN
    return sheet


def _strips(trajectories: Trajectories, i: int, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """(caption or nothing, uint8 [CELL, W, 3]) for each camera."""
    from PIL import Image

    entry = trajectories.entries[i]
    rows = np.unique(np.linspace(0, entry.rows, min(frames, entry.rows + 1)).astype(int))
    words = (
        f"{i}: {entry.instruction}, {entry.steps} steps, {'success' if entry.success else 'failure'} ({entry.source})"
    )
    for _, camera in entry.layout.cameras:
        pictures = [trajectories.frames(i, camera, int(row), int(row) + 1)[0] for row in rows]
        cells = [np.asarray(Image.fromarray(picture).resize((CELL, CELL))) for picture in pictures]
        yield words, np.concatenate([np.pad(cell, ((0, 0), (0, 2), (0, 0))) for cell in cells], axis=1)
        words = ""


def _film(trajectories: Trajectories, chosen: Sequence[int], to: Path) -> None:
    """Episodes one after the other, at the speed of the control (20 Hz)."""
    shown = []
    for i in chosen:
        entry = trajectories.entries[i]
        cameras = [name for _, name in entry.layout.cameras]
        films = {name: trajectories.frames(i, name, 0, entry.rows + 1) for name in cameras}
        shown += [side_by_side({name: film[t] for name, film in films.items()}) for t in range(entry.rows + 1)]
    stride = trajectories.entries[chosen[0]].stride
    words = [trajectories.entries[i].instruction for i in chosen]
    same = len({picture.shape for picture in shown}) == 1
    if not same:
        raise ValueError("episodes of several image sizes make no film: choose some of one size with episodes=")
    write_video(to, shown, fps=20 / stride, instruction="; ".join(dict.fromkeys(words)))
