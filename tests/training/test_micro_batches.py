"""Blocks computed again in the backward pass, and steps of several batches: integers and ranges of plain ones."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from intvit.models.base import ImageModel
from intvit.quant.control import move_ranges
from intvit.quant.tensor import QTensor
from intvit.training.entry import train
from intvit.training.module import TrainingModule
from tests.support.small_models import prepared, random_images, small_model
from tests.support.tiny_runs import Stopped, tiny

MOMENTUM = ["quant.observer.momentum=0.5"]


def computed_again(block: nn.Module, reentrant: bool) -> Callable[[Any], Any]:
    """The block's forward under torch.utils.checkpoint; with use_reentrant only bare tensors carry gradients."""
    plain = block.forward

    def forward(x: Any) -> Any:
        if not isinstance(x, QTensor):
            return plain(x)
        if not reentrant:
            return checkpoint(plain, x, use_reentrant=False)
        forms = []

        def bare(values: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
            out = plain(replace(x, values=values, handle=handle))
            forms.append(out)
            return out.values, out.handle

        values, handle = checkpoint(bare, x.values, x.handle, use_reentrant=True)
        return replace(forms[0], values=values, handle=handle)

    return forward


def step(model: nn.Module) -> dict[str, Tensor]:
    """Logits, gradients, and ranges that have moved, of two batches in one step."""
    logits = []
    for seed in (1, 2):
        logits.append(model(random_images(3, seed)))
        nn.functional.cross_entropy(logits[-1], torch.arange(3)).backward()
    move_ranges(model)
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": torch.cat(logits).detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("preset", ["ivit8", "lut8", "ibert8"])
def test_checkpointed_blocks_keep_logits_ranges_and_gradients(preset: str, reentrant: bool, managed: bool) -> None:
    model = prepared(small_model(preset, MOMENTUM)).train()
    model.managed = managed
    again = copy.deepcopy(model)
    for block in again.blocks:
        block.forward = computed_again(block, reentrant)
    before = {name: value.clone() for name, value in model.named_buffers()}
    expected, found = step(model), step(again)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert any(not torch.equal(found[name], value) for name, value in before.items())


def first_step(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """Images and integer logits of the first step on integers, and the ranges behind it."""
    seen: dict[str, list[Tensor]] = {"images": [], "logits": []}
    loss = TrainingModule._loss

    def watched(self: TrainingModule, images: Tensor, targets: Tensor) -> Tensor:
        def keep(_: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
            seen["images"].append(inputs[0])
            seen["logits"].append(logits.detach())

        hook = self.model.register_forward_hook(keep)
        try:
            return loss(self, images, targets)
        finally:
            hook.remove()

    found: dict[str, Tensor] = {}
    moved = TrainingModule.on_before_optimizer_step

    def stop(self: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
        moved(self, optimizer)
        found.update({name: value.clone() for name, value in self.model.named_buffers()})
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "_loss", watched)
        patch.setattr(TrainingModule, "on_before_optimizer_step", stop)
        with pytest.raises(Stopped):
            train(tiny("schedule.float=null", *overrides), folder)
    return {**{name: torch.cat(values) for name, values in seen.items()}, **found}


@pytest.mark.parametrize(
    "once", [False, True], ids=["derived for each batch", "derived in place, as a CUDA graph does"]
)
@pytest.mark.parametrize("quant", ["ivit8", "lut8"])
def test_four_batches_of_a_step_have_the_integers_and_ranges_of_one(
    quant: str, once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the bit: the means of `mse` observers are sums over the same images in the same order."""
    expected = first_step(tmp_path / "one", f"quant={quant}", "data.batch_size=32")
    if once:
        derived = ImageModel._derived

        def kept(self: ImageModel) -> Tensor | None:
            if self.valid is None or not self.training:
                self.valid = derived(self)
            return self.valid

        monkeypatch.setattr(ImageModel, "_derived", kept)
    found = first_step(tmp_path / "four", f"quant={quant}", "data.batch_size=8", "optimizer.accumulate=4")
    assert len(found["images"]) == 32
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
