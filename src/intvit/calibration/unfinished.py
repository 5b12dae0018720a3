"""The file of a calibration that has not ended: after a kill, the next process goes on behind the last stage."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.files import replacing
from intvit.models.base import ImageModel
from intvit.quant.observer import broadcast, world_size


class Unfinished:
    """What `path` keeps of a calibration of `model` with these images; nothing with path None.

    images: uint8 (B, C, H, W), of all ranks. stages: how many of the model's stages are rounded in the model, None
    before the ranges. Several ranks share the file, which the first one writes.
    """

    def __init__(self, path: Path | None, model: ImageModel, images: Sequence[Tensor]) -> None:
        self.path = path
        self.stages: int | None = None
        if path is None:
            return
        digest = hashlib.sha256(repr(model.quant).encode())
        for tensor in (*model.parameters(), *images):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self._digest = digest.hexdigest()
        state = self._read(path)
        found = torch.tensor(-1 if state is None else state["stages"])
        broadcast(found)
        if found >= 0 and state is not None:
            self.stages = int(found)
            model.load_state_dict(state["model"])

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return state if isinstance(state, dict) and state.get("digest") == self._digest else None

    def save(self, model: nn.Module, stages: int) -> None:
        """So many stages are rounded."""
        if self.path is None or not _is_first():
            return
        with replacing(self.path) as temporary:
            torch.save({"digest": self._digest, "stages": stages, "model": model.state_dict()}, temporary)

    def remove(self) -> None:
        """The calibration has ended."""
        if self.path is not None and _is_first():
            self.path.unlink(missing_ok=True)


def _is_first() -> bool:
    return world_size() == 1 or torch.distributed.get_rank() == 0
