"""apply and restore of volumes: outputs as nibabel, h5py and zarr read them, against NumPy in float64."""

import base64
import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import normcli
from normcli.errors import NormcliError, UsageError
from normcli.sources.volume import block_shape
from tests.support import needs
from tests.support.command import Run, run_here
from tests.support.images import encoded, photograph
from tests.support.kills import NO_BYTECODE, killed_at_random, limited
from tests.support.memory import peak
from tests.support.outputs import finals, tree

Array = np.ndarray[Any, Any]
LIBRARIES = {"nifti": "nibabel", "hdf5": "h5py", "zarr": "zarr"}


def voxels(dtype: Any = np.int16, shape: tuple[int, ...] = (9, 12, 10), seed: int = 0) -> Array:
    values = np.random.default_rng(seed).integers(-900, 1500, shape)
    values[:2] = 0
    return np.abs(values).astype(dtype) if np.dtype(dtype).kind == "u" else values.astype(dtype)


def nifti(path: Path, values: Array, *, slope: float = 1.0, inter: float = 0.0, order: str = "<") -> Path:
    """Write (X,Y,Z) with an oblique affine, units, a description and an extension."""
    nibabel = needs.module("nibabel")
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype)
    affine = np.array([[-2, 0.1, 0, 30], [0, 2.5, 0.2, -4], [0.1, 0, 3, 7], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(values, affine, header)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a scan"
    image.header["cal_max"] = 100
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"kept"))
    image.header.set_slope_inter(slope, inter)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def read(path: Path) -> Array:
    """Return the samples of a result (Z,Y,X) by the library of its container."""
    if path.suffix == ".h5":
        with needs.module("h5py").File(path) as file:
            return np.asarray(file["image"])
    if path.suffix == ".zarr":
        return np.asarray(needs.module("zarr").open_array(path, mode="r"))
    return np.asarray(needs.module("nibabel").load(path).dataobj).T


def written(folder: Path, to: str) -> Path:
    return folder / {"nifti": "a.nii.gz", "hdf5": "a.h5", "zarr": "a.zarr"}[to]


class TestNifti:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_header_affine_and_extensions_stay(self, name: str, order: str, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        values = voxels()
        source = nifti(tmp_path / name, values, slope=0.5, inter=-3.0, order=order)
        head = normcli.apply(source, tmp_path / "out", to="nifti")
        old, new = nibabel.load(source), nibabel.load(tmp_path / "out" / name)
        x = old.get_fdata()
        np.testing.assert_allclose(new.get_fdata(), (x - x.mean()) / x.std(), atol=3e-7)
        assert np.array_equal(old.affine, new.affine) and new.get_data_dtype() == np.dtype(f"{order}f4")
        assert new.dataobj.slope == 1 and new.dataobj.inter == 0 and new.header["cal_max"] == 0
        assert new.header["descrip"].item() == b"a scan; normcli contrast"
        same = ("dim", "pixdim", "qform_code", "sform_code", "quatern_b", "srow_x", "xyzt_units", "intent_code")
        assert all(np.array_equal(old.header[key], new.header[key]) for key in same)
        assert [e.get_content() for e in new.header.extensions] == [b"kept"]
        assert head.images == head.exact == 1 and normcli.verify(tmp_path / "out").is_valid
        result = normcli.restore(tmp_path / "out", tmp_path / "back")
        assert (result.exact, result.unit) == (1, "volume") == (1, normcli.verify(tmp_path / "out").unit)
        back = nibabel.load(tmp_path / "back" / name)
        assert back.header == old.header
        assert np.array_equal(back.dataobj.get_unscaled(), old.dataobj.get_unscaled())

    def test_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        source = nifti(tmp_path / "a.nii.gz", voxels())
        for name in ("one", "two"):
            os.utime(source)
            normcli.apply(source, tmp_path / name, to="nifti", engine="serial" if name == "one" else "processes")
        assert tree(tmp_path / "one") == tree(tmp_path / "two")
        assert (tmp_path / "one/a.nii.gz").read_bytes()[4:8] == b"\0\0\0\0"

    def test_a_tree_stays_a_tree(self, tmp_path: Path) -> None:
        for case in ("sub-1", "sub-2"):
            nifti(tmp_path / f"in/{case}/anat/t1.nii.gz", voxels(seed=len(case)))
        normcli.apply(tmp_path / "in/*/anat/t1.nii.gz", tmp_path / "out", scheme="zscore", to="nifti")
        assert sorted(finals(tmp_path / "out")) == [
            "normcli.json",
            "sub-1/anat/t1.nii.gz",
            "sub-2/anat/t1.nii.gz",
        ]

    def test_samples_after_a_header_without_an_offset(self, tmp_path: Path) -> None:
        """`stats` read them, and `apply` said that they start at byte 0."""
        nibabel = needs.module("nibabel")
        source = nifti(tmp_path / "a.nii", voxels())
        sound = source.read_bytes()
        header = nibabel.Nifti1Header(sound[:348])
        start = int(header["vox_offset"])
        header["vox_offset"] = 0
        source.write_bytes(header.binaryblock + bytes(4) + sound[start:])
        assert normcli.stats(source).mean == pytest.approx([voxels().mean()])
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="nifti")
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        assert np.array_equal(nibabel.load(tmp_path / "back/a.nii").dataobj, voxels())

    def test_pairs_become_one_file(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        values = voxels()
        nibabel.Nifti1Pair(values, np.diag([2.0, 3, 4, 1])).to_filename(tmp_path / "a.img")
        normcli.apply(tmp_path / "a.img", tmp_path / "out", scheme="zscore", to="nifti")
        new = nibabel.load(tmp_path / "out/a.nii")
        assert np.array_equal(new.affine, np.diag([2.0, 3, 4, 1]))
        np.testing.assert_allclose(new.get_fdata(), (values - values.mean()) / values.std(), atol=3e-7)
        normcli.restore(tmp_path / "out", tmp_path / "back")
        assert np.array_equal(np.asarray(nibabel.load(tmp_path / "back/a.nii").dataobj), values)

    def test_missing_voxels_stay(self, tmp_path: Path) -> None:
        values = voxels("f4")
        values[3] = np.nan
        source = nifti(tmp_path / "a.nii", values)
        with pytest.raises(NormcliError, match="NaN"):
            normcli.apply(source, tmp_path / "bad", scheme="zscore", to="nifti")
        assert not (tmp_path / "bad").exists()
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="nifti", nan="skip")
        seen = values[np.isfinite(values)].astype(np.float64)
        np.testing.assert_allclose(read(tmp_path / "out/a.nii").T, (values - seen.mean()) / seen.std(), atol=3e-7)
        normcli.restore(tmp_path / "out", tmp_path / "back")
        np.testing.assert_allclose(read(tmp_path / "back/a.nii").T, values, atol=2e-4)


