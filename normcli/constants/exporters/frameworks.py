"""Exporters for training and inference libraries, each in its own range, channel order and names."""

import json

from normcli.constants.exporters import geometry
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
    if constants.has_geometry and geometry.is_of_pillow(constants):
        return _torchvision_compose(constants, normalize)
    if constants.is_8bit or constants.is_raw:
        return f"""\
# {constants.description}
# torchvision: after ToTensor(), {constants.range}, {constants.channel_order}
from torchvision import transforms

{normalize}"""
    steps = ", ".join(["to_tensor", *_tensor_steps(constants), "normalize"])
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
{"from torchvision.transforms import v2" + chr(10) if "v2." in steps else ""}

def to_tensor(image):
    \"\"\"Return an image or an array (H,W) or (H,W,C) as a tensor (C,H,W); a KeyError is another depth.\"\"\"
    pixels = np.asarray(image)
    white = {{{items}}}[pixels.dtype.name]
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy((pixels / white).astype(np.float32))


{normalize}transform = {"v2" if "v2." in steps else "transforms"}.Compose([{steps}])
"""


def _torchvision_compose(constants: DatasetConstants, normalize: str) -> str:
    """Write the complete transform of a Pillow image: geometry, ToImage, ToDtype, Normalize."""
    steps = geometry.torchvision_steps(constants)
    function = ""
    if steps == [geometry.NAME]:
        function = f"\n\n{geometry.pillow_function(constants)}\n"
    else:
        steps = ["v2.RGB()" if len(constants.channels) == 3 else "v2.Grayscale()", *steps]
    steps += ["v2.ToImage()", "v2.ToDtype(torch.float32, scale=True)", "normalize"]
    lines = "".join(f"        {step},\n" for step in steps)
    return f"""\
# {constants.description}
# torchvision: `normalize` after ToTensor(), {constants.range}, {constants.channel_order}; `transform` of a Pillow
# image that is upright, as ImageOps.exif_transpose makes it
import torch
{"from PIL import Image" + chr(10) if function else ""}\
from torchvision import transforms
from torchvision.transforms import v2
{function}
{normalize}transform = v2.Compose(
    [
{lines}    ]
)
"""


def _tensor_steps(constants: DatasetConstants) -> list[str]:
    """Return the geometry of tensors, which are resized without rounding to levels."""
    if not constants.has_geometry or not geometry.is_torchvisions(constants):
        return []
    return geometry.torchvision_steps(constants)


def albumentations(constants: DatasetConstants) -> str:
    """Write `A.Normalize`: mean and std in 0-1, pixels as stored, divided by max_pixel_value inside."""
    constants.require_nonzero_std("albumentations")
    compose = ""
    gray = ".reshape(image.shape[:2])" if len(constants.channels) == 1 else ""
    if constants.has_geometry and geometry.is_of_pillow(constants):
        compose = f"""

def {geometry.NAME}_array(image, **_):
    \"\"\"Return an array (H,W,C) with the geometry.\"\"\"
    return np.asarray({geometry.NAME}(Image.fromarray(image{gray})))


transform = A.Compose([A.Lambda(image={geometry.NAME}_array, p=1.0), normalize])
"""
    return f"""\
# {constants.description}
# Albumentations: mean and std in {constants.range}, {constants.channel_order}; \
pixels as stored, {constants.stored_range}{"" if constants.is_8bit else ", as float32: image.astype('float32')"}
import albumentations as A
{"import numpy as np" + chr(10) if compose else ""}
normalize = A.Normalize(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
    max_pixel_value={float(constants.max_value)},
)
{compose}"""


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
    entries = geometry.timm_entries(constants) if constants.has_geometry else None
    lines = "".join(f"    {key}={value},\n" for key, value in (entries or {}).items())
    size = "" if entries else "input_size=224, "
    lacking = ""
    if constants.has_geometry and entries is None:
        lacking = f"# not in the config, because timm has no such geometry: {constants.geometry}\n"
    return f"""\
# {constants.description}
# timm: {constants.range}, {constants.channel_order}
{lacking}\
# create_transform({size}**data_config), create_model(..., pretrained_cfg_overlay=data_config)
# train.py {flags}
data_config = dict(
    mean={_tuple(constants.unit_mean)},
    std={_tuple(constants.unit_std)},
{lines})
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
    entries = geometry.huggingface_entries(constants) if constants.has_geometry else None
    if entries is None:
        arrays += "; image processors have no such geometry: resize before" if constants.has_geometry else ""
        entries = {"do_resize": False, "do_center_crop": False}
    elif constants.center_crop is not None and constants.like != "huggingface":
        arrays += "; an odd rest of the crop is rounded down, which --like huggingface counts"
    config: dict[str, object] = {
        # JSON has no comments; the image processors keep unknown keys and do not use them
        "_comment": f"normcli: {constants.description}; {constants.range}, {constants.channel_order}{arrays}",
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": constants.is_8bit and constants.channels == ["R", "G", "B"],
    }
    config |= entries
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
    steps = geometry.mm_pipeline(constants) if constants.has_geometry and constants.is_8bit else None
    test_pipeline = f"test_pipeline = [\n{steps}]\n" if steps else ""
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
{test_pipeline}"""


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
