"""Frames of LeRobot's videos by the rows of its tables: the episode of each frame, and its value in a column.

In v2.x a video is one episode, `episode_000003.mp4`. In v3 a video has several, and `meta/episodes` the time in the
video at which each begins.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normcli.errors import InputError, UsageError
from normcli.sources.item import ColumnLabel, Item, Items
from normcli.sources.parquet import parquet_modules

_ONE = re.compile(r"episode_(\d+)\.mp4")
_PLACES = ("chunk_index", "file_index", "from_timestamp")


class FrameLabels:
    """The value of a column of the tables for every frame of the videos of a feature.

    Args:
        source: the folder.
        name: of the feature.
        tables: paths of the tables.
        column: such as "episode_index".
        texts: names of its values, such as tasks; {} for the values themselves.
        fps: frames per second of the videos.

    Raises:
        UsageError: no such column.
        InputError: tables that are damaged, or no description of the episodes.
    """

    def __init__(
        self, source: str, name: str, tables: list[str], column: str, texts: Mapping[Any, str], fps: float
    ) -> None:
        self._source, self._name, self._fps = source, name, fps
        self._values = _values_of_episodes(source, tables, column)
        self._texts = texts
        self._starts: dict[tuple[int, int], list[tuple[int, int]]] | None = None

    def label(self, path: str, items: Items) -> Items:
        """Yield the frames of a video with the column's value as label; "." is that of a frame without a row."""
        starts = self._episodes_in(path)
        firsts = [first for first, _ in starts]
        for item in items:
            if not isinstance(item, Item) or not (number := item.key.rpartition("/")[2]).isdecimal():
                yield item
                continue
            at = bisect_right(firsts, int(number)) - 1
            values = self._values.get(starts[at][1]) if at >= 0 else None
            row = int(number) - (firsts[at] if at >= 0 else 0)
            value = values[row] if values is not None and row < len(values) else None
            yield item._replace(label=ColumnLabel("." if value is None else self._texts.get(value, value)))

    def _episodes_in(self, path: str) -> list[tuple[int, int]]:
        """Return the first frame and the number of each episode of a video, in order."""
        if (one := _ONE.fullmatch(Path(path).name)) is not None:
            return [(0, int(one[1]))]
        if self._starts is None:
            self._starts = {}
            for chunk, file, start, episode in _places(self._source, self._name):
                self._starts.setdefault((chunk, file), []).append((round(start * self._fps), episode))
        numbers = re.fullmatch(r".*chunk-(\d+)/file-(\d+)\.mp4", Path(path).as_posix())
        place = (int(numbers[1]), int(numbers[2])) if numbers is not None else (-1, -1)
        return sorted(self._starts.get(place, []))


def _places(source: str, name: str) -> Iterator[tuple[int, int, float, int]]:
    """Yield chunk, file, time of its first frame and number of every episode in the videos of a feature."""
    pyarrow, parquet = parquet_modules()
    paths = sorted(Path(source, "meta", "episodes").glob("*/*.parquet"))
    if not paths:
        raise InputError("empty", "no meta/episodes, in which v3 has the place of every episode in the videos")
    columns = ["episode_index", *(f"videos/{name}/{part}" for part in _PLACES)]
    try:
        for path in paths:
            rows = parquet.ParquetFile(path).read(columns=columns).to_pydict()
            episodes, chunks, files, starts = (rows[column] for column in columns)
            yield from zip(chunks, files, starts, episodes, strict=True)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError("damaged", f"meta/episodes have no places of {name} in videos: {text}") from None


def _values_of_episodes(source: str, tables: list[str], column: str) -> dict[int, list[Any]]:
    """Return the values of a column by the number of the episode, in the order of its frames."""
    pyarrow, parquet = parquet_modules()
    values: dict[int, list[Any]] = {}
    for path in tables:
        try:
            table = parquet.ParquetFile(path)
            if column not in table.schema_arrow.names:
                raise UsageError(f"{source}: `group_by` {column}: the tables have no such column")
            rows = table.read(columns=[*dict.fromkeys(("episode_index", "frame_index", column))])
            episodes, frames = (rows.column(name).to_numpy() for name in ("episode_index", "frame_index"))
            each = rows.column(column).to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError("damaged", f"{path}: cannot be read for `group_by` {column}: {text}") from None
        for i in np.lexsort((frames, episodes)).tolist():
            values.setdefault(int(episodes[i]), []).append(each[i])
    return values
