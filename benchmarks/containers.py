"""Containers against the folder: time for the same photographs, memory for many tiny images in shards."""

import io
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from benchmarks.timing import ROOT, alternating, peak_megabytes, seconds

_TINY = 100_000
_SHARD = 10_000


def main(arguments: list[str]) -> None:
    """Print ratios to the folder, and peak memory for 1,000 and 100,000 tiny images.

    Args:
        arguments: a folder of photographs, then `--runs N`; without a folder `../shared/data/imagenet-300`.
    """
    runs = int(arguments[arguments.index("--runs") + 1]) if "--runs" in arguments else 7
    named = [a for a in arguments if not a.startswith("--") and not a.isdecimal()]
    folder = Path(named[0] if named else ROOT.parent / "shared/data/imagenet-300")
    with tempfile.TemporaryDirectory() as there:
        if folder.is_dir():
            _times(folder, Path(there), runs)
        else:
            print(f"{folder} is absent: name a folder of photographs")
        _memory(Path(there))


def _times(folder: Path, there: Path, runs: int) -> None:
    sources = {"folder": folder, **_packed(folder, there)}
    times = alternating({name: _command(source) for name, source in sources.items()}, runs)
    print(f"{folder.name}: whole process, median of {runs} rounds")
    for name, elapsed in times.items():
        print(f"  {name:8} {elapsed:6.2f} s  {elapsed / times['folder']:5.2f} x the folder")


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


def _memory(there: Path) -> None:
    picture = _picture()
    few, many = there / "few.tar", []
    _shard(few, picture, 1_000)
    for number in range(_TINY // _SHARD):
        many.append(there / f"tiny-{number:03d}.tar")
        _shard(many[-1], picture, _SHARD)
    tiny = there / f"tiny-{{000..{len(many) - 1:03d}}}.tar"
    small, large = peak_megabytes(_command(few)), peak_megabytes(_command(tiny))
    print(f"tiny images in tar shards: {small:.0f} MB at the peak for 1,000, {large:.0f} MB for {_TINY:,}")
    elapsed = seconds(_command(tiny))
    print(f"  {_TINY:,} in {elapsed:.1f} s: {_TINY / elapsed:,.0f} images/s")


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
