"""Random integer programs, small and valid, over all operators, kinds, methods and widths; for comparing runtimes.

`random_program(seed)` is a small vision transformer whose parts are drawn at random: equal seeds give equal programs.
Seeds 0 to 35 together hold every kind of softmax, GELU and LayerNorm with every normalization. Every fourth program has
a dense end: labels, dense scores, or labels of the coarse grid. `images_for` gives random and extreme images. Needs
numpy only.
"""

import math
from typing import Any

import numpy as np

from intvit.program import Constant, Operator, Program, Value, check, infer_output, limits
from intvit.program.functions import exponent

SOFTMAX_KINDS = ("table", "shift", "polynomial", "piecewise")
GELU_KINDS = ("table", "shift", "polynomial", "piecewise")
METHODS = ("exact", "ivit", "ibert")


def random_program(seed: int, *, wide: bool = False) -> Program:
    """A checked program: images [1..3, 4..16, 4..16], one or two blocks, 2 to 7 scores, of the image or of each pixel.

    wide: more tokens and channels than a vector or a tile of a fast kernel takes, in heads of 31 to 80 channels.
    """
    return Builder(seed, wide).build()


def images_for(program: Program, batch: int, seed: int = 0) -> np.ndarray:
    """uint8 [batch, C, H, W]: black, white, checkered and two-valued images first, then uniformly random ones."""
    rng = np.random.default_rng(seed)
    shape = program.values[program.input].shape
    images = rng.integers(0, 256, (batch, *shape)).astype(np.uint8)
    checkered = (np.indices(shape).sum(0) % 2 * 255).astype(np.uint8)
    extreme = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), checkered, images[0] // 128 * 255]
    images[: len(extreme)] = extreme[:batch]
    return images


def encode(ratio: float, cap: int) -> tuple[int, int]:
    """(m, e) with ratio ~ m / 2^e, 1 <= e <= cap, |m| < 2^31."""
    if ratio == 0:
        return 0, 1
    shift = max(1, min(31 - math.frexp(ratio)[1], cap))
    multiplier = min(math.floor(abs(ratio) * 2.0**shift + 0.5), 2**31 - 1)
    return (multiplier if ratio > 0 else -multiplier), shift


