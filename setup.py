"""Puts the Hydra presets of conf/ into the wheel as intvit/conf; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPresets(build_py):
    """Copies conf/ into the built package. An editable install reads conf/ from the checkout instead."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib) / "intvit" / "conf", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithPresets})
