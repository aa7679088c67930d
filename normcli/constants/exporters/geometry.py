"""The geometry of statistics in other tools' terms: their own transforms where these do the same, else a function.

The function resizes and crops a Pillow image in the arithmetic of normcli, so that its pixels are those that were
counted. Tools that resize with OpenCV, TensorFlow or a shader have other filters.
"""

import math
from collections.abc import Callable
from typing import Any

from normcli.constants.exporters.values import DatasetConstants

Exporter = Callable[[DatasetConstants], str]

NAME = "resize_and_crop"
# library -> how it computes the sides within a box of {w} x {h}, as statements
_FITS = {
    "torchvision": "width, height = (int({h} * width / height), {h}) if width * {h} <= height * {w} else "
    "({w}, int({w} * height / width))",
    "huggingface": "scale = min({h} / height, {w} / width)\nwidth, height = int(width * scale), int(height * scale)",
    "timm": "ratio = max(height / {h}, width / {w})\nwidth, height = round(width / ratio), round(height / ratio)",
    "ultralytics": "scale = min({h} / height, {w} / width)\n"
    "width, height = round(width * scale), round(height * scale)",
    "mmcv": "scale = min({h} / height, {w} / width)\n"
    "width, height = int(width * scale + 0.5), int(height * scale + 0.5)",
}
_SAM = "scale = {w} * 1.0 / max(height, width)\nwidth, height = int(width * scale + 0.5), int(height * scale + 0.5)"
_SHORTER = "width, height = ({n}, int({n} * height / width)) if width <= height else (int({n} * width / height), {n})"
_BOUNDED = {
    "torchvision": f"{_SHORTER}\nif max(width, height) > {{m}}:\n"
    "    less = int({m} * {n} / max(width, height))\n"
    "    width, height = (less, {m}) if width <= height else ({m}, less)",
    "huggingface": "shorter, longer = min(width, height), max(width, height)\n"
    "exact = {m} * shorter / longer if longer / shorter * {n} > {m} else {n}\n"
    "side = round(exact)\n"
    "if shorter != side:\n"
    "    tall = width < height\n"
    "    width, height = (side, int(exact * height / width)) if tall else (int(exact * width / height), side)",
    "mmcv": "scale = min({m} / max(height, width), {n} / min(height, width))\n"
    "width, height = int(width * scale + 0.5), int(height * scale + 0.5)",
}


def sides(value: Any) -> tuple[int, int]:
    """Return the (height, width) of "HxW", "longest:N" or N."""
    height, x, width = str(value).removeprefix("longest:").partition("x")
    return int(height), int(width if x else height)


def target(constants: DatasetConstants) -> tuple[int, int] | None:
    """Return the (height, width) of every image at the end; None if it differs."""
    if constants.center_crop is not None:
        return sides(constants.center_crop)
    resize = str(constants.resize)
    if "x" in resize or ("longest" in resize and "," not in resize and constants.pad is not None):
        return sides(resize)
    return None


def pillow_function(constants: DatasetConstants, *, reverse: bool = False) -> str:
    """Return the code of a function from a Pillow image to one of the geometry that was counted.

    Args:
        constants: with a geometry.
        reverse: the image has its channels in the order BGR.
    """
    body = [f'image = image.convert("{"RGB" if len(constants.channels) == 3 else "L"}")']
    body += ["width, height = image.size"] if _needs_size(constants) else []
    if constants.resize is not None:
        body += _resize_lines(constants)
        filter_name = (constants.interpolation or "bilinear").upper()
        body.append(f"image = image.resize((width, height), Image.Resampling.{filter_name})")
    body += _canvas_lines(constants, reverse)
    text = "".join(f"    {line}\n" for line in body)
    return f'''\
def {NAME}(image):
    """Return an upright Pillow image with {constants.geometry}."""
{text}    return image
'''


def _needs_size(constants: DatasetConstants) -> bool:
    squashed = constants.pad is None and "x" in str(constants.resize)
    return not squashed or constants.center_crop is not None


