"""Model families: one dataflow each, and the registry of their sizes.

Calling it, `intvit.models()`, is `intvit.models.build.models`.
"""

from intvit.callable_package import make_callable
from intvit.models.registry import MODELS, create_model
from intvit.models.weights import load_pretrained, load_weights

__all__ = ["MODELS", "create_model", "load_pretrained", "load_weights"]

make_callable(__name__, "intvit.models.build", "models")
