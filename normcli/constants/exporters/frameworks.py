"""Exporters for training and inference libraries, each in its own range, channel order and names."""

import json

from normcli.constants.exporters.values import DatasetConstants
from normcli.summary.channels import channel_order


def torchvision(constants: DatasetConstants) -> str:
    """`transforms.Normalize` after ToTensor: 0-1, RGB."""
    constants.require_nonzero_std("torchvision")
    return f"""\
# {constants.description}
# torchvision: after ToTensor(), {constants.range}, {constants.channel_order}
from torchvision import transforms

normalize = transforms.Normalize(
    mean={constants.unit_mean},
    std={constants.unit_std},
)
"""


def albumentations(constants: DatasetConstants) -> str:
    """`A.Normalize`: mean and std in 0-1, pixels as stored, divided by max_pixel_value inside."""
    constants.require_nonzero_std("albumentations")
    return f"""\
# {constants.description}
# Albumentations: mean and std in {constants.range}, {constants.channel_order}; \
pixels as stored, {constants.stored_range}
import albumentations as A

normalize = A.Normalize(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
    max_pixel_value={float(constants.max_value or 1)},
)
"""


def kornia(constants: DatasetConstants) -> str:
    """`kornia.augmentation.Normalize` on (B,C,H,W) in 0-1."""
    constants.require_nonzero_std("kornia")
    return f"""\
# {constants.description}
# Kornia: tensors (B,C,H,W) in {constants.range}, {constants.channel_order}
import kornia.augmentation as K

normalize = K.Normalize(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
)
"""


def timm(constants: DatasetConstants) -> str:
    """The mean and std of a timm data config, and its scripts' options."""
    constants.require_nonzero_std("timm")
    flags = " ".join(["--mean", *map(repr, constants.unit_mean), "--std", *map(repr, constants.unit_std)])
    return f"""\
# {constants.description}
# timm: {constants.range}, {constants.channel_order}
# create_transform(input_size=224, **data_config), create_model(..., pretrained_cfg_overlay=data_config)
# train.py {flags}
data_config = dict(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
)
"""


def fastai(constants: DatasetConstants) -> str:
    """`Normalize.from_stats`, the batch transform."""
    constants.require_nonzero_std("fastai")
    return f"""\
# {constants.description}
# fastai: a batch transform, after IntToFloatTensor, {constants.range}, {constants.channel_order}
from fastai.vision.all import Normalize

normalize = Normalize.from_stats(
    {constants.unit_mean},
    {constants.unit_std},
)
"""


def keras(constants: DatasetConstants) -> str:
    """`Normalization(mean, variance)` on pixels as stored."""
    constants.require_nonzero_std("keras")
    variance = constants.rounded([std * std for std in constants.stored(constants.std)])
    return f"""\
# {constants.description}
# Keras: pixels as image_dataset_from_directory gives them, {constants.stored_range}, {constants.channel_order};
# variance = std squared
import keras

normalize = keras.layers.Normalization(
    axis=-1,
    mean={constants.stored_mean},
    variance={variance},
)
"""


def keras_rescaling(constants: DatasetConstants) -> str:
    """`Rescaling(scale, offset)`: scale = 1 / (255 std), offset = -mean / std."""
    constants.require_nonzero_std("keras-rescaling")
    scale, offset = map(constants.rounded, constants.affine())
    return f"""\
# {constants.description}
# Keras: pixels (…,C) as stored, {constants.stored_range}, {constants.channel_order}; x * scale + offset
import keras

normalize = keras.layers.Rescaling(
    scale={scale},
    offset={offset},
)
"""


