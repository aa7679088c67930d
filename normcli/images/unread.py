"""Identification of files that no decoder opens: formats by signature, text, pointers; damage last."""

import contextlib
import re
import struct
import zlib

from normcli import late_imports
from normcli.errors import InputError

# signature at an offset -> name; what libraries at hand read and normcli does not
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"Lerc2 ", "LERC"),
    (0, b"CntZImage ", "LERC"),
    (0, b"\xff\x10\xff\x50", "JPEG XS"),
    (0, b"\x0aBRU\xce\xb2\xce", "Brunsli JPEG"),
    (0, b"\x0a\x04B\xd2\xd5N", "Brunsli JPEG"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"8BPB", "Photoshop"),
    (0, b"DDS ", "DirectDraw Surface"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"\0\0\2\0", "cursor"),
    (0, b"icns", "Apple icon"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x0a\x05\x01", "PCX"),
    (0, b"\x0a\x03\x01", "PCX"),
    (0, b"\x0a\x02\x01", "PCX"),
    (0, b"\x0a\x00\x01", "PCX"),
    (0, b"\xb1\x68\xde\x3a", "DCX"),
    (0, b"Image type:", "IFUNC Image Memory"),
    (0, b"DanM", "Windows Paint"),
    (0, b"LinS", "Windows Paint"),
    (0, b"FTC\0", "FTEX texture"),
    (0, b"FTU\0", "FTEX texture"),
    (0, b"BLP1", "Blizzard texture"),
    (0, b"BLP2", "Blizzard texture"),
    (0, b"GRIB", "GRIB"),
    (0, b"BUFR", "BUFR"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"CDF\1", "NetCDF"),
    (0, b"CDF\2", "NetCDF"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows Metafile"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"\xabKTX ", "KTX texture"),
    (0, b"DICM", "DICOM"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\xfd7zXZ\0", "xz-compressed"),
    (0, b"PK\3\4", "zip"),
    (0, b"PAR1", "Parquet"),
    (0, b"ARROW1", "Arrow"),
    (0, b"Rar!", "RAR"),
    (0, b"7z\xbc\xaf", "7-Zip"),
    (0, b"\x1aE\xdf\xa3", "Matroska video"),
    (4, b"ftypavis", "AVIF sequence"),
    (4, b"ftypqt", "QuickTime video"),
    (4, b"ftypisom", "MP4 video"),
    (4, b"ftypmp4", "MP4 video"),
    (4, b"ftypcrx", "Canon raw"),
    (0, b"IIRO", "Olympus raw"),
    (0, b"IIRS", "Olympus raw"),
    (0, b"MMOR", "Olympus raw"),
    (0, b"IIU\0", "Panasonic raw"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (0, b"\0\0\1\xb3", "MPEG video"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE document"),
    (40, b" EMF", "Windows Metafile"),
    (0, b"NRRD000", "NRRD"),
    (0, b"ObjectType = Image", "MetaImage"),
    (0, b"NDims = ", "MetaImage"),
    (0, b"# vtk DataFile", "VTK"),
    (0, b"BSDF", "BSDF"),
    (0, b"zfp\5", "ZFP"),
    (4, b"\x11\xaf", "FLI animation"),
    (4, b"\x12\xaf", "FLC animation"),
    (8, b"AVI ", "AVI video"),
    (20, b"\0\0\0\1GIMP", "GIMP brush"),
    (20, b"\0\0\0\2GIMP", "GIMP brush"),
    (257, b"ustar", "tar"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (4, b"ni2\0", "NIfTI"),
    (0, b"\x5c\1\0\0", "Analyze"),
    (0, b"\0\0\1\x5c", "Analyze"),
    (2048, b"PCD_", "Photo CD"),
)
_HEIC = (b"heic", b"heix", b"mif1", b"hevc", b"heim", b"heis", b"msf1")
# signature at an offset -> what a Pillow of few parts does not read, its name among PIL.features
_OPTIONAL = (
    (4, b"ftypavif", "AVIF", "avif"),
    (8, b"WEBP", "WebP", "webp"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000", "jpg_2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", "jpg_2000"),
)
# the first element of a data set that is no file: groups 2 and 8, and their usual elements
_DICOM = re.compile(rb"(?:[\2\x08]\0[\0\1\5\x08\x12\x16\x18]\0|\0[\2\x08]\0[\0\1\5\x08\x12\x16\x18])[\0-\x7f]{4}")
_CONTAINERS = {"tar", "zip", "Parquet", "Arrow", "NumPy array", "NIfTI", "Analyze", "HDF5"}
_DOCUMENTS = {"PostScript", "PDF", "DjVu"}
_VOLUMES = {"NRRD", "MetaImage", "VTK", "MGH"}
_MGH_TYPES = (0, 1, 3, 4, 10)  # uint8, int32, float32, int16, uint16
_PEEK = 1024


def explain(data: bytes) -> InputError:
    r"""Return the error for bytes that no decoder here opens.

    >>> str(explain(b"qoif" + bytes(20)))
    'in the format QOI, which is not read: convert it to PNG or TIFF'
    >>> str(explain(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"))
    'a Git LFS pointer, not the image itself (git lfs pull)'
    """
    head = data[:16]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        return _heic()
    if (error := _left_out_of_pillow(data)) is not None:
        return error
    if data.startswith(b"version https://git-lfs.github.com/"):
        return InputError("git-lfs", "a Git LFS pointer, not the image itself (git lfs pull)")
    name = next((name for at, signature, name in _SIGNATURES if data.startswith(signature, at)), None)
    if name in (None, "gzip-compressed"):
        name = _volume(data) or name
    if name is None and data[:3] == b"\xff\xd8\xff":
        name = _kind_of_jpeg(data)
    if name in _CONTAINERS:
        return InputError("not-an-image", f"in the format {name}: name it as a SOURCE, with the suffix of its format")
    if name is None and _DICOM.match(data):
        return InputError("unsupported", "DICOM without the file header of 132 bytes: pydicom's save_as adds it")
    if name is not None and name.endswith("-compressed"):
        return InputError("unsupported", f"{name} data, not an image: decompress it, or name a .nii.gz as a SOURCE")
    if name is not None:
        reason = "not-an-image" if name in _DOCUMENTS else "unsupported"
        target = "NIfTI" if name in _VOLUMES else "NetCDF4" if name == "NetCDF" else "PNG or TIFF"
        return InputError(reason, f"in the format {name}, which is not read: convert it to {target}")
    if (text := _text(data)) is not None:
        return InputError("not-an-image", text)
    if (other := _other_format(data)) is not None:
        return InputError("unsupported", f"in the format {other}, which is not read: convert it to PNG or TIFF")
    return InputError("not-an-image", "not an image that normcli reads, or its header is damaged")


def _volume(data: bytes) -> str | None:
    """Return the name of a format of volumes that a file is of, as it is or compressed by gzip; None for others.

    MGH is the format of FreeSurfer: seven big-endian integers, the first 1, are version, sizes and type of samples.

    >>> _volume(struct.pack(">7i", 1, 256, 256, 256, 1, 0, 0) + bytes(256)), _volume(bytes(284))
    ('MGH', None)
    """
    head = data
    if data[:2] == b"\x1f\x8b":
        with contextlib.suppress(zlib.error):  # damaged
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data[:_PEEK], _PEEK)
    name = next((name for at, start, name in _SIGNATURES if head.startswith(start, at)), None)
    if name in _VOLUMES or len(head) < 24:
        return name if name in _VOLUMES else None
    version, *sizes, kind = struct.unpack_from(">6i", head)
    return "MGH" if version == 1 and all(0 < size < 1 << 16 for size in sizes) and kind in _MGH_TYPES else None


def _heic() -> InputError:
    """Return the error for a HEIC that is not opened: without pillow-heif none is."""
    from importlib.util import find_spec

    if find_spec("pillow_heif") is None:
        return InputError("unsupported", 'HEIC needs pillow-heif: pip install "normcli[heif]"')
    return InputError("damaged", "a HEIC that libheif does not open")


def _left_out_of_pillow(data: bytes) -> InputError | None:
    """Return the error for a format that Pillow reads only where it was built with its library."""
    from PIL import features

    for at, signature, name, feature in _OPTIONAL:
        if data.startswith(signature, at):
            if not features.check(feature):
                late_imports.optional(f"PIL._{feature}")  # built in, and cannot be loaded: this raises the reason
                return InputError("unsupported", f"{name} needs a Pillow that reads it: pip install --upgrade pillow")
            return InputError("damaged", f"a {name} whose header is damaged")
    return None


def _kind_of_jpeg(data: bytes) -> str | None:
    """Return the name of a JPEG whose coding no decoder here knows, by the marker of its frame."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xF7:
            return "JPEG-LS"
        if marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
            return "hierarchical JPEG"
        if 0xC0 <= marker <= 0xCB and marker not in (0xC4, 0xC8):
            components = data[at + 9] if at + 9 < len(data) else 1
            return None if components in (1, 3, 4) else f"JPEG of {components} components"
        if marker == 0xDA:
            return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _text(data: bytes) -> str | None:
    """Return a description of a text file; None for other bytes."""
    head = data[:_PEEK]
    if not head.strip() or b"\0" in head:
        return None
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8-sig")
    if any(ord(c) < 32 and c not in "\t\n\r\f\v\x1b" for c in text):
        return None
    start = text.lstrip()[:200].lower()
    if "<svg" in text.lower():
        return "an SVG drawing, which is not read: convert it to PNG"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "an HTML page, not an image: its download failed?"
    if start.startswith("<"):
        return "XML text, not an image"
    if start.startswith(("#define", "/* xpm */")) or "static char" in start or "static unsigned char" in text:
        return "an X bitmap or pixmap, which is not read: convert it to PNG"
    return "text, not an image (a list of paths is read by --files-from)"


def _other_format(data: bytes) -> str | None:
    """Return the name of the format by which Pillow knows an image that normcli does not read."""
    import io

    from PIL import Image

    Image.init()
    # by their signatures alone: none of these decodes, starts another program or follows a path while it opens
    for name in (
        "MSP",
        "SPIDER",
        "XVTHUMB",
        "MCIDAS",
        "IPTC",
        "IMT",
        "PIXAR",
        "ICO",
        "CUR",
        "GBR",
        "FLI",
        "PSD",
        "PCX",
    ):
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(data[:16]) in (False, None)):
            continue
        try:
            with factory(io.BytesIO(data), "") as image:
                return str(image.format)
        except Exception:
            continue
    return None
