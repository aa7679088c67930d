"""Images in Python objects: a torch or Hugging Face dataset, a data loader, a list or generator of arrays.

Arrays count as those of an .npy folder do, Pillow images as their PNG: the same bits.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from normcli.errors import InputError, UsageError
from normcli.sources.item import Item, Vectors
from normcli.sources.tagged import is_masked, masked
from normcli.storage.files import read as read_file

SampleLayout = Literal["auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw", "nc"]
Key = str | int | None

_FEW = (1, 2, 3, 4)  # channels
_IMAGE_KEYS = ("image", "img", "pixel_values", "png", "jpg", "jpeg", "images", "x")
_LABEL_KEYS = ("label", "labels", "cls", "target", "y")
_ENCODED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # as PNG, without loss
_DIRECT_MODES = ("L", "RGB", "I;16", "F")


class IndexedDataset(Protocol):
    """A dataset with a length and an index, as torch's and Hugging Face's."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a sample."""


Dataset = Iterable[Any] | IndexedDataset


class ArrayInMemory(NamedTuple):
    """The loader of an image that is already an array or encoded bytes."""

    value: Any

    def __call__(self) -> Any:
        return self.value

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return int(getattr(self.value, "nbytes", 0)) or len(self.value)

    @property
    def inputs(self) -> int:
        """Return the number of rows of vectors; 1 for an image."""
        return len(self.value.rows) if isinstance(self.value, Vectors) else 1


class IndexedSample(NamedTuple):
    """The loader of one image of a dataset with an index, called in a worker's thread."""

    dataset: Any
    number: int
    key: Key
    layout: SampleLayout
    source: str = ""

    def __call__(self) -> Any:
        sample = _sample(self.dataset, self.number)
        if type(sample) is tuple and self.key is None and sample and isinstance(sample[0], Image.Image):
            return _of_pillow(sample[0])  # the usual case, 1 us sooner
        if type(sample) is np.ndarray and self.layout == "hwc" and sample.ndim == 3 and sample.dtype.char == "B":
            return np.ascontiguousarray(sample)
        try:
            pictures = list(images_of(image_in(sample, self.key), self.layout))
        except UsageError as error:
            text = as_open_options(str(error)) if self.source else str(error)
            if self.number == 0:  # then the others will not be clear either
                raise UsageError(f"{self.source}: {text}" if self.source else text) from None
            raise InputError("layout", text) from None
        if len(pictures) != 1:
            raise InputError("layout", f"{len(pictures)} images under one index, where one is expected (pass iter())")
        image = pictures[0]
        return image._replace(first=self.number) if isinstance(image, Vectors) else image


class _Broken(NamedTuple):
    error: InputError

    def __call__(self) -> Any:
        raise self.error


def as_open_options(text: str) -> str:
    """Return an error with the parameters in its remedy as options of the command.

    >>> as_open_options("choose the image (key=NAME)")
    'choose the image (-O key=NAME)'
    """
    return re.sub(r"\((key|layout)=", r"(-O \1=", text)


def read(data: Dataset, key: Key, layout: SampleLayout, *, labels: bool, source: str = "") -> Iterator[Item]:
    """Yield one item for every image of an iterable, in order; the key of an item is its number.

    A dataset with a length and an index is read in the workers; anything else while it is iterated over. An error of
    the dataset fails its sample; an iterator that raises is at its end, which fails one more.

    Args:
        data: the dataset, loader, list or generator.
        key: of the image in a sample that is a mapping, tuple or list; None finds it.
        layout: axes of arrays; "auto" recognizes them by the sizes.
        labels: take the label of each sample as the item's label.
        source: name of the data on the command line, where errors name key and layout as open options.

    Raises:
        UsageError: not iterable, or samples whose image needs a `key`.
    """
    if isinstance(data, Mapping):
        raise UsageError(f"data must be samples, not a mapping of {', '.join(map(str, data))}: choose one of them")
    if not labels and key in (None, 0) and (stored := _stored_images(data)) is not None:
        data, layout = stored, "hwc"
    if (length := _length(data)) is not None and not labels:
        for index in range(length):
            yield Item(str(index), IndexedSample(data, index, key, layout, source))
        return
    number = 0
    for sample in _iterate(data):
        try:
            if isinstance(sample, _Broken):
                raise sample.error
            pictures: list[Any] = list(images_of(image_in(sample, key), layout))
        except InputError as error:
            yield Item(str(number), _Broken(error))
            number += 1
            continue
        if layout == "nc":
            yield _vector_item(pictures[0], number, sample if labels else None)
            number += len(pictures[0].rows)
            continue
        names = labels_of(sample, len(pictures)) if labels else [None] * len(pictures)
        for image, label in zip(pictures, names, strict=True):
            yield Item(str(number), ArrayInMemory(image), label)
            number += 1


