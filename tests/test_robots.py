"""Datasets of LeRobot: vectors by feature, episode and task, and statistics of theirs and openpi's, checked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from tests.support import needs, robots
from tests.support.command import run_here

COMPONENTS = [f"{name}[{motor}]" for name in ("action", "observation.state") for motor in robots.MOTORS]


@pytest.fixture(scope="module")
def frames() -> list[dict[str, Any]]:
    return robots.episodes()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory, frames: list[dict[str, Any]]) -> dict[str, Path]:
    needs.module("pyarrow")
    folder = tmp_path_factory.mktemp("robots")
    return {version: robots.write(folder / version, version, frames, camera=True) for version in ("v2.1", "v3.0")}


@pytest.fixture(scope="module")
def exact(datasets: dict[str, Path]) -> dict[str, normcli.Summary]:
    return {
        version: normcli.stats(path, group_by="task", percentiles="1,10,50,90,99", exact_percentiles=True)
        for version, path in datasets.items()
    }


def test_both_versions_have_the_counts_of_their_frames(
    exact: dict[str, normcli.Summary], frames: list[dict[str, Any]]
) -> None:
    counter = normcli.Counter(layout="nc")
    for episode in frames:
        counter.add(np.concatenate([episode["action"], episode["observation.state"]], axis=1))
    for summary in exact.values():
        assert summary.channels == COMPONENTS and summary.images == 1500
        assert summary.state["buckets"] == counter.summary().state["buckets"]
        assert list(summary.groups) == robots.TASKS
    assert exact["v2.1"].state == exact["v3.0"].state


def test_groups_are_episodes_or_tasks(datasets: dict[str, Path], frames: list[dict[str, Any]]) -> None:
    source = normcli.source(datasets["v3.0"], features="action")
    episodes = normcli.stats(source, group_by="episode")
    assert set(episodes.groups) == {str(number) for number in range(len(frames))}
    for number, episode in enumerate(frames):
        group = episodes.group(str(number))
        assert group.images == len(episode["action"])
        np.testing.assert_allclose(group.mean, episode["action"].astype(np.float64).mean(axis=0), rtol=1e-12)
    shards = [normcli.stats(source, group_by="episode", shard=f"{i}/2") for i in (2, 1)]
    assert normcli.merge(shards).state == episodes.state


def test_exact_quantiles_where_averages_and_envelopes_of_episodes_are_wrong(
    exact: dict[str, normcli.Summary], frames: list[dict[str, Any]]
) -> None:
    """The last component is constant in four of five episodes: see the error of both usual ways next to ours."""
    truth, averaged, enveloped = (make(frames) for make in (robots.statistics, robots.averaged, robots.enveloped))
    for summary in exact.values():
        for q, percent in robots.QUANTILES.items():
            ours = summary.percentiles[str(percent)]
            right = [value for name in truth for value in truth[name][q]]
            np.testing.assert_allclose(ours, right, rtol=1e-14)
            ninth = np.concatenate([frame["action"] for frame in frames]).astype(np.float64)
            assert ours[2] == pytest.approx(np.quantile(ninth[:, 2], percent / 100), rel=1e-15)
    std = truth["action"]["std"][2]
    errors = {
        name: max(abs(table["action"][q][2] - truth["action"][q][2]) / std for q in robots.QUANTILES)
        for name, table in {"averaged": averaged, "enveloped": enveloped}.items()
    }
    assert errors["averaged"] > 3 and errors["enveloped"] > 1.5, errors


def test_lerobots_statistics_have_its_schema(exact: dict[str, normcli.Summary], frames: list[dict[str, Any]]) -> None:
    """Lists of one number for each component, and the number of frames: `serialize_dict` of LeRobot's statistics."""
    document = json.loads(exact["v3.0"].format("lerobot"))
    truth = robots.statistics(frames)
    assert list(document) == ["action", "observation.state"]
    for name, entry in document.items():
        assert set(entry) == {"min", "max", "mean", "std", "count", *robots.QUANTILES}
        assert entry["count"] == [1500]
        for row in entry.keys() - {"count"}:
            np.testing.assert_allclose(entry[row], truth[name][row], rtol=1e-12)


