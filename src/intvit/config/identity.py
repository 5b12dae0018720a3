"""Which parts of a composed config define the experiment: its hash, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from intvit.config.values import key_path

# What does not define an experiment: where it runs, reads and writes, and how it is watched.
NOT_IDENTITY = {"ckpt", "fresh", "name", "logger", "callbacks", "trainer", "hydra"}

# Of the trainer, what changes the numbers that come out always counts; the number of devices is not meant to.
TRAINER_IDENTITY = ("precision",)
# These only watch, or say where. Every other argument of the trainer counts where it is given.
TRAINER_WATCHES = {"accelerator", "devices", "num_nodes", "strategy", "log_every_steps", "wait_minutes", "profiler"}
TRAINER_WATCHES |= {
    "detect_anomaly",
    "enable_model_summary",
    "benchmark",
    "barebones",
    "num_sanity_val_steps",
    "max_time",
}

# Callbacks of Lightning that only watch. One of another class counts: it may change what is trained.
CALLBACKS_WATCH = {"LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary", "RichModelSummary", "TQDMProgressBar"}
CALLBACKS_WATCH |= {"RichProgressBar", "ModelCheckpoint", "OnExceptionCheckpoint", "ThroughputMonitor"}


DATA_NOT_IDENTITY = {"root", "cache", "cache_gb", "retries", "workers", "eval_batch_size"}


# Keys younger than the first run folders, by group, with the value that means what was done before there was a choice:
# there they are left out of the identity, so that a run of those days is found again, and its config is read with them.
YOUNGER: dict[str, dict[str, Any]] = {
    "": {"task": {"name": "classification", "head": None}},  # a whole group
    "callbacks": {"best": None, "keep_best": 1, "keep_every_epochs": None},
    "model": {"weights_key": "auto", "weights_prefix": None, "head": "keep", "resample": False, "dense": None},
    "optimizer": {"scheduler": None},
    "schedule": {"limit_steps": None, "head": None},
    "data": {
        "layout": "shards",
        "labels": "classes",
        "ignore_index": None,
        "fit": "center",
        "overlap": 0.5,
        "palette": None,
        "train_pattern": "train-*.tar",
        "val_pattern": "val-*.tar",
        "label_field": None,
        "split": None,
        "orientation": "ignore",
        "calibration_photos": "center",
    },
    "trainer": {
        "wait_minutes": 10,
        "profiler": None,
        "limit_train_batches": None,
        "limit_val_batches": None,
        "overfit_batches": None,
        "deterministic": None,
        "detect_anomaly": None,
        "max_time": None,
    },
    "quant": {
        "calibration": {
            "rotation": "none",
            "centering": False,
            "heads": "none",
            "offsets": False,
            "equalization": "none",
            "rounding": "nearest",
            "damping": 0.01,
            "reconstruction": 0,
            "images": 128,
        },
        "hardware": {"multiplier_bits": 31, "common_shift": False, "operand_bits": 31, "weight_ratio": "any"},
    },
    "quant.bits": {"gelu_input": None, "gelu_output": None, "edges": None},
}


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config with every interpolation resolved, as plain dicts, lists and scalars, without Hydra's own node.

    Paths that begin with `~/` or `$HOME/` lie in the home folder.
    """
    if isinstance(config, DictConfig):
        config = typing.cast(
            "dict[str, Any]",
            {
                key: OmegaConf.to_container(config[key], resolve=True, throw_on_missing=True)
                if OmegaConf.is_config(config[key])
                else config[key]
                for key in config
                if key != "hydra"
            },
        )
    return {str(key): _at_home(value) for key, value in config.items()}


def _at_home(value: Any) -> Any:
    """`~/x` and `$HOME/x` as people mean them, wherever they stand: shells leave them alone behind KEY=."""
    if isinstance(value, Mapping):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return at_home(value) if isinstance(value, str) else value


def at_home(text: str) -> str:
    """A path with the home folder in place of a leading `~/` or `$HOME/`."""
    return os.path.expanduser(os.path.expandvars(text)) if text.startswith(("~/", "$HOME/")) else text


def overrides_at_home(overrides: Iterable[str]) -> list[str]:
    """The same for KEY=PATH as on a command line, where Hydra takes no `~`."""
    return [key + equals + at_home(value) for key, equals, value in (text.partition("=") for text in overrides)]


def with_younger(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run folder with the keys that came after it, at the values that mean what it did."""
    return _each_group(config, lambda values, usual: {**usual, **values})


def _each_group(
    config: Mapping[str, Any], change: Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]], path: str = ""
) -> dict[str, Any]:
    """The config with `change` of every group of YOUNGER that it has, and of the usual values there."""
    result: dict[str, Any] = {}
    for key, values in config.items():
        group = f"{path}{key}"
        if isinstance(values, Mapping) and any(f"{name}.".startswith(f"{group}.") for name in YOUNGER):
            values = _each_group(values, change, f"{group}.")
            values = change(values, YOUNGER[group]) if group in YOUNGER else values
        result[key] = values
    return result if path else change(result, YOUNGER[""])


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a plain config that define the experiment."""
    parts = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(parts.get("data"), Mapping):
        parts["data"] = {key: value for key, value in parts["data"].items() if key not in DATA_NOT_IDENTITY}
    parts = _each_group(parts, lambda values, usual: {k: v for k, v in values.items() if usual.get(k, ...) != v})
    trainer = config.get("trainer") or {}
    given = {key: value for key, value in trainer.items() if value is not None and key not in TRAINER_WATCHES}
    parts["trainer"] = {**{key: trainer.get(key) for key in TRAINER_IDENTITY}, **given}
    if callbacks := {key: value for key, value in (config.get("callbacks") or {}).items() if _changes(value)}:
        parts["callbacks"] = callbacks
    return parts


def _changes(callback: Any) -> bool:
    """Whether an entry of the callbacks may change what is trained."""
    target = callback.get("_target_") if isinstance(callback, Mapping) else None
    return target is not None and str(target).rpartition(".")[2] not in CALLBACKS_WATCH


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
        path = key_path(where, key)
        flat.update(_flat(value, path) if isinstance(value, Mapping) and value else {path: value})
    return flat
