"""Weights of one's own run: what its config says of them, compared with the model that is to take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intvit.arguments import both_sides, sides_text
from intvit.config.identity import identity_hash
from intvit.config.run_files import run_folder_of
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.registry import MODELS
from intvit.quant.layers import AttentionCore


def compare(config: Mapping[str, Any], model: ImageModel, where: str, *, fresh_head: bool, resample: bool) -> None:
    """Raise IntVitError where the model would read the run's weights otherwise than the run did, though shapes agree.

    config: the plain config of the run. Compared are classes, image size, normalization and heads.
    """
    run = config["model"]
    problems = []
    if not fresh_head and run["num_classes"] != model.num_classes:
        problems.append(f"it has {run['num_classes']} classes, the model {model.num_classes}: model.head=fresh")
    if not resample and (trained := image_size(config)) != model.image_size:
        sizes = f"{sides_text(trained)}, the model {sides_text(model.image_size)}"
        problems.append(f"its image size is {sizes}: model.resample=true")
    for name in ("mean", "std"):
        own = model.get_buffer(f"input.{name}").tolist()
        if list(run[name]) != own:
            problems.append(f"its data.{name} is {list(run[name])}, the model's {own}: say the same")
    usual = run.get("heads") or getattr(MODELS.get(run["name"]), "heads", None)
    heads = {core.heads for core in model.modules() if isinstance(core, AttentionCore)}
    if isinstance(usual, int) and {usual} != heads:
        problems.append(f"it has {usual} heads, the model {', '.join(map(str, sorted(heads)))}: say the same")
    if problems:
        raise IntVitError(f"{where} is of a run whose weights mean something else: {'; '.join(problems)}")


def image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) of the images that a run was trained on."""
    return both_sides("model.image_size", config["model"]["image_size"])


def name_and_experiment(checkpoint: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Of the run that a checkpoint is of: its folder's name, the hash of its experiment."""
    folder = run_folder_of(checkpoint)
    assert folder is not None  # it is where `config` was read
    return {"name": folder.name, "experiment": identity_hash(config)}