def test_lerobots_own_loader_reads_them(
    datasets: dict[str, Path], exact: dict[str, normcli.Summary], frames: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Version 0.3 reads v2.1, of which it adds up the statistics of episodes; 0.4 reads stats.json of v3."""
    needs.torchvision()
    lerobot = needs.module("lerobot.datasets.utils")
    truth = robots.statistics(frames)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/stats.json").write_text(exact["v3.0"].format("lerobot"))
    for name, entry in lerobot.load_stats(tmp_path).items():
        for row, values in entry.items():
            np.testing.assert_allclose(values, truth[name][row], rtol=1e-12)
    for path in datasets.values():
        features = lerobot.load_info(path)["features"]
        assert features["action"]["shape"] == (3,)
    if not hasattr(lerobot, "load_episodes_stats"):
        return
    (tmp_path / "meta/episodes_stats.jsonl").write_text(episodes_stats(datasets["v2.1"]))
    compute_stats = needs.module("lerobot.datasets.compute_stats")
    added = compute_stats.aggregate_stats([*lerobot.load_episodes_stats(tmp_path).values()])
    for name, entry in added.items():
        for row in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(entry[row], truth[name][row], rtol=1e-12)


def episodes_stats(dataset: Path) -> str:
    """Return episodes_stats.jsonl of v2.1, by the steps of docs/how-to/lerobot.md."""
    summary = normcli.stats(dataset, group_by="episode", exact_percentiles=True, percentiles="0,1,10,50,90,99,100")
    episodes = sorted(summary.groups, key=int)
    stats = [json.loads(summary.format("lerobot", group=episode)) for episode in episodes]
    return "".join(
        json.dumps({"episode_index": int(episode), "stats": each}) + "\n"
        for episode, each in zip(episodes, stats, strict=True)
    )


def test_statistics_of_an_episode_are_those_of_its_frames(
    datasets: dict[str, Path], frames: list[dict[str, Any]]
) -> None:
    lines = [json.loads(line) for line in episodes_stats(datasets["v2.1"]).splitlines()]
    assert [line["episode_index"] for line in lines] == [*range(len(frames))]
    for line, episode in zip(lines, frames, strict=True):
        truth = robots.statistics([episode])
        for name, entry in line["stats"].items():
            for row, values in entry.items():
                np.testing.assert_allclose(values, truth[name][row], rtol=1e-12, atol=1e-12)
    with pytest.raises(normcli.UsageError, match="`percentiles` 0,100 and `exact_percentiles`"):
        normcli.stats(datasets["v2.1"], group_by="episode").format("lerobot", group="3")


def test_openpis_statistics_have_its_keys(exact: dict[str, normcli.Summary], frames: list[dict[str, Any]]) -> None:
    document = json.loads(exact["v2.1"].format("openpi"))["norm_stats"]
    truth = robots.statistics(frames)
    assert set(document) == {"actions", "state"}
    for own, name in {"actions": "action", "state": "observation.state"}.items():
        assert set(document[own]) == {"mean", "std", "q01", "q99"}
        for row, values in document[own].items():
            np.testing.assert_allclose(values, truth[name][row], rtol=1e-12)


@pytest.mark.parametrize("exporter", ["lerobot", "openpi"])
def test_what_is_exported_is_read_back_as_right(
    exporter: str, exact: dict[str, normcli.Summary], datasets: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "statistics.json"
    path.write_text(exact["v3.0"].format(exporter))
    result = normcli.check_features(exact["v3.0"], path)
    assert result.is_right and not result.missing and len(result.outside) == 6
    assert run_here("verify", path, datasets["v2.1"]).code == 0
    assert run_here("check", datasets["v3.0"], "--config", path, "-q").code == 0


def test_wrong_quantiles_are_named_with_the_share_outside(
    datasets: dict[str, Path], frames: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(robots.averaged(frames)))
    done = run_here("verify", path, datasets["v3.0"])
    assert done.code == 1
    assert "action[gripper.pos]: q99 is -55.0332, of these frames 81.005" in done.out
    assert "action[shoulder.pos]: 19.7% of the frames are below q01 of the file" in done.out
    document = json.loads(run_here("verify", path, datasets["v3.0"], "--json").out)
    assert document["right"] is False and {one["quantity"] for one in document["wrong"]} == set(robots.QUANTILES)
    assert run_here("check", datasets["v3.0"], "--config", path).code == 1


def test_another_width_a_missing_feature_and_a_narrow_component_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    rows = np.stack([random.normal(size=5000), np.full(5000, 7.0), np.where(np.arange(5000) < 20, 9.0, 1.0)], axis=1)
    np.save(tmp_path / "a.npy", rows)
    summary = normcli.stats(normcli.source(tmp_path / "a.npy", layout="nc"))
    entry = {"mean": rows.mean(axis=0).tolist(), "std": rows.std(axis=0).tolist()}
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"vector": entry, "other": entry}))
    result = normcli.check_features(summary, path)
    assert result.is_right and result.missing == ["other"]
    assert result.narrow[0] == "1: constant, 7" and result.narrow[1].startswith("2: nearly constant: q99 - q01 is 0,")
    path.write_text(json.dumps({"vector": {"mean": [0.0] * 7, "std": [1.0] * 7}}))
    wide = normcli.check_features(summary, path)
    assert wide.widths == ["vector: 7 components in the file, 3 here"] and not wide.is_right
    path.write_text(json.dumps({"else": entry}))
    with pytest.raises(normcli.UsageError, match="no feature in common"):
        normcli.check_features(summary, path)


def test_pictures_of_a_camera(datasets: dict[str, Path]) -> None:
    for path in datasets.values():
        source = normcli.source(path, features="observation.images.top")
        summary = normcli.stats(source, group_by="episode")
        assert (summary.images, summary.channels, summary.unit) == (1500, ["R", "G", "B"], "image")
        assert summary.group("3").mean[0] == 3 / 255 and len(summary.groups) == 20
        tasks = normcli.stats(source, group_by="task").groups  # as vectors have them, and frames of videos
        assert {name: group.images for name, group in tasks.items()} == dict.fromkeys(robots.TASKS, 750)
        assert set(normcli.stats(source, group_by="task_index").groups) == {"0", "1"}


BAD = {
    "no such feature": ("features=gone", 2, "no feature 'gone'"),
    "vectors and pictures": ("features=action,observation.images.top", 2, "one feature of pictures"),
    "features twice": ("features=action,action", 2, "distinct names"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_features_are_one_line(case: str, datasets: dict[str, Path]) -> None:
    option, code, text = BAD[case]
    done = run_here("stats", datasets["v3.0"], "-O", option)
    assert done.code == code and text in done.err and done.err.count("\n") == 1, done


def test_a_description_that_does_not_fit_its_tables(frames: list[dict[str, Any]], tmp_path: Path) -> None:
    path = robots.write(tmp_path / "a", "v3.0", frames[:4])
    info = path / "meta/info.json"
    document = json.loads(info.read_text())
    document["features"]["action"]["shape"] = [4]
    info.write_text(json.dumps(document))
    done = run_here("stats", path)
    assert done.code == 4 and "3 numbers in column 'action', where meta/info.json has 4" in done.err
    assert done.err.count("\n") == 1
    del document["features"]["action"]["shape"]
    info.write_text(json.dumps(document))
    assert "no features with a dtype and a shape" in run_here("stats", path).err


def test_an_incremental_run_sees_a_table_that_changed(frames: list[dict[str, Any]], tmp_path: Path) -> None:
    path = robots.write(tmp_path / "a", "v2.1", frames[:3])
    first = normcli.stats(path, output=tmp_path / "s.json", incremental=True)
    (path / "data/chunk-000/episode_000002.parquet").unlink()
    second = normcli.stats(path, output=tmp_path / "s.json", incremental=True)
    assert (first.images, second.images) == (225, 150)
    assert second.state == normcli.stats(path).state


def test_videos_of_a_camera(frames: list[dict[str, Any]], tmp_path: Path) -> None:
    av = needs.module("av")
    path = robots.write(tmp_path / "a", "v3.0", frames[:2])
    info = path / "meta/info.json"
    document = json.loads(info.read_text())
    document["features"]["observation.images.top"] = {"dtype": "video", "shape": [32, 48, 3], "names": None}
    info.write_text(json.dumps(document))
    source = normcli.source(path, features="observation.images.top")
    with pytest.raises(normcli.NoInputError, match="no videos of feature"):
        normcli.stats(source)
    file = path / "videos/observation.images.top/chunk-000/file-000.mp4"
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for level in (0, 60, 120, 180):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert normcli.stats(source).state == normcli.stats(file).state
    every = normcli.stats(normcli.source(path, features="observation.images.top", frames="::2"))
    assert (every.images, every.unit) == (2, "image")
    with pytest.raises(normcli.NoInputError, match="no meta/episodes, in which v3 has the place"):
        normcli.stats(source, group_by="episode")


def test_frames_of_videos_have_the_episode_and_the_task_of_their_row(
    frames: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A video of v2.1 has one episode; in v3 the second begins at 2.5 s, and frames after the last have no row."""
    needs.module("av")
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    name = "observation.images.top"
    for version in ("v2.1", "v3.0"):
        path = robots.write(tmp_path / version, version, frames[:2])
        info = path / "meta/info.json"
        document = json.loads(info.read_text())
        document["features"][name] = {"dtype": "video", "shape": [16, 16, 3], "names": None}
        info.write_text(json.dumps(document))
        if version == "v2.1":
            for episode, level in enumerate((40, 200)):
                robots.film(path / f"videos/chunk-000/{name}/episode_{episode:06d}.mp4", [level] * 75)
        else:
            robots.film(path / f"videos/{name}/chunk-000/file-000.mp4", [40] * 75 + [200] * 75 + [0] * 2)
            (path / "meta/episodes/chunk-000").mkdir(parents=True)
            columns = {"chunk_index": [0, 0], "file_index": [0, 0], "from_timestamp": [0.0, 2.5]}
            rows = {"episode_index": [0, 1], **{f"videos/{name}/{key}": row for key, row in columns.items()}}
            parquet.write_table(pa.table(rows), path / "meta/episodes/chunk-000/file-000.parquet")
        source = normcli.source(path, features=name)
        for group_by, names in (("episode", ["0", "1"]), ("task", robots.TASKS), ("task_index", ["0", "1"])):
            groups = normcli.stats(source, group_by=group_by, workers=2).groups
            assert {*groups} == {*names, *(["."] if version == "v3.0" else [])}
            assert [groups[name].images for name in names] == [75, 75]
            np.testing.assert_allclose([groups[name].mean[0] * 255 for name in names], [40, 200], atol=3)
        some = normcli.stats(normcli.source(path, features=name, frames="70:80"), group_by="episode").groups
        assert [some[name].images for name in ("0", "1")] == [5, 5]
        assert set(normcli.stats(source, group_by=r"(\w+)\.mp4").groups) >= {
            "episode_000000" if version == "v2.1" else "000"
        }
