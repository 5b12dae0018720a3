"""A derivation as one CUDA graph: some hundred small operations of a step become one launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class DerivationGraph:
    """Replays a derivation as long as the tensors that it reads stay where they are.

    Its results are overwritten by every replay. So it serves a trainer, whose backward pass is over by then.
    """

    def __init__(self) -> None:
        self._places: tuple[int, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None
        self._refused = False

    def run(self, derive: Callable[[], Tensor | None], tensors: Iterable[Tensor]) -> Tensor | None:
        """The result of `derive`, which reads `tensors`: computed at first, which fills caches, captured then."""
        places = tuple(tensor.data_ptr() for tensor in tensors)
        if places != self._places or self._refused:
            self._places, self._graph = places, None
            return derive()
        if self._graph is None:
            try:
                self._capture(derive)
            except RuntimeError as error:
                self._refused = True
                warnings.warn(f"derivations run one by one, their graph was refused: {error}", stacklevel=2)
                return derive()
        assert self._graph is not None
        self._graph.replay()
        return self._result

    def _capture(self, derive: Callable[[], Tensor | None]) -> None:
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that load data may use CUDA meanwhile. What is captured in a validation serves training.
        with torch.inference_mode(False), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._result = derive()
        self._graph = graph

    def __reduce__(self) -> tuple[Any, ...]:
        return DerivationGraph, ()  # a copy of a model captures its own
