"""Small datasets of LeRobot, v2.1 and v3, as its recorder lays them out, with a known distribution."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support import needs

Array = np.ndarray[Any, Any]
MOTORS = ["shoulder.pos", "elbow.pos", "gripper.pos"]
QUANTILES = {"q01": 1, "q10": 10, "q50": 50, "q90": 90, "q99": 99}


def episodes(count: int = 20, frames: int = 75) -> list[dict[str, Array]]:
    """Return episodes whose last component is constant in most of them, and moves far in the others."""
    random = np.random.default_rng(16)
    out = []
    for number in range(count):
        action = random.normal(size=(frames, 3)) * [3, 1, 0.2] + [number, -50 - number % 7, 0]
        action[:, 2] = random.normal(0, 60, frames) if number % 5 == 0 else -98.5
        state = action + random.normal(size=(frames, 3)) * 0.1
        out.append({"action": action.astype(np.float32), "observation.state": state.astype(np.float32)})
    return out


def statistics(frames: list[dict[str, Array]]) -> dict[str, dict[str, Any]]:
    """Return the statistics of all frames by NumPy, as stats.json has them."""
    out = {}
    for name in frames[0]:
        rows = np.concatenate([episode[name] for episode in frames]).astype(np.float64)
        entry: dict[str, Any] = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0)}
        entry |= {"std": rows.std(axis=0)} | {q: np.quantile(rows, p / 100, axis=0) for q, p in QUANTILES.items()}
        out[name] = {key: value.tolist() for key, value in entry.items()} | {"count": [len(rows)]}
    return out


def averaged(frames: list[dict[str, Array]]) -> dict[str, dict[str, Any]]:
    """Return the statistics of all frames with the quantiles that an average over episodes has."""
    out = statistics(frames)
    for name, entry in out.items():
        for q in QUANTILES:
            rows = [statistics([episode])[name][q] for episode in frames]
            entry[q] = np.average(rows, axis=0, weights=[len(episode[name]) for episode in frames]).tolist()
    return out


def enveloped(frames: list[dict[str, Array]]) -> dict[str, dict[str, Any]]:
    """Return the statistics of all frames with the smallest low and the largest high quantile of any episode."""
    out = statistics(frames)
    for name, entry in out.items():
        each = [statistics([episode])[name] for episode in frames]
        for q, percent in QUANTILES.items():
            pick = np.min if percent < 50 else np.max if percent > 50 else np.median
            entry[q] = pick([one[q] for one in each], axis=0).tolist()
    return out


def write(folder: Path, version: str, frames: list[dict[str, Array]], *, camera: bool = False) -> Path:
    """Write a dataset of a version, "v2.1" or "v3.0"; return its folder."""
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    tables, start = [], 0
    for number, episode in enumerate(frames):
        count = len(episode["action"])
        columns = {name: _lists(rows, version) for name, rows in episode.items()}
        if camera:
            columns["observation.images.top"] = pa.array([_picture(number, i) for i in range(count)])
        columns["timestamp"] = pa.array(np.arange(count, dtype=np.float32) / 30)
        numbers = (("frame_index", np.arange(count)), ("episode_index", np.full(count, number)))
        more = (("index", start + np.arange(count)), ("task_index", np.full(count, number % 2)))
        columns |= {name: pa.array(values.astype(np.int64)) for name, values in (*numbers, *more)}
        tables.append(pa.table(columns))
        start += count
    if version == "v2.1":
        for number, table in enumerate(tables):
            parquet.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
        path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        lines = [json.dumps({"task_index": i, "task": task}) + "\n" for i, task in enumerate(TASKS)]
        (folder / "meta/tasks.jsonl").write_text("".join(lines))
    else:
        half = len(tables) // 2
        for number, part in enumerate((tables[:half], tables[half:])):
            parquet.write_table(pa.concat_tables(part), folder / f"data/chunk-000/file-{number:03d}.parquet")
        path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        tasks = pa.table({"task_index": [0, 1], "__index_level_0__": TASKS})
        parquet.write_table(tasks, folder / "meta/tasks.parquet")
    info = {"codebase_version": version, "fps": 30, "total_episodes": len(frames), "total_frames": start}
    (folder / "meta/info.json").write_text(
        json.dumps({**info, "data_path": path, "features": _features(version, camera)})
    )
    return folder


TASKS = ["pick the cube", "place the cube"]


def _features(version: str, camera: bool) -> dict[str, Any]:
    names: Any = MOTORS if version != "v2.1" else {"motors": MOTORS}
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [3], "names": names} for name in ("action", "observation.state")
    }
    if camera:
        axes = ["height", "width", "channels"]
        features["observation.images.top"] = {"dtype": "image", "shape": [4, 6, 3], "names": axes}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    numbers = ("frame_index", "episode_index", "index", "task_index")
    return features | {name: {"dtype": "int64", "shape": [1], "names": None} for name in numbers}


def _lists(rows: Array, version: str) -> Any:
    pa = needs.module("pyarrow")
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return fixed if version != "v2.1" else fixed.cast(pa.list_(pa.float32()))


def film(path: Path, levels: list[int]) -> None:
    """Write a video of 30 gray frames a second."""
    av = needs.module("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _picture(episode: int, frame: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (episode, frame, 7)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"frame-{frame:06d}.png"}
