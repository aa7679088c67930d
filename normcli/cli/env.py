"""normcli env: versions, extras, folders, and the settings in force with their origin."""

import platform
import sys
from importlib import metadata

from normcli.cli.build import command, find_config
from normcli.options.shared import JsonOptions, TerminalOptions

_CORE = ("typer", "rich", "tqdm", "pillow", "numpy", "numba", "llvmlite", "simplejpeg")
_EXTRAS = {
    "tiff": ("tifffile", "imagecodecs"),
    "parquet": ("pyarrow",),
    "remote": ("fsspec", "aiohttp"),
    "s3": ("s3fs",),
    "safetensors": ("safetensors", "ml_dtypes"),
    "torch": ("torch",),
    "dask": ("distributed",),
    "heif": ("pillow-heif",),
    "zst": ("zstandard",),
    "report": ("jinja2",),
}


def env(*, printing: JsonOptions, terminal: TerminalOptions) -> int:
    """Print versions, extras, the kernel cache, and where each setting comes from.

    normcli env
    """
    from normcli.cli.defaults import in_force
    from normcli.cli.messages import document, write

    sections = {"versions": _versions(), "extras": _extras(), "folders": _folders()}
    settings = list(in_force())
    if printing.json:
        document({**sections, "settings": settings})
        return 0
    for name, rows in sections.items():
        width = max(map(len, rows))
        write(f"{name}\n" + "".join(f"  {key:<{width}}  {value}\n" for key, value in rows.items()) + "\n")
    write("settings (command line > environment > configuration file > default)\n")
    if not settings:
        write("  all defaults\n")
    for row in settings:
        write(f"  {row['command']} --{row['option'].replace('_', '-')} {row['value']}  ({row['origin']})\n")
    return 0


def _versions() -> dict[str, str]:
    from normcli import __version__

    here = {"normcli": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    return {**here, "platform": platform.platform(), **{name: _version(name) or "not installed" for name in _CORE}}


def _extras() -> dict[str, str]:
    return {extra: ", ".join(_described(name) for name in names) for extra, names in _EXTRAS.items()}


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
        "kernel cache": str(kernel.code_folder()),
        "configuration": "none" if path is None else str(path),
        "usable CPUs": str(usable_cpus()),
    }


app = command(env)
