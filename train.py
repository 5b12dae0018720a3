"""Trains a vision transformer to integers, as the presets of conf/ say.

    python train.py model=deit_s quant=ivit8                      embedded digits, minutes on two CPU cores
    python train.py model=deit_t quant=lut8 data=imagenet data.root=DIR schedule=ivit model.pretrained=true
    python train.py ... quant/gelu=ibert quant/bits=true8          single parts of a preset
    python train.py ... schedule=calibrate                         ranges only, no training
    python train.py ... ckpt=last                                  goes on where it stopped
    torchrun --nproc-per-node=4 train.py trainer=ddp ...           one process per GPU

The run folder is outputs/NAME-HASH; `python evaluate.py ckpt=FOLDER` exports and checks what it holds.
"""

import sys

from intvit import signals

signals.keep()  # before what takes seconds to import

from intvit.errors import report_errors  # noqa: E402

with report_errors():  # which names the extra of a package that is not installed
    from omegaconf import DictConfig

    from intvit.config.application import run_application, run_directory


def main(config: DictConfig) -> None:
    """One run."""
    from intvit.training.entry import train

    train(config, run_directory())


if __name__ == "__main__":
    sys.exit(run_application(main, "train"))
