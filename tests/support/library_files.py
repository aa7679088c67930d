"""Files that libraries write and ship, the arrays that libraries read from them, and a verdict on normcli's reading.

Each file that a library opens is read by normcli with the same mean, or rejected by the name of its format or kind.
"""

import importlib
import io
import os
import re
import site
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normcli.errors import InputError
from normcli.images import decode
from normcli.options.shared import DecodeOptions
from tests.support.sweeps import DAMAGED

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # of the thousands that it cannot read
Array = np.ndarray[Any, Any]
File = tuple[str, bytes]

_rng = np.random.default_rng(7)
_COLOR = np.kron(_rng.integers(0, 256, (8, 12, 3)), np.ones((4, 4, 1), int)).astype(np.uint8)
_ALPHA = np.kron(_rng.integers(0, 256, (8, 12, 1)), np.ones((4, 4, 1), int)).astype(np.uint8)
ARRAYS: dict[str, Array] = {
    "gray": _COLOR[:, :, 0].copy(),
    "rgb": _COLOR,
    "rgba": np.dstack([_COLOR, _ALPHA]),
    "gray with alpha": np.dstack([_COLOR[:, :, 0], _ALPHA]),
    "5 bands": np.dstack([_COLOR, _COLOR[:, :, :2]]),
    "2 frames": np.stack([_COLOR, _COLOR[::-1]]),
    "bool": _COLOR[:, :, 0] > 127,
    "16-bit gray": _COLOR[:, :, 0].astype("u2") * 257,
    "16-bit rgb": _COLOR.astype("u2") * 257,
    "16-bit rgba": np.dstack([_COLOR, _ALPHA]).astype("u2") * 257,
    "float rgb": _COLOR.astype("f4") / 255,
    **{f"{kind} gray": _COLOR[:, :, 0].astype(kind) // 2 for kind in ("i1", "i2", "i4", "u4", "u8", "f4", "f8")},
    "half rgb": _COLOR.astype("f2") / 255,
    "complex": _COLOR[:, :, 0].astype("c8"),
}
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
_PILLOW: dict[str, list[dict[str, Any]]] = {
    "TIFF": [
        *({"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4", "webp", "zstd")),
        {"big_tiff": True},
    ],
    "TGA": [{"compression": "tga_rle"}, {"orientation": 1}, {"id_section": b"hello"}],
    "JPEG": [{"progressive": True}, {"subsampling": 0}],
    "WEBP": [{"lossless": True}],
    "PNG": [{"bits": 4}, {"bits": 2}, {"bits": 1}],
    "PPM": [{"format": "PFM"}],
    "DDS": [{"pixel_format": form} for form in ("DXT1", "DXT3", "DXT5", "BC2", "BC3", "BC5")],
    "ICO": [{"bitmap_format": "bmp"}],
    "JPEG2000": [{"irreversible": True}, {"no_jp2": True}],
    "SGI": [{"bpc": 2}],
    "BLP": [{"blp_version": "BLP1"}],
}
_ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF", "MPO")
_CODECS = (
    *("jpegxl", "jpegxr", "jpegls", "avif", "webp", "qoi", "rgbe", "bmp", "gif", "apng", "png", "htj2k", "jpeg2k"),
    *("jpeg8", "jpeg", "ljpeg", "tiff", "lerc", "jpegxs", "heif", "brunsli", "zfp"),
)
_OPENCV = (
    *("bmp", "dib", "jpg", "jp2", "png", "webp", "avif", "pbm", "pgm", "ppm", "pam", "pfm", "ras", "tiff", "exr"),
    *("hdr", "gif", "jxl"),
)
_OPENCV_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34676, 34677, 50000, 50001, 34925, 34887, 34712)
_TIFF_CODECS = ("LZW", "DEFLATE", "PACKBITS", "JPEG", "WEBP", "ZSTD", "LZMA", "JPEG_2000_LOSSY", "JPEGXL", "JPEGXR")
_TIFF_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"predictor": True},
    {"tile": (16, 16)},
    {"bigtiff": True, "byteorder": ">"},
    *({"photometric": name} for name in ("miniswhite", "cielab", "cfa", "separated", "ycbcr")),
    {"imagej": True},
    {"ome": True},
    {"planarconfig": "separate"},
    {"photometric": "palette", "colormap": np.tile(np.arange(256, dtype="u2") * 257, (3, 1))},
    *({"bitspersample": bits} for bits in (1, 4, 12)),
)


def _attempt(name: str, write: Callable[[], Any]) -> Iterator[File]:
    """Yield a file, if a library writes it."""
    try:
        data = write()
    except BaseException as error:  # Pillow's and imagecodecs' errors have no common class below it
        if isinstance(error, KeyboardInterrupt):
            raise
        return
    if data:
        yield name, bytes(data)


