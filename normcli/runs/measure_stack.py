"""The shape of a stack, from its first usable image."""

from dataclasses import replace

from normcli import images
from normcli.errors import InputError, NoInputError, RemoteError
from normcli.images.orientation import upright
from normcli.runs.map_batch import MapJob
from normcli.runs.names import InputLister
from normcli.runs.transform import MappedImage
from normcli.sinks.stack import Stack
from normcli.sources import Skipped


def measure_stack(work: MapJob, listed: InputLister, rows: int) -> MapJob:
    """Return the job for a stack of so many rows, in the shape that the first usable image is mapped to.

    Raises:
        NoInputError: no image can be used.
        RemoteError: the server of the first image does not answer.
    """
    mapped = _first_image(work, listed)
    transform, count = work.transform, len(mapped.source)
    if count in (3, 4):  # gray images among color ones get their channels
        transform = replace(transform, channels=count)
    assert isinstance(work.writer, Stack)
    return work._replace(transform=transform, writer=work.writer.of_shape(rows, mapped.array))


def _first_image(work: MapJob, listed: InputLister) -> MappedImage:
    because, failed = "", 0
    for named_item in listed():
        if isinstance(named_item, Skipped):
            continue
        try:
            image = images.decode(named_item.item.load(), work.reading, turn=work.orientation == "apply")
            images.check_full_scale(image, work.transform.max_value)
            turn = image.orientation if work.orientation == "apply" else 1
            valid = None if image.valid is None else upright(image.valid, turn)
            return work.transform.map(upright(image.pixels, turn), scales=image.scales, valid=valid)
        except InputError as error:
            if error.reason == "remote":
                raise RemoteError(f"{named_item.item.key}: {error.message}") from None
            because, failed = because or f": {named_item.item.key}: {error.message}", failed + 1
    raise NoInputError(f"no usable image{because}" + f" (and {failed - 1} more)" * (failed > 1))
