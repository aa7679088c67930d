"""Counting Python objects gives the counts of `stats` over the same pixels, in any container and any split."""

import itertools
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.sources.samples import images_of
from tests.support import needs
from tests.support.images import encoded

Arrays = list[np.ndarray[Any, Any]]


def pictures(dtype: type[np.generic] = np.uint8, count: int = 23, channels: int = 3) -> Arrays:
    random = np.random.default_rng(7)
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max  # type: ignore[type-var]
    return [(random.random((9, 12 + i % 3, channels)) * top).astype(dtype) for i in range(count)]


def folder_of(arrays: Arrays, path: Path) -> Path:
    path.mkdir()
    for i, array in enumerate(arrays):
        np.save(path / f"{i:03d}.npy", array)
    return path


class Indexed:
    """A dataset with length and index, as torch's and Hugging Face's."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        sample = self.samples[index]
        if isinstance(sample, Exception):
            raise sample
        return sample


def counted(path: Path) -> normcli.Summary:
    return normcli.stats(path, include="*.npy")


def in_rows(arrays: Arrays) -> Iterator[dict[str, Any]]:
    for i, array in enumerate(arrays):
        yield {"image": array, "label": i % 2}


WAYS: dict[str, Callable[[Arrays], Any]] = {
    "list": lambda arrays: normcli.count(arrays),
    "generator": lambda arrays: normcli.count(iter(arrays)),
    "indexed": lambda arrays: normcli.count(Indexed(arrays)),
    "three threads": lambda arrays: normcli.count(Indexed(arrays), workers=3),
    "tuples": lambda arrays: normcli.count([(array, "label") for array in arrays]),
    "mappings": lambda arrays: normcli.count(in_rows(arrays)),
    "named": lambda arrays: normcli.count(({"depth": a, "image": None} for a in arrays), key="depth"),
    "channels first": lambda arrays: normcli.count([a.transpose(2, 0, 1) for a in arrays], layout="chw"),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("way", WAYS)
def test_the_state_is_that_of_the_folder(way: str, dtype: type[np.generic], tmp_path: Path) -> None:
    arrays = pictures(dtype)
    expected = counted(folder_of(arrays, tmp_path / "a"))
    summary = WAYS[way](arrays)
    assert summary.state == expected.state
    assert (summary.mean, summary.std, summary.images) == (expected.mean, expected.std, len(arrays))
    assert summary.settings == expected.settings


def in_any_order(seed: int) -> Arrays:
    """Small and large arrays, of 8 bits and others, with and without an axis of channels, in turn."""
    random = np.random.default_rng(seed)
    shapes = [(9, 12, 3), (9, 12, 1), (12, 9, 3), (9, 12), (120, 110, 3), (5, 1, 3)]
    arrays = [random.integers(0, 256, shapes[i % 6], np.uint8) for i in range(48)]
    arrays += [random.integers(0, 65536, shapes[0], np.uint16) for _ in range(6)]
    return [arrays[i] for i in random.permutation(len(arrays))]


@pytest.mark.parametrize("options", [{}, {"color": "rgb"}, {"color": "gray"}, {"max_pixels": 107}, {"nodata": "3"}])
def test_plain_arrays_count_as_decoded_ones(options: dict[str, Any]) -> None:
    """`count` gathers arrays that need no conversion; with groups it decodes each."""
    failures = together_and_by_itself(in_any_order(3), **options)
    assert bool(failures) == ("max_pixels" in options)


def together_and_by_itself(arrays: Arrays, **options: Any) -> list[Any]:
    """Check that arrays count alike gathered and one by one; return the failures."""
    failures: tuple[list[Any], list[Any]] = [], []
    gathered = normcli.count(arrays, on_failure=failures[0].append, **options)
    labeled = [*zip(arrays, ["one"] * len(arrays), strict=True)]
    single = normcli.count(labeled, group_by="label", on_failure=failures[1].append, **options)
    assert {**single.tally.state(), "groups": None} == {**gathered.tally.state(), "groups": None}
    assert failures[0] == failures[1]
    return failures[0]


@pytest.mark.parametrize("nan", ["error", "skip"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_floats_count_together_as_one_by_one(dtype: Any, nan: str) -> None:
    """Arrays as ToTensor and Normalize make them, with some of a wide range, with NaN, and too large for a square."""
    random = np.random.default_rng(5)
    levels = random.integers(0, 256, (60, 7, 9, 3)).astype(np.float32) / np.float32(255)
    arrays = [*levels[:20].astype(dtype), *((levels[20:40] - np.float32(0.45)) / np.float32(0.225)).astype(dtype)]
    arrays += [*(levels[40:] * np.float32(2e-9)).astype(dtype), *random.random((10, 7, 9, 3)).astype(dtype)]
    arrays += [np.zeros((7, 9, 3), dtype), np.full((7, 9, 3), -3, dtype), *(random.random((9, 1, 1, 3)).astype(dtype))]
    arrays[25][2, 3, 1] = 1e-30
    arrays[27][:] = np.nan
    arrays[28][0, 0, 0] = np.inf
    arrays[62][1, 1, 1] = 1e200 if dtype == np.float64 else 3e38
    failures = together_and_by_itself(arrays, nan=nan, layout="hwc")
    assert [f.key for f in failures] == [*(["27"] if nan == "skip" else ["27", "28"]), *["62"] * (dtype == np.float64)]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_counter_takes_batches_and_single_images(batch: int, tmp_path: Path) -> None:
    arrays = [a[:, :12] for a in pictures()]
    counter = normcli.Counter()
    for at in range(0, len(arrays), batch):
        assert counter.add(np.stack(arrays[at : at + batch])) == len(arrays[at : at + batch])
    assert counter.summary().state == counted(folder_of(arrays, tmp_path / "a")).state


def test_counters_add_pickle_and_take_threads(tmp_path: Path) -> None:
    arrays = pictures(np.uint16, 60)
    expected = counted(folder_of(arrays, tmp_path / "a")).state
    parts = [normcli.Counter() for _ in range(4)]
    for i, array in enumerate(arrays):
        parts[i % 4].add(array)
    total = normcli.Counter()
    for part in parts:
        total += pickle.loads(pickle.dumps(part))
    assert total.summary().state == expected
    assert (parts[0] + parts[1] + (parts[2] + parts[3])).summary().state == expected
    shared = normcli.Counter()
    threads = [threading.Thread(target=lambda n=n: [shared.add(a) for a in arrays[n::4]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.summary().state == expected


def test_labels_are_groups(tmp_path: Path) -> None:
    arrays = pictures()
    for name in ("0", "1"):
        folder_of(arrays[int(name) :: 2], tmp_path / name)
    expected = normcli.stats(tmp_path, include="*.npy", group_by="folder")
    summary = normcli.count(in_rows(arrays), group_by="label")
    assert {name: group.mean for name, group in summary.groups.items()} == {
        name: group.mean for name, group in expected.groups.items()
    }
    counter = normcli.Counter()
    for i, array in enumerate(arrays):
        counter.add(array, group=str(i % 2))
    assert counter.summary().groups == summary.groups
    with pytest.raises(normcli.UsageError, match="requires samples of an image and a label"):
        normcli.count(arrays, group_by="label")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"])
def test_a_pillow_image_counts_as_its_file(mode: str, tmp_path: Path) -> None:
    base = Image.fromarray(pictures(count=1)[0])
    image = Image.fromarray(pictures(np.uint16, 1, 1)[0][:, :, 0]) if mode == "I;16" else base.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(pictures(count=1)[0][:, :, 0]))
    name = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(name)
    for alpha in ("drop", "keep", "weight"):
        expected = normcli.stats(name, alpha=alpha)
        assert normcli.count([image], alpha=alpha).state["buckets"] == expected.state["buckets"]
        counter = normcli.Counter(alpha=alpha)
        counter.add(image)
        counter.add(name.read_bytes())
        assert (counter.images, counter.summary().mean) == (2, expected.mean)


def test_a_pillow_image_of_32_bits_counts_as_its_file_of_16(tmp_path: Path) -> None:
    """Older versions of Pillow open a PNG of 16 bits so, and newer ones write none of it."""
    array = pictures(np.uint16, 1, 1)[0][:, :, 0]
    Image.fromarray(array).save(tmp_path / "a.png")
    image = Image.fromarray(array.astype(np.int32))
    assert image.mode == "I"
    assert normcli.count([image]).state["buckets"] == normcli.stats(tmp_path / "a.png").state["buckets"]


def test_of_a_list_of_images_none_is_taken_in_silence() -> None:
    """A batch that a loader did not stack: only its first image was counted."""
    arrays = pictures(count=2)
    for batch in (arrays, list(map(Image.fromarray, arrays)), [encoded(array) for array in arrays]):
        with pytest.raises(normcli.UsageError, match="lists of 2 images of one kind: choose one"):
            normcli.count([batch])
        assert normcli.count([batch], key=1).mean == normcli.count([arrays[1]]).mean
        assert normcli.count([tuple(batch)]).mean == normcli.count([arrays[0]]).mean


class OnDevice:
    """An array on a GPU, as CuPy's: NumPy cannot read it."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {"shape": (4, 4), "typestr": "<f4", "version": 3}

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