def saved_by_pillow(modes: Iterable[str] = _MODES) -> Iterator[File]:
    """Yield a file by every plugin, mode and way."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    opaque, clear = Image.fromarray(_COLOR), Image.fromarray(ARRAYS["rgba"])
    for name in sorted(Image.SAVE):
        for mode in modes:
            with suppress(ValueError):
                source = clear if mode[-1] in "Aa" else opaque
                image = source.convert("LA").convert(mode) if mode == "La" else source.convert(mode)
                flipped = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
                frames = [{"save_all": True, "append_images": [flipped]}] if name in _ANIMATED else []
                for how in ({}, *_PILLOW.get(name, ()), *frames):
                    described = ", ".join(map(str, how)) if frames == [how] else str(how)
                    yield from _attempt(f"Pillow {name} {mode} {described}", partial(_saved, image, name, how))


def _saved(image: Image.Image, name: str, how: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": name, **how})
    return buffer.getvalue()


def saved_by_imagecodecs() -> Iterator[File]:
    """Yield a file by every image codec and way."""
    import imagecodecs

    ways: tuple[dict[str, Any], ...] = ({}, {"level": 0}, {"lossless": True}, {"bitspersample": 12})
    for name in _CODECS:
        encode = getattr(imagecodecs, f"{name}_encode")
        for kind, array in ARRAYS.items():
            for how in ways:
                yield from _attempt(f"imagecodecs {name} {kind} {how}", partial(encode, array, **how))


def saved_by_opencv() -> Iterator[File]:
    """Yield a file by every writer of OpenCV, if it is installed."""
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        return
    ways: list[tuple[str, list[int]]] = [(suffix, []) for suffix in _OPENCV]
    ways += [("tiff", [int(cv2.IMWRITE_TIFF_COMPRESSION), c]) for c in _OPENCV_COMPRESSIONS]
    ways += [(suffix, [int(cv2.IMWRITE_PXM_BINARY), 0]) for suffix in ("pbm", "pgm", "ppm")]
    for suffix, flags in ways:
        for kind, array in ARRAYS.items():
            if array.ndim < 4:  # OpenCV 5 writes files of nonsense for them
                yield from _attempt(
                    f"OpenCV {suffix} {kind} {flags}",
                    partial(_by_cv2, cv2, suffix, array, flags),
                )


def _by_cv2(cv2: Any, suffix: str, array: Array, flags: list[int]) -> bytes:
    return bytes(cv2.imencode(f".{suffix}", array, flags)[1].tobytes())


def saved_by_tifffile(codecs: Iterable[str | None] = (None, *_TIFF_CODECS)) -> Iterator[File]:
    """Yield a TIFF by every array, codec and way."""
    import tifffile

    def write(array: Array, **how: Any) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **how)
        return buffer.getvalue()

    for kind, array in ARRAYS.items():
        for codec in codecs:
            for how in _TIFF_WAYS:
                described = {key: value for key, value in how.items() if key != "colormap"}
                name = f"tifffile {kind} {codec} {described}"
                yield from _attempt(name, partial(write, array, compression=codec, **how))


def saved_by_imageio() -> Iterator[File]:
    """Yield a file by every suffix and plugin that imageio knows, if it is installed."""
    try:
        import imageio.v3 as imageio
        from imageio.config import known_extensions
    except ImportError:
        return
    for suffix in sorted(known_extensions):
        for kind in ("gray", "rgb", "rgba", "16-bit gray", "float rgb", "2 frames"):
            for plugin in ("pillow", "tifffile", "opencv", None):
                yield from _attempt(
                    f"imageio {suffix} {plugin} {kind}",
                    partial(imageio.imwrite, "<bytes>", ARRAYS[kind], extension=suffix, plugin=plugin),
                )


WRITERS = (saved_by_pillow, saved_by_imagecodecs, saved_by_opencv, saved_by_tifffile, saved_by_imageio)
_SUFFIX = re.compile(
    r"\.(png|jpe?g|jpe|jfif|tiff?|gif|bmp|dib|ico|cur|icns|webp|avif|heic|jp2|j2k|jpx|p[bgnpaf]m|pfm|dcm|x[bp]m|tga|psd"
    r"|exr|hdr|fits?|ras|sgi|rgb|bw|pcx|dds|im|pic|jxl|jxr|qoi)$",
    re.IGNORECASE,
)


def shipped(*folders: Path) -> Iterator[File]:
    """Yield the image files in these folders, by default the installed packages; of icons a part."""
    counts: Counter[tuple[str, str]] = Counter()
    for folder in folders or [Path(name) for name in site.getsitepackages()]:
        for path in sorted(folder.rglob("*")):
            suffix = _SUFFIX.search(path.name)
            if suffix is None or not path.is_file() or path.stat().st_size > 20 << 20:
                continue
            counts[path.relative_to(folder).parts[0], suffix[1]] += 1
            if counts[path.relative_to(folder).parts[0], suffix[1]] <= 200:
                yield str(path.relative_to(folder)), path.read_bytes()


_BY_SIGNATURE: dict[str, tuple[bytes, ...]] = {  # imagecodecs trusts its caller: another format may end the process
    "lerc": (b"Lerc2 ", b"CntZImage"),
    "jpegxl": (b"\xff\x0a", b"\0\0\0\x0cJXL"),
    "jpegxr": (b"II\xbc",),
    "jpegls": (b"\xff\xd8\xff\xf7",),
    "jpegxs": (b"\xff\x10",),
    "qoi": (b"qoif",),
    "rgbe": (b"#?",),
    "jpeg2k": (b"\xff\x4f", b"\0\0\0\x0cjP"),
    "htj2k": (b"\xff\x4f", b"\0\0\0\x0cjP"),
    "jpeg": (b"\xff\xd8\xff",),
    "brunsli": (b"\x0a\x04", b"\x0aBRU"),
    "zfp": (b"zfp",),
}


def means(data: bytes) -> dict[str, Array]:
    """Return the mean of every band that each library reads, by the name of the library; {} if none opens the file."""
    readers: dict[str, Callable[[bytes], Array]] = {
        "Pillow": _by_pillow,
        "OpenCV": _by_opencv,
        "tifffile": _by_tifffile,
    }
    for name, signatures in _BY_SIGNATURE.items():
        if data.startswith(signatures):
            readers[f"imagecodecs {name}"] = _by_imagecodecs(name)
    found = {}
    for name, read in readers.items():
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            found[name] = _mean(read(data))
    return found


def _mean(array: Array) -> Array:
    while array.ndim > 3:
        array = array[0]
    bands = array[:, :, None] if array.ndim == 2 else array
    return np.asarray(bands.reshape(-1, bands.shape[2]).astype(np.float64).mean(0))


def _by_pillow(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode in ("P", "PA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
            clear = "transparency" in image.info or image.mode in ("PA", "RGBa")
            return np.asarray(image.convert("RGBA" if clear else "RGB"))
        return np.asarray(image.convert("L") if image.mode == "1" else image)


def _by_opencv(data: bytes) -> Array:
    import cv2

    if data[:1] == b"P":
        raise ValueError  # blue first, and written so without a tuple type
    array: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(array if array.ndim == 2 else array[:, :, [2, 1, 0, *range(3, array.shape[2])]])


def _by_tifffile(data: bytes) -> Array:
    """Return the first page, or the channels of the first frame; black is zero, and bands are last."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, series = file.pages[0], file.series[0]
        array: Any = np.asarray(page.asarray())
        if "C" in series.axes and page.samplesperpixel == 1:
            first = tuple(slice(None) if axis in "CYX" else 0 for axis in series.axes)
            place = [axis for axis in series.axes if axis in "CYX"].index("C")
            array = np.moveaxis(series.asarray()[first], place, -1)
        elif array.ndim == 3 and page.planarconfig == 2:
            array = np.moveaxis(array, 0, -1)
        if page.photometric == 0:
            array = ~array if array.dtype.kind in "bu" else array
        return np.asarray(array)


