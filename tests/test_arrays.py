"""Arrays of images: npy, npz, idx; the same pixels in every layout, nothing unpickled, nothing trusted."""

import gzip
import io
import pickle
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from normcli.options.shared import InputOptions
from normcli.sources import CONTAINERS, Item, container, describe_formats, expand, read, source
from tests.support.outcomes import outcome

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 9, 11, 3), dtype=np.uint8)


def numbers(source: Path, **options: Any) -> tuple[int, list[float], list[float]]:
    summary = normcli.stats(source, **options)
    return summary.images, summary.mean, summary.std


def expected(images: np.ndarray[Any, Any]) -> tuple[int, list[float], list[float]]:
    flat = images.reshape(-1, images.shape[-1]).astype(np.float64) / (255 if images.dtype == np.uint8 else 65535)
    return len(images), flat.mean(0).tolist(), flat.std(0).tolist()


def close(found: tuple[int, list[float], list[float]], right: tuple[int, list[float], list[float]]) -> bool:
    return found[0] == right[0] and all(
        np.allclose(a, b, atol=1e-12) for a, b in zip(found[1:], right[1:], strict=True)
    )


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<u2"])
def test_npy_in_both_layouts_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    images = IMAGES.astype(dtype) * np.array(1 if dtype == "u1" else 250, dtype)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    native = images.astype(images.dtype.newbyteorder("="))
    assert close(numbers(tmp_path / "a.npy"), expected(native))
    assert close(numbers(tmp_path / "b.npy"), expected(native))
    assert close(numbers(tmp_path / "b.npy", open_options={"layout": "nchw"}), expected(native))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_takes_one_array_of_images_and_its_labels(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", x_train=IMAGES, y_train=np.arange(7), x_test=IMAGES[:2], y_test=np.array([5, 6]))
    with pytest.raises(UsageError, match="images in arrays x_train, x_test: choose one"):
        normcli.stats(tmp_path / "a.npz")
    listing = InputOptions(open_options={"column": "x_train"})
    items = [i for i in read([str(tmp_path / "a.npz")], listing) if isinstance(i, Item)]
    assert [item.label for item in items] == ["0", "1", "2", "3", "4", "5", "6"]
    assert [np.array_equal(item.load(), IMAGES[i]) for i, item in enumerate(items)] == [True] * 7
    assert items[0].key.endswith("a.npz/x_train/0")
    assert close(numbers(tmp_path / "a.npz", open_options={"column": "x_test"}), expected(IMAGES[:2]))
    with pytest.raises(UsageError, match="no array 'z'"):
        normcli.stats(tmp_path / "a.npz", open_options={"column": "z"})


def idx(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def test_idx_is_read_plain_and_gzipped_with_its_labels(tmp_path: Path) -> None:
    images = IMAGES[..., 0]
    for pack, suffix in ((bytes, ""), (gzip.compress, ".gz")):
        (tmp_path / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (tmp_path / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(7, dtype=np.uint8))))
        source = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
        assert close(numbers(source), expected(images[..., None]))
        items = [i for i in read([str(source)], InputOptions()) if isinstance(i, Item)]
        assert [item.label for item in items] == list("0123456")


def test_what_is_no_stack_of_images_is_one_clear_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cases: list[tuple[bytes, str]] = []

    def saved(array: Any) -> bytes:
        np.save(path, array, allow_pickle=True)
        return path.read_bytes()

    good = saved(IMAGES)
    cases += [(good[:place], "truncated") for place in (20, 127, 128, len(good) - 1)]
    cases += [(good[:4], "not-an-array"), (b"x" * 99, "not-an-array"), (b"", "not-an-array")]
    cases += [(saved(np.array([{"a": 1}], object)), "unsupported"), (saved(np.array(["text"])), "unsupported")]
    cases += [(saved(np.zeros((2, 9, 9, 3), complex)), "unsupported"), (saved(np.zeros(5)), "not-an-image")]
    cases += [(saved(np.asfortranarray(IMAGES)), "unsupported"), (saved(np.zeros((3, 0, 9, 3))), "empty")]
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9, 99999, 99999, 3), }"
    lying = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    cases += [(lying, "truncated"), (lying.replace(b"(9,", b"(-9"), "damaged")]
    cases += [(lying.replace(b"'|u1'", b"__import__('os')"), "damaged")]
    for data, reason in cases:
        path.write_bytes(data)
        assert outcome(path) == (0, Counter({reason: 1}), Counter()), (data[:80], reason)


def test_an_unclear_layout_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="may be nhwc or nchw"):
        normcli.stats(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="may be nhw, hwc or chw"):
        normcli.stats(tmp_path / "b.npy")
    assert normcli.stats(tmp_path / "b.npy", open_options={"layout": "chw"}).channels == ["R", "G", "B"]
    with pytest.raises(UsageError, match="must be one of"):
        normcli.stats(tmp_path / "b.npy", open_options={"layout": "xyz"})


def test_an_open_option_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match=r"no container has this option .did you mean 'layout'"):
        source(str(tmp_path / "a.npz"), lyout="nhwc")
    with pytest.raises(UsageError, match=r"layout=nwhc: must be one of .*did you mean 'nchw'|did you mean 'nhwc'"):
        source(str(tmp_path / "a.npz"), layout="nwhc")
    with pytest.raises(
        UsageError, match="column=x: no source here has this option; it belongs to parquet, arrow, hugging"
    ):
        source(str(tmp_path / "a.zip"), column="x")


