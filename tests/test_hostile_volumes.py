"""Volumes with false claims: bombs, other files, plugins; memory within the budget, one line of error."""

import gzip
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import InputError
from normcli.images.dicom import decode as decode_dicom
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.sources import Item, read_one
from tests.support import needs
from tests.support.command import ROOT, run_here
from tests.support.memory import peak

Array = np.ndarray[Any, Any]


def first_error(path: Path, **options: str) -> InputError:
    """Return the error of the first image that cannot be read."""
    with pytest.raises(InputError) as caught:
        for item in read_one(normcli.source(path, **options), InputOptions()):
            assert isinstance(item, Item)
            item.load()
    return caught.value


class TestNifti:
    def header(self, *shape: int, dtype: str = "u1") -> bytes:
        nibabel = needs.module("nibabel")
        header = nibabel.Nifti1Header()
        header.set_data_dtype(dtype)
        header["dim"][: len(shape) + 1] = [len(shape), *shape]
        header["vox_offset"] = 352
        return bytes(header.binaryblock) + bytes(4)

    def test_labels_that_gzip_shrinks_200_times(self, tmp_path: Path) -> None:
        """They were a bomb once: most of a label volume is background."""
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(self.header(512, 512, 160) + bytes(512 * 512 * 160)))
        assert path.stat().st_size < 512 * 512 * 160 / 200
        assert normcli.stats(path).images == 160

    def test_a_gzipped_bomb_takes_the_memory_of_a_plane(self, tmp_path: Path) -> None:
        content = gzip.compress(self.header(512, 512, 32767, 9) + bytes(1 << 24))
        (tmp_path / "a.nii.gz").write_bytes(content)
        used, done = peak(tmp_path, "stats", "a.nii.gz", "-j", "2", "--engine", "threads")
        assert done.returncode == 3 and used < 150 and b"1 input failed: 1 truncated" in done.stderr, (
            used,
            done.stderr,
        )
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(self.header(32767, 32767, 9) + bytes(1 << 20)))
        done = run_here("stats", tmp_path / "a.nii.gz")  # type: ignore[assignment]
        assert "more than the limit" in done.err  # type: ignore[attr-defined]


