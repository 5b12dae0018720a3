"""Quantization-aware layers: float, integer and recording in one module each."""

from intvit.quant.layers.attention import AttentionCore
from intvit.quant.layers.attention_pool import PoolCore
from intvit.quant.layers.boundary import Features, InputQuantize, MeanScores, Scores
from intvit.quant.layers.dense import DenseScores
from intvit.quant.layers.linear import Linear, PatchEmbed
from intvit.quant.layers.mask import MaskScores
from intvit.quant.layers.normalization import LayerNorm
from intvit.quant.layers.pointwise import GELU
from intvit.quant.layers.pooling import MeanPool
from intvit.quant.layers.residual import Add, LearnedConstant
from intvit.quant.layers.softmax_mean import SoftmaxMean

__all__ = [
    "GELU",
    "Add",
    "AttentionCore",
    "DenseScores",
    "Features",
    "InputQuantize",
    "LayerNorm",
    "LearnedConstant",
    "Linear",
    "MaskScores",
    "MeanPool",
    "MeanScores",
    "PatchEmbed",
    "PoolCore",
    "Scores",
    "SoftmaxMean",
]
