"""Every format of docs/weights.md loads all parameters bit by bit, and says what it left out or decided."""

import argparse
import json
import logging
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import intvit
from intvit.errors import IntVitError
from intvit.models import load_weights
from tests.support.foreign_weights import (
    as_microsoft,
    as_transformers,
    parameters,
    small,
    with_ivit_ranges,
)

PAGE = Path(__file__).parents[3] / "docs" / "weights.md"
State = dict[str, torch.Tensor]


class Settings(dict):
    """Stands for what training code pickles beside weights, such as yacs' CfgNode or Lightning's AttributeDict."""


def torch_file(make: Callable[[State], Any], **options: Any) -> Callable[[State, Path], Path]:
    def write(state: State, folder: Path) -> Path:
        torch.save(make(state), folder / "weights.pth", **options)
        return folder / "weights.pth"

    return write


def safetensors(make: Callable[[State], State] = dict) -> Callable[[State, Path], Path]:
    def write(state: State, folder: Path) -> Path:
        save_file({key: value.contiguous() for key, value in make(state).items()}, folder / "weights.safetensors")
        return folder / "weights.safetensors"

    return write


def transformers_folder(base: str) -> Callable[[State, Path], Path]:
    def write(state: State, folder: Path) -> Path:
        safetensors(lambda s: as_transformers(s, base))(state, folder).rename(folder / "model.safetensors")
        return folder

    return write


