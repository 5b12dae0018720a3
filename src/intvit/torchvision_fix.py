"""Lets torchvision's CUDA wheel be imported beside a CPU torch; nothing else lives here.

PyPI serves one torchvision wheel, linked against CUDA. Beside a CPU torch its operator library does not load, and the
import stops at `operator torchvision::nms does not exist`, which takes timm, torchmetrics and Lightning with it.
Call `ensure_torchvision()` before the first import of any of those. `torchvision.io` and a real `nms` stay
unavailable then; IntViT decodes images with Pillow.
"""

import importlib
import sys

_MISSING_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor a, Tensor b) -> Tensor",
)
# The schemas vanish when this object is collected.
_library = None


def ensure_torchvision() -> None:
    """Imports torchvision, after defining its two missing operator schemas where its own library did not load.

    Raises ImportError or RuntimeError unchanged when torchvision fails for any other reason.
    """
    global _library
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        import torch

        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _MISSING_SCHEMAS:
            _library.define(schema)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
