"""Warnings and remarks that the numbers of a summary call for, one sentence each."""

from typing import Any

from normcli.summary.shards import describe_shards, missing_shards
from normcli.summary.summary import Summary, white_level

CONVENTIONS = {
    "pooled_population": "all pixels of all images together, divided by N",
    "pooled_sample": "all pixels of all images together, divided by N-1",
    "mean_of_image_stds": "each image's own std (N), averaged over images",
    "mean_of_image_sample_stds": "each image's own std (N-1), averaged over images",
    "root_mean_image_variance": "root of the average of each image's own variance",
    "pooled_within_images": "squares around each image's own mean, over all pixels less one for each image",
}


_DEPTHS = {"uint8": "8-bit", "uint16": "16-bit", "float": "float"}


_OF_FILES = {
    "unread_mask": "a GDAL mask file (.msk), which is not read: every pixel counts (GDAL_TIFF_INTERNAL_MASK=YES writes "
    "masks into the file)",
    "unread_nodata": "a nodata value in the .aux.xml, which is not read: it counts (--nodata V makes it invalid)",
    "unread_scale": "a scale or offset in the .aux.xml, which is not read: values are as stored",
    "missing_planes": "OME-XML that claims more planes than the file has: it is cut short, or they are in other files",
    "labels": "labels of a DICOM Segmentation as samples (--mask-dir takes them, converted to NIfTI)",
}


def remarks(summary: Summary) -> list[str]:
    """Return warnings first, then notes."""
    return [*incomplete_merge(summary), *_warnings(summary), *_notes(summary)]


def note_incomplete(summary: Summary, name: str) -> None:
    """Log one line about missing parts, failed inputs and forced conflicts of statistics.

    Args:
        summary: read from a file, or from a caller.
        name: of the file, for the line.
    """
    if sentences := incompleteness(summary):
        import logging  # 5 ms, which `show` does not need

        logging.getLogger("normcli.summary").warning("%s: %s", name, "; ".join(sentences))


def incompleteness(summary: Summary) -> list[str]:
    """Return a sentence for each reason why statistics are not those of the complete dataset."""
    out = incomplete_merge(summary)
    if summary.failed:
        out.append(f"{inputs(summary.failed)} failed and did not count")
    if summary.sample is not None and summary.sample["read"] < summary.sample["of"]:
        out.append(_describe_sample(summary.sample))
    return out


def incomplete_merge(summary: Summary) -> list[str]:
    """Return a sentence for missing shards and one for forced conflicts."""
    out = []
    if summary.shards is not None:
        missing = missing_shards(summary.shards)
        numbers = f"part{'s' * (len(missing) != 1)} {', '.join(map(str, missing))}"
        out.append(f"{describe_shards(summary.shards)}: not the statistics of the complete dataset ({numbers} missing)")
    if summary.forced:
        out.append(f"merged by force over conflicts in {', '.join(summary.forced)}: not the statistics of one pass")
    return out


