"""From a file or a folder to one state dict: which file, which of its entries, and what is known of its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from intvit.config.run_files import CONFIG, LAST, STATE, read_config, run_folder_of
from intvit.errors import IntVitError
from intvit.models.weights.keys import has_own_ranges
from intvit.models.weights.unpickling import Inert, read_torch_file

# Entries of training checkpoints that hold weights: averaged ones (timm; DeiT and Microsoft's Swin), and plain ones.
AVERAGED = ("state_dict_ema", "model_ema")
PLAIN = ("state_dict", "model", "model_state_dict")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")  # timm's checkpoints are .pth.tar
# Of a folder as transformers' save_pretrained writes it.
IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
DESCRIPTION = "config.json"  # beside it; timm's on the Hugging Face hub, too


@dataclass(frozen=True)
class Found:
    """state: tensors by key, as the file names them. path: the file, None where none is. notes: what was decided.

    own: whether it is of a model of this package. config: that of the run of train.py that wrote it, where the file
    still lies in its folder. classes: names by score, as that run or the config.json of transformers and timm beside
    the file has them.
    """

    state: dict[str, Tensor]
    path: Path | None
    notes: tuple[str, ...] = ()
    own: bool = False
    config: Mapping[str, Any] | None = None
    classes: Sequence[str] = ()

    @property
    def where(self) -> str:
        """For messages."""
        return "the given weights" if self.path is None else str(self.path)


def read(path: Path, key: str) -> Found:
    """The state dict of a file or folder. key: `auto`, `ema`, or the name of the entry that holds it.

    auto takes the averaged weights where there are any, as timm does, and notes it; else the plain ones; else the file
    itself. Raises IntVitError for what is no weights file, and where the entry is not there.
    """
    path = _file(path.expanduser())
    if path.suffix == ".npz":
        raise IntVitError(f"model.weights={path}: weights of JAX; load them with timm, and save its state_dict()")
    content: Any = _safetensors(path) if _is_safetensors(path) else read_torch_file(path)
    if isinstance(content, Inert) and not content:
        raise IntVitError(
            f"model.weights={path}: a whole object of {type(content).__module__}.{type(content).__name__}, whose code "
            "is not run; save its state_dict() instead"
        )
    if not isinstance(content, Mapping) or not content:
        raise IntVitError(
            f"model.weights={path}: holds an object of type {type(content).__name__}, expected a mapping of tensors; "
            "save the state_dict() of the model"
        )
    entry, notes = _chosen(content, key, path)
    state: Mapping[Any, Any] = content if entry is None else content[entry]
    of_run = STATE in content
    classes = content[STATE].get("classes") or () if of_run else _described_classes(path)
    folder = run_folder_of(path) if of_run else None
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if others := [str(name) for name in state if name not in tensors]:
        notes = (*notes, f"left out what is no tensor: {', '.join(others[:5])}")
    own = of_run or has_own_ranges(tensors)
    return Found(tensors, path, notes, own, None if folder is None else read_config(folder), classes)


def holds_weights_alone(path: Path) -> bool:
    """Whether a path is that of weights, a file or a folder of transformers, and not of a run or one of its .ckpt."""
    if path.is_dir():
        return not (path / CONFIG).is_file() and any((path / name).is_file() for name in IN_FOLDER)
    return path.suffix in SUFFIXES


def _file(path: Path) -> Path:
    """The file itself, the last checkpoint of a run folder, or the weights of a model that transformers saved."""
    if path.is_file():
        return path
    if not path.is_dir():
        if ":/" in str(path):
            raise IntVitError(f"model.weights={path}: no such file; of a URL, download the file and give its path")
        raise IntVitError(f"model.weights={path}: no such file or folder")
    if (path / CONFIG).is_file():
        if not (path / LAST).is_file():
            raise IntVitError(f"model.weights={path}: this run has not saved a checkpoint yet ({LAST})")
        return path / LAST
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
        if (path / f"{name}.index.json").is_file():
            raise IntVitError(f"model.weights={path}: {name} is in parts; save it in one, with a larger max_shard_size")
    raise IntVitError(
        f"model.weights={path}: neither the folder of a run ({CONFIG}) nor one with {' or '.join(IN_FOLDER)}"
    )


def _described_classes(path: Path) -> tuple[str, ...]:
    """Names of the classes by score in the config.json beside a file of transformers (id2label) or timm (label_names).

    ImageNet's are left out: every publisher spells its words otherwise, and their order is one.
    """
    if path.name not in IN_FOLDER:
        return ()
    try:
        described = json.loads((path.parent / DESCRIPTION).read_text(encoding="utf-8"))
        by_score = described.get("id2label") or dict(enumerate(described.get("label_names") or ()))
        names = tuple(str(by_score[score]) for score in sorted(by_score, key=int))
    except (OSError, ValueError, AttributeError, TypeError):
        return ()
    placeholders = tuple(f"LABEL_{score}" for score in range(len(names)))
    return () if len(names) == 1000 or names == placeholders else names


def _is_safetensors(path: Path) -> bool:
    """By what it holds, whatever its name: JSON behind eight bytes. Raises IntVitError for what is neither kind."""
    with path.open("rb") as file:
        start = file.read(64)
    in_its_place = {b"version https://git-lfs": "a pointer of Git LFS", b"<": "a web page"}
    kinds = [kind for beginning, kind in in_its_place.items() if start.startswith(beginning)]
    if kinds or not start:
        raise IntVitError(f"model.weights={path}: {kinds[0] if kinds else 'empty'}, no weights; fetch the file again")
    return start[8:9] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntVitError(f"model.weights={path}: not a readable weights file ({error})") from error


def _chosen(content: Mapping[Any, Any], key: str, path: Path) -> tuple[str | None, tuple[str, ...]]:
    """The entry that holds the state dict, None for the file itself, and what is to be said of the choice."""
    entries = [str(name) for name, value in content.items() if _is_state(value)]
    averaged, plain = ([name for name in names if name in entries] for names in (AVERAGED, PLAIN))
    if key == "ema":
        if not averaged:
            raise IntVitError(
                f"model.weights={path}: no averaged weights ({' or '.join(AVERAGED)}) for model.weights_key=ema; "
                f"{_listed(content)}"
            )
        return averaged[0], ()
    if key != "auto":
        if key not in entries:
            raise IntVitError(f"model.weights={path}: no weights under model.weights_key={key}; {_listed(content)}")
        return key, ()
    if averaged:
        taken = f"took the averaged weights, {averaged[0]}"
        return averaged[0], (f"{taken}; model.weights_key={plain[0]} takes the plain ones",) if plain else (taken,)
    if plain:
        return plain[0], ()
    if _is_state(content):
        return None, ()
    raise IntVitError(f"model.weights={path}: no weights under {', '.join(PLAIN)}; {_listed(content)}")


def _listed(content: Mapping[Any, Any]) -> str:
    """Where a file has weights, and what to say then; where it has none, what it holds in their place."""
    if entries := [str(name) for name, value in content.items() if _is_state(value)]:
        return f"it has weights under {', '.join(entries)}: say model.weights_key={entries[0]}"
    if _is_state(content):
        return "the file is a state dict itself: leave model.weights_key out"
    objects = {name: type(value) for name, value in content.items() if isinstance(value, Inert)}
    whole = [name for name in (*PLAIN, *objects) if name in objects]
    if not whole:
        return "no entry of the file holds tensors"
    kind = f"{objects[whole[0]].__module__}.{objects[whole[0]].__name__}"
    return f"{whole[0]} is a whole object of {kind}, whose code is not run; save its state_dict()"


def _is_state(value: Any) -> bool:
    """Whether it has tensors by name. A training checkpoint's optimizer has them by number, and deeper."""
    return isinstance(value, Mapping) and any(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
