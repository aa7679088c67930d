"""Frames of image files: planes of OME-TIFF and ImageJ by their axes, pages, pictures of animations."""

import io
import random
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import InputError, NoInputError, UsageError
from normcli.options.shared import InputOptions
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.sources import read_one
from normcli.storage.tiff_pages import Plane, directories, extract, parse_start
from tests.support import needs
from tests.support.command import run_here

Array = np.ndarray[Any, Any]
NAMES = ["DAPI", "GFP", "RFP"]


def stack(dtype: str = "u2") -> Array:
    """Return an array of the axes T, C, Z, Y and X."""
    return np.random.default_rng(18).integers(0, 4000, (2, 3, 4, 16, 20)).astype(dtype)


def ome(path: Path, values: Array, axes: str = "TCZYX", **more: Any) -> Path:
    """Write an OME-TIFF with names of its three channels."""
    metadata = {"axes": axes, "Channel": {"Name": NAMES}}
    needs.module("tifffile").imwrite(path, values, metadata=metadata, ome=True, photometric="minisblack", **more)
    return path


def buckets(source: Any, **options: Any) -> Any:
    return normcli.stats(source, **options).state["buckets"]


def of_stack(values: Array, path: Path) -> Any:
    """Return the counts of the planes of T, C, Z, Y and X as an .npy."""
    np.save(path, values)
    return buckets(normcli.source(path, axes="TCZYX"))


def keys(source: Any) -> list[str]:
    return [item.key for item in items_of(source)]


def items_of(source: Any) -> list[Any]:
    return list(read_one(source if isinstance(source, normcli.sources.Source) else str(source), InputOptions()))