BAD: dict[str, tuple[Any, str]] = {
    "on a device": (OnDevice(), "device"),
    "rows of several lengths": ([[1, 2], [3]], "unsupported"),
    "ragged": (np.array([[1, 2], [3]], dtype=object), "unsupported"),
    "text": (np.array([["a", "b"]]), "unsupported"),
    "vector": (np.arange(4.0), "not-an-image"),
    "nan": (np.full((4, 4), np.nan), "not-finite"),
    "empty": (np.zeros((0, 4, 3), np.uint8), "not-an-image"),
    "cmyk": (Image.new("CMYK", (4, 4)), "mode"),
    "mode I beyond 16 bits": (Image.fromarray(np.full((4, 4), -1, np.int32)), "mode"),
    "a row without an image": ({"image": {"bytes": None, "path": None}}, "empty"),
    "error": (KeyError("no such row"), "dataset"),
    "bytes": (b"not an image", "not-an-image"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_sample_is_counted_as_failed_under_its_number(name: str, workers: int) -> None:
    bad, reason = BAD[name]
    failures: list[Any] = []
    good = pictures()[:3]
    data = Indexed([good[0], bad, *good[1:]])
    summary = normcli.count(data, workers=workers, on_failure=failures.append)
    assert (summary.images, summary.failed, summary.complete) == (3, 1, False)
    assert [(failure.key, failure.reason) for failure in failures] == [("1", reason)]
    with pytest.raises(normcli.NormcliError):
        normcli.count(data, max_failures=0)


def test_a_counter_refuses_what_it_cannot_count_and_keeps_the_rest() -> None:
    counter = normcli.Counter()
    counter.add(np.full((8, 8, 3), 51, np.uint8))
    for bad in (np.full((8, 8, 3), np.nan), object(), Image.new("CMYK", (4, 4))):
        with pytest.raises(normcli.InputError):
            counter.add(bad)
    with pytest.raises(normcli.UsageError):
        counter.add(np.zeros((5, 7, 9, 9), np.uint8))
    with pytest.raises(normcli.UsageError, match="channels"):
        counter.add(np.zeros((9, 9, 4), np.uint8))
    assert counter.images == 1 and counter.summary().mean == [0.2, 0.2, 0.2]
    with pytest.raises(normcli.UsageError, match="other options"):
        counter += normcli.Counter(nan="skip")
    with pytest.raises(normcli.NoInputError):
        normcli.Counter().summary()
    with pytest.raises(TypeError, match="did you mean 'layout'"):
        normcli.Counter(layot="hwc")


def test_an_iterator_that_raises_ends_as_one_failure() -> None:
    def broken() -> Iterator[Any]:
        yield from pictures()[:2]
        raise OSError("disk is gone")

    failures: list[Any] = []
    summary = normcli.count(broken(), on_failure=failures.append)
    assert (summary.images, summary.failed) == (2, 1)
    assert "disk is gone" in failures[0].message


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        (5, None, "data must be iterable, not int"),
        ([{"a": 1}], None, "samples have a: choose the image (key=NAME)"),
        ([{"image": 1, "img": 2}], None, "samples have image, img: choose the image (key=NAME)"),
        ([(1,)], 3, "samples have 1 member, no 3: choose the image (key=NUMBER)"),
    ],
    ids=str,
)
def test_what_is_no_dataset_is_named(data: Any, key: Any, message: str) -> None:
    with pytest.raises(normcli.UsageError, match=f"^{re.escape(message)}$"):
        normcli.count(data, key=key)


