"""Part `ranks`: a step of two ranks has the integers and the ranges of one rank's step with both batches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from intvit.bench.gpu.report import NotHere, Place, Report, differing
from intvit.bench.gpu.subjects import calibrated, loss_of, pixels
from intvit.quant.control import move_ranges

QUANT, MODEL, BATCH = ("ivit8", "lut8"), "deit_t", 4
CLOSE = 1e-12  # of means over images: float64 sums of another order with two ranks


def ranks(report: Report) -> None:
    """Over NCCL on two GPUs, over Gloo on a CPU."""
    if report.place.gpu:
        report.place.needs_kernels()
        if torch.cuda.device_count() < 2:
            raise NotHere("needs two GPUs")
    for quant in QUANT if report.place.gpu else QUANT[:1]:
        with tempfile.TemporaryDirectory() as folder:
            spawn(_rank, (report.place.gpu, quant, folder), nprocs=2)
            both = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
        one = _step(report.place.device, report.place, quant, 0, 2 * BATCH)
        logits = torch.cat([found.pop("logits") for found in both])
        report.equality(f"{quant}, logits", differing({"logits": logits}, {"logits": one.pop("logits")}))
        report.equality(f"{quant}, ranges of both ranks", differing(*both))
        found = {name: value.double() for name, value in both[0].items()}
        far = [name for name in one if not torch.allclose(found[name], one[name].double(), rtol=CLOSE, atol=0.0)]
        report.equality(f"{quant}, ranges of one rank", far)


def _rank(rank: int, gpu: bool, quant: str, folder: str) -> None:
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    try:
        found = _step(device, Place(device), quant, rank * BATCH, BATCH)
        torch.save(found, Path(folder) / f"{rank}.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def _step(device: torch.device, place: Place, quant: str, first: int, count: int) -> dict[str, Tensor]:
    """Logits of images first.. of all, and the ranges after the step."""
    model = calibrated(MODEL, quant, place)
    model.managed = True
    images = pixels(model, 2 * BATCH, 1)[first : first + count].to(device)
    labels = (torch.arange(2 * BATCH) % model.num_classes)[first : first + count].to(device)
    model.train().to(device)
    logits: list[Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: logits.append(output.detach()))
    distributed = torch.distributed.is_initialized()
    trained: nn.Module = DistributedDataParallel(model) if distributed else model
    torch.autograd.backward(loss_of(trained, images, labels))
    move_ranges(model)
    return {"logits": torch.cat(logits).cpu(), **{name: value.cpu() for name, value in model.named_buffers()}}
