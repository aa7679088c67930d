"""Read changed files of volumes in this process: `python -m tests.support.changed_volumes FOLDER SEED COUNT`.

A library in C that ends the process ends this one, not the test.
"""

import random
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normcli import images
from normcli.errors import NormcliError
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.sources import Item, read_one, source

_MOST_ITEMS = 100  # of one file: a changed header may have many more


def sound(folder: Path) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Yield suffixes, contents and open options of sound files of every container."""
    import h5py
    import nibabel
    import pydicom
    import zarr

    values = np.random.default_rng(18).integers(0, 1000, (3, 5, 12, 10)).astype(np.int16)
    for suffix in (".nii", ".nii.gz"):
        nibabel.Nifti1Image(values.T, np.eye(4)).to_filename(folder / f"sound{suffix}")
        yield suffix, (folder / f"sound{suffix}").read_bytes(), {}
    layouts: list[dict[str, Any]] = [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
    ]
    for layout in layouts:
        with h5py.File(folder / "sound.h5", "w") as file:
            file.create_dataset("images", data=values, chunks=(1, 2, 5, 4), **layout)
        yield ".h5", (folder / "sound.h5").read_bytes(), {"axes": "TZYX"}
    for version in (2, 3):
        zarr.create_array(folder / "sound.zarr", data=values, chunks=(1, 2, 5, 4), zarr_format=version)
        with zipfile.ZipFile(folder / "sound.zarr.zip", "w") as archive:
            for path in (folder / "sound.zarr").rglob("*"):
                archive.write(path, path.relative_to(folder / "sound.zarr").as_posix())
        yield ".zarr.zip", (folder / "sound.zarr.zip").read_bytes(), {"axes": "TZYX"}
        shutil.rmtree(folder / "sound.zarr")
    data = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("CT_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_bigendian", "image_dfl", "rtdose_rle"):
        if (data / f"{name}.dcm").is_file():
            yield ".dcm", (data / f"{name}.dcm").read_bytes(), {}


def changed(content: bytes, draw: random.Random) -> bytes:
    """Cut a file, or change some bits or bytes of it, most of them near its start."""
    if draw.random() < 0.15:
        return content[: draw.randrange(len(content))]
    out = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(min(len(out), draw.choice((600, 4000, len(out)))))
        out[at] = draw.choice((out[at] ^ 1 << draw.randrange(8), draw.randrange(256), 0, 255))
    return bytes(out)


def outcome(path: Path, options: dict[str, str]) -> str:
    """Return "read", or the reason of the first error; any other exception than ours is a find."""
    try:
        for number, item in enumerate(read_one(source(path, **options), InputOptions(include=("*",)))):
            if number == _MOST_ITEMS:
                break
            if isinstance(item, Item):
                images.decode(item.load(), DecodeOptions())
    except NormcliError as error:
        assert str(error)
        return str(getattr(error, "reason", type(error).__name__))
    return "read"


def main(folder: Path, seed: int, count: int) -> None:
    """Read `count` changed files of each kind; print the number of each outcome."""
    draw = random.Random(seed)
    for number, (suffix, content, options) in enumerate(list(sound(folder))):
        found: Counter[str] = Counter()
        path = folder / f"changed{suffix}"
        for _ in range(count):
            data = changed(content, draw)
            path.write_bytes(data)
            (folder / "last.bin").write_bytes(data)  # what ended the process
            found[outcome(path, options)] += 1
        print(number, suffix, dict(found.most_common()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
