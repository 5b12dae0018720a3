"""The kernels of a training step on a GPU, in Triton: codes equal to `intvit.arithmetic`, gradients in float32.

Each is an operator `torch.ops.intvit.NAME` (`operators.py`). Scales, multipliers and tables are tensors of the device;
nothing is read on the host. Importing the package imports triton. Codes as floats need no kernel of
ours: `codes.to(dtype)` is one launch.

magnitudes, float64 (B, groups), are what a range observer takes: for each image and each of the equal groups of the
last axis the largest |v|, v the real value before rounding and saturation in steps of the output, the float64 that
torch gives.
"""

from intvit.quant.triton_kernels.attention import attention_logits, weighted_mean, weighted_requantize
from intvit.quant.triton_kernels.heads import merge_heads, split_heads
from intvit.quant.triton_kernels.layernorm import layernorm
from intvit.quant.triton_kernels.layernorm_gradient import layernorm_gradient
from intvit.quant.triton_kernels.linear import linear
from intvit.quant.triton_kernels.pointwise import dequantize, gelu, gelu_gradient, mask
from intvit.quant.triton_kernels.requantization import add, requantize
from intvit.quant.triton_kernels.softmax import probabilities, softmax_gradient, weights

__all__ = [
    "add",
    "attention_logits",
    "dequantize",
    "gelu",
    "gelu_gradient",
    "layernorm",
    "layernorm_gradient",
    "linear",
    "mask",
    "merge_heads",
    "probabilities",
    "requantize",
    "softmax_gradient",
    "split_heads",
    "weighted_mean",
    "weighted_requantize",
    "weights",
]
