"""Zarr: chunks as the zarr library decodes them; zips and servers; chunks and metadata with false claims."""

import bz2
import gzip
import json
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError
from normcli.options.shared import InputOptions
from normcli.sources import Item, read_one
from normcli.sources.chunk_codecs import Chain, decode
from normcli.sources.zarr_array import array_of
from normcli.sources.zarr_files import open_files
from tests.support import needs
from tests.support.command import run_here
from tests.support.memory import peak
from tests.support.servers import upload

Array = np.ndarray[Any, Any]
zarr = needs.module("zarr")
SHAPE, CHUNKS, SHARDS = (7, 9, 10), (3, 9, 4), (6, 9, 8)


def values_of(dtype: str) -> Array:
    return np.random.default_rng(18).integers(0, 100, SHAPE).astype(dtype)


def read(path: Path) -> tuple[Any, Array]:
    """Return an array of ours, and all its samples."""
    files = open_files(str(path))
    name = "zarr.json" if files.read("zarr.json") else ".zarray"
    array = array_of(files, "", json.loads(files.read(name) or b""))
    return array, array.region((0,) * len(array.shape), array.shape)


def layouts(version: int) -> Iterator[dict[str, Any]]:
    """Yield codecs of a version, each once, with filters and orders."""
    from numcodecs import BZ2, CRC32, LZ4, LZMA, Adler32, Blosc, Delta, Fletcher32, GZip, Shuffle, Zlib, Zstd
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

    if version == 2:
        for packed in (None, Blosc(), Blosc("zstd", 5, 2), Zlib(), GZip(), BZ2(), LZMA(), Zstd(), LZ4()):
            yield {"compressors": packed, "order": "F"}
        for own in (Shuffle(2), Delta("<i2"), Delta("<i2", "<i4"), CRC32(), Adler32(), Fletcher32()):
            yield {"compressors": Zlib(), "filters": [own]}
        return
    turned = [TransposeCodec(order=(2, 0, 1)), TransposeCodec(order=(1, 0, 2))]
    for codecs in (None, BloscCodec(), GzipCodec(), ZstdCodec(checksum=True), [ZstdCodec(), Crc32cCodec()]):
        yield {"compressors": codecs, "filters": turned}
        yield {"compressors": codecs, "shards": SHARDS, "serializer": BytesCodec(endian="big")}


class TestChunks:
    @pytest.mark.parametrize("version", [2, 3])
    def test_they_are_decoded_as_by_the_zarr_library(self, version: int, tmp_path: Path) -> None:
        values, draw = values_of("i2"), random.Random(18)
        for i, layout in enumerate(layouts(version)):
            path = tmp_path / f"{i}.zarr"
            kind = {"shape": SHAPE, "dtype": "i2", "chunks": CHUNKS, "zarr_format": version, "fill_value": 7}
            written = zarr.create_array(path, **kind, **layout)
            written[:] = values
            written[0:3, :, 0:4] = 7  # a chunk without a file
            array, found = read(path)
            expected = zarr.open_array(path)[:]
            assert found.dtype == np.int16 and np.array_equal(found, expected), layout
            start = tuple(draw.randrange(n) for n in SHAPE)
            stop = tuple(draw.randrange(first, n) + 1 for first, n in zip(start, SHAPE, strict=True))
            part = tuple(map(slice, start, stop))
            assert np.array_equal(array.region(start, stop), expected[part]), (layout, part)

    @pytest.mark.parametrize("version", [2, 3])
    def test_fill_values(self, version: int, tmp_path: Path) -> None:
        cases = [("f4", np.nan), ("f8", np.inf), ("f4", 0.1), ("i2", -5), ("u8", 1 << 60), ("f2", 1.5), ("bool", True)]
        for i, (dtype, value) in enumerate(cases):
            kind = {"shape": (5, 6), "dtype": dtype, "chunks": (2, 2), "zarr_format": version}
            zarr.create_array(tmp_path / f"{i}.zarr", fill_value=value, **kind)
            _, found = read(tmp_path / f"{i}.zarr")
            assert found.dtype == dtype and np.array_equal(
                found, np.full((5, 6), value, dtype), equal_nan=dtype != "bool"
            )

    def test_shards_that_are_written_again(self, tmp_path: Path) -> None:
        """Shards of the same names and sizes are read anew in the same process."""
        for value in (1, 2, 3):
            kind = {"chunks": CHUNKS, "shards": SHARDS, "compressors": None}
            zarr.create_array(tmp_path / "a.zarr", data=np.full(SHAPE, value, "i2"), overwrite=True, **kind)
            source = normcli.source(tmp_path / "a.zarr", axes="NYX")
            assert normcli.stats(source, engine="serial").mean == [value]

    def test_each_thread_has_the_block_of_its_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from normcli.sources import chunked as module

        values = np.random.default_rng(0).integers(0, 256, (5, 7, 12, 10)).astype(np.uint8)
        np.save(tmp_path / "a.npy", values.reshape(-1, 12, 10))
        expected = normcli.stats(normcli.source(tmp_path / "a.npy", layout="nhw")).state
        zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(2, 4, 5, 6))
        for planes in (1, 3, 5, 100):  # that have room
            monkeypatch.setattr(module, "LARGEST_BLOCK", planes * 120)
            assert normcli.stats(normcli.source(tmp_path / "a.zarr", axes="TZYX"), workers=2).state == expected

    @pytest.mark.parametrize("skip_empty", ["no", "yes"])
    @pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
    def test_a_block_is_decoded_once(
        self, name: str, skip_empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from normcli.sources import chunked, hdf5_chunks, zarr_array

        values = np.random.default_rng(0).integers(1, 256, (26, 12, 10)).astype(np.uint8)
        zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(8, 6, 10))
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("images", data=values, chunks=(8, 6, 10), compression="gzip")
        monkeypatch.setattr(chunked, "LARGEST_BLOCK", 3 * 120)
        decoded = []

        def region(start: Any, *arguments: Any) -> Any:
            decoded.append(start[0])
            return chunked.region(start, *arguments)

        monkeypatch.setattr(zarr_array, "region", region)
        monkeypatch.setattr(hdf5_chunks, "region", region)
        source = normcli.source(tmp_path / name, axes="NYX", skip_empty=skip_empty)
        for engine in ("serial", "threads"):
            decoded.clear()
            assert normcli.stats(source, engine=engine, workers=2).images == 26
            assert sorted(decoded) == [0, 3, 6, 8, 11, 14, 16, 19, 22, 24], engine
        assert chunked._last.values is None  # of the last image, nothing stays


