"""Axes of arrays: planes by their letters, groups along an axis, planes without content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from tests.support import needs
from tests.support.command import run_here

Array = np.ndarray[Any, Any]


def stack(dtype: str = "u2") -> Array:
    """Return an array of the axes T, C, Z, Y and X with one plane of zeros."""
    values = np.random.default_rng(18).integers(0, 4000, (2, 3, 4, 6, 5)).astype(dtype)
    values[0, :, 1] = 0
    return values


def state(source: Any, **options: Any) -> Any:
    return normcli.stats(source, **options).state


class TestArrays:
    @pytest.mark.parametrize("dtype", ["u2", ">i2", "f4"])
    def test_planes_are_those_of_a_stack(self, dtype: str, tmp_path: Path) -> None:
        values = stack(dtype)
        planes = np.ascontiguousarray(values.transpose(0, 2, 3, 4, 1)).reshape(-1, 6, 5, 3)
        np.save(tmp_path / "planes.npy", planes)
        expected = state(normcli.source(tmp_path / "planes.npy", layout="nhwc"))
        np.save(tmp_path / "a.npy", values)
        np.savez(tmp_path / "a.npz", images=values)
        np.savez_compressed(tmp_path / "b.npz", images=values, other=np.zeros((2, 2, 2)))
        for name in ("a.npy", "a.npz", "b.npz"):
            assert state(normcli.source(tmp_path / name, axes="TCZYX")) == expected, name
        np.save(tmp_path / "c.npy", values.transpose(1, 3, 0, 2, 4)[:, None])
        np.save(tmp_path / "d.npy", np.asfortranarray(values.transpose(4, 3, 1, 2, 0)))
        np.save(tmp_path / "e.npy", np.ascontiguousarray(values.transpose(0, 2, 3, 1, 4)))
        assert state(normcli.source(tmp_path / "d.npy", axes="XYCZT")) == expected
        assert state(normcli.source(tmp_path / "e.npy", axes="TZYCX")) == expected
        assert "are not contiguous" in run_here("stats", tmp_path / "c.npy", "-O", "axes=CNYTZX").err
        np.savez(tmp_path / "f.npz", images=np.asfortranarray(values))
        assert "Fortran order in an archive" in run_here("stats", tmp_path / "f.npz", "-O", "axes=TCZYX").err

    def test_the_file_is_read_in_runs_by_every_engine(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", stack())
        source = normcli.source(tmp_path / "a.npy", axes="TCZYX")
        once = normcli.stats(source, engine="serial")
        parts = [normcli.stats(source, shard=f"{i}/3", engine="processes", workers=2) for i in (1, 2, 3)]
        assert normcli.merge(*parts).state == once.state == normcli.stats(source, engine="threads").state

    def test_wrong_axes_are_named(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", stack())
        for axes, text in (("TCZY", "5 axes, not those of"), ("TTZYX", "one letter for each"), ("TCZXA", "Y and X")):
            with pytest.raises(UsageError, match=text):
                normcli.stats(normcli.source(tmp_path / "a.npy", axes=axes))
        with pytest.raises(UsageError, match="cannot be combined with layout"):
            normcli.stats(normcli.source(tmp_path / "a.npy", axes="TCZYX", layout="nhw"))
        (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
        assert "cut short" in run_here("stats", tmp_path / "b.npy", "-O", "axes=TCZYX").err
        assert run_here("stats", tmp_path / "a.npy", "-O", "axes=TCZYX", "--max-file-size", "179").code == 4

    def test_apply_writes_every_plane(self, tmp_path: Path) -> None:
        values = stack()
        np.save(tmp_path / "a.npy", values)
        out, back = tmp_path / "out", tmp_path / "back"
        done = run_here("apply", tmp_path / "a.npy", "-O", "axes=TCZYX", "-o", out, "--scheme", "unit")
        assert done.code == 0, done
        assert np.allclose(np.load(out / "1/2.npy"), values[1, :, 2] / 65535)
        assert run_here("restore", out, "-o", back, "--to", "tiff").code == 0
        tifffile = needs.module("tifffile")
        assert np.array_equal(tifffile.imread(back / "1/2.tif"), values[1, :, 2].transpose(1, 2, 0))


class TestGroups:
    def test_places_on_an_axis(self, tmp_path: Path) -> None:
        values = stack()
        np.save(tmp_path / "a.npy", values)
        summary = normcli.stats(normcli.source(tmp_path / "a.npy", axes="TCZYX"), group_by="axis:Z")
        assert list(summary.groups) == ["0", "1", "2", "3"]
        means = [group.mean[1] * 65535 for group in summary.groups.values()]
        assert means == pytest.approx(values[:, 1].mean(axis=(0, 2, 3)).tolist())

    def test_groups_of_hdf5_are_the_values_of_a_scale(self, tmp_path: Path) -> None:
        h5py = needs.module("h5py")
        values = stack("i2")[:, 0]
        with h5py.File(tmp_path / "a.nc", "w") as file:
            data = file.create_dataset("t", data=values)
            for i, (name, places) in enumerate((("time", [0, 6]), ("level", [850, 500, 250.5, 100]))):
                file[name] = places
                file[name].make_scale(name)
                data.dims[i].attach_scale(file[name])
        source = normcli.source(tmp_path / "a.nc", variable="t", axes="TZYX")
        summary = normcli.stats(source, group_by="axis:level")
        assert sorted(summary.groups) == ["100", "250.5", "500", "850"]
        assert summary.groups["250.5"].mean == pytest.approx([values[:, 2].mean()])
        assert state(source, group_by="axis:Z") == summary.state
        with pytest.raises(UsageError, match=r"no such axis numbers the images of .*numbered by time, level"):
            normcli.stats(source, group_by="axis:Y")

    def test_packed_coordinates_are_in_their_units(self, tmp_path: Path) -> None:
        """The group of 500 hPa had the name of its stored integer, 800."""
        h5py, values = needs.module("h5py"), stack("i2")[:, 0]
        places, marks = np.array([1500, 800, 300, -100], np.int16), {"scale_factor": 0.5, "add_offset": 100.0}
        with h5py.File(tmp_path / "a.nc", "w") as file:
            data = file.create_dataset("t", data=values)
            file["level"] = places
            file["level"].attrs.update(marks)
            file["level"].make_scale("level")
            data.dims[1].attach_scale(file["level"])
        root = needs.module("zarr").open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
        root.create_array("t", data=values, dimension_names=("time", "level", "lat", "lon"))
        root.create_array("level", data=places, attributes=marks)
        for path in (tmp_path / "a.nc", tmp_path / "a.zarr"):
            summary = normcli.stats(normcli.source(path, variable="t", axes="TZYX"), group_by="axis:Z")
            assert {name: group.mean for name, group in summary.groups.items()} == {
                name: pytest.approx([values[:, i].mean()]) for i, name in enumerate(("850", "500", "250", "50"))
            }

    def test_groups_of_zarr_and_nifti(self, tmp_path: Path) -> None:
        values = stack("i2")[:, 0]
        root = needs.module("zarr").open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
        root.create_array("t", data=values, dimension_names=("time", "level", "lat", "lon"))
        root.create_array("level", data=np.array([850, 500, 250, 100]))
        summary = normcli.stats(normcli.source(tmp_path / "a.zarr", variable="t"), group_by="axis:level")
        assert {name: group.images for name, group in summary.groups.items()} == dict.fromkeys(
            ("100", "250", "500", "850"), 2
        )
        nibabel = needs.module("nibabel")
        nibabel.Nifti1Image(np.ascontiguousarray(values.T), np.eye(4)).to_filename(tmp_path / "a.nii")
        groups = normcli.stats(tmp_path / "a.nii", group_by="axis:Z").groups
        assert groups["2"].mean == pytest.approx(summary.groups["250"].mean)

    def test_a_source_without_axes_is_named(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", stack()[0, 0])
        done = run_here("stats", tmp_path / "a.npy", "-O", "layout=nhw", "--group-by", "axis:Z")
        assert done.code == 2 and "has no axes (-O axes=TZYX, or -O frames=all for TIFF)" in done.err


class TestEmptyPlanes:
    def test_they_are_left_out_and_counted(self, tmp_path: Path) -> None:
        values = stack()
        np.save(tmp_path / "a.npy", values)
        arguments = ["stats", tmp_path / "a.npy", "-O", "axes=TCZYX", "-O", "skip_empty=yes"]
        done = run_here(*arguments, "-o", tmp_path / "s.json")
        assert done.code == 0 and "skipped 1 input: 1 all-zero" in done.err + done.out, done
        summary = normcli.load(tmp_path / "s.json")
        assert (summary.images, summary.skips) == (7, {"all-zero": 1})
        kept = np.delete(values.transpose(0, 2, 1, 3, 4).reshape(-1, 3, 30), 1, axis=0)
        assert summary.mean == pytest.approx((kept.mean(axis=(0, 2)) / 65535).tolist())
        assert run_here(*arguments, "--nodata", "0").code == 0

    def test_a_finished_run_is_not_taken_for_one_without_them(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", stack())
        arguments = ["stats", tmp_path / "a.npy", "-O", "axes=TCZYX", "-o", tmp_path / "s.json"]
        for more, images in (((), 8), (("-O", "skip_empty=yes"), 7), ((), 8), (("-O", "skip_empty=yes"), 7)):
            assert run_here(*arguments, *more, "-f").code == 0
            assert normcli.load(tmp_path / "s.json").images == images
        for more, images in (((), 8), (("-O", "skip_empty=yes"), 7), ((), 8)):
            done = run_here(*arguments[:-1], tmp_path / "i.json", *more, "--incremental")
            assert done.code == 0 and normcli.load(tmp_path / "i.json").images == images, done

    @pytest.mark.parametrize("to", ["npy", "stack", "tar"])
    def test_apply_writes_none(self, to: str, tmp_path: Path) -> None:
        from PIL import Image

        photos = tmp_path / "photos"
        photos.mkdir()
        for i in range(5):
            Image.fromarray(np.full((4, 4, 3), 60 * (i % 3), np.uint8)).save(photos / f"{i}.png")
        options = ["-O", "skip_empty=yes", "--scheme", "contrast", "--to", to, "-o", tmp_path / "out"]
        done = run_here("apply", photos, *options)
        assert done.code == 0 and "2 all-zero" in done.err + done.out, done
        again = run_here("apply", photos, *options, "--resume")
        assert again.code == 0, again
        assert run_here("restore", tmp_path / "out", "-o", tmp_path / "back").code == 0
        names = sorted(path.name for path in (tmp_path / "back").rglob("*.png"))
        assert names == ["1.png", "2.png", "4.png"]
        incremental = ["stats", photos, "-O", "skip_empty=yes", "--incremental", "-o", tmp_path / "s.json"]
        for _ in range(2):
            assert run_here(*incremental).code == 0
            assert normcli.load(tmp_path / "s.json").images == 3


def nifti(path: Path, values: Array) -> Any:
    nibabel = needs.module("nibabel")
    nibabel.Nifti1Image(np.ascontiguousarray(values.T), np.eye(4)).to_filename(path)
    return str(path)


def dicom(folder: Path, values: Array) -> Any:
    """Write a series of a file for each plane."""
    pydicom = needs.module("pydicom")
    folder.mkdir()
    for i, plane in enumerate(values):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1.2.1", f"1.2.{i + 1}"
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset = pydicom.Dataset()
        dataset.file_meta = meta
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        dataset.PixelData = plane.tobytes()
        dataset.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    return str(folder)


def hdf5(path: Path, values: Array, *, scales: bool = False, **storage: Any) -> Any:
    h5py = needs.module("h5py")
    with h5py.File(path, "w") as file:
        data = file.create_dataset("images", data=values, **storage)
        for i, name in enumerate(("level", "latitude", "longitude") if scales else ()):
            file[name] = np.arange(values.shape[i])
            file[name].make_scale(name)
            data.dims[i].attach_scale(file[name])
    return str(path) if scales else normcli.source(path, variable="/images", axes="ZYX")


def zarr(path: Path, values: Array, version: int) -> Any:
    needs.module("zarr").create_array(path, data=values, zarr_format=version, chunks=(3, 8, 20))
    return normcli.source(path, axes="ZYX")


def ome_zarr(path: Path, values: Array) -> Any:
    image = needs.module("zarr").open_group(path, mode="w", zarr_format=2)
    image.create_array("0", data=values[None, None], chunks=(1, 1, 2, 16, 20))
    axes = [{"name": name} for name in "tczyx"]
    image.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    return str(path)


def tiff(path: Path, values: Array, **settings: Any) -> Any:
    needs.module("tifffile").imwrite(path, values, photometric="minisblack", **settings)
    return normcli.source(path, frames="all")


def npy(path: Path, values: Array, axes: str = "ZYX") -> Any:
    np.save(path, values)
    return normcli.source(path, axes=axes)


def npz(path: Path, values: Array) -> Any:
    np.savez_compressed(path, images=values)
    return normcli.source(path, axes="ZYX")


CONTAINERS: dict[str, Any] = {
    "npy": lambda folder, values: npy(folder / "a.npy", values),
    "npy, Fortran order": lambda folder, values: npy(folder / "f.npy", values.T, "XYZ"),
    "npz": lambda folder, values: npz(folder / "a.npz", values),
    "NIfTI": lambda folder, values: nifti(folder / "a.nii", values),
    "NIfTI, compressed": lambda folder, values: nifti(folder / "a.nii.gz", values),
    "DICOM series": lambda folder, values: dicom(folder / "series", values),
    "HDF5": lambda folder, values: hdf5(folder / "a.h5", values, chunks=(2, 8, 10), compression="gzip"),
    "NetCDF": lambda folder, values: hdf5(folder / "a.nc", values, scales=True),
    "Zarr 2": lambda folder, values: zarr(folder / "a.zarr", values, 2),
    "Zarr 3": lambda folder, values: zarr(folder / "b.zarr", values, 3),
    "OME-Zarr": lambda folder, values: ome_zarr(folder / "c.zarr", values),
    "OME-TIFF": lambda folder, values: tiff(folder / "a.ome.tif", values, metadata={"axes": "ZYX"}),
    "OME-TIFF, tiled": lambda folder, values: tiff(
        folder / "b.ome.tif", values, metadata={"axes": "ZYX"}, tile=(16, 16), compression="zlib"
    ),
    "ImageJ": lambda folder, values: tiff(folder / "j.tif", values, imagej=True, metadata={"axes": "ZYX"}),
    "pages": lambda folder, values: tiff(folder / "p.tif", values, metadata=None, byteorder=">"),
}


class TestContainers:
    """The same integers have one state, whichever container they are in, however they are counted."""

    @pytest.fixture(params=["u2", "i2"])
    def values(self, request: pytest.FixtureRequest) -> Array:
        volume = np.random.default_rng(3).integers(0, 4000, (7, 16, 20))
        return volume.astype(request.param) if request.param == "u2" else (volume - 1000).astype("i2")

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_the_state_is_that_of_one_array(self, container: str, values: Array, tmp_path: Path) -> None:
        if container == "ImageJ" and values.dtype.kind == "i":
            return  # which has no signed samples
        expected = normcli.stats(npy(tmp_path / "expected.npy", values)).state
        source = CONTAINERS[container](tmp_path, values)
        # DICOM of more than 8 bits is in the units of its rescale tags, which the others have none of
        once = normcli.stats(source, scale_offset="none", engine="serial")
        assert (once.images, once.state) == (7, expected)
        parts = [normcli.stats(source, scale_offset="none", shard=f"{i}/3", engine="threads") for i in (1, 2, 3)]
        assert normcli.merge(*parts[::-1]).state == once.state

    @pytest.mark.parametrize(
        "engines", [("threads", "processes"), pytest.param(("dask", "dask"), marks=pytest.mark.campaign)]
    )
    def test_every_engine(self, engines: tuple[str, str], tmp_path: Path) -> None:
        if "dask" in engines:
            needs.module("distributed")
        values = np.random.default_rng(3).integers(0, 4000, (7, 16, 20)).astype("u2")
        sources = [make(tmp_path, values) for make in CONTAINERS.values()]
        once = normcli.stats(sources, scale_offset="none", engine="serial")
        single = normcli.stats(sources[0])
        assert (once.images, once.mean, once.std) == (7 * len(sources), single.mean, single.std)
        parts = [
            normcli.stats(sources, scale_offset="none", shard=f"{i}/2", engine=engine, workers=2)
            for i, engine in enumerate(engines, 1)
        ]
        assert normcli.merge(*parts).state == once.state
