"""What the architectures share of heads that score every pixel.

`linear`: the last LayerNorm, on the patch tokens, and a linear layer. `multi`: the tokens of four blocks, a LayerNorm
each, side by side, and a linear layer on all of them. `mask`: Segmenter's mask transformer, whose class tokens meet the
patches'; see `vit.mask_transformer`. The scores of patches are then enlarged to the image.
"""

from __future__ import annotations

from intvit.arguments import sides_text
from intvit.errors import IntVitError

HEADS = ("linear", "multi", "mask")
TAPS = 4  # blocks whose tokens a head `multi` reads
DECODER_BLOCKS = 2  # of a head `mask`, as Segmenter has them


def check_dense(dense: str, num_classes: int, image_size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns of the scores before they are enlarged `factor` times.

    Raises IntVitError for an unknown head, no classes, and an image that such scores would not cover.
    """
    if dense not in HEADS:
        raise IntVitError(f"task.head={dense}: unknown, expected one of {', '.join(HEADS)}")
    if not num_classes:
        raise IntVitError("num_classes=0 with a head for every pixel: say how many classes pixels have")
    if any(side % factor for side in image_size):
        near = sides_text((image_size[0] // factor * factor or factor, image_size[1] // factor * factor or factor))
        raise IntVitError(
            f"model.image_size={sides_text(image_size)}: this model scores squares of {factor} pixels; choose "
            f"multiples of it, such as {near}"
        )
    return image_size[0] // factor, image_size[1] // factor


def tapped_blocks(depth: int) -> tuple[int, ...]:
    """Numbers from 0 of the blocks that `multi` reads, evenly spread, the last among them.

    >>> tapped_blocks(12), tapped_blocks(2)
    ((2, 5, 8, 11), (0, 1))
    """
    count = min(TAPS, depth)
    return tuple((number + 1) * depth // count - 1 for number in range(count))
