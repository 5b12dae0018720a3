"""Model families: one dataflow each, and the registry of their sizes."""

from intvit.models.registry import MODELS, create_model
from intvit.models.weights import load_pretrained, load_weights

__all__ = ["MODELS", "create_model", "load_pretrained", "load_weights"]
