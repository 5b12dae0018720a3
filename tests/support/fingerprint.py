"""One hash for everything that derives from real scales: equal on every processor, or a checkpoint changes with it.

    python -m tests.support.fingerprint                 the hashes of this processor, as JSON
    python -m tests.support.fingerprint --state FILE    also of the program of a calibrated model's stored state

`sites` draws random sites of every family, width and kind; `program` records the program of a small model from given
weights and ranges, for every preset. tests/arithmetic/fingerprint.json holds what all of them must give.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intvit import arithmetic
from intvit.config.presets import presets
from intvit.export.record import record
from intvit.models import create_model
from intvit.program import Program
from intvit.quant import quant_layers, set_mode
from intvit.quant.presets import compose_quant
from intvit.quant.quantizer import Quantizer

SITES = 150  # of every kind
FEW_PRESETS = ("lut8_true8", "ppoly8", "ivit8", "w4a4")  # factors, fits, a bias correction, offsets and rounding
MODELS = {"deit_t": {"width": 24, "depth": 1, "heads": 3}, "swin_t": {"width": 24, "depths": (2,), "heads": (3,)}}


# ---------------------------------------------------------------- random numbers without libm


def real(generator: random.Random, low: int, high: int) -> float:
    """2^low to 2^high, every mantissa and exponent alike."""
    return math.ldexp(1.0 + generator.random(), generator.randrange(low, high))


def reals(generator: random.Random, count: int, low: int, high: int) -> Tensor:
    """float64 (count,) of both signs."""
    return torch.tensor([generator.choice((-1, 1)) * real(generator, low, high) for _ in range(count)]).double()


# ---------------------------------------------------------------- sites


def softmax_site(family: str, generator: random.Random) -> Iterator[Any]:
    low, high, widths = (-8, -4, (8,)) if family == "ppoly" else (-14, 6, (4, 6, 8, 8, 8, 12))  # a fit takes a while
    scale, row, bits = real(generator, low, high), generator.randrange(2, 4096), generator.choice(widths)
    exponent = arithmetic.SOFTMAX_FAMILIES[family](scale, row, bits, **options(family, generator))
    table = arithmetic.exponent_table(exponent, bits)
    yield from (exponent, table)
    if exponent.exportable:
        width = generator.choice((4, 8, 16))
        yield arithmetic.derive_weights(table, width, row)


def gelu_site(family: str, generator: random.Random) -> Iterator[Any]:
    low, high, widths = (-6, -3, (8,)) if family == "ppoly" else (-12, 4, (4, 6, 8, 8, 8))
    scale_in, scale_out, bits = real(generator, low, high), real(generator, -10, 4), generator.choice(widths)
    gelu = arithmetic.GELU_FAMILIES[family](
        scale_in, scale_out, bits, generator.choice((4, 8, 8)), **options(family, generator)
    )
    yield from (gelu, arithmetic.gelu_table(gelu, bits))


def options(family: str, generator: random.Random) -> dict[str, Any]:
    """Of the family's derivation; few kinds of fits, because each takes a while."""
    if family == "ppoly":
        segments, degree = generator.choice(((8, 2), (8, 2), (16, 1)))
        return {"segments": segments, "degree": degree, "coefficient_bits": generator.choice((8, 12, 16, 20))}
    return {"paper": generator.random() < 0.3} if family == "ivit" else {}


def layernorm_site(method: str, generator: random.Random) -> Iterator[Any]:
    channels, bits = generator.randrange(2, 400), generator.choice((8, 8, 16))
    factors = torch.tensor([generator.randrange(4) for _ in range(channels)]) if bits == 8 else None
    gamma, beta = reals(generator, channels, -6, 3), reals(generator, channels, -6, 3)
    parameters = arithmetic.derive_layernorm(
        method, gamma, beta, real(generator, -10, 0), bits, 8, channel_shift=factors, paper=generator.random() < 0.3
    )
    yield from (dataclasses.replace(parameters.normalizer, scale=0.0), parameters)


def ratio_site(generator: random.Random) -> Iterator[Any]:
    bits, signed = generator.choice((2, 4, 8, 12, 16, 32)), generator.random() < 0.7
    yield arithmetic.encode_ratios(real(generator, -30, 25), bits, signed=signed)
    yield arithmetic.encode_ratios(reals(generator, 16, -40, 25), bits, signed=signed)
    yield arithmetic.encode_pair(reals(generator, 16, -30, 10), reals(generator, 16, -30, 10), min(bits, 16))
    yield arithmetic.derive_mean(real(generator, -20, 20), min(bits, 16))
    mean, std = [generator.random() for _ in range(3)], [real(generator, -4, 1) for _ in range(3)]
    yield arithmetic.input_parameters(mean, std, real(generator, -9, -2), 8)


