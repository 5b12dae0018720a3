"""Every kernel against the definition, on random and extreme values, at sizes that no tile divides."""

import numpy as np
import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.arithmetic import LayerNormParameters, Normalizer, TableExponent
from intvit.runtime.cuda.packing import pack
from intvit.runtime.cuda.steps import Kind
from tests.support.cuda_steps import executed
from tests.support.draws import draw

BATCH, TOKENS = 2, 37


def int8(seed: int, *shape: int) -> Tensor:
    return draw(seed, -128, 127, *shape).to(torch.int8)


def multipliers(seed: int, *shape: int) -> Tensor:
    return draw(seed, -(2**31) + 1, 2**31 - 1, *shape)


def as_int32(**tensors: Tensor) -> dict[str, np.ndarray]:
    return {role: tensor.to(torch.int32).numpy() for role, tensor in tensors.items()}


# ------------------------------------------------------------------------------------------------ linear layers


def linear_case(
    seed: int, inputs: int, *, unsigned: bool, packed: bool
) -> tuple[Tensor, dict[str, np.ndarray], Tensor]:
    """x, weight and bias as the kernel takes them, and the sums."""
    channels = 70
    x = draw(seed, 0, 255, BATCH, TOKENS, inputs).to(torch.uint8) if unsigned else int8(seed, BATCH, TOKENS, inputs)
    weight = draw(seed + 1, *((-8, 7) if packed else (-128, 127)), channels, inputs).to(torch.int8)
    bias = draw(seed + 2, -(2**29), 2**29, channels)
    sums = x.long() @ weight.long().t() + bias
    held = bias + 128 * weight.long().sum(1) if unsigned else bias
    array = weight.numpy()
    constants = as_int32(bias=held) | {"weight": pack(array) if packed else array}
    return x, constants, sums


@pytest.mark.parametrize("inputs", [64, 100, 384])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
def test_linear_is_the_product_then_requantize(unsigned: bool, packed: bool, inputs: int) -> None:
    x, constants, sums = linear_case(inputs, inputs, unsigned=unsigned, packed=packed)
    out = torch.empty(sums.shape, dtype=torch.int32)
    assert torch.equal(executed(Kind.LINEAR, {"x": x}, out, constants, mode="sums", packed=packed).long(), sums)
    for bits, least, dtype in ((8, 1, torch.int8), (8, 33, torch.int8), (32, 1, torch.int32), (16, 33, torch.int16)):
        m, e = multipliers(3, sums.shape[-1]), draw(4, least, max(least, 53 - bits), sums.shape[-1])
        scaled = constants | as_int32(multiplier=m, shift=e)
        low, top = arithmetic.limits(bits)
        options = {"mode": "requantize", "packed": packed, "low": low, "top": top}
        result = executed(Kind.LINEAR, {"x": x}, torch.empty(sums.shape, dtype=dtype), scaled, **options)
        assert torch.equal(result.long(), arithmetic.requantize(sums, m, e, bits))