# torchvision's datasets of which a sample is Image.fromarray(data[index]), unless it is transformed
_STORED = {"cifar": ("CIFAR10", "CIFAR100"), "mnist": ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")}


def _stored_images(data: Any) -> Any:
    """Return the array (N,H,W,C) that a dataset of torchvision makes Pillow images of; None for any other dataset.

    To read it takes 3 us an image of 32 x 32 where to make the image and to take the pixels out of it takes 11.
    """
    kind = type(data)
    package, _, module = kind.__module__.rpartition(".")
    if package != "torchvision.datasets" or kind.__name__ not in _STORED.get(module, ()):
        return None
    if data.transform is not None or not hasattr(data.data, "dtype"):
        return None
    array, _ = _as_array(data.data)
    array = array[..., None] if array.ndim == 3 else array
    return array if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] in (1, 3) else None


def _vector_item(vectors: Vectors, number: int, sample: Any) -> Item:
    """Return the item of a sample's vectors; a sample has their labels, one of all or one of each; None for none."""
    vectors = vectors._replace(first=number)
    if sample is not None:
        labels = labels_of(sample, len(vectors.rows))
        distinct = sorted({*labels})
        vectors = vectors._replace(groups=(distinct, np.array([distinct.index(name) for name in labels], np.int64)))
    return Item(str(number), ArrayInMemory(vectors))


def _sample(data: Any, index: int) -> Any:
    """Return a sample of a dataset with an index.

    Raises:
        InputError: the dataset raised.
    """
    try:
        return data[index]
    except InputError:
        raise
    except Exception as error:
        raise _failed_sample(error) from error


def _iterate(data: Dataset) -> Iterator[Any]:
    if (length := _length(data)) is not None:  # not by its iterator, which one index that raises would end
        for index in range(length):
            try:
                yield _sample(data, index)
            except InputError as error:
                yield _Broken(error)
        return
    try:
        iterator = iter(data)
    except TypeError:
        raise UsageError(f"data must be iterable, not {type(data).__name__}") from None
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except (KeyboardInterrupt, GeneratorExit, UsageError):
            raise
        except Exception as error:
            yield _Broken(_failed_sample(error))
            return


def _failed_sample(error: Exception) -> InputError:
    return InputError("dataset", f"the dataset raised {type(error).__name__}: {' '.join(str(error).split())}")


def _length(data: Any) -> int | None:
    """Return the length of a dataset with an index, such as a proxy with a shape; None of a loader, which has none."""
    if isinstance(data, Mapping) or not hasattr(data, "__getitem__"):
        return None
    if hasattr(data, "__len__"):
        return len(data)
    shape = getattr(data, "shape", None)
    return int(shape[0]) if isinstance(shape, tuple) and shape else None