class TestHdf5:
    def chunk(self, path: Path, data: bytes, *, lzf: bool = False, **settings: Any) -> Path:
        """Write a dataset (4,64,64) of one chunk that has these bytes."""
        h5py = needs.module("h5py")
        with h5py.File(path, "w") as file:
            kind = {"compression": "lzf" if lzf else "gzip", **settings}
            dataset = file.create_dataset("images", (4, 64, 64), np.uint8, chunks=(4, 64, 64), **kind)
            dataset.id.write_direct_chunk((0, 0, 0), data)
        return path

    def test_a_chunk_that_inflates_beyond_its_shape(self, tmp_path: Path) -> None:
        path = self.chunk(tmp_path / "a.h5", zlib.compress(bytes(4 * 64 * 64)))
        assert normcli.stats(normcli.source(path, axes="NYX")).max == [0]
        self.chunk(tmp_path / "a.h5", zlib.compress(bytes(1 << 29), 1))
        used, done = peak(tmp_path, "stats", "a.h5", "-O", "axes=NYX", "-j", "2", "--engine", "threads")
        assert done.returncode == 4 and used < 150 and b"a chunk expands to more" in done.stderr, (used, done.stderr)
        assert "bytes, but its shape has" in str(first_error(self.chunk(path, zlib.compress(b"a")), axes="NYX"))
        assert "stored in more" in str(first_error(self.chunk(path, bytes(1 << 20), lzf=True), axes="NYX"))

    def test_a_fill_value_that_is_damaged(self, tmp_path: Path) -> None:
        """HDF5 ends the process when it reads a fill value of a negative size."""
        with needs.module("h5py").File(tmp_path / "a.h5", "w") as file:
            file["a"] = np.zeros((4, 12, 10), np.int16)
        sound = (tmp_path / "a.h5").read_bytes()
        assert sound.count(b"\2\2\2\1\0\0\0\0") == 1
        (tmp_path / "a.h5").write_bytes(sound.replace(b"\2\2\2\1\0\0\0\0", b"\2\2\2\1\0\0\0\x8f"))
        assert "fill value" in str(first_error(tmp_path / "a.h5", axes="NYX"))

    def test_a_chunk_that_is_damaged(self, tmp_path: Path) -> None:
        path, sound = tmp_path / "a.h5", zlib.compress(bytes(4 * 64 * 64))
        for data in (sound[:-5], sound[:3], b"\0" * 40, sound[:8] + b"\xff" + sound[9:]):
            assert first_error(self.chunk(path, data), axes="NYX").reason in ("damaged", "truncated")
        error = first_error(self.chunk(path, sound + b"\1\2\3\4", fletcher32=True), axes="NYX")
        assert str(error) == "the checksum of a chunk is wrong"

    @pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "f2", ">f8", "?"])
    def test_chunks_are_decoded_as_by_hdf5(self, dtype: str, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        values = np.random.default_rng(18).integers(0, 90, (7, 9, 10)).astype(dtype)
        layouts: list[dict[str, Any]] = [
            {},
            {"shuffle": True},
            {"fletcher32": True},
            {"shuffle": True, "fletcher32": True},
        ]
        layouts += [{**layout, "compression": "gzip"} for layout in layouts]
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for i, layout in enumerate(layouts):
                file.create_dataset(f"{i}", values.shape, dtype, chunks=(3, 4, 10), fillvalue=1, **layout)[2:] = values[
                    2:
                ]
            file["4"].id.write_direct_chunk((3, 0, 0), values[3:6, :4].tobytes(), filter_mask=1)
            expected = {name: file[name][()] for name in file}
        for name, samples in expected.items():
            source = normcli.source(tmp_path / "a.h5", variable=name, axes="NYX")
            images = [item.load() for item in read_one(source, InputOptions()) if isinstance(item, Item)]
            assert np.array_equal(np.stack(images), samples), (name, dtype)

    def test_a_virtual_dataset_leads_nowhere(self, tmp_path: Path) -> None:
        """Not by way of a dataset of the same file."""
        h5py = needs.module("h5py")
        values = np.arange(64, dtype=np.uint8).reshape(8, 8)
        (tmp_path / "raw").write_bytes(values.tobytes())
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["sound"] = values
            file.create_dataset("stored", values.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, values.size)])
            file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/images")
            for name in ("sound", "stored", "link", "virtual-sound"):
                layout = h5py.VirtualLayout(values.shape, np.uint8)
                layout[:] = h5py.VirtualSource(".", name, values.shape, np.uint8)
                file.create_virtual_dataset(f"virtual-{name}", layout)
            scale = file.create_dataset("z", (8,), "i1", external=[(str(tmp_path / "raw"), 0, 8)])
            scale.make_scale("z")
            file["planes"] = np.zeros((8, 9, 9), np.uint8)
            file["planes"].dims[0].attach_scale(scale)
        messages = {"stored": "in another file", "link": "to another file", "virtual-sound": "of the virtual dataset"}
        for name, message in messages.items():
            assert message in str(first_error(tmp_path / "a.h5", variable=f"virtual-{name}"))
        assert normcli.stats(normcli.source(tmp_path / "a.h5", variable="virtual-sound")).max == [63 / 255]
        done = run_here("stats", tmp_path / "a.h5", "-O", "variable=planes", "-O", "axes=ZYX", "--group-by", "axis:z")
        assert done.code == 4 and "its values are in another file" in done.err, done

    def test_plugins_are_not_loaded(self) -> None:
        """HDF5 itself loads a plugin from HDF5_PLUGIN_PATH as soon as a group or a chunk names its filter."""
        needs.module("h5py")
        code = "from normcli.sources.hdf5 import _h5py; import os; _h5py(); print(os.environ['HDF5_PLUGIN_PRELOAD'])"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HDF5_PLUGIN_PATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True, text=True)
        assert done.stdout == "::\n"

    def test_references_are_no_numbers(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            images = file.create_dataset("images", data=np.zeros((4, 6, 7), np.uint8))
            file.create_dataset("objects", (4, 4), h5py.ref_dtype)[0, 0] = images.ref
            file.create_dataset("regions", (4, 4), h5py.regionref_dtype)
            file.create_dataset("lists", (4, 4), h5py.vlen_dtype(np.uint8))
            images.attrs["_FillValue"] = images.ref
        for name, code in (("objects", 2), ("regions", 2), ("lists", 2), ("images", 4)):
            done = run_here("stats", tmp_path / "a.h5", "-O", f"variable={name}", "-O", "axes=NYX")
            assert done.code == code and "not a" in done.err and "Traceback" not in done.err, done

    def test_shapes_that_lie(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, shape, chunks in (
                ("planes", (10**18, 8, 8), (1, 8, 8)),
                ("pixels", (4, 10**9, 10**9), (1, 8, 8)),
                ("chunks", (4, 10**9, 8), (1, 10**8, 8)),
            ):
                file.create_dataset(name, shape, np.uint8, chunks=chunks)
        for name, message in (("planes", "planes"), ("pixels", "more than the limit"), ("chunks", "chunks of")):
            done = run_here("stats", tmp_path / "a.h5", "-O", f"variable={name}", "-O", "axes=NYX")
            assert done.code == 4 and message in done.err, done


def dicom(syntax: bytes, elements: bytes) -> bytes:
    """Return a file of a transfer syntax."""
    syntax += b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element + elements


DEFLATED, PLAIN, BIG = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"


class TestDicom:
    def failure(self, content: bytes) -> str:
        needs.module("pydicom")
        with pytest.raises(InputError) as caught:
            decode_dicom(content, DecodeOptions())
        return f"{caught.value.reason}: {caught.value}"

    def test_deflated_elements(self) -> None:
        pydicom = needs.module("pydicom")
        path = Path(pydicom.__file__).parent / "data" / "test_files" / "image_dfl.dcm"
        if not path.is_file():
            needs.skip(needs.INSTALL["pydicom"])
        expected = pydicom.dcmread(path).pixel_array
        image = decode_dicom(path.read_bytes(), DecodeOptions())
        assert np.array_equal(image.pixels[..., 0], expected)
        sound = path.read_bytes()
        assert "bomb: deflated elements" in self.failure(dicom(DEFLATED, zlib.compress(bytes(1 << 27), 1)[2:-4]))
        for content in (sound[:-3000], sound[:400], dicom(DEFLATED, b"\xff" * 100)):
            with pytest.raises((InputError, zlib.error, OSError, AttributeError, KeyError)) as caught:
                decode_dicom(content, DecodeOptions())
            assert str(caught.value)

    def test_elements_and_items_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("normcli.images.dicom._MOST_READS", 10_000)
        sequence = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 20_000
        elements = b"".join(struct.pack("<HH2sH", 0x11, i, b"LO", 0) for i in range(20_000))
        nested = (sequence + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 3000
        for content in (
            elements,
            sequence + items,
            sequence + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + elements,
        ):
            assert self.failure(dicom(PLAIN, content)).startswith("bomb: more than 5,000 elements")
        assert self.failure(dicom(PLAIN, nested)).startswith("bomb: sequences are nested")
        big = struct.pack(">HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(">HHI", 0xFFFE, 0xE000, 0) * 20_000
        assert self.failure(dicom(BIG, big)).startswith("bomb: more than 5,000 elements")

    @pytest.mark.parametrize("kind", ["JPEG2000", "JPEG"])
    def test_a_frame_that_is_larger_than_the_file_has(self, kind: str, tmp_path: Path) -> None:
        """2.5 KB took 1 GB."""
        pydicom = needs.module("pydicom")
        path = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small_jp2klossless.dcm"
        if not path.is_file():
            needs.skip(needs.INSTALL["pydicom"])
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((3000, 3000), np.uint8)).save(buffer, kind)
        dataset = pydicom.dcmread(path)
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
        if kind == "JPEG":
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
        dataset.save_as(tmp_path / "a.dcm")
        message = self.failure((tmp_path / "a.dcm").read_bytes())
        assert message == "damaged: its first frame has 3000 x 3000 pixels, but its header has 64 x 64"

    def test_pixels_that_are_not_there(self, tmp_path: Path) -> None:
        pydicom = needs.module("pydicom")
        path = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
        if not path.is_file():
            needs.skip(needs.INSTALL["pydicom"])
        for changes in (
            {"Rows": 65535, "Columns": 65535},
            {"NumberOfFrames": 10**9},
            {"SamplesPerPixel": 3},
            {"BitsAllocated": 64},
        ):
            dataset = pydicom.dcmread(path)
            for name, value in changes.items():
                setattr(dataset, name, value)
            dataset.save_as(tmp_path / "a.dcm")
            done = run_here("stats", tmp_path / "a.dcm", "--engine", "serial")
            assert done.code in (0, 4) and "Traceback" not in done.err and "unexpected" not in done.err, (changes, done)


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 20), *(pytest.param(seed, 2500, marks=pytest.mark.campaign) for seed in range(1, 9))]
)
def test_changed_files_of_every_container(seed: int, count: int, tmp_path: Path) -> None:
    """The files are read in a process of their own, which libraries in C may end."""
    for name in ("nibabel", "h5py", "zarr", "pydicom"):
        needs.module(name)
    command = [sys.executable, "-m", "tests.support.changed_volumes", str(tmp_path), str(seed), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, text=True)
    print(done.stdout)
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