def kinds() -> dict[str, Callable[[random.Random], Iterator[Any]]]:
    """Name -> what one random site of it yields: parameters, tables, tuples of integers."""
    result: dict[str, Callable[[random.Random], Iterator[Any]]] = {"ratios": ratio_site}
    for family in arithmetic.SOFTMAX_FAMILIES:
        result[f"softmax {family}"] = lambda generator, family=family: softmax_site(family, generator)
    for family in arithmetic.GELU_FAMILIES:
        result[f"gelu {family}"] = lambda generator, family=family: gelu_site(family, generator)
    for method in arithmetic.LAYERNORM_METHODS:
        result[f"layernorm {method}"] = lambda generator, method=method: layernorm_site(method, generator)
    return result


def sites() -> dict[str, str]:
    """Kind -> hash over SITES sites; one that is refused counts as such."""
    return {name: _sites(name, site) for name, site in kinds().items()}


def _sites(name: str, site: Callable[[random.Random], Iterator[Any]]) -> str:
    digest = hashlib.sha256()
    for index in range(SITES):
        generator = random.Random(f"{name} {index}")
        try:
            for value in site(generator):
                add(digest, value)
        except ValueError:
            digest.update(b"refused")
    return digest.hexdigest()[:16]


def add(digest: Any, value: Any) -> None:
    """Every bit of tensors and integers, in order."""
    if isinstance(value, Tensor) and not value.dim():
        digest.update(f"{value.item()!r};".encode())
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    elif dataclasses.is_dataclass(value):
        value = value.compact() if hasattr(value, "compact") else value
        for part in dataclasses.fields(value):
            add(digest, part.name)
            add(digest, getattr(value, part.name))
    elif isinstance(value, tuple):
        for part in value:
            add(digest, part)
    else:
        digest.update(f"{value!r};".encode())


# ---------------------------------------------------------------- programs


quant = functools.cache(compose_quant)


def small_model(preset: str, name: str) -> nn.Module:
    """A reduced model whose parameters and ranges are random numbers of a seed; eval and integer mode."""
    model = create_model(
        name,
        image_size=16,
        patch_size=4,
        num_classes=5,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        quant=quant(preset),
        **MODELS[name],
    ).eval()
    generator = random.Random(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(reals(generator, parameter.numel(), -6, 0).view(parameter.shape))
        for layer in quant_layers(model):
            if isinstance(layer, Quantizer):
                layer.statistic.copy_(reals(generator, layer.groups, 0, 4).abs())
                layer.clip.copy_(reals(generator, layer.groups, -1, 0).abs())
                if layer.factors is not None:
                    layer.factors.copy_(torch.tensor([generator.randrange(4) for _ in layer.factors]))
    set_mode(model, "integer")
    return model


def hash_of(program: Program) -> str:
    """Operators, attributes, constants and real scales of a program."""
    operators = [(o.op, o.name, o.inputs, sorted(o.attributes.items())) for o in program.operators]
    digest = hashlib.sha256(repr(operators).encode())
    for name, constant in sorted(program.constants.items()):
        digest.update(f"{name} {constant.bits}".encode() + np.ascontiguousarray(constant.array, np.int64).tobytes())
    digest.update(repr([(name, value.scale) for name, value in sorted(program.values.items())]).encode())
    return digest.hexdigest()[:16]


def programs() -> dict[str, str]:
    """Model and preset -> hash of the program."""
    cases = [("deit_t", name) for name in presets("quant") if quant(name).enabled]
    cases += [("swin_t", name) for name in FEW_PRESETS]
    return {f"{name} {preset}": hash_of(record(small_model(preset, name))) for name, preset in cases}


def stored(path: str) -> dict[str, str]:
    """Preset -> hash of the program of `small_model` with the state that FILE holds for it."""
    result = {}
    for key, state in torch.load(path, weights_only=True).items():
        name, preset = key.split()
        model = small_model(preset, name)
        model.load_state_dict(state)
        result[f"stored {key}"] = hash_of(record(model))
    return result


def main() -> None:
    """Prints the hashes of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", metavar="FILE")
    options = parser.parse_args()
    print(json.dumps(sites() | programs() | (stored(options.state) if options.state else {}), indent=1))


if __name__ == "__main__":
    main()
