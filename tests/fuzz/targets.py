"""The targets of fuzzing: one function over bytes for every parser, and files to begin with.

A target ends quietly where the parser takes the input or says what is wrong with it in one of `normcli.errors`;
every other exception is a finding. Checksums are mended before parsing, or no change would come past them.
"""

import csv
import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import NormcliError

_MOST_ITEMS = 100_000  # of one input; more from a few kilobytes is a listing that does not end


class Target(NamedTuple):
    """One parser.

    Attributes:
        help: one line.
        call: parses an input; its path holds the same bytes where `suffix` is not empty.
        seeds: sound inputs.
        modules: whose coverage guides.
        suffix: of the file, "" where the bytes are enough.
        mend: makes checksums right.
    """

    help: str
    call: Callable[[bytes, Path], Any]
    seeds: Callable[[], list[bytes]]
    modules: tuple[str, ...]
    suffix: str = ""
    mend: Callable[[bytes], bytes] = bytes

    def run(self, data: bytes, path: Path) -> None:
        """Parse one input as it came and with right checksums; inputs that are rejected on purpose end quietly."""
        for one in {data, self.mend(data)}:
            if self.suffix:
                path.write_bytes(one)
            try:
                self.call(one, path)
            except NormcliError as error:
                assert str(error), "an error without words"


@cache
def _picture() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(out, "JPEG")
    return out.getvalue()


def _items(path: Path, *, load: bool = True, **listing: Any) -> None:
    """List a source and load its items, never a file that it names."""
    from normcli.errors import InputError
    from normcli.options.shared import InputOptions
    from normcli.sources import Item, read

    found = read([str(path)], InputOptions(**listing))
    for number, item in enumerate(found):
        assert number < _MOST_ITEMS, "a listing that does not end"
        if load and isinstance(item, Item):
            try:
                item.load()
            except InputError as error:
                assert error.reason, "a failure without a reason"


# archives and arrays of images


