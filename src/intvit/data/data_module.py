"""Lightning's view of the loaders."""

from __future__ import annotations

from intvit.torchvision_fix import ensure_torchvision

ensure_torchvision()

from pytorch_lightning import LightningDataModule  # noqa: E402

from intvit.data.config import DataConfig  # noqa: E402
from intvit.data.loading import ShardLoader, calibration_loader, train_loader, validation_loader  # noqa: E402
from intvit.data.shards import open_split  # noqa: E402


class ShardDataModule(LightningDataModule):
    """Training, validation (also for `test`) and calibration batches of the trainer's rank; without one, all of them.

    The loaders split the data among ranks themselves and take no sampler from Lightning.
    """

    def __init__(self, config: DataConfig) -> None:
        super().__init__()
        self.config = config

    def prepare_data(self) -> None:
        """Write the embedded digits once, before the other ranks look for them; DataError for a root without shards."""
        open_split(self.config, "val")

    def train_dataloader(self) -> ShardLoader:
        overfits = self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        return train_loader(self.config, same_order=overfits, **self._ranks())

    def val_dataloader(self) -> ShardLoader:
        return validation_loader(self.config, **self._ranks())

    def test_dataloader(self) -> ShardLoader:
        return self.val_dataloader()

    def calibration_dataloader(self, images: int) -> ShardLoader:
        """This rank's share of so many training images under the evaluation transform; not a Lightning hook."""
        return calibration_loader(self.config, images, **self._ranks())

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
