"""Lightning gets the loaders as they are and moves their epoch on."""

import warnings

import pytest
import torch

from intvit.data.config import DataError
from intvit.data.data_module import ShardDataModule
from intvit.data.loading import calibration_loader, train_loader
from tests.support.synthetic_shards import config, number_of, write_split

import pytorch_lightning as lightning  # isort: skip, after the module has seen to torchvision


class Recorder(lightning.LightningModule):
    """Writes down which samples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.training_numbers: list[list[int]] = []
        self.validation_numbers: list[int] = []
        self.dtypes: set = set()

    def training_step(self, batch, _):
        images, labels = batch
        self.dtypes |= {images.dtype, labels.dtype}
        self.training_numbers.append([number_of(image) for image in images])
        return self.weight * 0

    def validation_step(self, batch, _):
        self.validation_numbers += [number_of(image) for image in batch[0]]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_trains_on_the_epochs_in_turn(tmp_path, workers):
    write_split(tmp_path, "train", [9, 8])
    write_split(tmp_path, "val", [3, 2])
    data = config(tmp_path, workers=workers)
    model = Recorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*IterableDataset.*|.*sampler.*|.*workers.*")
        trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0).fit(model, datamodule=ShardDataModule(data))
    expected, loader = [], train_loader(data)
    for epoch in range(3):
        loader.set_epoch(epoch)
        expected += [[number_of(image) for image in images] for images, _ in loader]
    assert model.training_numbers == expected
    assert model.validation_numbers == [0, 1, 2, 3, 4] * 3
    assert model.dtypes == {torch.uint8, torch.int64}


def test_lightning_knows_the_number_of_steps(tmp_path):
    write_split(tmp_path, "train", [9, 8])
    write_split(tmp_path, "val", [3])
    run = trainer(tmp_path, max_epochs=5)
    run.fit(Recorder(), datamodule=ShardDataModule(config(tmp_path)))
    assert run.num_training_batches == 4
    assert run.estimated_stepping_batches == 20


def test_the_module_serves_every_loader_without_a_trainer(tmp_path):
    write_split(tmp_path, "train", [9, 8])
    write_split(tmp_path, "val", [3])
    module = ShardDataModule(config(tmp_path))
    loaders = [
        module.train_dataloader(),
        module.val_dataloader(),
        module.test_dataloader(),
        module.calibration_dataloader(9),
    ]
    assert [len(loader) for loader in loaders] == [4, 1, 1, 3]


def test_calibration_is_that_of_the_config(tmp_path):
    write_split(tmp_path, "train", [9, 8])
    data = config(tmp_path, calibration_photos="mixed")
    pairs = zip(ShardDataModule(data).calibration_dataloader(9), calibration_loader(data, 9), strict=True)
    assert all(torch.equal(left, right) for (left, _), (right, _) in pairs)


def test_preparing_finds_a_missing_root():
    with pytest.raises(DataError, match=r"^data.root is not set"):
        ShardDataModule(config(None)).prepare_data()


def test_preparing_writes_the_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    module = ShardDataModule(config(None, name="digits", image_size=8, num_classes=10))
    module.prepare_data()
    assert len(list(tmp_path.glob("digits-*/*.tar"))) == 6
