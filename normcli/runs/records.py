"""Files of records, one JSON object per line."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normcli import storage
from normcli.errors import NormcliError

refuse_unwritable = storage.require_writable
Write = Callable[[dict[str, Any]], None]


@contextmanager
def jsonl(path: str | Path | None) -> Iterator[Write | None]:
    """Open a JSONL file that appears when it is complete; yield a function that writes one record, None for no path.

    Raises:
        OutputError: it cannot be written.
    """
    if path is None:
        yield None
        return
    stopped = None
    with storage.text_writer(path) as file:
        try:
            yield lambda record: _write(file, record)
        except NormcliError as error:  # no usable image, too many failures: then the list matters most
            stopped = error
    if stopped is not None:
        raise stopped


def _write(file: Any, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
