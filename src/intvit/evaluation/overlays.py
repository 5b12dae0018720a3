"""A page of photos under the labels of their pixels: the photo, float, integers, and where these two differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from intvit.evaluation.engine import Executor
from intvit.scenes import colours, difference, overlay

GAP, LINE, KEYS = 6, 22, 6  # pixels between pictures, of a line of text; classes in a line of the key


def chosen(count: int, of: int) -> list[int]:
    """Numbers of so many images, evenly spread over all; of fewer all."""
    count = min(count, of)
    return [(2 * number + 1) * of // (2 * count) for number in range(count)]


def draw_overlays(
    path: Path, photos: np.ndarray, executors: dict[str, Executor], names: list[str], palette: Any
) -> None:
    """Write the page as PNG: a photo a row, its labels by each executor a column, where the last two differ.

    photos: uint8 (N, 3, H, W). executors: title -> images to labels (B, H, W).
    """
    shown, pictures = colours(len(names), palette), photos.transpose(0, 2, 3, 1)
    labelled = [np.concatenate([execute(photo[None]) for photo in photos]) for execute in executors.values()]
    columns = {"photo": list(pictures)}
    for title, labels in zip(executors, labelled, strict=True):
        columns[title] = [overlay(*each, shown) for each in zip(pictures, labels, strict=True)]
    if len(labelled) > 1:
        one, other = labelled[-2:]
        title = f"difference: {100 * float((one != other).mean()):.2f} % of the pixels"
        columns[title] = [difference(*each) for each in zip(pictures, one, other, strict=True)]
    height, width = photos.shape[2:]
    lines = -(-len(names) // KEYS)
    size = len(columns) * (width + GAP) + GAP, len(photos) * (height + GAP) + (lines + 1) * LINE + GAP
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for place, (title, column) in enumerate(columns.items()):
        left = GAP + place * (width + GAP)
        pen.text((left, 3), title, "black", font)
        for row, picture in enumerate(column):
            page.paste(Image.fromarray(picture), (left, LINE + row * (height + GAP)))
    for label, name in enumerate(names):
        left, top = GAP + label % KEYS * (page.width // KEYS), page.height - (lines - label // KEYS) * LINE - GAP
        pen.rectangle((left, top + 2, left + 16, top + 16), tuple(shown[label].tolist()))
        pen.text((left + 22, top), name, "black", font)
    page.save(path)
