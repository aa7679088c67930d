"""Volumes and scientific arrays: numbers as their own libraries compute them, one state for the same integers."""

import gzip
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError, NormcliError, UsageError
from normcli.options.shared import InputOptions
from normcli.sources import read_one
from normcli.sources.cf import DEFAULT_FILL
from normcli.sources.nifti import parse_header
from tests.support import needs
from tests.support.command import ROOT, run_here
from tests.support.memory import peak
from tests.support.servers import upload

Array = np.ndarray[Any, Any]


def volume(dtype: Any = np.int16, shape: tuple[int, ...] = (3, 5, 12, 10)) -> Array:
    """Return an array whose last two axes are the rows and columns of planes."""
    values = np.random.default_rng(18).integers(0, 1000, shape)
    return (values - 300).astype(dtype) if np.dtype(dtype).kind == "i" else (values % 251).astype(dtype)


def stack(path: Path, values: Array) -> normcli.sources.Source:
    """Write the planes of a volume as an .npy."""
    np.save(path, values.reshape(-1, *values.shape[-2:]))
    return normcli.source(path, layout="nhw")


def nifti(path: Path, values: Array, *, slope: float = 1.0, inter: float = 0.0, order: str = "<") -> Path:
    """Write a volume of (T,Z,Y,X) as NIfTI or Analyze, by the suffix."""
    nibabel = needs.module("nibabel")
    kind = {".nii": nibabel.Nifti1Image, ".gz": nibabel.Nifti1Image, ".img": nibabel.Nifti1Pair}[path.suffix]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    image = kind(np.ascontiguousarray(values.T), np.eye(4), header)
    image.header.set_slope_inter(slope, inter)
    image.to_filename(path)
    return path


def state(*sources: Any, **options: Any) -> Any:
    return normcli.stats([str(s) if isinstance(s, Path) else s for s in sources], **options).state


def to_digits_of(text: str, value: float) -> str:
    """Return a number with as many decimals as a text has.

    >>> to_digits_of("1.50", 2 / 3)
    '0.67'
    """
    return f"{value:.{len(text.partition('.')[2])}f}"


def nibabel_data() -> Path:
    folder = Path(needs.module("nibabel").__file__).parent / "tests" / "data"
    return folder if folder.is_dir() else needs.skip(needs.INSTALL["nibabel"])


# imports nibabel in two threads at once: as a volume is opened for writing, and meanwhile as a header is parsed
IMPORTS = """
import importlib, sys, threading
from normcli.sources import nifti
raised = []
def run(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        raised.append(error)
def parse():
    while "nibabel" not in sys.modules:
        pass
    nifti._header_classes()
threads = [threading.Thread(target=run, args=one) for one in ((importlib.import_module, "nibabel"), (parse,))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not raised, raised
"""


