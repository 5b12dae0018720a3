"""timm's weights as ours: what a trained model holds and a program has no operator for joins the layer before or after.

Done once, in float64, where weights are loaded: what trains and what is exported are then the same parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

# LayerScale, and the layer before it, whose outputs it multiplies.
_LAYER_SCALE = re.compile(r"(?P<block>blocks\.\d+\.)(?P<part>ls1|ls2)\.gamma")
_SCALED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}


def adapt(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of timm's VisionTransformer, by its key names, as one of `model`, by ours; neither is changed.

    state: float tensors; keys that are not timm's stay as they are, for the caller to refuse. model: a
    `VisionTransformer` of ours. Two things have no parameter of their own here:

    - LayerScale, gamma (C,): the rows of the weight and the bias of the layer before it are multiplied by gamma.
    - the query of attention pooling, which is the same for every image: see `_fold_query`.

    A state dict that has neither, such as one of ours, comes back equal.
    """
    adapted = dict(state)
    for key in state:
        if match := _LAYER_SCALE.fullmatch(key):
            _fold_layer_scale(adapted, key, match["block"] + _SCALED[match["part"]])
    heads = getattr(getattr(model, "attn_pool", None), "heads", None)
    if heads is not None and {"attn_pool.latent", "attn_pool.q.weight", "attn_pool.kv.weight"} <= set(adapted):
        _fold_query(adapted, heads)
    return adapted


def _fold_layer_scale(state: dict[str, Tensor], key: str, layer: str) -> None:
    """gamma (W x + b) = (gamma W) x + gamma b."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    if weight not in state or state[weight].shape[0] != len(state[key]):
        return  # a checkpoint that lacks the layer, or has another: refused by its shape, by the caller
    gamma = state.pop(key).double()
    state[weight] = (state[weight].double() * gamma[:, None]).to(state[weight].dtype)
    if bias in state:
        state[bias] = (state[bias].double() * gamma).to(state[bias].dtype)


def _fold_query(state: dict[str, Tensor], heads: int) -> None:
    """Logits of attention pooling as one linear layer of the tokens, (heads, C), without a bias.

    For head h of D channels q_h . (W_k,h x + b_k,h) / sqrt(D) = (W_k,h^T q_h / sqrt(D)) . x + a constant, which the
    softmax over the tokens does not see. What is left of `kv` is `value`.
    """
    form = "attn_pool."
    latent, weight = (state.pop(f"{form}{key}").double() for key in ("latent", "q.weight"))
    query = latent.flatten() @ weight.T
    if f"{form}q.bias" in state:
        query = query + state.pop(f"{form}q.bias").double()
    both = state.pop(f"{form}kv.weight")
    key, state[f"{form}value.weight"] = both.chunk(2)
    size = len(key) // heads
    folded = (query.view(heads, 1, size) / math.sqrt(size)) @ key.double().view(heads, size, -1)
    state[f"{form}logits.weight"] = folded[:, 0].to(key.dtype)
    if f"{form}kv.bias" in state:
        _, state[f"{form}value.bias"] = state.pop(f"{form}kv.bias").chunk(2)
