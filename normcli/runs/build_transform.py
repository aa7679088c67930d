"""Transforms from options: scheme, settings, and mean and std from a statistics file, the user, or a preset."""

import importlib.util
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from normcli import schemes
from normcli.errors import UsageError, unknown
from normcli.options.apply import ApplyOptions, ConstantsOptions, TransformOptions
from normcli.options.field import options_of, parse_level
from normcli.options.shared import GEOMETRY, DecodeOptions, ValueOptions
from normcli.runs import names as naming
from normcli.runs.transform import MapConstants, Transform
from normcli.schemes import preset
from normcli.sinks import output_kind, resolve_output
from normcli.sinks.shards import DEFAULT, ShardSize
from normcli.summary import Summary
from normcli.summary.summary import channel_names

# what must be the same where statistics are made and used
_CONTRACT = ("color", "alpha", "nodata", *GEOMETRY, "max_value", "bands", "scale_offset")
_DEFAULTS = {"nodata": "tag", "scale_offset": "tag"}  # of settings that are recorded where they differ
_OTHER_COLORS = ("gray", "lab", "lab-tissue")  # with other numbers than those of the stored channels
# settings of statistics in which every pixel of the images counts once; masks, weights and samples have their own
_PLAIN = {*_CONTRACT, "strict", "nan", "group_by"}


log = logging.getLogger("normcli.apply")


def given(mean: Sequence[float], std: Sequence[float]) -> MapConstants:
    """Make constants of the user's numbers.

    Raises:
        UsageError: lengths that differ, or numbers that cannot be.
    """
    if len(mean) != len(std) or not mean:
        raise UsageError(f"`mean` has {len(mean)} values and `std` {len(std)}: both must have one per channel")
    if not all(map(math.isfinite, [*mean, *std])):
        raise UsageError("`mean` and `std`: must be finite numbers")
    if any(s < 0 for s in std):
        raise UsageError(f"`std`: must not be negative, not {', '.join(f'{s:g}' for s in std)}")
    names = channel_names(len(mean))
    return MapConstants(mean=tuple(mean), std=tuple(std), channels=names, origin="given", convention="as given")


def published(name: str) -> MapConstants:
    """Take published constants.

    Raises:
        UsageError: no such preset.
    """
    row = preset(name)
    assert row.std is not None  # those without are no constants of contrast
    constants = given(row.mean, row.std)
    return constants._replace(origin=f"preset {name}", convention=f"{row.convention}; {row.source}")


def of_summary(
    summary: Summary,
    convention: str | None = None,
    *,
    origin: str = "statistics",
    percents: tuple[float, float] | None = None,
) -> MapConstants:
    """Take a statistics file's mean and std in one of its conventions.

    Args:
        summary: the statistics.
        convention: one of its conventions, where dashes and underscores are alike; None is that of its `mean`.
        origin: "statistics" or "computed".
        percents: two percentages whose percentiles to take as well.

    Raises:
        UsageError: no such convention, or no std in it.
    """
    name = summary.convention if convention is None else convention.replace("-", "_")
    conventions: dict[str, Any] = {
        **summary.conventions,
        summary.convention: {"mean": summary.mean, "std": summary.std},
    }
    if name not in conventions:
        raise unknown("convention", name, conventions)
    values = conventions[name]
    mean, std = values["mean"], values["std"]
    if mean is None or std is None:
        raise UsageError(f"`convention`: these statistics have no std in {name}")
    low = high = None
    if percents is not None:
        low, high = _percentiles_of(summary, percents, of_file=name == summary.convention)
    found_dtypes = {str(bucket["dtype"]) for bucket in summary.state["buckets"]}
    return MapConstants(
        mean=tuple(mean),
        std=tuple(std),
        channels=tuple(summary.channels),
        origin=origin,
        convention=name,
        digest=summary.provenance.get("digest"),
        images=summary.images,
        dtypes=tuple(sorted(found_dtypes)),
        pooled=name == "pooled_population"
        and summary.settings["alpha"] != "weight"
        and set(summary.settings) <= _PLAIN,
        low=low,
        high=high,
        scales=_scales(summary),
    )


