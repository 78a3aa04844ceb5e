"""A video of the same starts before and after training."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vla_rl.results.plots import _INK, FAILURE, PLAYING, SUCCESS

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One filmed episode.

    Attributes:
        frames: ``[t]`` frames, each ``[h, w, 3]`` uint8; at least one.
        success: Whether it was solved.
    """

    frames: Frames
    success: bool


_CELL, _BORDER, _GAP, _BAND, _COLUMNS = 224, 4, 8, 22, 5


def before_after_video(
    before: Sequence[Clip], after: Sequence[Clip], labels: Sequence[str], path: Path, fps: int = 20
) -> None:
    """Write clips side by side as an mp4: a column for each task, before above after.

    A clip that has ended keeps its last frame, with a border and the word success or failure.

    Args:
        before: One clip for each label.
        after: One clip for each label.
        labels: Names of the tasks; more than five start a new pair of rows.
        path: The mp4 to write.
        fps: Frames per second.

    Raises:
        ValueError: If the numbers differ or are zero, or a clip has no frames.
    """
    if not len(before) == len(after) == len(labels) > 0:
        raise ValueError(
            "a video needs a clip before and after for every label, got "
            f"{len(before)}, {len(after)} and {len(labels)} labels"
        )
    if not all(len(clip.frames) for clip in (*before, *after)):
        raise ValueError("every clip of a video needs at least one frame")
    length = (
        max(len(clip.frames) for clip in (*before, *after)) + fps
    )  # keep the last frames for a second
    pictures = (_picture(before, after, labels, t) for t in range(length))
    temporary = path.with_name(f".{path.name}.new.mp4")
    _encode(pictures, temporary, fps)
    os.replace(temporary, path)


def _encode(pictures: Iterator[Image.Image], path: Path, fps: int) -> None:
    first = next(pictures)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        first.size,
        fps=fps,
        codec="libx264",
        macro_block_size=2,
        quality=None,
        output_params=["-crf", "27", "-preset", "medium", "-movflags", "+faststart"],
    )
    writer.send(None)
    for picture in chain([first], pictures):
        writer.send(picture.tobytes())
    writer.close()


def _picture(
    before: Sequence[Clip], after: Sequence[Clip], labels: Sequence[str], t: int
) -> Image.Image:
    columns = min(len(labels), _COLUMNS)
    blocks = math.ceil(len(labels) / _COLUMNS)
    wide, high = _CELL + 2 * _BORDER + _GAP, _CELL + 2 * _BORDER + _BAND + _GAP
    size = (columns * wide + _GAP, 2 * blocks * high + _GAP)
    picture = Image.new("RGB", size, "white")
    for i, label in enumerate(labels):
        x = _GAP + i % _COLUMNS * wide
        y = _GAP + i // _COLUMNS * 2 * high
        _draw_cell(picture, (x, y), before[i], f"{label} · before", t)
        _draw_cell(picture, (x, y + high), after[i], f"{label} · after", t)
    return picture


def _draw_cell(
    picture: Image.Image, corner: tuple[int, int], clip: Clip, title: str, t: int
) -> None:
    x, y = corner
    ended = t >= len(clip.frames) - 1
    outcome = ("success", SUCCESS) if clip.success else ("failure", FAILURE)
    word, colour = outcome if ended else ("", PLAYING)
    draw = ImageDraw.Draw(picture)
    side = _CELL + 2 * _BORDER
    word_width = draw.textlength(word, font=_BOLD)
    draw.text((x, y), _fitted(draw, title, side - word_width - 6), fill=_INK, font=_PLAIN)
    draw.text((x + side - word_width, y), word, fill=colour, font=_BOLD)
    draw.rectangle((x, y + _BAND, x + side - 1, y + _BAND + side - 1), fill=colour)
    frame = Image.fromarray(np.asarray(clip.frames[min(t, len(clip.frames) - 1)]))
    resized = frame.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    picture.paste(resized, (x + _BORDER, y + _BAND + _BORDER))


_PLAIN = ImageFont.load_default(13)
_BOLD = ImageFont.load_default(14)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The text, shortened in its first word so that before or after stays readable."""
    name, _, ending = text.rpartition(" · ")
    shown = name
    while shown and draw.textlength(f"{shown} · {ending}", font=_PLAIN) > width:
        shown = shown[:-1]
    return f"{shown if shown == name else shown[:-1] + '…'} · {ending}"