def _tars() -> list[bytes]:
    out = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name in ("cat/0001.jpg", "cat/0001.cls", "0002.jpg", "0002.json", "x" * 120 + ".jpg", "täst.png"):
                data = {".cls": b"7", ".json": b'{"label": "owl"}'}.get(name[name.rfind(".") :], _picture()[:300])
                info = tarfile.TarInfo(name[:90] if form == tarfile.USTAR_FORMAT else name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        out.append(buffer.getvalue()[: 512 * 24])
    sparse = bytearray(out[1])
    sparse[156:157], sparse[482:483] = b"S", b"\1"
    return [*out, bytes(sparse), gzip.compress(out[0])]


def _mended_tar(data: bytes) -> bytes:
    """Correct the checksum of every block that looks like a header."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % (sum(out[at : at + 512]) & 0o777777)
    return bytes(out)


def _zips() -> list[bytes]:
    out = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("cat/1.jpg", _picture()[:200])
            archive.writestr("ä.png", b"a" * 300)
            with archive.open("big.jpg", "w", force_zip64=True) as member:
                member.write(b"0123456789")
        out.append(buffer.getvalue())
    # a zip64 end: locator and record before the usual one
    end = out[0].rindex(b"PK\5\6")
    count, size, start = struct.unpack_from("<HII", out[0], end + 10)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    return [*out, out[0][:end] + record + locator + out[0][end:]]


def _idxs() -> list[bytes]:
    plain = b"\0\0\x08\3" + struct.pack(">III", 2, 3, 4) + bytes(24)
    floats = b"\0\0\x0d\2" + struct.pack(">II", 2, 2) + bytes(16)
    return [plain, floats, gzip.compress(plain)]


def _npys() -> list[bytes]:
    out = []
    for array in (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 3), "<f4"), np.asfortranarray(np.ones((3, 5, 2)))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        out.append(buffer.getvalue())
    for version in ((2, 0), (3, 0)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.zeros((2, 5, 6), np.uint16), version)
        out.append(buffer.getvalue())
    return out


def _npzs() -> list[bytes]:
    out = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x_train=np.zeros((2, 6, 6, 3), np.uint8), y_train=np.arange(2))
        out.append(buffer.getvalue())
    return out


def _parquets() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    out = []
    rows = [{"bytes": _picture(), "path": None}, {"bytes": None, "path": "a.jpg"}, None]
    tables = [
        pa.table({"image": rows, "label": [0, 1, 2]}),
        pa.table({"img": [b"abc", b"", None]}),
    ]
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    tables.append(tables[0].replace_schema_metadata({"huggingface": json.dumps(names)}))
    for table in tables:
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, compression="none")
        out.append(buffer.getvalue())
    return out


def _parquet(data: bytes, path: Path) -> None:
    from normcli.options.shared import InputOptions
    from normcli.sources import Item, read
    from normcli.storage.files import InMemory

    for number, item in enumerate(read([str(path)], InputOptions())):
        assert number < _MOST_ITEMS, "a listing that does not end"
        if isinstance(item, Item) and isinstance(item.load, InMemory):
            item.load()


def _tables() -> list[bytes]:
    text = io.StringIO()
    csv.writer(text).writerows([["path", "label"], ["a.jpg", "cat"], ['b "x", y.png', ""], ["s3://bucket/c.png", "3"]])
    return [text.getvalue().encode(), b"\xef\xbb\xbffile\tclass\na.jpg\t1\n", b"image\n/etc/passwd\n\n"]


def _lines() -> list[bytes]:
    rows = [{"path": "a.jpg", "label": 3}, {"file_name": "b.jpg"}, {"image": ["x"]}, [1]]
    return [b"\n".join(json.dumps(row).encode() for row in rows), b'{"path": "a"}\n{"path": 1e999, "label": {}}\n']


def _names(data: bytes, path: Path) -> None:
    """List a source as the command line names it, without opening files."""
    from normcli.sources import container, expand
    from normcli.sources.folder import folder_of, is_unsafe
    from normcli.storage import path_fields

    text = data.decode("utf-8", "surrogateescape")
    for name in islice(expand(text.replace("\0", "")), 100):
        container(name), is_unsafe(name), folder_of(name), path_fields(name)


# tensors


def _tensors(data: bytes, path: Path) -> None:
    from normcli.tensor import files

    with files.open_tensors(str(path), limit=1 << 26) as tensors:
        for tensor in tensors.values():
            files.read_array(tensor)


def _safetensors() -> list[bytes]:
    entries = {
        "__metadata__": {"normalizer": "batch_norm"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [16, 18]},
        "c": {"dtype": "BOOL", "shape": [0, 3], "data_offsets": [18, 18]},
    }
    text = json.dumps(entries).encode()
    return [len(text).to_bytes(8, "little") + text + bytes(18), (2).to_bytes(8, "little") + b"{}"]


def _pts() -> list[bytes]:
    import torch

    out = []
    for value in (torch.zeros(2, 3), {"running_mean": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(1)}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=new)
            out.append(buffer.getvalue())
    return out


# images


def _image(data: bytes, path: Path) -> None:
    from normcli.images import decode
    from normcli.options.shared import DecodeOptions

    decode(data, DecodeOptions(max_pixels=1 << 20))


def _jpeg(data: bytes, path: Path) -> None:
    from normcli.images import jpeg
    from normcli.images.orientation import upright

    found = jpeg.header(data)
    turned = found.orientation if found is not None else 1
    for orientation in (turned, jpeg.parse_orientation(data)):
        upright(np.zeros((2, 3, 1), np.uint8), orientation)


def _jpegs() -> list[bytes]:
    from PIL import Image

    out = [_picture()]
    for orientation in (6, 9):
        exif = Image.Exif()
        exif[274] = orientation
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", exif=exif, icc_profile=b"profile", progressive=True)
        out.append(buffer.getvalue())
        out.append(exif.tobytes()[6:])
    return out


def _deep(data: bytes, path: Path) -> None:
    from normcli.images import high_bit_depth
    from normcli.options.shared import DecodeOptions

    if (need := high_bit_depth.needed(data)) is not None:
        try:
            high_bit_depth.decode(data, need, DecodeOptions(max_pixels=1 << 20))
        except Exception as error:  # tifffile and imagecodecs raise what they like; images.decode says "damaged"
            if isinstance(error, MemoryError):
                raise


def _deeps() -> list[bytes]:
    import imagecodecs
    import tifffile

    rgb = np.zeros((4, 4, 3), np.uint16)
    out = [bytes(imagecodecs.png_encode(rgb)), bytes(imagecodecs.jpeg2k_encode(rgb))]
    for array, options in (
        (rgb, {"photometric": "rgb"}),
        (rgb.astype(np.float32), {"photometric": "rgb"}),
        (rgb, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
        (np.zeros((4, 4, 2), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **options)
        out.append(buffer.getvalue())
    return out


def _pictures() -> list[bytes]:
    from PIL import Image

    out = [*_jpegs(), *_deeps()]
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        out.append(buffer.getvalue())
    for mode in ("P", "LA", "1", "I;16"):
        buffer = io.BytesIO()
        image.convert("L").convert(mode).save(buffer, "PNG")
        out.append(buffer.getvalue())
    return out


# our own files


@cache
def _statistics_seeds() -> tuple[bytes, ...]:
    import normcli

    out = []
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cat").mkdir()
        (Path(folder) / "cat/a.jpg").write_bytes(_picture())
        np.save(Path(folder) / "f.npy", np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 4, 3))
        out.append(normcli.stats(Path(folder) / "cat", group_by="folder", engine="serial").to_json().encode())
        out.append(
            normcli.stats(Path(folder) / "f.npy", open_options={"layout": "hwc"}, engine="serial").to_json().encode()
        )
    return tuple(out)


def _statistics(data: bytes, path: Path) -> None:
    from normcli.constants import exporters
    from normcli.summary import Summary
    from normcli.summary.sums import merge

    summary = Summary.from_json(data)
    summary.to_json()
    for name in exporters.EXPORTERS:
        with suppress(NormcliError):
            exporters.export(summary, name)
    merge(summary, summary)


def _checkpoint(data: bytes, path: Path) -> None:
    from contextlib import closing

    from normcli.runs.stats_checkpoint import StatsCheckpoint

    with closing(StatsCheckpoint(path, {"color": "auto"})) as checkpoint:
        for lines in checkpoint._lines.values():
            for line in lines:
                checkpoint._load(line.offset)


@cache
def _checkpoint_seeds() -> tuple[bytes, ...]:
    import tempfile

    from normcli.options.shared import DecodeOptions, InputOptions
    from normcli.runs.count import WorkerOptions, count_batch
    from normcli.runs.stats_checkpoint import StatsCheckpoint
    from normcli.sources import read

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        path.write_bytes(_picture())
        kept = Path(folder) / "checkpoint"
        items = list(read([str(path)], InputOptions()))
        one = StatsCheckpoint(kept, {"color": "auto"})
        one.record(one.on_submit(items), count_batch(WorkerOptions(reading=DecodeOptions()), items))
        one.flush()
        one.close()
        return (kept.read_bytes(),)


def _mended_lines(data: bytes) -> bytes:
    """Correct the checksum at the start of every line."""
    lines = data.split(b"\n")
    return b"\n".join(b"%08x %s" % (zlib.crc32(line[9:]), line[9:]) if line else line for line in lines)


@cache
def _applied() -> tuple[bytes, bytes, bytes]:
    """Return the manifest of a small run, the checkpoint of one, and the checkpoint of a stack."""
    import tempfile

    import normcli
    from normcli.runs.apply_checkpoint import ApplyCheckpoint

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for name in ("a", "b"):
            (Path(folder) / f"in/{name}.jpg").write_bytes(_picture())
        (Path(folder) / "in/c.jpg").write_bytes(b"\xff\xd8\xffnothing")
        normcli.apply(Path(folder) / "in", Path(folder) / "out", scheme="unit", engine="serial")
        manifest = (Path(folder) / "out/normcli.json").read_bytes()
        document = json.loads(manifest)
        head = {key: document[key] for key in ("schema", "settings", "constants")}
        for record in document["files"]:
            if isinstance(record.get("map"), int):
                record["map"] = document["maps"][record["map"]]
        out = []
        for to in ("npy", "stack"):
            head["settings"] = {**head["settings"], "to": to}
            checkpoint = ApplyCheckpoint(str(Path(folder) / to), head)
            checkpoint.open(resume=False)
            checkpoint.add([{**record, "row": i} for i, record in enumerate(document["files"])])
            out.append((Path(checkpoint.folder) / "checkpoint-0").read_bytes())
            checkpoint.close()
    return manifest, out[0], out[1]


def _manifest(data: bytes, path: Path) -> None:
    import normcli

    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    (folder / "normcli.json").write_bytes(data)
    normcli.restore(folder, path.parent / "back", engine="serial", force=True)
    normcli.verify(folder, engine="serial")


def _resumed(data: bytes, path: Path) -> None:
    import shutil

    from normcli.runs.apply_checkpoint import ApplyCheckpoint
    from normcli.runs.names import WORK

    folder = path.parent / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / WORK).mkdir(parents=True)
    (folder / WORK / "checkpoint-0").write_bytes(data)
    head = json.loads(_applied()[1].split(b"\n")[0][9:])
    checkpoint = ApplyCheckpoint(str(folder), head)
    try:
        checkpoint.open(resume=True)
        for name in list(checkpoint._done):
            checkpoint.done(name)
    finally:
        checkpoint.close()


def _constants(data: bytes, path: Path) -> None:
    from normcli.constants.identify import check
    from normcli.constants.parse_config import numbers, read_constants

    text = data.decode("utf-8", "replace")
    try:
        found = read_constants(text, "constants")
    except NormcliError:
        numbers([text])
        return
    for one in found[:3]:
        try:
            check(_known_dataset(), one.mean, one.std)
        except NormcliError:
            continue


@cache
def _known_dataset() -> Any:
    from normcli.summary import Summary

    return Summary.from_json(_statistics_seeds()[0])


def _constants_seeds() -> list[bytes]:
    return [
        b'{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}',
        b"T.Normalize(mean=[0.485 * 255, .456, 1e-2], std=np.array((0.2, 0.2, 0.2)) / 255.)",
        b"IMAGENET_MEAN = [x / 255 for x in (124, 117, 104)]\nIMAGENET_STD = (1, 1, 1)\n",
        b"model:\n  mean:\n    - 0.5\n    - 0.5\n  std: [0.5, 0.25]\n",
        b'mean = [0.1]\nstd = "0.2"\n',
        b"0.485, .456 1_0",
    ]


def _ours(*names: str) -> tuple[str, ...]:
    return tuple(f"normcli.{name}" for name in names)


TARGETS = {
    "tar": Target(
        "tar archives", lambda d, p: _items(p), _tars, _ours("sources.tar", "sources.tar_headers"), ".tar", _mended_tar
    ),
    "zip": Target("zip archives", lambda d, p: _items(p), _zips, _ours("sources.zip", "storage.files"), ".zip"),
    "idx": Target("IDX arrays", lambda d, p: _items(p), _idxs, _ours("sources.idx", "sources.npy"), "-idx3-ubyte"),
    "npy": Target("images in .npy", lambda d, p: _items(p), _npys, _ours("sources.npy", "storage.npy"), ".npy"),
    "npz": Target(
        "images in .npz", lambda d, p: _items(p), _npzs, _ours("sources.npz", "sources.npy", "sources.zip"), ".npz"
    ),
    "parquet": Target("parquet tables", _parquet, _parquets, _ours("sources.parquet"), ".parquet"),
    "csv": Target("CSV tables", lambda d, p: _items(p, load=False), _tables, _ours("sources.file_list"), ".csv"),
    "jsonl": Target("JSONL tables", lambda d, p: _items(p, load=False), _lines, _ours("sources.file_list"), ".jsonl"),
    "names": Target(
        "names of sources",
        _names,
        lambda: [b"a-{01..3}.tar", b"{a,b}/c.zip"],
        _ours("sources.listing", "sources.globs"),
    ),
    "tensor-npy": Target("tensors in .npy", _tensors, _npys, _ours("storage.npy", "tensor.files"), ".npy"),
    "tensor-npz": Target("tensors in .npz", _tensors, _npzs, _ours("storage.npy", "tensor.files"), ".npz"),
    "safetensors": Target(
        "tensors in .safetensors",
        _tensors,
        _safetensors,
        _ours("tensor.safetensors", "storage.safetensors_format"),
        ".safetensors",
    ),
    "torch": Target(
        "tensors in .pt", _tensors, _pts, _ours("tensor.torch_file", "storage.torch_zip", "storage.torch_pickle"), ".pt"
    ),
    "jpeg": Target("JPEG headers and EXIF", _jpeg, _jpegs, _ours("images.jpeg", "images.orientation")),
    "deep": Target("headers of 16-bit images", _deep, _deeps, _ours("images.high_bit_depth")),
    "image": Target(
        "image files", _image, _pictures, _ours("images", "images.pillow", "images.convert", "images.jpeg")
    ),
    "statistics": Target(
        "statistics files",
        _statistics,
        lambda: list(_statistics_seeds()),
        _ours(
            "summary",
            "summary.file",
            "tally",
            "tally.integers",
            "tally.floats",
            "tally.groups",
            "constants.exporters",
        ),
    ),
    "checkpoint": Target(
        "checkpoints of stats",
        _checkpoint,
        lambda: list(_checkpoint_seeds()),
        _ours("runs.checkpoint", "runs.stats_checkpoint", "runs.count", "tally"),
        ".checkpoint",
        _mended_lines,
    ),
    "manifest": Target(
        "manifests of apply",
        _manifest,
        lambda: [_applied()[0], re.sub(rb"\n *", b"", _applied()[0])],
        _ours("runs.manifest", "runs.validate_manifest", "runs.restore", "runs.verify", "runs.read_output"),
    ),
    "resumed": Target(
        "checkpoints of apply",
        _resumed,
        lambda: list(_applied()[1:]),
        _ours("runs.checkpoint", "runs.apply_checkpoint", "runs.manifest", "runs.validate_manifest"),
        "",
        _mended_lines,
    ),
    "constants": Target(
        "constants in other tools' files",
        _constants,
        _constants_seeds,
        _ours("constants.parse_config", "constants.like", "constants.identify"),
    ),
}