def _percentiles_of(summary: Summary, percents: tuple[float, float], *, of_file: bool) -> list[tuple[float, ...]]:
    """Return two percentiles per channel: the exact ones of the file, if it has them.

    Args:
        summary: the statistics.
        percents: the percentages.
        of_file: the convention is that of the file; False takes pooled percentiles where `weight` is case.
    """
    details, names = summary.percentile_details or {}, [f"{percent:g}" for percent in percents]
    by_case = summary.settings.get("weight") == "case"
    if by_case and not of_file:
        details = {}
    if details.get("exact") and details["method"] == "linear" and all(name in summary.percentiles for name in names):
        return [tuple(summary.percentiles[name]) for name in names]
    if by_case and of_file:
        rows = summary.with_percentiles(names).percentiles
        return [tuple(rows[name]) for name in names]
    from normcli.summary.conventions import percentiles

    if "float" in {str(bucket["dtype"]) for bucket in summary.state["buckets"]}:
        log.warning(
            "percentiles %s and %s of float images are within 1/128 of their values (counting with `percentiles` %s,%s "
            "and `exact_percentiles` computes them exactly%s)",
            *names * 2,
            " without `weight` case" if by_case else "",
        )
    return [tuple(row) for row in percentiles(summary.tally, summary.settings, summary.channels, percents)]


def _scales(summary: Summary) -> tuple[tuple[float, float], ...]:
    """Return the scale and offset of each channel that statistics are in the units of; () for most."""
    if "scale" not in summary.composition:
        return ()
    from normcli.summary.bands import scales_of

    return tuple((float(scale.factor), float(scale.offset)) for scale in scales_of(summary.composition))


def constants_of(summary: Summary, target: Transform, convention: str | None, *, origin: str) -> MapConstants:
    """Return the constants of a transform by statistics; see `of_summary`."""
    constants = of_summary(summary, convention, origin=origin, percents=percents_of(target))
    if target.scheme not in schemes.CURVES:
        return constants
    from normcli.runs.curves import with_curve

    return with_curve(constants, summary, target)


def check_contract(summary: Summary, settings: Mapping[str, Any], name: str) -> None:
    """Check that statistics were computed with the decode options they are used with.

    Args:
        summary: the statistics.
        settings: of this run: color, alpha, the geometry, range.
        name: of the file, for the error.

    Raises:
        UsageError: settings that differ, each named with its remedy.
    """
    differing = []
    for key in _CONTRACT:
        if key not in settings:
            continue
        theirs, ours = summary.settings.get(key, _DEFAULTS.get(key)), settings[key]
        if key == "color":  # gray is another mean; the others differ in their channels
            theirs, ours = (value if value in _OTHER_COLORS else "auto" for value in (theirs, ours))
        if theirs != ours:
            differing.append((key.replace("_", "-"), theirs, ours))
    if differing:
        made = ", ".join(f"{key} {_text(theirs)}" for key, theirs, _ in differing)
        here = ", ".join(f"{key} {_text(ours)}" for key, _, ours in differing)
        raise UsageError(
            f"{name}: statistics were made with {made}, not with {here} (use the same options, or `mean` and `std`)"
        )


def suspicious_numbers(constants: Mapping[str, Any]) -> str | None:
    """Return a warning about the user's mean and std; None if they look right.

    >>> suspicious_numbers({"origin": "given", "mean": [123.7], "std": [58.4]})
    'a mean of 123.7 and a std of 58.4 look like range 0-255; pixels are scaled to 0-1 first: divide both by 255'
    """
    mean, std = max(map(abs, constants["mean"])), max(constants["std"])
    if constants["origin"] != "given" or (mean <= 1 and std <= 1):
        return None
    return (
        f"a mean of {mean:g} and a std of {std:g} look like range 0-255; pixels are scaled to 0-1 first: "
        "divide both by 255"
    )


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def transform(scheme: str, options: TransformOptions) -> Transform:
    """Return a picklable callable, array -> array; see `normcli.transform`."""
    built = build_transform(scheme, options)
    _check_fill(built)
    constants = resolve_constants(built, options)
    if constants is None and built.scheme in schemes.CURVES:
        raise UsageError(f"`scheme` {scheme} requires `stats`")
    if constants is None and needs_statistics(built):
        raise UsageError(f"`scheme` {scheme} requires `stats`, `mean` and `std`, or `preset`")
    return replace(built, constants=constants)


