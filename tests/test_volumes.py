"""Volumes and scientific arrays: numbers as their own libraries compute them, one state whatever holds the integers."""

import gzip
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError
from normcli.options.shared import InputOptions
from normcli.sources import read_one
from normcli.sources.nifti import parse_header
from tests.support import needs
from tests.support.command import run_here

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


def nibabel_data() -> Path:
    folder = Path(needs.module("nibabel").__file__).parent / "tests" / "data"
    return folder if folder.is_dir() else needs.skip(needs.INSTALL["nibabel"])


class TestNifti:
    @pytest.mark.parametrize(
        ("name", "images", "mean", "std"),
        [
            ("example4d.nii.gz", 48, 172.908115, 238.7681),
            ("functional.nii", 60, 3637.40851, 530.412374),
            ("anatomical.nii", 25, 8401.06673, 2526.65611),
        ],
    )
    def test_reference_values(self, name: str, images: int, mean: float, std: float) -> None:
        nibabel = needs.module("nibabel")
        path = nibabel_data() / name
        summary = normcli.stats(path)
        assert summary.images == images
        assert summary.mean + summary.std == pytest.approx([mean, std])
        values = np.asanyarray(nibabel.load(path).dataobj, np.float64)
        assert summary.mean + summary.std == pytest.approx([values.mean(), values.std()], rel=1e-12)

    def test_reference_values_of_what_is_not_zero(self) -> None:
        summary = normcli.stats(
            nibabel_data() / "example4d.nii.gz", nodata="0", percentiles="0.5,99.5", exact_percentiles=True
        )
        assert summary.pixels == 229_725
        assert summary.mean + summary.std == pytest.approx([443.945396, 161.397664])
        assert [summary.percentiles[p] for p in ("0.5", "99.5")] == [[29], [782]]

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
    def test_the_state_is_that_of_an_npy(self, dtype: str, tmp_path: Path) -> None:
        values = volume(dtype)
        expected = state(stack(tmp_path / "a.npy", values))
        for name, order in (("a.nii", "<"), ("b.nii", ">"), ("c.nii.gz", ">"), ("d.img", ">")):
            assert state(nifti(tmp_path / name, values, order=order)) == expected, name
        assert state(tmp_path / "d.hdr") == expected

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
        with pytest.raises(normcli.errors.UsageError, match="scaling=values"):
            normcli.stats(both)
        pooled = np.concatenate([values.ravel(), values.ravel() * -0.5 + 8])
        summary = normcli.stats(both, open_options={"scaling": "values"})
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
                assert done.code in (3, 4) and "Traceback" not in done.err, (name, done)
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
