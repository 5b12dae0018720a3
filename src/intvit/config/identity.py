"""Which parts of a composed config define the experiment: its hash, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from intvit.config.values import key_path

# What does not define an experiment: where it runs, reads and writes, and how it is watched.
NOT_IDENTITY = {"ckpt", "fresh", "name", "logger", "callbacks", "trainer", "hydra"}


# trainer.precision changes the numbers that come out; the number of devices is not meant to.
TRAINER_IDENTITY = ("precision",)


DATA_NOT_IDENTITY = {"root", "cache", "cache_gb", "retries", "workers", "eval_batch_size"}


# Keys younger than the first run folders, by group, with the value that means what was done before there was a choice:
# there they are left out, so that a run of those days is found again.
YOUNGER: dict[str, dict[str, Any]] = {
    "model": {"weights_key": "auto", "weights_prefix": None, "head": "keep", "resample": False},
    "schedule": {"head": None},
    "data": {
        "layout": "shards",
        "train_pattern": "train-*.tar",
        "val_pattern": "val-*.tar",
        "label_field": None,
        "split": None,
        "orientation": "ignore",
    },
}


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config with every interpolation resolved, as plain dicts, lists and scalars, without Hydra's own node."""
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
    return dict(config)


def with_younger(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run folder with the keys that came after it, at the values that mean what it did."""
    return {
        group: {**YOUNGER[group], **values} if group in YOUNGER and isinstance(values, Mapping) else values
        for group, values in config.items()
    }


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a plain config that define the experiment."""
    parts = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(parts.get("data"), Mapping):
        parts["data"] = {key: value for key, value in parts["data"].items() if key not in DATA_NOT_IDENTITY}
    for group, usual in YOUNGER.items():
        if isinstance(parts.get(group), Mapping):
            parts[group] = {k: v for k, v in parts[group].items() if k not in usual or v != usual[k]}
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
        path = key_path(where, key)
        flat.update(_flat(value, path) if isinstance(value, Mapping) and value else {path: value})
    return flat
