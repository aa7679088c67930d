"""Geometry in the configurations of libraries, as --resize, --interpolation, --center-crop and --pad."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from normcli.errors import UsageError

_OPENCV = "OpenCV resizes without antialiasing there, and normcli with it: sizes are equal, pixels are not"


class Geometry(NamedTuple):
    """A geometry in the terms of the options.

    Attributes:
        library: whose rounding it has, of `LIBRARIES`.
        resize, interpolation, center_crop, pad: values of the options; None where the file has none.
        notes: remaining differences to the pixels of the library.
    """

    library: str
    resize: Any = None
    interpolation: str | None = None
    center_crop: Any = None
    pad: Any = None
    notes: tuple[str, ...] = ()


_PIL_CODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


def interpolation_of(value: Any, default: str) -> str:
    """Return the name of a filter: Pillow's code, or a name such as BICUBIC or nearest-exact.

    >>> interpolation_of(3, ""), interpolation_of("NEAREST_EXACT", ""), interpolation_of(None, "bilinear")
    ('bicubic', 'nearest', 'bilinear')

    Raises:
        UsageError: a filter that `interpolation` does not have.
    """
    if value in (None, ""):
        value = default
    name = _PIL_CODES.get(value, str(value)) if isinstance(value, int) else str(value)
    name = name.rpartition(".")[2].lower().removeprefix("inter_").replace("_", "-")
    name = {"nearest-exact": "nearest", "cubic": "bicubic", "linear": "bilinear", "lanczos4": "lanczos"}.get(name, name)
    if name not in _FILTERS:
        raise UsageError(f"interpolation must be one of {', '.join(_FILTERS)}, not {value!r}")
    return name


def _side(value: Any) -> int:
    """Return a side of an image.

    Raises:
        UsageError: no positive integer.
    """
    if isinstance(value, Mapping | str) or value is None:
        raise UsageError(f"a side must be a number, not {value or 'an expression'!s:.60}")
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if type(value) is not int or not 1 <= value <= 1 << 24:
        raise UsageError(f"{value!r:.60} is not a number of pixels")
    return value


def _sides(value: Any) -> tuple[int, int]:
    """Return (height, width) of a number, one in a list, or two.

    Raises:
        UsageError: something else.
    """
    if isinstance(value, list | tuple) and len(value) in (1, 2):
        return _side(value[0]), _side(value[-1])
    return _side(value), _side(value)


def _hw(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"


def _black(resize: Any, crop: tuple[int, int] | None) -> str | None:
    """Return a fill of 0 if a crop may be larger than the resized image: torchvision and transformers pad then."""
    if crop is None:
        return None
    if isinstance(resize, int):
        return "0" if max(crop) > resize else None
    if isinstance(resize, tuple):
        return "0" if crop[0] > resize[0] or crop[1] > resize[1] else None
    return "0"


def of_normcli(settings: Mapping[str, Any]) -> Geometry:
    """Take the settings of a statistics file or a manifest."""
    resize, filter_name = settings.get("resize"), settings.get("interpolation")
    library = str(settings.get("like") or "torchvision")
    return Geometry(library, resize, filter_name, settings.get("center_crop"), settings.get("pad"))


# --- Hugging Face -----------------------------------------------------------------------------------------------------

# whose `size` as one number is the shorter side, and not a square
_BY_SHORTER_SIDE = {
    *("CLIP", "ChineseCLIP", "Bit", "BridgeTower", "Chameleon", "ConvNext", "Levit", "Llava", "LlavaNext", "TextNet"),
    *("MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer", "VideoMAE", "Vilt", "Vivit"),
}
# whose default filter is bilinear; files name it, save very old ones
_BILINEAR = {
    *(
        "ViT",
        "ViTHybrid",
        "VideoMAE",
        "Segformer",
        "Sam",
        "Sam2",
        "MobileNetV1",
        "MobileNetV2",
        "Detr",
        "Yolos",
        "RTDetr",
    ),
    *("ConditionalDetr", "DeformableDetr", "GroundingDino", "MaskFormer", "Mask2Former", "OneFormer", "DINOv3ViT"),
}
# keys of processors whose target depends on the number of pixels, tiles or patches
_BY_CONTENT = (
    *("min_pixels", "max_pixels", "temporal_patch_size", "image_grid_pinpoints", "max_patches", "max_num_patches"),
    *("max_image_tiles", "do_image_splitting", "do_thumbnail", "do_align_long_axis", "keep_aspect_ratio"),
)


def of_huggingface(config: Mapping[str, Any]) -> Geometry | None:
    """Read preprocessor_config.json: do_resize, size, resample, do_center_crop, crop_size, crop_pct, do_pad.

    Raises:
        UsageError: a target that depends on the content of the image.
    """
    for key in _BY_CONTENT:
        if config.get(key):
            raise UsageError(f"{key} sets the sides of every image by its content, which --resize cannot do")
    processor = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    kind = processor.removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    crop_size = config.get("crop_size")
    crop = None
    if config.get("do_center_crop", crop_size is not None and kind in _BY_SHORTER_SIDE) and crop_size is not None:
        if isinstance(crop_size, Mapping):
            crop_size = [crop_size.get("height") or crop_size.get("shortest_edge"), crop_size.get("width")]
            crop_size = crop_size if crop_size[1] is not None else crop_size[:1]
        crop = _sides(crop_size)
    resize: Any = None
    size = config.get("size")
    if size is not None and config.get("do_resize", True):
        resize = _huggingface_size(size, kind)
    if resize is not None and config.get("crop_pct") is not None:
        resize, crop = _with_crop_pct(resize, crop, kind, float(config["crop_pct"]))
    elif isinstance(resize, int) and kind == "Levit":
        resize = int((256 / 224) * resize)
    return _huggingface_geometry(config, kind, resize, crop)


def _huggingface_geometry(
    config: Mapping[str, Any], kind: str, resize: Any, crop: tuple[int, int] | None
) -> Geometry | None:
    if resize is None and crop is None:
        return None
    notes: tuple[str, ...] = ()
    pad = _black(resize, crop)
    if config.get("do_pad"):
        pad_size = config.get("pad_size")
        target = None if not isinstance(pad_size, Mapping) else _sides([pad_size.get("height"), pad_size.get("width")])
        longest = str(resize).removeprefix("longest:")
        if target is not None and crop is None and _hw(target) == f"{longest}x{longest}":
            pad = "0:corner"
        else:
            notes = ("do_pad pads to the largest image of a batch, which normcli does not",)
    filter_name = None
    if resize is not None:
        filter_name = interpolation_of(config.get("resample"), "bilinear" if kind in _BILINEAR else "bicubic")
    resize = _hw(resize) if isinstance(resize, tuple) else resize
    return Geometry("huggingface", resize, filter_name, crop, pad, notes)


def _huggingface_size(size: Any, kind: str) -> Any:
    """Return (height, width), the shorter side, "longest:N" or "N,longest:M".

    Raises:
        UsageError: a size that `resize` does not have.
    """
    if not isinstance(size, Mapping):
        if isinstance(size, list) and len(size) == 2:
            return _side(size[1]), _side(size[0])  # old files have (width, height)
        return _side(size) if kind in _BY_SHORTER_SIDE else _sides(size)
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    if shortest is not None and longest is not None:
        if _side(shortest) >= _side(longest):
            return f"longest:{_side(longest)}"
        return f"{_side(shortest)},longest:{_side(longest)}"
    if shortest is not None:
        return _side(shortest)
    if longest is not None:
        return f"longest:{_side(longest)}"
    if size.get("height") is not None and size.get("width") is not None:
        return _side(size["height"]), _side(size["width"])
    raise UsageError(f"--resize cannot express size {dict(size)}")


def _with_crop_pct(
    resize: Any, crop: tuple[int, int] | None, kind: str, share: float
) -> tuple[Any, tuple[int, int] | None]:
    """Return resize and crop of ConvNext and PoolFormer, which resize to the size divided by crop_pct."""
    if not 0 < share <= 1:
        raise UsageError(f"crop_pct {share:g} is not between 0 and 1")
    if kind == "PoolFormer":
        shorter = resize if isinstance(resize, int) else resize[0] if isinstance(resize, tuple) else None
        return (resize, crop) if shorter is None else (int(shorter / share), crop)
    if kind == "ConvNext" and isinstance(resize, int):
        if resize >= 384:
            return (resize, resize), None
        return int(resize / share), (resize, resize)
    return resize, crop


# --- timm -------------------------------------------------------------------------------------------------------------

_IMAGENET_MEAN = (0.485, 0.456, 0.406)


def of_timm(config: Mapping[str, Any]) -> Geometry | None:
    """Read a pretrained_cfg: input_size, crop_pct, interpolation, crop_mode, as `create_transform` does.

    Raises:
        UsageError: a crop mode or size that normcli does not have.
    """
    nested = config.get("pretrained_cfg")
    if isinstance(nested, Mapping):
        config = {**config, **nested}
    size = config.get("input_size") or config.get("img_size")
    if size is None:
        return None
    sides = _sides(size[-2:] if isinstance(size, list | tuple) and len(size) == 3 else size)
    share = config.get("crop_pct") or 0.875
    if not isinstance(share, int | float) or not 0 < share <= 8:
        raise UsageError(f"crop_pct must be a number above 0 and at most 8, not {share!r}")
    scaled = math.floor(sides[0] / share), math.floor(sides[1] / share)
    mode = config.get("crop_mode") or "center"
    filter_name = interpolation_of(config.get("interpolation"), "bicubic")
    if mode == "squash":
        crop = None if scaled == sides else sides
        return Geometry("timm", _hw(scaled), filter_name, crop, _black(scaled, crop))
    if scaled[0] != scaled[1]:
        raise UsageError(f"input_size {_hw(sides)}: crop_mode {mode} requires a square")
    if mode == "border":
        mean = config.get("mean") or _IMAGENET_MEAN
        fill = ",".join(str(round(255 * float(value))) for value in mean)
        return Geometry("timm", f"longest:{scaled[0]}", filter_name, sides, fill)
    if mode != "center":
        raise UsageError(f"crop_mode must be one of center, squash, border, not {mode!r}")
    return Geometry("timm", scaled[0], filter_name, sides, _black(scaled[0], sides))


# --- Ultralytics ------------------------------------------------------------------------------------------------------


def of_ultralytics(config: Mapping[str, Any]) -> Geometry | None:
    """Read imgsz and task: a letterbox of 114, or resize and crop for classification."""
    value = config.get("imgsz")
    if isinstance(value, Mapping | str) or value is None:
        return None
    sides = _sides(value)
    if config.get("task") == "classify":
        resize = sides[0] if sides[0] == sides[1] else _hw(sides)
        return Geometry("ultralytics", resize, "bilinear", sides)
    resize = f"longest:{sides[0]}" if sides[0] == sides[1] else _hw(sides)
    return Geometry("ultralytics", resize, "bilinear", None, "114", (_OPENCV,))


# --- torchvision ------------------------------------------------------------------------------------------------------

Call = tuple[str, Sequence[Any], Mapping[str, Any]]
_PRESETS = ("ImageClassification", "SemanticSegmentation", "VideoClassification")


def of_transforms(calls: Sequence[Call]) -> Geometry | None:
    """Read torchvision's presets, and Resize and CenterCrop of a Compose, as code or as printed.

    Raises:
        UsageError: a crop before the resize.
    """
    resize: Any = None
    filter_name = crop = None
    notes: tuple[str, ...] = ()
    for name, args, keywords in calls:
        if name in _PRESETS and ("resize_size" in keywords or "crop_size" in keywords):
            resize = _torchvision_resize(keywords.get("resize_size"), None)
            crop = None if keywords.get("crop_size") is None else _sides(keywords["crop_size"])
            filter_name = interpolation_of(keywords.get("interpolation"), "bilinear")
            if name == "VideoClassification":
                notes = ("torchvision resizes videos without antialiasing, and normcli with it: pixels differ",)
            break
        if name in ("Resize", "ResizeKeepRatio") and resize is None and "scale" not in keywords:
            size = keywords.get("size", args[0] if args else None)
            if name == "ResizeKeepRatio" or (size is None and keywords.get("max_size") is None):
                raise UsageError(f"--resize cannot express {name}({size})")
            filter_value = keywords.get("interpolation", args[1] if len(args) > 1 else None)
            resize, filter_name = (
                _torchvision_resize(size, keywords.get("max_size")),
                interpolation_of(filter_value, "bilinear"),
            )
            if crop is not None:
                raise UsageError("CenterCrop comes before Resize, and normcli crops after")
        if name == "CenterCrop" and crop is None and "crop_size" not in keywords:
            crop = _sides(keywords.get("size", args[0] if args else None))
    if resize is None and crop is None:
        return None
    pad = _black(resize, crop)
    return Geometry("torchvision", _hw(resize) if isinstance(resize, tuple) else resize, filter_name, crop, pad, notes)


def _torchvision_resize(size: Any, longest: Any) -> Any:
    """Return (height, width), the shorter side, "longest:N", "N,longest:M" or None."""
    if size is None:
        return None if longest is None else f"longest:{_side(longest)}"
    if isinstance(size, list | tuple) and len(size) == 2:
        return _sides(size)
    return _sides(size)[0] if longest is None else f"{_sides(size)[0]},longest:{_side(longest)}"


# --- OpenMMLab --------------------------------------------------------------------------------------------------------


def of_pipeline(steps: Sequence[Any]) -> Geometry | None:
    """Read a pipeline of mmpretrain, mmdet, mmseg or mmyolo: ResizeEdge, Resize, CenterCrop, Pad, LetterResize.

    Raises:
        UsageError: a step that the options do not have.
    """
    geometry = Geometry("mmcv")
    corner: Any = None
    for step in _flattened(steps):
        kind = str(step.get("type", "")).rpartition(".")[2]
        if kind in ("ResizeEdge", "Resize", "LetterResize", "YOLOv5KeepRatioResize"):
            # mmyolo scales with YOLOv5KeepRatioResize, then LetterResize pads
            resize, pad = _mm_resize(kind, step)
            opencv = step.get("backend", "cv2") == "cv2"
            filter_name = interpolation_of(step.get("interpolation"), "bilinear")
            geometry = geometry._replace(resize=resize, interpolation=filter_name, notes=(_OPENCV,) if opencv else ())
            geometry = geometry._replace(pad=pad or geometry.pad)
        elif kind == "CenterCrop":
            size = step.get("crop_size")
            crop = _sides(size)
            geometry = geometry._replace(center_crop=(crop[1], crop[0]) if isinstance(size, tuple | list) else crop)
        elif kind == "Pad":
            corner = step
    if corner is not None and geometry.resize is not None:
        geometry = _mm_pad(geometry, corner)
    return None if geometry.resize is None and geometry.center_crop is None else geometry


def _flattened(steps: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return the steps of a pipeline and those inside MultiScaleFlipAug, whose img_scale its Resize takes."""
    out: list[Mapping[str, Any]] = []
    for step in steps:
        if not isinstance(step, Mapping):
            continue
        inner = step.get("transforms")
        if isinstance(inner, list):
            scale = step.get("img_scale", step.get("scale"))
            inner = [s for s in inner if isinstance(s, Mapping)]
            out += [{"scale": scale, **s} if s.get("type") == "Resize" else s for s in inner]
        else:
            out.append(step)
    return out


