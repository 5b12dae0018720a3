"""PyTorch's files read without running anything that they hold: tensors come out, every other object is inert.

torch's own weights_only refuses a whole file for one argparse.Namespace in it, and cannot be told to let a subclass of
dict pass; training checkpoints hold both beside their weights.
"""

from __future__ import annotations

import pickle
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intvit.errors import IntVitError


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not imported: takes whatever the file gives it, and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    add = append
    __hash__ = object.__hash__  # type: ignore[assignment] # objects are keys of dicts and parts of sets, too

    @classmethod
    def of(cls, module: str, name: str) -> type[Inert]:
        """The class that stands for module.name."""
        return type(name.rpartition(".")[2], (cls,), {"__module__": module})


class Unpickler(pickle.Unpickler):
    """Of what a pickle may name, tensors, their parts and ordered dicts are real; nothing else is looked up at all.

    The functions are made anew at every look-up: what a file sets on one of them changes nothing of this process.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: _tensor(storage, offset, size, stride)
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda data, *rest: data
        return Inert.of(module, name)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Raises RuntimeError for a tensor that reaches beyond its storage."""
    tensor: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    return tensor


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


# What torch.load asks of a module like pickle.
_PICKLE = types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=_load)


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, on the CPU, in torch's zipped form or the one before it.

    Raises IntVitError for a file of another kind, a damaged one and a TorchScript archive.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise IntVitError(
                    f"model.weights={path}: a TorchScript archive; save the state_dict() of the model instead"
                )
    try:
        with path.open("rb") as file:  # of a path, torch believes the name
            return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
    except Exception as error:  # a damaged pickle may raise whatever its instructions lead to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise IntVitError(
            f"model.weights={path}: not a readable weights file ({reason}); expected .safetensors or .pth"
        ) from error
