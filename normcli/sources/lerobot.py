"""A folder of LeRobot, v2.x or v3: vectors by feature, and pictures of a camera, from the tables and videos.

`meta/info.json` names the features, their types, shapes and components. The tables are `data/chunk-000/*.parquet`:
one episode each in v2.x, many in v3. Tasks are in `meta/tasks.jsonl` (v2.x) or `meta/tasks.parquet` (v3).
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from normcli.errors import InputError, UsageError, listed
from normcli.options.field import Options, option
from normcli.options.shared import InputOptions
from normcli.sources.item import ColumnLabel, Item, Items, Skipped
from normcli.sources.parquet import ParquetOptions, parquet_modules
from normcli.sources.vectors import GroupColumn, NumberColumn, columns_of, read_parquet
from normcli.storage.reader import Reader

if TYPE_CHECKING:
    from normcli.sources.lerobot_videos import FrameLabels

log = logging.getLogger("normcli.sources")

_LONGEST = 1 << 24  # bytes of a description
_PICTURES = ("image", "video")
_NO_INPUT = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # of every dataset


class LeRobotOptions(Options):
    """Open options of folders of LeRobot."""

    features: str | None = option(
        "Features to count: vectors such as action,observation.state, or one of pictures (default: all of floats)."
    )
    frames: str = option("Frames of the videos of a feature: all; every N-th as ::N; a range as A:B or A:B:N.", "all")


OPEN_OPTIONS = LeRobotOptions


class Feature(NamedTuple):
    """One entry of `features` in info.json.

    Attributes:
        dtype: "float32", "int64", "image", "video", ...
        shape: of one frame.
        names: of the components, flat; () where they have none.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


def is_dataset(folder: str) -> bool:
    """Return True if a local folder has a description that LeRobot wrote.

    >>> is_dataset("/dev")
    False
    """
    path = Path(folder, "meta", "info.json")
    try:
        return path.is_file() and "codebase_version" in _json(path)
    except InputError:
        return False


def read(
    source: str,
    listing: InputOptions,
    options: LeRobotOptions,
    *,
    names_only: bool = False,
    group_by: str | None = None,
) -> Items:
    """Yield the frames of a dataset: rows of vectors in blocks, or the pictures of one feature.

    Args:
        source: the folder.
        listing: selection of pictures.
        options: selection of features.
        names_only: pictures are not to be loaded.
        group_by: "episode", "task", or any column of the tables.

    Raises:
        InputError: a description or table that is damaged or missing.
        UsageError: no such features, or vectors and pictures together.
    """
    features = features_of(source)
    names = _choose(source, features, options.features)
    paths = tables(source)
    if not paths:
        raise InputError("empty", "no tables in data: data/chunk-000/*.parquet")
    kinds = {features[name].dtype for name in names}
    if "video" in kinds:
        yield from _read_videos(source, listing, names[0], options.frames, group_by)
        return
    if "image" in kinds:
        from normcli.sources import parquet

        names_of_tasks = {str(number): text for number, text in _tasks(source).items()} if group_by == "task" else {}
        for path in paths:
            column = ParquetOptions(column=names[0])
            group = _column(group_by) if group_by is not None else None
            items = parquet.read(path, listing, column, names_only=names_only, group_by=group)
            yield from (_with_text(item, names_of_tasks) for item in items)
        return
    texts = _tasks(source) if group_by == "task" else None
    rows = 0
    for path in paths:
        rows_of_table, items = _read_table(path, features, names, group_by, texts)
        rows += rows_of_table
        yield from items
    _compare_rows(source, rows)


def _with_text(item: Item | Skipped, texts: Mapping[str, str]) -> Item | Skipped:
    """Return an item with the text that its label is the number of, if it is."""
    if isinstance(item, Skipped) or item.label is None or item.label not in texts:
        return item
    return item._replace(label=ColumnLabel(texts[item.label]))


def _read_videos(source: str, listing: InputOptions, name: str, frames: str, group_by: str | None) -> Items:
    """Yield the frames of the videos of a feature; with a group, labeled by the rows of the tables."""
    from normcli.sources import video

    paths = videos(source, name)
    if not paths:
        raise InputError("empty", f"no videos of feature {name}")
    labels = None if group_by is None else _labels_of_frames(source, name, group_by)
    for path in paths:
        items = video.read(path, listing, video.VideoOptions(frames=frames))
        yield from items if labels is None else labels.label(path, items)


def _labels_of_frames(source: str, name: str, group_by: str) -> "FrameLabels | None":
    """Return the labels of the frames of a feature; None if the tables have no such column."""
    from normcli.sources.lerobot_videos import FrameLabels

    column = _column(group_by)
    _, parquet = parquet_modules()
    paths = tables(source)
    if group_by not in ("episode", "task") and column not in parquet.read_schema(paths[0]).names:
        return None  # a regex of paths
    fps = _json(Path(source, "meta", "info.json")).get("fps")
    if not isinstance(fps, int | float) or not fps > 0:
        raise InputError("damaged", "meta/info.json has no frames per second (fps)")
    texts = _tasks(source) if group_by == "task" else {}
    return FrameLabels(source, name, paths, column, texts, fps)


