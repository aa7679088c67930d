"""Exporters for training and inference libraries, each in its own range, channel order and names."""

import json

from normcli.constants.exporters.values import DatasetConstants
from normcli.errors import UsageError
from normcli.summary.summary import channel_order

# loaders that return 8 bits for every file are of no use for other depths
_STORED = "stored, not converted to 8 bits"


def torchvision(constants: DatasetConstants) -> str:
    """Write `transforms.Normalize` after ToTensor: 0-1, RGB; other depths than 8 bits have a function in its place."""
    constants.require_nonzero_std("torchvision")
    normalize = f"""\
normalize = transforms.Normalize(
    mean={constants.unit_mean},
    std={constants.unit_std},
)
"""
    if constants.is_8bit or constants.is_raw:
        return f"""\
# {constants.description}
# torchvision: after ToTensor(), {constants.range}, {constants.channel_order}
from torchvision import transforms

{normalize}"""
    types = {"uint8": ("bool", "uint8"), "uint16": ("uint16",), "float": ("float16", "float32", "float64")}
    white = {
        t: (level or 1) if t != "bool" else 1 for name, level in constants.white_levels.items() for t in types[name]
    }
    items = ", ".join(f'"{name}": {level}' for name, level in white.items())
    return f"""\
# {constants.description}
# torchvision: ToTensor() scales 8-bit images only; to_tensor scales {constants.depths} images to
# {constants.range}, {constants.channel_order}. Pillow opens 16-bit color as 8 bits: read it with OpenCV or tifffile
import numpy as np
import torch
from torchvision import transforms


def to_tensor(image):
    \"\"\"Return an image or an array (H,W) or (H,W,C) as a tensor (C,H,W); a KeyError is another depth.\"\"\"
    pixels = np.asarray(image)
    white = {{{items}}}[pixels.dtype.name]
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy((pixels / white).astype(np.float32))


{normalize}transform = transforms.Compose([to_tensor, normalize])
"""


def albumentations(constants: DatasetConstants) -> str:
    """Write `A.Normalize`: mean and std in 0-1, pixels as stored, divided by max_pixel_value inside."""
    constants.require_nonzero_std("albumentations")
    return f"""\
# {constants.description}
# Albumentations: mean and std in {constants.range}, {constants.channel_order}; \
pixels as stored, {constants.stored_range}{"" if constants.is_8bit else ", as float32: image.astype('float32')"}
import albumentations as A

normalize = A.Normalize(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
    max_pixel_value={float(constants.max_value)},
)
"""


def kornia(constants: DatasetConstants) -> str:
    """Write `kornia.augmentation.Normalize` on (B,C,H,W) in 0-1."""
    constants.require_nonzero_std("kornia")
    scaled = constants.is_8bit or constants.is_raw
    scale = (
        ""
        if scaled
        else f"""

def normalize_stored(images):
    \"\"\"Scale the stored values of tensors (B,C,H,W), and normalize them.\"\"\"
    return normalize(images.float() / {constants.max_value})
"""
    )
    return f"""\
# {constants.description}
# Kornia: tensors (B,C,H,W) in {constants.range}, {constants.channel_order}
import kornia.augmentation as K

normalize = K.Normalize(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
)
{scale}"""


def timm(constants: DatasetConstants) -> str:
    """Write the mean and std of a timm data config, and its scripts' options."""
    constants.require_nonzero_std("timm")
    constants.require_8bit("timm")
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
    """Write `Normalize.from_stats`, the batch transform."""
    constants.require_nonzero_std("fastai")
    constants.require_8bit("fastai")
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
    """Write `Normalization(mean, variance)` on pixels as stored."""
    constants.require_nonzero_std("keras")
    variance = constants.rounded([std * std for std in constants.stored(constants.std)])
    loader = "image_dataset_from_directory returns them" if constants.is_8bit else _STORED
    return f"""\
# {constants.description}
# Keras: pixels as {loader}, {constants.stored_range}, {constants.channel_order};
# variance = std squared
import keras

normalize = keras.layers.Normalization(
    axis=-1,
    mean={constants.stored_mean},
    variance={variance},
)
"""


