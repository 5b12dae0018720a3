"""The cuda runtime: a program, lowered to a plan, executed by Triton kernels on the tensor cores of a GPU.

With TRITON_INTERPRET=1 in the environment before Triton is imported, kernels are interpreted on the CPU: slow, and the
proof without a GPU that their integers are right.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from intvit.errors import IntVitError
from intvit.program.program import Program, ProgramError
from intvit.runtime import check_images, check_shape
from intvit.runtime.cuda.lowering import lower
from intvit.runtime.cuda.steps import Step
from intvit.runtime.plan import ExecutionPlan
from intvit.runtime.plan import Tensor as PlanTensor

LARGEST_BATCH = 256  # images of one call of the kernels; more are run in chunks
GRAPHS = 8  # batches, by size and stream, whose buffers and graph are kept
OFFSETS = 2**31 - 1  # kernels count entries of a buffer in int32


class CudaRuntime:
    """Runs a checked program on uint8 images.

    device: such as "cuda:1", by default the current GPU; "cpu" where Triton interprets kernels. The first call with a
    batch size captures a CUDA graph; the last 8 sizes (of a stream) are kept. Every stream has its buffers, so that
    calls on several streams and from several threads do not meet.
    Raises IntVitError where Triton is not installed, or there is no GPU.
    """

    def __init__(self, program: Program, device: str | None = None) -> None:
        self.program = program
        self.device = usable_device(device)
        self._plan = lower(program, fuse=True)
        self._constants = Constants(self._plan, self.device)
        self._kept: OrderedDict[tuple[int, int], Batch] = OrderedDict()
        self._lock = threading.Lock()
        self._chunk = largest_chunk(self._plan)

    @overload
    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...
    @overload
    def __call__(self, images: np.ndarray) -> np.ndarray: ...
    def __call__(self, images: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """uint8 [B, C, H, W] -> the program's output, int32. Raises ProgramError for other images.

        Of a tensor on the runtime's device the pixels are read where they are, and the output is a new tensor there,
        computed in the current stream; other tensors are moved. Of a numpy array the output is one, too.
        """
        if isinstance(images, np.ndarray):
            check_images(self.program, images)
            return self._scores(_on_host(images).to(self.device)).cpu().numpy()
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
            found = getattr(images, "dtype", type(images).__name__)
            raise ProgramError(f"images are of type {found}, expected uint8 (0..255, not normalized), torch or numpy")
        check_shape(self.program, images.shape)
        return self._scores(images.to(self.device).contiguous())

    def _scores(self, images: torch.Tensor) -> torch.Tensor:
        with self._current():
            chunks = [self._batch(len(chunk)).scores_of(chunk) for chunk in images.split(self._chunk)]
            scores = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
        return scores.view(len(images), *self.program.values[self.program.output].shape)

    def _current(self) -> AbstractContextManager[Any]:
        """Triton launches on the current GPU."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _batch(self, size: int) -> Batch:
        """The buffers and the graph of a batch size in the current stream; the one longest unused goes."""
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0
        with self._lock:
            batch = self._kept.pop((stream, size), None) or Batch(self._plan, self._constants, size)
            self._kept[stream, size] = batch
            while len(self._kept) > GRAPHS:
                self._kept.popitem(last=False)
        return batch

    def trace(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (operator name, its output as int64 [B, ...]) in program order, each operator run on its own."""
        check_images(self.program, images)
        plan = lower(self.program, fuse=False)
        constants = Constants(plan, self.device, every_value=True)
        traces: dict[str, list[np.ndarray]] = {operator.output: [] for operator in self.program.operators}
        for chunk in _on_host(images).split(largest_chunk(plan)):
            batch = Batch(plan, constants, len(chunk))
            with self._current():
                batch.run(chunk.to(self.device))
            for name, values in traces.items():
                values.append(batch.view(plan.values[name]).cpu().numpy().astype(np.int64))
        for name, values in traces.items():
            yield name, np.concatenate(values)

    @property
    def weight_memory(self) -> int:
        """Bytes of weights, tables and other constants on the device."""
        return self._constants.bytes

    def buffer_memory(self, batch: int) -> int:
        """Bytes of the buffers of a batch, without the caller's images and the scores that are returned."""
        return batch * image_bytes(self._plan)

    def __repr__(self) -> str:
        weights, buffers = (size / 2**20 for size in (self.weight_memory, self.buffer_memory(1)))
        kept = ", ".join(str(size) for _, size in self._kept) or "none"
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "Triton's interpreter"
        return (
            f"CudaRuntime({name}; weights {weights:.1f} MiB, buffers {buffers:.1f} MiB an image; "
            f"batch sizes kept: {kept})"
        )


class Constants:
    """What all batches share on the device: constants that steps read, or every value is, and those of every step."""

    def __init__(self, plan: ExecutionPlan[Step], device: torch.device, *, every_value: bool = False) -> None:
        self.device = device
        used = {tensor.buffer for step in plan.steps for tensor in step.tensors}
        used |= {tensor.buffer for tensor in plan.values.values()} if every_value else set()
        data = {index: plan.buffers[index].data for index in used}
        self.buffers = {index: on_device(array, device) for index, array in data.items() if array is not None}
        self.of_steps = [
            {role: on_device(array, device) for role, array in step.constants.items()} for step in plan.steps
        ]

    @property
    def bytes(self) -> int:
        tensors = [*self.buffers.values(), *(tensor for step in self.of_steps for tensor in step.values())]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass
class Memory:
    """The buffers of a batch: every buffer of the plan, times the number of images, in one tensor."""

    plan: ExecutionPlan[Step]
    constants: Constants
    size: int

    def __post_init__(self) -> None:
        total = self.size * image_bytes(self.plan)
        self.bytes = torch.zeros(total, dtype=torch.uint8, device=self.constants.device)

    def view(self, tensor: PlanTensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """[B, ...]; constants are equal for all images. images: what stands for the plan's input buffer."""
        shape, strides = tensor.entries.shape, tensor.entries.strides
        constant = self.constants.buffers.get(tensor.buffer)
        if constant is not None:
            return constant.as_strided((self.size, *shape), (0, *strides), tensor.offset)
        step = tensor.whole.size
        if images is not None and tensor.buffer == self.plan.input:
            return images.as_strided((self.size, *shape), (step, *strides), images.storage_offset() + tensor.offset)
        buffer, dtype = self.plan.buffers[tensor.buffer], torch_type(tensor.dtype)
        start = self.size * buffer.offset
        entries = self.bytes[start : start + self.size * buffer.size].view(dtype)
        return entries.as_strided((self.size, *shape), (step, *strides), entries.storage_offset() + tensor.offset)


class Batch:
    """A plan for a number of images: buffers, and on a GPU after the first call the graph of its steps.

    The one step that reads the images is not in the graph: it reads the caller's tensor, which is another each time.
    """

    def __init__(self, plan: ExecutionPlan[Step], constants: Constants, size: int) -> None:
        self.plan, self.constants = plan, constants
        self.memory = Memory(plan, constants, size)
        self.view = self.memory.view
        self._lock = threading.Lock()
        self._image = next(iter(plan.values))  # the program's input comes first
        readers = [any(t.buffer == plan.input for t in step.inputs.values()) for step in plan.steps]
        self._first = 1 if readers[0] and not any(readers[1:]) else 0
        self._launches = [self.launch(index) for index in range(self._first, len(plan.steps))]
        scores = plan.buffers[plan.output]
        start = size * scores.offset
        self.scores = self.memory.bytes[start : start + size * scores.size].view(torch.int32).view(size, -1)
        self._graph: Any = None

    def scores_of(self, images: torch.Tensor) -> torch.Tensor:
        """New int32 scores [B, classes]; by the graph from the second call on."""
        with self._lock:  # calls of one stream follow each other
            if self._graph is None:
                self.run(images)
                if images.is_cuda:
                    self._graph = self._captured()
            else:
                self._read(images)
                self._graph.replay()
            return self.scores.clone()

    def run(self, images: torch.Tensor) -> None:
        """Every step, one launch after the other."""
        self._read(images)
        for launch in self._launches:
            launch()

    def _read(self, images: torch.Tensor) -> None:
        if self._first:
            self.launch(0, images)()
        else:
            self.view(self.plan.values[self._image]).copy_(images)

    def _captured(self) -> Any:
        """The graph of the steps, which have run once, so that their kernels are compiled."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for launch in self._launches:
                launch()
        return graph

    def launch(self, index: int, images: torch.Tensor | None = None) -> Callable[[], Any]:
        """What executes a step of the plan; images: what it reads in place of the plan's input buffer."""
        from intvit.runtime.cuda.launch import BoundStep
        from intvit.runtime.cuda.launches import launch

        step = self.plan.steps[index]
        inputs = {name: self.view(tensor, images) for name, tensor in step.inputs.items()}
        return launch(BoundStep(step, inputs, self.view(step.output), self.constants.of_steps[index]))


def largest_chunk(plan: ExecutionPlan[Step]) -> int:
    """Images whose buffers the kernels can count through."""
    largest = max(buffer.size for buffer in plan.buffers if buffer.data is None)
    return max(1, min(LARGEST_BATCH, OFFSETS // largest))


def image_bytes(plan: ExecutionPlan[Step]) -> int:
    """Bytes of all buffers for one image."""
    ends = (buffer.offset + buffer.size for buffer in plan.buffers if buffer.data is None)
    return -(-max(ends) // 64) * 64


def torch_type(dtype: np.dtype) -> torch.dtype:
    kind: torch.dtype = getattr(torch, dtype.name)
    return kind


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def usable_device(name: str | None) -> torch.device:
    """The GPU `name`, or the current one; the CPU where Triton interprets. Raises IntVitError where there is none."""
    try:
        from triton import knobs
    except ImportError:
        raise IntVitError(
            "runtime=cuda needs Triton, which is not installed: pip install 'intvit[cuda]', or use runtime=native"
        ) from None
    if knobs.runtime.interpret:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise IntVitError("runtime=cuda needs an NVIDIA GPU and a torch that sees it: use runtime=native without one")
    try:
        device = torch.device(name) if name else torch.device("cuda", torch.cuda.current_device())
    except RuntimeError:
        device = torch.device("cpu")
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise IntVitError(f"device {name!r} of runtime=cuda: there are {', '.join(f'cuda:{i}' for i in range(count))}")
    return device


def _on_host(images: np.ndarray) -> torch.Tensor:
    """The images as a tensor; a copy of read-only ones, of which torch would warn."""
    return torch.from_numpy(np.require(images, requirements=["C", "W"]))
