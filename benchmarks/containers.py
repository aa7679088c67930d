"""Containers against the folder: time for the same photographs, memory for many tiny images in shards."""

import argparse
import io
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import datasets
from benchmarks.timing import Row, alternating, peak_megabytes, show, takes

_TINY = 100_000
_SHARD = 10_000
_AT_MOST = {"tar": 1.0, "zip": 1.05, "parquet": 1.1}  # times the folder


def main(arguments: list[str]) -> list[Row]:
    """Print ratios to the folder, and peak memory for 10,000 and 100,000 tiny images."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks containers", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of photographs (default: 1,000 of our own)")
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as there:
        folder = chosen.folder
        if folder is None and datasets.SHARED.is_dir():
            folder = datasets.copied(datasets.PHOTOGRAPHS, Path(there) / "photographs", 1000)
        if folder is None:
            print(f"{datasets.SHARED} is absent: name a folder of photographs")
        else:
            rows += show(_times(folder, Path(there), chosen.rounds))
        return rows + show(_memory(Path(there)))


def _times(folder: Path, there: Path, rounds: int) -> Iterator[Row]:
    sources = {"folder": folder, **_packed(folder, there)}
    times = alternating({name: _command(source) for name, source in sources.items()}, rounds)
    for name, elapsed in list(times.items())[1:]:
        work = f"stats, {len(list(folder.iterdir())):,} photographs in a {name}"
        yield takes(work, "the folder", elapsed, times["folder"], _AT_MOST.get(name))


def _packed(folder: Path, there: Path) -> dict[str, Path]:
    paths = {"tar": there / "a.tar", "tar.gz": there / "a.tar.gz", "zip": there / "a.zip"}
    for name, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(paths[name], mode) as archive:  # type: ignore[call-overload]
            archive.add(folder, folder.name)
    with zipfile.ZipFile(paths["zip"], "w") as zipped:
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        print("  parquet is absent: pyarrow is not installed")
        return paths
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    rows = pyarrow.table({"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]})
    parquet.write_table(rows, there / "a.parquet", row_group_size=100)
    return {**paths, "parquet": there / "a.parquet"}


def _memory(there: Path) -> Iterator[Row]:
    picture = _picture()
    many: list[Path] = []
    for number in range(_TINY // _SHARD):
        many.append(there / f"tiny-{number:03d}.tar")
        _shard(many[-1], picture, _SHARD)
    tiny = there / f"tiny-{{000..{len(many) - 1:03d}}}.tar"
    small, large = peak_megabytes(_command(many[0])), peak_megabytes(_command(tiny))
    work = f"memory, {_TINY:,} images of 32x32 in tar shards"
    # where the kernels are loaded in one run alone, their library is 50 MB of the difference
    yield Row(work, f"as for {_SHARD:,}", f"+{large - small:.0f} MB", "<= 70 MB", large - small <= 70)


def _picture() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 60).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def _shard(path: Path, picture: bytes, count: int) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(count):
            info = tarfile.TarInfo(f"{i:06d}.jpg")
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))


def _command(source: Path) -> list[str]:
    return [sys.executable, "-m", "normcli", "stats", str(source), "--json", "-q", "-j", "2"]