def zipped(folder: Path, path: Path, prefix: str = "", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


class TestPlaces:
    """A zip, or a server, in place of a folder."""

    @pytest.fixture
    def plate(self, tmp_path: Path) -> Path:
        root = zarr.open_group(tmp_path / "plate.zarr", mode="w", zarr_format=3)
        for i, well in enumerate(("A/1", "B/2")):
            image = root.create_group(f"{well}/0")
            image.create_array("0", data=values_of("u2") + i, chunks=CHUNKS, shards=SHARDS)
            axes = [{"name": name} for name in "zyx"]
            image.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}], "axes": axes}]}
        return tmp_path / "plate.zarr"

    def test_a_zip_is_read_like_its_folder(self, plate: Path, tmp_path: Path) -> None:
        expected = normcli.stats(plate, group_by="folder")
        paths = [
            zipped(plate, tmp_path / "a.zarr.zip"),
            zipped(plate, tmp_path / "b.zarr.zip", "plate.zarr/"),
            zipped(plate, tmp_path / "c.ozx", method=zipfile.ZIP_DEFLATED),
        ]
        for path in paths:
            summary = normcli.stats(path, group_by="folder")
            assert summary.to_json() == expected.to_json() and set(summary.groups) == {
                "A/1/0",
                "B/2/0",
            }
        import pickle

        item = next(iter(read_one(str(paths[0]), InputOptions())))
        assert isinstance(item, Item) and np.array_equal(pickle.loads(pickle.dumps(item.load))(), item.load())
        store = zarr.storage.ZipStore(tmp_path / "d.zarr.zip", mode="w")
        zarr.create_array(store, data=values_of("u2"), chunks=CHUNKS)
        store.close()
        np.save(tmp_path / "a.npy", values_of("u2"))
        one = normcli.stats(normcli.source(tmp_path / "d.zarr.zip", axes="NYX"))
        assert one.state == normcli.stats(normcli.source(tmp_path / "a.npy", layout="nhw")).state

    @pytest.mark.usefixtures("no_waiting")
    def test_servers(self, plate: Path, tmp_path: Path, server: Any, bucket: Any) -> None:
        expected = normcli.stats(plate, group_by="folder").to_json()
        zipped(plate, tmp_path / "a.zarr.zip")
        upload(bucket, tmp_path, "zarr")
        address, _ = server
        for source in (
            f"{address}/plate.zarr",
            f"{address}/a.zarr.zip",
            "s3://photos/zarr/plate.zarr",
            "s3://photos/zarr/a.zarr.zip",
        ):
            assert normcli.stats(source, group_by="folder").to_json() == expected, source

    @pytest.mark.usefixtures("no_waiting")
    def test_a_server_is_asked_for_what_is_read(self, plate: Path, tmp_path: Path, server: Any) -> None:
        """Not for a complete shard, where an image is in some of its chunks."""
        zarr.create_array(
            tmp_path / "b.zarr", data=values_of("u2"), chunks=(1, 9, 10), shards=(7, 9, 10), compressors=None
        )
        address, _ = server
        summary = normcli.stats(normcli.source(f"{address}/b.zarr", axes="NYX"), shard="1/7", engine="serial")
        assert summary.images == 1
        (tmp_path / "plate.zarr/index.html").write_text("no list")  # as servers of files have it
        done = run_here("stats", f"{address}/plate.zarr")
        assert done.code == 4 and "Traceback" not in done.err, done
        done = run_here("stats", f"{address}/none.zarr")
        assert done.code == 4 and "a folder without the metadata of Zarr" in done.err, done

    def test_a_zip_without_the_suffix_is_named(self, plate: Path, tmp_path: Path) -> None:
        done = run_here("stats", zipped(plate, tmp_path / "plate.zip"))
        assert done.code == 4 and "rename it to end with .zarr.zip" in done.err

    def test_names_of_a_zip_lead_nowhere(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr.zip"
        zarr.create_array(tmp_path / "a.zarr", data=values_of("u1"), chunks=CHUNKS)
        (tmp_path / "secret").write_bytes(b"secret")
        with zipfile.ZipFile(zipped(tmp_path / "a.zarr", path), "a") as archive:
            archive.writestr("../secret/zarr.json", "{}")
            archive.writestr("/etc/zarr.json", "{}")
        assert run_here("stats", path, "-O", "axes=NYX").code == 0
        for name in ("../secret", "/etc", "x/../../secret"):
            done = run_here("stats", path, "-O", f"variable={name}")
            assert done.code in (2, 4) and "Traceback" not in done.err, done
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr", "a.zarr.zip", "secret"]

    @pytest.mark.parametrize("name", [".", "/"])
    def test_the_root_has_names(self, name: str, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", data=values_of("u1"), chunks=CHUNKS)
        one = normcli.stats(tmp_path / "a.zarr", open_options=[f"variable={name}", "axes=NYX"])
        assert (one.images, one.mean) == (7, [values_of("u1").sum() / values_of("u1").size / 255])

    def test_damaged_zips_are_one_line(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", data=values_of("u1"), chunks=CHUNKS)
        sound = zipped(tmp_path / "a.zarr", tmp_path / "a.zarr.zip").read_bytes()
        draw, path = random.Random(18), tmp_path / "b.zarr.zip"
        contents = [sound[:-30], sound[: len(sound) // 2], b"PK", b"text" * 40]
        for _ in range(25):
            data = bytearray(sound)
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            contents.append(bytes(data))
        for content in contents:
            path.write_bytes(content)
            done = run_here("stats", path, "-O", "axes=NYX", "--engine", "serial")
            assert done.code in (0, 3) or (done.code in (2, 4) and done.is_error), done
            assert "Traceback" not in done.err and "unexpected" not in done.err, done

    def test_an_incremental_run_knows_a_zip(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", data=values_of("u1"), chunks=CHUNKS)
        path = zipped(tmp_path / "a.zarr", tmp_path / "a.zarr.zip")
        arguments = ["stats", path, "-O", "axes=NYX", "--incremental", "-o", tmp_path / "s.json"]
        assert run_here(*arguments).code == run_here(*arguments).code == 0
        path.unlink()
        zarr.open_array(tmp_path / "a.zarr", mode="a")[0] = 7
        zipped(tmp_path / "a.zarr", path)
        assert run_here(*arguments).code == 0
        assert normcli.load(tmp_path / "s.json").state == normcli.stats(normcli.source(path, axes="NYX")).state


def first_failure(path: Path) -> str:
    """Return the message of the first image of an array that cannot be read."""
    with pytest.raises(InputError) as caught:
        for item in read_one(normcli.source(path, axes="NYX"), InputOptions()):
            assert isinstance(item, Item)
            item.load()
    return str(caught.value)


def packed(name: str, size: int) -> bytes:
    """Return zeros that were compressed by a codec, with a header that hides it where it has one."""
    from numcodecs import blosc, lz4, zstd

    data = bytes(size)
    zeros: dict[str, Any] = {
        "zlib": zlib.compress,
        "gzip": lambda d: gzip.compress(d) + gzip.compress(b""),
        "bz2": bz2.compress,
        "lzma": lzma.compress,
        "zstd": zstd.compress,
        "blosc": lambda d: blosc.compress(d, b"lz4", 1),
        "lz4": lz4.compress,
    }
    return bytes(zeros[name](data))


class TestHostile:
    @pytest.mark.parametrize("name", ["zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4"])
    def test_a_chunk_that_expands_beyond_its_shape(self, name: str) -> None:
        chain = Chain(((name, {}),), "|u1", (0, 1))
        assert decode(packed(name, 4096), chain, (64, 64)).sum() == 0
        with pytest.raises(InputError, match="expands to more than") as caught:
            decode(packed(name, 1 << 22), chain, (64, 64))
        assert caught.value.reason == "bomb"
        for size in (4095, 4097, 1):
            with pytest.raises(InputError, match="bytes, but its shape has 4,096"):
                decode(packed(name, size), chain, (64, 64))

    def test_the_same_without_imagecodecs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("normcli.sources.chunk_codecs._libdeflate", lambda: None)
        self.test_a_chunk_that_expands_beyond_its_shape("zlib")
        values = values_of("i4")
        for size in (1, 2, 3, 4, 8, 12):
            shuffled = zlib.compress(values.view(np.uint8).reshape(-1, size).T.tobytes())
            chain = Chain((("zlib", {}), ("shuffle", {"elementsize": size})), "<i4", (0, 1, 2))
            assert np.array_equal(decode(shuffled, chain, SHAPE), values)

    def test_frames_of_zstandard_that_have_no_size(self) -> None:
        """Blocks of one repeated byte: 128 KB of memory for 4 bytes of a file."""
        block = struct.pack("<I", 1 << 17 << 3 | 1 << 1)[:3] + b"\0"
        last = struct.pack("<I", 1 << 17 << 3 | 1 << 1 | 1)[:3] + b"\0"
        frame = struct.pack("<IBB", 0xFD2FB528, 0, 0x58) + block * 1000 + last
        chain = Chain((("zstd", {}),), "|u1", (0,))
        assert decode(frame[:6] + last, chain, (1 << 17,)).nbytes == 1 << 17
        with pytest.raises(InputError, match="expands to more than"):
            decode(frame, chain, (1 << 17,))
        hidden = (
            struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 17) + block * 1000 + last
        )  # a size that is not that of its blocks
        with pytest.raises(InputError, match="expands to more than"):
            decode(hidden, chain, (1 << 17,))

    def test_cut_and_changed_chunks(self) -> None:
        """A codec reads no byte beyond the chunk for any header: Blosc once trusted it."""
        draw = random.Random(18)
        for name in ("zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4"):
            chain, sound = Chain(((name, {}),), "|u1", (0,)), packed(name, 4096)
            data = [sound[:n] for n in range(0, len(sound), max(1, len(sound) // 20))]
            for _ in range(100):
                one = bytearray(sound)
                for _ in range(draw.randint(1, 4)):
                    one[draw.randrange(len(one))] = draw.randrange(256)
                data.append(bytes(one))
            for one_chunk in data:
                try:
                    assert decode(one_chunk, chain, (4096,)).nbytes == 4096
                except InputError as error:
                    assert error.message
                except (struct.error, zlib.error, lzma.LZMAError, OSError, RuntimeError, EOFError, ValueError):
                    pass  # `zarr.decoded` names them

    def test_metadata_that_lies(self, tmp_path: Path) -> None:
        for version in (2, 3):
            path = tmp_path / f"{version}.zarr"
            zarr.create_array(path, data=values_of("u1"), chunks=CHUNKS, zarr_format=version)
            metadata = path / ("zarr.json" if version == 3 else ".zarray")
            sound = json.loads(metadata.read_text())
            chunks = (
                {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": n}}}
                if version == 3
                else {"chunks": n}
                for n in ([0, 9, 4], [10**6, 10**6, 9], ["3", 9, 4], [3, 9], [True, 9, 4])
            )
            lies: list[tuple[dict[str, Any], str]] = [
                ({"shape": [10**18, 9, 10]}, "planes"),
                ({"shape": [7, 10**9, 10**9]}, "more than the limit"),
                ({"shape": [7, -9, 10]}, "has no shape"),
                ({"shape": [7, 9.5, 10]}, "has no shape"),
                ({"shape": [[7], 9, 10]}, "has no shape"),
                *(({"shape": shape}, "has no shape") for shape in (None, 7, True, 0.5, "7")),
                ({"fill_value": "much"}, "fill value"),
                ({"fill_value": 1e300}, "fill value"),
                ({"fill_value": 256}, "fill value"),
                ({"dtype" if version == 2 else "data_type": "O"}, "not of numbers"),
                ({"dtype" if version == 2 else "data_type": [["a", "u1"]]}, "numbers"),
                *((change, "lengths of chunks|more than 268") for change in chunks),
            ]
            if version == 3:
                grid = {"name": "rectilinear", "configuration": {}}
                lies += [
                    ({"chunk_grid": grid}, "chunks of different lengths"),
                    ({"codecs": [{"name": "bytes"}, {"name": "pickle"}]}, "the codec pickle"),
                    ({"codecs": []}, "no bytes codec"),
                    (
                        {"codecs": [{"name": "transpose", "configuration": {"order": [0, 0, 1]}}, {"name": "bytes"}]},
                        "order",
                    ),
                    ({"codecs": [{"name": "bytes"}, {"name": "gzip"}, {"name": "zstd"}]}, "compressed twice"),
                    ({"codecs": [{"name": "sharding_indexed", "configuration": {}}]}, "no bytes codec"),
                    *(
                        ({"codecs": [{"name": "sharding_indexed", "configuration": {"index_codecs": index}}]}, "codec")
                        for index in (5, True, 0.5)
                    ),
                ]
            else:
                lies += [
                    ({"filters": [{"id": "pickle"}]}, "the codec pickle"),
                    ({"filters": [{"id": "json2"}]}, "the codec json2"),
                    ({"filters": [{"id": "delta", "dtype": "u1", "astype": "O"}]}, "samples of O"),
                    ({"filters": [{"id": "delta", "dtype": "O"}]}, "samples of O"),
                    (
                        {"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 4 << 30}]}},
                        "cannot|lzma",
                    ),
                    ({"compressor": ["zlib"]}, "codec without a name"),
                    ({"dimension_separator": "/../"}, "separates"),
                ]
            for change, message in lies:
                metadata.write_text(json.dumps({**sound, **change}))
                done = run_here("stats", path, "-O", "axes=NYX", "--engine", "serial")
                assert done.code in (3, 4) and "Traceback" not in done.err, (change, done)
                assert any(part in done.err + done.out for part in message.split("|")), (change, done)

    def test_shards_whose_index_lies(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        zarr.create_array(path, data=values_of("u1"), chunks=CHUNKS, shards=SHARDS, compressors=None)
        file = path / "c/0/0/0"
        sound = file.read_bytes()
        import google_crc32c

        for place in ((0, 1 << 40), (1 << 63, 16), (0, 1 << 20), (len(sound) - 4, 8)):
            index = struct.pack("<QQ", *place) + sound[-68 + 16 : -4]
            file.write_bytes(sound[:-68] + index + struct.pack("<I", google_crc32c.value(index)))
            done = run_here("stats", path, "-O", "axes=NYX", "--engine", "serial")
            assert done.code == 3 and "Traceback" not in done.err, done
        for data, message in ((sound[:-1], "checksum"), (sound[:20], "no index"), (b"", "no index")):
            file.write_bytes(data)
            assert message in first_failure(path), message

    def test_a_chunk_that_is_no_file_is_not_the_fill_value(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        zarr.create_array(path, data=values_of("u1"), chunks=(7, 9, 10))
        file = path / "c/0/0/0"
        file.unlink()
        assert normcli.stats(normcli.source(path, axes="NYX")).max == [0]
        file.symlink_to(tmp_path / "none")
        assert "dangling link" in first_failure(path)
        file.unlink()
        file.mkdir()
        assert normcli.stats(normcli.source(path, axes="NYX")).images == 7

    def test_memory_of_a_bomb_in_a_sparse_array(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", shape=(16, 2048, 8192), dtype="u1", chunks=(8, 256, 256))
        bomb = tmp_path / "a.zarr/c/0/0/0"
        bomb.parent.mkdir(parents=True)
        bomb.write_bytes(packed("zstd", 1 << 29))
        used, done = peak(tmp_path, "stats", "a.zarr", "-O", "axes=NYX", "-j", "2", "--engine", "threads")
        assert done.returncode == 3 and used < 300 and b"8 inputs failed: 8 bomb" in done.stderr, (used, done.stderr)
