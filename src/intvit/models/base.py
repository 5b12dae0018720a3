"""ImageModel: what every architecture shares between the uint8 image and the scores, or the label of every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from intvit.arguments import described, sides_text
from intvit.arithmetic import argmax
from intvit.errors import IntVitError
from intvit.quant.config import QuantConfig
from intvit.quant.control import move_ranges, quant_layers
from intvit.quant.derivation import Derivations, without_hooks
from intvit.quant.derivation_graph import DerivationGraph
from intvit.quant.layer import LEARNED_STEP
from intvit.quant.layers import Features, MaskScores, Scores
from intvit.quant.layers.dense import labels
from intvit.quant.tensor import AnyTensor, QTensor, Symbol


def patch_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches. Raises IntVitError unless the patch size divides both sides of the image."""
    if any(side % patch for side in image_size):
        height, width = (side - side % patch or patch for side in image_size)
        raise IntVitError(
            f"model.image_size={sides_text(image_size)} is not divisible by model.patch_size={patch}; "
            f"choose multiples, such as {sides_text((height, width))}"
        )
    height, width = image_size
    return height // patch, width // patch


class ImageModel(nn.Module):
    """Images uint8 (B, C, H, W) -> logits float32 (B, classes). An architecture gives `stages` and `scores_layer`.

    Where that is dense, logits are (B, classes, H, W), and the program's output is the label of every pixel.
    image_size: (H, W).
    """

    def __init__(self, image_size: tuple[int, int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.quant: QuantConfig  # set where construction ends
        self.provenance: dict[str, Any] = {}  # where the weights are from, for the exported program
        self.trained_classes: list[str] = []  # by score, where weights of a run of train.py say it
        self.managed = False  # by a trainer, that calls `move_ranges`; else ranges move where a training step begins
        self._graph = DerivationGraph()
        self.valid: Tensor | None = None  # 0-d bool: whether all scales of the last step were in their proven ranges

    @property
    def scores_layer(self) -> Scores | MaskScores | Features:
        """The classifier, a dense one, or what makes an output of features."""
        raise NotImplementedError

    def stages(self) -> list[Callable[[AnyTensor], AnyTensor]]:
        """The way from images to the classifier's input, one after the other: embedding, blocks, end."""
        raise NotImplementedError

    def stream_constants(self) -> list[nn.Parameter]:
        """Parameters (1, n, C) that join the residual stream as constants."""
        return []

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that a float model has: all but learned steps of quantizers."""
        return ((name, each) for name, each in self.named_parameters() if not name.endswith(LEARNED_STEP))

    def learned_steps(self) -> list[nn.Parameter]:
        """The other ones."""
        return [parameter for name, parameter in self.named_parameters() if name.endswith(LEARNED_STEP)]

    def features(self, images: AnyTensor) -> AnyTensor:
        """Classifier input (B, C), of a dense one the patch tokens (B, L, C)."""
        x = images
        for stage in self.stages():
            x = stage(x)
        return x

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with the key names of timm's model as one of this; of the same names where nothing is folded."""
        return dict(state)

    def resample(self, state: Mapping[str, Tensor], trained: tuple[int, int] | None) -> dict[str, Tensor]:
        """`state`, which `adapt` gave, with what belongs to a number of tokens made for the image size of this model.

        trained: (H, W) of the images that the weights are for, None where that is not known. What cannot be resampled
        stays as it is.
        """
        return dict(state)

    def forward(self, images: AnyTensor) -> AnyTensor:
        """Logits; a Symbol image records the program and yields its scores."""
        if not isinstance(images, Symbol):
            self.check_images(images)
            self._begin()
        return self.scores_layer(self.features(images))

    def _begin(self) -> None:
        """In integer mode: move the ranges to what earlier batches had, and derive all integers anew."""
        layer = next(quant_layers(self))  # of the pixels: what is computed on integers begins there
        if layer.mode != "integer" or layer.alone:
            return
        if self.training and not self.managed:
            move_ranges(self)
        if self.managed and next(self.parameters()).device.type == "cuda":
            self.valid = self._graph.run(self._derived, (*self.parameters(), *self.buffers()))
        else:
            self.valid = self._derived()

    def _derived(self) -> Tensor | None:
        derivations = Derivations()
        self.derive(derivations)
        return derivations.valid

    def check_scales(self) -> None:
        """Raise IntVitError where the last step met a scale out of its proven range; reads a flag on the device."""
        if self.valid is not None and not bool(self.valid):
            derivations = Derivations()
            self.derive(derivations)
            derivations.explain()

    @torch.no_grad()
    def derive(self, builder: Derivations) -> Symbol:
        """Run on symbols: every layer gets its integers, from the weights and ranges as they are. The output's symbol.

        Raises IntVitError naming a layer without a range, or with a scale that is out of its range.
        """
        builder.hardware = self.quant.hardware
        image = Symbol("image", (self.channels, *self.image_size), 8, False, None, None, builder)
        with without_hooks(self):
            scores = self(image)
        assert isinstance(scores, Symbol)
        output = labels(scores) if self.scores_layer.dense else scores
        builder.resolve()
        return output

    def check_images(self, images: AnyTensor) -> None:
        """Raise IntVitError unless images are uint8 (B, C, H, W), B >= 1, of the model's size."""
        expected = (self.channels, *self.image_size)
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
        """int32 scores (B, classes), dense ones (B, classes, H, W), in integer mode; equal to every runtime's."""
        self.check_images(images)
        training = self.training
        if training:
            self.eval()  # observers must not follow these images
        try:
            self._begin()
            features = self.features(images)
        finally:
            if training:
                self.train()
        if not isinstance(features, QTensor):
            raise IntVitError("integer scores need integer mode: calibrate first, then set_mode(model, 'integer')")
        return self.scores_layer.scores(features).values

    def integer_output(self, images: Tensor) -> Tensor:
        """What the program gives in integer mode, int32: scores (B, classes), or labels (B, H, W) of a dense model."""
        scores = self.integer_scores(images)
        return argmax(scores, 1).to(torch.int32) if self.scores_layer.dense else scores

    @property
    def score_scale(self) -> float:
        """Real value of one step of a score, or of a dense score, in integer mode."""
        self.derive(Derivations())
        return float(self.scores_layer.score_scale)
