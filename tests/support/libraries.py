"""The snippets of exporters, run by the real libraries on images that these read from files or get as arrays."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.support import needs

Array = np.ndarray[Any, Any]


class Picture(NamedTuple):
    """An image as a file, and its stored values (H,W,C)."""

    path: Path
    stored: Array

    @property
    def is_8bit(self) -> bool:
        return bool(self.stored.dtype == np.uint8)


Evaluate = Callable[[str, Picture], Array]


def _names(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(text, "snippet", "exec"), names)
    return names


def _last(array: Any) -> Array:
    """Bring (C,H,W) or (1,C,H,W) to (H,W,C)."""
    plain = np.asarray(array)
    return np.moveaxis(plain.reshape(plain.shape[-3:]), 0, -1)


def _opened(picture: Picture) -> Any:
    """Open an 8-bit file with Pillow, as the loaders of these libraries do; other depths come as arrays."""
    if not picture.is_8bit:
        return picture.stored
    with Image.open(picture.path) as opened:
        return opened.copy()


def _decoded(picture: Picture) -> Array:
    """Read the file with OpenCV, and turn it to RGB: (H,W,C)."""
    cv2 = needs.module("cv2")
    image = cv2.imread(str(picture.path), cv2.IMREAD_UNCHANGED)
    return np.ascontiguousarray(image[:, :, ::-1] if image.ndim == 3 else image[:, :, None])


def _shaped(names: dict[str, Any], picture: Picture) -> Picture:
    """Return the picture with the geometry of a snippet's function; as it is if there is none."""
    if "resize_and_crop" not in names:
        return picture
    image = np.asarray(names["resize_and_crop"](_opened(picture)))
    path = picture.path.with_name("shaped.png")
    Image.fromarray(image).save(path)
    return Picture(path, image.reshape(*image.shape[:2], -1))


def torchvision(text: str, picture: Picture) -> Array:
    transforms = needs.torchvision()
    names = _names(text)
    if "transform" in names:
        return _last(names["transform"](_opened(picture)))
    return _last(transforms.Compose([transforms.ToTensor(), names["normalize"]])(_opened(picture)))


def albumentations(text: str, picture: Picture) -> Array:
    needs.module("albumentations")
    image = _decoded(picture)
    image = image if picture.is_8bit else image.astype("float32")
    names = _names(text)
    done = np.asarray(names.get("transform", names["normalize"])(image=image)["image"])
    return done.reshape(*done.shape[:2], -1)


def kornia(text: str, picture: Picture) -> Array:
    needs.torchvision()
    needs.module("kornia")
    torch = needs.module("torch")
    names = _names(text)
    picture = _shaped(names, picture)
    stored = torch.from_numpy(np.moveaxis(picture.stored, -1, 0)[None].astype(np.float32))
    if "normalize_stored" in names:
        return _last(names["normalize_stored"](stored))
    return _last(names["normalize"](stored / 255 if picture.is_8bit else stored))


def timm(text: str, picture: Picture) -> Array:
    needs.torchvision()
    data = needs.module("timm.data")
    height, width, channels = picture.stored.shape
    config = {"input_size": (channels, height, width), "crop_pct": 1.0, **_names(text)["data_config"]}
    transform = data.create_transform(**config)
    return _last(transform(_opened(picture)))


def fastai(text: str, picture: Picture) -> Array:
    needs.torchvision()
    vision = needs.module("fastai.vision.all")
    torch = needs.module("torch")
    names = _names(text)
    picture = _shaped(names, picture)
    batch = vision.TensorImage(torch.from_numpy(np.moveaxis(picture.stored, -1, 0)[None].copy()))
    return _last(names["normalize"](vision.IntToFloatTensor()(batch)))


def keras(text: str, picture: Picture) -> Array:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    module = needs.module("keras")
    names = _names(text)
    picture = _shaped(names, picture)
    batch = picture.stored[None].astype(np.float32)
    if picture.is_8bit:  # image_dataset_from_directory reads so
        mode = "rgb" if picture.stored.shape[2] == 3 else "grayscale"
        batch = module.utils.img_to_array(module.utils.load_img(picture.path, color_mode=mode))[None]
    return np.asarray(module.ops.convert_to_numpy(names["normalize"](batch))[0])


def huggingface(text: str, picture: Picture) -> Array:
    needs.torchvision()
    transformers = needs.module("transformers")
    (picture.path.parent / "preprocessor_config.json").write_text(text)
    processor = transformers.AutoImageProcessor.from_pretrained(picture.path.parent)
    assert type(processor).__name__.startswith(json.loads(text)["image_processor_type"])
    order = None if picture.is_8bit else "channels_last"
    return _last(processor(_opened(picture), return_tensors="np", input_data_format=order)["pixel_values"])


def opencv(text: str, picture: Picture) -> Array:
    cv2 = needs.module("cv2")
    names = _names(text)
    image = cv2.imread(str(picture.path), cv2.IMREAD_UNCHANGED)
    if "resize_and_crop" in names:  # as its comment says, of an array BGR
        image = np.asarray(names["resize_and_crop"](Image.fromarray(image)))
    image = image.reshape(*image.shape[:2], -1)
    picture = picture._replace(stored=image)
    parameters = cv2.dnn.Image2BlobParams(scalefactor=names["scalefactor"], mean=names["mean"])
    blob = cv2.dnn.blobFromImageWithParams(image if picture.is_8bit else image.astype(np.float32), parameters)
    return np.asarray(_last(blob)[:, :, ::-1] if picture.stored.shape[2] == 3 else _last(blob))


def mmcv(text: str, picture: Picture) -> Array:
    module = needs.module("mmcv")
    config = _names(text)["img_norm_cfg"]
    image = _decoded(picture).astype(np.float32)
    if config["to_rgb"]:
        image = np.ascontiguousarray(image[:, :, ::-1])
    mean, std = (np.array(config[key]) for key in ("mean", "std"))
    return np.asarray(module.imnormalize(image, mean, std, config["to_rgb"])).reshape(picture.stored.shape)


def onnx(text: str, picture: Picture) -> Array:
    helper = needs.module("onnx.helper")
    evaluator = needs.module("onnx.reference").ReferenceEvaluator
    from_array, kind = needs.module("onnx.numpy_helper").from_array, needs.module("onnx").TensorProto.FLOAT
    channels = picture.stored.shape[2]
    weight = np.eye(channels).reshape(channels, channels, 1, 1)  # a convolution that changes nothing
    weight, bias = _names(text)["fold"](weight, np.zeros(channels))
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    info = [helper.make_tensor_value_info(name, kind, None) for name in "xy"]
    constants = [from_array(values.astype(np.float32), name) for values, name in ((weight, "w"), (bias, "b"))]
    graph = helper.make_graph([node], "g", info[:1], info[1:], constants)
    x = np.moveaxis(picture.stored, -1, 0)[None].astype(np.float32)
    return _last(evaluator(helper.make_model(graph)).run(None, {"x": x})[0])


LIBRARIES: dict[str, Evaluate] = {
    "torchvision": torchvision,
    "albumentations": albumentations,
    "kornia": kornia,
    "timm": timm,
    "fastai": fastai,
    "keras": keras,
    "keras-rescaling": keras,
    "huggingface": huggingface,
    "opencv": opencv,
    "mmcv": mmcv,
    "onnx": onnx,
}