class TestSeries:
    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
    def test_the_counts_are_those_of_an_array(self, dtype: str, tmp_path: Path) -> None:
        values = stack(dtype)
        expected = of_stack(values, tmp_path / "a.npy")
        for name, more in (
            ("plain", {}),
            ("big", {"bigtiff": True}),
            ("swapped", {"byteorder": ">"}),
            ("tiled", {"tile": (16, 16), "compression": "zlib", "predictor": dtype != "f4"}),
        ):
            path = ome(tmp_path / f"{name}.ome.tif", values, **more)
            summary = normcli.stats(normcli.source(path, frames="all"))
            assert (summary.state["buckets"], summary.channels, summary.images) == (expected, NAMES, 8), name
        order = ome(tmp_path / "o.ome.tif", values.transpose(0, 2, 1, 3, 4), axes="TZCYX")
        assert buckets(normcli.source(order, frames="all")) == expected

    def test_engines_shards_and_merges(self, tmp_path: Path) -> None:
        source = normcli.source(ome(tmp_path / "a.ome.tif", stack()), frames="all")
        once = normcli.stats(source, engine="serial")
        parts = [normcli.stats(source, shard=f"{i}/3", engine="processes", workers=2) for i in (1, 2, 3)]
        assert normcli.merge(*parts).state == once.state == normcli.stats(source, engine="threads").state

    def test_imagej(self, tmp_path: Path) -> None:
        values = stack()
        expected = of_stack(values, tmp_path / "a.npy")
        labels = [
            f"c:{c + 1}/3 z:{z + 1}/4 - {name}" for _ in range(2) for z in range(4) for c, name in enumerate(NAMES)
        ]
        tifffile = needs.module("tifffile")
        for name, more in (("a.tif", {}), ("b.tif", {"truncate": True})):
            metadata = {"axes": "TZCYX", "Labels": labels}
            tifffile.imwrite(tmp_path / name, values.transpose(0, 2, 1, 3, 4), imagej=True, metadata=metadata, **more)
            summary = normcli.stats(normcli.source(tmp_path / name, frames="all"))
            assert (summary.state["buckets"], summary.channels, summary.images) == (expected, NAMES, 8), name
            assert summary.composition["multi_frame"] == 0
            assert normcli.stats(tmp_path / name).composition["multi_frame"] == 1, name
        labels[3] = "another"
        tifffile.imwrite(
            tmp_path / "c.tif",
            values.transpose(0, 2, 1, 3, 4),
            imagej=True,
            metadata={"axes": "TZCYX", "Labels": labels},
        )
        assert normcli.stats(normcli.source(tmp_path / "c.tif", frames="all")).channels == ["0", "1", "2"]

    def test_axes_of_the_user(self, tmp_path: Path) -> None:
        values = stack()
        tifffile = needs.module("tifffile")
        tifffile.imwrite(tmp_path / "a.tif", values[0, 0], metadata=None, photometric="minisblack")
        for axes, images in (("ZYX", 4), ("CYX", 1)):
            assert normcli.stats(normcli.source(tmp_path / "a.tif", axes=axes)).images == images
        # tifffile takes four planes for the samples of one page
        tifffile.imwrite(
            tmp_path / "b.tif", values, metadata={"axes": "TCZYX"}, photometric="rgb", planarconfig="separate"
        )
        assert buckets(normcli.source(tmp_path / "b.tif", axes="TCZYX")) == of_stack(values, tmp_path / "a.npy")
        assert normcli.stats(normcli.source(tmp_path / "b.tif", axes="TZCYX")).images == 6
        for axes, code, text in (
            ("ZYC", 2, "Y and X among them"),
            ("ZXY", 4, "not Y and X of"),
            ("YX", 2, "has 3 axes"),
        ):
            done = run_here("stats", tmp_path / "a.tif", "-O", f"axes={axes}")
            assert done.code == code and text in done.err, done
        tifffile.imwrite(
            tmp_path / "c.tif",
            stack("u1")[0, :, :3].transpose(1, 2, 3, 0),
            photometric="rgb",
            metadata={"axes": "ZYXS"},
            ome=True,
        )
        summary = normcli.stats(normcli.source(tmp_path / "c.tif", frames="all"))
        assert (summary.images, summary.channels) == (3, ["R", "G", "B"])

    def test_channels_of_color(self, tmp_path: Path) -> None:
        """Pages of RGB for each channel: the message has the axes that read them."""
        values = np.random.default_rng(0).integers(0, 256, (2, 12, 14, 3)).astype(np.uint8)
        path = tmp_path / "a.ome.tif"
        needs.module("tifffile").imwrite(path, values, photometric="rgb", metadata={"axes": "CYXS"})
        done = run_here("stats", path, "-O", "frames=all")
        assert done.code == 4 and "axes CYXS (-O axes=NYXC counts each channel C as an image)" in done.err
        summary = normcli.stats(normcli.source(path, frames="all", axes="NYXC"))
        assert summary.mean == pytest.approx((values.reshape(-1, 3) / 255).mean(axis=0).tolist())

    def test_series(self, tmp_path: Path) -> None:
        values = stack()
        with needs.module("tifffile").TiffWriter(tmp_path / "a.ome.tif") as writer:
            for one in (values[0, 0], values[1, 1, :2]):
                writer.write(one, metadata={"axes": "ZYX"}, photometric="minisblack")
        path = tmp_path / "a.ome.tif"
        done = run_here("stats", path, "-O", "frames=all")
        assert "only the first of 2 series is read, 0 ZYX (4, 16, 20) (-O series=all)" in done.err
        for series, mean in (("0", values[0, 0].mean()), ("1", values[1, 1, :2].mean())):
            assert normcli.stats(normcli.source(path, series=series)).mean == pytest.approx([mean / 65535])
        assert len(keys(normcli.source(path, series="all"))) == 6
        assert keys(normcli.source(path, series="1")) == [f"{path}/0", f"{path}/1"]
        assert "no series 2; it has 0 ZYX" in run_here("stats", path, "-O", "series=2").err
        assert buckets(normcli.source(path, frames="first", series="0")) == buckets(path)
        assert "must be all, or a number" in run_here("stats", path, "-O", "series=b").err

    def test_groups_along_an_axis(self, tmp_path: Path) -> None:
        values = stack()
        source = normcli.source(ome(tmp_path / "a.ome.tif", values), frames="all")
        summary = normcli.stats(source, group_by="axis:Z")
        means = [group.mean[2] * 65535 for group in summary.groups.values()]
        assert means == pytest.approx(values[:, 2].mean(axis=(0, 2, 3)).tolist())
        assert list(normcli.stats(source, group_by="axis:T").groups) == ["0", "1"]
        for one in (source, normcli.source(tmp_path, frames="all")):
            assert list(normcli.stats(one, group_by=r"(\w+)\.ome").groups) == ["a"]
        with pytest.raises(UsageError, match="`open_options` frames=all for TIFF"):
            normcli.stats(tmp_path / "a.ome.tif", group_by="axis:Z")

    def test_files_of_a_set_have_their_own_planes(self, tmp_path: Path) -> None:
        """tifffile would read all of a set from each of its files."""
        tifffile = needs.module("tifffile")
        values = stack()[0, 0]
        ids = [f"urn:uuid:0000000{i}-0000-0000-0000-000000000000" for i in range(2)]
        for axis in "ZC":
            planes = "".join(
                f'<TiffData First{axis}="{i}" IFD="0" PlaneCount="1">'
                f'<UUID FileName="{axis}{i}.ome.tif">{one}</UUID></TiffData>'
                for i, one in enumerate(ids)
            )
            sizes = f'SizeX="20" SizeY="16" SizeT="1" SizeZ="{1 + (axis == "Z")}" SizeC="{1 + (axis == "C")}"'
            for i, one in enumerate(ids):
                text = (
                    f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{one}"><Image ID="Image:0">'
                    f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {sizes}>'
                    f"{planes}</Pixels></Image></OME>"
                )
                tifffile.imwrite(tmp_path / f"{axis}{i}.ome.tif", values[i], description=text, metadata=None)
        source = normcli.source(tmp_path, frames="all")
        done = run_here("stats", tmp_path / "Z0.ome.tif", tmp_path / "Z1.ome.tif", "-O", "frames=all", "-o", "-")
        assert done.code == 0
        summary = normcli.stats([normcli.source(tmp_path / f"Z{i}.ome.tif", frames="all") for i in range(2)])
        assert summary.images == 2 and summary.mean == pytest.approx([values[:2].mean() / 65535])
        assert keys(normcli.source(tmp_path / "Z1.ome.tif", frames="all")) == [f"{tmp_path}/Z1.ome.tif/1"]
        failures: list[Any] = []
        normcli.stats(source, on_failure=failures.append)
        assert {failure.message[:40] for failure in failures} == {"the channels of one plane are in several"}
        assert len(failures) == 2 and "`open_options` axes=NYX counts" in failures[0].message
        gray = normcli.stats([normcli.source(tmp_path / f"C{i}.ome.tif", axes="NYX") for i in range(2)])
        assert gray.images == 2 and gray.mean == summary.mean

    def test_planes_that_are_missing_are_named(self, tmp_path: Path) -> None:
        """A file cut to its first directory is read by default, with a note, but not with `frames`."""
        for name, part, more in (
            ("a.tif", stack(), {}),  # three channels, by tifffile
            ("b.tif", stack(), {"tile": (16, 16), "compression": "zlib", "bigtiff": True}),
            ("c.tif", stack()[:, :1], {}),
        ):
            path = tmp_path / name
            names = {"axes": "TCZYX", "Channel": {"Name": NAMES[: part.shape[1]]}}
            needs.module("tifffile").imwrite(path, part, metadata=names, ome=True, photometric="minisblack", **more)
            assert "missing_planes" not in normcli.stats(path).composition
            data = bytearray(path.read_bytes())
            found, first = parse_start(bytes(data[:16]))
            width, count, entry = (8, "Q", 20) if found.is_big else (4, "H", 12)
            (entries,) = struct.unpack_from("<" + count, data, first)
            after = first + struct.calcsize("<" + count) + entries * entry
            data[after : after + width] = bytes(width)
            path.write_bytes(data)
            done = run_here("stats", path)
            assert done.code == 0 and "1 image with OME-XML that claims more planes than the file has" in done.err, done
            assert run_here("stats", path, "-O", "frames=all").code == 4