@pytest.mark.parametrize("bits", [8, 16])
def test_linear_adds_the_residual_with_one_rounding(bits: int) -> None:
    x, constants, sums = linear_case(5, 96, unsigned=False, packed=False)
    low, top = arithmetic.limits(bits)
    stream = draw(6, low, top, *sums.shape)
    m, m_b, e = multipliers(7, 70), multipliers(8, 70), draw(9, 1, 53 - bits, 70)
    dtype = torch.int8 if bits == 8 else torch.int16
    constants |= as_int32(multiplier=m, multiplier_b=m_b, shift=e)
    options = {"mode": "add", "packed": False, "low": low, "top": top}
    expected = arithmetic.add(sums, stream, m, m_b, e, bits)
    residual = stream.to(dtype)
    for given in (residual, residual[:1].expand_as(residual)):  # a constant is equal for all images
        expected = arithmetic.add(sums, given.long(), m, m_b, e, bits)
        out = torch.empty(sums.shape, dtype=dtype)
        result = executed(Kind.LINEAR, {"x": x, "residual": given}, out, constants, **options)
        assert torch.equal(result.long(), expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_linear_looks_up_the_gelu_of_what_it_requantized(dtype: torch.dtype) -> None:
    x, constants, sums = linear_case(10, 96, unsigned=False, packed=False)
    m, e = multipliers(11, 70), draw(12, 36, 46, 70)
    table = draw(13, torch.iinfo(dtype).min, torch.iinfo(dtype).max, 256).to(dtype)
    constants |= as_int32(multiplier=m, shift=e) | {"table": table.numpy()}
    options = {"mode": "requantize", "packed": False, "low": -128, "top": 127}
    result = executed(Kind.LINEAR, {"x": x}, torch.empty(sums.shape, dtype=dtype), constants, **options)
    assert torch.equal(result, table[arithmetic.requantize(sums, m, e, 8) + 128])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
def test_linear_turned_stores_the_tokens_of_every_head_last(unsigned: bool, packed: bool) -> None:
    x, constants, sums = linear_case(14, 160, unsigned=unsigned, packed=packed)
    m, e, heads, size = multipliers(15, 70), draw(16, 33, 46, 70), 7, 10
    constants |= as_int32(multiplier=m, shift=e)
    out = torch.zeros(BATCH, 1, heads, size, 48, dtype=torch.int8)[..., :TOKENS]
    result = executed(Kind.LINEAR_TURNED, {"x": x}, out, constants, packed=packed, low=-128, top=127)
    expected = arithmetic.requantize(sums, m, e, 8).view(BATCH, 1, TOKENS, heads, size).permute(0, 1, 3, 4, 2)
    assert torch.equal(result.long(), expected)


@pytest.mark.parametrize("a_type", [torch.int8, torch.uint8, torch.int16, torch.uint16])
@pytest.mark.parametrize("b_type", [torch.int8, torch.uint8])
def test_matmul_takes_signed_and_unsigned_operands(a_type: torch.dtype, b_type: torch.dtype) -> None:
    low = 0 if a_type == torch.int16 else torch.iinfo(a_type).min  # probabilities of 9 to 16 bits are not negative
    a = draw(17, low, torch.iinfo(a_type).max, BATCH, 2, 3, TOKENS, 21).to(a_type)
    b = draw(18, torch.iinfo(b_type).min, torch.iinfo(b_type).max, BATCH, 2, 3, 70, 21).to(b_type).transpose(-1, -2)
    out = torch.empty(BATCH, 2, 3, TOKENS, 70, dtype=torch.int32)
    assert torch.equal(executed(Kind.MATMUL, {"a": a, "b": b}, out).long(), a.long() @ b.long())


# ------------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("tokens", [37, 70])
@pytest.mark.parametrize("logit_bits", [8, 16])
@pytest.mark.parametrize("bits", [6, 8, 16])
@pytest.mark.parametrize("softmax", ["deferred", "rounded", "floor"])
def test_attention_is_logits_softmax_and_the_mean_of_values(
    softmax: str, bits: int, logit_bits: int, tokens: int
) -> None:
    seed, heads, groups, size = bits + logit_bits + tokens, 2, 2, 20
    q, k = (int8(seed + part, BATCH, groups, heads, tokens, size) for part in range(2))
    v = int8(seed + 2, BATCH, groups, heads, size, tokens)
    products = q.long() @ k.long().transpose(-1, -2)
    low, top = arithmetic.limits(logit_bits)
    m, e = (1 if seed % 3 else -1) * (2**31 - 5), 33 if logit_bits == 16 else 40
    inputs, mask = {"q": q, "k": k, "v": v}, None
    options = {"multiplier": m, "multiplier_b": 0, "shift": e, "logit_limits": (low, top)}
    logits = arithmetic.requantize(products, m, e, logit_bits)
    if tokens == 37:
        bias = draw(seed + 3, -(2**15), 2**15 - 1, 1, heads, tokens, tokens).to(torch.int16)
        options["multiplier_b"] = 2**24
        logits = arithmetic.add(products, bias.long(), m, 2**24, e, logit_bits)
        inputs["bias"] = bias.expand(BATCH, groups, heads, tokens, tokens)
        mask = draw(seed + 4, 0, 1, groups, 1, tokens, tokens).bool()
        mask[..., 5] = False
        inputs["mask"] = mask.to(torch.uint8).expand(BATCH, groups, heads, tokens, tokens)

    largest = (2**31 - 1) // tokens if softmax != "deferred" else arithmetic.largest_weight(bits, tokens)
    table = (largest * torch.exp(-torch.arange(2**logit_bits, dtype=torch.float64) * 9 / 2**logit_bits)).long()
    narrow = softmax == "deferred" and bits <= 8
    constants = {"table": table.to(torch.uint8 if narrow else torch.int32).numpy()}
    options |= {"softmax": softmax, "bits": bits, "weight_bits": bits - (softmax == "floor"), "low": -128, "top": 127}
    if softmax == "deferred":
        weights = arithmetic.exponential_from_table(logits.to(torch.int16), table, mask)
        options["mean"] = (2**52 + 12345, 45)
        total = weights.sum(-1, keepdim=True)
        expected = arithmetic.weighted_mean(weights @ v.long().transpose(-1, -2), total, *options["mean"], 8)
    else:
        weights = arithmetic.softmax(logits, TableExponent(table), bits, softmax, mask)
        m_out, e_out = multipliers(seed + 5, size), draw(seed + 6, 24 + bits, 30 + bits, size).clamp(max=46)
        constants |= as_int32(multiplier=m_out, shift=e_out)
        expected = arithmetic.requantize(weights @ v.long().transpose(-1, -2), m_out, e_out, 8)
    out = torch.empty(BATCH, groups, tokens, heads, size, dtype=torch.int8).transpose(2, 3)
    assert torch.equal(executed(Kind.ATTENTION, inputs, out, constants, **options).long(), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("softmax", ["deferred", "rounded", "floor"])
def test_softmax_of_rows_is_the_definition(softmax: str, masked: bool) -> None:
    logits, bits, size = draw(19, -(2**15), 2**15 - 1, BATCH, 3, 5, 45).to(torch.int16), 16, 45
    table = draw(20, 2**15, (2**31 - 1) // size, 2**16)
    table = table.clamp(max=2**16 - 1) if softmax == "deferred" else table
    mask, constants = None, {"table": table.to(torch.int32).numpy()}
    if masked:
        mask = draw(21, 0, 1, 3, 5, size).bool()
        mask[..., 0] = False
        constants["mask"] = mask.to(torch.uint8).view(-1, size).numpy()
    if softmax == "deferred":
        expected = arithmetic.exponential_from_table(logits, table, mask)
    else:
        expected = arithmetic.softmax(logits, TableExponent(table), bits, softmax, mask)
    out = torch.empty(logits.shape, dtype=torch.int16 if softmax == "floor" else torch.uint16)
    assert torch.equal(
        executed(Kind.SOFTMAX, {"x": logits}, out, constants, softmax=softmax, bits=bits).long(), expected
    )


def test_weighted_mean_of_rows_is_the_definition() -> None:
    weights = draw(22, 1, 255, BATCH, 3, TOKENS, 45).to(torch.uint8)
    sums = (weights.long() @ draw(23, -128, 127, BATCH, 3, 45, 20)).to(torch.int32)
    mean = (2**53 - 1, 46)
    out = torch.empty(sums.shape, dtype=torch.int8)
    result = executed(Kind.WEIGHTED_MEAN, {"sums": sums, "weights": weights}, out, mean=mean, low=-128, top=127)
    expected = arithmetic.weighted_mean(sums, weights.long().sum(-1, keepdim=True), *mean, 8)
    assert torch.equal(result.long(), expected)


# ------------------------------------------------------------------------------------------------ rows


def extreme_rows(bits: int, channels: int) -> Tensor:
    """Rows [1, 13, channels] with the smallest and largest variances among them."""
    low, top = arithmetic.limits(bits)
    x = draw(24 + channels, low, top, 1, 13, channels)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = 5, 0, low, top
    x[0, 1, 3], x[0, 2, 0], x[0, 3, : channels // 2] = 1, top, low
    x[0, 4] >>= bits - 3
    return x


@pytest.mark.parametrize("channels", [48, 75, 384])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("method", ["exact", "ivit", "ivit_paper", "ibert"])
def test_layernorm_is_the_definition(method: str, bits: int, channels: int) -> None:
    x = extreme_rows(bits, channels)
    factors = draw(25, 0, 3, channels) if bits == 8 else None
    name, paper = method.removesuffix("_paper"), method.endswith("paper")
    normalizer = arithmetic.derive_normalizer(name, channels, bits, channel_shift=factors, paper=paper)
    for k, least in ((normalizer.normalizer_shift, 33), (normalizer.normalizer_shift, 1), (0, 1)):
        m, e = multipliers(26, channels), draw(27, least, 45, channels)
        if k == 0:  # n needs 64 bits
            m >>= 20
        bias = draw(28, -(2**51), 2**51, channels) >> torch.arange(channels) % 21
        fields = Normalizer(name, k, normalizer.newton_steps, normalizer.square_shift, factors, 0.0)
        expected = arithmetic.layernorm(x, LayerNormParameters(fields, 8, m, bias, e))
        n_bits = {"exact": 41 + (channels.bit_length() + 1) // 2, "ivit": 31, "ibert": 32}[name] - k
        constants = as_int32(multiplier=m, shift=e) | {"bias": (bias + (1 << (e - 1))).numpy()}
        if factors is not None:
            constants |= as_int32(channel_shift=factors)
        options = {"method": name, "normalizer_shift": k, "newton_steps": fields.newton_steps}
        options |= {"square_shift": fields.square_shift, "narrow": n_bits <= 31, "low": -128, "top": 127}
        given, out = x.to(torch.int8 if bits == 8 else torch.int16), torch.empty(x.shape, dtype=torch.int8)
        assert torch.equal(executed(Kind.LAYERNORM, {"x": given}, out, constants, **options).long(), expected)


@pytest.mark.parametrize(
    ("bits", "signed", "dtype"), [(8, True, torch.int8), (5, False, torch.uint8), (32, True, torch.int32)]
)
def test_requantize_of_rows_is_the_definition(bits: int, signed: bool, dtype: torch.dtype) -> None:
    x = draw(29, -(2**31), 2**31 - 1, BATCH, 9, 45).to(torch.int32)
    m, e = multipliers(30, 45), draw(31, 1, arithmetic.shift_cap(bits, signed), 45)
    low, top = arithmetic.limits(bits, signed)
    out = torch.empty(x.shape, dtype=dtype)
    result = executed(Kind.REQUANTIZE, {"x": x}, out, as_int32(multiplier=m, shift=e), low=low, top=top)
    assert torch.equal(result.long(), arithmetic.requantize(x, m, e, bits, signed))


def test_add_of_rows_repeats_the_second_operand() -> None:
    a = draw(32, -(2**31), 2**31 - 1, BATCH, 3, 9, 45).to(torch.int32)
    m, m_b, e = multipliers(33, 45), multipliers(34, 45), draw(35, 1, 45, 45)
    for shape in ((BATCH, 3, 9, 45), (BATCH, 9, 45), (BATCH, 45)):
        b = draw(36, -(2**15), 2**15 - 1, *shape).to(torch.int16)
        constants = as_int32(multiplier=m, multiplier_b=m_b, shift=e)
        out = torch.empty(a.shape, dtype=torch.int8)
        result = executed(Kind.ADD, {"a": a, "b": b}, out, constants, low=-128, top=127)
        repeated = b.view(BATCH, *[1] * (4 - len(shape)), *shape[1:])
        assert torch.equal(result.long(), arithmetic.add(a, repeated, m, m_b, e, 8))


def test_look_ups_take_the_tables_entries() -> None:
    x, table = int8(37, BATCH, 9, 45), int8(38, 128, 256)
    x[0, 0] = x[0, 0].clamp(max=-1)  # a row without a positive value
    entries, out = x.long() + 128, torch.empty(x.shape, dtype=torch.int8)
    result = executed(Kind.LOOK_UP, {"x": x}, out, {"table": table[:1].numpy()})
    assert torch.equal(result, table[0][entries])
    result = executed(Kind.GELU_BY_MAXIMUM, {"x": x}, out, {"table": table.numpy()})
    assert torch.equal(result, table[x.long().amax(-1, keepdim=True).clamp(min=0), entries])


def test_gather_gives_zero_where_the_index_is_negative() -> None:
    x, index = draw(39, -(2**15), 2**15 - 1, BATCH, 3, 9, 45).to(torch.int16), draw(40, -1, 8, 14)
    expected = x[:, :, index.clamp(min=0)] * (index >= 0)[:, None]
    out = torch.empty(BATCH, 3, 14, 45, dtype=torch.int16)
    assert torch.equal(executed(Kind.GATHER, {"x": x}, out, as_int32(index=index)), expected)


@pytest.mark.parametrize("patch", [3, 4])
def test_patches_quantize_every_channels_pixels(patch: int) -> None:
    image, table = draw(41, 0, 255, BATCH, 3, 4 * patch, 5 * patch).to(torch.uint8), int8(42, 3, 256)
    pixels = table[torch.arange(3)[:, None, None], image.long()]
    rows = pixels.view(BATCH, 3, 4, patch, 5, patch).permute(0, 2, 4, 1, 3, 5).reshape(BATCH, 20, 3 * patch**2)
    out = torch.empty(rows.shape, dtype=torch.int8)
    assert torch.equal(executed(Kind.PATCHES, {"image": image}, out, {"table": table.numpy()}, patch=patch), rows)
