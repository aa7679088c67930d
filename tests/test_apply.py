"""normcli apply as it is used: the real command, its files, and the way back."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli import images
from normcli.errors import NoInputError, NormcliError, UsageError
from normcli.images.orientation import upright
from normcli.options.shared import DecodeOptions
from normcli.runs import manifest
from normcli.sources.folder import SUFFIXES
from tests.support import needs
from tests.support.command import ROOT, Run
from tests.support.images import encoded, photograph

Array = np.ndarray[Any, Any]
SAMPLES = ROOT / "sample_data" / "odd"
SCHEMES = ["unit", "signed", "contrast", "zscore", "minmax", "percentile", "robust", "gcn", "caffe"]
# sample images whose median absolute deviation is 0: mostly background
FLAT = {"robust"}


def put(path: Path, array: Array, kind: str = "PNG", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, kind, **options))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images in two folders: RGB of several sizes, one gray."""
    folder = tmp_path / "photos"
    for number in range(4):
        put(folder / ("a" if number % 2 else "b/c") / f"{number}.png", photograph(30 + number, 40, seed=number))
    put(folder / "gray.png", photograph(20, 30, 1))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def line(done: "subprocess.CompletedProcess[bytes]") -> str:
    return done.stderr.decode()


def test_the_tree_is_mirrored(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out", "--scheme", "unit")
    assert (done.returncode, done.stdout) == (0, b""), line(done)
    assert sorted(tree(tmp_path / "out")) == [
        "a/1.png.npy",
        "a/3.png.npy",
        "b/c/0.png.npy",
        "b/c/2.png.npy",
        "gray.png.npy",
        "normcli.json",
    ]
    array = np.load(tmp_path / "out/a/1.png.npy")
    right = photograph(31, 40, seed=1).transpose(2, 0, 1) / 255
    assert array.dtype == np.float32 and np.array_equal(array, right.astype(np.float32))
    assert "arrays have different numbers of channels: 1 with 1, 4 with 3" in line(done)


def test_contrast_computes_its_statistics_first_and_keeps_them(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out")
    assert done.returncode == 0, line(done)
    done = run("verify", "out")
    assert done.returncode == 0, line(done)
    assert b"mean 0 and std 1 within 1e-06: yes" in done.stdout
    stats = run("stats", photos, "--json")
    assert (tmp_path / "out/stats.json").read_bytes() == stats.stdout
    (tmp_path / "stats.json").write_bytes(stats.stdout)
    again = run("apply", photos, "-o", "again", "--stats", "stats.json")
    assert again.returncode == 0
    ours, theirs = tree(tmp_path / "out"), tree(tmp_path / "again")
    assert {k: v for k, v in ours.items() if k.endswith(".npy")} == {
        k: v for k, v in theirs.items() if k.endswith(".npy")
    }


def test_sample_data_by_contrast_has_mean_0_and_std_1(tmp_path: Path) -> None:
    normcli.apply(SAMPLES, tmp_path / "out")
    found = normcli.verify(tmp_path / "out")
    assert found.expected and found.is_valid and found.images == 44
    for channel in found.channels:
        assert abs(channel.mean) < 1e-6 and abs(channel.std - 1) < 1e-6
    # and by the plainest code there is, over all pixels
    values = [np.load(path).reshape(3, -1).astype(np.float64) for path in (tmp_path / "out").rglob("*.npy")]
    pixels = np.concatenate(values, axis=1)
    assert np.abs(pixels.mean(axis=1)).max() < 1e-6 and np.abs(pixels.std(axis=1) - 1).max() < 1e-6


def originals(folder: Path) -> dict[str, images.Decoded]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        image = images.decode(path.read_bytes(), DecodeOptions())
        image.pixels = image.pixels.copy()
        found[str(path.relative_to(folder))] = image
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_round_trip_of_the_samples_is_exact(scheme: str, tmp_path: Path) -> None:
    zero = "one" if scheme in FLAT else "error"
    normcli.apply(SAMPLES, tmp_path / "out", scheme=scheme, zero_std=zero)
    back = normcli.restore(tmp_path / "out", tmp_path / "back")
    _, records = manifest.read(tmp_path / "out")
    exact = 0
    original = originals(SAMPLES)
    for record in records:
        if "error" in record:  # float depth maps have no level of full intensity
            assert record["error"] == "no-range"
            continue
        was = original[record["name"]]
        path = restored(tmp_path / "back", record["name"])
        now = images.decode(path.read_bytes(), DecodeOptions())
        if was.pixels.dtype.kind == "f":
            assert np.allclose(now.pixels, was.pixels, rtol=1e-5, atol=1e-5)
            continue
        assert record["exact"] and now.pixels.dtype == was.pixels.dtype
        assert np.array_equal(now.pixels, was.pixels) and now.orientation == was.orientation, record["name"]
        exact += 1
    assert exact == back.exact == 42


def restored(folder: Path, name: str) -> Path:
    """Return the file that restores an image: its own name, with the suffix of the other format, or with one more."""
    stem = folder / Path(name).with_suffix("")
    names = [folder / name, *(Path(f"{base}{suffix}") for base in (stem, folder / name) for suffix in (".png", ".tif"))]
    return next(path for path in names if path.exists())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_round_trip_of_photographs_is_exact(scheme: str, tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "imagenet-300"
    step = 1 if scheme == "contrast" else 10
    files = [str(path) for path in sorted(folder.iterdir())[::step]]
    normcli.apply(files, tmp_path / "out", scheme=scheme)
    back = normcli.restore(tmp_path / "out", tmp_path / "back")
    assert back.exact == back.images == len(files)
    for file in files:
        was = images.decode(Path(file).read_bytes(), DecodeOptions()).pixels.copy()
        now = images.decode((tmp_path / "back" / f"{Path(file).stem}.png").read_bytes(), DecodeOptions()).pixels
        assert np.array_equal(now, was)


KINDS = [
    *[("npy", dtype) for dtype in ("float32", "float16", "float64", "uint8")],
    *[("npz", None), ("safetensors", None), ("stack", None), ("png", None), ("png16", None)],
    *[("tiff", None), ("tiff", "float64"), ("tiff", "uint8"), ("stack", "uint8"), ("safetensors", "float16")],
]


@pytest.mark.parametrize(("to", "dtype"), KINDS)
@pytest.mark.parametrize("scheme", ["signed", "zscore"])
def test_every_output_leads_back(to: Any, dtype: Any, scheme: str, tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"in/{number}.png", photograph(20, 30, seed=number))
    put(tmp_path / "in/gray.png", photograph(20, 30, 1))
    head = normcli.apply(tmp_path / "in", tmp_path / "out", scheme=scheme, to=to, dtype=dtype, color="rgb")
    assert head.images == 4
    verified = normcli.verify(tmp_path / "out")
    assert verified.is_valid and [c.name for c in verified.channels] == ["R", "G", "B"]
    back = normcli.restore(tmp_path / "out", tmp_path / "back")
    assert back.images == 4 and back.exact == head.exact
    for number in range(3):
        now = np.asarray(Image.open(tmp_path / f"back/{number}.png")).astype(int)
        far = np.abs(now - photograph(20, 30, seed=number)).max()
        assert far == 0 if back.exact == 4 else far <= 1
    assert np.asarray(Image.open(tmp_path / "back/gray.png")).ndim == 2
    if scheme == "signed" or (dtype != "uint8" and to != "png"):  # three channels share 256 levels
        assert back.exact == 4


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_tiffs_are_the_bytes_that_pillow_and_tifffile_write(channels: int, kind: str) -> None:
    tifffile = needs.module("tifffile")
    from normcli.images.encode import tiff

    for height, width in ((1, 1), (9, 70_000), (301, 257)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(kind)
        plane = pixels if channels > 1 else pixels[:, :, 0]
        file = io.BytesIO()
        if kind in ("uint8", "uint16", "float32") if channels == 1 else (channels, kind) == (3, "uint8"):
            Image.fromarray(plane).save(file, "TIFF")
        else:
            photometric = "rgb" if channels == 3 else "minisblack"
            planes = "contig" if channels > 1 else None
            tifffile.imwrite(
                file, plane, photometric=photometric, planarconfig=planes, metadata=None, software="normcli"
            )
        assert b"".join(tiff(pixels)) == file.getvalue()


def test_16_bit_colour_comes_back_from_float32(tmp_path: Path) -> None:
    needs.module("imagecodecs")
    from normcli.images.encode import png, tiff

    deep = np.random.default_rng(0).integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/deep.png").write_bytes(png(deep))
    (tmp_path / "in/bands.tif").write_bytes(b"".join(tiff(np.concatenate([deep, deep[:, :, :2]], axis=2))))
    normcli.apply(tmp_path / "in", tmp_path / "out", scheme="zscore")
    assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 2
    now = images.decode((tmp_path / "back/deep.png").read_bytes(), DecodeOptions()).pixels
    bands = images.decode((tmp_path / "back/bands.tif").read_bytes(), DecodeOptions()).pixels
    assert np.array_equal(now, deep) and np.array_equal(bands[:, :, :3], deep)


def test_images_are_turned_as_their_exif_says_and_back(tmp_path: Path) -> None:
    pixels = photograph(12, 20)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        put(tmp_path / f"in/{orientation}.png", pixels, exif=exif)
    normcli.apply(tmp_path / "in", tmp_path / "out", scheme="unit", dtype="float64", output_layout="hwc")
    normcli.apply(tmp_path / "in", tmp_path / "lying", scheme="unit", output_layout="hwc", orientation="ignore")
    normcli.restore(tmp_path / "out", tmp_path / "back")
    for orientation in range(1, 9):
        name = f"{orientation}.png"
        turned = np.load(tmp_path / f"out/{name}.npy")
        assert np.allclose(turned, upright(pixels, orientation) / 255, rtol=1e-15, atol=0)
        assert np.load(tmp_path / f"lying/{name}.npy").shape == (12, 20, 3)
        now = images.decode((tmp_path / f"back/{name}").read_bytes(), DecodeOptions())
        assert np.array_equal(now.pixels, pixels) and now.orientation == orientation


def test_a_stack_is_memory_mappable_and_indexed(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "a/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = run(
        "apply", photos, "-o", "out", "--scheme", "unit", "--to", "stack", "--center-crop", "16", "--color", "rgb"
    )
    assert done.returncode == 3, line(done)
    stack = np.load(tmp_path / "out/stack.npy", mmap_mode="r")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/index.csv").read_text())))
    assert stack.shape == (5, 3, 16, 16) and len(rows) == 5
    assert rows[0] == {"row": "0", "name": "gray.png", "label": "photos"}
    assert [row["label"] for row in rows] == ["photos", "a", "a", "b/c", "b/c"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.csv", "normcli.json", "stack.npy"]
    for row in rows:
        pixels = images.decode((photos / row["name"]).read_bytes(), DecodeOptions(center_crop=16)).pixels
        assert np.array_equal(stack[int(row["row"])], normcli.transform("unit", color="rgb")(pixels))
    assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 5


def test_a_stack_of_several_shapes_is_refused_and_leaves_nothing(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out", "--scheme", "unit", "--to", "stack", "--color", "rgb")
    assert done.returncode == 2 and "--resize N --center-crop N" in line(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["npy", "stack", "tar"])
def test_a_run_without_a_usable_image_names_the_first_reason(to: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(np.full((4, 5), 0.5, np.float32)).save(tmp_path / f"in/{name}.tif")
    with pytest.raises(NoInputError, match=r"a\.tif: .* maps to 1 .*\(and 2 more\)"):
        normcli.apply(tmp_path / "in", tmp_path / "out", scheme="signed", to=to)


@pytest.mark.parametrize("to", ["npy", "stack", "png"])
@pytest.mark.parametrize("options", [{"engine": "processes"}, {"engine": "serial"}, {"workers": 5}], ids=str)
def test_neither_engine_nor_workers_change_a_byte(
    to: str, options: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"to": to, "center_crop": 16}
    normcli.apply(photos, tmp_path / "one", workers=1, **settings)
    normcli.apply(photos, tmp_path / "other", **settings, **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_transform_gives_the_bits_of_the_command(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "out")
    made = normcli.transform("contrast", stats=tmp_path / "out/stats.json")
    for path in photos.rglob("*.png"):
        written = np.load(tmp_path / "out" / f"{path.relative_to(photos)}.npy")
        assert np.array_equal(made(Image.open(path)), written)


def test_one_image_through_the_pipe(run: Run, photos: Path, tmp_path: Path) -> None:
    right = normcli.transform("signed")(photograph(31, 40, seed=1))
    done = run("apply", photos / "a/1.png", "--scheme", "signed", "-o", "-")
    assert done.returncode == 0, line(done)
    assert np.array_equal(np.load(io.BytesIO(done.stdout)), right)
    again = run("apply", "-", "--scheme", "signed", "-o", "-", input=(photos / "a/1.png").read_bytes())
    assert again.stdout == done.stdout
    named = run("apply", "-", "--scheme", "signed", "-o", "x.npy", input=(photos / "a/1.png").read_bytes())
    assert named.returncode == 0 and (tmp_path / "x.npy").read_bytes() == done.stdout
    broken = run("apply", "-", "-o", "-", input=b"no image")
    assert broken.returncode == 1 and broken.stdout == b"" and line(broken).startswith("normcli: stdin: ")
    many = run("apply", photos / "a/1.png", photos / "a/3.png", "-o", "-")
    assert many.returncode == 2 and "one SOURCE" in line(many)


def test_paths_from_find(run: Run, photos: Path, tmp_path: Path) -> None:
    names = b"\0".join([b"photos/a/1.png", b"./photos/gray.png"])
    done = run("apply", "--files-from", "-", "-0", "-o", "out", "-s", "unit", input=names)
    assert done.returncode == 0, line(done)
    assert sorted(tree(tmp_path / "out")) == ["normcli.json", "photos/a/1.png.npy", "photos/gray.png.npy"]


def test_several_folders_keep_their_names(photos: Path, tmp_path: Path) -> None:
    normcli.apply([photos / "a", photos / "b"], tmp_path / "out", scheme="unit")
    assert sorted(tree(tmp_path / "out")) == [
        "a/1.png.npy",
        "a/3.png.npy",
        "b/c/0.png.npy",
        "b/c/2.png.npy",
        "normcli.json",
    ]


def test_members_of_archives_never_leave_the_output(run: Run, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        for name in ("x/1.png", "../evil.png", "/abs.png", "x/../../up.png"):
            archive.writestr(name, encoded(photograph(8, 9)))
    run("apply", "hostile.zip", "-o", "deep/out", "-s", "unit")
    written = {p.relative_to(tmp_path) for p in tmp_path.rglob("*.npy")}
    assert all(p.parts[:2] == ("deep", "out") for p in written)


def test_names_of_any_bytes(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    raw = [b"caf\xe9.png", b"new\nline.png", b"-o.png", "雪.png".encode(), b"[bold].png"]
    for name in raw:
        Path(folder, name.decode("utf-8", "surrogateescape")).write_bytes(encoded(photograph(8, 9)))
    done = run("apply", folder, "-o", "out", "-s", "zscore")
    assert done.returncode == 0, line(done)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npy")) == sorted(
        name.decode("utf-8", "surrogateescape") + ".npy" for name in raw
    )
    back = run("restore", "out", "-o", "back")
    assert back.returncode == 0 and "5 bit for bit" in line(back)
    again = run("apply", folder, "-o", "out", "-s", "zscore", "--resume")
    assert again.returncode == 0, line(again)


@pytest.mark.parametrize("command", ["apply", "check"])
def test_mean_and_std_take_spaces_and_commas(command: str, run: Run, photos: Path, tmp_path: Path) -> None:
    """Every spelling of the same constants leads to the same arrays and the same verdict."""
    assert run("stats", photos, "-o", "s.json", "-q").returncode == 0
    seen = set()
    for i, spelling in enumerate(["{},{},{}", "{} {} {}", "{}, {}, {}", "[{},{},{}]"]):
        mean, std = (spelling.format(*row).split(" ") for row in ((".4", "0.5", "6e-1"), ("1", "2.", ".3")))
        if command == "check":
            done = run("check", "s.json", "--mean", *mean, "--std", *std)
            assert done.returncode in (0, 1), line(done)
            seen.add(done.stdout)
        else:
            done = run("apply", "--mean", *mean, "--std", *std, "-o", f"out{i}", photos, "--color", "rgb")
            assert done.returncode == 0, line(done)
            seen.add(b"".join(path.read_bytes() for path in sorted((tmp_path / f"out{i}").rglob("*.npy"))))
    assert len(seen) == 1


REFUSED = [
    (["photos", "-o", "photos/out"], "is inside the source"),
    (["photos/a", "-o", "photos"], "is inside the output folder"),
    (["photos", "-o", "full"], "is not empty"),
    (["photos", "-o", "file.txt"], "is a file"),
    (["photos/a/1.png", "photos/a/../a/1.png", "-o", "out"], "the same SOURCE twice"),
    (["photos/a/1.png", "photos/a/1.png", "-o", "out"], "the same SOURCE twice"),
    (["twins", "-o", "out", "--no-suffix"], "would both be written as x"),
    (["photos", "-o", "out", "--to", "jpeg"], "--to: must be one of npy, npz,"),
    (["photos", "-o", "out", "--to", "png", "--dtype", "float32"], "png holds uint8, not float32"),
    (
        ["photos", "-o", "out", "--to", "png", "--output-layout", "chw"],
        "--output-layout cannot be combined with --to png",
    ),
    (
        ["photos", "-o", "out", "--to", "png", "--channel-order", "bgr"],
        "--channel-order cannot be combined with --to png",
    ),
    (["photos", "-o", "out", "--clip", "1"], "LO,HI"),
    (["photos", "-o", "out", "--mean", "a,b", "--std", "1,1"], "must be numbers"),
    (["photos", "-o", "out", "--resume", "--force"], "--resume cannot be combined with --force"),
    (["photos", "-o", "out", "--orientation", "up"], "must be one of apply, ignore, not 'up'"),
    (["photos", "-o", "out", "--workers", "-1"], "--workers: must be at least 0"),
    (["photos", "-o", "out", "--stats", "photos/gray.png"], "not a statistics file"),
    (["photos", "-o", "out", "--stats", "cropped.json"], "resize 20, center-crop 16"),
    (["photos"], "--output is required"),
    ([], "SOURCE or --files-from is required"),
    (["photos", "-o", "-"], "is a folder"),
    (["photos/gray.png", "-o", "-", "--to", "stack"], "holds many images"),
    (["photos/gray.png", "-o", "-", "--resume"], "--resume cannot be combined with one image"),
    (["photos", "-n", "--resume"], "--dry-run cannot be combined with --resume"),
    (["photos", "-o", "out", "-s", "unit", "--zero-std", "one"], "divides by no std"),
    (
        ["photos", "-o", "out", "-s", "unit", "--convention", "pooled_sample"],
        "--convention cannot be combined with",
    ),
    (["photos", "-o", "out", "-s", "unit", "--alpha", "weight"], "which uses no statistics"),
    (["twins", "-o", "out", "--files-from", "list"], "outside OUT"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(arguments: list[str], message: str, run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "list").write_text("../elsewhere/a.png\n")
    put(tmp_path / "twins/x.png", photograph(8, 8))
    put(tmp_path / "twins/x.bmp", photograph(8, 8), "BMP")
    normcli.stats(photos, resize=20, center_crop=16).save(tmp_path / "cropped.json")
    before = tree(tmp_path)
    done = run("apply", *arguments)
    assert done.returncode == 2 and message in line(done), line(done)
    assert line(done).count("\n") == 1 and done.stdout == b""
    assert tree(tmp_path) == before and not (tmp_path / "out").exists()


def test_statistics_are_a_contract(photos: Path, tmp_path: Path) -> None:
    colored = normcli.stats(photos / "a")
    put(tmp_path / "deep.png", np.arange(256, dtype=np.uint16).reshape(16, 16))
    with pytest.raises(NoInputError, match="16-bit pixels, but the statistics are of 8-bit images"):
        normcli.apply(tmp_path / "deep.png", tmp_path / "out", stats=colored)
    gray = normcli.stats(photos / "gray.png")
    with pytest.raises(NoInputError, match="3 channels, but mean and std have 1"):
        normcli.apply(photos / "a", tmp_path / "out", stats=gray)
    with pytest.raises(UsageError, match="made with alpha composite:white, not with alpha drop"):
        normcli.apply(photos, tmp_path / "out", stats=normcli.stats(photos, alpha="composite:white"))
    assert not (tmp_path / "out").exists()


def test_conventions_differ(photos: Path, tmp_path: Path) -> None:
    found = normcli.stats(photos / "a")
    normcli.apply(photos / "a", tmp_path / "out", stats=found, convention="mean-of-image-stds")
    head, _ = manifest.read(tmp_path / "out")
    assert head["constants"]["std"] == found.conventions["mean_of_image_stds"]["std"]
    with pytest.raises(UsageError, match="did you mean 'pooled_sample'"):
        normcli.apply(photos, tmp_path / "out2", stats=found, convention="pooled_sampel")


def test_percentiles_of_the_dataset(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos / "a", tmp_path / "out", scheme="percentile:5,95,dataset", dtype="float64")
    files = sorted((photos / "a").iterdir())
    levels = np.concatenate([np.asarray(Image.open(file)).reshape(-1, 3) for file in files])
    low, high = np.percentile(levels, [5, 95], axis=0)
    right = (np.asarray(Image.open(files[0])) - low) / (high - low)
    assert np.allclose(np.load(tmp_path / "out/1.png.npy"), right.transpose(2, 0, 1), rtol=1e-12, atol=1e-12)


def test_zero_std_of_the_dataset(run: Run, tmp_path: Path) -> None:
    flat = photograph(9, 9)
    flat[:, :, 1] = 7
    put(tmp_path / "in/flat.png", flat)
    done = run("apply", "in", "-o", "out")
    assert done.returncode == 2 and "channel G has std 0" in line(done) and not (tmp_path / "out").exists()
    given = run("apply", "in", "-o", "out", "--mean", ".5", ".5", ".5", "--std", "1", "0", "1")
    assert "channel G has std 0 (--zero-std" in line(given)
    given = run("apply", "in", "-o", "out", "--mean", ".5", ".5", ".5", "--std", "1", "0", "0")
    assert "channels G, B have std 0 (--zero-std one or eps:X maps them)" in line(given)
    one = run("apply", "in", "-o", "given", "--mean", ".5", ".5", ".5", "--std", "1", "1", "1")
    assert "mean 0.5000 0.5000 0.5000, std 1.0000 1.0000 1.0000 (given)\n" in line(one)
    assert run("apply", "in", "-o", "out", "--zero-std", "one").returncode == 0
    assert np.all(np.load(tmp_path / "out/flat.png.npy")[1] == 0)


def test_clipping_is_reported(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out", "--clip", "-1,1")
    assert done.returncode == 0 and "values clipped, " in line(done)
    assert np.abs(np.load(tmp_path / "out/a/1.png.npy")).max() == 1
    back = normcli.restore(tmp_path / "out", tmp_path / "back")
    assert back.inexact == {"clipped values": 5}


def test_normalized_input_is_told_of(run: Run, photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "out", to="tiff", color="gray")
    done = run("apply", "out", "-o", "again", "--scheme", "zscore")
    assert "5 float images have values of both signs within [-5,5]" in line(done)
    wrong = run("apply", photos, "-o", "wrong", "--mean", "123.7,116.3,103.5", "--std", "58.4,57.1,57.4")
    assert wrong.returncode == 0 and "look like range 0-255" in line(wrong)
    np.save(tmp_path / "ct.npy", np.arange(-300, 300, dtype=np.int16).reshape(20, 30))
    units = run("apply", "ct.npy", "-o", "units", "--mean", "40", "--std", "400")
    assert units.returncode == 0 and "look like range" not in line(units)


def test_dry_run_writes_nothing_and_tells_the_bytes(run: Run, photos: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = run("apply", photos, "-o", "out", "-n", "-s", "unit")
    assert done.returncode == 0 and tree(tmp_path) == before and not (tmp_path / "out").exists()
    run("apply", photos, "-o", "out", "-s", "unit")
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*.npy"))
    assert done.stdout.decode() == f"5 images, {written} bytes\n"


def test_failures_are_counted_and_listed(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "a/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (photos / "notes.txt").write_text("no image")
    done = run("apply", photos, "-o", "out", "-s", "unit", "--failures", "failed.jsonl", "--json")
    assert done.returncode == 3
    head = json.loads(done.stdout)
    assert head["complete"] is False and head["images"] == 5 and sum(head["failed"].values()) == 1
    listed = [json.loads(text) for text in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert sorted(Path(one["path"]).name for one in listed) == ["broken.png", "notes.txt"]
    refused = run("apply", photos, "-o", "out2", "-s", "unit", "--max-failures", "0")
    assert refused.returncode == 1 and "broken.png" in line(refused)
    with pytest.raises(NormcliError, match=r"broken\.png"):
        normcli.apply(photos, tmp_path / "out3", scheme="unit", max_failures="0")


def test_nothing_usable_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = run("apply", "in", "-o", "out", "-s", "unit")
    assert done.returncode == 4 and "broken.png: " in line(done) and not (tmp_path / "out").exists()


def test_existing_output(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run("apply", photos, "-o", "out", "-s", "unit").returncode == 0
    whole = tree(tmp_path / "out")
    assert run("apply", photos, "-o", "out", "-s", "unit").returncode == 2
    other = run("apply", photos, "-o", "out", "-s", "signed", "--resume")
    assert other.returncode == 2 and "scheme was unit, now signed" in line(other)
    assert tree(tmp_path / "out") == whole and len(list((tmp_path / "out").iterdir())) == 4
    (tmp_path / "out/a/1.png.npy").unlink()
    for option in ("--resume", "--skip-existing", "--force"):
        assert run("apply", photos, "-o", "out", "-s", "unit", option).returncode == 0
        assert tree(tmp_path / "out") == whole
    again = run("apply", photos, "-o", "out", "-s", "unit", "--resume")
    assert "already complete: out: 5 images" in line(again)
    assert run("apply", photos, "-o", "out", "-s", "signed", "--force").returncode == 0
    assert tree(tmp_path / "out") != whole


def test_resume_takes_up_new_and_changed_images(run: Run, photos: Path, tmp_path: Path) -> None:
    import os

    run("apply", photos, "-o", "out", "-s", "unit")
    put(photos / "a/new.png", photograph(9, 9))
    changed = put(photos / "a/1.png", photograph(9, 9, seed=5))
    later = (tmp_path / "out/a/1.png.npy").stat().st_mtime_ns + 1_000_000_000
    os.utime(changed, ns=(later, later))
    assert run("apply", photos, "-o", "out", "-s", "unit", "--resume").returncode == 0
    normcli.apply(photos, tmp_path / "fresh", scheme="unit")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_skip_existing_leaves_what_others_wrote(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/1.png.npy").write_bytes(b"mine")
    done = run("apply", photos, "-o", "out", "-s", "unit", "--skip-existing")
    assert done.returncode == 0 and "1 existed before this run" in line(done)
    assert (tmp_path / "out/a/1.png.npy").read_bytes() == b"mine"
    back = run("restore", "out", "-o", "back")
    assert back.returncode == 3 and "1 input failed: 1 not-recorded" in line(back)
    assert "note: first failure: a/1.png: existed before the run" in line(back)


def test_a_run_that_fails_leaves_no_folder_but_one_that_existed(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "damaged", scheme="unit")
    for path in (tmp_path / "damaged").rglob("*.npy"):
        path.write_bytes(b"x")
    for existed in (False, True):
        for out in (tmp_path / "out", tmp_path / "back"):
            if existed:
                out.mkdir()
        with pytest.raises(NoInputError, match="3 channels, but mean and std have 1"):
            normcli.apply(photos / "a", tmp_path / "out", mean=[0.5], std=[0.5])
        with pytest.raises(NoInputError, match=r"could be restored: .*: not a NumPy file \(and \d more\)"):
            normcli.restore(tmp_path / "damaged", tmp_path / "back")
        assert [(tmp_path / name).exists() for name in ("out", "back")] == [existed] * 2


def test_verify_sees_damage(run: Run, photos: Path, tmp_path: Path) -> None:
    run("apply", photos, "-o", "out")
    path = tmp_path / "out/a/1.png.npy"
    whole = path.read_bytes()
    for damage in (whole[:-1], whole + b"x", b"no", np.lib.format.MAGIC_PREFIX):
        path.write_bytes(damage)
        done = run("verify", "out")
        assert done.returncode == 1 and b"a/1.png: " in done.stderr
    np.save(path, np.load(io.BytesIO(whole)) + np.float32(0.01))
    shifted = run("verify", "out")
    assert shifted.returncode == 1 and b"not 0 and 1 within 1e-06" in shifted.stderr
    path.unlink()
    assert run("verify", "out").returncode == 1
    assert run("restore", "out", "-o", "back").returncode == 3


@pytest.mark.parametrize("arguments", [["restore", "photos", "-o", "back"], ["verify", "photos"]])
def test_a_folder_that_apply_did_not_write_is_rejected(run: Run, photos: Path, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and "normcli apply did not write it" in line(done)


def test_a_manifest_written_anew_is_read(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "out")
    path = tmp_path / "out/normcli.json"
    document = json.loads(path.read_text())
    assert len(document["files"]) == 5
    path.write_text(json.dumps(document))
    assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 5
    for text in ("{}", "[", json.dumps({**document, "schema": "normcli/apply/9"})):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"normcli\.json: "):
            normcli.verify(tmp_path / "out")


def test_npz_and_safetensors_hold_their_affine(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos / "gray.png", tmp_path / "z", scheme="signed", to="npz")
    with np.load(tmp_path / "z/gray.png.npz") as found:
        levels = (found["image"].astype(np.float64) - found["shift"][:, None, None]) / found["scale"][:, None, None]
        assert np.array_equal(np.rint(levels)[0], photograph(20, 30, 1)[:, :, 0])
    safetensors = needs.module("safetensors")
    normcli.apply(photos / "gray.png", tmp_path / "s", scheme="signed", to="safetensors")
    with safetensors.safe_open(tmp_path / "s/gray.png.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["shift"]) == [-1.0] and file.get_tensor("image").shape == (1, 20, 30)


def test_list_names_every_scheme_preset_and_output(run: Run) -> None:
    from normcli.schemes import PRESETS, SCHEMES
    from normcli.sinks import OUTPUT_KINDS

    text = run("list").stdout.decode()
    for name in [*SCHEMES, *PRESETS, *OUTPUT_KINDS]:
        assert f"\n  {name}" in text, name
    assert "percentile:lo=1,hi=99,over=image,per=channel" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from normcli.cli.main import run; run(['apply', '--help']); "
        "print([m for m in ('numpy', 'numba', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("[]\n")
