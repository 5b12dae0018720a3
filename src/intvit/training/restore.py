"""Models from configs and checkpoints: build one for a config, read a checkpoint, rebuild the model of a run.

No Lightning: evaluation uses this too.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.config.run_files import BEST, CONFIG, LAST, STATE, read_config, run_folder_of
from intvit.errors import IntVitError
from intvit.models import create_model, load_pretrained, load_weights
from intvit.quant import QuantConfig, function_digests, set_mode
from intvit.training.config import ModelConfig, TrainConfig, train_config


def build_model(config: ModelConfig, quant: QuantConfig, *, load: bool = True) -> nn.Module:
    """The model in float mode; with `load`, holding the weights that the config names."""
    model = create_model(
        config.name,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        mean=config.mean,
        std=config.std,
        quant=quant,
        drop_path=config.drop_path,
        dense=config.dense,
        **config.size(),
    )
    if load and config.pretrained:
        load_pretrained(model, config.name, head=config.head, resample=config.resample)
    if load and config.weights:
        load_weights(
            model,
            config.weights,
            key=config.weights_key,
            prefix=config.weights_prefix,
            head=config.head,
            resample=config.resample,
        )
    return model


def build_teacher(config: ModelConfig, quant: QuantConfig, weights: str | Mapping[str, Tensor]) -> nn.Module:
    """A frozen float model of the same architecture: weights from a file, or a whole state of the student."""
    teacher = build_model(config, quant, load=False)
    if isinstance(weights, str):
        load_weights(teacher, weights)
    else:
        teacher.load_state_dict(weights)
    set_mode(teacher, "float")
    return teacher.requires_grad_(False).eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint as plain values and tensors on the CPU; runs no code from the file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise IntVitError(f"{path}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise IntVitError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): truncated or another file"
        ) from error
    if not isinstance(checkpoint, dict) or STATE not in checkpoint:
        raise IntVitError(f"{path} is not a checkpoint of train.py; weights alone go into model.weights=FILE")
    return checkpoint


def load_state(model: nn.Module, checkpoint: Mapping[str, Any], path: Path, what: str) -> None:
    """Take the model's state from a training checkpoint. Raises IntVitError where it does not fit `what`."""
    state = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise IntVitError(f"{path} does not fit {what}: {problem[:200]}") from error
    trained: Mapping[str, str] = checkpoint[STATE].get("functions", {})
    for name, digest in function_digests(model).items():
        if trained.get(name, digest) != digest:
            raise IntVitError(
                f"{path}: {name} gives other integers than when this run was trained; put the function back, or train "
                "the run again (fresh=true)"
            )


def locate(ckpt: str, which: str = "last") -> tuple[Path, Path]:
    """(run folder, checkpoint file) of a run folder or of a .ckpt file inside one. which: `last` or `best` of a run."""
    path = Path(ckpt)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise IntVitError(f"ckpt={ckpt} holds no {CONFIG}: give the folder of a run of train.py, or its .ckpt file")
        wanted = path / (BEST if which == "best" else LAST)
        if wanted.is_file():
            return path, wanted
        if which == "best" and (path / LAST).is_file():
            raise IntVitError(f"ckpt={ckpt} holds no {BEST}: no validation of what is exported, or callbacks.best=null")
        raise IntVitError(f"ckpt={ckpt} holds no {LAST}: the run has not saved a checkpoint yet")
    if which == "best":
        raise IntVitError(f"which=best is of a run folder, but ckpt={ckpt} is no folder")
    if not path.is_file():
        raise IntVitError(f"ckpt={ckpt}: no such folder or file")
    if (folder := run_folder_of(path)) is None:
        raise IntVitError(f"ckpt={ckpt}: no {CONFIG} beside it or one folder up; give the folder of the run")
    return folder, path


def restore_run(
    ckpt: str, which: str = "last"
) -> tuple[Path, TrainConfig, nn.Module, nn.Module | None, dict[str, Any]]:
    """(run folder, config, model in eval mode, float teacher or None, this package's state) of a trained run.

    The state has `file` and `step` of the checkpoint, too.

    Raises IntVitError when the checkpoint does not fit the config.
    """
    folder, path = locate(ckpt, which)
    config = train_config(read_config(folder))
    checkpoint = read_checkpoint(path)
    model = build_model(config.model, config.quant, load=False)
    load_state(model, checkpoint, path, f"the config of {folder}")
    teacher_state = checkpoint[STATE]["teacher"]
    teacher = None if teacher_state is None else build_teacher(config.model, config.quant, teacher_state)
    state = {**checkpoint[STATE], "file": path.name, "step": checkpoint["global_step"]}
    return folder, config, model.eval(), teacher, state