FORMULAS: dict[str, Any] = {
    "clip:-500,700": lambda x: (np.clip(x, -500, 700) + 500) / 1200,
    "zscore": lambda x: (x - x.mean()) / x.std(),
    "zscore:mask=nonzero": lambda x: np.where(x == 0, 0, (x - x[x != 0].mean()) / x[x != 0].std()),
    "minmax": lambda x: (x - x.min()) / (x.max() - x.min()),
    "percentile:1,99": lambda x: (x - np.percentile(x, 1)) / (np.percentile(x, 99) - np.percentile(x, 1)),
    "robust": lambda x: (x - np.median(x)) / (1.4826022185056018 * np.median(np.abs(x - np.median(x)))),
}


class TestSchemes:
    @pytest.mark.parametrize("scheme", FORMULAS)
    @pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (-0.5, 20.0)])
    def test_each_volume_by_its_own(self, scheme: str, slope: float, inter: float, tmp_path: Path) -> None:
        values = voxels()
        if inter:
            values[:2] = 40  # whose value is 0
        source = nifti(tmp_path / "a.nii", values, slope=slope, inter=inter)
        head = normcli.apply(source, tmp_path / "out", scheme=scheme, to="nifti")
        x = values * slope + inter
        np.testing.assert_allclose(read(tmp_path / "out/a.nii").T, FORMULAS[scheme](x), atol=1e-6)
        back = normcli.restore(tmp_path / "out", tmp_path / "back")
        assert head.exact == back.exact == (not scheme.startswith("clip"))
        now = needs.module("nibabel").load(tmp_path / "back/a.nii").dataobj.get_unscaled()
        if back.exact:
            assert np.array_equal(now, values)
        else:
            assert back.inexact == {"clipped values": 1} and head.clipped == ((x < -500) | (x > 700)).sum()
            inside = (x >= -500) & (x <= 700)
            assert np.array_equal(now[inside], values[inside])

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
    def test_samples_of_every_type(self, dtype: str, tmp_path: Path) -> None:
        values = voxels(dtype) if dtype != "u1" else voxels("u2").astype("u1")
        source = nifti(tmp_path / "a.nii", values)
        normcli.apply(source, tmp_path / "out", scheme="zscore:mask=nonzero", to="nifti")
        expected = FORMULAS["zscore:mask=nonzero"](values.astype(np.float64))
        np.testing.assert_allclose(read(tmp_path / "out/a.nii").T, expected, atol=1e-6)
        back = normcli.restore(tmp_path / "out", tmp_path / "back")
        now = read(tmp_path / "back/a.nii").T
        assert now.dtype == values.dtype and back.exact == (values.dtype.kind != "f")
        np.testing.assert_allclose(now, values, atol=0 if back.exact else 2e-4)

    def test_ct_as_nnu_net_normalizes_it(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        source = Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz"
        if not source.exists():
            needs.skip(needs.INSTALL["nibabel"])
        stats = normcli.stats(source, nodata="0", percentiles="0.5,99.5", exact_percentiles=True)
        scheme = "contrast:0.5,99.5"
        normcli.apply(source, tmp_path / "out", scheme=scheme, stats=stats, nodata="0", zero_std="eps:1e-8", to="nifti")
        x = nibabel.load(source).get_fdata()
        expected = (np.clip(x, 29, 782) - 443.945396) / 161.397664  # the values of the issue
        np.testing.assert_allclose(read(tmp_path / "out/example4d.nii.gz").T, expected, atol=1e-6)

    def test_nyul_maps_each_volume_as_its_planes_are_mapped(self, tmp_path: Path) -> None:
        for name in "ab":
            values = np.random.default_rng(ord(name)).gamma(3, 50, (9, 12, 10)).astype(np.int16)
            nifti(tmp_path / f"in/{name}.nii", values, slope=0.5, inter=1.0)
        source = tmp_path / "in/*.nii"
        for to, out in (("npy", "planes"), ("nifti", "volumes")):
            normcli.apply(source, tmp_path / out, scheme="nyul", to=to)  # type: ignore[arg-type]
        for name in "ab":
            planes = np.stack([np.load(path)[0] for path in sorted((tmp_path / f"planes/{name}.nii").iterdir())])
            assert np.array_equal(read(tmp_path / f"volumes/{name}.nii"), planes)
        with pytest.raises(UsageError, match=r"no inverse \(use the original images"):
            normcli.restore(tmp_path / "volumes", tmp_path / "back")
        with pytest.raises(UsageError, match=r"maps each plane \(use `to` npy, which writes each plane\)"):
            normcli.apply(source, tmp_path / "more", scheme="reinhard", to="nifti")


class TestContainers:
    @pytest.mark.parametrize("to", ["hdf5", "zarr"])
    def test_nifti_becomes_an_array_with_an_affine(self, to: Any, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        values = voxels(shape=(140, 150, 40))
        source = nifti(tmp_path / "in/a.nii.gz", values)
        normcli.apply(source, tmp_path / "out", scheme="zscore", to=to)
        np.testing.assert_allclose(read(written(tmp_path / "out", to)).T, FORMULAS["zscore"](values), atol=1e-6)
        if to == "hdf5":
            with needs.module("h5py").File(tmp_path / "out/a.h5") as file:
                attributes, chunks = dict(file["image"].attrs), file["image"].chunks
        else:
            array = needs.module("zarr").open_array(tmp_path / "out/a.zarr")
            attributes, chunks = dict(array.attrs), array.chunks
            assert array.metadata.dimension_names == ("z", "y", "x")
        affine = needs.module("nibabel").load(source).affine
        assert np.array_equal(attributes["affine"], affine) and list(attributes["axes"]) == ["z", "y", "x"]
        assert chunks == (16, 128, 128)
        assert normcli.verify(tmp_path / "out").is_valid
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        back, old = (needs.module("nibabel").load(path) for path in (tmp_path / "back/a.nii.gz", source))
        assert back.header == old.header and np.array_equal(back.dataobj, old.dataobj)

    def test_hdf5_keeps_its_structure(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        values = voxels("u1", (7, 20, 30, 3))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            group = file.create_group("obs")
            group.attrs["robot"] = "arm"
            images = group.create_dataset("rgb", data=values, chunks=(1, 20, 30, 3), compression="gzip", shuffle=True)
            images.attrs.update({"fps": np.float32(30), "names": ["a", "b"], "note": "text"})
            file["labels"] = np.arange(7)
            file["text"] = np.array(["x", "yy"], dtype=h5py.string_dtype())
            file["soft"], file["outside"] = h5py.SoftLink("/obs/rgb"), h5py.ExternalLink("/etc/passwd", "/x")
            file["again"] = group
        head = normcli.apply(normcli.source(tmp_path / "a.h5", variable="obs/rgb"), tmp_path / "out", to="hdf5")
        x = values.reshape(-1, 3) / 255
        with h5py.File(tmp_path / "out/a.h5") as file:
            images = file["obs/rgb"]
            expected = ((x - x.mean(0)) / x.std(0)).reshape(values.shape)
            np.testing.assert_allclose(images[:], expected, atol=1e-6)
            assert (images.dtype, images.chunks, images.compression, images.shuffle) == (
                np.float32,
                (1, 20, 30, 3),
                "gzip",
                True,
            )
            assert images.attrs["fps"] == 30 and list(images.attrs["names"]) == ["a", "b"]
            assert file["obs"].attrs["robot"] == "arm" and images.attrs["note"] == "text"
            assert file["labels"][:].tolist() == [*range(7)] and file["text"][:].tolist() == [b"x", b"yy"]
            assert file["soft"] == images == file["again/rgb"]
            assert file.get("outside", getlink=True).filename == "/etc/passwd"
            assert json.loads(images.attrs["normcli"])["scheme"] == "contrast"
        assert head.exact == normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        with h5py.File(tmp_path / "back/a.h5") as file:
            assert np.array_equal(file["obs/rgb"], values) and "normcli" not in file["obs/rgb"].attrs

    def test_other_datasets_outside_of_the_file_are_named(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["image"] = voxels()
            layout = h5py.VirtualLayout((4,), "i2")
            layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4,))
            file.create_virtual_dataset("more", layout)
        done = run_here(
            *("apply", tmp_path / "a.h5", "-O", "variable=image", "-O", "axes=ZYX", "-s", "zscore", "--to", "hdf5"),
            *("-o", tmp_path / "out"),
        )
        assert done.code == 4 and "dataset more has values in other files" in done.err and done.err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("scheme", ["zscore:mask=nonzero", "contrast"])
    def test_files_of_other_scales_are_mapped_by_their_values(self, scheme: str, tmp_path: Path) -> None:
        values = voxels()
        values[:2] = 40  # whose value is 0
        for name, slope in (("a", 0.5), ("b", 0.25)):
            nifti(tmp_path / f"in/{name}.nii", values, slope=slope, inter=-40 * slope)
        out = tmp_path / "out"
        head = normcli.apply(tmp_path / "in/*.nii", out, scheme=scheme, to="nifti", scale_offset="values")
        assert head.exact == 2 == normcli.restore(out, tmp_path / "back").exact
        one, other = (values * slope - 40 * slope for slope in (0.5, 0.25))
        both = np.concatenate([one, other])
        x = FORMULAS[scheme](other) if scheme in FORMULAS else (other - both.mean()) / both.std()
        np.testing.assert_allclose(read(out / "b.nii").T, x, atol=1e-6)
        back = needs.module("nibabel").load(tmp_path / "back/b.nii").dataobj
        assert np.array_equal(back.get_unscaled(), values) and (back.slope, back.inter) == (0.25, -10)

    def test_netcdf_keeps_its_missing_values_and_scales(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        values = voxels(shape=(4, 6, 8))
        values[1, 2] = -32767
        values[0, 0, 0] = 2000  # beyond the valid range
        with h5py.File(tmp_path / "a.nc", "w") as file:
            data = file.create_dataset("t2m", data=values, chunks=(1, 6, 8))
            for i, (name, length) in enumerate(zip(("time", "lat", "lon"), values.shape, strict=True)):
                file[name] = np.arange(length, dtype=np.float64)
                file[name].make_scale(name)
                data.dims[i].attach_scale(file[name])
            data.attrs.update({"scale_factor": 0.01, "add_offset": 280.0, "units": "K"})
            data.attrs.update({"_FillValue": np.int16(-32767), "valid_max": np.int16(1999)})
        normcli.apply(tmp_path / "a.nc", tmp_path / "out", to="hdf5")
        valid = (values != -32767) & (values < 2000)
        x = values * 0.01 + 280
        expected = np.where(valid, (x - x[valid].mean()) / x[valid].std(), -32767)
        with h5py.File(tmp_path / "out/a.nc") as file:
            np.testing.assert_allclose(file["t2m"][:], expected, atol=1e-5)
            attributes = dict(file["t2m"].attrs)
            assert attributes["_FillValue"] == np.float32(-32767) and attributes["_FillValue"].dtype == np.float32
            assert attributes["units"] == "K" and not {"scale_factor", "add_offset", "valid_max"} & {*attributes}
            assert [dimension[0].name for dimension in file["t2m"].dims] == ["/time", "/lat", "/lon"]
        checked = normcli.verify(tmp_path / "out")
        assert checked.is_valid and checked.channels[0].values == valid.sum()
        back = normcli.restore(tmp_path / "out", tmp_path / "back")
        assert back.inexact == {"invalid samples, which were filled": 1}
        with h5py.File(tmp_path / "back/a.nc") as file:
            now = file["t2m"]
            assert np.array_equal(now[:][valid], values[valid]) and (now[:][~valid] == -32767).all()
            assert now.attrs["scale_factor"] == 0.01 and now.attrs["valid_max"].dtype == np.int16

    def test_attributes_that_netcdf_writes(self, tmp_path: Path) -> None:
        """Text of a fixed length without a null at its end, of which the copy lost the last character."""
        h5py = needs.module("h5py")
        units = b"days since 1850-01-15"
        with h5py.File(tmp_path / "a.nc", "w") as file:
            file["t"] = voxels("i1", (3, 6, 8)) % 2
            kind = h5py.h5t.TypeID.copy(h5py.h5t.C_S1)
            for name, text in (("units", units), ("k", b"K"), ("dtype", b"bool")):
                kind.set_size(len(text))  # and padded by nulls, of which it has none
                space = h5py.h5s.create(h5py.h5s.SCALAR)
                h5py.h5a.create(file["t"].id, name.encode(), kind, space).write(np.array(text), mtype=kind)
            file["t"].attrs["names"] = np.array([b"ab", b"c"])
        normcli.apply(normcli.source(tmp_path / "a.nc", axes="TYX"), tmp_path / "out", scheme="zscore", to="hdf5")
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        for name in ("out", "back"):
            with h5py.File(tmp_path / name / "a.nc") as file:
                attributes = file["t"].attrs
                assert attributes["units"] == units and attributes["k"] == b"K"
                assert attributes["names"].tolist() == [b"ab", b"c"]
                # xarray reads bytes of this attribute as bool, but no floats
                assert attributes.get("dtype") == (None if name == "out" else "bool")

    @pytest.mark.parametrize("marks", [{}, {"scale_factor": 2.0, "add_offset": 10.0}])
    @pytest.mark.parametrize("mode", ["tag", "values", "none"])
    def test_bools_are_0_and_1_in_units(self, mode: Any, marks: dict[str, float], tmp_path: Path) -> None:
        """They were 0 and 255 by `scale_offset` values, and by a scale of their own."""
        h5py, values = needs.module("h5py"), np.random.default_rng(0).random((2, 9, 8)) > 0.4
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["t"] = values
            file["t"].attrs.update(marks)
        source = normcli.source(tmp_path / "a.h5", axes="NYX")
        x = values * 1.0 if mode == "none" else values * marks.get("scale_factor", 1.0) + marks.get("add_offset", 0.0)
        summary = normcli.stats(source, scale_offset=mode)
        assert [*summary.mean, *summary.std, *summary.min] == pytest.approx([x.mean(), x.std(), x.min()])
        for scheme in ("zscore", "contrast", "minmax"):
            out, back = tmp_path / scheme, tmp_path / f"{scheme}-back"
            normcli.apply(source, out, scheme=scheme, to="hdf5", scale_offset=mode)
            assert normcli.restore(out, back).exact == 1
            with h5py.File(out / "a.h5") as file, h5py.File(back / "a.h5") as again:
                expected = values if scheme == "minmax" else (x - x.mean()) / x.std()
                np.testing.assert_allclose(file["t"][:], expected, atol=1e-6)
                assert again["t"].dtype == bool and np.array_equal(again["t"], values)

    def test_the_order_of_creation_stays(self, tmp_path: Path) -> None:
        """Without it the NetCDF library opens a file for reading alone, and lists its variables by name."""
        h5py, names = needs.module("h5py"), ["time", "z", "t", "a"]
        with h5py.File(tmp_path / "a.h5", "w", track_order=True) as file:
            for name in names:
                file.create_dataset(name, data=voxels(), track_order=True)
            group = file.create_group("plain", track_order=False)
            group["y"], group["b"] = 1, 2
            for i in reversed(range(20)):
                file.attrs[f"k{i}"] = file["t"].attrs[f"k{i}"] = i
        source = normcli.source(tmp_path / "a.h5", variable="t", axes="ZYX")
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="hdf5")
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        for folder in ("out", "back"):
            with h5py.File(tmp_path / folder / "a.h5") as file:
                assert [*file] == [*names, "plain"] and [*file["plain"]] == ["b", "y"]
                numbers = [f"k{i}" for i in reversed(range(20))]
                assert [*file.attrs] == numbers == [*file["t"].attrs][:20]
                assert file["t"].id.get_create_plist().get_attr_creation_order()

    def test_what_files_of_matlab_and_of_new_formats_have(self, tmp_path: Path) -> None:
        """References of cells were null in the copy; large attributes and types of HDF5 2.0 could not be copied."""
        h5py = needs.module("h5py")
        with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
            file["t"], file["type"] = voxels(), np.dtype([("a", "i4"), ("b", "f8")])
            file["#refs#/a"], file["#refs#/b"] = np.arange(3), np.arange(4)
            references = [[file["#refs#/b"].ref, file["#refs#"].ref], [file["t"].ref, h5py.Reference()]]
            file.create_dataset("cell", data=references, dtype=h5py.ref_dtype)
            file.create_dataset("empty", (0,), h5py.ref_dtype)
            attributes = file["t"].attrs
            attributes["huge"] = np.arange(20_000.0)
            attributes["pair"] = np.array((1, 2.5), [("a", "i4"), ("b", "f8")])
            attributes["nothing"], attributes["object"] = h5py.Empty("f4"), file["cell"].ref
        source = normcli.source(tmp_path / "a.h5", variable="t", axes="ZYX")
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="hdf5")
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        for name in ("out", "back"):
            with h5py.File(tmp_path / name / "a.h5") as file:
                cells = file["cell"][:].ravel()
                assert [file[one].name for one in cells[:3]] == ["/#refs#/b", "/#refs#", "/t"] and not cells[3]
                assert file["t"].attrs["huge"].tolist() == [*range(20_000)] and file["type"].dtype["b"] == np.float64
                assert file["t"].attrs["pair"].item() == (1, 2.5) and "object" not in file["t"].attrs

    @pytest.mark.parametrize("scheme", ["minmax", "unit", "percentile", "clip:10,100", "zscore:mask=nonzero"])
    @pytest.mark.parametrize("fill", [0, 1])
    @pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
    def test_no_valid_sample_becomes_a_missing_one(self, scheme: str, fill: int, dtype: str, tmp_path: Path) -> None:
        """Those at the ends of a range: `minmax` makes 0 of the lowest sample, which may be missing."""
        h5py = needs.module("h5py")
        values = np.random.default_rng(0).integers(4, 256, (2, 30, 20)).astype(dtype)
        values[0, 0], values[0, 1] = fill, 5
        with h5py.File(tmp_path / "a.nc", "w") as file:
            file["t"] = values
            file["t"].attrs.update({"_FillValue": values.dtype.type(fill)})
            if "mask" in scheme:
                file["t"].attrs.update({"scale_factor": 1.0, "add_offset": -5.0})  # 5 is 0 in its units
        source = normcli.source(tmp_path / "a.nc", axes="TYX")
        white = 255 if scheme == "unit" else None
        normcli.apply(source, tmp_path / "out", scheme=scheme, to="hdf5", max_value=white)
        with h5py.File(tmp_path / "out/a.nc") as file:
            mapped = file["t"][:]
            assert np.array_equal(mapped == file["t"].attrs["_FillValue"], values == fill)
        normcli.restore(tmp_path / "out", tmp_path / "back")
        with h5py.File(tmp_path / "back/a.nc") as file:
            expected = values.clip(10, 100) if "clip" in scheme else values
            expected[values == fill] = fill
            np.testing.assert_allclose(file["t"][:], expected, atol=0 if dtype != "f4" else 1e-3)

    def test_strings_with_a_fill_value(self, tmp_path: Path) -> None:
        """Those of every NetCDF variable of strings: HDF5 copied them to a file that nothing could open."""
        h5py = needs.module("h5py")
        text, names = h5py.string_dtype(), np.array([f"station {i}" for i in range(5)] + [""], object)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["t"] = voxels()
            for name, shape in (("names", (6,)), ("table", (2, 3)), ("one", ()), ("none", (0,))):
                file.create_dataset(name, shape, text, fillvalue="nowhere")
            file["names"][:5], file["table"][...], file["one"][()] = names[:5], names.reshape(2, 3), "alone"
            file["names"].attrs["units"] = "1"
            file["null"] = h5py.Empty(text)
        source = normcli.source(tmp_path / "a.h5", variable="t", axes="ZYX")
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="hdf5")
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        for folder in ("out", "back"):
            with h5py.File(tmp_path / folder / "a.h5") as file:
                assert file["names"].asstr()[:].tolist() == [*names[:5], "nowhere"]
                assert file["table"].asstr()[:].ravel().tolist() == names.tolist() and file["one"][()] == b"alone"
                assert file["none"].shape == (0,) and file["null"].shape is None
                assert file["names"].fillvalue == b"nowhere" and file["names"].attrs["units"] == "1"

    @pytest.mark.parametrize("marks", [{"_FillValue": -5}, {"_FillValue": -7, "missing_value": -5}, {}])
    def test_every_missing_value_is_one_in_the_copy(self, marks: dict[str, Any], tmp_path: Path) -> None:
        """Samples of all but the first became valid: values of the scheme, as far as a reader knows."""
        h5py, values = needs.module("h5py"), voxels()
        values[0], values[1, 0], values[1, 1] = -5, -6, -7
        marks = marks or {"missing_value": [-5, -6, -7]}
        with h5py.File(tmp_path / "a.nc", "w") as file:
            file["t"] = values
            file["t"].attrs.update({name: np.array(value, np.int16) for name, value in marks.items()})
        source = normcli.source(tmp_path / "a.nc", axes="TYX")
        known = normcli.stats(source)
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="hdf5")
        with h5py.File(tmp_path / "out/a.nc") as file:
            assert set(file["t"].attrs) == {*marks, "normcli"}
            assert all(np.array_equal(file["t"].attrs[name], np.array(marks[name], np.float32)) for name in marks)
        mapped = normcli.stats(normcli.source(tmp_path / "out/a.nc", axes="TYX"))
        assert mapped.invalid == known.invalid and mapped.std == pytest.approx([1], abs=1e-6)
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        with h5py.File(tmp_path / "back/a.nc") as file:
            assert np.array_equal(file["t"], values)

    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("fill", [None, -9.5, float("nan")])
    def test_stores_of_xarray(self, version: Any, fill: float | None, tmp_path: Path) -> None:
        """Its attribute of floats in version 3 is base64; in version 2 the fill value of the array is the attribute."""
        zarr, values = needs.module("zarr"), voxels("f4")
        if fill is not None:
            values[1, :3] = fill
        names: Any = ["z", "y", "x"]
        settings: dict[str, Any] = {"fill_value": fill if version == 2 else 0.0}
        if version == 3:
            settings["dimension_names"] = names
            text = base64.b64encode(struct.pack("<d", fill or 0)).decode()
            settings["attributes"] = {} if fill is None else {"_FillValue": text}
        else:
            settings["attributes"] = {"_ARRAY_DIMENSIONS": names}
        kind = {"shape": values.shape, "dtype": "f4", "chunks": (3, 12, 10), "zarr_format": version}
        array = zarr.create_array(tmp_path / "a.zarr", **kind, **settings, config={"write_empty_chunks": True})
        array[:] = values
        valid = values == values if fill is None or fill != fill else values != fill
        x = values.astype(np.float64)
        normcli.apply(tmp_path / "a.zarr", tmp_path / "out", scheme="zscore", to="zarr")
        out = zarr.open_array(tmp_path / "out/a.zarr", mode="r")
        np.testing.assert_allclose(out[:][valid], ((x - x[valid].mean()) / x[valid].std())[valid], atol=1e-5)
        if version == 2:  # with another value, xarray would take the samples of it for missing
            assert out.fill_value is None if fill is None else np.array_equal(out.fill_value, fill, equal_nan=True)
        assert normcli.restore(tmp_path / "out", tmp_path / "back").images == 1
        back = zarr.open_array(tmp_path / "back/a.zarr", mode="r")
        np.testing.assert_allclose(back[:], values, atol=1e-3)
        assert back.attrs.asdict() == array.attrs.asdict()
        assert np.array_equal(back.metadata.fill_value, array.metadata.fill_value, equal_nan=fill is not None)

    @pytest.mark.parametrize("version", [2, 3])
    def test_ome_zarr_keeps_its_metadata_and_levels(self, version: Any, tmp_path: Path) -> None:
        zarr = needs.module("zarr")
        plate = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
        plate.attrs["plate"] = {"name": "p"}
        levels = ("0", "1") if version == 3 else ("scale0/image", "scale1/image")  # as ngff-zarr names them
        images = {}
        for number, well in enumerate(("A/1", "B/2")):
            image = plate.create_group(f"{well}/0")
            images[well] = voxels("u2", (4, 3, 40, 24), number)
            for level, step in zip(levels, (1, 2), strict=True):
                data = images[well][:, :, ::step, ::step]
                image.create_array(level, data=data, chunks=(1, 1, 16, 16))
            axes = [{"name": name} for name in "tcyx"]
            metadata: Any = {"multiscales": [{"axes": axes, "datasets": [{"path": level} for level in levels]}]}
            image.attrs.update(metadata if version == 2 else {"ome": metadata})
        plate.create_array("labels", data=np.arange(5))
        head = normcli.apply(tmp_path / "a.zarr", tmp_path / "out", scheme="zscore", to="zarr")
        assert head.images == head.exact == 1
        out = zarr.open_group(tmp_path / "out/a.zarr", mode="r")
        for well, x in images.items():
            mean, std = (f(x.astype(np.float64), axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
            array = out[f"{well}/0/{levels[0]}"]
            np.testing.assert_allclose(array[:], (x - mean) / std, atol=1e-6)
            np.testing.assert_allclose(out[f"{well}/0/{levels[1]}"][:], (x[:, :, ::2, ::2] - mean) / std, atol=1e-6)
            assert array.chunks == (1, 1, 16, 16) and array.metadata.zarr_format == version
            assert dict(out[f"{well}/0"].attrs) == dict(plate[f"{well}/0"].attrs)
        assert out["labels"][:].tolist() == [*range(5)] and out.attrs["plate"] == {"name": "p"}
        verified = normcli.verify(tmp_path / "out")
        assert verified.is_valid and len(verified.channels) == 3
        assert verified.channels[0].std == pytest.approx(1, abs=1e-6)  # of level 0
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        back = zarr.open_group(tmp_path / "back/a.zarr", mode="r")
        assert all(np.array_equal(back[f"{well}/0/{levels[0]}"], x) for well, x in images.items())
        assert set(tree(tmp_path / "back/a.zarr")) == set(tree(tmp_path / "a.zarr"))

    @pytest.mark.parametrize("shards", [None, (4, 16, 16)])
    def test_chunks_of_background_are_not_written(self, shards: Any, tmp_path: Path) -> None:
        zarr = needs.module("zarr")
        settings: Any = {"shape": (8, 32, 32), "chunks": (2, 16, 16), "dtype": "i2", "fill_value": 7, "shards": shards}
        array = zarr.create_array(tmp_path / "a.zarr", attributes={"k": 1}, **settings)
        array[:2, :16, :16] = voxels(shape=(2, 16, 16))
        normcli.apply(normcli.source(tmp_path / "a.zarr", axes="ZYX"), tmp_path / "out", scheme="zscore", to="zarr")
        out = zarr.open_array(tmp_path / "out/a.zarr", mode="r")
        x = np.asarray(array[:]).astype(np.float64)
        np.testing.assert_allclose(out[:], (x - x.mean()) / x.std(), atol=1e-6)
        assert out.nchunks_initialized == array.nchunks_initialized and out.shards == shards and out.attrs["k"] == 1
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 1
        back = zarr.open_array(tmp_path / "back/a.zarr", mode="r")
        assert back.fill_value == 7 and np.array_equal(back, array)

    def test_blocks_are_complete_chunks(self) -> None:
        assert block_shape((5, 4000, 4000), (1, 512, 512)) == (1, 512, 4000)
        assert block_shape((100, 8, 8), (3, 8, 8)) == (100, 8, 8)


def of_itself(scheme: str, x: Array) -> Array:
    """Return a volume or a plane as a scheme of each image maps it, in float64."""
    inside = x[x != 0]
    low, high, middle = *np.percentile(x, [1, 99]), np.median(x)
    center, width = {
        "zscore": (x.mean(), x.std()),
        "zscore:eps=3": (x.mean(), x.std() + 3),
        "zscore:mask=nonzero": (inside.mean(), inside.std()),
        "minmax": (x.min(), np.ptp(x)),
        "percentile": (low, high - low),
        "robust": (middle, 1.4826022185056018 * np.median(np.abs(x - middle))),
        "gcn": (x.mean(), x.std()),
    }[scheme]
    result: Array = (x - center) / width
    return np.where(x == 0, 0, result) if "mask" in scheme else result


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("mode", ["tag", "values"])
def test_schemes_of_each_image_are_in_units(mode: Any, dtype: Any, tmp_path: Path) -> None:
    stored = voxels(dtype)
    stored[5:7] = 40  # 0 in units
    source = nifti(tmp_path / "a.nii", stored, slope=-0.5, inter=20.0)
    values = stored.astype(np.float64) * -0.5 + 20
    for scheme in ("zscore", "zscore:eps=3", "zscore:mask=nonzero", "minmax", "percentile", "robust", "gcn"):
        options: dict[str, Any] = {"scheme": scheme, "scale_offset": mode, "dtype": "float64"}
        normcli.apply(source, tmp_path / f"{scheme}-planes", **options)
        for z in (0, 9):
            plane = np.load(tmp_path / f"{scheme}-planes/{z}.npy")[0].T
            assert np.allclose(plane, of_itself(scheme, values[:, :, z]), rtol=1e-9, atol=1e-9), scheme
        if dtype == np.float32 and scheme == "robust":
            continue  # sorts all values of a volume
        normcli.apply(source, tmp_path / scheme, to="nifti", **options)
        assert np.allclose(read(tmp_path / scheme / "a.nii").T, of_itself(scheme, values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_percentiles_whose_sum_is_100_have_a_scale(slope: float, tmp_path: Path) -> None:
    stored = voxels(np.uint8, (20, 20, 5))
    source = nifti(tmp_path / "a.nii", stored, slope=slope, inter=20.0)
    x = stored * slope + 20
    low, high = np.percentile(x, [5, 95])
    normcli.apply(source, tmp_path / "dataset", scheme="percentile:5,95,over=dataset", to="nifti", dtype="float64")
    assert np.allclose(read(tmp_path / "dataset/a.nii").T, (x - low) / (high - low))
    normcli.apply(source, tmp_path / "clipped", scheme="contrast:5,95", to="nifti", dtype="float64")
    assert np.allclose(read(tmp_path / "clipped/a.nii").T, (x.clip(low, high) - x.mean()) / x.std())


def test_one_range_for_bands_of_different_scales(tmp_path: Path) -> None:
    tifffile = needs.module("tifffile")
    levels = np.random.default_rng(3).integers(0, 4000, (9, 8, 3)).astype(np.uint16)
    scales = ((-0.5, 20.0), (2.0, 0.0), (0.1, -7.0))
    items = "".join(
        f'<Item name="{name.upper()}" sample="{band}" role="{name}">{value}</Item>'
        for band, pair in enumerate(scales)
        for name, value in zip(("scale", "offset"), pair, strict=True)
    )
    tag = (42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="rgb", extratags=[tag])
    values = levels * np.array([s for s, _ in scales]) + [o for _, o in scales]
    for scheme, right in (
        ("zscore:per=image", (values - values.mean()) / values.std()),
        ("minmax", (values - values.min((0, 1))) / np.ptp(values, (0, 1))),
    ):
        normcli.apply(tmp_path / "a.tif", tmp_path / scheme, scheme=scheme, dtype="float64", output_layout="hwc")
        assert np.allclose(np.load(tmp_path / scheme / "a.tif.npy"), right, rtol=1e-9, atol=1e-9)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(5):
        path = tmp_path / f"photos/{'cat' if number % 2 else 'dog'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(20, 30, seed=number)))
    (tmp_path / "photos/cat/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # a gap
    return tmp_path / "photos"


def images_of(folder: Path, to: str) -> tuple[Array, Array, list[str]]:
    """Return images, classes and their names."""
    if to == "hdf5":
        with needs.module("h5py").File(folder / "images.h5") as file:
            return file["images"][:], file["labels"][:], list(file["labels"].attrs["classes"])
    group = needs.module("zarr").open_group(folder / "images.zarr", mode="r")
    return group["images"][:], group["labels"][:], list(group["labels"].attrs["classes"])


@pytest.mark.parametrize("to", ["hdf5", "zarr"])
class TestImages:
    """Images of one size become one array of one container."""

    @pytest.mark.parametrize("layout", ["hwc", "chw"])
    def test_they_are_the_rows_of_a_stack(self, layout: Any, to: Any, photos: Path, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        kinds: list[tuple[Any, str]] = [("stack", "stack"), (to, "out")]
        for kind, out in kinds:
            head = normcli.apply(photos, tmp_path / out, to=kind, output_layout=layout)
            assert head.images == head.exact == 5 and sum(head.failed.values()) == 1
        images, labels, classes = images_of(tmp_path / "out", to)
        assert np.array_equal(images, np.load(tmp_path / "stack/stack.npy")) and images.dtype == np.float32
        assert classes == ["cat", "dog"] and labels.tolist() == [0, 0, 1, 1, 1]
        assert (tmp_path / "out/index.csv").read_bytes() == (tmp_path / "stack/index.csv").read_bytes()
        assert normcli.verify(tmp_path / "out").is_valid
        assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 5
        assert (tmp_path / "back/dog/0.png").exists()

    def test_default_axes_and_statistics(self, to: Any, photos: Path, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        normcli.apply(photos, tmp_path / "out", to=to)
        assert images_of(tmp_path / "out", to)[0].shape == (5, 20, 30, 3)
        name = "images.h5" if to == "hdf5" else "images.zarr"
        again = normcli.stats(normcli.source(tmp_path / "out" / name, variable="images", axes="NYXC"))
        np.testing.assert_allclose([again.mean, again.std], [[0] * 3, [1] * 3], atol=1e-6)

    def test_resume_and_force(self, to: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        needs.module(LIBRARIES[to])
        normcli.apply(photos, tmp_path / "plain", to=to)
        undisturbed, out = tree(tmp_path / "plain"), tmp_path / "out"
        from normcli.sinks import image_container

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(image_container, "publish", Mock(side_effect=KeyboardInterrupt))
            normcli.apply(photos, out, to=to)
        assert set(finals(out)) == {"stats.json"}
        assert normcli.apply(photos, out, to=to, resume=True).reused == 5
        assert tree(out) == undisturbed
        assert normcli.apply(photos, out, to=to, resume=True).reused == 5
        normcli.apply(photos, out, to=to, force=True)
        assert tree(out) == undisturbed
        with pytest.raises(UsageError, match="other settings"):
            normcli.apply(photos, out, to=to, scheme="unit", resume=True)

    def test_damage_is_named(self, to: Any, photos: Path, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        normcli.apply(photos, tmp_path / "out", to=to)
        for path in (tmp_path / "out").rglob("*"):
            if path.is_file() and "images." in str(path):
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert len(normcli.verify(tmp_path / "out").problems) == 5
        with pytest.raises(NormcliError, match="nothing in"):
            normcli.restore(tmp_path / "out", tmp_path / "back")

    def test_a_full_disk(self, to: str, photos: Path, run: Run, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        done = run("apply", photos, "-o", "out", "-s", "unit", "--to", to, preexec_fn=limited, env=NO_BYTECODE)
        assert done.returncode == 5 and done.stderr.count(b"\n") == 1, done.stderr
        assert finals(tmp_path / "out") == {}

    def test_images_of_two_sizes_are_said(self, to: Any, photos: Path, tmp_path: Path) -> None:
        needs.module(LIBRARIES[to])
        (photos / "cat/big.png").write_bytes(encoded(photograph(40, 30)))
        with pytest.raises(UsageError, match="a stack has one shape"):
            normcli.apply(photos, tmp_path / "out", scheme="unit", to=to)


class TestRuns:
    @pytest.mark.parametrize("to", LIBRARIES)
    def test_resume_force_and_skip(self, to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        needs.modules("nibabel", LIBRARIES[to])
        for name in "abc":
            nifti(tmp_path / f"in/{name}.nii.gz", voxels(seed=ord(name)))
        source, out = tmp_path / "in/*.nii.gz", tmp_path / "out"
        normcli.apply(source, tmp_path / "plain", scheme="zscore", to=to)
        undisturbed = tree(tmp_path / "plain")
        from normcli.sinks import volume

        count, true = 0, volume.publish

        def interrupted(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == 3:
                raise KeyboardInterrupt
            true(*arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(volume, "publish", interrupted)
            normcli.apply(source, out, scheme="zscore", to=to, engine="serial")
        assert set(finals(out)) < set(undisturbed)
        with pytest.raises(UsageError, match="unfinished run"):
            normcli.apply(source, out, scheme="zscore", to=to)
        with pytest.raises(UsageError, match="other settings"):
            normcli.apply(source, out, scheme="minmax", to=to, resume=True)
        assert normcli.apply(source, out, scheme="zscore", to=to, resume=True).reused == 2
        assert tree(out) == undisturbed
        assert normcli.apply(source, out, scheme="zscore", to=to, resume=True).reused == 3
        with pytest.raises(UsageError, match="not empty"):
            normcli.apply(source, out, scheme="zscore", to=to)
        normcli.apply(source, out, scheme="zscore", to=to, force=True)
        assert tree(out) == undisturbed

    @pytest.mark.parametrize("to", LIBRARIES)
    def test_a_full_disk_ends_with_code_5_and_one_line(self, to: str, run: Run, tmp_path: Path) -> None:
        needs.modules("nibabel", LIBRARIES[to])
        values = np.random.default_rng(0).integers(0, 30_000, (40, 40, 20)).astype(np.int16)
        nifti(tmp_path / "in/a.nii", values)
        done = run("apply", "in/a.nii", "-o", "out", "-s", "zscore", "--to", to, preexec_fn=limited, env=NO_BYTECODE)
        assert done.returncode == 5, done.stderr
        assert done.stderr.startswith(b"normcli: cannot write out/") and done.stderr.count(b"\n") == 1, done.stderr
        assert finals(tmp_path / "out") == {}

    @pytest.mark.campaign
    @pytest.mark.parametrize("to", LIBRARIES)
    def test_killed_and_resumed_is_byte_identical(self, to: str, tmp_path: Path) -> None:
        needs.modules("nibabel", LIBRARIES[to])
        for number in range(6):
            nifti(tmp_path / f"in/{number}.nii.gz", voxels(shape=(90, 90, 40), seed=number))
        (tmp_path / "in/broken.nii").write_bytes((tmp_path / "in/0.nii.gz").read_bytes()[:4000])
        arguments = [str(tmp_path / "in/*.nii*"), "--scheme", "zscore", "--to", to]
        assert run_here("apply", *arguments, "-o", tmp_path / "plain").code == 3
        killed_at_random([*arguments, "-o", str(tmp_path / "out")], tree(tmp_path / "plain"), tmp_path / "out", 12, 3)

    def test_what_is_not_a_volume_is_said(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", voxels())
        (tmp_path / "images").mkdir()
        nifti(tmp_path / "b.nii", voxels())
        cases: list[tuple[Any, dict[str, Any], str]] = [
            (tmp_path / "a.npy", {}, "requires volumes"),
            (tmp_path / "images", {}, r"\*\.nii\.gz"),
            ([tmp_path / "b.nii", tmp_path / "images"], {"to": "zarr"}, "requires volumes"),
            (tmp_path / "b.nii", {"resize": 10}, "`resize` cannot be combined with `to` nifti"),
            (tmp_path / "b.nii", {"dtype": "uint8"}, "nifti holds float32, float64"),
            (tmp_path / "b.nii", {"scheme": "caffe"}, "`scheme caffe`"),
        ]
        for source, options, message in cases:
            with pytest.raises(UsageError, match=message):
                normcli.apply(source, tmp_path / "out", **{"scheme": "zscore", "to": "nifti", **options})
        assert not (tmp_path / "out").exists()
        with pytest.raises(UsageError, match="cannot be combined with volumes, which"):
            normcli.apply(tmp_path / "b.nii", tmp_path / "out", scheme="zscore", to="nifti")
            normcli.restore(tmp_path / "out", tmp_path / "back", to="png")

    def test_damaged_inputs_and_outputs_are_named(self, tmp_path: Path) -> None:
        data = nifti(tmp_path / "in/a.nii", voxels()).read_bytes()
        (tmp_path / "in/cut.nii").write_bytes(data[:-100])
        head = normcli.apply(tmp_path / "in/*.nii", tmp_path / "out", scheme="zscore", to="nifti")
        assert head.images == 1 and head.failed == {"truncated": 1}
        path = tmp_path / "out/a.nii"
        whole = path.read_bytes()
        for damage in (whole[:-4], whole + b"\0", whole[:70] + b"\x08\x00" + whole[72:], gzip.compress(whole), None):
            path.unlink() if damage is None else path.write_bytes(damage)
            assert len(normcli.verify(tmp_path / "out").problems) == 1
        back = normcli.restore
        with pytest.raises(NormcliError, match=r"nothing in .* could be restored: a.nii: no such file"):
            back(tmp_path / "out", tmp_path / "back")

    def test_metadata_that_only_the_library_reads(self, tmp_path: Path) -> None:
        zarr = needs.module("zarr")
        kind = {"chunks": (3, 6, 5), "zarr_format": 2, "compressors": needs.module("numcodecs").Blosc()}
        zarr.create_array(tmp_path / "a.zarr", data=voxels(), **kind)
        path = tmp_path / "a.zarr/.zarray"
        sound = json.loads(path.read_text())
        codec = {**sound["compressor"], "cname": 0.5}
        for change, message in (({"order": "x"}, "cannot be read as Zarr: "), ({"compressor": codec}, "for writing")):
            path.write_text(json.dumps({**sound, **change}))
            source = normcli.source(tmp_path / "a.zarr", axes="NYX")
            with pytest.raises(NormcliError, match=message):
                normcli.apply(source, tmp_path / "out", scheme="clip:0,9", to="zarr")

    def test_a_forged_manifest_leads_nowhere(self, tmp_path: Path) -> None:
        source = nifti(tmp_path / "a.nii", voxels())
        normcli.apply(source, tmp_path / "out", scheme="zscore", to="nifti")
        path = tmp_path / "out/normcli.json"
        true = json.loads(path.read_text())
        forged: list[tuple[str, Any]] = [("path", "../x"), ("scale", [0]), ("shape", [1 << 70, 2]), ("dtype", "O")]
        forged += [("stored", "f8"), ("missing", ["x"]), ("channel", 9), ("packing", {"a": {"dtype": "i2"}})]
        for key, value in forged:
            document = json.loads(json.dumps(true))
            document["files"][0]["arrays"][0][key] = value
            path.write_text(json.dumps(document))
            with pytest.raises(UsageError, match="damaged manifest"):
                normcli.restore(tmp_path / "out", tmp_path / "back")
        document = json.loads(json.dumps(true))
        document["files"][0]["header"] = "eA=="
        path.write_text(json.dumps(document))
        with pytest.raises(NormcliError):
            normcli.restore(tmp_path / "out", tmp_path / "again")

    def test_dry_run_and_stdout(self, tmp_path: Path) -> None:
        nifti(tmp_path / "a.nii", voxels())
        done = run_here("apply", tmp_path / "a.nii", "-o", tmp_path / "out", "-s", "zscore", "--to", "nifti", "-n")
        assert done.code == 0 and done.out.startswith("1 image,") and not (tmp_path / "out").exists()
        assert run_here("apply", tmp_path / "a.nii", "-o", "-", "--to", "nifti").code == 2

    @pytest.mark.campaign
    @pytest.mark.parametrize("to", ["hdf5", "zarr"])
    def test_memory_of_a_large_array(self, to: str, tmp_path: Path) -> None:
        """1 GB of int16 in chunks of 8 MB: blocks, not the array, are in memory."""
        shape, chunks = (512, 1024, 1024), (64, 256, 256)
        if to == "hdf5":
            with needs.module("h5py").File(tmp_path / "a.h5", "w") as file:
                file.create_dataset("image", shape, "i2", chunks=chunks)[:64, :256] = 5
            name = "a.h5"
        else:
            array = needs.module("zarr").create_array(tmp_path / "a.zarr", shape=shape, chunks=chunks, dtype="i2")
            array[:64, :256] = 5
            name = "a.zarr"
        arguments = ("apply", name, "-O", "axes=ZYX", "-o", "out", "-s", "zscore", "--to", to)
        most, done = peak(tmp_path, *arguments, timeout=600)
        assert done.returncode == 0 and most < 300, (most, done.stderr)


@pytest.mark.parametrize("command", [["stats"], ["apply", "--scheme", "zscore", "-o", "out"]])
def test_volumes_in_a_folder_are_named(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nifti(tmp_path / "scans/a.nii.gz", voxels())
    nifti(tmp_path / "scans/b.nii", voxels())
    (tmp_path / "scans/README.md").write_text("scans")
    for include, text in (
        ([], "a volume in a folder is not read: to read all of them, use 'scans/*.nii.gz' as SOURCE"),
        (["--include", "*.gz"], "name a .nii.gz as a SOURCE"),
        (["--include", "*.nii"], "in the format NIfTI: name it as a SOURCE"),
    ):
        ran = run_here(*command, "scans", *include)
        assert ran.code == 4 and text in ran.err


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ("frames=all", "frames=all: no source here has this option"),
        ("skip_empty=yes", "skip_empty cannot be combined with `to` nifti: volumes are complete"),
    ],
)
def test_open_options_that_no_volume_has_are_rejected(pair: str, text: str, tmp_path: Path) -> None:
    source = nifti(tmp_path / "a.nii", voxels())
    options: dict[str, Any] = {"scheme": "zscore", "to": "nifti", "open_options": [pair]}
    with pytest.raises(UsageError, match=text):
        normcli.apply(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("per", ["channel", "image"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_percentiles_of_channels_of_more_than_16_bits(dtype: str, per: str, tmp_path: Path) -> None:
    zarr = needs.module("zarr")
    x = (np.random.default_rng(2).normal(size=(4, 3, 20, 17)) * [[[1e3]], [[1e5]], [[10]]]).astype(dtype)
    if dtype[0] == "f":
        x[1, 0, 3] = np.nan
    zarr.create_array(tmp_path / "a.zarr", data=x, chunks=(1, 3, 8, 17))
    normcli.apply(tmp_path / "a.zarr", tmp_path / "out", scheme=f"percentile:2,97,per={per}", to="zarr", nan="skip",
                  dtype="float64", open_options=["axes=ZCYX"])  # fmt: skip
    axes = (0, 2, 3) if per == "channel" else (0, 1, 2, 3)
    low, high = np.nanpercentile(x.astype(float), [2, 97], axis=axes, keepdims=True)
    result = zarr.open_array(tmp_path / "out/a.zarr", mode="r")[:]
    assert np.allclose(result, (x - low) / (high - low), rtol=1e-9, equal_nan=True)
