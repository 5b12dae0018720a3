"""A user's mistake ends train.py with one line that names the thing and the way out, and nothing is written."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from intvit.errors import one_line
from intvit.models import create_model
from intvit.quant.presets import compose_quant
from intvit.training.entry import train
from tests.support.tiny_runs import tiny

PHOTOS = ["data=imagenet", "data.image_size=32", "data.patch_size=16", "data.workers=0", "data.batch_size=1"]


def refused(folder: Path, *overrides: str) -> str:
    """The line with which training is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        train(tiny(*overrides), folder / "run")
    assert not (folder / "run").exists()
    line = one_line(caught.value)
    assert line is not None
    return line


def shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_missing_or_empty_data_root(tmp_path: Path) -> None:
    assert "data.root is not set: say data.root=DIR" in refused(tmp_path, *PHOTOS)
    assert str(tmp_path / "absent") in refused(tmp_path, *PHOTOS, f"data.root={tmp_path / 'absent'}")
    (tmp_path / "empty").mkdir()
    line = refused(tmp_path, *PHOTOS, f"data.root={tmp_path / 'empty'}")
    assert str(tmp_path / "empty") in line
    assert "val-" in line


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_shard_without_labels(split: str, tmp_path: Path) -> None:
    for name in ("train", "val"):
        files = {"a.jpg": jpeg()} if name == split else {"a.jpg": jpeg(), "a.cls": b"1"}
        shard(tmp_path / "data" / f"{name}-000000.tar", files)
    line = refused(tmp_path, *PHOTOS, f"data.root={tmp_path / 'data'}")
    assert f"{split}-000000.tar" in line
    assert "cls" in line


def test_an_image_size_that_the_patch_does_not_divide(tmp_path: Path) -> None:
    assert "image_size=8" in refused(tmp_path, "model.patch_size=3")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = create_model(
        "deit_s",
        image_size=8,
        patch_size=2,
        num_classes=10,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        quant=compose_quant("lut8"),
        width=16,
        depth=1,
        heads=2,
    )
    state = dict(model.named_parameters())
    torch.save({key: value for key, value in state.items() if key != "head.bias"}, tmp_path / "missing.pth")
    torch.save({**state, "head_dist.bias": torch.zeros(10)}, tmp_path / "unexpected.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    assert "missing keys: head.bias" in refused(tmp_path, f"model.weights={tmp_path / 'missing.pth'}")
    assert "unexpected keys: head_dist.bias" in refused(tmp_path, f"model.weights={tmp_path / 'unexpected.pth'}")
    assert "not a readable weights file" in refused(tmp_path, f"model.weights={tmp_path / 'damaged.safetensors'}")
    assert "no such file" in refused(tmp_path, f"model.weights={tmp_path / 'absent.pth'}")
    assert "give one of them" in refused(tmp_path, "model.weights=a.pth", "model.pretrained=true")


def test_an_optimizer_that_is_not_there(tmp_path: Path) -> None:
    assert "optimizer.target=torch.optim.AdamX" in refused(tmp_path, "optimizer.target=torch.optim.AdamX")
    assert "momentum" in refused(tmp_path, "+optimizer.options.momentum=0.9")
    assert "Invalid beta" in refused(tmp_path, "optimizer.options.betas=[2.0,0.9]")


def test_fewer_training_images_than_a_batch(tmp_path: Path) -> None:
    assert "lower data.batch_size=5000" in refused(tmp_path, "data.batch_size=5000")


def test_a_resume_from_nothing(tmp_path: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path, f"ckpt={tmp_path / 'absent.ckpt'}")
    assert "give one of them" in refused(tmp_path, "ckpt=last", "fresh=true")