def build_transform(scheme: str, options: TransformOptions) -> Transform:
    """Return a transform that has no constants yet.

    Raises:
        UsageError: options that contradict each other.
    """
    name, settings = schemes.parse(scheme)
    if schemes.least_std(options.zero_std) is not None and not schemes.divides(name):
        raise UsageError(f"`zero_std` cannot be combined with `scheme` {name}, which divides by no std")
    return Transform(
        scheme=name,
        settings=tuple(sorted(settings.items())),
        zero_std=options.zero_std,
        clip=options.clip,
        dtype=options.dtype,
        output_layout=options.output_layout,
        channel_order=options.channel_order or ("bgr" if name == "caffe" else "rgb"),
        color=options.color,
        max_value=parse_level(options.max_value),
        nan=options.nan,
        nodata=str(options.nodata),
        fill=str(options.fill),
    )


def _check_fill(built: Transform) -> None:
    if built.fill != "keep":
        from normcli.runs.fill import check_fill

        check_fill(built.fill, built.dtype)


def needs_statistics(target: Transform) -> bool:
    """Return True if a transform requires statistics of the dataset."""
    return target.scheme in ("contrast", *schemes.CURVES) or percents_of(target) is not None


def needs_pass(target: Transform, constants: MapConstants | None) -> bool:
    """Return True if the images must be counted before they are mapped: for constants, or for the cases of nyul."""
    if constants is None:
        return needs_statistics(target)
    return target.scheme == "nyul" and dict(target.settings).get("over", "case") == "case"


def after_pass(
    summary: Summary, target: Transform, convention: str | None, constants: MapConstants | None
) -> MapConstants:
    """Return the constants of a transform, of statistics of the images to map.

    Args:
        summary: the statistics.
        target: the transform.
        convention: one of the statistics' conventions; None is that of their `mean`.
        constants: those of `resolve_constants`; None takes them of `summary` too.
    """
    constants = constants or constants_of(summary, target, convention, origin="computed")
    if target.scheme != "nyul":
        return constants
    from normcli.runs.curves import with_cases

    return with_cases(constants, summary, target)


def counting_options(scheme: str) -> dict[str, Any]:
    """Return the options of `stats` that a scheme requires, beyond those of every scheme."""
    name, settings = schemes.parse(scheme)
    if name not in schemes.CURVES:
        return {}
    from normcli.runs import curves

    return curves.counting_options(name, settings)


def resolve_constants(
    target: Transform, options: ConstantsOptions, reading: DecodeOptions | None = None
) -> MapConstants | None:
    """Return the constants of the options for a transform; None if the options name none.

    Args:
        target: the transform.
        options: `stats`, `mean` and `std`, or `preset`.
        reading: decoding of this run; compared with that of the statistics' images.

    Raises:
        UsageError: two sources of constants, constants that are not used, or statistics that do not fit.
    """
    stats, mean, std, preset, convention = (
        options.stats,
        options.mean,
        options.std,
        options.preset,
        options.convention,
    )
    answers = [name for name, value in (("stats", stats), ("mean", mean), ("preset", preset)) if value is not None]
    if not needs_statistics(target):
        useless = [f"`{name}`" for name in answers]
        useless += ["`convention`"] if convention is not None else []
        useless += ["`alpha` weight"] if reading is not None and reading.alpha == "weight" else []
        if useless:
            raise UsageError(f"{useless[0]} cannot be combined with `scheme` {target.scheme}, which uses no statistics")
        return None
    if len(answers) > 1:
        raise UsageError(f"`{answers[0]}` cannot be combined with `{answers[1]}`: both set mean and std")
    percents = percents_of(target)
    if percents is not None and answers and answers != ["stats"]:
        name = "percentile:over=dataset" if target.scheme == "percentile" else "contrast:LO,HI"
        raise UsageError(f"`scheme` {name} requires `stats`, not `{answers[0]}`")
    if target.scheme in schemes.CURVES and answers and answers != ["stats"]:
        raise UsageError(f"`scheme` {target.scheme} requires `stats`, not `{answers[0]}`")
    if convention is not None and answers and answers != ["stats"]:
        raise UsageError(f"`convention` {convention} requires `stats`, not `{answers[0]}`")
    if stats is not None:
        summary = stats if isinstance(stats, Summary) else Summary.load(os.fspath(cast("str", stats)))
        name = "statistics" if isinstance(stats, Summary) else os.fspath(cast("str", stats))
        settings: dict[str, Any] = {"color": target.color, "max_value": target.max_value}
        if reading is not None:
            settings |= {key: getattr(reading, key) for key in _CONTRACT if hasattr(reading, key)}
        if target.scheme == "reinhard":
            del settings["color"]  # of the statistics, which are in L*a*b*
        check_contract(summary, settings, name)
        if not summary.complete or summary.sample is not None:
            from normcli.summary.remarks import note_incomplete

            note_incomplete(summary, name)
        return constants_of(summary, target, convention, origin="statistics")
    if mean is not None and std is not None:
        return given(mean, std)
    return None if preset is None else published(preset)