def test_a_source_has_open_options_of_its_own(tmp_path: Path) -> None:
    one, two = np.full((2, 8, 8, 3), 10, np.uint8), np.full((2, 8, 8, 3), 30, np.uint8)
    np.savez(tmp_path / "a.npz", one=one, two=two)
    path = tmp_path / "a.npz"
    second = source(str(path), column="two")
    assert repr(second) == f"source({str(path)!r}, column='two')"
    assert normcli.stats(second).images == 2
    assert normcli.stats(second).mean == normcli.stats(path, open_options={"column": "two"}).mean
    kept = pickle.loads(pickle.dumps(second))
    assert (kept, kept.open_options) == (second, {"column": "two"})
    braces = source(str(tmp_path / "{a,b}.npz"), column="one")
    assert [getattr(path, "open_options", None) for path in expand(braces)] == [{"column": "one"}] * 2


def test_every_container_describes_its_open_options() -> None:
    rows = {row.name: row for row in describe_formats()}
    assert set(rows) == {"image", *CONTAINERS}
    assert {name: [o.name for o in row.options] for name, row in rows.items() if row.options} == {
        "image": ["layout", "frames", "series", "axes", "skip_empty"],
        "tar": ["layout"],
        "zip": ["layout"],
        "arrow": ["column", "columns"],
        "huggingface": ["split", "column", "columns"],
        "lerobot": ["features", "frames"],
        "npy": ["layout", "axes", "column", "skip_empty"],
        "idx": ["layout"],
        "hdf5": ["variable", "axes", "skip_empty"],
        "nifti": ["skip_empty"],
        "zarr": ["variable", "axes", "skip_empty"],
        "parquet": ["column", "columns"],
        "python": ["key", "layout", "labels", "partial"],
        "video": ["frames", "matrix", "pixels"],
        "file_list": ["column", "columns"],
    }
    assert all(o.help.endswith(".") or o.help.endswith(").") for row in rows.values() for o in row.options)
    del rows["image"], rows["huggingface"], rows["python"], rows["lerobot"]
    assert all(container(f"a{suffix}") == name for name, row in rows.items() for suffix in row.suffixes)


def test_bytes_behind_an_array_are_reported(tmp_path: Path) -> None:
    """`np.save` writes several arrays into one open file: all but the first were left out without a message."""
    arrays = [np.full((2, 5, 6, 3), value, np.uint8) for value in (10, 20)]
    with (tmp_path / "two.npy").open("wb") as file:
        for array in arrays:
            np.save(file, array)
    summary = normcli.stats(tmp_path / "two.npy")
    assert (summary.images, summary.failures) == (2, {"trailing-data": 1})
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder/two.npy").open("wb") as file:
        for array in arrays:
            np.save(file, array[0])
    np.save(tmp_path / "folder/one.npy", arrays[0][0])
    summary = normcli.stats(tmp_path / "folder", include="*.npy", open_options={"layout": "hwc"})
    assert (summary.images, summary.failures) == (1, {"trailing-data": 1})


def test_an_npz_of_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz")
    with pytest.raises(normcli.NoInputError, match="no array of images"):
        normcli.stats(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_end_of_an_array_in_an_archive_is_checked(method: int, tmp_path: Path) -> None:
    """A changed byte of a stored array was counted without a message, which `numpy.load` rejects."""
    array = np.arange(240, dtype=np.uint8).reshape(2, 8, 5, 3)
    np.save(buffer := io.BytesIO(), array)
    for name, data in (("good", buffer.getvalue()), ("long", buffer.getvalue() + b"junk")):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", method) as archive:
            archive.writestr("x.npy", data)
    summary = normcli.stats(tmp_path / "good.npz")
    assert (summary.images, summary.failed) == (2, 0)
    assert normcli.stats(tmp_path / "long.npz").failures == {"trailing-data": 1}
    damaged = (tmp_path / "good.npz").read_bytes()
    at = damaged.index(b"PK\1\2") + 16  # the checksum in the directory
    (tmp_path / "bad.npz").write_bytes(damaged[:at] + bytes([damaged[at] ^ 1]) + damaged[at + 1 :])
    assert normcli.stats(tmp_path / "bad.npz").failures == {"damaged": 1}
    axes = normcli.source(tmp_path / "bad.npz", axes="NYXC")
    assert normcli.stats(axes).failures == {"damaged": 1}
    if method == zipfile.ZIP_STORED:
        at = damaged.index(array.tobytes())
        (tmp_path / "bad.npz").write_bytes(damaged[:at] + b"!" + damaged[at + 1 :])
        assert normcli.stats(tmp_path / "bad.npz").failures == {"damaged": 1}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bytes_behind_an_idx_are_reported(suffix: str, tmp_path: Path) -> None:
    data = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5)) + bytes(range(40))
    path = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    for more, failures in ((b"", {}), (b"junk", {"trailing-data": 1})):
        path.write_bytes(gzip.compress(data + more) if suffix else data + more)
        summary = normcli.stats(path)
        assert (summary.images, summary.failures) == (2, failures)
