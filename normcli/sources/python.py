"""Samples of a Python object by its import string, `python:MODULE:NAME`: dataset, iterable, or a callable for one.

An import string runs code, so only a SOURCE with the prefix is one: never a path in a list of files.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

from normcli.errors import NormcliError, UsageError
from normcli.options.field import Options, option
from normcli.options.shared import InputOptions
from normcli.sources import samples
from normcli.sources.item import ArrayLayout, Items
from normcli.sources.listing import PYTHON

log = logging.getLogger("normcli.sources")


class PythonOptions(Options):
    """Open options of import strings."""

    key: str | None = option("Name or position of the image in samples that are mappings or tuples.")
    layout: ArrayLayout = option(
        "Axes of arrays: n images, h rows, w columns, c channels; auto: recognized by the sizes.", "auto"
    )
    labels: Literal["no", "yes"] = option("Read the label of every sample; --group-by label sets it.", "no")
    partial: Literal["no", "yes"] = option(
        "Write the statistics of what was counted when Ctrl-C stops the run, with one failure, interrupted.", "no"
    )


OPEN_OPTIONS = PythonOptions


def read(source: str, listing: InputOptions, options: PythonOptions) -> Items:
    """Yield the images of the samples, named by their number.

    Raises:
        UsageError: no such module or name, an object without samples, or samples whose image or axes are not clear.
        NormcliError: the module or the callable raises.
    """
    data = load(source)
    key: str | int | None = options.key
    if isinstance(key, str) and key.lstrip("-").isdecimal():
        key = int(key)
    items = samples.read(data, key, options.layout, labels=options.labels == "yes", source=source)
    if options.partial == "no":
        yield from _below(source, items)
        return
    from normcli.sources.stoppable import StoppableItems

    with StoppableItems(items) as stoppable:
        yield from _below(source, stoppable)


def _below(source: str, items: Items) -> Items:
    try:
        for item in items:
            yield item._replace(key=f"{source}/{item.key}")
    except UsageError as error:
        raise UsageError(samples.as_open_options(f"{source}: {error}")) from None


def load(source: str) -> Any:
    """Import the object of an import string; a class or a function is called without arguments.

    The current folder is on the import path.

    Raises:
        UsageError: no such module or name, or an object without samples.
        NormcliError: the module or the callable raises.
    """
    module_name, colon, path = source.removeprefix(PYTHON).partition(":")
    if not (colon and all(part.isidentifier() for part in (*module_name.split("."), *path.split(".")))):
        raise UsageError(f"{source}: must be {PYTHON}MODULE:NAME, such as {PYTHON}mymodule:make_dataset")
    folder = os.getcwd()  # noqa: PTH109
    if folder not in sys.path:
        sys.path.insert(0, folder)  # it stays: a dataset may import more when it is read
    try:
        value = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _raised(source, f"module {module_name}", error) from error
        raise UsageError(f"{source}: no module {error.name!r} in {folder} or among the installed ones") from None
    except (Exception, SystemExit) as error:
        raise _raised(source, f"module {module_name}", error) from error
    for name in path.split("."):
        if not hasattr(value, name):
            raise UsageError(f"{source}: {getattr(value, '__name__', module_name)} has no {name!r}")
        value = getattr(value, name)
    if inspect.isclass(value) or (callable(value) and not _has_samples(value)):
        try:
            value = value()
        except (Exception, SystemExit) as error:
            raise _raised(source, f"{path}()", error) from error
    if not _has_samples(value):
        raise UsageError(f"{source}: an object of type {type(value).__name__}, not a dataset or an iterable")
    return value


def _has_samples(value: Any) -> bool:
    is_indexed = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return (hasattr(value, "__iter__") or is_indexed) and not isinstance(value, str | bytes | Mapping)


def _raised(source: str, subject: str, error: BaseException) -> NormcliError:
    log.debug("%s", source, exc_info=error)
    return NormcliError(f"{source}: {subject} raised {type(error).__name__}: {' '.join(str(error).split())}")
