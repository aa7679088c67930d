"""What a summary says in words: every warning and remark that the numbers call for."""

from typing import Any

from normcli.summary import Summary

CONVENTIONS = {
    "pooled_population": "all pixels of all images together, divided by N",
    "pooled_sample": "all pixels of all images together, divided by N-1",
    "mean_of_image_stds": "each image's own std (N), averaged over images",
    "mean_of_image_sample_stds": "each image's own std (N-1), averaged over images",
    "root_mean_image_variance": "root of the average of each image's own variance",
}


def remarks(summary: Summary) -> list[str]:
    """Warnings first, then what is worth knowing; one sentence each."""
    found = summary.composition
    return [*_warnings(summary), *_notes(found, summary)]


def _warnings(summary: Summary) -> list[str]:
    found, out = summary.composition, []
    if summary.failed:
        out.append(f"{_inputs(summary.failed)} failed: {reasons(summary.failures)} (--failures FILE lists them)")
    if found.get("damaged"):
        out.append(f"{_images(found['damaged'])} damaged but decodable, used all the same (--integrity strict)")
    if found.get("depth_reduced"):
        out.append(f"{_images(found['depth_reduced'])} of 10 or 12 bits read as 8")
    if found.get("transparent") and summary.settings.get("alpha") == "drop":
        out.append(
            f"{_images(found['transparent'])} with more than 0.1% fully transparent pixels, "
            "whose hidden colour counts (--alpha weight, --alpha composite:white)"
        )
    if found.get("not_finite_pixels"):
        out.append(f"{found['not_finite_pixels']} pixels with NaN or infinity left out")
    high = [v for v in summary.max if v is not None]
    if summary.depth == 65535 and "16" in found["depth"] and high and max(high) <= 4095 / 65535:
        out.append("16-bit images that never exceed 4095: is this 12-bit data? (--range 4095)")
    if summary.depth is None and "raw" not in summary.convention and high and max(high) > 1:
        out.append(f"float images up to {max(high):.4g} stand beside integer images scaled to 0-1 (--range sets white)")
    if summary.depth is not None and high and max(high) > 1:
        out.append(f"values above the range of {summary.settings.get('range')}: the largest is {max(high):.4g}")
    flat = [name for name, std in zip(summary.channels, summary.std, strict=True) if std == 0]
    if flat:
        out.append(f"constant channel, std 0: {', '.join(flat)}")
    return out


def _notes(found: dict[str, object], summary: Summary) -> list[str]:
    def count(word: str) -> int:
        value = found.get(word, 0)
        return value if isinstance(value, int) else 0

    out = []
    if summary.sample is not None:
        out.append(_about_the_sample(summary, summary.sample))
    if summary.depth is None:
        out.append("float images count by their values as stored; percentiles are to 8 significant bits")
    if count("gray") and len(summary.channels) >= 3:
        out.append(f"{_images(count('gray'))} in gray count as R=G=B")
    if count("ignored_pixels"):
        out.append(f"{count('ignored_pixels')} pixels left out (--mask-dir, --ignore-value)")
    if count("alpha") and summary.settings.get("alpha") == "drop":
        out.append(f"{_images(count('alpha'))} with an alpha channel, which is dropped")
    if count("cmyk"):
        out.append(f"{_images(count('cmyk'))} in CMYK converted to RGB as Pillow does")
    if count("multi_frame"):
        out.append(f"{_images(count('multi_frame'))} with several frames: the first is used")
    if count("icc"):
        out.append(f"{_images(count('icc'))} with an ICC profile, which is ignored")
    if summary.skipped:
        out.append(f"{_inputs(summary.skipped)} skipped: {reasons(summary.skips)}")
    return out


def _about_the_sample(summary: Summary, sample: dict[str, Any]) -> str:
    if sample["read"] == sample["of"]:
        return f"all {_images(sample['of'])} were read: exact, no estimate"
    read = f"read {sample['read']} of {_images(sample['of'])}, {sample['of'] / max(1, sample['read']):.1f}x fewer"
    if not sample["mean_interval"]:
        return f"{read}: too few for an interval"
    widths = (
        f"{name} +- {' '.join(f'{(high - low) / 2:.2g}' for low, high in sample[f'{name}_interval'])}"
        for name in ("mean", "std")
    )
    return f"{read}: an estimate, {', '.join(widths)}, all at once with {sample['confidence']:.4g} confidence"


def reasons(counts: dict[str, int]) -> str:
    """Counts by reason, in words.

    >>> reasons({"truncated": 2, "empty": 1})
    '2 truncated, 1 empty'
    """
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _inputs(count: int) -> str:
    return f"{count} input" if count == 1 else f"{count} inputs"


def histogram(summary: Summary, columns: int) -> list[list[int]] | None:
    """Pixels per channel in equal columns from 0 to white; None where float images took part.

    Needs no NumPy: a statistics file is shown in the time that the interpreter starts.
    """
    if summary.depth is None:
        return None
    from normcli.tally.exact import run_length_decode

    out = [[0] * columns for _ in summary.channels]
    for bucket in summary.state["buckets"]:
        bins = 256 if bucket["dtype"] == "uint8" else 65536
        white = 255 if bins == 256 else summary.settings.get("range") or 65535
        rows = [run_length_decode(row, bins) for row in bucket["histogram"]]
        if len(rows) < len(out):
            alpha = rows[1:2] if summary.channels[-1] == "A" else []
            rows = [rows[0]] * (len(out) - len(alpha)) + alpha
        for column, row in zip(out, rows, strict=True):
            for value, count in enumerate(row):
                if count:
                    column[min(value * columns // (white + 1), columns - 1)] += count
    return out
