"""Training configs that finish in seconds: one block of 16 channels on the embedded digits."""

from typing import Any

from hydra import compose, initialize_config_dir

from intvit.configuration import config_directory, plain, register_resolvers

TINY = [
    "+model.width=16",
    "+model.depth=1",
    "+model.heads=2",
    "data.batch_size=256",
    "schedule.float.epochs=1",
    "schedule.qat.epochs=2",
    "schedule.frozen.epochs=1",
    "schedule.calibrate.images=64",
    "trainer.log_every_steps=1",
    "callbacks.progress=none",
]


def composed(*overrides: str, config_name: str = "train") -> dict[str, Any]:
    """The plain config that the command line with these overrides composes."""
    register_resolvers()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return plain(compose(config_name, overrides=list(overrides)))


def tiny(*overrides: str) -> dict[str, Any]:
    """The plain config of a tiny run; five steps an epoch, four epochs."""
    return composed(*TINY, *overrides)
