"""Float weights with timm's key names: from a file, from a state dict, or downloaded by timm."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.registry import size_named


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load every parameter of the model; the ranges of quantizers are not part of the weights.

    source: .safetensors, .pth or .pt file (the latter read with weights_only, a `model` or `state_dict` entry is
    followed), or a state dict. Raises IntVitError naming missing, unexpected and wrongly shaped keys.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    where = "the given weights" if isinstance(source, Mapping) else str(source)
    state = model.adapt(state) if isinstance(model, ImageModel) else state
    parameters = dict(model.named_parameters())
    problems = [
        *_listed("missing", [key for key in parameters if key not in state]),
        *_listed("unexpected", [key for key in state if key not in parameters]),
        *_listed(
            "wrong shape",
            [
                f"{key} {tuple(state[key].shape)} instead of {tuple(parameter.shape)}"
                for key, parameter in parameters.items()
                if key in state and state[key].shape != parameter.shape
            ],
        ),
    ]
    if problems:
        raise IntVitError(
            f"{where} does not fit the model: {'; '.join(problems)}; check model, data.num_classes and image size"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(state[key])


def load_pretrained(model: nn.Module, name: str) -> None:
    """Download timm's ImageNet weights for `name` and load them."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    import timm

    name = size_named(name).timm
    try:
        source = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub raises many kinds; all of them mean: not available
        raise IntVitError(
            f"model.pretrained=true: cannot get {name} ({type(error).__name__}); "
            "give a file with model.weights=FILE instead"
        ) from error
    load_weights(model, source.state_dict())


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise IntVitError(f"model.weights={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise IntVitError(f"model.weights={path}: not a readable weights file ({type(error).__name__})") from error
    for entry in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(entry), Mapping):
            return state[entry]
    if not isinstance(state, Mapping):
        raise IntVitError(f"model.weights={path}: holds {type(state).__name__}, expected a mapping of tensors")
    return state


def _listed(problem: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    shown = ", ".join(keys[:5])
    return [f"{problem} keys: {shown}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")]