def image_in(sample: Any, key: Key) -> Any:
    """Return the image of a sample: the sample itself, or a member of a mapping, tuple or list.

    Raises:
        UsageError: a mapping with no or several usual names of images, or without the key.
    """
    if isinstance(sample, Mapping):
        if key is None:
            known = [name for name in _IMAGE_KEYS if name in sample]
            if len(known) != 1:
                raise UsageError(f"samples have {', '.join(map(str, sample))}: choose the image (key=NAME)")
            key = known[0]
        if key not in sample:
            raise UsageError(f"samples have {', '.join(map(str, sample))}, no {key!r}: choose the image (key=NAME)")
        return sample[key]
    if key is None and isinstance(sample, list) and sample and isinstance(sample[0], list):
        return sample  # rows of numbers, if they are equally long
    if isinstance(sample, tuple | list) and not _is_array(sample):
        if key is None and sample and all(isinstance(value, int | float) for value in sample):
            return sample  # a vector
        if key is None and _is_list_of_images(sample):
            raise UsageError(f"samples are lists of {len(sample)} images of one kind: choose one (key=0), or pass each")
        at = 0 if key is None else key
        if not isinstance(at, int) or not -len(sample) <= at < len(sample):
            raise UsageError(
                f"samples have {len(sample)} member{'s' * (len(sample) != 1)}, no {at!r}: choose the image (key=NUMBER)"
            )
        return sample[at]
    return sample


def _is_list_of_images(sample: Any) -> bool:
    """Return True for a list of images alike, such as a batch that was not stacked; a tuple has an image and more."""
    if not isinstance(sample, list) or len(sample) < 2:
        return False
    first, *others = map(_kind_of_image, sample)
    return first is not None and all(kind == first for kind in others)


def _kind_of_image(value: Any) -> object:
    """Return what images alike have in common; None for values that need not be images."""
    if isinstance(value, Image.Image | bytes):
        return getattr(value, "mode", "encoded")
    return (str(value.dtype), value.ndim) if hasattr(value, "dtype") and getattr(value, "ndim", 0) >= 3 else None


def _is_array(sample: Any) -> bool:
    return hasattr(sample, "__array__")


def labels_of(sample: Any, count: int) -> list[str]:
    """Return the labels of the images of a sample.

    Raises:
        UsageError: samples without a label, or with another number of them.
    """
    value = None
    if isinstance(sample, Mapping):
        value = next((sample[name] for name in _LABEL_KEYS if name in sample), None)
    elif isinstance(sample, tuple | list) and len(sample) == 2:
        value = sample[1]
    if value is None:
        raise UsageError("`group_by` label requires samples of an image and a label: (image, label) or {'label': ...}")
    values = value.tolist() if hasattr(value, "tolist") else value
    values = values if isinstance(values, list | tuple) else [values]
    if len(values) != count:
        raise UsageError(f"`group_by` label: {len(values)} labels for {count} images in one sample")
    return [str(one) for one in values]


def images_of(value: Any, layout: SampleLayout) -> Iterator[Any]:
    """Yield the images of an array, tensor or Pillow image: arrays (H,W,C), the bytes of a PNG, or its vectors.

    Raises:
        InputError: not numbers, of a wrong number of axes, on an accelerator, or of a mode that PNG does not have.
        UsageError: axes that the sizes leave open.
    """
    if isinstance(value, Image.Image):
        yield _of_pillow(value)
        return
    value = _stored_bytes(value)
    if isinstance(value, bytes):
        yield value
        return
    array, is_tensor = _as_array(value)
    has_mask = is_masked(value)
    if layout == "nc":
        yield _vectors(np.where(np.ma.getmaskarray(value), np.nan, array) if has_mask else array)
        return
    kind = layout if layout != "auto" else _recognize(array.shape, is_tensor)
    axes = {"hw": 2, "nhw": 3, "hwc": 3, "chw": 3, "nhwc": 4, "nchw": 4}[kind]
    if array.ndim != axes:
        raise InputError("layout", f"an array of shape {array.shape} is not {kind}")
    array = value if has_mask else array
    for image in array if kind.startswith("n") else array[None]:
        picture = image.transpose(1, 2, 0) if kind.endswith("chw") else image
        yield masked(picture) if has_mask else np.ascontiguousarray(picture)


def _stored_bytes(value: Any) -> Any:
    """Return the encoded image of a column that the datasets library does not decode; any other value is itself.

    Raises:
        InputError: it has neither bytes nor the path of a file that can be read.
    """
    if not isinstance(value, Mapping) or not {"bytes", "path"} <= set(value):
        return value
    if value["bytes"]:
        return bytes(value["bytes"])
    if isinstance(value["path"], str) and value["path"]:
        return read_file(value["path"])
    raise InputError("empty", "neither bytes nor a path in this sample")