LINE = "cf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"


def imagej(path: Path, values: Array, lines: str = LINE, **more: Any) -> Path:
    """Write a TIFF with a description of ImageJ."""
    more = {"photometric": "minisblack", **more}
    needs.module("tifffile").imwrite(path, values, description=f"ImageJ=1.54f\n{lines}", metadata=None, **more)
    return path


def signed(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return signed values, and the samples that ImageJ stores of them."""
    values = np.random.default_rng(4).integers(-3000, 3000, shape)
    return values, (values + 32768).astype("u2")


class TestCalibration:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"byteorder": ">", "bigtiff": True},
            {"tile": (16, 16), "compression": "zlib"},
            {"photometric": "miniswhite"},
            {"photometric": "miniswhite", "bigtiff": True},
            {"large": True, "tile": (16, 16)},
        ],
        ids=["plain", "big", "tiles", "inverted", "inverted-big", "blocks"],
    )
    def test_a_straight_line_is_a_scale(
        self, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values, stored = signed((40, 50))
        if more.pop("large", False):
            monkeypatch.setattr("normcli.images.tiff.LARGE", 1000)
        path = imagej(tmp_path / "a.tif", stored, **more)
        summary = normcli.stats(path, engine="serial")
        assert summary.mean == pytest.approx([values.mean()], abs=1e-10)
        assert (summary.min, summary.max, summary.range) == ([values.min()], [values.max()], "raw")
        ignored = normcli.stats(path, scale_offset="none", engine="serial")
        assert ignored.state["buckets"] == summary.state["buckets"] and (ignored.max_value, ignored.range) == (
            65535,
            "0-1",
        )
        assert normcli.stats(path, scale_offset="values", engine="serial").mean == pytest.approx(
            [values.mean()], abs=1e-12
        )

    def test_of_tifffile_and_of_eight_bits(self, tmp_path: Path) -> None:
        values, stored = signed((40, 50))
        metadata = {"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}
        needs.module("tifffile").imwrite(tmp_path / "a.tif", stored, imagej=True, metadata=metadata)
        assert normcli.stats(tmp_path / "a.tif").mean == pytest.approx([values.mean()], abs=1e-10)
        narrow = (stored % 251).astype("u1")
        path = imagej(tmp_path / "b.tif", narrow, "cf=0\nc0=-10\nc1=0.5\nvunit=OD\n")
        assert normcli.stats(path).mean == pytest.approx([narrow.mean() / 2 - 10], rel=1e-12)

    @pytest.mark.parametrize(
        ("dtype", "lines"),
        [
            ("u1", "cf=0\nc0=0.0\nc1=1.0\nvunit=a\n"),  # identity
            ("u1", "cf=20\nc0=5.0\nc1=2.0\nvunit=a\n"),  # none
            ("u1", "cf=0\nc0=5.0\nc1=2.0\n"),  # none without a unit
            ("u1", "cf=0\nc0=5.0\nvunit=a\n"),
            ("f4", LINE),  # of which ImageJ takes the unit alone
            ("i2", LINE),  # to which it adds 32768 first
        ],
    )
    def test_what_is_no_scale(self, dtype: str, lines: str, tmp_path: Path) -> None:
        values = (np.arange(64) - 5 * (dtype == "i2")).astype(dtype).reshape(8, 8)
        found, plain = (normcli.stats(imagej(tmp_path / f"{len(one)}.tif", values, one)) for one in (lines, ""))
        assert found.composition["depth"] == {str(8 * values.itemsize): 1}
        assert found.mean == plain.mean and "scale" not in found.composition

    @pytest.mark.parametrize(
        ("lines", "text"),
        [
            ("cf=1\nc0=0\nc1=1\nc2=3\nvunit=a\n", "ImageJ calibration is a polynomial"),
            ("cf=21\nvunit=a\n", "ImageJ calibration is optical density"),
            ("cf=0\nc0=-1\nc1=1\nvunit=a\nzeroclip=true\n", "cut at 0"),
            ("cf=0\nc0=-1\nc1=0\nvunit=a\n", "is -1 + 0 x"),
            ("cf=0\nc0=nan\nc1=1\nvunit=a\n", "is nan + 1 x"),
        ],
    )
    def test_other_functions_are_named(self, lines: str, text: str, tmp_path: Path) -> None:
        path = imagej(tmp_path / "a.tif", np.arange(64, dtype="u1").reshape(8, 8), lines)
        with pytest.raises(NoInputError, match=re.escape(text) + r".* \(`scale_offset` none ignores it\)"):
            normcli.stats(path)
        assert normcli.stats(path, scale_offset="none").mean == pytest.approx([31.5 / 255])

    def test_every_plane_of_a_hyperstack_and_back(self, tmp_path: Path) -> None:
        tifffile = needs.module("tifffile")
        values, stored = signed((2, 3, 2, 16, 20))
        labels = [f"c:{c + 1}/2 z:{z + 1}/3 - N{'<&'[c]}{c}" for _ in range(2) for z in range(3) for c in range(2)]
        metadata: dict[str, Any] = {"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "<\x01"}
        for name, part, more in (
            ("a", (), {"axes": "TZCYX", "Labels": labels}),
            ("b", (), {"axes": "TZCYX", "truncate": True}),
            ("c", (slice(None), slice(None), 0), {"axes": "TZYX"}),
        ):
            more |= metadata
            truncate = {"truncate": more.pop("truncate", False)}
            path = tmp_path / f"{name}.tif"
            tifffile.imwrite(path, stored[part], imagej=True, metadata=more, **truncate)
            summary = normcli.stats(normcli.source(path, frames="all"))
            mean = values[part].mean((0, 1, -2, -1))
            assert summary.images == 6 and summary.mean == pytest.approx(np.atleast_1d(mean).tolist(), abs=1e-10), name
            first = np.atleast_1d(values[part][0, 0].mean((-2, -1)))[: 1 if name == "b" else None]  # one directory
            assert normcli.stats(path).mean == pytest.approx(first.tolist(), abs=1e-10), name
        assert normcli.stats(normcli.source(tmp_path / "a.tif", frames="all")).channels == ["N_0", "N_1"]
        out, back = tmp_path / "out", tmp_path / "back"
        done = run_here(
            "apply", tmp_path / "b.tif", "-O", "frames=all", "-o", out, "--scheme", "contrast", "--dtype", "float32"
        )
        assert done.code == 0 and run_here("verify", out).code == 0
        assert run_here("restore", out, "-o", back, "--to", "tiff").code == 0
        assert np.array_equal(tifffile.imread(back / "1/2.tif"), stored[1, 2].transpose(1, 2, 0))


class TestPages:
    def test_every_page_is_an_image(self, tmp_path: Path) -> None:
        pictures = [
            Image.new("1", (9, 7), 1),
            Image.fromarray(stack("u1")[0, 0, 0]),
            Image.fromarray(stack("u1")[0, :, 0].transpose(1, 2, 0)),
            Image.fromarray(stack("u2")[0, 0, 0]),
            Image.fromarray(stack("u1")[0, 0, 1]).convert("P"),
        ]
        pictures[0].save(tmp_path / "a.tif", save_all=True, append_images=pictures[1:], compression="tiff_lzw")
        (tmp_path / "single").mkdir()
        for i, picture in enumerate(pictures):
            picture.save(tmp_path / "single" / f"{i}.tif", compression="tiff_lzw")
        pages, files = (
            normcli.stats(source, color="rgb")
            for source in (normcli.source(tmp_path / "a.tif", frames="all"), tmp_path / "single")
        )
        assert pages.state["buckets"] == files.state["buckets"]
        assert pages.composition == files.composition and pages.images == 5
        assert keys(normcli.source(tmp_path / "a.tif", frames="1,3"))[1:] == [f"{tmp_path}/a.tif/3"]
        assert keys(normcli.source(tmp_path / "single", frames="all")) == keys(tmp_path / "single")

    def test_a_mask_belongs_to_its_page(self, tmp_path: Path) -> None:
        tifffile = needs.module("tifffile")
        values = stack("u1")[0, 0]
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for i in range(2):
                writer.write(values[i], metadata=None)
                writer.write(np.eye(16, 20, dtype=bool) | (i == 0), subfiletype=4, metadata=None)
                writer.write(values[i, ::2, ::2], subfiletype=1, metadata=None)
        summary = normcli.stats(normcli.source(tmp_path / "a.tif", frames="all"))
        assert (summary.images, summary.pixels, summary.invalid) == (2, 320 + 16, [320 - 16])

    def test_a_file_is_read_by_ranges(self, tmp_path: Path) -> None:
        """Pages are read one by one, not each with the complete file."""
        path = ome(tmp_path / "a.ome.tif", stack())
        items = items_of(normcli.source(path, frames="all"))
        assert all(len(item.load()) < path.stat().st_size / 4 for item in items)
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(InputError, match="changed"):
            items[0].load()


class TestPictures:
    def pictures(self) -> list[Image.Image]:
        values = np.random.default_rng(2).integers(0, 256, (4, 24, 32, 3), np.uint8)
        return [Image.fromarray(np.repeat(np.repeat(one[::4, ::4], 4, 0), 4, 1)) for one in values]

    @pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif", "mpo"])
    def test_pictures_of_animations(self, suffix: str, tmp_path: Path) -> None:
        first, *others = self.pictures()
        more: dict[str, Any] = {"webp": {"lossless": True}, "mpo": {"format": "MPO"}}.get(suffix, {})  # type: ignore[assignment]
        if suffix == "mpo":
            others = others[:1]  # Pillow 13 writes wrong places of more
        count = 1 + len(others)
        path = tmp_path / f"a.{suffix}"
        try:
            first.save(path, save_all=True, append_images=others, **more)
        except (KeyError, OSError):
            needs.skip(f"Pillow with {suffix}")
        summary = normcli.stats(normcli.source(path, frames="all"))
        assert summary.images == count and not summary.composition["multi_frame"]
        expected = []
        with Image.open(path) as image:
            for i in range(count):
                image.seek(i)
                expected.append(np.asarray(image.convert("RGB")).reshape(-1, 3) / 255)
        tolerance = 0.01 if suffix == "mpo" else 1e-12  # two decoders of JPEG
        assert summary.mean == pytest.approx(np.concatenate(expected).mean(axis=0).tolist(), abs=tolerance)
        for frames in ("first", "0"):
            one = normcli.stats(normcli.source(path, frames=frames))
            assert one.state["buckets"] == buckets(path) and one.images == 1, frames
        alone = [normcli.stats(normcli.source(path, frames=str(i))) for i in range(count)]
        assert normcli.merge(*alone).state == summary.state
        done = run_here("stats", path)
        assert "only the first frame used" in done.out + done.err

    def test_transparency(self, tmp_path: Path) -> None:
        pictures = self.pictures()
        for i, picture in enumerate(pictures):
            picture.putalpha(Image.new("L", picture.size, 255))
            picture.paste((0, 0, 0, 0), (0, 0, 8 * i, 24))
        pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:])
        summary = normcli.stats(normcli.source(tmp_path / "a.png", frames="all"), alpha="weight")
        assert (summary.images, summary.composition["alpha"]) == (4, 4)
        weights = [np.asarray(one)[..., 3] / 255 for one in pictures]
        total = sum(float((np.asarray(one)[..., 0] / 255 * w).sum()) for one, w in zip(pictures, weights, strict=True))
        assert summary.mean[0] == pytest.approx(total / sum(w.sum() for w in weights))

    def test_a_partial_first_frame_of_a_gif(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        first, *others = [one.convert("P") for one in self.pictures()]
        first.save(out, "GIF", save_all=True, append_images=others)
        data = bytearray(out.getvalue())
        data[6:10] = struct.pack("<HH", 40, 30)  # the canvas
        (tmp_path / "a.gif").write_bytes(data)
        for alpha in ("weight", "composite:white", "drop"):
            assert buckets(normcli.source(tmp_path / "a.gif", frames="0"), alpha=alpha) == buckets(
                tmp_path / "a.gif", alpha=alpha
            )

    def test_other_files_are_themselves(self, tmp_path: Path) -> None:
        self.pictures()[0].save(tmp_path / "a.png")
        self.pictures()[0].save(tmp_path / "b.jpg")
        assert normcli.stats(normcli.source(tmp_path, frames="all")).state == normcli.stats(tmp_path).state
        done = run_here("stats", tmp_path, "-O", "frames=2", "--max-failures", "2")
        assert done.code == 4 and "no frame 2: it has 1" in done.err
        assert "must be first, all, ::N" in run_here("stats", tmp_path, "-O", "frames=x").err
        assert run_here("stats", tmp_path, "-O", "frames=x").code == 2
        for option in ("axes=YX", "series=0"):
            assert "require a TIFF" in run_here("stats", tmp_path / "a.png", "-O", option).err
        np.save(tmp_path / "c.npy", stack()[0, 0, 0])
        done = run_here("stats", tmp_path, "--include", "*.npy", "-O", "axes=YX")
        assert done.code == 2 and "an .npy in a folder is one image" in done.err
        archive = run_here("stats", tmp_path / "a.zip", "-O", "series=1")
        assert archive.code == 2 and "it belongs to folder" in archive.err, archive


class TestApply:
    @pytest.mark.parametrize("to", ["npy", "stack", "tar"])
    def test_one_output_a_frame_and_back(self, to: str, tmp_path: Path) -> None:
        tifffile = needs.module("tifffile")
        values = stack()
        folder = tmp_path / "wells"
        (folder / "A").mkdir(parents=True)
        ome(folder / "A" / "1.ome.tif", values)
        out, back = tmp_path / "out", tmp_path / "back"
        done = run_here(
            "apply", folder, "-O", "frames=all", "--to", to, "-o", out, "--scheme", "contrast", "--dtype", "float32"
        )
        assert done.code == 0, done
        assert run_here("verify", out).code == 0
        assert run_here("restore", out, "-o", back, "--to", "tiff").code == 0
        assert np.array_equal(tifffile.imread(back / "A/1.ome.tif/1/2.tif"), values[1, :, 2].transpose(1, 2, 0))
        assert len(list(back.rglob("*.tif"))) == 8 + 1  # the folder 1.ome.tif

    def test_pictures_of_a_gif(self, tmp_path: Path) -> None:
        pictures = TestPictures().pictures()
        pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
        done = run_here("apply", tmp_path / "a.gif", "-O", "frames=all", "-o", tmp_path / "out", "--scheme", "unit")
        assert done.code == 0, done
        assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == [f"{i}.npy" for i in range(4)]
        assert run_here("restore", tmp_path / "out", "-o", tmp_path / "back").code == 0
        with Image.open(tmp_path / "a.gif") as image, Image.open(tmp_path / "back" / "3.png") as last:
            image.seek(3)
            assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(last))

    def test_incremental_and_resumed_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = ome(tmp_path / "a.ome.tif", stack())
        expected = normcli.stats(normcli.source(path, frames="all")).state
        arguments = ["stats", tmp_path, "-O", "frames=all", "--incremental", "-o", tmp_path / "s.json"]
        for _ in range(2):
            assert run_here(*arguments).code == 0
            assert normcli.load(tmp_path / "s.json").state["buckets"] == expected["buckets"]
        resumed = tmp_path / "r.json"
        monkeypatch.setattr(StatsCheckpoint, "remove", StatsCheckpoint.close)  # as of a run that is killed at its end
        for _ in range(2):
            assert (
                run_here("stats", tmp_path / "a.ome.tif", "-O", "frames=all", "--resume", "-f", "-o", resumed).code == 0
            )
            assert normcli.load(resumed).state == expected


class TestDamage:
    def test_lies_are_one_line(self, tmp_path: Path) -> None:
        """tifffile makes a list of as many planes as OME-XML claims: 8 GB of 10^9."""
        tifffile = needs.module("tifffile")
        with tifffile.TiffFile(ome(tmp_path / "a.ome.tif", stack())) as file:
            sound = file.ome_metadata
        cases = {
            'SizeZ="4"': ('SizeZ="9"', "24 of 54 pages"),
            "<Channel ID": ("<Channel <ID", "cannot be parsed"),
            "<?xml ": ("<!DOCTYPE x>", "entities"),
            'SizeZ="4" ': ('SizeZ="999999999" ', "channels, planes and times"),
            'SizeC="3"': ('SizeC="many"', "of the sizes"),
        }
        for old, (new, message) in cases.items():
            text = sound.replace(old, new, 1)
            assert text != sound, old
            tifffile.imwrite(
                tmp_path / "b.tif",
                stack().reshape(-1, 16, 20),
                description=text,
                metadata=None,
                photometric="minisblack",
            )
            done = run_here("stats", tmp_path / "b.tif", "-O", "frames=all")
            assert message in done.err and "Traceback" not in done.err and done.code == 4, (old, done)
            if "times" in message:
                assert message in run_here("stats", tmp_path / "b.tif").err

    def test_pages_are_not_copied_without_bound(self) -> None:
        out = io.BytesIO()
        Image.new("L", (64, 64)).save(out, "TIFF", tiffinfo={})
        data = out.getvalue()
        found, first = parse_start(data[:16])
        (offset, entries), *_ = directories(lambda at, size: data[at : at + size], found, first)
        with pytest.raises(InputError, match="truncated"):
            extract(lambda at, size: data[at : at + size][:-1], len(data), found, (Plane(offset),), None)
        with pytest.raises(InputError, match="larger than the file"):
            extract(lambda at, size: data[at : at + size], 4000, found, (Plane(offset),), None)
        with pytest.raises(InputError, match="not a TIFF"):
            parse_start(b"GIF89a")
        assert entries

    def test_damaged_files(self, tmp_path: Path) -> None:
        needs.module("tifffile")
        draw = random.Random(18)
        sources = [ome(tmp_path / "a.ome.tif", stack(), compression="zlib").read_bytes()]
        for name in ("GIF", "PNG", "WEBP"):
            out = io.BytesIO()
            pictures = TestPictures().pictures()
            pictures[0].save(out, name, save_all=True, append_images=pictures[1:])
            sources.append(out.getvalue())
        for i in range(100):
            data = bytearray(draw.choice(sources))
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
            (tmp_path / "b.tif").write_bytes(data[: draw.choice((None, None, draw.randrange(len(data))))])
            failures: list[Any] = []
            try:
                normcli.stats(
                    normcli.source(tmp_path / "b.tif", frames="all"), engine="serial", on_failure=failures.append
                )
            except normcli.errors.NormcliError as error:
                assert str(error), i
            assert all(failure.reason != "unexpected" for failure in failures), (i, failures)


class TestSources:
    @pytest.mark.usefixtures("no_waiting")
    def test_files_on_a_server(self, tmp_path: Path, server: Any) -> None:
        address, _ = server  # of this folder
        values = stack()
        ome(tmp_path / "a.ome.tif", values)
        np.save(tmp_path / "a.npy", values)
        pictures = TestPictures().pictures()
        pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
        for name, options in (
            ("a.ome.tif", {"frames": "all"}),
            ("a.npy", {"axes": "TCZYX"}),
            ("a.gif", {"frames": "all"}),
        ):
            local = normcli.stats(normcli.source(tmp_path / name, **options))
            assert normcli.stats(normcli.source(f"{address}/{name}", **options)).state == local.state, name

    def test_lists_of_files_take_the_options(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.ome.tif", stack())
        (tmp_path / "list.txt").write_text(f"{path}\n")
        done = run_here("stats", "--files-from", tmp_path / "list.txt", "-O", "frames=all", "-o", tmp_path / "s.json")
        assert done.code == 0 and normcli.load(tmp_path / "s.json").images == 8, done
        out = ["-o", tmp_path / "out", "--scheme", "unit"]
        assert run_here("apply", "--files-from", tmp_path / "list.txt", "-O", "frames=all", *out).code == 0
        assert len(list((tmp_path / "out").rglob("*.npy"))) == 8

    def test_samples_and_verification(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.ome.tif", stack())
        assert run_here("stats", path, "-O", "frames=all", "--sample", "5", "-o", tmp_path / "a.json").code == 0
        assert normcli.load(tmp_path / "a.json").images == 5
        assert run_here("stats", path, "-O", "frames=all", "-o", tmp_path / "s.json").code == 0
        assert run_here("verify", tmp_path / "s.json", path, "-O", "frames=all").code == 0
        assert run_here("verify", tmp_path / "s.json", path).code == 1
        done = run_here("stats", path, "-O", "frames=all", "--resume", "-o", tmp_path / "s.json")
        assert done.code == 0 and "already complete" in done.err, done

    def test_the_same_file_twice(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.ome.tif", stack())
        done = run_here("stats", path, tmp_path / "." / "a.ome.tif", "-O", "frames=all")
        assert done.code == 2 and "the same SOURCE twice" in done.err
        assert run_here("stats", tmp_path, path, "-O", "frames=all").code == 2


class TestDicom:
    def enhanced(self, path: Path, values: Array, slopes: list[float]) -> Path:
        """Write the frames of a volume with a rescale slope each."""
        pydicom = needs.module("pydicom")
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1.2.1", "1.2.3"
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        dataset = pydicom.Dataset()
        dataset.file_meta = meta
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = values.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        groups = []
        for slope in slopes:
            group, transformation = pydicom.Dataset(), pydicom.Dataset()
            transformation.RescaleSlope, transformation.RescaleIntercept = slope, -10
            group.PixelValueTransformationSequence = [transformation]
            groups.append(group)
        dataset.PerFrameFunctionalGroupsSequence = groups
        dataset.PixelData = values.tobytes()
        dataset.save_as(path, enforce_file_format=True)
        return path

    def test_frames_have_their_own_scale(self, tmp_path: Path) -> None:
        """The slope of an enhanced CT was ignored: it is in its functional groups."""
        values = stack()[0, 0]
        path = self.enhanced(tmp_path / "a.dcm", values, [1, 2, 0.5, 1])
        assert normcli.stats(path).mean == pytest.approx([values[0].mean() - 10])
        source = normcli.source(path, frames="all")
        scaled = values * np.array([1, 2, 0.5, 1])[:, None, None] - 10
        summary = normcli.stats(source, scale_offset="values")
        assert summary.images == 4
        assert summary.mean + summary.std == pytest.approx([scaled.mean(), scaled.std()])
        groups = normcli.stats(source, scale_offset="values", group_by="axis:I").groups
        assert [group.mean[0] for group in groups.values()] == pytest.approx(scaled.mean(axis=(1, 2)).tolist())
        path.write_bytes(path.read_bytes()[:-700])
        done = run_here("stats", path, "-O", "frames=all", "--scale-offset", "none")
        assert done.code == 3 and "2 truncated" in done.err, done

    def test_the_extended_offset_table_is_that_of_all_frames(self, tmp_path: Path) -> None:
        """With it a frame had as many bytes as the first one, and longer ones were cut."""
        imagecodecs, encaps = needs.module("imagecodecs"), needs.module("pydicom.encaps")
        pydicom, values = needs.module("pydicom"), stack()[0, 0]
        values[0] //= 64  # which is shorter in bytes
        dataset = pydicom.dcmread(self.enhanced(tmp_path / "a.dcm", values, [1] * len(values)))
        frames = [imagecodecs.jpeg2k_encode(one, level=0, codecformat="j2k", reversible=True) for one in values]
        assert len(frames[0]) < min(map(len, frames[1:]))
        pixels, starts, lengths = encaps.encapsulate_extended([one + bytes(len(one) % 2) for one in frames])
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = pixels, starts, lengths
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
        plain, packed = (normcli.source(tmp_path / f"{name}.dcm", frames="all") for name in "ab")
        assert normcli.stats(packed).state == normcli.stats(plain).state

    def test_segmentations_are_named(self, tmp_path: Path) -> None:
        pydicom = needs.module("pydicom")
        dataset = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm")
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        dataset.save_as(tmp_path / "a.dcm")
        assert normcli.stats(tmp_path / "a.dcm").composition["labels"] == 1
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.NumberOfFrames, dataset.HighBit, dataset.PixelRepresentation = 16, 0, 0
        dataset.save_as(tmp_path / "b.dcm")
        done = run_here("stats", tmp_path / "b.dcm", "-O", "frames=all")
        assert done.code == 4 and "a DICOM Segmentation, whose frames of 1 bit are labels" in done.err
        assert "convert it to NIfTI for --mask-dir" in done.err
        first = run_here("stats", tmp_path / "b.dcm")
        assert first.code == 0 and "1 image with labels of a DICOM Segmentation as samples (--mask-dir" in first.err

    def test_frames_that_are_not_read_one_by_one(self, tmp_path: Path) -> None:
        """All frames of a deflated file, not the first in their place; the first where it is asked for."""
        pydicom = needs.module("pydicom")
        dataset = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "rtdose.dcm")
        del dataset.ReferencedRTPlanSequence  # with a UID that pydicom warns of
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
        done = run_here("stats", tmp_path / "a.dcm", "-O", "frames=all")
        assert done.code == 4 and "frames of a deflated file" in done.err
        first = normcli.stats(normcli.source(tmp_path / "a.dcm", frames="first"))
        assert first.state == normcli.stats(tmp_path / "a.dcm").state and first.images == 1

    @pytest.mark.parametrize(
        "name", ["rtdose", "rtdose_expb", "rtdose_rle", "examples_ybr_color", "SC_rgb_rle_16bit_2frame"]
    )
    def test_frames_are_those_of_pydicom(self, name: str, tmp_path: Path) -> None:
        pydicom = needs.module("pydicom")
        path = Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm"
        if not path.exists():
            needs.skip(needs.INSTALL["pydicom"])
        summary = normcli.stats(normcli.source(path, frames="all"), scale_offset="none")
        frames = needs.module("pydicom.pixels").pixel_array(path)
        expected = frames.reshape(-1, frames.shape[-1] if frames.ndim == 4 else 1).astype(float)
        full = {"uint8": 255, "uint16": 65535}.get(str(frames.dtype), 1)
        assert summary.images == len(frames)
        assert summary.mean == pytest.approx((expected / full).mean(axis=0).tolist(), rel=1e-12)