def percents_of(target: Transform) -> tuple[float, float] | None:
    """Return the two percentages of the dataset that a transform needs percentiles of; None for none."""
    return schemes.percents(target.scheme, dict(target.settings))


def with_geometry(options: ApplyOptions) -> ApplyOptions:
    """Return options with the geometry of the file of `like`, where they name one.

    Raises:
        UsageError: a file without a geometry.
    """
    if options.like is None:
        return options
    from normcli.constants.like import resolve

    return resolve(options)


def shard_size(options: ApplyOptions) -> ShardSize | None:
    """Return the size of shards; None if none are written.

    Raises:
        UsageError: not such a size, or an option that this kind of output does not know.
        MissingExtraError: `to` is "parquet", and pyarrow is not installed.
    """
    if not output_kind(options.to).shard:
        if options.shard_size is not None:
            raise UsageError(f"`shard_size` requires `to` tar or parquet, not {options.to}")
        return None
    if options.skip_existing:
        raise UsageError(f"`skip_existing` cannot be combined with `to` {options.to}; use `resume`")
    if options.to == "parquet" and importlib.util.find_spec("pyarrow") is None:
        from normcli.sources.parquet import parquet_modules

        parquet_modules()  # raises: `verify` and `restore` need it; to write takes no pyarrow, and 40 MB less
    return ShardSize.of(DEFAULT if options.shard_size is None else options.shard_size)


def transform_for(options: ApplyOptions) -> Transform:
    """Return the transform that a kind of output asks for, without constants yet.

    Raises:
        UsageError: options that contradict each other.
    """
    dtype, layout, order = resolve_output(options.to, options.dtype, options.output_layout, options.channel_order)
    settings = {
        f.name: getattr(options, f.name) for group in (ConstantsOptions, ValueOptions) for f in options_of(group)
    }
    transform_options = TransformOptions(
        **settings,
        dtype="uint8" if dtype == "uint16" else dtype,  # type: ignore[arg-type]
        output_layout=layout,  # type: ignore[arg-type]
        channel_order=order,  # type: ignore[arg-type]
        color=options.color,
        nodata=options.nodata,
        fill=options.fill,
    )
    built = replace(build_transform(options.scheme, transform_options), dtype=dtype)
    _check_fill(built)
    return built


def refuse_constant(transform: Transform) -> None:
    """Reject a zero std of the dataset before the first image.

    Raises:
        UsageError: naming the channels.
    """
    if transform.constants is None or transform.scheme != "contrast":
        return
    if transform.zero_std == "error":
        flat = [c for c, s in zip(transform.constants.channels, transform.constants.std, strict=True) if s == 0]
        if flat:
            of_images = " over the complete dataset" * (transform.constants.origin in ("statistics", "computed"))
            noun, verb, them = ("channel", "has", "it") if len(flat) == 1 else ("channels", "have", "them")
            what = f"{noun} {', '.join(flat)} {verb} std 0{of_images}"
            raise UsageError(f"{what} (`zero_std` one or eps:X maps {them})")


def kept_statistics(folder: str, options: ApplyOptions) -> Summary | None:
    """Return the statistics that the interrupted run had computed; None if it had none.

    Raises:
        UsageError: they were made of images read in another way.
    """
    path = os.path.join(folder, naming.STATISTICS)  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return None
    summary = Summary.load(path)
    settings = {**options.part(DecodeOptions).as_dict(), "max_value": parse_level(options.max_value)}
    if summary.settings["color"] != options.color and schemes.parse(options.scheme)[0] == "reinhard":
        del settings["color"]
    check_contract(summary, settings, path)
    return summary
