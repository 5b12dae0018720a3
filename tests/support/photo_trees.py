"""Trees of small photos in class folders. Photo i says in its first pixel that it is number i."""

from pathlib import Path

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.data.config import DataConfig
from tests.support.synthetic_shards import numbered_image, png


def write_tree(root: Path, classes: dict[str, int], first: int = 0) -> list[Path]:
    """`classes`: name -> number of photos. The files, in the order of their numbers."""
    files = []
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            files.append(root / name / f"photo{number}.png")
            files[-1].write_bytes(png(numbered_image(first + len(files) - 1)))
    return files


def tree_config(root: Path | str, *overrides: str, **changes) -> DataConfig:
    """data=folder for photos of 4 x 4 pixels."""
    values = compose_group(["+data=folder", f"data.root='{root}'", *overrides], "data")
    small = {"image_size": 4, "batch_size": 4, "eval_batch_size": 4, "workers": 0, "crop_pct": 1.0}
    return build(DataConfig, {**values, **small, "train_transform": {"kind": "none"}, **changes}, "data")