def features_of(source: str) -> dict[str, Feature]:
    """Return the features of a dataset by name.

    Raises:
        InputError: the description is damaged or missing.
    """
    features = _json(Path(source, "meta", "info.json")).get("features")
    try:
        assert isinstance(features, dict)
        return {
            str(name): Feature(str(entry["dtype"]), tuple(map(int, entry["shape"])), tuple(_flat(entry.get("names"))))
            for name, entry in features.items()
        }
    except (AssertionError, KeyError, TypeError, ValueError):
        raise InputError("damaged", "meta/info.json has no features with a dtype and a shape each") from None


def tables(source: str) -> list[str]:
    """Return the paths of the tables of a dataset, in order."""
    return [str(path) for path in sorted(Path(source, "data").glob("*/*.parquet"))]


def videos(source: str, name: str = "*") -> list[str]:
    """Return the paths of the videos of a feature: in videos/chunk-000/NAME in v2.x, videos/NAME/chunk-000 in v3."""
    folder = Path(source, "videos")
    return [str(path) for path in sorted({*folder.glob(f"*/{name}/*.mp4"), *folder.glob(f"{name}/*/*.mp4")})]


def _flat(names: Any) -> Iterator[str]:
    """Yield the names of components, which may be nested: {"motors": ["a", "b"]}."""
    if isinstance(names, str):
        yield names
    elif isinstance(names, Mapping | list):
        for entry in names.values() if isinstance(names, Mapping) else names:
            yield from _flat(entry)


def _choose(source: str, features: Mapping[str, Feature], text: str | None) -> list[str]:
    """Return the names of the features to count."""
    if text is None:
        names = [
            name
            for name, feature in features.items()
            if feature.dtype.startswith("float") and len(feature.shape) == 1 and name not in _NO_INPUT
        ]
        names = [name for name in names if not name.startswith("next.")] or names
        if not names:
            raise InputError("no-image-column", f"no feature of floats among {listed(features)} (-O features=NAME)")
        return names
    names = [name.strip() for name in text.split(",") if name.strip()]
    if missing := [name for name in names if name not in features]:
        raise UsageError(f"{source}: no feature {missing[0]!r}; its features are {', '.join(features)}")
    if not names or len({*names}) < len(names):
        raise UsageError(f"`open_options` features={text}: must be distinct names of features between commas")
    if len(names) > 1 and any(features[name].dtype in _PICTURES for name in names):
        raise UsageError(f"`open_options` features={text}: vectors, or one feature of pictures at a time")
    for name in names:
        if features[name].dtype not in _PICTURES and len(features[name].shape) != 1:
            raise UsageError(f"{source}: feature {name!r} has shape {features[name].shape}, which is no vector")
    return names


def _read_table(
    path: str,
    features: Mapping[str, Feature],
    names: list[str],
    group_by: str | None,
    texts: Mapping[Any, str] | None,
) -> tuple[int, Items]:
    """Return the number of rows of a table, and its items."""
    pyarrow, parquet = parquet_modules()
    try:
        with Reader(path) as reader:
            table = parquet.ParquetFile(reader.file(), pre_buffer=False)
            schema, count = table.schema_arrow, table.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError("damaged", f"{path}: not a parquet file, or damaged: {' '.join(str(error).split())}") from None
    columns = [_of_feature(column, features[column.name]) for column in columns_of(path, schema, names)]
    column = None if group_by is None else _column(group_by)
    groups = GroupColumn(column, texts) if column is not None and schema.names.count(column) == 1 else None
    return count, _rows(path, columns, groups)


def _rows(path: str, columns: list[NumberColumn], groups: GroupColumn | None) -> Items:
    pyarrow, parquet = parquet_modules()
    with Reader(path) as reader:
        try:
            yield from read_parquet(path, parquet.ParquetFile(reader.file(), pre_buffer=False), columns, groups)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError("damaged", f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None


def _of_feature(column: NumberColumn, feature: Feature) -> NumberColumn:
    """Return a column with the width and the names of its feature; a number has those of a list of one.

    Raises:
        InputError: another width than the description has.
    """
    width = feature.shape[0]
    if column.width not in (None, 0, width) or (column.width is None and width != 1):
        numbers = column.width or 1
        raise InputError("layout", f"{numbers} numbers in column {column.name!r}, where meta/info.json has {width}")
    return column._replace(width=column.width if column.width is None else width, names=feature.names)


def _column(group_by: str) -> str:
    """Return the column of a group: those of episodes and tasks have numbers."""
    return {"episode": "episode_index", "task": "task_index"}.get(group_by, group_by)


def _tasks(source: str) -> dict[Any, str]:
    """Return the texts of tasks by number; {} where the dataset has none."""
    lines, table = Path(source, "meta", "tasks.jsonl"), Path(source, "meta", "tasks.parquet")
    try:
        if table.is_file():
            _, parquet = parquet_modules()
            rows = parquet.read_table(table).to_pylist()
        elif lines.is_file():
            rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines() if line.strip()]
        else:
            rows = []
        texts = ("task", "__index_level_0__")  # of the index of the table, where the writer did not name it
        return {row["task_index"]: next(str(row[name]) for name in texts if name in row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise InputError("damaged", "the table of tasks in meta cannot be read") from None


def _compare_rows(source: str, rows: int) -> None:
    total = _json(Path(source, "meta", "info.json")).get("total_frames")
    if isinstance(total, int) and total != rows:
        log.warning("%s: meta/info.json has %s frames, and its tables %s", source, f"{total:,}", f"{rows:,}")


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InputError("damaged", f"meta/{path.name} is damaged or missing")
    return document