def _vectors(array: "np.ndarray[Any, Any]") -> Vectors:
    """Return the vectors (N,C) of an array; an array of one axis is a single vector."""
    from normcli.sources.vectors import as_floats, rows_in_block

    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or not len(rows):
        raise InputError("layout", f"an array of shape {array.shape} is not nc")
    rows_in_block(rows.shape[1])
    return Vectors(as_floats(rows))


def _as_array(value: Any) -> "tuple[np.ndarray[Any, Any], bool]":
    """Return a value as an array, without a copy if memory is shared, and True if it is a torch tensor."""
    if not hasattr(value, "detach"):
        try:
            array = np.asarray(value)
        except MemoryError:
            raise
        except Exception:  # ValueError for lists of several lengths, TypeError of a library for memory of a GPU
            if hasattr(value, "__cuda_array_interface__"):
                raise InputError("device", f"a {type(value).__name__} on a GPU: copy it to memory (.get())") from None
            raise InputError(
                "unsupported", f"a sample of type {type(value).__name__}, not an array of numbers"
            ) from None
        if array.dtype.kind not in "uifb":
            kind = f" of {array.dtype}" if array is value else ""
            raise InputError("unsupported", f"a sample of type {type(value).__name__}{kind}, not an array of numbers")
        return array, False
    if value.device.type != "cpu":
        raise InputError("device", f"a tensor on {value.device}: count it with .cpu()")
    value = value.detach()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    try:
        array = value.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, of types that NumPy does not have
        kind = "quantized" if getattr(value, "is_quantized", False) else str(value.layout).removeprefix("torch.")
        remedy = {"quantized": "dequantize()", "strided": "float()"}.get(kind, "to_dense()")
        what = str(value.dtype) if kind == "strided" else kind
        raise InputError("unsupported", f"a tensor that is {what}: count it with .{remedy}") from error
    return array, True


def _recognize(shape: tuple[int, ...], is_tensor: bool) -> str:
    """Return the layout of a shape; a tensor of torch has channels first if both ends may be channels.

    Raises:
        InputError: no image has so many axes.
        UsageError: two readings are possible.
    """
    if len(shape) == 2:
        return "hw"
    if len(shape) not in (3, 4):
        vector = ", vectors a layout of nc" if len(shape) == 1 else ""
        raise InputError("not-an-image", f"an array of shape {shape}; images need 2 to 4 axes{vector}")
    batch = "n" if len(shape) == 4 else ""
    first, last = shape[-3] in _FEW, shape[-1] in _FEW
    if first and (is_tensor or not last):
        return f"{batch}chw"
    if last and not first:
        return f"{batch}hwc"
    readings = f"{batch}hwc or {batch}chw" if batch or (first and last) else "nhw, hwc or chw"
    raise UsageError(f"an array of shape {shape} may be {readings}: choose one (layout={readings.split()[-1]})")


def _of_pillow(image: Image.Image) -> Any:
    if image.mode in _DIRECT_MODES and "transparency" not in image.info:
        if image.mode in ("L", "RGB"):  # what np.asarray does, in three quarters of its 5 us
            return np.ndarray((image.height, image.width, len(image.mode)), np.uint8, image.tobytes())
        return np.asarray(image)
    if image.mode == "I":  # of 32 bits, in which older versions of Pillow open a PNG of 16
        low, high = (int(value) for value in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            what = f"a Pillow image of mode I with values from {low} to {high}, beyond 16 bits"
            raise InputError("mode", f"{what}: count np.asarray(image)")
        narrow = Image.fromarray(np.asarray(image).astype(np.uint16))
        narrow.info = image.info
        return _of_pillow(narrow)
    if image.mode not in _ENCODED_MODES:
        raise InputError("mode", f"a Pillow image of mode {image.mode}: convert it to L, RGB or RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