def _warnings(summary: Summary) -> list[str]:
    composition, out = summary.composition, []
    if record := summary.settings.get("mixture"):
        of = " and ".join(f"{part['weight']:.6g} of {summary.count_text(part['images'])}" for part in record)
        out.append(f"a weighted mixture, {of}: not the statistics of one pass, and without counts")
    if summary.failed:
        out.append(f"{inputs(summary.failed)} failed: {reasons(summary.failures)} (--failures FILE lists them)")
    if composition.get("damaged"):
        out.append(f"{_images(composition['damaged'])} damaged but decodable, used (--strict fails them)")
    if composition.get("depth_reduced"):
        out.append(f"{_images(composition['depth_reduced'])} of 10 or 12 bits read as 8")
    if composition.get("transparent") and summary.settings.get("alpha") == "drop":
        out.append(
            f"{_images(composition['transparent'])} with more than 0.1% fully transparent pixels, "
            "whose hidden color counts (--alpha weight, --alpha composite:white)"
        )
    largest = max((v for v in summary.max if v is not None), default=0.0)
    if summary.max_value == 65535 and "16" in composition["depth"] and 0 < largest <= 4095 / 65535:
        out.append("16-bit images that never exceed 4095: is this 12-bit data? (--max-value 4095)")
    if summary.max_value is None and summary.range == "0-1" and largest > 1:
        out.append(f"float images up to {largest:.4g} among integer images scaled to 0-1 (--max-value scales them too)")
    if summary.max_value is not None and largest > 1:
        out.append(f"values above the range of {summary.settings.get('max_value')}: the largest is {largest:.4g}")
    if no_data := composition.get("nodata"):
        values = " and ".join(no_data)
        out.append(
            f"{_images(sum(no_data.values()))} with samples of the GDAL nodata value, {values}, which count "
            "(--nodata tag makes them invalid)"
        )
    if unusable := composition.get("unusable_nodata"):
        values = " and ".join(unusable)
        out.append(
            f"{_images(sum(unusable.values()))} with a GDAL nodata value that their samples cannot have, {values}: "
            "none is invalid (--nodata V sets another)"
        )
    out += [f"{_images(composition[key])} with {text}" for key, text in _OF_FILES.items() if composition.get(key)]
    if composition.get("lossy_mask"):
        out.append(
            f"{_images(composition['lossy_mask'])} with a mask in a lossy format such as JPEG, whose values of 128 and "
            "more keep a pixel (PNG keeps masks exact)"
        )
    if composition.get("turned_mask"):
        out.append(
            f"{_images(composition['turned_mask'])} turned by EXIF orientation, with a mask taken as drawn on the "
            "upright picture"
        )
    if composition.get("bands") and summary.channels == ["R", "G", "B"] and "bands" not in summary.settings:
        out.append(f"{_images(composition['bands'])} of three bands that are not marked as RGB, counted as R, G, B")
    out += _partly_named(summary) + _dark_padding(summary)
    constant = [name for name, std in zip(summary.channels, summary.std, strict=True) if std == 0]
    if constant:
        out.append(f"constant channel, std 0: {', '.join(constant)}")
    return out


def _partly_named(summary: Summary) -> list[str]:
    """Return a sentence on bands that only some of the images name."""
    kinds = summary.composition.get("names", {})
    count = sum(kinds.values())
    if not 0 < count < summary.images or any(
        name.split(",")[: len(summary.channels)] == summary.channels for name in kinds
    ):
        return []
    names = " and ".join(list(kinds)[:2])
    return [f"{count:,} of {_images(summary.images)} name their bands, {names}: channels have the default names"]


def _dark_padding(summary: Summary) -> list[str]:
    """Return a sentence on a fill that is a level of 8 bits in images of 16."""
    values = [float(v) for v in str(summary.settings.get("pad") or 0).partition(":")[0].split(",")]
    deep = any(bucket.get("dtype") == "uint16" for bucket in summary.state.get("buckets", ()))
    if not deep or summary.settings.get("max_value") is not None or not 0 < max(values) <= 255:
        return []
    level, bright = f"{max(values):g}", f"{257 * max(values):.0f}"
    return [f"--pad {level} is a level of 65,535 in 16-bit images ({bright} is as bright as {level} in 8 bits)"]