def test_the_statistics_file_is_written(tmp_path: Path) -> None:
    summary = normcli.count(pictures(), output=tmp_path / "s.json")
    assert normcli.load(tmp_path / "s.json").state == summary.state
    with pytest.raises(normcli.UsageError, match="exists"):
        normcli.count(pictures(), output=tmp_path / "s.json")


def test_a_labeled_dataset_with_a_bad_index_keeps_the_others() -> None:
    good = [{"image": array, "label": i % 2} for i, array in enumerate(pictures()[:5])]
    failures: list[Any] = []
    data = Indexed([*good[:2], KeyError("no such row"), *good[2:]])
    summary = normcli.count(data, group_by="label", on_failure=failures.append)
    assert (summary.images, [(one.key, one.reason) for one in failures]) == (5, [("2", "dataset")])
    with pytest.raises(normcli.UsageError, match="a mapping of train, test: choose one"):
        normcli.count({"train": good, "test": good})


class TestInterruption:
    def endless(self, images: int) -> Iterator[Any]:
        for i in itertools.count():
            if i == images:
                signal.raise_signal(signal.SIGINT)
            yield pictures(count=1)[0]

    def test_a_partial_result_is_valid_and_says_so(self, tmp_path: Path) -> None:
        expected = normcli.count(itertools.islice(self.endless(-1), 40)).state
        before = signal.getsignal(signal.SIGINT)
        for workers in (1, 2):
            failures: list[Any] = []
            out = tmp_path / f"{workers}.json"
            summary = normcli.count(
                self.endless(40), partial=True, workers=workers, output=out, on_failure=failures.append
            )
            assert (summary.images, summary.failures, summary.complete) == (40, {"interrupted": 1}, False)
            assert summary.state == expected == normcli.load(out).state
            assert [failure.key for failure in failures] == ["40"]
        assert signal.getsignal(signal.SIGINT) is before

    def test_without_it_nothing_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            normcli.count(self.endless(40), output=tmp_path / "a.json")
        assert not list(tmp_path.iterdir())

    def test_it_ends_between_samples_of_an_index_too(self) -> None:
        class Slow(Indexed):
            def __getitem__(self, index: int) -> Any:
                if index == 30:
                    signal.raise_signal(signal.SIGINT)
                return pictures(count=1)[0]

        summary = normcli.count(Slow([0] * 100_000), partial=True)
        assert 30 < summary.images < 2000 and summary.failures == {"interrupted": 1}