def _by_imagecodecs(name: str) -> Callable[[bytes], Array]:
    import imagecodecs

    return lambda data: np.asarray(getattr(imagecodecs, f"{name}_decode")(data))


def verdict(data: bytes, opened: dict[str, Array]) -> str:
    """Return "right", "rejected", or the fault in the reading of a file that libraries open."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = decode(data, DecodeOptions())
    except InputError as error:
        fits = error.reason != "damaged" and DAMAGED not in error.message
        return "rejected" if fits else f"{error.reason}: {error.message}"
    mean = _mean(image.pixels)
    right = any(_equal(mean, other[:bands], image.full_scale) for other in opened.values() for bands in (len(mean), 1))
    return "right" if right else f"a mean of {mean} for {opened}"


def _equal(mean: Array, other: Array, white: int | None) -> bool:
    """Return True for equal means up to the scale and the rounding of lossy formats; one gray band equals three."""
    if len(other) == 1 or (len(mean) == 1 and np.ptp(other) < 1e-6):
        other = np.broadcast_to(other[:1], mean.shape)
    scales = (1, 255, 65535, 257, 17, 85, white or 1)
    tolerance = 0.004 * float(np.abs(mean).max())
    return other.shape == mean.shape and any(
        np.allclose(other * scale, mean, rtol=0.01, atol=tolerance)
        for factor in scales
        for scale in (factor, 1 / factor)
    )


def judge(files: Iterable[File], every: int = 1) -> tuple[Counter[str], list[str]]:
    """Count the verdicts on every n-th file that a library opens; return them with the faults by name."""
    counts: Counter[str] = Counter()
    wrong = []
    for number, (name, data) in enumerate(files):
        if number % every:
            continue
        if not (opened := means(data)):
            counts["opened by none"] += 1
            continue
        result = verdict(data, opened)
        counts[result if result in ("right", "rejected") else "wrong"] += 1
        if result not in ("right", "rejected"):
            wrong.append(f"{name}: {result}")
    return counts, wrong
