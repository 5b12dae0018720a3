"""Configs: where the presets are, how a composed config becomes typed values, which run folder belongs to it.

Nothing here knows what the keys mean; the dataclasses stand beside the code that they configure.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from intvit.errors import IntVitError
from intvit.ranks import started_ranks

# What does not define an experiment: where it runs, reads and writes, and how it is watched.
NOT_IDENTITY = {"ckpt", "fresh", "name", "logger", "callbacks", "trainer", "hydra"}
# trainer.precision changes the numbers that come out; the number of devices is not meant to.
TRAINER_IDENTITY = ("precision",)
DATA_NOT_IDENTITY = {"root", "cache", "cache_gb", "retries", "workers", "eval_batch_size"}


def config_directory() -> Path:
    """The folder of the Hydra presets: conf/ of the checkout in an editable install, intvit/conf in a wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise IntVitError(f"no presets beside {package}: the installation is incomplete, install intvit again")


# ---------------------------------------------------------------- typed values


def build(kind: Any, values: Any, where: str = "") -> Any:
    """An instance of the dataclass `kind` from nested plain values, checked key by key.

    where: path of `values` in the config, for messages.
    Raises IntVitError naming the key for an unknown or missing key and for a value of another type.
    """
    if not isinstance(values, Mapping):
        raise IntVitError(f"{where}={values}: expected a group of keys")
    hints = typing.get_type_hints(kind)
    names = [part.name for part in dataclasses.fields(kind)]
    for key in values:
        if key not in names:
            raise IntVitError(f"{_path(where, key)}: unknown key; {_suggestion(key, names)}")
    arguments = {key: _convert(hints[key], value, _path(where, key)) for key, value in values.items()}
    for part in dataclasses.fields(kind):
        required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        if required and part.name not in arguments:
            raise IntVitError(f"{_path(where, part.name)}: missing, expected {_describe(hints[part.name])}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type: dataclass, Optional, union, tuple, list, dict, Literal, Path or scalar."""
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(parameters, value, where, hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is typing.Literal and value in parameters:
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        items = [_convert(parameters[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
        fixed = origin is tuple and Ellipsis not in parameters
        if not fixed or len(items) == len(parameters):
            return origin(items)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(parameters[1], item, _path(where, str(key))) for key, item in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise IntVitError(f"{where}={value}: expected {_describe(hint)}")


def _convert_union(parameters: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if value is None and types.NoneType in parameters:
        return None
    choices = [part for part in parameters if part is not types.NoneType]
    if len(choices) == 1 and dataclasses.is_dataclass(choices[0]):
        return build(choices[0], value, where)  # its message names the key inside the group
    for choice in choices:
        try:
            return _convert(choice, value, where)
        except IntVitError:
            continue
    raise IntVitError(f"{where}={value}: expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    """The type in words for a message."""
    parameters = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("null" if part is types.NoneType else _describe(part) for part in parameters)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(part) for part in parameters)
    if typing.get_origin(hint) in (list, tuple):
        return f"a list of {_describe(parameters[0])}"
    if dataclasses.is_dataclass(hint):
        return "a group of keys"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return names.get(hint, str(hint))


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _suggestion(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"


# ---------------------------------------------------------------- identity of a run


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config with every interpolation resolved, as plain dicts, lists and scalars, without Hydra's own node."""
    if isinstance(config, DictConfig):
        config = typing.cast(
            "dict[str, Any]",
            {
                key: OmegaConf.to_container(config[key], resolve=True)
                if OmegaConf.is_config(config[key])
                else config[key]
                for key in config
                if key != "hydra"
            },
        )
    return dict(config)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a plain config that define the experiment."""
    parts = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(parts.get("data"), Mapping):
        parts["data"] = {key: value for key, value in parts["data"].items() if key not in DATA_NOT_IDENTITY}
    parts["trainer"] = {key: (config.get("trainer") or {}).get(key) for key in TRAINER_IDENTITY}
    return parts


def identity_hash(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over `identity`; the same on every machine and in every process."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every key of the identity whose value differs."""
    left, right = flat_identity(old), flat_identity(new)
    keys = sorted({*left, *right})
    return [f"{key}: {left.get(key)} -> {right.get(key)}" for key in keys if left.get(key) != right.get(key)]


def flat_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` with dotted keys."""
    return _flat(identity(config))


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = _path(where, key)
        flat.update(_flat(value, path) if isinstance(value, Mapping) and value else {path: value})
    return flat


def _run_folder(*, _root_: DictConfig) -> str:
    """NAME-HASH of the config around the interpolation; NAME is `name` or the chosen presets."""
    config = plain(_root_)
    name = config.get("name")
    if not name:
        chosen = OmegaConf.select(_root_, "hydra.runtime.choices") or {}
        name = "-".join(str(chosen[group]) for group in ("model", "quant", "data", "schedule") if chosen.get(group))
    return f"{name}-{identity_hash(config)}"


def _ranks(what: str) -> int:
    """`per_node` or `nodes` of the launcher that started this process."""
    return int(getattr(started_ranks(), what))


def register_resolvers() -> None:
    """Makes `${run_folder:}` (conf/train.yaml) and `${ranks:per_node}` (conf/trainer/ddp.yaml) known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("ranks", _ranks, replace=True)