def _mm_resize(kind: str, step: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return resize and pad of one step; mm* writes (width, height)."""
    scale = step.get("scale", step.get("size", step.get("img_scale")))
    if kind == "ResizeEdge":
        edge = step.get("edge", "short")
        if edge not in ("short", "long"):
            raise UsageError(f"--resize cannot express ResizeEdge with edge={edge!r}")
        return (_side(scale) if edge == "short" else f"longest:{_side(scale)}"), None
    if isinstance(scale, list | tuple) and len(scale) == 2 and scale[1] == -1:
        return _side(scale[0]), None  # mmcls 0.x: the shorter side
    width, height = _sides(scale)
    box = f"longest:{width}" if width == height else _hw((height, width))
    if kind == "LetterResize":
        value = step.get("pad_val", 0)
        return box, str(value.get("img", 0) if isinstance(value, Mapping) else value)
    if kind == "YOLOv5KeepRatioResize" or step.get("keep_ratio"):
        if width != height:
            return f"{min(width, height)},longest:{max(width, height)}", None
        return f"longest:{width}", None
    return _hw((height, width)), None


def _mm_pad(geometry: Geometry, step: Mapping[str, Any]) -> Geometry:
    """Return a geometry with the fill of mmcv's Pad, which pads on the right and below."""
    size, value = step.get("size"), step.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    fill = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    longest = str(geometry.resize).removeprefix("longest:")
    if size is not None and geometry.center_crop is None and _hw(_sides(size)) == f"{longest}x{longest}":
        return geometry._replace(pad=f"{fill}:corner")
    note = "Pad depends on the sides of every image, or of a batch, which normcli does not pad to"
    return geometry._replace(notes=(*geometry.notes, note))


# keys -> who writes them; the first that fits
BY_KEYS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Geometry | None]], ...] = (
    (("pretrained_cfg", "input_size", "crop_pct"), of_timm),
    (("imgsz",), of_ultralytics),
    (("image_processor_type", "feature_extractor_type", "do_resize", "do_center_crop", "image_mean"), of_huggingface),
)