class TestNifti:
    def test_two_threads_import_its_library(self) -> None:
        needs.module("nibabel")
        done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize(
        ("name", "images", "mean", "std"),
        [
            ("example4d.nii.gz", 48, "172.908115", "238.7681"),
            ("functional.nii", 60, "3637.40851", "530.412374"),
            ("anatomical.nii", 25, "8401.06673", "2526.65611"),
        ],
    )
    def test_reference_values(self, name: str, images: int, mean: str, std: str) -> None:
        nibabel = needs.module("nibabel")
        path = nibabel_data() / name
        summary = normcli.stats(path)
        assert summary.images == images
        assert [to_digits_of(mean, summary.mean[0]), to_digits_of(std, summary.std[0])] == [mean, std]
        values = np.asanyarray(nibabel.load(path).dataobj, np.float64)
        assert summary.mean + summary.std == pytest.approx([values.mean(), values.std()], rel=1e-12)

    def test_reference_values_of_what_is_not_zero(self) -> None:
        summary = normcli.stats(
            nibabel_data() / "example4d.nii.gz", nodata="0", percentiles="0.5,99.5", exact_percentiles=True
        )
        assert summary.pixels == 229_725
        assert [f"{value:.6f}" for value in summary.mean + summary.std] == ["443.945396", "161.397664"]
        assert [summary.percentiles[p] for p in ("0.5", "99.5")] == [[29], [782]]

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
    def test_the_state_is_that_of_an_npy(self, dtype: str, tmp_path: Path) -> None:
        values = volume(dtype)
        expected = state(stack(tmp_path / "a.npy", values))
        for name, order in (("a.nii", "<"), ("b.nii", ">"), ("c.nii.gz", ">"), ("d.img", ">")):
            assert state(nifti(tmp_path / name, values, order=order)) == expected, name
        assert state(tmp_path / "d.hdr") == expected

    def test_a_proxy_of_nibabel_is_counted_in_python(self, tmp_path: Path) -> None:
        """It has a shape but no length, and raises ValueError after its end, which counted as a failure."""
        nibabel = needs.module("nibabel")
        proxy = nibabel.load(nifti(tmp_path / "a.nii.gz", volume(shape=(1, 3, 5, 4))[0], slope=0.5, inter=3)).dataobj
        summary = normcli.count(proxy)
        assert summary.complete and summary.images == 4
        assert summary.mean == pytest.approx([np.asarray(proxy).mean()])

    def test_names_and_labels(self, tmp_path: Path) -> None:

        values = volume(shape=(2, 11, 4, 3))
        items: list[Any] = list(read_one(str(nifti(tmp_path / "case_7.nii.gz", values)), InputOptions()))
        names = [item.key.partition(".gz/")[2] for item in items]
        assert (names[:2], names[-1], len(names)) == (["0/00", "0/01"], "1/10", 22)
        assert {item.label for item in items} == {"case_7"}
        assert np.array_equal(items[12].load(), values[1, 1])

    def test_each_file_is_a_group(self, tmp_path: Path) -> None:
        for i in range(3):
            nifti(tmp_path / f"case{i}.nii", volume()[i : i + 1])
        summary = normcli.stats(sorted(map(str, tmp_path.glob("*.nii"))), group_by="label")
        assert {name: group.images for name, group in summary.groups.items()} == {f"case{i}": 5 for i in range(3)}

    def test_scales_apply_to_the_results(self, tmp_path: Path) -> None:
        values = volume()
        stored = normcli.stats(nifti(tmp_path / "a.nii", values))
        scaled = normcli.stats(nifti(tmp_path / "b.nii", values, slope=-0.5, inter=8))
        assert scaled.mean == [8 - stored.mean[0] / 2]
        assert (scaled.min, scaled.max) == ([8 - values.max() / 2], [8 - values.min() / 2])
        assert normcli.stats(tmp_path / "b.nii", scale_offset="none").mean == stored.mean
        both = [str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]
        with pytest.raises(normcli.errors.UsageError, match=r"`scale_offset` none .* values counts scaled ones"):
            normcli.stats(both)
        pooled = np.concatenate([values.ravel(), values.ravel() * -0.5 + 8])
        summary = normcli.stats(both, scale_offset="values")
        assert summary.mean + summary.std == pytest.approx([pooled.mean(), pooled.std()], rel=1e-12)

    def test_colors_and_nan(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        colors = volume("u1", (4, 6, 5, 3))
        voxels = np.ascontiguousarray(colors.transpose(2, 1, 0, 3)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.Nifti1Image(voxels[..., 0], np.eye(4)).to_filename(tmp_path / "c.nii")
        np.save(tmp_path / "c.npy", colors)
        assert state(tmp_path / "c.nii") == state(tmp_path / "c.npy")
        values = volume("f4")
        values[0, 0, 0, 0] = np.nan
        assert normcli.stats(nifti(tmp_path / "n.nii", values), nan="skip").invalid == [1]

    def test_parts_and_engines(self, tmp_path: Path) -> None:
        path = nifti(tmp_path / "a.nii.gz", volume(), slope=2)
        once = normcli.stats(path, engine="serial")
        parts = [normcli.stats(path, shard=f"{i}/3", engine="processes", workers=2) for i in (1, 2, 3)]
        assert normcli.merge(*parts).state == once.state

    def test_a_header_and_its_samples_are_one_source(self, tmp_path: Path) -> None:
        nifti(tmp_path / "a.img", volume())
        with pytest.raises(normcli.errors.UsageError, match="same SOURCE twice"):
            normcli.stats([str(tmp_path / "a.img"), str(tmp_path / "a.hdr")])

    def test_apply_maps_the_values_of_the_scale(self, tmp_path: Path) -> None:
        path = nifti(tmp_path / "a.nii", volume(shape=(2, 4, 3)), slope=2, inter=1)
        normcli.apply(path, tmp_path / "out", scheme="contrast")
        out = np.stack([np.load(tmp_path / "out" / f"{i}.npy") for i in range(2)])
        assert (out.mean(), out.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))

    def test_damage_is_one_line(self, tmp_path: Path) -> None:
        sound = nifti(tmp_path / "a.nii", volume()).read_bytes()
        lying = {
            "cut": (sound[:-7], "cut short|1 truncated"),
            "header": (sound[:200], "neither NIfTI"),
            "text": (b"<html>" * 100, "neither NIfTI"),
            "huge": (sound[:40] + struct.pack("<8h", 4, *[32767] * 4, 1, 1, 1) + sound[56:], "cut short"),
            "negative": (sound[:40] + struct.pack("<8h", 3, 5, -5, 5, 1, 1, 1, 1) + sound[56:], "shape"),
            "type": (sound[:70] + struct.pack("<h", 77) + sound[72:], "unknown type 77"),
            "complex": (sound[:70] + struct.pack("<2h", 32, 64) + sound[74:], "complex"),
            "start": (sound[:108] + struct.pack("<f", 4) + sound[112:], "start at byte 4"),
            "infinite": (sound[:108] + struct.pack("<f", np.inf) + sound[112:], "damaged"),
            "offset": (sound[:116] + struct.pack("<f", np.nan) + sound[120:], "header is damaged"),
        }
        for name, (data, message) in lying.items():
            for suffix, content in ((".nii", data), (".nii.gz", gzip.compress(data))):
                path = tmp_path / f"{name}{suffix}"
                path.write_bytes(content)
                done = run_here("stats", path)
                if (name, suffix) == ("huge", ".nii.gz"):
                    message = "more than the limit"
                assert done.code == 3 or (done.code == 4 and done.is_error), (name, suffix, done)
                assert any(part in done.out + done.err for part in message.split("|")), (name, suffix, done)

    def test_changed_bytes_raise_nothing_else(self, tmp_path: Path) -> None:
        needs.module("nibabel")
        sound = nifti(tmp_path / "a.nii", volume(shape=(2, 3, 4))).read_bytes()[:352]
        draw = random.Random(18)
        for _ in range(400):
            data = bytearray(sound)
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                parse_header(bytes(data))
            except InputError as error:
                assert error.message


def hdf5(path: Path, values: Array, name: str = "images", **settings: Any) -> Path:
    with needs.module("h5py").File(path, "w") as file:
        file.create_dataset(name, data=values, **settings)
    return path


def netcdf(path: Path, values: Array, **attributes: Any) -> Path:
    """Write a variable of (time, level, lat, lon) with coordinates and bounds, as netCDF-C lays them out."""
    h5py = needs.module("h5py")
    with h5py.File(path, "w") as file:
        variable = file.create_dataset("t2m", data=values, chunks=(1, *values.shape[1:]), compression="gzip")
        for i, (name, length) in enumerate(zip(("time", "level", "lat", "lon"), values.shape, strict=True)):
            file[name] = np.arange(length, dtype=np.float64)
            file[name].make_scale(name)
            variable.dims[i].attach_scale(file[name])
        file["time_bnds"] = np.zeros((values.shape[0], 2))
        file["time"].attrs["bounds"] = "time_bnds"
        variable.attrs.update(attributes)
    return path


class TestHdf5:
    @pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", ">i4", "f4"])
    def test_the_state_is_that_of_an_npy(self, dtype: str, tmp_path: Path) -> None:
        values = volume(dtype)
        expected = state(stack(tmp_path / "a.npy", values))
        layouts: list[dict[str, Any]] = [
            {},
            {"chunks": (1, 2, 5, 4), "compression": "gzip", "shuffle": True},
            {"chunks": values.shape, "compression": "lzf", "fletcher32": True},
        ]
        for layout in layouts:
            path = hdf5(tmp_path / "a.h5", values, **layout)
            assert state(normcli.source(path, axes="TZYX")) == expected
        assert state(netcdf(tmp_path / "a.nc", values)) == expected
        turned = hdf5(tmp_path / "b.h5", np.ascontiguousarray(values.transpose(3, 0, 2, 1)))
        assert state(normcli.source(turned, axes="XTYZ")) == expected

    def test_names_and_color(self, tmp_path: Path) -> None:
        values = volume("u1", (11, 6, 5, 3))
        path = hdf5(tmp_path / "a.h5", values, "obs/front")
        items: list[Any] = list(read_one(str(path), InputOptions()))
        assert [item.key.partition(".h5/")[2] for item in items[:2]] == ["obs/front/00", "obs/front/01"]
        assert np.array_equal(items[10].load(), values[10])
        first = normcli.source(hdf5(tmp_path / "b.h5", values.transpose(0, 3, 1, 2)), axes="NCHW")
        np.save(tmp_path / "a.npy", values)
        assert state(first) == state(path) == state(tmp_path / "a.npy")

    def test_conventions_of_netcdf(self, tmp_path: Path) -> None:
        values = volume("i2")
        values[0, 0, 0, :3], values[1, 1, 1, :2], values[2, 2, 2, 0] = -32767, -32766, 20_000
        marks = {
            "_FillValue": np.int16(-32767),
            "missing_value": np.array([-32766], np.int16),
            "valid_max": np.int16(15_000),
        }
        path = netcdf(tmp_path / "a.nc", values, scale_factor=0.01, add_offset=273.15, **marks)
        decoded = np.where((values < -30_000) | (values > 15_000), np.nan, values * 0.01 + 273.15)
        summary = normcli.stats(path)
        assert summary.invalid == [6]
        assert summary.mean + summary.std == pytest.approx([np.nanmean(decoded), np.nanstd(decoded)], rel=1e-12)
        assert normcli.stats(path, nodata="none", scale_offset="none").min == [-32767]
        unsigned = netcdf(tmp_path / "b.nc", volume("u1").view("i1"), _Unsigned="true", _FillValue=np.int8(-1))
        assert state(unsigned) == state(stack(tmp_path / "b.npy", volume("u1")), nodata="255")
        signed = netcdf(tmp_path / "c.nc", volume("i1").view("u1"), _Unsigned="false", valid_min=np.uint8(128))
        assert state(signed) == state(stack(tmp_path / "c.npy", volume("i1")))

    def test_valid_ranges_of_floats_are_in_units(self, tmp_path: Path) -> None:
        """Packed integers with limits of floats: those of the data, as the NetCDF Users Guide defines them."""
        values = np.arange(-60, 60, dtype="i2").reshape(1, 1, 12, 10)
        for factor in (0.01, -0.01):
            limits = np.array(sorted((273.15 - 30 * factor, 273.15 + 20 * factor)), np.float32)
            for marks in ({"valid_range": limits}, {"valid_min": limits[0], "valid_max": limits[1]}):
                path = netcdf(tmp_path / "a.nc", values, scale_factor=factor, add_offset=273.15, **marks)
                summary = normcli.stats(path, scale_offset="none")
                assert summary.invalid == [120 - 51]
                path.unlink()
        path = netcdf(tmp_path / "a.nc", values, valid_range=np.array([0, 9.5, 3], np.float32))
        assert "its attribute valid_range is '[0. 9.5 3. ]', not 2 numbers" in run_here("stats", path).err
        path.unlink()
        path = netcdf(tmp_path / "a.nc", values, scale_factor="0.01", missing_value=np.bytes_("-60"))
        summary = normcli.stats(path)
        assert summary.invalid == [1] and summary.min == [-0.59]

    @pytest.mark.parametrize("dtype", ["i8", "u8"])
    def test_fill_values_of_64_bits(self, dtype: str, tmp_path: Path) -> None:
        """Those that netCDF-C writes by default are no float64."""
        fill = np.array({"i8": -9223372036854775806, "u8": 18446744073709551614}[dtype], dtype)
        values = volume(dtype)
        values[0, 0, 0, :4] = fill
        path = netcdf(tmp_path / "a.nc", values, _FillValue=fill)
        summary = normcli.stats(path)
        assert summary.invalid == [4] and summary.mean == pytest.approx([values[values != fill].mean()], rel=1e-12)
        assert run_here("stats", path, "--nodata", "none").code == 3  # one plane is beyond 2^53
        assert run_here("apply", path, "-o", tmp_path / "out", "--scheme", "contrast", "--to", "hdf5").code == 0
        assert run_here("restore", tmp_path / "out", "-o", tmp_path / "back").code == 0
        with needs.module("h5py").File(tmp_path / "back" / "a.nc") as file:
            assert np.array_equal(file["t2m"][:], values)

    @pytest.mark.parametrize(("dtype", "fill_value"), [("i2", -32767), (">u2", 65535), ("f4", None), (">f8", None)])
    def test_fill_values_that_netcdf_has_by_default(self, dtype: str, fill_value: int | None, tmp_path: Path) -> None:
        """Floats that were never written, without an attribute; integers, and other HDF5 files, have none."""
        h5py, values = needs.module("h5py"), volume(dtype)
        with h5py.File(netcdf(tmp_path / "a.nc", values), "a") as file:
            plain = file["t2m"].id.get_create_plist().copy()
            fill = np.array(DEFAULT_FILL if fill_value is None else fill_value, dtype)
            plain.set_fill_value(fill)
            space = h5py.h5s.create_simple(values.shape)
            new = h5py.Dataset(h5py.h5d.create(file.id, b"new", h5py.h5t.py_create(np.dtype(dtype)), space, plain))
            new[1:], new[0, :, :6] = values[1:], values[0, :, :6]
            for i, name in enumerate(("time", "level", "lat", "lon")):
                new.dims[i].attach_scale(file[name])
        source = normcli.source(tmp_path / "a.nc", variable="new")
        if fill_value is not None:
            summary = normcli.stats(source, scale_offset="none")
            assert summary.invalid == [] and fill_value / (65535 if fill_value > 0 else 1) in (
                *summary.min,
                *summary.max,
            )
            return
        known = normcli.stats(source, scale_offset="none")
        rest = np.concatenate([values[1:].ravel(), values[0, :, :6].ravel()]).astype(np.float64)
        assert known.invalid == [values[0, :, 6:].size] and known.complete
        assert known.mean == pytest.approx([rest.mean()], rel=1e-12)
        other = hdf5(tmp_path / "b.h5", np.full((2, 3), fill[()]), fillvalue=fill[()])
        assert normcli.stats(normcli.source(other, axes="YX")).invalid == []
        assert normcli.apply(source, tmp_path / "out", scheme="zscore", to="hdf5").images == 1
        with h5py.File(tmp_path / "out/a.nc") as file:
            assert (
                file["new"].attrs["_FillValue"] == np.float32(fill)
                and (file["new"][0, :, 6:] == np.float32(fill)).all()
            )
        assert normcli.restore(tmp_path / "out", tmp_path / "back").images == 1
        with h5py.File(tmp_path / "back/a.nc") as file:
            assert file["new"].fillvalue == fill and "_FillValue" not in file["new"].attrs
            values[0, :, 6:] = fill
            assert np.allclose(file["new"], values, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("dtype", ["u2", "i4", "f8"])
    def test_a_checksum_before_shuffle(self, dtype: str, tmp_path: Path) -> None:
        """As netCDF-C orders its filters: chunks of 8-byte samples failed, being no multiple of 8 bytes."""
        h5py, values = needs.module("h5py"), volume(dtype)
        chain = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        chain.set_chunk((1, 2, 5, 3))
        chain.set_fletcher32()
        chain.set_shuffle()
        chain.set_deflate(4)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            space = h5py.h5s.create_simple(values.shape)
            kind = h5py.h5t.py_create(np.dtype(dtype))
            h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, chain))[:] = values
        expected = state(stack(tmp_path / "a.npy", values))
        assert state(normcli.source(tmp_path / "a.h5", axes="TZYX")) == expected

    def test_bounds_and_coordinates_are_no_images(self, tmp_path: Path) -> None:
        """netCDF-C writes text as bytes; curvilinear grids have coordinates of two axes."""
        h5py, values = needs.module("h5py"), volume("i2")
        path = netcdf(tmp_path / "a.nc", values, coordinates=np.bytes_("lat2 lon2"))
        with h5py.File(path, "a") as file:
            file["time"].attrs["bounds"] = np.bytes_("time_bnds")
            file["lat2"] = file["lon2"] = np.zeros(values.shape[2:])
        assert state(path) == state(stack(tmp_path / "a.npy", values))

    def test_what_is_not_clear_is_asked(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        path = hdf5(tmp_path / "a.h5", volume("u1"))
        with h5py.File(path, "a") as file:
            file["masks"], file["names"], file["ids"] = volume("u1"), [b"a", b"b"], np.arange(9)
            file["null"] = h5py.Empty("f4")
        done = run_here("stats", path)
        assert done.code == 2 and "/images (3, 5, 12, 10), /masks (3, 5, 12, 10): choose one (-O variable=" in done.err
        done = run_here("stats", path, "-O", "variable=images")
        assert done.code == 2 and "-O axes=" in done.err
        assert run_here("stats", path, "-O", "variable=images", "-O", "axes=tzyx").code == 0
        for axes, message in (("YX", "has 4 axes"), ("YYXX", "one letter for each axis"), ("TZCN", "Y and X among")):
            done = run_here("stats", path, "-O", "variable=images", "-O", f"axes={axes}")
            assert done.code == 2 and message in done.err, done
        for name, message in (
            ("image", "no dataset 'image'"),
            ("/", "no dataset"),
            ("names", "not a dataset of num"),
            ("null", "has no values"),
        ):
            done = run_here("stats", path, "-O", f"variable={name}")
            assert done.code == 2 and message in done.err, done

    def test_nothing_outside_the_file_is_read(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        values = volume("u1")[0]
        hdf5(tmp_path / "secret.h5", values)
        (tmp_path / "raw").write_bytes(values.tobytes())
        layout = h5py.VirtualLayout(values.shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", values.shape)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["link"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/images")
            file["soft"] = h5py.SoftLink("/link")
            file.create_virtual_dataset("virtual", layout)
            file.create_dataset("stored", values.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, values.size)])
            file.create_dataset("plain", data=values)
        messages = {
            "link": "a link to another file",
            "link/x": "a link to another file",
            "soft": "a soft link",
            "virtual": "a virtual dataset of other files",
            "stored": "its values are in another file",
        }
        for name, message in messages.items():
            done = run_here("stats", tmp_path / "a.h5", "-O", f"variable={name}", "-O", "axes=ZYX")
            assert done.code == 4 and message in done.err and "Traceback" not in done.err, done

    def test_a_filter_of_a_plugin_is_not_loaded(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_chunk((4, 4))
            created.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL)  # zstd
            h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((8, 8)), created)
        done = run_here("stats", tmp_path / "a.h5")
        assert done.code == 4 and "compressed by filter 32015" in done.err, done

    def test_damage_is_one_line(self, tmp_path: Path) -> None:
        sound = netcdf(tmp_path / "a.nc", volume()).read_bytes()
        draw = random.Random(18)
        cases = [sound[: len(sound) // 2], sound[:100], b"CDF\1" + bytes(60), b"text" * 40]
        for _ in range(60):
            data = bytearray(sound)
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            cases.append(bytes(data))
        for i, content in enumerate(cases):
            (tmp_path / f"{i}.nc").write_bytes(content)
            done = run_here("stats", tmp_path / f"{i}.nc", "--nan", "skip", "--engine", "serial")
            assert done.code in (0, 3) or (done.code in (2, 4) and done.is_error), (i, done)
            assert "unexpected" not in done.err and "Traceback" not in done.err, (i, done)

    def test_parts_and_engines(self, tmp_path: Path) -> None:
        path = netcdf(tmp_path / "a.nc", volume(), scale_factor=0.5)
        once = normcli.stats(path, engine="serial")
        parts = [normcli.stats(path, shard=f"{i}/3", engine="processes", workers=2) for i in (1, 2, 3)]
        assert normcli.merge(*parts).state == once.state == normcli.stats(path, engine="threads").state

    def test_a_group_has_the_units_of_the_dataset(self, tmp_path: Path) -> None:
        path = netcdf(tmp_path / "a.nc", volume(), scale_factor=0.5)
        assert "units of the scale tags" in run_here("stats", path, "--group-by", ".*", "-o", tmp_path / "a.json").out
        name = next(iter(normcli.load(tmp_path / "a.json").groups))
        assert "units of the scale tags\n" in run_here("show", tmp_path / "a.json", "--group", name).out

    def test_memory_is_that_of_some_chunks(self, tmp_path: Path) -> None:
        with needs.module("h5py").File(tmp_path / "a.h5", "w") as file:  # 1 GB that takes no room
            file.create_dataset("images", (64, 2048, 8192), np.uint8, chunks=(8, 256, 256), compression="gzip")
        used, done = peak(tmp_path, "stats", "a.h5", "-O", "axes=NYX", "-j", "2", "--engine", "threads")
        assert done.returncode == 0 and used < 300, (used, done.stderr)


@pytest.mark.usefixtures("no_waiting")
def test_servers(tmp_path: Path, server: Any, bucket: Any) -> None:
    """A plane is one range of an uncompressed NIfTI, and index and chunks of HDF5."""
    values = volume("u1")
    path = tmp_path / "data"
    path.mkdir()
    expected = state(stack(tmp_path / "a.npy", values))
    names = [nifti(path / f"a{suffix}", values).name for suffix in (".nii", ".nii.gz", ".img")]
    names.append(hdf5(path / "a.h5", values, chunks=(1, 2, 12, 10), compression="gzip").name)
    upload(bucket, path, "volumes")
    address, _ = server
    for name in names:
        for source in (f"{address}/data/{name}", f"s3://photos/volumes/{name}"):
            options = {"axes": "TZYX"} if name.endswith(".h5") else {}
            assert state(normcli.source(source, **options)) == expected, source


def dicom_data(name: str) -> Path:
    folder = Path(needs.module("pydicom").__file__).parent / "data" / "test_files"
    return folder / f"{name}.dcm" if folder.is_dir() else needs.skip(needs.INSTALL["pydicom"])


def dicom(path: Path, *, implicit: bool = False, **elements: Any) -> Path:
    """Write the CT of pydicom with other elements; those that are None are removed."""
    dataset = needs.module("pydicom").dcmread(dicom_data("CT_small"))
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        elif name.startswith("PixelPadding"):
            dataset.add_new(name, "SS" if value < 0 else "US", value)
        else:
            setattr(dataset, name, value)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    else:
        dataset.save_as(path)
    return path


class TestDicom:
    def test_reference_values_of_a_ct(self) -> None:
        summary = normcli.stats(dicom_data("CT_small"), percentiles="0.5,99.5", exact_percentiles=True)
        assert (summary.mean, f"{summary.std[0]:.10f}") == ([-119.0738525390625], "379.7570003455")
        assert (summary.min, summary.max) == ([-896], [1167])
        assert [summary.percentiles[p] for p in ("0.5", "99.5")] == [[-861], [785]]
        frames = normcli.stats(dicom_data("CT_small"), open_options=["frames=all"])  # its preamble is of a TIFF
        assert (frames.mean, frames.min) == (summary.mean, summary.min)

    @pytest.mark.parametrize("twin", ["", "_RLE", "_jp2klossless", "_bigendian", "_implicit", "_expb", "_padded"])
    def test_reference_values_of_an_mr(self, twin: str) -> None:
        summary = normcli.stats(dicom_data(f"MR_small{twin}"))
        assert (summary.mean, f"{summary.std[0]:.10f}") == ([518.88134765625], "409.1370987935")
        assert summary.state["buckets"] == normcli.stats(dicom_data("MR_small")).state["buckets"]

    def test_a_syntax_without_a_decoder_names_what_to_install(self) -> None:
        """pylibjpeg-libjpeg, where it is installed, decodes to the same values; it is GPL and no part of an extra."""
        done = run_here("stats", dicom_data("MR_small_jpeg_ls_lossless"))
        if done.code == 0:
            summary = normcli.stats(dicom_data("MR_small_jpeg_ls_lossless"))
            assert (summary.mean, f"{summary.std[0]:.10f}") == ([518.88134765625], "409.1370987935")
        else:
            assert done.code == 4 and "JPEG-LS Lossless" in done.err and "pip install pylibjpeg" in done.err, done

    @pytest.mark.parametrize("order", ["little", "big"])
    @pytest.mark.parametrize(("bits", "bytes_of_entry"), [(8, 1), (8, 2), (16, 2)])
    def test_palettes(self, order: Any, bits: int, bytes_of_entry: int, tmp_path: Path) -> None:
        """Entries of a big-endian file were swapped, and those of 8 bits in words of 16 were nearly black."""
        pydicom, pixel_data = needs.module("pydicom"), needs.module("pydicom.data")
        path = pixel_data.get_testdata_file("examples_palette.dcm", download=False)
        if path is None:
            needs.skip(needs.INSTALL["pydicom"])
        dataset = pydicom.dcmread(path)
        indices = dataset.pixel_array.astype(np.uint8)
        entries = np.random.default_rng(0).integers(0, 1 << bits, (3, 256)).astype(np.uint16)
        little = order == "little"
        for color, row in zip(("Red", "Green", "Blue"), entries, strict=True):
            data = row.astype("u1").tobytes() if bytes_of_entry == 1 else row.astype("<u2").tobytes()
            words = np.frombuffer(data, "<u2").astype("<u2" if little else ">u2")
            setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, 0, bits])
            setattr(dataset, f"{color}PaletteColorLookupTableData", words.tobytes())
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
        dataset.PixelData = indices.tobytes() + bytes(indices.size % 2)
        dataset["PixelData"].VR = "OB"
        pydicom.dcmwrite(tmp_path / "a.dcm", dataset, implicit_vr=False, little_endian=little, force_encoding=True)
        expected = entries[:, indices].reshape(3, -1).mean(axis=1) / ((1 << bits) - 1)
        assert normcli.stats(tmp_path / "a.dcm").mean == pytest.approx(expected.tolist(), rel=1e-12)

    def test_reference_values_of_color(self) -> None:
        summary = normcli.stats(dicom_data("examples_rgb_color"))
        assert [f"{mean * 255:.3f}" for mean in summary.mean] == ["40.104", "34.235", "28.461"]

    def test_every_file_is_read_or_named(self) -> None:
        import collections

        codes: collections.Counter[int] = collections.Counter()
        for path in sorted(dicom_data("CT_small").parent.glob("*.dcm")):
            done = run_here("stats", path, "--engine", "serial")
            assert "Traceback" not in done.err and "unexpected" not in done.err, (path, done)
            codes[done.code] += 1
        assert set(codes) == {0, 4} and codes[0] >= 40, codes

    def test_a_folder_of_slices(self, tmp_path: Path) -> None:
        for i in range(3):
            dicom(tmp_path / f"{i}.dcm", InstanceNumber=i)
        (tmp_path / "DICOMDIR").write_bytes(b"")
        summary = normcli.stats(tmp_path, group_by="folder")
        assert summary.images == 3 and summary.skipped == 1
        assert summary.mean == normcli.stats(dicom_data("CT_small")).mean
        assert list(summary.groups) == [tmp_path.name]

    def test_padding_is_invalid(self, tmp_path: Path) -> None:
        pydicom = needs.module("pydicom")
        dataset = pydicom.dcmread(dicom_data("CT_small"))
        stored = dataset.pixel_array.copy()
        stored[:10], stored[10] = -2000, -1990
        path = dicom(tmp_path / "a.dcm", PixelData=stored.tobytes())
        assert normcli.stats(path).invalid == [10 * 128]
        assert normcli.stats(path).mean == pytest.approx([stored[10:].mean() - 1024], rel=1e-12)
        assert normcli.stats(path, nodata="none").mean == pytest.approx([stored.mean() - 1024], rel=1e-12)
        assert normcli.stats(dicom(tmp_path / "c.dcm", implicit=True, PixelData=stored.tobytes())).invalid == [10 * 128]
        both = dicom(tmp_path / "b.dcm", PixelData=stored.tobytes(), PixelPaddingRangeLimit=-1980)
        assert normcli.stats(both).invalid == [11 * 128]

    def test_padding_of_other_bits_and_of_floats(self, tmp_path: Path) -> None:
        stored = np.random.default_rng(0).integers(0, 4096, (128, 128)).astype(np.uint16)
        stored[:10], stored[10], stored[11] = 63536, 63536 & 4095, 5 | 1 << 13
        bits: dict[str, Any] = {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
        path = dicom(tmp_path / "a.dcm", **bits, PixelPaddingValue=63536, PixelData=stored.tobytes())
        summary = normcli.stats(path)
        assert summary.invalid == [10 * 128]
        assert summary.mean == pytest.approx([(stored[10:] & 4095).mean()], rel=1e-12)
        path = dicom(tmp_path / "b.dcm", **{**bits, "HighBit": 15}, PixelPaddingValue=None, PixelData=stored.tobytes())
        assert "BitsStored 12 and HighBit 15" in run_here("stats", path).err
        path = dicom(tmp_path / "b.dcm", Rows=None)
        assert run_here("stats", path).err.endswith("b.dcm: its header has no Rows\n")
        floats = stored.astype(np.float32) / 8
        kind: dict[str, Any] = {
            "PixelData": None,
            "PixelPaddingValue": None,
            "BitsAllocated": 32,
            "RescaleIntercept": 0,
        }
        marks: dict[str, Any] = {"FloatPixelData": floats.tobytes(), "FloatPixelPaddingValue": float(floats[0, 0])}
        summary = normcli.stats(dicom(tmp_path / "c.dcm", **kind, **marks))
        assert summary.invalid == [10 * 128] and summary.mean == pytest.approx([floats[10:].mean(dtype="f8")], rel=1e-9)

    def test_gray_is_turned(self, tmp_path: Path) -> None:
        stored = np.random.default_rng(0).integers(0, 4096, (128, 128)).astype(np.uint16)
        kind: dict[str, Any] = {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11, "PixelPaddingValue": None}
        for name, values in (("MONOCHROME1", stored), ("MONOCHROME2", 4095 - stored)):
            pixels: dict[str, Any] = {
                "PhotometricInterpretation": name,
                "PixelData": values.tobytes(),
                "RescaleIntercept": 0,
            }
            path = dicom(tmp_path / f"{name}.dcm", **kind, **pixels)
            assert normcli.stats(path).mean == pytest.approx([(4095 - stored.astype(float)).mean()], rel=1e-12)

    def test_slopes_that_differ(self, tmp_path: Path) -> None:
        """Slices of PET have a slope each."""
        stored = needs.module("pydicom").dcmread(dicom_data("CT_small")).pixel_array
        for i, slope in enumerate((1, 0.5, 2)):
            dicom(tmp_path / f"{i}.dcm", RescaleSlope=slope, RescaleIntercept=-1000 * (i != 0))
        with pytest.raises(normcli.errors.UsageError, match="values counts scaled ones"):
            normcli.stats(tmp_path)
        values = np.stack([stored, stored * 0.5 - 1000, stored * 2.0 - 1000])
        summary = normcli.stats(tmp_path, scale_offset="values")
        assert summary.mean + summary.std == pytest.approx([values.mean(), values.std()], rel=1e-12)
        assert (summary.min, summary.max) == ([values.min()], [values.max()])
        parts = [normcli.stats(tmp_path, scale_offset="values", shard=f"{i}/2") for i in (1, 2)]
        assert normcli.merge(*parts).state == summary.state

    def test_the_counts_are_those_of_an_npy(self, tmp_path: Path) -> None:
        stored = needs.module("pydicom").dcmread(dicom_data("CT_small")).pixel_array
        np.save(tmp_path / "a.npy", stored)
        file, array = normcli.stats(dicom_data("CT_small"), scale_offset="none"), normcli.stats(tmp_path / "a.npy")
        assert (file.mean, file.std, file.min, file.max) == (array.mean, array.std, array.min, array.max)

    def test_damage_is_one_line(self, tmp_path: Path) -> None:
        sound = dicom_data("CT_small").read_bytes()
        draw = random.Random(18)
        cases = [sound[:20_000], sound[:200], sound[:132] + b"\xfe\xff\x00\xe0\0\0\0\0" * 100_001]
        for _ in range(60):
            data = bytearray(sound)
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(4000)] = draw.randrange(256)
            cases.append(bytes(data))
        for i, content in enumerate(cases):
            (tmp_path / f"{i}.dcm").write_bytes(content)
            done = run_here("stats", tmp_path / f"{i}.dcm", "--engine", "serial")
            assert (done.code == 4 and done.is_error) or (done.code == 0 and i > 2), (i, done)


