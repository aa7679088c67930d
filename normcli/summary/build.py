"""The summary of a tally: every key of the statistics file, computed from exact counts."""

from collections.abc import Mapping
from typing import Any

from normcli.errors import NoInputError
from normcli.summary.channels import channel_order
from normcli.summary.composition import composition_of
from normcli.summary.conventions import describe, describe_group, equal_groups, equal_images, shared_channels
from normcli.summary.summary import Summary
from normcli.tally import Tally

# settings["weight"] -> the convention of `mean` and `std`
_CONVENTION_OF_WEIGHT = {
    "pixel": "pooled_population",
    "image": "equal_image_weights",
    "group": "equal_group_weights",
}


def build_summary(
    tally: Tally,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    shards: dict[str, Any] | None,
    forced: list[str],
) -> Summary:
    """Compute the statistics of a tally; the arguments are those of `Summary.of`.

    Raises:
        NoInputError: no image was counted.
        UsageError: the images have no channels in common.
    """
    if not tally.buckets:
        raise NoInputError("no usable image" + _reasons(tally))
    settings = dict(settings)
    shards = settings.pop("shard", None) or shards
    names = shared_channels(tally, settings)
    numbers = describe(tally, settings, names)
    groups = {name: describe_group(tally.groups[name], settings, names) for name in sorted(tally.groups)}
    weight = settings.get("weight", "pixel")
    if weight == "image":
        mean, std = equal_images(tally, settings, names)
        numbers = numbers._replace(mean=mean, std=std)
    elif weight == "group":
        mean, std = equal_groups([(group.mean, group.std) for group in groups.values()], len(names))
        numbers = numbers._replace(mean=mean, std=std)
    raw = settings["max_value"] is None and all(bucket.dtype == "float" for bucket in tally.buckets.values())
    state = tally.state()
    return Summary(
        complete=not tally.failed and shards is None and not forced,
        images=tally.images,
        failed=tally.failed.total(),
        skipped=tally.skipped.total(),
        channels=names,
        convention=_CONVENTION_OF_WEIGHT[weight],
        range="raw" if raw else "0-1",
        channel_order=channel_order(names),
        composition=composition_of(tally.composition, tally.buckets.values()),
        failures=state["failed"],
        skips=state["skipped"],
        shards=shards,
        forced=forced,
        settings=settings,
        provenance={**provenance, "digest": state["digest"]},
        groups=groups,
        state=state,
        **numbers._asdict(),
    )


def _reasons(tally: Tally) -> str:
    reasons = [f"{count} {reason}" for reason, count in sorted((tally.failed + tally.skipped).items())]
    return f" ({', '.join(reasons)})" if reasons else ""
