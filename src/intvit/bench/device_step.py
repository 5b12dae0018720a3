"""One step of quantization-aware training as a device sees it: operators, bytes of their operands, reads by the host.

On device `meta` no tensor has a value. So whatever reads one on the host stops the step with an error, on every
machine, and the operators that a GPU would be sent can be counted without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from intvit.models import create_model
from intvit.models.base import ImageModel
from intvit.models.build import IMAGENET_MEAN, IMAGENET_STD
from intvit.quant import set_mode
from intvit.quant.control import move_ranges
from intvit.quant.presets import compose_quant


@dataclass(frozen=True)
class DeviceStep:
    """model, quant: names of presets, `fp32` for a float step. teacher: a float model whose scores are learned."""

    model: str
    quant: str
    batch: int
    image_size: int | tuple[int, int] = 224
    teacher: bool = False
    sizes: dict[str, Any] = field(default_factory=dict)  # fields of the size, of another one of the family

    def build(self, quant: str) -> ImageModel:
        """A model on `meta`, in training and its mode."""
        config = compose_quant(quant)
        model = create_model(
            self.model,
            image_size=self.image_size,
            patch_size=None,
            num_classes=1000,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            quant=config,
            **self.sizes,
        )
        assert isinstance(model, ImageModel)
        set_mode(model, "integer" if config.enabled else "float")
        model.managed = True
        return model.train().to("meta")


@dataclass
class Audit:
    """What one step sends to its device, but views; derivation: the operators that a CUDA graph replays as one launch.

    gigabytes: of the operands and results, each once an operator. copies: operators that copy from the host, which
    waits. kinds: operators by name.
    """

    operators: int
    derivation: int
    gigabytes: float
    copies: list[str]
    kinds: Counter[str]


def audit(step: DeviceStep) -> Audit:
    """Run one step: forward, loss, backward, clipped AdamW, an average of the weights, ranges that follow.

    Raises what torch raises for a tensor that the host reads, with the line that reads it.
    """
    model = step.build(step.quant)
    teacher = step.build("fp32").eval() if step.teacher else None
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    averages = [parameter.detach().clone() for parameter in model.parameters()]
    shape = (step.batch, model.channels, *model.image_size)
    images = torch.empty(shape, dtype=torch.uint8, device="meta")
    labels = torch.empty(step.batch, dtype=torch.int64, device="meta")
    for seen in (_Operators(), _Operators()):  # the first one makes the optimizer's state
        with seen, _derivation_apart(model, seen):
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    aim = teacher(images)
                loss = loss + nn.functional.mse_loss(logits, aim)
            torch.autograd.backward(loss)
            move_ranges(model)
            _clip([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch._foreach_lerp_(averages, list(model.parameters()), 0.1)
    return Audit(seen.kinds.total(), seen.apart, seen.bytes / 1e9, seen.copies, seen.kinds)


def _clip(gradients: list[Tensor]) -> None:
    """`clip_grad_norm_` as it is on CUDA; torch goes tensor by tensor on `meta`."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)))
    torch._foreach_mul_(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))


class _Operators(TorchDispatchMode):
    """Counts what is sent to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Counter[str] = Counter()
        self.apart, self.bytes, self.copies = 0, 0, list[str]()
        self.counts_apart = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(tree) if isinstance(t, Tensor)] for tree in ((args, kwargs), out))
        if not any(tensor.is_meta for tensor in (*given, *made)):
            return out
        if any(not tensor.is_meta and tensor.dim() for tensor in given) or (
            func is torch.ops.aten._to_copy.default and not given[0].is_meta
        ):
            self.copies.append(str(func))
        if func.is_view or func in _WITHOUT_WORK:
            return out
        self.bytes += sum(_stored(tensor) for tensor in (*given, *made))
        if self.counts_apart:
            self.apart += 1
        else:
            self.kinds[str(func).removesuffix(".default")] += 1
        return out


_aten = torch.ops.aten
_WITHOUT_WORK = {
    _aten.empty.memory_format,
    _aten.empty_strided.default,
    _aten.empty_like.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
    _aten._unsafe_view.default,
    _aten._reshape_alias.default,
    _aten.detach.default,
    _aten.lift_fresh.default,
}


def _stored(tensor: Tensor) -> int:
    """Bytes that are read or written: of an expanded tensor what it stores."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


@contextmanager
def _derivation_apart(model: ImageModel, seen: _Operators) -> Iterator[None]:
    derive = model.derive

    def counted(builder: Any) -> Any:
        seen.counts_apart = True
        try:
            return derive(builder)
        finally:
            seen.counts_apart = False

    model.derive = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.derive