def huggingface(constants: DatasetConstants) -> str:
    """A preprocessor_config.json: rescale by 1/255, then image_mean and image_std in 0-1."""
    constants.require_nonzero_std("huggingface")
    config: dict[str, object] = {
        # JSON has no comments; the image processors keep unknown keys and do not use them
        "_comment": f"normcli: {constants.description}; {constants.range}, {constants.channel_order}",
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": constants.channels == ["R", "G", "B"],
        "do_resize": constants.resize is not None,
    }
    if constants.resize is not None:
        config |= {"size": {"shortest_edge": constants.resize}, "resample": 2}  # 2 is bilinear
    config["do_center_crop"] = constants.center_crop is not None
    if constants.center_crop is not None:
        config["crop_size"] = {"height": constants.center_crop, "width": constants.center_crop}
    config |= {"do_rescale": constants.max_value is not None, "rescale_factor": 1 / (constants.max_value or 1)}
    config |= {
        "do_normalize": True,
        "image_mean": constants.unit_mean,
        "image_std": constants.unit_std,
    }
    return json.dumps(config, indent=2) + "\n"


def opencv(constants: DatasetConstants) -> str:
    """Mean and scalefactor for pixels as `cv2.imread` gives them: as stored, BGR."""
    constants.require_nonzero_std("opencv")
    is_rgb = constants.channels[:3] == ["R", "G", "B"]
    order = [2, 1, 0, *range(3, len(constants.channels))] if is_rgb else list(range(len(constants.channels)))
    mean = constants.rounded([constants.stored(constants.mean)[c] for c in order], extra=2)
    scale = constants.rounded([constants.affine()[0][c] for c in order])
    name = channel_order([constants.channels[c] for c in order])
    return f"""\
# {constants.description}
# OpenCV: pixels as cv2.imread gives them, {constants.stored_range}, {name}; (image - mean) * scalefactor, {name} stays
# cv2.dnn.blobFromImageWithParams(image, cv2.dnn.Image2BlobParams(scalefactor=scalefactor, mean=mean))
# (blobFromImage takes one scalefactor for all channels and has no std per channel)
mean = {_tuple(mean)}
scalefactor = {_tuple(scale)}
"""


def mmcv(constants: DatasetConstants) -> str:
    """`img_norm_cfg` of the OpenMMLab toolboxes: RGB order, pixels as stored."""
    constants.require_nonzero_std("mmcv")
    rgb = constants.channels == ["R", "G", "B"]
    return f"""\
# {constants.description}
# mmcv, mmpretrain: pixels as stored, {constants.stored_range}; mean and std in {constants.channel_order}\
{"; to_rgb turns the loaded BGR round first" if rgb else ""}
img_norm_cfg = dict(
    mean={constants.stored_mean},
    std={constants.stored_std},
    to_rgb={rgb},
)
# pipeline: dict(type="Normalize", **img_norm_cfg); mmpretrain: data_preprocessor = dict(**img_norm_cfg);
# mmdet and mmseg 3 call to_rgb bgr_to_rgb
"""


def dali(constants: DatasetConstants) -> str:
    """Arguments of `fn.crop_mirror_normalize`: pixels as stored, RGB."""
    constants.require_nonzero_std("dali")
    return f"""\
# {constants.description}
# NVIDIA DALI: decoded pixels, {constants.stored_range}, {constants.channel_order}
# images = fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", **normalize)
normalize = dict(
    mean={constants.stored_mean},
    std={constants.stored_std},
)
"""


def onnx(constants: DatasetConstants) -> str:
    """Scale and bias, and how they fold into the first convolution of an exported network."""
    constants.require_nonzero_std("onnx")
    scale, bias = map(constants.rounded, constants.affine())
    return f"""\
# {constants.description}
# ONNX and other exports: a network that takes pixels as stored, {constants.stored_range}, {constants.channel_order};
# y = x * scale + bias. Exact without padding; a convolution that pads with zeros must pad with -bias / scale
import numpy as np

scale = np.array({scale})
bias = np.array({bias})


def fold(weight, conv_bias):
    \"\"\"Fold the normalization into the first convolution: weight (O,C,kH,kW), bias (O,).\"\"\"
    return (
        weight * scale[None, :, None, None],
        conv_bias + (weight * bias[None, :, None, None]).sum(axis=(1, 2, 3)),
    )
"""


def _tuple(values: list[float]) -> str:
    return f"({', '.join(map(repr, values))}{',' * (len(values) == 1)})"