def keras_rescaling(constants: DatasetConstants) -> str:
    """Write `Rescaling(scale, offset)`: scale = 1 / (255 std), offset = -mean / std."""
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
    """Write a preprocessor_config.json: rescale by 1/255, then image_mean and image_std in 0-1."""
    constants.require_nonzero_std("huggingface")
    if not constants.is_8bit and constants.resize is not None:
        raise UsageError(
            f"huggingface: its image processors resize 8-bit images only, and these are {constants.depths} "
            "(count without `resize`, or use --format torchvision)"
        )
    arrays = "" if constants.is_8bit else f"; NumPy arrays of stored values, {constants.stored_range}"
    config: dict[str, object] = {
        # JSON has no comments; the image processors keep unknown keys and do not use them
        "_comment": f"normcli: {constants.description}; {constants.range}, {constants.channel_order}{arrays}",
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": constants.is_8bit and constants.channels == ["R", "G", "B"],
        "do_resize": constants.resize is not None,
    }
    if constants.resize is not None:
        config |= {"size": {"shortest_edge": constants.resize}, "resample": 2}  # 2 is bilinear
    config["do_center_crop"] = constants.center_crop is not None
    if constants.center_crop is not None:
        config["crop_size"] = {"height": constants.center_crop, "width": constants.center_crop}
    config |= {"do_rescale": not constants.is_raw, "rescale_factor": 1 / constants.max_value}
    config |= {
        "do_normalize": True,
        "image_mean": constants.unit_mean,
        "image_std": constants.unit_std,
    }
    return json.dumps(config, indent=2) + "\n"


def opencv(constants: DatasetConstants) -> str:
    """Write mean and scalefactor for pixels as `cv2.imread` returns them: as stored, BGR."""
    constants.require_nonzero_std("opencv")
    is_rgb = constants.channels[:3] == ["R", "G", "B"]
    order = [2, 1, 0, *range(3, len(constants.channels))] if is_rgb else list(range(len(constants.channels)))
    mean = constants.rounded([constants.stored(constants.mean)[c] for c in order], extra=2)
    scale = constants.rounded([constants.affine()[0][c] for c in order])
    name = channel_order([constants.channels[c] for c in order])
    loader = "cv2.imread returns them" if constants.is_8bit else "cv2.imread(path, cv2.IMREAD_UNCHANGED) returns them"
    image = "image" if constants.is_8bit else "image.astype(np.float32)"
    return f"""\
# {constants.description}
# OpenCV: pixels as {loader}, {constants.stored_range}, {name}; (image - mean) * scalefactor, {name} stays
# cv2.dnn.blobFromImageWithParams({image}, cv2.dnn.Image2BlobParams(scalefactor=scalefactor, mean=mean))
# (blobFromImage takes one scalefactor for all channels and has no std per channel)
mean = {_tuple(mean)}
scalefactor = {_tuple(scale)}
"""


def mmcv(constants: DatasetConstants) -> str:
    """Write `img_norm_cfg` of the OpenMMLab toolboxes: RGB order, pixels as stored."""
    constants.require_nonzero_std("mmcv")
    rgb = constants.channels == ["R", "G", "B"]
    loader = "" if constants.is_8bit else '\n# load them with dict(type="LoadImageFromFile", color_type="unchanged")'
    return f"""\
# {constants.description}
# mmcv, mmpretrain: pixels as stored, {constants.stored_range}; mean and std in {constants.channel_order}\
{"; to_rgb turns the loaded BGR round first" if rgb else ""}{loader}
img_norm_cfg = dict(
    mean={constants.stored_mean},
    std={constants.stored_std},
    to_rgb={rgb},
)
# pipeline: dict(type="Normalize", **img_norm_cfg); mmpretrain: data_preprocessor = dict(**img_norm_cfg);
# mmdet and mmseg 3 call to_rgb bgr_to_rgb
"""


def dali(constants: DatasetConstants) -> str:
    """Write arguments of `fn.crop_mirror_normalize`: pixels as stored, RGB."""
    constants.require_nonzero_std("dali")
    decoder = "decoded pixels" if constants.is_8bit else _STORED
    if "uint16" in constants.white_levels:
        decoder = "pixels of fn.experimental.decoders.image(..., dtype=types.UINT16)"
    return f"""\
# {constants.description}
# NVIDIA DALI: {decoder}, {constants.stored_range}, {constants.channel_order}
# images = fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", **normalize)
normalize = dict(
    mean={constants.stored_mean},
    std={constants.stored_std},
)
"""


def onnx(constants: DatasetConstants) -> str:
    """Write scale and bias, and their fold into the first convolution of an exported network."""
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
