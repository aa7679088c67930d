"""Small files that claim, or become, gigabytes: rejected by their headers, before memory is taken.

Every bomb is counted in a process of its own beside good images; its peak is compared with that of a run without
the bomb. The budget is that of the design: workers x largest image that is let through, and 100 MB.
"""

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import needs
from tests.support.images import encoded, photograph
from tests.support.memory import peak

WORKERS = 2
SLACK = 100  # MB


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


def png(width: int, height: int, *before: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", deflated(8)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 8), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 1000), (339, 3, 1, 1)]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + body).ljust(200, b"\0") + deflated(1)


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(photograph(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    data = bytearray(encoded(photograph(16, 16, 1), "GIF"))
    struct.pack_into("<HH", data, 6, width, height)
    at = data.index(b",\0\0\0\0")
    struct.pack_into("<HH", data, at + 5, width, height)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = bytearray(encoded(photograph(16, 16), "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def a_tar(name: str, megabytes: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = megabytes << 20
        archive.addfile(info, io.BytesIO(bytes(megabytes << 20)))
    return out.getvalue()


def a_zip(name: str, megabytes: int, heads: int = 1) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(heads):
            archive.writestr(f"{i}{name}", bytes(megabytes << 20))
    return out.getvalue()


def npz_that_claims(shape: str) -> bytes:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head)
    return out.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "claims.png": lambda: png(50_000, 50_000),
    "profile.png": lambda: png(100, 100, chunk(b"iCCP", b"x\0\0" + deflated(200))),
    "text.png": lambda: png(100, 100, *[chunk(b"zTXt", b"x\0\0" + deflated(100)) for _ in range(5)]),
    "claims.jpg": lambda: jpeg_of(65_000, 65_000),
    "claims.gif": lambda: gif(60_000, 60_000),
    "claims.bmp": lambda: bmp(60_000, 60_000),
    "claims.tif": lambda: tiff(60_000, 60_000, 8),
    "deep.tif": lambda: tiff(60_000, 60_000, 32),
    "claims.ppm": lambda: b"P6 60000 60000 255\n" + bytes(1000),
    "claims.tga": lambda: bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", 60_000, 60_000, 24, 0),
    "zeros.tar.gz": lambda: gzip.compress(a_tar("a.jpg", 200)),
    "first-window.tar.gz": lambda: gzip.compress(a_tar("a.jpg", 880)),
    "zeros.tar.bz2": lambda: bz2.compress(a_tar("a.jpg", 200)),
    "zeros.tar.xz": lambda: lzma.compress(a_tar("a.jpg", 200), preset=1),
    "labels.tar.gz": lambda: gzip.compress(a_tar("a.cls", 200)),
    "zeros.zip": lambda: a_zip("a.jpg", 400),
    "many.zip": lambda: a_zip("a.jpg", 60, heads=8),
    "claims.npz": lambda: npz_that_claims("(1099511627776, 1048576, 1048576, 3)"),
    "images-idx3-ubyte.gz": lambda: gzip.compress(b"\0\0\x08\3" + b"\xff" * 12 + bytes(100 << 20)),
}


def zip_just_below_the_ratio() -> bytes:
    """A member of 200 MB that begins with noise, packed 99 times smaller."""
    noise = np.random.default_rng(0).bytes((200 << 20) // 103)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", noise + bytes((200 << 20) - len(noise)))
    return out.getvalue()


BOMBS["ratio.zip"] = zip_just_below_the_ratio
CRASHES = Path(__file__).parent / "fuzz/crashes"
BOMBS["page.parquet"] = (CRASHES / "parquet/page-of-2-gib.bin").read_bytes


def a_parquet(*, label: bool = False, **options: Any) -> bytes:
    """Four rows of 64 MB of zeros as images, or as labels."""
    pyarrow, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    zeros, out = bytes(64 << 20), io.BytesIO()
    columns = {"image": pyarrow.array([b"x"] * 4 if label else [zeros] * 4)}
    if label:
        columns["label"] = pyarrow.array([zeros.decode()] * 4)
    parquet.write_table(pyarrow.table(columns), out, **options)
    return out.getvalue()


BOMBS["brotli.parquet"] = lambda: a_parquet(compression="brotli", use_dictionary=False, data_page_size=1 << 31)
BOMBS["gzip.parquet"] = lambda: a_parquet(compression="gzip", use_dictionary=False)
BOMBS["zstd.parquet"] = lambda: a_parquet(compression="zstd", use_dictionary=False)
BOMBS["dictionary.parquet"] = lambda: a_parquet(compression="zstd")
BOMBS["label.parquet"] = lambda: a_parquet(compression="zstd", label=True)
BOMBS["depths.tif"] = (CRASHES / "image/depth-is-three-numbers.bin").read_bytes
QUICK = ("profile.png", "deep.tif", "zeros.tar.gz", "claims.npz", "page.parquet", "dictionary.parquet", "depths.tif")


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> int:
    folder = tmp_path_factory.mktemp("normal")
    good(folder)
    return peak(folder, "stats", "good", "-j", WORKERS, "--json")[0]


def good(folder: Path) -> None:
    (folder / "good").mkdir()
    for i in range(4):
        (folder / f"good/{i}.png").write_bytes(encoded(photograph(seed=i)))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.campaign) for n in BOMBS], ids=str
)
def test_a_bomb_takes_no_memory(name: str, normal: int, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        needs.module("pyarrow")
    good(tmp_path)
    (tmp_path / name).write_bytes(BOMBS[name]())
    used, done = peak(tmp_path, "stats", "good", name, "-j", WORKERS, "--json", "--max-pixels", 64 << 20)
    found = json.loads(done.stdout)
    assert found["images"] >= 4 and done.returncode in (0, 3)
    print(f"{name}: {(tmp_path / name).stat().st_size} bytes, peak {used} MB, {used - normal} over a normal run")
    assert used <= normal + SLACK


def test_no_image_waits_while_the_next_is_read(tmp_path: Path) -> None:
    """One image of 46 MB is in memory; it was 2.2 of an .npy, 3.1 of an .npz of 0.2 MB, two of a member of a zip."""
    zeros = np.zeros((4, 4000, 4000, 3), np.uint8)
    np.save(tmp_path / "zeros.npy", zeros)
    np.savez_compressed(tmp_path / "zeros.npz", images=zeros)
    np.save(tmp_path / "small.npy", zeros[:, :40, :40])
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        for i in range(2):
            archive.writestr(f"{i}.png", bytes(48_000_000))
    small, _ = peak(tmp_path, "stats", "small.npy", "-j", 1, "--json")
    # what inflates grows: malloc keeps 32 MB of it
    for name, workers, kept in (("zeros.npy", 1, 25), ("zeros.npz", 1, 60), ("zeros.npz", 2, 60), ("none.zip", 1, 25)):
        used, _ = peak(tmp_path, "stats", name, "-j", workers, "--json")
        print(f"{name}, {workers} workers: {used - small} MB over small ones, for images of 46")
        assert used <= small + 46 * workers + kept, name


def test_a_tensor_that_inflates_stays_under_its_limit(normal: int, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((4, 3, 4000, 4000), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((4, 3, 4, 4), np.float32))
    plain, _ = peak(tmp_path, "tensor", "layer-norm", "y.npy", "-o", "z.npy")
    used, done = peak(tmp_path, "tensor", "layer-norm", "x.npz", "-o", "z.npz", "--memory-limit", "100MB")
    assert done.returncode == 1 and b"memory limit" in done.stderr and done.stderr.count(b"\n") == 2
    assert used <= plain + SLACK and not (tmp_path / "z.npz").exists()


def test_a_view_that_repeats_its_bytes_is_rejected(tmp_path: Path, normal: int) -> None:
    """1.5 KB of .pt stood for 6.4 GB, also under a memory limit."""
    torch = needs.module("torch")
    torch.save(torch.ones(1).expand(40_000, 40_000), tmp_path / "x.pt")
    torch.save(torch.ones(3, 1).expand(3, 5), tmp_path / "small.pt")
    plain, done = peak(tmp_path, "tensor", "layer-norm", "small.pt", "-o", "y.npy")
    assert done.returncode == 0, done.stderr
    used, done = peak(tmp_path, "tensor", "layer-norm", "x.pt", "-o", "y.npy", "--force")
    assert done.returncode in (1, 3) and b"a view that repeats 4 bytes as 6400000000" in done.stderr, done.stderr
    assert used <= plain + SLACK


def test_the_measure_sees_memory(tmp_path: Path, normal: int) -> None:
    """A run that is allowed a large image does take it."""
    good(tmp_path)
    (tmp_path / "large.png").write_bytes(encoded(np.zeros((9000, 9000, 3), np.uint8), compress_level=1))
    used, _ = peak(tmp_path, "stats", "large.png", "-j", 1, "--json")
    assert used > normal + 9000 * 9000 * 3 // (1 << 20) / 2
