"""Counting Python objects gives the counts of `stats` over the same pixels: whatever yields them, split however."""

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from tests.support import needs

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


BAD: dict[str, tuple[Any, str]] = {
    "ragged": (np.array([[1, 2], [3]], dtype=object), "unsupported"),
    "text": (np.array([["a", "b"]]), "unsupported"),
    "vector": (np.arange(4.0), "not-an-image"),
    "nan": (np.full((4, 4), np.nan), "not-finite"),
    "empty": (np.zeros((0, 4, 3), np.uint8), "not-an-image"),
    "cmyk": (Image.new("CMYK", (4, 4)), "mode"),
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


@pytest.mark.parametrize("data", [5, [{"a": 1}], [{"image": 1, "img": 2}], [(1,)]])
def test_what_is_no_dataset_is_named(data: Any) -> None:
    with pytest.raises(normcli.NormcliError):
        normcli.count(data, key=3 if data == [(1,)] else None)


def test_the_statistics_file_is_written(tmp_path: Path) -> None:
    summary = normcli.count(pictures(), output=tmp_path / "s.json")
    assert normcli.load(tmp_path / "s.json").state == summary.state
    with pytest.raises(normcli.UsageError, match="exists"):
        normcli.count(pictures(), output=tmp_path / "s.json")


class TestTorch:
    @pytest.fixture
    def arrays(self) -> Arrays:
        needs.module("torch")
        return [a[:, :12] for a in pictures(count=30)]

    @pytest.mark.parametrize(("workers", "batch"), [(0, 1), (0, 7), (2, 7), (1, 64)])
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
