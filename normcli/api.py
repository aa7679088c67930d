"""The Python API: the twins of the commands, with the same options as keywords.

Every keyword is a field of the command's options (`normcli.options`), so a type checker knows its choices; the
"Args" sections are built from the options' help.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normcli.constants.compare import Difference
from normcli.constants.identify import CheckResult
from normcli.errors import UsageError, in_python, naming_parameters
from normcli.keywords import constants_arguments, one_argument, scheme_argument, two_arguments
from normcli.options.apply import ApplyOptions, RestoreOptions, TransformOptions, VerifyOptions, VerifyStatisticsOptions
from normcli.options.compare import CheckOptions, CountedOptions, DiffOptions
from normcli.options.field import parse_size, require_text
from normcli.options.samples import IterableOptions
from normcli.options.stats import StatsOptions
from normcli.options.tensor import FoldOptions
from normcli.runs import compare as comparing
from normcli.runs import restore as restoring
from normcli.runs import verify as verifying
from normcli.runs.apply import ApplyResult
from normcli.runs.compare import Counted
from normcli.runs.restore import RestoreResult
from normcli.runs.transform import Transform
from normcli.runs.verify import VerifyResult
from normcli.summary import Summary

if TYPE_CHECKING:
    from normcli.constants.features import FeatureCheck
    from normcli.runs.counter import Dataset
    from normcli.tensor.activations import ActivationRow, Per
    from normcli.tensor.folding.fold import FoldedPair
    from normcli.tensor.listing import TensorRow

StrPath = str | os.PathLike[str]
Sources = StrPath | Iterable[StrPath]


def _paths(sources: Sources, remedy: str = "") -> list[str]:
    source: object = sources
    try:
        texts = [os.fsdecode(source := one) for one in _as_iterable(sources)]
    except TypeError:
        text = f"arrays{remedy}" if hasattr(source, "shape") else f"{sources!r:.60}"
        raise TypeError(f"sources must be a path or an iterable of paths, not {text}") from None
    for text in texts:
        require_text("sources", text)
    return texts


def _as_iterable(sources: Sources) -> Iterable[StrPath]:
    return (sources,) if isinstance(sources, str | os.PathLike) else sources


def _require_file(name: str, value: StrPath | None) -> None:
    require_text(name, value)
    if value is not None and os.fsdecode(value) == "-":
        raise UsageError(f"`{name}`: must be a path; - is stdout only on the command line")


@one_argument(StatsOptions)
def stats(sources: Sources, options: StatsOptions) -> Summary:
    """Compute exact per-channel statistics of an image dataset in one streaming pass.

    Args:
        sources: a folder, image, archive, table or array, local or remote, or an iterable of them.
        options: all keywords.

    Returns:
        The statistics: mean, std, min, max and percentiles per channel (on the 0-1 scale where pixels are
        integers), by every convention, with everything that was noticed about the files.

    Raises:
        UsageError: options that contradict each other, or images that have no channels in common.
        StatisticsFileError: the statistics file or cache of an incremental run is damaged.
        NoInputError: no usable image.
        OutputError: `output` cannot be written.
        RemoteError: a server did not answer, and no image could be read.
        NormcliError: more than `max_failures` inputs failed.

    Example:
        >>> import normcli
        >>> summary = normcli.stats("photos/", resize=256, center_crop=224)  # doctest: +SKIP
        >>> summary.mean, summary.std  # doctest: +SKIP
    """
    from normcli.runs.stats import stats as run

    _require_file("output", options.output)
    return run(_paths(sources, "; normcli.count takes those"), options)


@one_argument(IterableOptions)
def count(data: "Dataset", options: IterableOptions) -> Summary:
    """Compute exact per-channel statistics of the images in a Python iterable.

    Args:
        data: a torch Dataset or DataLoader, a Hugging Face dataset, a list or a generator. Its samples are arrays
            (H,W), (H,W,C) or (C,H,W), batches (N,...), torch tensors on the CPU, Pillow images or the bytes of image
            files, alone or in a mapping or tuple. A sample that fails is counted as failed, with its number.
        options: all keywords.

    Returns:
        The statistics, equal to those of `stats` over the same pixels, for any batch size and number of workers.

    Raises:
        UsageError: options that contradict each other, samples whose image or axes are not clear.
        NoInputError: no usable image.
        OutputError: `output` cannot be written.
        NormcliError: more than `max_failures` samples failed.

    Example:
        >>> import numpy as np
        >>> import normcli
        >>> normcli.count([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]).mean
        [0.5, 0.5, 0.5]
    """
    from normcli.runs.counter import count as run

    _require_file("output", options.output)
    if isinstance(data, str | bytes | os.PathLike):
        raise TypeError(f"data must be an iterable of images, not {data!r:.60} (normcli.stats reads files)")
    return run(data, options)


@two_arguments(ApplyOptions)
def apply(sources: Sources, output: StrPath | None, options: ApplyOptions) -> ApplyResult:
    """Normalize every image of the sources and write the results into a folder.

    Args:
        sources: a folder, image, archive, table or array, local or remote, or an iterable of them.
        output: the output folder; None only with `dry_run`.
        options: all keywords.

    Returns:
        Numbers of images, failures, bytes and clipped values, the settings and the constants.

    Raises:
        UsageError: options that contradict each other, names that collide, statistics that do not fit.
        NoInputError: no usable image.
        OutputError: something cannot be written; no incomplete file has its final name.
        RemoteError: a server did not answer; finished outputs are kept for `resume`.
        NormcliError: more than `max_failures` inputs failed.

    Example:
        >>> import normcli
        >>> result = normcli.apply("photos/", "arrays", scheme="signed")  # doctest: +SKIP
    """
    from normcli.runs.apply import apply as run

    _require_file("output", output)
    if output is None and not options.dry_run:
        raise UsageError("`output` is required: the folder to write")
    return run(_paths(sources, "; normcli.transform takes those"), os.fsdecode(output or "."), options)


@scheme_argument(TransformOptions)
def transform(scheme: str, options: TransformOptions) -> Transform:
    """Return a picklable callable, array -> array, with the same bits as `normcli apply`.

    It takes arrays (H,W) or (H,W,C) of uint8, uint16 or float, or a gray or RGB Pillow image, and returns (C,H,W)
    of `dtype`: for a torch Dataset, `map`, or any loader.

    Args:
        scheme: name, or name:settings, as for the command.
        options: all keywords.

    Returns:
        The callable.

    Raises:
        UsageError: options that contradict each other.
        StatisticsFileError: `stats` is not a statistics file.

    Example:
        >>> import numpy as np
        >>> import normcli
        >>> to_signed = normcli.transform("signed")
        >>> to_signed(np.array([[[0, 255, 51]]], np.uint8)).ravel().tolist()
        [-1.0, 1.0, -0.6000000238418579]
    """
    from normcli.runs.build_transform import transform as build

    return build(scheme, options)


@two_arguments(RestoreOptions)
def restore(folder: StrPath, output: StrPath, options: RestoreOptions) -> RestoreResult:
    """Restore the original images, as PNG or TIFF, from a folder that `apply` wrote.

    The pixels are those that were mapped: after `resize` and `center_crop`, without a dropped alpha channel; as they
    were stored, with the EXIF orientation recorded in the file.

    Args:
        folder: the output of `apply`.
        output: folder for the images.
        options: all keywords.

    Returns:
        Numbers of images restored, of those equal to the originals bit for bit, and the reasons for the others.

    Raises:
        UsageError: not a folder that `apply` wrote, or an output folder that is not empty.
        NoInputError: nothing could be restored.
        OutputError: something cannot be written.
    """
    _require_file("output", output)
    return restoring.restore(os.fsdecode(folder), os.fsdecode(output), options)


@two_arguments(VerifyStatisticsOptions)
def verify_statistics(stats: StrPath | Summary, sources: Sources, options: VerifyStatisticsOptions) -> Difference:
    """Count sources again with the settings of a statistics file, and compare.

    Args:
        stats: a statistics file, or its `Summary`.
        sources: a folder, image, archive, table or array, local or remote, or an iterable of them.
        options: all keywords.

    Returns:
        The differences from the file to the sources; `identical` is true where the images are the same.

    Raises:
        UsageError: the file was made with masks or from a sample, which it does not record in full.
        StatisticsFileError: not a statistics file.
        NoInputError: no usable image.
    """
    from normcli.runs.verify_statistics import verify_statistics as run

    return run(stats if isinstance(stats, Summary) else Summary.load(os.fspath(stats)), _paths(sources), options)


@one_argument(VerifyOptions)
def verify(folder: StrPath, options: VerifyOptions) -> VerifyResult:
    """Read everything that `apply` wrote and compute mean and std per channel over all pixels.

    Args:
        folder: the output of `apply`.
        options: all keywords.

    Returns:
        Numbers per channel, files that are missing or damaged, and True if mean and std are those of the scheme.

    Raises:
        UsageError: not a folder that `apply` wrote.
    """
    result = verifying.verify(os.fsdecode(folder), options)
    return replace(result, problems=[(name, in_python(message)) for name, message in result.problems])


@constants_arguments(CheckOptions)
def check(statistics: Counted, mean: Any, std: Any, options: CheckOptions) -> CheckResult:
    """Identify constants: the convention, range and channel order that they match, and whether to use them.

    Args:
        statistics: a `Summary`, the path of a statistics file, or sources to count: a path or an iterable of them.
        mean: per channel; the digits of text such as ".485 .456 .406" are compared, of a float those of its
            shortest decimal.
        std: per channel, or None to compare only the means.
        options: all keywords.

    Returns:
        The verdict, the convention that was identified, remarks and advice; `report(path)` writes them as a page.

    Raises:
        UsageError: a wrong number of values, a std that is not positive, an unknown preset, a config without constants.
        StatisticsFileError: a file that is missing or damaged.
        NoInputError: no usable image in the sources.

    Example:
        >>> import normcli
        >>> normcli.check("photos/", preset="imagenet", resize=256).advice  # doctest: +SKIP
    """
    return comparing.check(statistics, options)


@two_arguments(CountedOptions)
def check_features(statistics: Counted, file: StrPath, options: CountedOptions) -> "FeatureCheck":
    """Compare statistics by feature, as LeRobot and openpi keep them, with those of the frames.

    Args:
        statistics: a `Summary` of vectors, the path of its file, or sources to count: a path or an iterable of them.
        file: stats.json of LeRobot, or norm_stats.json of openpi.
        options: all keywords.

    Returns:
        The values that are wrong, shares of the frames outside q01 to q99, components that hardly ever move, and
        features of another width.

    Raises:
        UsageError: not such a file, no vectors, or no feature in common.
        StatisticsFileError: a statistics file that is missing or damaged.
        NoInputError: no usable frame in the sources.

    Example:
        >>> import normcli
        >>> normcli.check_features("robot", "robot/meta/stats.json").is_right  # doctest: +SKIP
    """
    return comparing.check_features(statistics, file, options)


@two_arguments(DiffOptions)
def diff(a: Counted, b: Counted, options: DiffOptions) -> Difference:
    """Compare two sets of statistics, channel by channel.

    Args:
        a: a `Summary`, the path of a statistics file, or sources, which are counted: a path or an iterable of them.
        b: statistics or sources to compare with `a`; sources on one side alone are counted with the settings of the
            other.
        options: all keywords.

    Returns:
        The differences, from `a` to `b`; `report(path)` writes them as a page.

    Raises:
        UsageError: different channels, or raw units in one and range 0-1 in the other.
        StatisticsFileError: a file that is missing or damaged.
        NoInputError: no usable image in the sources.

    Example:
        >>> import normcli
        >>> normcli.diff("july.json", "photos/").exceeds(0.01)  # doctest: +SKIP
    """
    return comparing.diff(a, b, options)


@two_arguments(FoldOptions)
def fold(checkpoint: StrPath, output: StrPath, options: FoldOptions) -> "list[FoldedPair]":
    """Fold norms into the weights next to them, in float64, rounded once, and measure the change of the output.

    Args:
        checkpoint: file of the weights: .pt, .safetensors, .npz or an .index.json.
        output: file to write.
        options: all keywords.

    Returns:
        The pairs that were folded, each with the largest change of the output and its bound.

    Raises:
        UsageError: options that contradict each other.
        TensorError: layers that do not pair, are not adjacent, or cannot be folded exactly.
        OutputError: `output` cannot be written.

    Example:
        >>> import normcli
        >>> normcli.fold("net.pt", "folded.pt", pair=["conv1:bn1"])[0].change  # doctest: +SKIP
    """
    from normcli.tensor.folding.fold import fold as run

    return run(os.fsdecode(checkpoint), os.fsdecode(output), options)


@naming_parameters
def list_tensors(name: StrPath, *, statistics: bool = True, memory_limit: int | str | None = None) -> "list[TensorRow]":
    """List the tensors of a file: name, shape, type, mean and std, and the number of NaN and infinite elements.

    Args:
        name: FILE, FILE:KEY, FILE:PREFIX. or a pattern such as FILE:*.weight.
        statistics: read the elements; otherwise the headers alone.
        memory_limit: largest amount of memory for tensors, such as "500M".

    Returns:
        One row for each tensor, those outside of the state dict at the end.

    Raises:
        TensorError: missing, damaged, or nothing in it has such a name.
    """
    from normcli.tensor.listing import list_tensors as run

    limit = parse_size("memory_limit", memory_limit)
    return run(os.fsdecode(name), statistics=statistics, memory_limit=limit)


@naming_parameters
def activation_stats(
    activations: Sources, *, per: "Per" = "tensor", layout: str | None = None, memory_limit: int | str | None = None
) -> "list[ActivationRow]":
    """Compute mean, rms, std, kurtosis, zeros, outliers, NaN and infinities of saved activations.

    Args:
        activations: files, patterns and folders, read in natural order; FILE:KEY for one tensor of several.
        per: "tensor", or "channel" or "token" for a row of each of them over all tensors together.
        layout: order of the axes, such as NCHW.
        memory_limit: largest amount of memory for tensors, such as "500M".

    Returns:
        One row for each tensor, channel or token.

    Raises:
        UsageError: a layout without the axis, or a pattern that matches nothing.
        TensorError: a tensor that is missing, damaged, of another shape or too large for the limit.
    """
    from normcli.tensor.activations import activation_stats as run

    limit = parse_size("memory_limit", memory_limit)
    return run(_paths(activations), per=per, layout=layout, memory_limit=limit)


@naming_parameters
def merge_states(
    states: Iterable[StrPath],
    output: StrPath,
    *,
    elements: Iterable[int] | None = None,
    running_var: str | None = None,
) -> int:
    """Pool the batch-norm statistics of shards of the data, as if they had been computed of all at once.

    Args:
        states: states, or checkpoints with the same layers.
        output: file to write: the first one with pooled statistics.
        elements: number of elements per channel behind each; by default as the states record it.
        running_var: "unbiased" or "biased"; by default that of the preset that the states record, or unbiased.

    Returns:
        The number of layers.

    Raises:
        UsageError: no number of elements.
        TensorError: states of different layers, or without a mean and variance.
        OutputError: `output` cannot be written.
    """
    from normcli.tensor.states import merge_states as run

    counts = None if elements is None else list(elements)
    return run(_paths(states), os.fsdecode(output), elements=counts, running_var=running_var)


@naming_parameters
def mix_states(
    source: StrPath, target: StrPath, output: StrPath, *, alpha: float | Iterable[str] = 1.0
) -> dict[str, float]:
    """Mix running statistics of a source and a target domain: alpha * target + (1 - alpha) * source.

    Args:
        source: a state, or a checkpoint.
        target: a state, or a checkpoint with the same layers.
        output: file to write: the source with mixed statistics.
        alpha: share of the target; or texts X and PATTERN=X, of which the last that matches a layer counts.

    Returns:
        The share of each layer.

    Raises:
        UsageError: a share outside of 0 to 1, or a pattern that matches no layer.
        TensorError: states of different layers.
        OutputError: `output` cannot be written.
    """
    from normcli.tensor.states import mix_states as run

    shares = [str(alpha)] if isinstance(alpha, str | float | int) else list(alpha)
    return run(os.fsdecode(source), os.fsdecode(target), os.fsdecode(output), alpha=shares)
