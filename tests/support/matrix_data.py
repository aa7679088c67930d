"""The data of the matrix of digests: small, of every kind, packed in every container, the same on every run."""

import csv
import gzip
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SAMPLES = Path(__file__).parents[2] / "sample_data" / "odd"
LONG_AGO = 1_600_000_000  # so old that the version of a file is certain


def prepare(root: Path, extras: set[str]) -> None:
    """Write `mixed` (every kind, and damage), `same` (one size, three classes), `many`, masks, containers, tensors."""
    _mixed(root / "mixed")
    _same(root / "same", root / "masks")
    rng = np.random.default_rng(3)
    (root / "many").mkdir()
    for i in range(60):
        _png(root / "many" / f"{i:03d}.png", rng.integers(0, 256, (9 + i % 5, 12, 3), np.uint8))
    for path in sorted(root.rglob("*")):
        if path.is_file():
            os.utime(path, (LONG_AGO, LONG_AGO))
    _containers(root, extras)
    _tensors(root)


def _png(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write 8- or 16-bit samples, 1 to 4 channels; Pillow would reduce 16-bit colors to 8."""
    height, width, channels = array.shape
    deep = array.dtype == np.uint16
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = array.astype(">u2" if deep else "u1").reshape(height, -1).view(np.uint8)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16 if deep else 8, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    framed = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def _mixed(folder: Path) -> None:
    for name in ("cells", "depth", "digits"):
        shutil.copytree(SAMPLES / name, folder / name)
    rng = np.random.default_rng(1)
    made = folder / "made"
    made.mkdir()
    for channels, kind in enumerate(("gray", "gray_alpha", "rgb", "rgba"), 1):
        _png(made / f"{kind}8.png", rng.integers(0, 256, (11, 13, channels), np.uint8))
        _png(made / f"{kind}16.png", rng.integers(0, 65536, (7, 9, channels), np.uint16))
    floats = rng.normal(0.4, 0.2, (10, 12)).astype(np.float32)
    Image.fromarray(floats).save(made / "float.tif")
    floats[2, 3] = np.nan
    Image.fromarray(floats).save(made / "nan.tif")
    (made / "broken.png").write_bytes((made / "rgb8.png").read_bytes()[:60])
    (made / "cut.jpg").write_bytes((folder / "depth" / "dice.jpg").read_bytes()[:3000])
    (made / "empty.png").touch()
    (made / "note.txt").write_text("no image")


def _same(folder: Path, masks: Path) -> None:
    rng = np.random.default_rng(2)
    for i in range(24):
        name = f"{'abc'[i % 3]}/{i:02d}"
        for top in (folder, masks):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
        _png(folder / f"{name}.png", rng.integers(0, 40 * (1 + i % 3) + 100, (20, 30, 3), np.uint8))
        _png(masks / f"{name}.png", (rng.random((20, 30, 1)) > 0.3).astype(np.uint8) * 255)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _containers(root: Path, extras: set[str]) -> None:
    mixed, same = files_in(root / "mixed"), files_in(root / "same")
    for name, mode in (("mixed.tar", "w"), ("mixed.tar.gz", "w:gz")):
        with tarfile.open(root / name, mode) as archive:  # type: ignore[call-overload]
            for file in mixed:
                archive.add(file, str(file.relative_to(root / "mixed")))
    with zipfile.ZipFile(root / "mixed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in mixed:
            packed.write(file, str(file.relative_to(root / "mixed")))
    with (root / "mixed.csv").open("w", newline="") as text:
        csv.writer(text).writerows([["path", "label"], *([str(f.relative_to(root)), f.parent.name] for f in mixed)])
    rows = ({"path": str(f.relative_to(root)), "label": f.parent.name} for f in mixed)
    (root / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stack = np.stack([np.asarray(Image.open(file)) for file in same])
    np.save(root / "stack.npy", stack)
    np.save(root / "deep.npy", stack.transpose(0, 3, 1, 2).astype(np.uint16) * 17)
    np.save(root / "floats.npy", (stack[:8] / 255).astype(np.float32))
    np.savez(root / "arrays.npz", images=stack, y=np.arange(len(stack)))
    gray = np.ascontiguousarray(stack[:, :, :, 0])
    idx = struct.pack(">BBBB3I", 0, 0, 8, 3, *gray.shape) + gray.tobytes()
    (root / "gray-images-idx3-ubyte").write_bytes(idx)
    (root / "gray-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx, mtime=0))
    if "parquet" in extras:
        import pyarrow as pa
        import pyarrow.parquet as pq

        images = [{"bytes": f.read_bytes(), "path": str(f.relative_to(root / "mixed"))} for f in mixed]
        pq.write_table(pa.table({"image": images, "label": [f.parent.name for f in mixed]}), root / "mixed.parquet")
    if "zst" in extras:
        import zstandard

        (root / "mixed.tar.zst").write_bytes(zstandard.ZstdCompressor().compress((root / "mixed.tar").read_bytes()))


def _tensors(root: Path) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((8, 8, 6, 5)) * 3 + 1
    for name, dtype in (("f32", np.float32), ("f16", np.float16), ("f64", np.float64)):
        np.save(root / f"x_{name}.npy", x.astype(dtype))
        np.save(root / f"x2_{name}.npy", x[::-1].astype(dtype) * 2)
        np.save(root / f"rows_{name}.npy", x.reshape(8, -1).astype(dtype))
        np.save(root / f"w_{name}.npy", rng.standard_normal((5, 240)).astype(dtype))
    np.savez(root / "x.npz", a=x.astype(np.float32), b=np.arange(3.0))
    np.save(root / "channels.npy", np.linspace(0.5, 2, 8))
