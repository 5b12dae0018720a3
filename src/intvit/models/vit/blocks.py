"""Parts of a ViT that own parameters: block, attention, MLP, attention pooling. Parameters have timm's names."""

from __future__ import annotations

from torch import nn

from intvit.models.drop_path import DropPath
from intvit.quant import QuantConfig
from intvit.quant.layers import GELU, Add, AttentionCore, LayerNorm, Linear, PoolCore
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    inner_norms: a LayerNorm before the last layer of both. epsilon: of all norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        quant: QuantConfig,
        name: str,
        drop_path: float,
        *,
        activation: str,
        epsilon: float,
        qkv_bias: bool,
        bias: bool,
        inner_norms: bool,
    ) -> None:
        super().__init__()
        inner = epsilon if inner_norms else None
        self.norm1 = LayerNorm(width, quant.site(f"{name}.norm1"), epsilon=epsilon)
        self.attn = Attention(width, heads, quant, f"{name}.attn", qkv_bias=qkv_bias, bias=bias, norm_epsilon=inner)
        self.add1 = Add(width, quant.site(f"{name}.add1"))
        self.norm2 = LayerNorm(width, quant.site(f"{name}.norm2"), epsilon=epsilon)
        self.mlp = Mlp(width, hidden, quant, f"{name}.mlp", activation, bias=bias, norm_epsilon=inner)
        self.add2 = Add(width, quant.site(f"{name}.add2"))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.add1(self.drop_path(self.attn(self.norm1(x))), x)
        return self.add2(self.drop_path(self.mlp(self.norm2(x))), x)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value have a range each. Yields accumulators.

    norm_epsilon: of a LayerNorm before the last layer, None for none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        quant: QuantConfig,
        name: str,
        *,
        qkv_bias: bool,
        bias: bool,
        norm_epsilon: float | None,
    ) -> None:
        super().__init__()
        site = quant.site(f"{name}.qkv")
        self.qkv = Linear(width, 3 * width, site, Quantizer.of_activation(site, groups=3), bias=qkv_bias)
        self.core = AttentionCore(width, heads, quant.site(f"{name}.core"))
        self.norm = _inner_norm(width, quant, name, norm_epsilon)
        self.proj = Linear(width, width, quant.site(f"{name}.proj"), bias=bias)

    def forward(self, x: AnyTensor) -> AnyTensor:
        return self.proj(self.norm(self.core(self.qkv(x))))


class Mlp(nn.Module):
    """Linear, activation, linear. Yields accumulators. norm_epsilon: as in `Attention`."""

    def __init__(
        self,
        width: int,
        hidden: int,
        quant: QuantConfig,
        name: str,
        activation: str = "gelu",
        *,
        bias: bool = True,
        norm_epsilon: float | None = None,
    ) -> None:
        super().__init__()
        site, act = quant.site(f"{name}.fc1"), GELU(quant.site(f"{name}.act"), activation)
        self.fc1 = Linear(width, hidden, site, GELU.input_quantizer(site, act), bias=bias)
        self.act = act
        self.norm = _inner_norm(hidden, quant, name, norm_epsilon)
        self.fc2 = Linear(hidden, width, quant.site(f"{name}.fc2"), bias=bias)

    def forward(self, x: AnyTensor) -> AnyTensor:
        return self.fc2(self.norm(self.act(self.fc1(x))))


def _inner_norm(width: int, quant: QuantConfig, name: str, epsilon: float | None) -> nn.Module:
    return nn.Identity() if epsilon is None else LayerNorm(width, quant.site(f"{name}.norm"), epsilon=epsilon)


class AttentionPool(nn.Module):
    """Tokens (B, N, C) -> (B, C): what a learned query attends to, then x + mlp(norm(x)).

    It is timm's AttentionPoolLatent with one query, which `intvit.models.vit.weights` makes part of `logits`: one row
    of C for each head, divided by sqrt(D). output: the range of the result, None for a stream's.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        quant: QuantConfig,
        name: str,
        activation: str,
        epsilon: float,
        output: Quantizer | None,
    ) -> None:
        super().__init__()
        self.heads = heads
        core, value, proj = (quant.site(f"{name}.{part}") for part in ("core", "value", "proj"))
        logits = PoolCore.logit_quantizer(core)
        self.logits = Linear(width, heads, quant.site(f"{name}.logits"), logits, bias=False)
        self.value = Linear(width, width, value, Quantizer.of_activation(value))
        self.core = PoolCore(heads, core)
        self.proj = Linear(width, width, proj, Quantizer.of_stream(width, proj))
        self.norm = LayerNorm(width, quant.site(f"{name}.norm"), epsilon=epsilon)
        self.mlp = Mlp(width, hidden, quant, f"{name}.mlp", activation)
        self.add = Add(width, quant.site(f"{name}.add"), output)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.proj(self.core(self.logits(x), self.value(x)))
        return self.add(self.mlp(self.norm(x)), x)
