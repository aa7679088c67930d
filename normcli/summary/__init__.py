"""What counts mean: a `Summary`, and the statistics file that holds one.

Reading and showing a file needs no NumPy: the numbers stand in it. Only merging looks into the state.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli import storage
from normcli.errors import InputError, NoInputError, StatisticsFileError, UsageError
from normcli.summary.validate import find_invalid_key

if TYPE_CHECKING:
    from normcli.tally import Tally

SCHEMA = "normcli/stats/1"
_KEYS = ("schema", "images", "failed", "skipped", "pixels", "channels", "mean", "std", "settings", "state")


@dataclass(kw_only=True)
class Summary:
    """Statistics of a set of images; the attributes are the keys of the statistics file.

    Attributes:
        complete: no input failed.
        images: images used; `failed` and `skipped` count the other inputs.
        pixels: pixels used, or the sum of their weights.
        channels: ["R", "G", "B"], ["L"], …
        depth: value that was scaled to 1: 255, 65535, the range given, or None for raw units.
        convention: what `mean` and `std` are, in words.
        mean, std, min, max: per channel; 0-1 for integer images, raw units for float images.
        percentiles: by percentage, per channel; of float images, to 8 significant bits.
        conventions: mean and std per channel in every convention.
        composition: how many images of which format, mode and depth; alpha, EXIF, damage, …
        failures, skips: inputs by reason.
        settings: everything that changes the numbers.
        provenance: versions and the digest of the images used.
        groups: images, pixels, mean and std by group.
        sample: for an estimate: images read, of how many, and the intervals of mean and std.
        state: the exact counts, as JSON values.
    """

    complete: bool
    images: int
    failed: int
    skipped: int
    pixels: int | float
    channels: list[str]
    depth: int | None
    convention: str
    mean: list[float]
    std: list[float]
    min: list[float | None]
    max: list[float | None]
    percentiles: dict[str, list[float]]
    conventions: dict[str, dict[str, list[float] | None]]
    composition: dict[str, Any]
    failures: dict[str, int]
    skips: dict[str, int]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    groups: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] | None = None
    state: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, tally: "Tally", settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> "Summary":
        """Say what a tally means.

        Raises:
            NoInputError: no image in it.
            UsageError: the images have no common channels.
        """
        from normcli.summary.conventions import channels, describe, describe_group, of_equal_groups, of_equal_images

        if not tally.buckets:
            raise NoInputError("no usable image" + _because(tally))
        names = channels(tally, settings)
        found = describe(tally, settings, names)
        groups = {}
        for name in sorted(tally.groups):
            groups[name] = describe_group(tally.groups[name], settings, names)
        weight = settings.get("weight", "pixel")
        if weight == "image":
            found["mean"], found["std"] = of_equal_images(tally, settings, names)
        elif weight == "group":
            found["mean"], found["std"] = of_equal_groups(groups, len(names))
        pooled = "pooled population" if weight == "pixel" else f"population, every {weight} weighs the same"
        state = tally.state()
        estimate = "estimate from samples; " if settings.get("sample") else ""
        units = "raw units" if {bucket.dtype for bucket in tally.buckets.values()} == {"float"} else "range 0-1"
        if settings["range"] is not None:
            units = "range 0-1"
        kind = "".join(names) if len(names) < 5 else f"{len(names)} bands"
        return cls(
            complete=not tally.failed,
            images=tally.images,
            failed=tally.failed.total(),
            skipped=tally.skipped.total(),
            pixels=found.pop("pixels"),
            channels=names,
            convention=f"{estimate}{pooled}, {units}, {kind}",
            composition=_composition(tally.composition, tally.buckets.values()),
            failures=state["failed"],
            skips=state["skipped"],
            settings=dict(settings),
            provenance={**provenance, "digest": state["digest"]},
            groups=groups,
            state=state,
            **found,
        )

    @property
    def tally(self) -> "Tally":
        """The exact counts.

        Raises:
            StatisticsFileError: the state is damaged.
        """
        from normcli.tally import Tally

        try:
            return Tally.from_state(self.state)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON object, in the file's order."""
        document: dict[str, Any] = {"schema": SCHEMA}
        document.update({f.name: getattr(self, f.name) for f in fields(self)})
        if not self.groups:
            del document["groups"]
        if self.sample is None:
            del document["sample"]
        return document

    def to_json(self) -> str:
        """The statistics file: one JSON object, one line a key, byte-identical for the same data."""
        lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in self.to_dict().items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | Path) -> None:
        """Write the statistics file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        storage.write_file(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read a statistics file, a pipe, or stdin as "-".

        Raises:
            StatisticsFileError: missing, not a statistics file, damaged, or of a newer schema.
        """
        try:
            data = sys.stdin.buffer.read() if str(path) == "-" else storage.read_stream(path)
        except InputError as error:
            raise StatisticsFileError(f"{path}: {error}") from None
        return cls.from_json(data, "stdin" if str(path) == "-" else str(path))

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "statistics") -> "Summary":
        """Read a statistics file's text; `name` is for the errors.

        Raises:
            StatisticsFileError: as `load`.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            raise StatisticsFileError(f"{name}: not a statistics file, or cut short (not JSON)") from None
        schema = document.get("schema") if isinstance(document, dict) else None
        if not isinstance(schema, str) or not schema.startswith("normcli/stats/"):
            raise StatisticsFileError(f"{name}: not a statistics file (no normcli schema)")
        if schema != SCHEMA:
            raise StatisticsFileError(f"{name}: schema {schema}, this normcli reads {SCHEMA}; update normcli")
        missing = [key for key in _KEYS if key not in document]
        if missing:
            raise StatisticsFileError(f"{name}: damaged statistics file, {', '.join(missing)} missing")
        wrong = find_invalid_key(document)
        if wrong is not None:
            raise StatisticsFileError(f"{name}: damaged statistics file, {wrong!r} of the wrong type, length or value")
        del document["schema"]
        known = {f.name for f in fields(cls)}
        try:
            summary = cls(**{key: value for key, value in document.items() if key in known})
        except TypeError as error:
            raise StatisticsFileError(
                f"{name}: damaged statistics file ({error})".replace("Summary.__init__() ", "")
            ) from None
        return summary

    def __add__(self, other: "Summary") -> "Summary":
        return merge(self, other) if isinstance(other, Summary) else NotImplemented

    def __radd__(self, other: int) -> "Summary":
        return self if other == 0 else NotImplemented  # sum([a, b]) begins with 0

    def __sub__(self, other: "Summary") -> "Summary":
        return merge(self, minus=[other]) if isinstance(other, Summary) else NotImplemented


def merge(*summaries: Summary, minus: Iterable[Summary] = (), force: bool = False) -> Summary:
    """Add statistics without loss, and take others away: the statistics of one pass over the same images.

    Args:
        summaries: what to add.
        minus: what to take away; it must be part of the sum.
        force: merge although the settings differ; the first one's are kept.

    Raises:
        UsageError: settings that differ, taking away what is not in the sum, or nothing to merge.
        NoInputError: nothing is left.
    """
    from normcli.summary.parts import merge_parts
    from normcli.tally import Tally

    if not summaries:
        raise UsageError("nothing to merge")
    first, total = summaries[0], Tally()
    taken = list(minus)
    for other in [*summaries, *taken]:
        keys = sorted({*first.settings, *other.settings} - {"shard"})
        differing = [k for k in keys if other.settings.get(k) != first.settings.get(k)]
        if differing and not force:
            key = differing[0]
            raise UsageError(
                f"settings differ: {key} is {first.settings.get(key)!r} and {other.settings.get(key)!r} "
                "(--force merges all the same)"
            )
    settings = {key: value for key, value in first.settings.items() if key != "shard"}
    if not force:
        shard = merge_parts([s.settings.get("shard") for s in summaries], [s.settings.get("shard") for s in taken])
        if shard is not None:
            settings["shard"] = shard
    for summary in summaries:
        total.add(_verified(summary))
    for summary in taken:
        total.add(_verified(summary), -1)
        if not total.is_valid():
            raise UsageError("cannot subtract: these images are not part of the sum")
    return Summary.of(total, settings, _provenance([*summaries, *taken]))


def _verified(summary: Summary) -> "Tally":
    """The tally of a summary, once its numbers agree with it."""
    tally = summary.tally
    try:
        again = Summary.of(tally, summary.settings, {})
    except (ValueError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise StatisticsFileError(f"damaged statistics: {error}") from None
    if (again.mean, again.std, again.images) != (summary.mean, summary.std, summary.images):
        raise StatisticsFileError("damaged statistics: the numbers do not follow from the state")
    return tally


def _provenance(summaries: list[Summary]) -> dict[str, Any]:
    """Versions of all, once each; stamps and the digest belong to single runs."""
    found: dict[str, set[str]] = {}
    for summary in summaries:
        for key, value in summary.provenance.items():
            if key not in ("digest", "stamp"):
                found.setdefault(key, set()).update(str(value).split(", "))
    return {key: ", ".join(sorted(values)) for key, values in found.items()}


def _composition(notes: Mapping[str, int], buckets: Iterable[Any]) -> dict[str, Any]:
    """The counted notes as nested counts: "mode:RGB" becomes mode -> RGB."""
    nested: dict[str, Any] = {"mode": {}, "depth": {}, "format": {}}
    for word in ("alpha", "transparent", "exif", "rotated", "icc", "multi-frame", "damaged", "depth-reduced", "cmyk"):
        nested[word.replace("-", "_")] = notes.get(word, 0)
    for word, count in sorted(notes.items()):
        kind, colon, value = word.partition(":")
        if colon:
            nested.setdefault(kind, {})[value] = count
    buckets = list(buckets)
    nested["gray"] = sum(b.per_image.images for b in buckets if b.channels < 3)
    nested["color"] = sum(b.per_image.images for b in buckets if b.channels >= 3)
    if notes.get("ignored-pixels"):
        nested["ignored_pixels"] = notes["ignored-pixels"]
    nested["not_finite_pixels"] = sum(getattr(b, "not_finite", 0) for b in buckets)
    return nested


def _because(tally: "Tally") -> str:
    reasons = [f"{n} {reason}" for reason, n in sorted((tally.failed + tally.skipped).items())]
    return f" ({', '.join(reasons)})" if reasons else ""


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
