"""Statistics files that somebody else wrote: no text in them runs, in a shell, in Python, in YAML or in TOML."""

import ast
import csv
import io
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import normcli
from normcli.constants import exporters
from normcli.constants.exporters.quote import one_line
from normcli.errors import StatisticsFileError, UsageError
from normcli.summary import GroupSummary, Summary
from tests.support.command import ROOT, Run
from tests.support.images import photograph

DATA_FORMATS = {
    *("csv", "yaml", "toml", "env", "huggingface", "kaldi", "lerobot", "openpi", "nnunet", "omero", "bioimageio"),
    *("terratorch", "stac", "gdal", "markdown"),
}
PYTHON_FORMATS = sorted(set(exporters.EXPORTERS) - DATA_FORMATS)
FORGED = (
    "R'; touch pwned; echo '",
    "224\ntouch pwned\n#",
    "x\r__import__('os').system('touch pwned')\r#",
    "$(touch pwned)",
    "`touch pwned`",
    '"; touch pwned; "',
    "\u2028open('pwned', 'w')\u2028#",
    "\x85pwned: yes\x85#",
    "\x1b]0;title\x07",
    "',\n]\nopen('pwned', 'w')\nx = ['",
    '"""\nopen("pwned", "w")\n"""',
    "\\",
    "'",
    '"',
    "# x",
    "a b",
    "",
    "é",
    "\ud800",
    "\0",
)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    from PIL import Image

    folder = tmp_path_factory.mktemp("set")
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.fromarray(photograph(16, 16, 3, seed=len(name))).save(folder / name / "1.png")
    return normcli.stats(folder, group_by="folder", resize=8)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value of a document, the exact state left out."""
    if at and at != ("schema",):
        yield at
    if at == ("state",):
        return
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from paths(entry, (*at, key))
    elif isinstance(value, list):
        for position, entry in enumerate(value):
            yield from paths(entry, (*at, position))


def changed(document: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy of a document with one other value."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    parent: Any = copy
    for key in at[:-1]:
        parent = parent[key]
    parent[at[-1]] = value
    return copy


def evaluated(text: str, exporter: str) -> dict[str, Any]:
    """Run a Python snippet where imports give stand-ins and no other builtin exists but dict."""
    names: dict[str, Any] = {"__builtins__": {"__import__": lambda *_: MagicMock(), "dict": dict}}
    exec(compile(text, exporter, "exec"), names)
    return names


class TestLoad:
    def test_forged_text_at_any_place_is_rejected_or_stays_on_its_line(self, summary: Summary) -> None:
        document = json.loads(summary.to_json())
        places = list(paths(document))
        assert ("channels", 0) in places and ("settings", "resize") in places
        for at in places:
            for text in FORGED:
                try:
                    loaded = Summary.from_json(json.dumps(changed(document, at, text)))
                except StatisticsFileError as error:
                    assert "\n" not in str(error)
                    continue
                # what remains: free text that is one plain line
                assert at[0] in ("provenance", "settings"), (at, text)
                assert at[-1] == "group_by" or at[0] == "provenance"
                assert text.isprintable(), (at, text)
                for name in PYTHON_FORMATS:
                    assert exporters.export(loaded, name) == exporters.export(summary, name)

    def test_forged_names_of_keys_are_rejected(self, summary: Summary) -> None:
        document = json.loads(summary.to_json())
        for key in ("settings", "provenance", "failures", "skips", "conventions", "composition"):
            for name in ("x\ntouch pwned", "\x1b[2J"):
                value: Any = {"mean": [0.5] * 3, "std": None} if key == "conventions" else 1
                with pytest.raises(StatisticsFileError, match=key):
                    Summary.from_json(json.dumps(changed(document, (key, name), value)))

    @pytest.mark.parametrize(
        ("at", "value"),
        [
            (("mean", 0), 10**400),
            (("pixels",), 10**400),
            (("images",), 2**63),
            (("sample",), {}),
            (("sample",), "text"),
            (("settings", "shard"), "1/4"),
            (("settings", "resize"), "224"),
            (("settings", "resize"), True),
            (("settings", "alpha"), "composite:white\nx"),
            (("settings", "color"), "cmyk"),
            (("settings", "new"), [[[[[1]]]]]),
            (("provenance", "stamp"), 1),
            (("shards",), {"of": 100_000_000, "parts": [1]}),
            (("channel_order",), "BGR"),
            (("convention",), "fixed"),
            (("range",), "0-255"),
            (("forced",), ["settings.a b"]),
            (("state", "buckets", 0, "dtype"), "int8"),
            (("state", "buckets"), []),
        ],
    )
    def test_values_out_of_range_are_one_line(self, at: tuple[Any, ...], value: Any, summary: Summary) -> None:
        with pytest.raises(StatisticsFileError, match=rf"^.*{at[0]}.*\Z"):
            Summary.from_json(json.dumps(changed(json.loads(summary.to_json()), at, value)))

    def test_the_command_exits_with_2(self, summary: Summary, run: Run, tmp_path: Path) -> None:
        document = json.loads(summary.to_json())
        forged = (("channels", 0), FORGED[0]), (("settings", "resize"), FORGED[1]), (("convention",), FORGED[1])
        for at, value in forged:
            (tmp_path / "evil.json").write_text(json.dumps(changed(document, at, value)))
            for command in (["show", "evil.json", "--format", "env"], ["merge", "evil.json"]):
                done = run(*command)
                assert (done.returncode, done.stdout) == (2, b"")
                assert done.stderr.count(b"\n") == 1 and f"{at[0]!r} of the wrong type".encode() in done.stderr

    def test_settings_of_a_newer_version_are_read(self, summary: Summary) -> None:
        document = changed(json.loads(summary.to_json()), ("settings", "novelty"), {"value": -9999.0})
        assert Summary.from_json(json.dumps(document)).settings["novelty"] == {"value": -9999.0}

    def test_a_group_by_that_would_be_rejected_is_never_written(self) -> None:
        with pytest.raises(UsageError, match="control characters"):
            normcli.stats(ROOT / "sample_data", group_by="a\nb")


class TestExporters:
    """Summaries in Python are not checked on load: the exporters quote every text in them."""

    @staticmethod
    def forged(summary: Summary, text: str) -> Summary:
        settings = {**summary.settings, "resize": text, "center_crop": text}
        group = {text: summary.groups["a"]}
        return summary.replace(
            channels=[text, "G", text], convention=text, settings=settings, groups=group, channel_order=text
        )

    @pytest.mark.parametrize("name", PYTHON_FORMATS)
    @pytest.mark.parametrize("text", FORGED)
    def test_python(self, name: str, text: str, summary: Summary) -> None:
        plain, forged = self.forged(summary, "x"), self.forged(summary, text)
        snippets = [exporters.export(one, name, digits=4) for one in (plain, forged)]
        trees = [ast.parse(snippet) for snippet in snippets]
        for node in ast.walk(trees[1]):  # a name that is data, such as that of a band
            if isinstance(node, ast.Constant) and node.value in (text, f"{text} 2"):
                node.value = node.value.replace(text, "x") if text else f"x{node.value}"
        assert ast.dump(trees[0]) == ast.dump(trees[1])
        assert len(snippets[0].split("\n")) == len(snippets[1].split("\n"))
        evaluated(snippets[1], name)
        note = exporters.export(forged.replace(convention="pooled_population"), name, group=text)
        ast.parse(note)

    @pytest.mark.parametrize("text", [text for text in FORGED if text not in ("\0", "\ud800")])  # no shell takes these
    def test_sh(self, text: str, summary: Summary, tmp_path: Path) -> None:
        (tmp_path / "env.sh").write_text(exporters.export(self.forged(summary, text), "env"), encoding="utf-8")
        script = 'eval "$(cat env.sh)"; printf "%s|" "$DATASET_CHANNELS" "$DATASET_MEAN" "$DATASET_STD"'
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        channels, mean, std, _ = done.stdout.decode().rsplit("|", 3)
        assert channels == f"{text} G {text}"
        assert [float(v) for v in mean.split()] == summary.mean and [float(v) for v in std.split()] == summary.std
        assert [p.name for p in tmp_path.iterdir()] == ["env.sh"]

    @pytest.mark.parametrize("text", FORGED)
    def test_data_formats(self, text: str, summary: Summary) -> None:
        forged = self.forged(summary, text)
        text = text.encode("utf-8", "backslashreplace").decode()
        for read in (yaml.safe_load, tomllib.loads):
            data = read(exporters.export(forged, {yaml.safe_load: "yaml", tomllib.loads: "toml"}[read]))
            assert sorted(data) == ["channels", "convention", "mean", "range", "std"]
            assert (data["channels"], data["convention"]) == ([text, "G", text], text)
            assert (data["mean"], data["std"]) == (summary.mean, summary.std)
        assert json.loads(exporters.export(forged, "huggingface"))["image_mean"] == summary.mean

    @pytest.mark.parametrize("text", FORGED)
    def test_formats_of_statistics(self, text: str, summary: Summary) -> None:
        forged = self.forged(summary, text)
        plain = text.encode("utf-8", "backslashreplace").decode()
        texts = {name: exporters.export(forged, name) for name in ("nnunet", "omero", "stac", "lerobot", "openpi")}
        found = {name: json.loads(one) for name, one in texts.items()}
        assert all(one.isascii() for one in texts.values())
        assert [channel["label"] for channel in found["omero"]["omero"]["channels"]] == [text, "G", text]
        assert [band["name"] for band in found["stac"]["assets"]["data"]["eo:bands"]] == [text, "G", text]
        options = yaml.safe_load(exporters.export(forged, "terratorch"))["data"]["init_args"]
        assert options["output_bands"] == [plain, "G", plain]
        steps = yaml.safe_load(exporters.export(forged, "bioimageio"))["preprocessing"]
        assert [step["id"] for step in steps][-1] == "fixed_zero_mean_unit_variance" and len(steps) == 3
        root = ElementTree.fromstring(exporters.export(forged, "gdal"))
        names = [element.text or "" for element in root.iter("Description")]
        assert names == [one_line(text), "G", one_line(text)] and len(root) == 3
        card = exporters.export(forged, "markdown")
        same = exporters.export(self.forged(summary, "x"), "markdown")
        assert card.count("\n") == same.count("\n")
        for line, other in zip(card.split("\n"), same.split("\n"), strict=True):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == other.count("|")

    @given(st.text(st.characters(codec="utf-8"), max_size=20))
    def test_any_text_comes_back_from_yaml_toml_and_csv(self, text: str) -> None:
        forged = self.forged(_summary(), text)
        for name, read in (("yaml", yaml.safe_load), ("toml", tomllib.loads)):
            assert read(exporters.export(forged, name))["channels"] == [text, "G", text]
        rows = list(csv.reader(io.StringIO(exporters.export(forged, "csv"), newline="")))
        assert [row[0] for row in rows] == ["channel", text, "G", text]

    def test_small_and_large_numbers_are_numbers_in_yaml(self, summary: Summary) -> None:
        """YAML 1.1 takes 1e-05 for text: it wants a point."""
        values = [1e-05, 1e22, 5e-324]
        one = summary.replace(mean=values, std=values, range="raw", max_value=None)
        for name, read in (("yaml", yaml.safe_load), ("toml", tomllib.loads)):
            assert read(exporters.export(one, name))["mean"] == values


def _summary() -> Summary:
    summary = normcli.load(ROOT / "sample_data" / "expected.json")
    group = GroupSummary(
        images=1,
        pixels=1,
        mean=summary.mean,
        std=summary.std,
        percentiles=summary.percentiles,
        conventions=summary.conventions,
    )
    return summary.replace(groups={"a": group})
