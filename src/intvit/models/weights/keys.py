"""What every wrapper and code base adds to the names in a state dict, taken off again, and what it adds for itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from intvit.errors import IntVitError

# Buffers that follow from the size of the model, or count; the last part of their names.
NO_INFORMATION = {
    "relative_position_index",  # Swin, of Microsoft, of earlier timm and of transformers
    "attn_mask",
    "num_batches_tracked",
    "n_averaged",  # torch's AveragedModel
    "position_ids",  # transformers
}
# The scales and integers of the published I-ViT code (github.com/zkkli/I-ViT, models/quantization_utils).
IVIT_RANGES = {
    "act_scaling_factor",
    "fc_scaling_factor",
    "conv_scaling_factor",
    "norm_scaling_factor",
    "weight_integer",
    "bias_integer",
    "min_val",
    "max_val",
    "x_min",
    "x_max",
}
# Ours: of quantizers, and of what calibration corrects.
OWN_RANGES = {"statistic", "factors", "clip", "correction", "rounding"}
# Ours, and part of the float function: what calibration took out of biases.
_OWN_OFFSETS = {"before", "after", "offset"}

# What wrappers of single modules write into the middle of a name: torch.compile, FSDP, activation checkpointing.
_INSIDE = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

State = Mapping[str, Tensor]


def without_buffers(state: State, *, own: bool) -> tuple[dict[str, Tensor], list[str]]:
    """The parameters of a state dict, and what was left out, in words. own: whether of a model of this package."""
    groups = {
        "left out buffers that carry no information": NO_INFORMATION,
        "left out the ranges of I-ViT's code; calibration finds them anew": IVIT_RANGES,
        "left out the ranges; calibration finds them anew": OWN_RANGES if own else set(),
    }
    notes = []
    for words, names in groups.items():
        found = Counter(last for key in state if (last := _last(key)) in names)
        if found:
            notes.append(f"{words}: {', '.join(f'{name} ({count})' for name, count in found.items())}")
    dropped = set().union(*groups.values())
    return {key: value for key, value in state.items() if _last(key) not in dropped}, notes


def has_own_ranges(state: State) -> bool:
    """Whether it is the state_dict() of a model of this package, whose every output has a range, wrapped or not."""
    return any(key.endswith(".output.statistic") for key in state)


def split_offsets(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state of this package without the offsets of its calibration, and these."""
    offsets = {key: value for key, value in state.items() if _last(key) in _OWN_OFFSETS}
    return {key: value for key, value in state.items() if key not in offsets}, offsets


def without_prefix(
    state: State, prefix: str | None, parameters: Iterable[str], where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Names without what wrappers add, inside them or (`module.`) before all of them; then what was left out, in words.

    prefix: what to take off instead, a dot at its end or not; keys without it are left out. parameters: of the model.
    Raises IntVitError where no key has the prefix.
    """
    notes: list[str] = []
    state = {_INSIDE.sub("", key): value for key, value in state.items()}
    if prefix is not None and (prefix := _INSIDE.sub("", prefix.removesuffix(".") + ".")):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if not inside:
            first = ", ".join(sorted({f"{key.partition('.')[0]}." for key in state})[:5])
            raise IntVitError(f"{where}: no key begins with model.weights_prefix={prefix}; they begin with {first}")
        if len(inside) < len(state):
            notes.append(f"left out {len(state) - len(inside)} keys that do not begin with {prefix}")
        state = inside
    roots = {key.partition(".")[0] for key in parameters}
    while (wrapper := _shared_root(state)) is not None and wrapper not in roots:
        state = {key.removeprefix(f"{wrapper}."): value for key, value in state.items()}
    return dict(state), notes


def prefix_of(state: State, parameters: Iterable[str]) -> str | None:
    """What stands before at least half of the model's parameters, where it is not on every key: the nearest reason."""
    parameters = list(parameters)
    before = Counter(
        key.removesuffix(name) for key in state for name in parameters if key.endswith(f".{name}") and key != name
    )
    if not before:
        return None
    prefix, count = before.most_common(1)[0]
    return prefix if 2 * count >= len(parameters) else None


def _shared_root(state: State) -> str | None:
    """The first part of the names, where it is the same in all, and not the whole of one."""
    roots = {key.partition(".")[0] for key in state}
    return roots.pop() if len(roots) == 1 and all("." in key for key in state) else None


def _last(key: str) -> str:
    return key.rpartition(".")[2]
