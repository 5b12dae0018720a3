"""Where the Hydra presets are, how they are composed outside an application, and the resolvers that they use."""

from __future__ import annotations

import contextlib
import functools
import threading
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from intvit.config.environment import started_ranks
from intvit.config.identity import identity_hash, overrides_at_home, plain
from intvit.config.timm_photos import timm_photo_value
from intvit.errors import IntVitError, one_line
from intvit.photo_folders import tree_classes

_ONE_HYDRA = threading.RLock()


def config_directory() -> Path:
    """The folder of the Hydra presets: conf/ of the checkout in an editable install, intvit/conf in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise IntVitError(f"no presets beside {package}: the installation is incomplete, install intvit again")


def presets(group: str = "quant") -> list[str]:
    """Names of the presets of a group, sorted; the groups are the folders of conf/, such as `model` or `quant/gelu`.

    Raises IntVitError for a group that there is not.

    >>> "ivit8" in presets(), presets("quant/layernorm")
    (True, ['exact', 'float', 'ibert', 'ivit', 'ivit_paper'])
    """
    folder = config_directory() / group
    names = sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base")  # what the others share
    if not group or not names:
        groups = sorted(
            {str(path.parent.relative_to(config_directory())) for path in config_directory().glob("*/**/*.yaml")}
        )
        raise IntVitError(f"no presets of {group}; there are {', '.join(groups)}")
    return names


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """The overrides with `~` in paths read. Raises IntVitError for GROUP=null, where Hydra names no group."""
    for override in overrides:
        key, equals, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if equals and not group:
            raise IntVitError(f"{override}: nothing stands before =; say KEY=VALUE")
        if value.lower() in ("null", "none", "true", "false") and (config_directory() / group).is_dir():
            names = ", ".join(presets(group))
            raise IntVitError(f"{override}: expected one of {names}; without {group}= it is the usual one")
    return overrides_at_home(overrides)


def compose_run(overrides: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The plain config and the run folder of `python train.py` with these overrides. Raises IntVitError."""
    register_resolvers()
    with _composing():
        config = compose("train", overrides=for_hydra(overrides), return_hydra_config=True)
        return plain(config), Path(config.hydra.run.dir)


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Hydra at work on our presets; its errors, of several lines and types, become IntVitError.

    Hydra is one for a process: that of an application around us is put aside meanwhile, and other threads wait.
    """
    with _ONE_HYDRA:
        outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            with initialize_config_dir(str(config_directory()), version_base="1.3"):
                yield
        except (HydraException, OmegaConfBaseException) as error:
            raise IntVitError(one_line(error)) from error
        finally:
            GlobalHydra.instance().hydra = outer


def _run_folder(*, _root_: DictConfig) -> str:
    """NAME-HASH of the config around the interpolation; NAME is `name` or the chosen presets."""
    config = plain(_root_)
    name = config.get("name")
    if not name:
        chosen = OmegaConf.select(_root_, "hydra.runtime.choices") or {}
        name = "-".join(str(chosen[group]) for group in ("model", "quant", "data", "schedule") if chosen.get(group))
    return f"{name}-{identity_hash(config)}"


def _ranks(what: str) -> int:
    """`per_node` or `nodes` of the launcher that started this process."""
    return int(getattr(started_ranks(), what))


def _count_classes(root: str | None, split: float | None) -> int:
    """Class folders of the tree of photos `root`; with `split` they lie in it, else in its train/ and val/."""
    if root is None:
        return 1  # for a config that is looked at; who opens its data is told that the root is missing
    return len(tree_classes(Path(root).expanduser(), splits=split is None))


def register_resolvers() -> None:
    """Makes four resolvers known to OmegaConf.

    `${run_folder:}` (conf/train.yaml), `${ranks:per_node}` (conf/trainer/ddp.yaml), `${timm:NAME,KEY}`
    (conf/model/timm.yaml), `${count_classes:ROOT,SPLIT}` (conf/data).
    """
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("ranks", _ranks, replace=True)
    OmegaConf.register_new_resolver("timm", timm_photo_value, replace=True)
    OmegaConf.register_new_resolver("count_classes", _count_classes, replace=True)


def compose_group(overrides: list[str], group: str) -> dict[str, Any]:
    """The group of presets that `overrides` choose, as train.py composes it, in plain values. Raises IntVitError."""
    register_resolvers()
    with _composing():
        config = compose(overrides=for_hydra(overrides))
        return typing.cast("dict[str, Any]", OmegaConf.to_container(config[group], resolve=True))


@functools.cache
def preset_values(group: str, name: str) -> Mapping[str, Any]:
    """The own values of one preset file, such as `quant/gelu`, `ppoly`: no defaults list, no interpolation."""
    values = OmegaConf.to_container(OmegaConf.load(config_directory() / group / f"{name}.yaml"))
    return typing.cast("Mapping[str, Any]", values)
