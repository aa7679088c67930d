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
        assert "are scattered" in run_here("stats", tmp_path / "c.npy", "-O", "axes=CNYTZX").err
        np.savez(tmp_path / "f.npz", images=np.asfortranarray(values))
        assert "in Fortran order in an archive" in run_here("stats", tmp_path / "f.npz", "-O", "axes=TCZYX").err

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
        assert done.code == 2 and "has no axes (-O axes=TZYX; -O frames=all of TIFF)" in done.err


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
