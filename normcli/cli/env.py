"""normcli env: versions, extras, folders, and the settings in force with their origin."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from normcli.cli.build import command, find_config, printable
from normcli.cli.messages import document, write_lines
from normcli.options.printing import JsonOptions, TerminalOptions

_CORE = ("typer", "rich", "tqdm", "pillow", "numpy", "numba", "llvmlite", "simplejpeg")
EXTRAS = {
    "tiff": ("tifffile", "imagecodecs"),
    "parquet": ("pyarrow",),
    "remote": ("fsspec", "aiohttp"),
    "s3": ("fsspec", "s3fs"),
    "safetensors": ("ml_dtypes",),
    "torch": ("torch",),
    "dask": ("distributed",),
    "report": ("jinja2",),
    "plot": ("matplotlib",),
    "heif": ("pillow-heif",),
    "zst": ("zstandard",),
    "video": ("av",),
    "medical": ("nibabel", "pydicom"),
    "hdf5": ("h5py",),
    "zarr": ("zarr", "numcodecs", "google-crc32c"),
}


def env(*, printing: JsonOptions, terminal: TerminalOptions) -> int:
    """Print versions, extras, the kernel cache, variables, and where each setting comes from.

    normcli env
    """
    from normcli.cli.defaults import VARIABLES, in_force

    sections = {
        "versions": _versions(),
        "extras": _extras(),
        "folders": _folders(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    settings = list(in_force())
    if printing.json:
        document({**sections, "settings": settings})
        return 0
    for name, rows in sections.items():
        if rows:
            write_lines([*_section(name, rows), ""])
    write_lines(["settings (command line > environment > configuration file > default)"])
    if not settings:
        write_lines(["  all defaults"])
    for row in settings:
        option = f"--{row['option'].replace('_', '-')}"
        write_lines([f"  {row['command']} {option} {printable(str(row['value']))}  ({printable(row['origin'])})"])
    return 0


def _section(title: str, rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [title, *(f"  {key:<{width}}  {printable(value)}" for key, value in rows.items())]


def _versions() -> dict[str, str]:
    from normcli import __version__

    here = {"normcli": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    return {**here, "platform": platform.platform(), **{name: _version(name) or "not installed" for name in _CORE}}


def _extras() -> dict[str, str]:
    return {extra: ", ".join(_described(name) for name in names) for extra, names in EXTRAS.items()}


def _described(name: str) -> str:
    version = _version(name)
    return f"{name} {version}" if version else f"{name} not installed"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _folders() -> dict[str, str]:
    from normcli.kernels import kernel
    from normcli.platforms import usable_cpus

    path = find_config()
    return {
        "package": str(Path(__file__).parents[1]),
        "kernel cache": kernel.describe_codes(),
        "configuration": "none" if path is None else str(path),
        "usable CPUs": str(usable_cpus()),
    }


app = command(env)
