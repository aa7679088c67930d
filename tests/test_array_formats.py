"""The headers of .npy and .safetensors: one parser for images and tensors, equal to NumPy's and the library's."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from normcli.errors import InputError, TensorError
from normcli.storage.npy import MAX_HEADER, npy_header, parse_npy_header, read_npy_header, write_npz
from normcli.storage.safetensors_format import read_safetensors_header, safetensors_header
from normcli.tensor import files
from tests.support import needs

DTYPES = ("|b1", "|u1", "|i1", "<u2", ">i2", "<f2", "<f4", ">f8", "<i8", "<c16", "<U5")
SHAPES = stn.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9)


@given(SHAPES, st.sampled_from(DTYPES), st.booleans())
def test_npy_headers_are_those_of_numpy(shape: tuple[int, ...], dtype: Any, fortran: bool) -> None:
    array = np.zeros(shape, dtype, order="F" if fortran else "C")
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    file.seek(0)
    header = read_npy_header(file)
    assert header == parse_npy_header(data[:MAX_HEADER])
    assert (header.dtype, header.shape, header.start) == (dtype, shape, len(data) - array.nbytes)
    assert file.tell() == header.start
    assert header.fortran == (array.flags.f_contiguous and not array.flags.c_contiguous)
    if not header.fortran:
        assert npy_header(shape, dtype) == data[: header.start]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_npy_are_read(version: tuple[int, int]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(6.0).reshape(2, 3), version=version)
    assert parse_npy_header(file.getvalue())[:3] == ("<f8", False, (2, 3))


def npy(text: bytes, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


VALID = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
BAD_NPY = [
    (b"", "not-an-array", "not a NumPy file"),
    (b"P6 4 4 255 and so on", "not-an-array", "not a NumPy file"),
    (npy(VALID, b"\x04\x00"), "unsupported", "version 4.0"),
    (npy(VALID)[:40], "truncated", "cut short inside its header"),
    (npy(b" " * 20_000), "damaged", "its header claims 20000 bytes, more than 10000"),
    (npy(VALID.replace(b"(2, 3)", b"(2, -3)")), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"(2, 3)", b"(2, True)")), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"(2, 3)", b"(2, 9**9)")), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"(2, 3)", b"(2, 1000000000000000000)")), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"'shape'", b"'shope'")), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"(2, 3)", b"__import__('os').getpid()")), "damaged", "a damaged NumPy header"),
    (npy(b"[" * 5000), "damaged", "a damaged NumPy header"),
    (npy(VALID.replace(b"<f4", b"|O")), "unsupported", "objects or records"),
    (npy(VALID.replace(b"'<f4'", b"[('a', '<f4')]")), "unsupported", "objects or records"),
    (npy(VALID.replace(b"<f4", b"f9")), "damaged", "unknown type 'f9'"),
]


@pytest.mark.parametrize(("data", "reason", "message"), BAD_NPY, ids=[str(i) for i in range(len(BAD_NPY))])
def test_a_damaged_npy_header_is_rejected_for_images_and_tensors_alike(
    tmp_path: Path, data: bytes, reason: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_npy_header(data)
    assert caught.value.reason == reason
    assert message in caught.value.message
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(TensorError) as refused:
        files.read_one(str(path))
    assert str(refused.value) == f"{path}: {caught.value.message}"


def test_long_integers_of_python_2_are_read() -> None:
    assert parse_npy_header(npy(VALID.replace(b"(2, 3)", b"(2L, 3L)"))).shape == (2, 3)


def test_npz_is_what_numpy_reads_and_the_same_bytes_again(tmp_path: Path) -> None:
    arrays = {"image": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.empty((0, 3)), "one": np.float64(3)}
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, {key: np.asarray(value) for key, value in arrays.items()}, mode=0o644)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as loaded:
        for key, value in arrays.items():
            np.testing.assert_array_equal(loaded[key], value)


FLOATS_AND_INTEGERS = ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


@given(st.lists(st.tuples(SHAPES, st.sampled_from(FLOATS_AND_INTEGERS)), max_size=4), st.booleans())
def test_safetensors_are_those_of_the_library(described: Any, labelled: bool) -> None:
    library = needs.module("safetensors.numpy")
    arrays = {f"t{i}": np.ones(shape, dtype) for i, (shape, dtype) in enumerate(described)}
    metadata = {"scale": "[0.5]"} if labelled else None
    written = safetensors_header({name: (a.shape, a.dtype) for name, a in arrays.items()}, metadata)
    written += b"".join(a.tobytes() for a in arrays.values())
    loaded = library.load(written)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    theirs = library.save(arrays, metadata)
    entries, labels = read_safetensors_header(io.BytesIO(theirs), len(theirs))
    assert labels == (metadata or {})
    for name, array in arrays.items():
        entry = entries[name]
        assert (np.dtype(entry.dtype), entry.shape) == (array.dtype, array.shape)
        assert theirs[entry.start : entry.start + array.nbytes] == array.tobytes()


def safetensors(entry: Any, size: int = 24, **others: Any) -> bytes:
    text = json.dumps({"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **entry}, **others}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


BAD_SAFETENSORS = [
    (b"", "claims 0 bytes of a file of 0"),
    ((1 << 40).to_bytes(8, "little") + b"{}", "claims 1099511627776 bytes"),
    ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
    ((4).to_bytes(8, "little") + b"[[[[", "not JSON"),
    (safetensors({}, size=20), "its tensors end at"),
    (safetensors({"shape": [2, 4]}), "claims 24 bytes"),
    (safetensors({"shape": [2.0, 3]}), "has the shape"),
    (safetensors({"shape": [True, 6]}), "has the shape"),
    (safetensors({"shape": 6}), "is incomplete"),
    (safetensors({"data_offsets": [4, 28]}, size=28), "starts at 4, not at 0"),
    (safetensors({"data_offsets": [-8, 16]}), "has the shape"),
    (safetensors({"data_offsets": [0]}), "is incomplete"),
    (safetensors({"dtype": "F99"}), "has the dtype 'F99'"),
    (safetensors({"dtype": ["F32"]}), "has the dtype"),
    (safetensors({}, __metadata__={"scale": 1}), "metadata is not a map of strings"),
]


@pytest.mark.parametrize(("data", "message"), BAD_SAFETENSORS, ids=[str(i) for i in range(len(BAD_SAFETENSORS))])
def test_a_damaged_safetensors_header_is_rejected_for_images_and_tensors_alike(
    tmp_path: Path, data: bytes, message: str
) -> None:
    from normcli.sinks.files import read_file

    with pytest.raises(InputError) as caught:
        read_safetensors_header(io.BytesIO(data), len(data))
    assert caught.value.reason == "damaged"
    assert message in caught.value.message
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(TensorError) as refused:
        files.read_one(str(path))
    assert str(refused.value) == f"{path}: {caught.value.message}"
    with pytest.raises(InputError, match=r"safetensors file"):
        read_file("safetensors", path, "drop")
