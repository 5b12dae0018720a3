"""ImageModel: what every architecture shares between the uint8 image and the scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intvit.arguments import described
from intvit.errors import IntVitError
from intvit.quant.layers import Scores
from intvit.quant.tensor import AnyTensor, QTensor, Symbol


def check_patch(image_size: int, patch: int) -> int:
    """The patch size. Raises IntVitError unless it divides the image size."""
    if image_size % patch:
        raise IntVitError(
            f"model.image_size={image_size} is not divisible by model.patch_size={patch}; "
            f"choose a multiple, such as {image_size - image_size % patch or patch}"
        )
    return patch


class ImageModel(nn.Module):
    """Images uint8 (B, C, H, W) -> logits float32 (B, classes). An architecture gives `features` and `scores_layer`."""

    def __init__(self, image_size: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.provenance: dict[str, Any] = {}  # where the weights are from, for the exported program

    @property
    def scores_layer(self) -> Scores:
        """The classifier."""
        raise NotImplementedError

    def features(self, images: AnyTensor) -> AnyTensor:
        """Classifier input (B, C)."""
        raise NotImplementedError

    def forward(self, images: AnyTensor) -> AnyTensor:
        """Logits; a Symbol image records the program and yields its scores."""
        if not isinstance(images, Symbol):
            self.check_images(images)
        return self.scores_layer(self.features(images))

    def check_images(self, images: AnyTensor) -> None:
        """Raise IntVitError unless images are uint8 (B, C, H, W), B >= 1, of the model's size."""
        expected = (self.channels, self.image_size, self.image_size)
        if not isinstance(images, Tensor):
            raise IntVitError(
                f"images are {described(images)}; the model takes a tensor torch.uint8 (B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}), such as torch.from_numpy(images)"
            )
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected or not len(images):
            raise IntVitError(
                f"images are {images.dtype} {tuple(images.shape)}; the model takes torch.uint8 (B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}): check data.image_size and model.image_size"
            )

    @torch.no_grad()
    def integer_scores(self, images: Tensor) -> Tensor:
        """int32 scores (B, classes) in integer mode; equal to every runtime's."""
        self.check_images(images)
        return self.scores_layer.scores(self._integer_features(images)).values

    @property
    def score_scale(self) -> float:
        """Real value of one score step in integer mode."""
        probe = torch.zeros(1, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        with torch.no_grad():
            device = next(self.parameters()).device
            return self.scores_layer.score_scale(self._integer_features(probe.to(device)))

    def _integer_features(self, images: Tensor) -> QTensor:
        training = self.training
        if training:
            self.eval()  # observers must not follow these images
        features = self.features(images)
        if training:
            self.train()
        if not isinstance(features, QTensor):
            raise IntVitError("integer scores need integer mode: calibrate first, then set_mode(model, 'integer')")
        return features