class TestMasksAndWeights:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_a_mask_counts_as_that_of_mask_dir(self, dtype: type[np.generic], tmp_path: Path) -> None:
        arrays = [a[:, :12] for a in pictures(dtype, 6)]
        masks = [np.random.default_rng(i).integers(0, 2, (9, 12), np.uint8) for i in range(6)]
        folder_of(arrays, tmp_path / "a")
        (tmp_path / "m").mkdir()
        for i, mask in enumerate(masks):
            Image.fromarray(mask).save(tmp_path / "m" / f"{i:03d}.png")
        expected = normcli.stats(tmp_path / "a", include="*.npy", mask_dir=tmp_path / "m").state
        one, batch, channels = normcli.Counter(), normcli.Counter(), normcli.Counter(layout="nchw")
        for array, mask in zip(arrays, masks, strict=True):
            one.add(array, mask=mask)
        batch.add(np.stack(arrays), mask=np.stack(masks) > 0)
        first = np.stack(arrays).transpose(0, 3, 1, 2)
        channels.add(first, mask=np.broadcast_to(np.stack(masks)[:, None], first.shape))
        assert one.summary().state == batch.summary().state == channels.summary().state == expected

    def test_a_mask_of_each_channel(self) -> None:
        array, counter = pictures(count=1)[0], normcli.Counter()
        mask = np.random.default_rng(0).integers(0, 2, array.shape).astype(bool)
        counter.add(array, mask=mask)
        summary = counter.summary()
        for c in range(3):
            values = array[:, :, c][mask[:, :, c]] / 255
            np.testing.assert_allclose((summary.mean[c], summary.std[c]), (values.mean(), values.std()), rtol=1e-12)
        assert summary.invalid == (~mask).sum(axis=(0, 1)).tolist()

    def test_masked_arrays_of_numpy(self) -> None:
        """Such as netCDF4 returns: their masked samples do not count."""
        image = pictures(np.uint16, 1)[0]
        hidden: np.ndarray[Any, Any] = np.less(np.random.default_rng(0).random(image.shape), 0.2)
        array = np.ma.masked_array(image, hidden)
        counter = normcli.Counter(layout="hwc")
        counter.add(image, mask=~hidden)
        taken = normcli.Counter(layout="hwc")
        taken.add(array)
        assert taken.summary().state == counter.summary().state
        turned = normcli.count(array.transpose(2, 0, 1)[None], layout="chw")
        assert turned.state["buckets"] == counter.summary().state["buckets"]
        assert normcli.count([array], nodata="none").pixels == normcli.count([image]).pixels
        rows = normcli.count(array.reshape(-1, 3).astype(np.float32), layout="nc", nan="skip")
        assert rows.mean == pytest.approx(array.reshape(-1, 3).mean(axis=0, dtype=np.float64).tolist(), rel=1e-12)
        valid = image[..., 0][~hidden[..., 0]] / 65535
        mapped = normcli.transform("zscore")(array)[0]
        expected = (image[..., 0] / 65535 - valid.mean()) / valid.std()
        np.testing.assert_allclose(mapped, expected, atol=1e-5)
        again = pickle.loads(pickle.dumps(next(images_of(array, "hwc"))))
        assert np.array_equal(again, image) and np.array_equal(again.tags[1], hidden)

    def test_weights_are_those_of_alpha(self) -> None:
        array = pictures(count=1)[0]
        weight = np.random.default_rng(1).integers(0, 256, array.shape[:2], np.uint8)
        by_alpha, counter = normcli.Counter(alpha="weight"), normcli.Counter()
        by_alpha.add(Image.fromarray(np.dstack([array, weight])))
        counter.add(array, weight=weight)
        assert counter.summary().state["buckets"] == by_alpha.summary().state["buckets"]
        with pytest.raises(normcli.InputError, match="alpha channel already"):
            by_alpha.add(Image.fromarray(np.dstack([array, weight])), weight=weight)

    def test_what_does_not_fit_is_named_and_nothing_is_counted(self) -> None:
        array, counter = pictures(count=1)[0], normcli.Counter()
        cases: list[tuple[dict[str, Any], str]] = [
            ({"mask": np.ones((3, 3), bool)}, "shape"),
            ({"mask": np.ones(array.shape[:2])}, "bool or integers"),
            ({"mask": np.zeros(array.shape[:2], bool)}, "no sample is valid"),
            ({"weight": np.ones(array.shape[:2])}, "weights are of float64"),
            ({"weight": np.zeros(array.shape[:2], np.uint8)}, "no pixel has a weight"),
            ({"weight": np.ones((2, 2), np.uint8)}, "shape"),
        ]
        for more, text in cases:
            with pytest.raises(normcli.InputError, match=text):
                counter.add(array, **more)
        with pytest.raises(normcli.InputError, match="for a batch of 2 images"):
            counter.add(np.stack([array, array]), mask=np.ones(array.shape[:2], bool))
        with pytest.raises(normcli.UsageError, match="cannot be combined"):
            normcli.Counter(resize=8).add(array, mask=np.ones(array.shape[:2], bool))
        assert counter.images == 0