def zarr(path: Path, values: Array, version: int = 3, **settings: Any) -> Path:
    needs.module("zarr").create_array(path, data=values, zarr_format=version, **settings)
    return path


class TestZarr:
    @pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", "f4"])
    @pytest.mark.parametrize("version", [2, 3])
    def test_the_state_is_that_of_an_npy(self, version: int, dtype: str, tmp_path: Path) -> None:
        values = volume(dtype)
        expected = state(stack(tmp_path / "a.npy", values))
        for i, chunks in enumerate([(1, 2, 5, 4), (3, 5, 12, 10), (2, 2, 12, 10)]):
            path = zarr(tmp_path / f"{i}.zarr", values, version, chunks=chunks)
            assert state(normcli.source(path, axes="TZYX")) == expected
        if version == 3:
            path = zarr(tmp_path / "s.zarr", values, chunks=(1, 1, 6, 5), shards=(3, 5, 12, 10))
            path.rename(tmp_path / "folder")
            assert state(normcli.source(tmp_path / "folder", axes="TZYX")) == expected

    def test_images_of_ome_zarr(self, tmp_path: Path) -> None:
        library = needs.module("zarr")
        values = volume("u2", (2, 3, 1, 12, 10))
        root = library.open_group(tmp_path / "plate.zarr", mode="w", zarr_format=2)
        for well, second in (("A/1", "1"), ("B/2", "scale1/image")):
            image = root.create_group(f"{well}/0")
            image.create_array("0", data=values)
            image.create_array(second, data=values[..., ::2, ::2])
            axes = [{"name": name} for name in "tczyx"]
            image.attrs["multiscales"] = [{"datasets": [{"path": "0"}, {"path": second}], "axes": axes}]
            image.attrs["omero"] = {"channels": [{"label": name} for name in ("DAPI", "GFP (488)", "RFP")]}
        summary = normcli.stats(tmp_path / "plate.zarr", group_by="folder")
        assert summary.channels == ["DAPI", "GFP_488", "RFP"]
        assert {name: group.images for name, group in summary.groups.items()} == {"A/1/0": 2, "B/2/0": 2}
        channels = values.astype(float).transpose(1, 0, 2, 3, 4).reshape(3, -1) / 65535
        assert summary.mean == pytest.approx(channels.mean(axis=1).tolist(), rel=1e-12)
        for path in ("A/1/0/1", "B/2/0/scale1/image"):
            level = normcli.stats(normcli.source(tmp_path / "plate.zarr", variable=path))
            assert (level.images, level.channels) == (2, ["DAPI", "GFP_488", "RFP"])
        image.attrs["multiscales"] = [{**image.attrs["multiscales"][0], "axes": ["time", "tile", "z", "y", "x"]}]
        assert normcli.stats(normcli.source(tmp_path / "plate.zarr", variable="B/2/0/0")).images == 2 * 3

    def test_conventions_of_xarray(self, tmp_path: Path) -> None:
        values = volume("i2")
        values[0, 0, 0, :3] = -32767
        attributes = {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32767}
        names = ("time", "level", "latitude", "longitude")
        path = zarr(tmp_path / "a.zarr", values, dimension_names=names, attributes=attributes)
        decoded = np.where(values == -32767, np.nan, values * 0.01 + 273.15)
        summary = normcli.stats(path)
        assert summary.invalid == [3]
        assert summary.mean + summary.std == pytest.approx([np.nanmean(decoded), np.nanstd(decoded)], rel=1e-12)

    def test_bounds_of_xarray_are_no_images(self, tmp_path: Path) -> None:
        zarr_group = needs.module("zarr").open_group(tmp_path / "a.zarr", mode="w")
        zarr_group.create_array("grid/t", data=volume("u1"), attributes={"coordinates": "lat2"})
        zarr_group.create_array("grid/time", data=np.arange(3.0), attributes={"bounds": "time_bnds"})
        for name in ("time_bnds", "lat2"):
            zarr_group.create_array(f"grid/{name}", data=np.zeros((3, 2)))
        path = normcli.source(tmp_path / "a.zarr", axes="TZYX")
        assert state(path) == state(stack(tmp_path / "a.npy", volume("u1")))

    def test_what_is_not_read_is_named(self, tmp_path: Path) -> None:
        root = needs.module("zarr").open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        for name in ("x", "y"):
            root.create_array(name, data=volume("u1"))
        assert "several arrays, x (3, 5, 12, 10), y" in run_here("stats", tmp_path / "a.zarr").err
        assert "no array 'z'" in run_here("stats", tmp_path / "a.zarr", "-O", "variable=z").err
        chosen = ["-O", "variable=x", "-O", "axes=TZYX"]
        assert run_here("stats", tmp_path / "a.zarr", *chosen).code == 0
        metadata = tmp_path / "a.zarr/x/.zarray"
        sound = metadata.read_text()
        for text, message in (
            (sound.replace('"filters": null', '"filters": [{"id": "pickle"}]'), "the codec pickle"),
            (sound[:40], "no JSON object"),
            (sound.replace('"|u1"', '"|O"'), "not of numbers"),
            (sound.replace('"chunks": [', '"chunks": [1000000000, '), "lengths of chunks"),
            (sound.replace('"blosc"', '"gzip"'), "cannot be decoded"),
        ):
            assert text != sound
            metadata.write_text(text)
            done = run_here("stats", tmp_path / "a.zarr", *chosen)
            assert done.code == 4 and message in done.err and "Traceback" not in done.err, done
        assert run_here("stats", tmp_path / "a.zarr", "-O", "variable=../secret").code == 4
        assert "no such folder" in run_here("stats", tmp_path / "b.zarr").err

    def test_parts_and_engines(self, tmp_path: Path) -> None:
        path = normcli.source(zarr(tmp_path / "a.zarr", volume(), chunks=(2, 2, 12, 10)), axes="TZYX")
        once = normcli.stats(path, engine="serial")
        parts = [normcli.stats(path, shard=f"{i}/3", engine="processes", workers=2) for i in (1, 2, 3)]
        assert normcli.merge(*parts).state == once.state == normcli.stats(path, engine="threads").state

    def test_it_is_read_anew_in_every_incremental_run(self, tmp_path: Path) -> None:
        """The chunks of a Zarr have no version together; an item of it once ended in an internal error."""
        path = zarr(tmp_path / "a.zarr", volume("u1"), chunks=(1, 1, 12, 10))
        arguments = ["stats", path, "-O", "axes=TZYX", "--incremental", "-o", tmp_path / "s.json"]
        assert run_here(*arguments).code == 0
        needs.module("zarr").open_array(path, mode="a")[0] = 7
        assert run_here(*arguments).code == 0
        assert normcli.load(tmp_path / "s.json").state == state(normcli.source(path, axes="TZYX"))


def test_several_arrays_of_several_files(tmp_path: Path) -> None:
    h5py = needs.module("h5py")
    values, paths = np.random.default_rng(5).normal(size=(2, 5, 7)), []
    for number in range(2):
        paths.append(tmp_path / f"episode_{number}.hdf5")
        with h5py.File(paths[-1], "w") as file:
            file["action"] = values[number]
            file["time"] = np.arange(5)
            file["goal"] = values[number] + 1
    rows = {"axes": "NC", "variable": "/action"}
    by_file = normcli.stats(paths, group_by=r"episode_(\d+)", open_options=rows)
    for number in range(2):
        assert by_file.groups[str(number)].mean == pytest.approx(values[number].mean(0).tolist())
    both = normcli.stats(paths, group_by="label", open_options={"axes": "YX", "variable": "/*"})
    assert sorted(both.groups) == ["action", "goal"]  # and no array of one axis
    with pytest.raises(NormcliError, match="images need 2 axes"):
        normcli.stats(paths, open_options={"variable": "/ti*"})
    with pytest.raises(UsageError, match="apply writes images, not vectors"):
        normcli.apply(paths, tmp_path / "out", to="hdf5", stats=by_file, open_options=rows)
    assert not (tmp_path / "out").exists()