def _resize_lines(constants: DatasetConstants) -> list[str]:
    resize, library = constants.resize, constants.like or "torchvision"
    shorter, comma, longest = str(resize).partition(",longest:")
    if comma:
        return _BOUNDED.get(library, _BOUNDED["torchvision"]).format(n=shorter, m=longest).split("\n")
    if isinstance(resize, int):
        return [_SHORTER.format(n=resize)]
    height, width = sides(resize)
    if constants.pad is None and "x" in str(resize):
        return [f"width, height = {width}, {height}"]
    lines = _SAM if library == "huggingface" and height == width else _FITS[library]
    return lines.format(h=height, w=width).split("\n")


def _canvas_lines(constants: DatasetConstants, reverse: bool) -> list[str]:
    """Return the statements that crop, or pad and crop: on a canvas of the target's sides."""
    size = target(constants)
    if size is None or (constants.pad is None and constants.center_crop is None):
        return []
    height, width = size
    pairs = ("width", width), ("height", height)
    down = constants.like == "huggingface"
    crops = [f"({side} - {full}) // 2" if down else f"round(({side} - {full}) / 2)" for side, full in pairs]
    if constants.pad is None:
        return [
            f"left, top = {', '.join(crops)}",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    numbers, _, corner = constants.pad.partition(":")
    pads = ["0" if corner else f"({full} - {side}) // 2" for side, full in pairs]
    fill = numbers.split(",")[:: -1 if reverse else 1]
    fill = fill if len(fill) == len(constants.channels) else fill[:1] * len(constants.channels)
    color = fill[0] if len(fill) == 1 else f"({', '.join(fill)})"
    if constants.center_crop is not None:
        pads = [
            f"{pad} if {side} < {full} else -({crop})"
            for pad, crop, (side, full) in zip(pads, crops, pairs, strict=True)
        ]
    return [
        f"canvas = Image.new(image.mode, ({width}, {height}), {color})",
        f"canvas.paste(image, ({', '.join(pads)}))",
        "image = canvas",
    ]


def is_of_pillow(constants: DatasetConstants) -> bool:
    """Return True if the images are those that Pillow has: 8 bits, gray or RGB."""
    return constants.is_8bit and constants.channels in (["R", "G", "B"], ["L"])


def with_function(exporter: Exporter, usage: str, *, reverse: bool = False) -> Exporter:
    """Return an exporter whose text also contains the function, after its comments and imports.

    Args:
        exporter: of mean and std.
        usage: the comment above the function.
        reverse: images have their channels in the order BGR.
    """

    def export(constants: DatasetConstants) -> str:
        text = exporter(constants)
        if not (constants.has_geometry and is_of_pillow(constants)):
            return text
        lines = text.splitlines(keepends=True)
        end = next(i for i, line in enumerate(lines) if not line.startswith(("#", "import ", "from ", "\n")))
        head = "".join(lines[:end]).rstrip("\n") + "\n"
        gap = "" if lines[end - 1].startswith(("import", "from")) or lines[end - 1] == "\n" else "\n"
        function = pillow_function(constants, reverse=reverse)
        return f"{head}{gap}from PIL import Image\n\n\n# {usage}\n{function}\n\n{''.join(lines[end:])}"

    export.__doc__ = exporter.__doc__
    return export


def is_torchvisions(constants: DatasetConstants) -> bool:
    """Return True if Resize and CenterCrop of torchvision do the same."""
    boxed_pad = constants.pad is not None and (constants.center_crop is None or constants.pad != "0")
    fitted_pad = constants.pad is not None and "x" in str(constants.resize)
    return constants.like is None and not boxed_pad and not fitted_pad


def torchvision_steps(constants: DatasetConstants) -> list[str]:
    """Return the transforms of torchvision v2, or the function in a list, as code.

    Tensors, which images of more than 8 bits are, are resized with nearest-exact: that is Pillow's nearest.
    """
    if not is_torchvisions(constants):
        return [NAME]
    steps = []
    if constants.resize is not None:
        shorter, comma, longest = str(constants.resize).partition("longest:")
        size = f"{shorter.rstrip(',')}, max_size={longest}" if shorter else f"None, max_size={longest}"
        if not comma:
            size = f"{sides(constants.resize)}" if "x" in str(constants.resize) else str(constants.resize)
        filter_name = (constants.interpolation or "bilinear").upper()
        filter_name = "NEAREST_EXACT" if filter_name == "NEAREST" else filter_name
        steps.append(f"v2.Resize({size}, interpolation=v2.InterpolationMode.{filter_name}, antialias=True)")
    if constants.center_crop is not None:
        crop = sides(constants.center_crop)
        steps.append(f"v2.CenterCrop({crop[0] if crop[0] == crop[1] else crop})")
    return steps


def timm_entries(constants: DatasetConstants) -> dict[str, str] | None:
    """Return the entries of a timm data config, as code; None if `create_transform` does something else."""
    size, resize = target(constants), constants.resize
    if size is None or resize is None or constants.like is not None or constants.pad not in (None, "0"):
        return None
    entries = {"input_size": f"({len(constants.channels)}, {size[0]}, {size[1]})"}
    entries["interpolation"] = f'"{constants.interpolation or "bilinear"}"'
    if isinstance(resize, int):
        scaled, mode = resize, "center"
    elif "longest" not in resize and constants.pad is None and sides(resize) == size:
        return {**entries, "crop_pct": "1.0", "crop_mode": '"squash"'}
    elif "longest" not in resize and constants.pad is None and len({*sides(resize)}) == 1:
        scaled, mode = sides(resize)[0], "squash"
    else:
        return None
    share = size[0] / scaled
    if size[0] != size[1] or share > 1:
        return None
    if math.floor(size[0] / share) != scaled:  # rounded down by one
        share = math.nextafter(share, 0.0)
    return {**entries, "crop_pct": repr(share), "crop_mode": f'"{mode}"'}


_PIL_CODES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def huggingface_entries(constants: DatasetConstants) -> dict[str, Any] | None:
    """Return the entries of a preprocessor_config.json; None if the image processors have no such geometry."""
    resize, pad = constants.resize, constants.pad
    config: dict[str, Any] = {"do_resize": resize is not None}
    if pad is not None and (constants.center_crop is None or pad != "0"):
        return None
    if isinstance(resize, str):
        shorter, comma, longest = resize.partition(",longest:")
        height, width = sides(longest if comma else resize)
        if comma:
            config["size"] = {"shortest_edge": int(shorter), "longest_edge": height}
        elif "longest" in resize or pad is not None:
            return None
        else:
            config["size"] = {"height": height, "width": width}
    elif resize is not None:
        config["size"] = {"shortest_edge": resize}
    if resize is not None:
        config["resample"] = _PIL_CODES[constants.interpolation or "bilinear"]
    config["do_center_crop"] = constants.center_crop is not None
    if constants.center_crop is not None:
        crop = sides(constants.center_crop)
        config["crop_size"] = {"height": crop[0], "width": crop[1]}
    return config


def mm_pipeline(constants: DatasetConstants) -> str | None:
    """Return the steps of an mmpretrain pipeline, as code; None if it has no such geometry."""
    resize, crop = constants.resize, constants.center_crop
    if constants.like is not None or constants.pad is not None:
        return None
    steps = []
    backend = f'interpolation="{constants.interpolation or "bilinear"}", backend="pillow"'
    if isinstance(resize, int):
        steps.append(f'dict(type="ResizeEdge", scale={resize}, edge="short", {backend})')
    elif resize is not None and "x" in resize:
        height, width = sides(resize)
        steps.append(f'dict(type="Resize", scale=({width}, {height}), {backend})')
    elif resize is not None:
        return None
    if crop is not None:
        height, width = sides(crop)
        steps.append(f'dict(type="CenterCrop", crop_size={height if height == width else (width, height)})')
    return "".join(f"    {step},\n" for step in steps)