def _notes(summary: Summary) -> list[str]:
    def count(key: str) -> int:
        value = summary.composition.get(key, 0)
        return value if isinstance(value, int) else 0

    composition, out = summary.composition, []
    if summary.sample is not None:
        out.append(_describe_sample(summary.sample))
    out += _mixed_depths(summary)
    if "scale" in composition:
        out.append("values are in the units of the scale and offset tags (--scale-offset none ignores them)")
    elif summary.max_value is None:
        exact = (summary.percentile_details or {}).get("exact")
        by_tags = summary.settings.get("scale_offset") == "values"
        of_floats = "" if summary.range == "raw" else " of float images"
        units = "scaled by the tags of each image" if by_tags else "counted as stored, in raw units"
        texts = [f"values are {units}"] if summary.unit == "image" and (by_tags or summary.range == "raw") else []
        texts += [] if exact else [f"percentiles{of_floats} are to 8 significant bits"]
        out += ["; ".join(texts)] if texts else []
    if count("gray") and len(summary.channels) >= 3:
        out.append(f"{_images(count('gray'), 'grayscale')} counted as RGB (R = G = B)")
    if summary.invalid:
        out.append(_describe_invalid(summary))
    if count("alpha") and summary.settings.get("alpha") == "drop":
        out.append(f"{_images(count('alpha'))} with an alpha channel, which is dropped")
    for conversion, frames in composition.get("video", {}).items():
        remedy = " (-O matrix=bt709 is usual from 720 rows on)" * conversion.endswith("(assumed)")
        out.append(f"{_images(frames)} of videos: {conversion}{remedy}")
    if count("cmyk"):
        out.append(f"{_images(count('cmyk'), 'CMYK')} converted to RGB (Pillow's conversion)")
    if count("multi_frame"):
        out.append(
            f"{_images(count('multi_frame'), 'multi-frame')}: only the first frame used "
            "(-O frames=all reads the others, except of PNM and HEIC)"
        )
    if count("mask_page"):
        out.append(f"{_images(count('mask_page'))} with a mask of their own, outside which no pixel counts")
    if count("icc"):
        out.append(f"{_images(count('icc'))} with an ICC profile, which is ignored")
    if summary.skipped:
        out.append(f"skipped {inputs(summary.skipped)}: {reasons(summary.skips)}")
    return out


def _describe_invalid(summary: Summary) -> str:
    """Return a sentence on the pixels that do not count: one number, or one per channel where they differ."""
    numbers = {f"{number:,.10g}" for number in summary.invalid}
    each = (f"{name} {number:,.10g}" for name, number in zip(summary.channels, summary.invalid, strict=True))
    counts = numbers.pop() if len(numbers) == 1 else ", ".join(each)
    finite = " (NaN or infinity among them)" if summary.composition.get("not_finite_pixels") else ""
    empty = [name for name, pixels in zip(summary.channels, summary.pixels_of, strict=True) if not pixels]
    without = f"; channel {', '.join(empty)} has no valid pixel" if empty else ""
    return f"invalid pixels, which do not count: {counts}{finite}{without}"


def _mixed_depths(summary: Summary) -> list[str]:
    """Return a sentence on images of several depths, each of which has a white level of its own."""
    types = {str(bucket.get("dtype")) for bucket in summary.state.get("buckets", ())}
    found = [name for name in _DEPTHS if name in types]
    if len(found) < 2:
        return []
    levels = ((name, white_level(name, summary.settings.get("max_value"))) for name in found)
    scales = ", ".join(f"{name} as stored" if level is None else f"{name} / {level}" for name, level in levels)
    return [f"{' and '.join(_DEPTHS[name] for name in found)} images counted together: {scales}"]


def _describe_sample(sample: dict[str, Any]) -> str:
    if sample["read"] == sample["of"]:
        return f"all {_images(sample['of'])} read: exact, not an estimate"
    read = f"estimated from {sample['read']:,} of {_images(sample['of'])}"
    if not sample["mean_interval"]:
        return f"{read}: too few for an interval"
    widths = (
        f"{name} +- {' '.join(f'{(high - low) / 2:.2g}' for low, high in sample[f'{name}_interval'])}"
        for name in ("mean", "std")
    )
    return f"{read}; joint {100 * sample['confidence']:.4g}% intervals: {', '.join(widths)}"


def reasons(counts: dict[str, int]) -> str:
    """Return counts by reason as text.

    >>> reasons({"truncated": 2, "empty": 1})
    '2 truncated, 1 empty'
    """
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _images(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{' ' * bool(kind)}image{'s' * (count != 1)}"


def inputs(count: int) -> str:
    """Return a number of inputs as text."""
    return f"{count:,} input{'s' * (count != 1)}"