def changed(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


def block_by_block(state: State) -> State:
    return {key.replace("blocks.0.", "blocks.0._orig_mod._checkpoint_wrapped_module."): state[key] for key in state}


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def half(kind: torch.dtype) -> Callable[[State], State]:
    return lambda state: {key: value.to(kind) for key, value in state.items()}


ARGUMENTS = argparse.Namespace(lr=1e-3, model="deit_tiny_patch16_224", output=Path("out"), best=np.float64(3.0))
# Row of the table in docs/weights.md -> model, how to write the file, options of load_weights, words of the notes.
FORMATS: dict[str, tuple[str, Callable[[State, Path], Path], dict[str, Any], list[str]]] = {
    "timm, `.safetensors`": ("deit_t", safetensors(), {}, []),
    "timm, `.pth`": ("swin_t", torch_file(OrderedDict), {}, []),
    "a `.pth` older than PyTorch 1.6": ("deit_t", torch_file(dict, _use_new_zipfile_serialization=False), {}, []),
    "a `.pth` of another pickle protocol": ("deit_t", torch_file(dict, pickle_protocol=4), {}, []),
    "Facebook's DeiT releases": ("deit_t_distilled", torch_file(lambda s: {"model": s}), {}, []),
    "DeiT's training checkpoints": (
        "deit_t",
        torch_file(lambda s: {"model": changed(s), "model_ema": s, "optimizer": {"state": {}}, "args": ARGUMENTS}),
        {},
        ["took the averaged weights, model_ema; model.weights_key=model takes the plain ones"],
    ),
    "timm's training checkpoints": (
        "deit_t",
        torch_file(lambda s: {"epoch": 3, "args": ARGUMENTS, "state_dict": changed(s), "state_dict_ema": s}),
        {},
        ["took the averaged weights, state_dict_ema"],
    ),
    "the same, plain weights": (
        "deit_t",
        torch_file(lambda s: {"args": ARGUMENTS, "state_dict": s, "state_dict_ema": changed(s)}),
        {"key": "state_dict"},
        [],
    ),
    "the same, averaged weights or none": (
        "deit_t",
        torch_file(lambda s: {"args": ARGUMENTS, "state_dict": changed(s), "state_dict_ema": under("module.")(s)}),
        {"key": "ema"},
        [],
    ),
    "any other entry": ("deit_t", torch_file(lambda s: {"net": s, "loss": 0.5}), {"key": "net"}, []),
    "wrapped by DDP, `torch.compile`, a trainer": ("deit_t", torch_file(under("_orig_mod.module.backbone.")), {}, []),
    "blocks compiled or checkpointed one by one": ("deit_t", torch_file(block_by_block), {}, []),
    "PyTorch's `AveragedModel`": (
        "deit_t",
        torch_file(lambda s: {"n_averaged": torch.tensor(9), **under("module.")(s)}),
        {},
        ["carry no information: n_averaged (1)"],
    ),
    "Lightning checkpoints of others": (
        "deit_t",
        torch_file(
            lambda s: {
                "state_dict": {**under("net.")(s), "loss.weight": torch.ones(5)},
                "hyper_parameters": Settings(lr=1),
                "pytorch-lightning_version": "2.6.4",
            }
        ),
        {"prefix": "net"},
        ["left out 1 keys that do not begin with net."],
    ),
    "Microsoft's Swin releases": (
        "swin_t",
        torch_file(lambda s: {"model": as_microsoft(s), "config": Settings(AMP=True)}),
        {},
        ["carry no information: relative_position_index (3), attn_mask (3)"],
    ),
    "transformers, ViT": ("deit_t", transformers_folder("vit"), {}, []),
    "transformers, DeiT": ("deit_t_distilled", transformers_folder("deit"), {}, []),
    "transformers, Swin": ("swin_t", transformers_folder("swin"), {}, []),
    "I-ViT's published code": (
        "deit_t",
        torch_file(with_ivit_ranges),
        {},
        ["left out the ranges of I-ViT's code; calibration finds them anew: act_scaling_factor (3)"],
    ),
    "float16": ("deit_t", safetensors(half(torch.float16)), {}, ["float16 became float32"]),
    "bfloat16": ("deit_t", torch_file(half(torch.bfloat16)), {}, ["bfloat16 became float32"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_all_parameters_arrive_and_what_was_decided_is_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    architecture, write, options, words = FORMATS[name]
    state = parameters(small(architecture))
    path = write(state, tmp_path)
    model = small(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    load_weights(model, path, **options)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(name, torch.float32)
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, state[key].to(kind).float()), key
    notes = model.provenance["weights"]["notes"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{path if path.is_file() else path / 'model.safetensors'}: {note}" for note in notes
    ]
    assert len(notes) == len(words)
    for note, expected in zip(notes, words, strict=True):
        assert expected in note


def test_the_page_lists_these_formats() -> None:
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    assert [row for row in rows if row in FORMATS] == list(FORMATS)


class Malicious:
    """Would make a folder where it is unpickled as pickles ask for it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_that_a_file_holds_is_run(zipped: bool, tmp_path: Path) -> None:
    state = parameters(small())
    content = {"model": state, "args": [{Malicious(tmp_path / "made"): 1}]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model = small()
    load_weights(model, tmp_path / "w.pth")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # it would have
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.nn.Linear(2, 2), "a whole object of torch.nn.modules.linear.Linear, whose code is not run; save its"),
        ([torch.ones(1)], "holds an object of type list, expected a mapping of tensors"),
        ({"net": {"a.b": torch.ones(1)}}, "it has weights under net: say model.weights_key=net"),
        ({"epoch": 3}, "no entry of the file holds tensors"),
        (
            {"args": argparse.Namespace(), "model": torch.nn.Linear(2, 2)},
            "model is a whole object of torch.nn.modules.linear.Linear, whose code is not run; save its state_dict()",
        ),
        ({"cls_token": np.ones(1)}, "cls_token is a whole object of numpy."),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(IntVitError, match=re.escape(message)):
        load_weights(small(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "ema",
            "no averaged weights (state_dict_ema or model_ema) for model.weights_key=ema; it has weights under",
        ),
        ("net", "no weights under model.weights_key=net; it has weights under model: say model.weights_key=model"),
    ],
)
def test_an_entry_that_is_not_there_is_refused_with_those_that_are(key: str, message: str, tmp_path: Path) -> None:
    torch.save({"model": parameters(small())}, tmp_path / "w.pth")
    with pytest.raises(IntVitError, match=re.escape(message)):
        load_weights(small(), tmp_path / "w.pth", key=key)


def test_a_state_dict_has_no_entries(tmp_path: Path) -> None:
    torch.save(parameters(small()), tmp_path / "w.pth")
    for key in ("state_dict", "ema"):
        with pytest.raises(IntVitError, match=r"the file is a state dict itself: leave model\.weights_key out"):
            load_weights(small(), tmp_path / "w.pth", key=key)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_the_state_dict_of_a_calibrated_model_gives_its_float_weights(wrapper: str, tmp_path: Path) -> None:
    source, path = small(), tmp_path / "w.pth"
    intvit.calibrate(source, np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    torch.save(under(wrapper)(source.state_dict()), path)
    for given in (path, torch.load(path)):
        model = small()
        load_weights(model, given)
        assert all(torch.equal(value, parameters(source)[key]) for key, value in parameters(model).items())


def test_what_a_file_holds_decides_how_it_is_read_not_its_name(tmp_path: Path) -> None:
    state = parameters(small())
    safetensors()(state, tmp_path).rename(tmp_path / "a.pth")
    torch_file(dict)(state, tmp_path).rename(tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        model = small("deit_t", width=16)
        load_weights(model, tmp_path / name)
        assert all(torch.equal(value, state[key]) for key, value in parameters(model).items())


def test_what_lies_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    cases = {
        b"": "empty",
        b"version https://git-lfs.github.com/spec/v1": "a pointer of Git LFS",
        b"<!DOC": "a web page",
    }
    for name in ("w.pth", "w.safetensors"):
        for content, kind in cases.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(IntVitError, match=f"{name}: {kind}, no weights; fetch the file again"):
                load_weights(small(), tmp_path / name)
    with pytest.raises(IntVitError, match="of a URL, download the file and give its path"):
        load_weights(small(), "https://host/w.pth")


def test_files_of_other_kinds_are_one_line(tmp_path: Path) -> None:
    cases: dict[str, str] = {"w.npz": "weights of JAX", "w.pth": "not a readable weights file (", "w.bin": "readable"}
    for name, message in cases.items():
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(IntVitError, match=re.escape(message)) as caught:
            load_weights(small(), tmp_path / name)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(IntVitError, match=r"a TorchScript archive; save the state_dict\(\)"):
        load_weights(small(), tmp_path / "script.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IntVitError, match=r"neither the folder of a run \(config.yaml\) nor one with model"):
        load_weights(small(), tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(IntVitError, match=r"model\.safetensors is in parts"):
        load_weights(small(), tmp_path / "folder")


def test_the_library_takes_the_same_options(tmp_path: Path) -> None:
    torch.save({"net": under("encoder.")(parameters(small("deit_t", num_classes=3)))}, tmp_path / "w.pth")
    size = {"image_size": 48, "num_classes": 5, "depth": 1, "width": 16, "heads": 2}
    options = {"weights_key": "net", "weights_prefix": "encoder", "head": "fresh", "resample": True}
    model = intvit.create_model("deit_t", weights=str(tmp_path / "w.pth"), **options, **size)
    assert model(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("described", "classes"),
    [
        ({"id2label": {"10": "k", **{str(n): "abcdefghij"[n] for n in range(10)}}}, list("abcdefghijk")),
        ({"label_names": ["b", "a"]}, ["b", "a"]),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, []),
        ({"id2label": {str(n): f"word {n}" for n in range(1000)}}, []),
        ({}, []),
    ],
)
def test_names_of_classes_are_those_of_the_description_beside_the_file(
    described: dict[str, Any], classes: list[str], tmp_path: Path
) -> None:
    FORMATS["transformers, ViT"][1](parameters(small()), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(described))
    model = small()
    load_weights(model, tmp_path)
    assert model.trained_classes == classes
    load_weights(model, tmp_path, head="fresh")
    assert model.trained_classes == []
