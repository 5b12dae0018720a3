"""What pyproject.toml can't say: conf/ goes into the wheel, README's links to GitHub, the native runtime is compiled.

The native runtime is one shared library for each instruction set, src/intvit/runtime/native/NAME.abi3.so;
runtime=native chooses among them. Without a C++ compiler the installation goes on without it. The libraries know
nothing of Python, which calls them through ctypes: one wheel for a platform serves every Python from 3.11 on.
"""

import platform
import re
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

AVX512 = [*(f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni", "vbmi")), "-mprefer-vector-width=512"]
X86_PATHS = {
    "avx2": ["-mavx2"],
    "avxvnni": ["-mavx2", "-mavxvnni"],
    "avx512": AVX512,
    "amx": [*AVX512, "-mamx-tile", "-mamx-int8"],
}
ARM_PATHS = {"neon": ["-march=armv8.2-a+dotprod"], "neon-i8mm": ["-march=armv8.2-a+dotprod+i8mm"]}
# -fwrapv: overflow of a signed integer wraps; a program that breaks its proven bounds is wrong, never undefined.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fwrapv", "-fvisibility=hidden", "-pthread"]
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # of gcc's own intrinsics
# A library takes what it has of the C++ library from itself, never from that of a path which this machine may not run.
LINK_FLAGS = ["-pthread", *(["-Wl,-Bsymbolic"] if platform.system() == "Linux" else [])]


class BuildWithPresets(build_py):
    """Copies conf/ into the built package. An editable install reads conf/ from the checkout instead."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib) / "intvit" / "conf", dirs_exist_ok=True)


def description() -> str:
    """README.md for PyPI, where links and pictures of the repository need whole addresses."""
    place = "https://github.com/intvit/intvit/blob/main/"
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https?:|#)", f"]({place}", text)
    return re.sub(r"(!\[[^\]]*\]\([^)]*)\)", r"\1?raw=true)", text)


def native_library(path: str, flags: list[str]) -> Extension:
    return Extension(
        f"intvit.runtime.native.{path}",
        ["src/intvit/runtime/native/library.cpp"],
        depends=[str(file) for file in sorted(Path("src/intvit/runtime/native").glob("*.[ch]*"))],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=LINK_FLAGS,
        language="c++",
        optional=True,
        py_limited_api=True,  # the file's suffix, .abi3.so
    )


machine = platform.machine().lower()
paths = {"scalar": []}
if machine in ("x86_64", "amd64"):
    paths |= X86_PATHS
elif machine in ("aarch64", "arm64"):
    paths |= ARM_PATHS
setup(
    cmdclass={"build_py": BuildWithPresets},
    ext_modules=[native_library(path, flags) for path, flags in paths.items()],
    long_description=description(),
    long_description_content_type="text/markdown",
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