def test_collate_counts_what_fails() -> None:
    counter = normcli.Counter()
    part = counter.collate([pictures()[0], np.full((4, 4), np.nan), (pictures()[1], "label")])
    counter += pickle.loads(pickle.dumps(part))
    assert (counter.images, counter.summary().failures) == (2, {"not-finite": 1})
    assert [failure.key for failure in counter.failures] == ["1"]


# workers and size of batches of a DataLoader; all of them by hand
FEW = [(0, 1), (0, 7), (2, 7), (1, 64)]
ALL = [(workers, batch) for workers in (0, 1, 4) for batch in (1, 7, 64)]
LOADERS = [*FEW, *(pytest.param(*one, marks=pytest.mark.campaign) for one in ALL if one not in FEW)]


class TestTorch:
    @pytest.fixture
    def arrays(self) -> Arrays:
        needs.module("torch")
        return [a[:, :12] for a in pictures(count=30)]

    @pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
    @pytest.mark.parametrize(("workers", "batch"), LOADERS)
    def test_a_data_loader(self, workers: int, batch: int, arrays: Arrays, tmp_path: Path) -> None:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        expected = counted(folder_of(arrays, tmp_path / "a"))
        tensors = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        loader: Iterable[Any] = DataLoader(TensorDataset(tensors), batch_size=batch, num_workers=workers)
        assert normcli.count(loader).state == expected.state
        assert normcli.count(TensorDataset(tensors), workers=2).state == expected.state
        counter = normcli.Counter()
        loader = DataLoader(TensorDataset(tensors), batch_size=batch, num_workers=workers, collate_fn=counter.collate)
        for part in loader:
            counter += part
        assert counter.summary().state == expected.state

    def test_datasets_of_torchvision_are_read_from_their_array(self) -> None:
        """A dataset with a transform, or an index of another class, is read by its samples."""
        needs.torchvision()
        torchvision = needs.module("torchvision.datasets")

        class Inverted(torchvision.CIFAR10):  # type: ignore[misc, name-defined]
            def __getitem__(self, index: int) -> Any:
                image, target = super().__getitem__(index)
                return image.point(lambda level: 255 - level), target

        random = np.random.default_rng(2)
        colors = random.integers(0, 200, (12, 32, 32, 3), np.uint8)
        digits = random.integers(0, 200, (12, 28, 28), np.uint8)
        for kind, data in (
            (torchvision.CIFAR10, colors),
            (torchvision.MNIST, needs.module("torch").from_numpy(digits)),
            (Inverted, colors),
        ):
            dataset = kind.__new__(kind)  # without the files
            dataset.__dict__.update(data=data, targets=[*range(12)], transform=None, target_transform=None)
            expected = normcli.count([dataset[i] for i in range(12)])
            assert normcli.count(dataset).state == normcli.count(dataset, workers=2).state == expected.state
            assert normcli.count(dataset, group_by="label").groups["3"].images == 1
            dataset.transform = lambda image: image.resize((4, 4))
            assert normcli.count(dataset).state == normcli.count([dataset[i] for i in range(12)]).state

    def test_bfloat16_and_gradients(self, arrays: Arrays) -> None:
        import torch

        value = torch.full((3, 4, 4), 0.5, requires_grad=True)
        counter = normcli.Counter()
        counter.add(value)
        counter.add(value.bfloat16())
        counter.add(value.double())
        assert counter.summary().mean == [0.5, 0.5, 0.5]
        with pytest.raises(normcli.InputError, match=r"\.cpu\(\)"):
            counter.add(torch.empty((3, 4, 4), device="meta"))

    def test_tensors_that_numpy_does_not_take(self, arrays: Arrays) -> None:
        import torch

        value = torch.arange(48.0).reshape(3, 4, 4)
        negated = torch._neg_view(value)
        assert normcli.count([negated]).state == normcli.count([-value]).state
        counter = normcli.Counter()
        with pytest.raises(normcli.InputError, match=r"sparse_coo: count it with \.to_dense\(\)"):
            counter.add(value.to_sparse())
        with pytest.raises(normcli.InputError, match=r"float8_e4m3fn: count it with \.float\(\)"):
            counter.add(value.to(torch.float8_e4m3fn))

    # torch raises once more when it collects the loader
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_worker_that_dies_ends_the_loader_as_one_failure(self, arrays: Arrays) -> None:
        from torch.utils.data import DataLoader

        class Deadly(Indexed):
            def __getitem__(self, index: int) -> Any:
                if index == 25:  # what the worker read ahead may be lost with it
                    os._exit(1)
                return super().__getitem__(index)

        failures: list[Any] = []
        loader: Iterable[Any] = DataLoader(Deadly(arrays), batch_size=2, num_workers=1)
        summary = normcli.count(loader, on_failure=failures.append)
        assert 0 < summary.images <= 24 and (summary.failures, summary.complete) == ({"dataset": 1}, False)
        assert [(failure.key, failure.stage) for failure in failures] == [(str(summary.images), "load")]

    def test_a_dataset_of_hugging_face(self, arrays: Arrays, tmp_path: Path) -> None:
        datasets = needs.module("datasets")
        expected = counted(folder_of(arrays, tmp_path / "a")).state["buckets"]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        rows = {"image": arrays, "label": [i % 2 for i in range(len(arrays))]}
        dataset = datasets.Dataset.from_dict(rows, features=features)
        encoded_rows = dataset.cast_column("image", datasets.Image(decode=False))
        (tmp_path / "a.png").write_bytes(encoded(arrays[0]))
        named = [{"image": {"bytes": None, "path": str(tmp_path / "a.png")}}]
        assert normcli.count(named).state["buckets"] == normcli.count(arrays[:1]).state["buckets"]
        for data in (dataset, dataset.to_iterable_dataset(), dataset.with_format("numpy"), encoded_rows):
            assert normcli.count(data).state["buckets"] == expected
        assert sorted(normcli.count(dataset, group_by="label").groups) == ["0", "1"]
        with pytest.raises(normcli.UsageError, match="a mapping of train"):
            normcli.count(datasets.DatasetDict(train=dataset))