class Builder:
    """Appends operators; each method returns the name of the value that it adds."""

    def __init__(self, seed: int, wide: bool) -> None:
        self.seed, self.wide, self.rng = seed, wide, np.random.default_rng(seed)
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Constant] = {}
        self.operators: list[Operator] = []
        self.sites = 0

    def build(self) -> Program:
        rng = self.rng
        patch, channels = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        height, width = (patch * int(rng.integers(1 + (patch == 1) * 3, 5)) for _ in range(2))
        self.values["image"] = Value((channels, height, width), 8, False)
        self.heads, self.head_size = int(rng.integers(1, 4)), int(rng.integers(1 + (self.seed % 16 > 0), 6))
        if self.wide:
            height, width = (patch * int(rng.integers(7, 11)) for _ in range(2))
            self.values["image"] = Value((channels, height, width), 8, False)
            self.head_size = int(rng.choice([31, 32, 48, 64, 64, 80]))
        self.stream_bits = int(rng.choice([8, 16, 12, 5]))
        self.channel_shift = rng.integers(0, 4, self.heads * self.head_size) if self.stream_bits == 8 else None
        stream = self.embedding(patch)
        for index in range(int(rng.integers(1, 3))):
            stream = self.attention(f"blocks.{index}.attn", stream)
            stream = self.mlp(f"blocks.{index}.mlp", stream)
        grid = (height // patch, width // patch)
        output = self.dense_head(stream, grid) if self.seed % 4 == 3 else self.head(stream)
        scores = self.constants["head.bias"].array
        classes = [f"class {i}" for i in range(len(scores))] if rng.random() < 0.5 else []
        scale, provenance = float(rng.random() + 0.01), {"seed": self.seed}
        program = Program("image", output, self.values, self.constants, self.operators, scale, classes, provenance)
        check(program)
        return program

    def emit(self, op: str, name: str, inputs: list[str], attributes: dict[str, Any], **constants: Constant) -> str:
        roles = {role: f"{name}.{role}" for role in constants}
        self.constants |= {roles[role]: constant for role, constant in constants.items()}
        operator = Operator(op, name, tuple(inputs), name, attributes, roles)
        self.operators.append(operator)
        value = infer_output(operator, [self.values[x] for x in inputs], constants)
        self.values[name] = Value(value.shape, value.bits, value.signed, float(self.rng.random()))
        return name

    # ------------------------------------------------------------------------------------------- parts of a model

    def embedding(self, patch: int) -> str:
        image, bits = self.values["image"], int(self.rng.choice([8, 8, 6]))
        shift = int(self.rng.integers(14, 31))
        gain = 2 ** (bits - 8) * self.rng.uniform(0.7, 1.4, image.shape[0])
        constants = {
            "multiplier": Constant(np.int64(gain * 2**shift).clip(-(2**31) + 1, 2**31 - 1), 32),
            "bias": Constant(np.int64(-gain * 2**shift * self.rng.uniform(90, 150, image.shape[0])), 64),
        }
        x = self.emit("quantize_input", "patch_embed.input", ["image"], {"bits": bits, "shift": shift}, **constants)
        x = self.emit("patches", "patch_embed.patches", [x], {"patch": patch})
        x = self.linear("patch_embed.proj", x, self.heads * self.head_size)
        x = self.requantize("patch_embed.requantize", x, self.stream_bits)
        tokens, size = self.values[x].shape
        if self.rng.random() < 0.8:
            token = self.constant("cls_token", (1, size), self.stream_bits)
            x = self.emit("concat", "tokens", [token, x], {"axis": 0})
            tokens += 1
        return self.add("pos_embed.add", x, self.constant("pos_embed", (tokens, size), int(self.rng.integers(3, 17))))

    def reordered(self, name: str, x: str) -> str:
        """Some tokens twice, some never, some zero, in any order; as many as before."""
        tokens = self.values[x].shape[0]
        return self.emit("gather", name, [x], {"axis": 0}, index=Constant(self.rng.integers(-1, tokens, tokens), 32))

    def attention(self, name: str, stream: str) -> str:
        tokens, size = self.values[stream].shape
        x = self.layernorm(f"{name}.norm", stream)
        if self.rng.random() < 0.4:
            x = self.reordered(f"{name}.gather", x)
        x = self.linear(f"{name}.qkv", x, 3 * size)
        x = self.requantize(f"{name}.qkv.requantize", x, int(self.rng.integers(4, 9)))
        x = self.emit("reshape", f"{name}.split", [x], {"shape": (tokens, 3, self.heads, self.head_size)})
        x = self.emit("transpose", f"{name}.heads", [x], {"axes": (1, 2, 0, 3)})
        q, k, v = (self.part(f"{name}.{part}", x, index) for index, part in enumerate("qkv"))
        if self.rng.random() < 0.3:  # the other way to write q @ k^T
            k = self.emit("transpose", f"{name}.k.turned", [k], {"axes": (0, 2, 1)})
            x = self.emit("matmul", f"{name}.logits", [q, k], {"transpose_b": False})
        else:
            x = self.emit("matmul", f"{name}.logits", [q, k], {"transpose_b": True})
        x = self.logits(f"{name}.logits.requantize", x, int(self.rng.choice([8, 8, 4, 10, 16])))
        x = self.context(name, self.softmax(f"{name}.softmax", x), v)
        x = self.emit("transpose", f"{name}.tokens", [x], {"axes": (1, 0, 2)})
        x = self.emit("reshape", f"{name}.join", [x], {"shape": (tokens, size)})
        return self.add(f"{name}.add", self.linear(f"{name}.proj", x, size), stream)

    def logits(self, name: str, x: str, bits: int) -> str:
        """Requantized products, with a table of biases in some."""
        if self.rng.random() < 0.7:
            return self.requantize(name, x, bits)
        table = self.constant(f"{name}.bias", self.values[x].shape[-int(self.rng.integers(2, 4)) :], 16)
        return self.add(name, x, table, bits)

    def context(self, name: str, weights: str, v: str) -> str:
        x = self.emit("matmul", f"{name}.weighted", [weights, v], {"transpose_b": False})
        if self.operators[-2].op == "softmax":
            return self.requantize(f"{name}.requantize", x, 8, ratio=2.0 ** -self.values[weights].bits)
        bits = int(self.rng.choice([8, 8, 6]))
        shift = int(self.rng.integers(30, 53 - bits + 1))
        multiplier = int(2.0**shift * self.rng.uniform(0.3, 3) * 2.0 ** (bits - self.values[v].bits))
        attributes = {"bits": bits, "multiplier": multiplier, "shift": shift}
        return self.emit("weighted_mean", f"{name}.mean", [x, weights], attributes)

    def part(self, name: str, x: str, index: int) -> str:
        """One of q, k, v: [3, heads, tokens, size] -> [heads, tokens, size]."""
        x = self.emit("slice", f"{name}.slice", [x], {"axis": 0, "start": index, "stop": index + 1})
        return self.emit("reshape", name, [x], {"shape": self.values[x].shape[1:]})

    def mlp(self, name: str, stream: str) -> str:
        x = self.layernorm(f"{name}.norm", stream)
        x = self.linear(f"{name}.fc1", x, int(self.rng.integers(2, 20)))
        x = self.requantize(f"{name}.fc1.requantize", x, int(self.rng.choice([8, 8, 5])))
        x = self.gelu(f"{name}.act", x)
        if self.rng.random() < 0.3:  # a non-negative activation
            x = self.requantize(f"{name}.unsigned", x, int(self.rng.integers(2, 9)), signed=False)
        elif self.values[x].bits > 8:
            x = self.requantize(f"{name}.narrow", x, 8)
        return self.add(f"{name}.add", self.linear(f"{name}.fc2", x, self.values[stream].shape[1]), stream)

    def head(self, stream: str) -> str:
        x = self.layernorm("norm", stream)
        token = int(self.rng.integers(self.values[x].shape[0]))
        x = self.emit("slice", "pool", [x], {"axis": 0, "start": token, "stop": token + 1})
        x = self.emit("reshape", "pool.flat", [x], {"shape": self.values[stream].shape[1:]})
        x = self.linear("head", x, int(self.rng.integers(2, 8)))
        return self.requantize("head.scores", x, 32, ratio=float(self.rng.uniform(0.1, 200)))

    def dense_head(self, stream: str, grid: tuple[int, int]) -> str:
        """Scores of every patch, then in turn `upsample` and `argmax`, one of them."""
        tokens, patches = self.values[stream].shape[0], grid[0] * grid[1]
        attributes = {"axis": 0, "start": tokens - patches, "stop": tokens}
        x = self.layernorm("norm", self.emit("slice", "patches.tokens", [stream], attributes))
        classes = int(self.rng.choice([1, 2, 7, 11, 257])) if self.wide else int(self.rng.integers(2, 8))
        x = self.linear("head", x, classes)
        center = self.constants["norm.bias"].array / 2.0 ** self.constants["norm.shift"].array
        means = self.constants["head.weight"].array @ np.rint(center).astype(np.int64)
        self.constants["head.bias"] = Constant(-means, 32)  # scores around 0, so that many classes win
        factor = int(self.rng.choice([2, 4, 8, 16]))
        bits = 32 - 2 - 2 * int(math.log2(factor))  # (2 factor)^2 times as much fits int32
        multiplier, shift = encode(float(self.rng.uniform(0.1, 2)), 22)
        constants = {"multiplier": Constant(np.array([multiplier]), 32), "shift": Constant(np.array([shift]), 8)}
        x = self.emit("requantize", "head.scores", [x], {"bits": bits, "signed": True}, **constants)
        x = self.emit("reshape", "head.grid", [x], {"shape": (*grid, self.values[x].shape[-1])})
        x = self.emit("transpose", "head.classes", [x], {"axes": (2, 0, 1)})
        form = self.seed // 4 % 4
        if form != 2:
            x = self.emit("upsample", "head.upsample", [x], {"factor": factor})
        return x if form == 3 else self.emit("argmax", "head.labels", [x], {})

    # -------------------------------------------------------------------------------- operators with random constants

    def constant(self, name: str, shape: tuple[int, ...], bits: int) -> str:
        return self.emit("constant", name, [], {}, value=self.random_constant(shape, bits))

    def random_constant(self, shape: tuple[int, ...], bits: int) -> Constant:
        low, high = limits(bits, True)
        return Constant(self.rng.integers(low, high + 1, shape), bits)

    def linear(self, name: str, x: str, size: int) -> str:
        bits = int(self.rng.choice([8, 8, 4, 3, 6]))
        weight = self.random_constant((size, self.values[x].shape[-1]), bits)
        bias = Constant(self.rng.integers(-(2**10), 2**10, size), 32)
        return self.emit("linear", name, [x], {}, weight=weight, bias=bias)

    def dyadic(self, ratio: float, channels: int, cap: int, *, signs: bool = True) -> dict[str, Constant]:
        """Multiplier and shift near a ratio, for the tensor or per channel, with some zero and negative ratios."""
        size = channels if self.rng.random() < 0.6 else 1
        ratios = ratio * self.rng.uniform(0.5, 2, size)
        if signs and size > 1:
            ratios *= self.rng.choice([1, 1, 1, 1, -1, 0], size)
        pairs = np.array([encode(float(r), cap) for r in ratios])
        return {"multiplier": Constant(pairs[:, 0], 32), "shift": Constant(pairs[:, 1].astype(np.int8), 8)}

    def spread(self, x: str) -> float:
        """A typical magnitude of the value, to choose a ratio that neither clips nor rounds all away."""
        operator = next(operator for operator in self.operators if operator.output == x)
        if operator.op in ("linear", "matmul"):
            first = self.values[operator.inputs[0]]
            other = self.constants[f"{x}.weight"] if operator.op == "linear" else self.values[operator.inputs[1]]
            return math.sqrt(first.shape[-1]) * 2.0 ** (first.bits + other.bits - 4)
        return 2.0 ** (self.values[x].bits - 1)

    def requantize(self, name: str, x: str, bits: int, *, signed: bool = True, ratio: float | None = None) -> str:
        if ratio is None:
            ratio = 2.0 ** (bits - 1) / self.spread(x) * self.rng.uniform(0.4, 1.2)
        if self.wide and bits < 32 and self.rng.random() < 0.2:  # all values clamped from beyond 32 bits
            ratio *= 2.0**22
        cap = 53 - (bits - 1 if signed else bits)
        constants = self.dyadic(ratio, self.values[x].shape[-1], cap, signs=bits < 32)
        return self.emit("requantize", name, [x], {"bits": bits, "signed": signed}, **constants)

    def add(self, name: str, a: str, b: str, bits: int | None = None) -> str:
        bits = bits or self.stream_bits
        reach = 2.0 ** (bits - 1)
        ratios = [reach / self.spread(x) * self.rng.uniform(0.2, 0.6) for x in (a, b)]
        cap = min(53 - bits, *(31 - math.frexp(2 * ratio)[1] for ratio in ratios))
        size = self.values[a].shape[-1] if self.rng.random() < 0.6 else 1
        shift = self.rng.integers(max(1, cap - 6), cap + 1, size)
        factors = [
            np.int64(np.floor(ratio * self.rng.uniform(0.5, 1, size) * 2.0**shift)).clip(-(2**31) + 1, 2**31 - 1)
            for ratio in ratios
        ]
        roles = {"multiplier_a": Constant(factors[0], 32), "multiplier_b": Constant(factors[1], 32)}
        return self.emit("add", name, [a, b], {"bits": bits}, **roles, shift=Constant(shift, 8))

    def next_of(self, kinds: tuple[str, ...]) -> str:
        """Kinds in turn, from a start that the seed sets: a few seeds cover all."""
        self.sites += 1
        return kinds[(self.seed + self.seed // len(kinds) + self.sites) % len(kinds)]

    def layernorm(self, name: str, x: str) -> str:
        method, size = self.next_of(METHODS), self.values[x].shape[-1]
        k = int(self.rng.integers(10, 25)) if method == "exact" else int(self.rng.integers(0, 16))
        attributes = {"method": method, "bits": int(self.rng.choice([8, 8, 6])), "normalizer_shift": k}
        if method == "ivit":
            attributes["newton_steps"] = int(self.rng.choice([0, 10]))
        if method == "ibert":
            attributes["square_shift"] = int(self.rng.integers(0, 4))
        one = 2.0 ** (40 - k) if method == "exact" else 2.0 ** (31 - k) / math.sqrt(size)  # n of one deviation
        reach = 2.0 ** (attributes["bits"] - 1)
        gamma = self.rng.uniform(-0.3, 0.8, size) * self.rng.choice([1, 1, 1, 0], size)
        pairs = [encode(float(g) * reach / one, 53 - attributes["bits"]) for g in gamma]
        shift = np.array([e for _, e in pairs])
        constants = {
            "multiplier": Constant(np.array([m for m, _ in pairs]), 32),
            "shift": Constant(shift, 8),
            "bias": Constant(np.int64(self.rng.uniform(-0.3, 0.3, size) * reach * 2.0**shift), 64),
        }
        if self.channel_shift is not None:
            constants["channel_shift"] = Constant(self.channel_shift, 8)
        return self.emit("layernorm", name, [x], attributes, **constants)

    def exponential_of(self, kind: str, scale: float, largest: int) -> dict[str, int]:
        """Parameters of a shift or polynomial exponential whose values stay at most `largest`."""
        f = max(0, math.ceil(math.log2(scale * 16)))
        step = scale / 2**f
        if kind == "shift":
            x0 = math.floor(-1 / step)
            return {"x0": x0, "n": (largest // -x0).bit_length() - 1, "fraction_bits": f}
        x0, b, c = math.floor(-math.log(2) / step), math.floor(1.353 / step), math.floor(0.344 / (0.35815 * step**2))
        u = largest.bit_length() - 1 - (b * b + c).bit_length()
        return {"x0": x0, "n": int(self.rng.integers(8, 33)), "b": b, "c": c, "u": u, "fraction_bits": f}

    def pieces(self, start: int, stop: int, size: float) -> dict[str, Constant]:
        """Random polynomials near `size` * exp: S segments of degree D with a step shift of 4."""
        segments, degree = int(self.rng.integers(1, 6)), int(self.rng.integers(0, 4))
        bounds = np.sort(self.rng.integers(start, stop, segments - 1))
        origins = np.concatenate([[start], bounds])
        decay = float(self.rng.uniform(1, 4)) / (stop - start)
        height = size * np.exp(-decay * (origins - start))
        terms = [height * (-decay * 16) ** j / math.factorial(j) for j in range(degree + 1)]
        coefficients = np.int64(np.floor(np.stack(terms, axis=-1)))
        return {
            "bounds": Constant(bounds, 32),
            "origins": Constant(origins, 32),
            "coefficients": Constant(coefficients, 32),
        }

    def softmax(self, name: str, x: str) -> str:
        kind, logits = self.next_of(SOFTMAX_KINDS), self.values[x]
        normalization = ("rounded", "floor", "deferred")[(self.seed // 4 + self.sites) % 3]
        attributes: dict[str, Any] = {"kind": kind, "bits": int(self.rng.choice([8, 16, 5]))}
        largest, constants = (2**31 - 1) // logits.shape[-1], {}
        if kind == "table":
            table = self.rng.integers(0, largest + 1, 2**logits.bits) >> self.rng.integers(0, 20, 2**logits.bits)
            table[0] = self.rng.integers(2**15, largest + 1)
            constants["table"] = Constant(table, 31, False)
        elif kind == "piecewise":
            attributes["step_shift"] = 4
            constants = self.pieces(0, 2**logits.bits, 2.0**20)
        else:
            scale = float(2.0 ** self.rng.uniform(-9, 2))
            attributes |= self.exponential_of(kind, scale, largest)
        if self.rng.random() < 0.4:
            constants["mask"] = self.mask(logits.shape)
        if normalization != "deferred":
            return self.emit("softmax", name, [x], attributes | {"normalization": normalization}, **constants)
        at_maximum = int(exponent(attributes, {role: c.array for role, c in constants.items()}, np.zeros(1, int))[0][0])
        ratio = (2 ** attributes["bits"] - 1) / at_maximum * self.rng.choice([1, 1, 0.4, 1.1])
        attributes["multiplier"], attributes["shift"] = encode(ratio, 53 - attributes["bits"])
        return self.emit("exponential", name, [x], attributes, **constants)

    def mask(self, shape: tuple[int, ...]) -> Constant:
        """Excludes half of the logits, but either the first or the last of every row."""
        size = [int(self.rng.choice([1, n])) for n in shape[:-1]] + [shape[-1]]
        mask = self.rng.integers(0, 2, size)
        mask[..., [0, -1][int(self.rng.integers(2))]] = 0
        return Constant(mask, 1, False)

    def gelu(self, name: str, x: str) -> str:
        kind, width = self.next_of(GELU_KINDS), self.values[x].bits
        bits = int(self.rng.choice([8, 8, 12, 4]))
        attributes: dict[str, Any] = {"kind": kind, "bits": bits}
        scale, constants = float(2.0 ** self.rng.uniform(-7, 0)), {}
        unit = 1.0  # what one real unit of x is before the output's multiplier
        if kind == "table":
            constants["table"] = self.random_constant((2**width,), bits)
        elif kind == "piecewise":
            attributes["step_shift"] = 4
            constants = self.pieces(-(2 ** (width - 1)), 2 ** (width - 1), 2.0**14)
            unit = 2.0 ** (14 - width)
        elif kind == "shift":
            attributes |= self.exponential_of("shift", 1.702 * scale, 2**30 - 1)
            top = 2 ** (width - 1) - 1
            attributes["limit"] = int(self.rng.choice([0, top, self.rng.integers(0, top + 1)]))
            attributes["reciprocal_bits"] = int(self.rng.choice([31, 46, 37]))
            attributes["sigmoid_bits"] = int(self.rng.choice([7, 8, 16, 31]))
            unit = 2.0 ** attributes["sigmoid_bits"]
        else:
            f = max(0, math.ceil(math.log2(scale * 16)))
            step = scale / 2**f / math.sqrt(2)
            one = math.floor(-1 / (0.2888 * step * step))
            attributes |= {"fraction_bits": f, "b": math.floor(-1.769 / step), "c": one, "one": one}
            unit = 2.0**f * 2 * one
        if kind != "table":
            ratio = 2.0 ** (bits - width) / unit * self.rng.uniform(0.7, 1.3)
            attributes["multiplier"], attributes["shift"] = encode(ratio, 53 - (bits - 1))
        return self.emit("gelu", name, [x], attributes, **constants)
