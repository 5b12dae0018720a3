"""Swin Transformer (arXiv 2103.14030): the sizes by name.

`network` is the dataflow, `from_timm` reads the size of a model of timm.
"""

from intvit.models.swin.from_timm import missing_features, size_of
from intvit.models.swin.network import SwinSize, SwinTransformer
from intvit.models.swin.weights import traits

__all__ = ["SIZES", "TIMM", "SwinSize", "SwinTransformer", "missing_features", "size_of", "traits"]

# The class whose instances can be taken over.
TIMM = ("timm.models.swin_transformer.SwinTransformer",)
SIZES = {
    "swin_t": SwinSize("swin_tiny_patch4_window7_224", width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "swin_s": SwinSize("swin_small_patch4_window7_224", width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "swin_b": SwinSize("swin_base_patch4_window7_224", width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}
