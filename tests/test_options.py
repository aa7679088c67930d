"""Every option once: the command line, Python, the environment and configuration files take the same ones."""

import importlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import normcli
from normcli.cli import main
from normcli.cli.main import COMMANDS
from normcli.errors import UsageError
from normcli.options.apply import ApplyOptions, RestoreOptions, TransformOptions, VerifyOptions, VerifyStatisticsOptions
from normcli.options.field import Options, choices_of, options_of
from normcli.options.samples import IterableOptions
from normcli.options.stats import StatsOptions
from tests.support.command import Run

TWINS: dict[str, type[Options]] = {
    "stats": StatsOptions,
    "apply": ApplyOptions,
    "restore": RestoreOptions,
    "verify": VerifyStatisticsOptions,  # the command does both
}
IN_PYTHON = {
    **TWINS,
    "verify": VerifyOptions,
    "verify_statistics": VerifyStatisticsOptions,
    "transform": TransformOptions,
    "count": IterableOptions,
}
# what only the command line has: paths, lists, printing, loudness
ONLY_COMMANDS = {
    *("quiet", "progress", "verbose", "log_file", "debug", "help", "help_all"),
    *("files_from", "null", "failures", "per_image", "json", "format", "digits", "report", "output", "convention"),
}


def parameters(command: str) -> dict[str, Any]:
    """Return the options of a command, as Typer made them, by name."""
    app = importlib.import_module(COMMANDS[command]).app
    options = typer.main.get_command(app).params
    return {str(p.name): p for p in options if p.param_type_name == "option"}


def keywords(function: str) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(getattr(normcli, function))
    return {name: p for name, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_every_field_is_a_keyword_with_its_help(name: str) -> None:
    kind = IN_PYTHON[name]
    told = {p: value.default for p, value in keywords(name).items()}
    assert told == {f.name: f.default for f in options_of(kind)}
    text = inspect.getdoc(getattr(normcli, name)) or ""
    for f in options_of(kind):
        assert f"\n    {f.name}: {f.help[:20].replace('--', '')[:8]}" in text, f.name
    assert "--" not in text, "Python names parameters without dashes"


@pytest.mark.parametrize("name", TWINS)
def test_every_field_is_an_option_of_the_command(name: str) -> None:
    kind = TWINS[name]
    options = parameters(name)
    choices = choices_of(kind)
    for f in options_of(kind):
        if not f.cli:
            assert f.name not in options
            continue
        option = options.pop(f.name)
        default = () if option.default is None and isinstance(f.default, tuple) else option.default
        assert default == f.default, f.name
        assert tuple(getattr(option.type, "choices", ())) == choices.get(f.name, ()), f.name
        assert getattr(option.type, "case_sensitive", False) is False
        assert option.opts == list(f.flags or (f"--{f.name.replace('_', '-')}",))
        assert option.help == f.help.replace("[", "\\[")
        assert option.envvar == [f"NORMCLI_{name.upper()}_{f.name.upper()}", f"NORMCLI_{f.name.upper()}"]
    assert options.keys() <= ONLY_COMMANDS


@pytest.mark.parametrize("name", IN_PYTHON)
def test_choices_are_checked_in_python_too(name: str, tmp_path: Path) -> None:
    for option in choices_of(IN_PYTHON[name]):
        arguments = [tmp_path, tmp_path][: {"apply": 2, "restore": 2, "verify_statistics": 2}.get(name, 1)]
        with pytest.raises(UsageError, match=f"`{option}`: must be one of"):
            getattr(normcli, name)(*arguments, **{option: "nonsense"})


@pytest.mark.parametrize(
    ("function", "wrong", "right"),
    [
        ("stats", "colour", "color"),
        ("stats", "groupby", "group_by"),
        ("apply", "output_layuot", "output_layout"),
        ("transform", "range_", "nan"),
        ("restore", "workrs", "workers"),
        ("verify", "engin", "engine"),
    ],
)
def test_an_unknown_keyword_names_the_nearest(function: str, wrong: str, right: str, tmp_path: Path) -> None:
    arguments = ["unit"] if function == "transform" else [tmp_path, tmp_path / "out"]
    with pytest.raises(TypeError, match=rf"^{function}\(\) got an unexpected keyword argument '{wrong}'") as raised:
        getattr(normcli, function)(*arguments, **{wrong: 1})
    assert function == "transform" or f"(did you mean '{right}'?)" in str(raised.value)


def test_arguments_go_by_name_too_and_a_missing_one_is_named(folder: Path, tmp_path: Path) -> None:
    head = normcli.apply(sources=folder, output=tmp_path / "out", scheme="unit")  # type: ignore[call-arg]
    assert head.images == 12
    assert normcli.transform(scheme="unit") == normcli.transform("unit")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^apply\(\) missing a required argument: 'output'"):
        normcli.apply(folder)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="`output` is required"):
        normcli.apply(folder, None)
    assert normcli.apply(folder, None, scheme="unit", dry_run=True).images == 12


def test_options_know_which_are_not_as_by_default() -> None:
    assert StatsOptions().changed == StatsOptions(color="auto", nodata="tag").changed == frozenset()
    assert StatsOptions(color="gray", resize="20").changed == {"color", "resize"}


class TestTextIsOneValue:
    """B1: a text where several are taken is one of them, and not its letters."""

    def test_include_and_exclude(self, folder: Path, tmp_path: Path) -> None:
        assert normcli.apply(folder, tmp_path / "png", scheme="unit", include="*.png").images == 4
        written = [path.name for path in (tmp_path / "png").rglob("*.npy")]
        assert sorted(written) == ["deep.png.npy", "deep.png.npy", "gray.png.npy", "gray.png.npy"]
        assert normcli.apply(folder, tmp_path / "jpg", scheme="unit", exclude="*.png").images == 8
        assert normcli.stats(folder, include="*.png").images == 4
        assert normcli.stats(folder, exclude=["*.png", "0.jpg"]).images == 6

    def test_files(self, folder: Path, tmp_path: Path) -> None:
        one = str(folder / "cat/0.jpg")
        assert normcli.stats([], files=one).images == 1
        assert normcli.apply([], tmp_path / "one", scheme="unit", files=one).images == 1
        assert normcli.stats([], files=[one, str(folder / "dog/0.jpg")]).images == 2

    def test_sources(self, folder: Path) -> None:
        assert normcli.stats(str(folder)).images == normcli.stats([folder]).images == 12

    def test_open_options(self, tmp_path: Path) -> None:
        import numpy as np

        np.save(tmp_path / "x.npy", np.zeros((3, 3, 3, 3), np.uint8))
        for spelling in ("layout=nchw", ["layout=nchw"], {"layout": "nchw"}):
            assert normcli.stats(tmp_path / "x.npy", open_options=spelling).images == 3


def origins(run: Run, **environment: str) -> dict[tuple[str, str], tuple[Any, str]]:
    """Return (command, option) -> (value, origin), as `normcli env` tells."""
    done = run("env", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["settings"]
    return {(row["command"], row["option"]): (row["value"], row["origin"]) for row in rows}


def color(run: Run, *arguments: str, **environment: str) -> str:
    """Return the color in which `stats` counted."""
    done = run("stats", "images", "--json", "-q", *arguments, env=environment)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["settings"]["color"])


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("NORMCLI_"):
            monkeypatch.delenv(name)


class TestEnvironment:
    def test_one_command_and_every_command(self, run: Run, folder: Path) -> None:
        told = origins(run, NORMCLI_WORKERS="3", NORMCLI_STATS_WORKERS="2")
        assert told == {
            ("stats", "workers"): ("2", "NORMCLI_STATS_WORKERS"),
            **{(name, "workers"): ("3", "NORMCLI_WORKERS") for name in ("apply", "restore", "verify", "check", "diff")},
        }
        shared, own = {"NORMCLI_WORKERS": "-1"}, {"NORMCLI_STATS_WORKERS": "-1"}  # a number that is refused
        assert run("stats", folder, env=shared).returncode == run("stats", folder, env=own).returncode == 2
        assert run("stats", folder, env={**shared, "NORMCLI_STATS_WORKERS": "1"}).returncode == 0
        assert run("stats", folder, env={**own, "NORMCLI_WORKERS": "1"}).returncode == 2, "the specific one wins"
        assert run("stats", folder, "-j", "1", env={**own, **shared}).returncode == 0

    @pytest.mark.parametrize("name", ["NORMCLI_WORKERS", "NORMCLI_STATS_WORKERS"])
    def test_a_wrong_value_is_one_line(self, name: str, run: Run, folder: Path) -> None:
        done = run("stats", folder, env={name: "many"})
        assert done.returncode == 2 and b"--workers" in done.stderr and done.stderr.count(b"\n") == 1

    def test_flags_and_texts(self, run: Run, folder: Path) -> None:
        assert color(run, NORMCLI_COLOR="gray") == "gray"
        done = run("stats", folder, "--json", "-q", env={"NORMCLI_STRICT": "1", "NORMCLI_INCLUDE": "*.png"})
        found = json.loads(done.stdout)
        assert found["settings"]["strict"] is True and found["images"] == 4


FILES = [
    ("pyproject.toml", "[tool.normcli]\n{}\n[tool.normcli.stats]\n{}\n"),
    ("normcli.toml", "{}\n[stats]\n{}\n"),
]

WRONG = [
    ("wokers = 3", b"wokers is not an option of any command (did you mean 'workers'?)"),
    ("[stats]\nwokers = 3", b"wokers is not an option of stats (did you mean 'workers'?)"),
    ("[stats]\nscheme = 'unit'", b"scheme is not an option of stats"),
    ("[sats]\nworkers = 3", b"[sats] is not a command (did you mean 'stats'?)"),
    ("workers = ", b"is not valid TOML"),
    ("color = 'pink'", b"normcli.toml: color: must be one of auto, rgb"),
    ("workers = 'many'", b"normcli.toml: workers: must be an integer, not 'many'"),
    ("workers = 1.5", b"normcli.toml: workers: must be an integer, not '1.5'"),
    ("workers = true", b"normcli.toml: workers: must be text or a number, not true or false"),
    ("[stats]\nresize = [1, 2]", b"normcli.toml: resize: must be text or a number, not a list"),
    ("resize = {a = 1}\n", b"[resize] is not a command"),
    ("[stats]\nresize = {a = 1}", b"normcli.toml: resize: must be text or a number, not a table"),
    ("resize = 2026-01-01", b"normcli.toml: resize: must be text or a number, not a date"),
    ("strict = 1", b"normcli.toml: strict: must be true or false, not 1"),
    ("strict = 'yes'", b"normcli.toml: strict: must be true or false, not 'yes'"),
    ("include = [true]", b"normcli.toml: include: must be text or a number, not true or false"),
    ("color = ['rgb']", b"normcli.toml: color: must be text or a number, not a list"),
]


class TestConfiguration:
    @pytest.mark.parametrize(("name", "form"), FILES)
    def test_what_beats_what(self, name: str, form: str, run: Run, folder: Path, tmp_path: Path) -> None:
        place = tmp_path / name
        place.write_text(form.format('color = "gray"', ""))
        assert color(run) == "gray"
        assert origins(run) == {
            ("stats", "color"): ("gray", str(place)),
            ("apply", "color"): ("gray", str(place)),
            ("check", "color"): ("gray", str(place)),
            ("diff", "color"): ("gray", str(place)),
        }
        place.write_text(form.format('color = "gray"', 'color = "rgb"'))
        assert color(run) == "rgb", "the command's table beats the shared settings"
        assert origins(run)["stats", "color"] == ("rgb", str(place))
        assert origins(run)["apply", "color"] == ("gray", str(place))
        assert color(run, NORMCLI_COLOR="auto") == "auto", "the environment beats the file"
        assert origins(run, NORMCLI_COLOR="auto")["stats", "color"] == ("auto", "NORMCLI_COLOR")
        assert color(run, "--color", "gray", NORMCLI_COLOR="auto") == "gray", "the command line beats all"
        assert color(run, NORMCLI_CONFIG="") == "auto"
        assert origins(run, NORMCLI_CONFIG="") == {}

    def test_the_file_is_not_what_check_reads(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "normcli.toml").write_text('color = "gray"\n')
        (tmp_path / "config.json").write_text('{"mean": [0.5], "std": [0.5]}')
        environment = {"NORMCLI_CONFIG": str(tmp_path / "normcli.toml")}
        assert run("stats", folder, "-o", "s.json", "-q").returncode == 0
        plain, done = (run("check", "s.json", "--preset", "mnist", env=env) for env in ({}, environment))
        assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
        assert done.stdout
        environment["NORMCLI_CHECK_CONFIG"] = "config.json"
        assert origins(run, **environment)["check", "config"] == ("config.json", "NORMCLI_CHECK_CONFIG")

    def test_folders_above_and_another_file(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text('[tool.normcli]\ncolor = "gray"\n')
        done = run("stats", ".", "--json", "-q", cwd=folder / "cat")
        assert json.loads(done.stdout)["settings"]["color"] == "gray"
        (folder / "pyproject.toml").write_text('[tool.other]\ncolor = "rgb"\n')
        done = run("stats", ".", "--json", "-q", cwd=folder / "cat")
        assert json.loads(done.stdout)["settings"]["color"] == "gray", "a file without our table does not count"
        other = tmp_path / "other.toml"
        other.write_text('color = "rgb"\n')
        assert color(run, NORMCLI_CONFIG=str(other)) == "rgb"
        gone = run("stats", "images", env={"NORMCLI_CONFIG": "gone.toml"})
        assert gone.returncode == 2 and gone.stderr == b"normcli: NORMCLI_CONFIG: gone.toml does not exist\n"

    @pytest.mark.parametrize(("text", "words"), WRONG)
    def test_what_is_wrong_is_one_line(self, text: str, words: bytes, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "normcli.toml").write_text(text)
        done = run("stats", folder)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
        assert run("stats", folder, env={"NORMCLI_CONFIG": ""}).returncode == 0

    def test_an_option_of_another_command_is_passed_over(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "normcli.toml").write_text('scheme = "unit"\n')
        assert run("stats", folder, "-q").returncode == 0
        done = run("apply", folder, "-o", "out", "--json", "-q")
        assert json.loads(done.stdout)["settings"]["scheme"] == "unit"

    def test_values_of_every_type(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "normcli.toml").write_text(
            'quiet = true\n[stats]\ninclude = "*.png"\nmax-failures = 0\nconfidence = 0.9\n'
            '[apply]\ninclude = ["*.jpg", "gray.png"]\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n'
            "clip = [-1, 1]\n"
        )
        done = run("stats", folder, "--json")
        assert json.loads(done.stdout)["images"] == 4 and done.stderr == b""
        done = run("apply", folder, "-o", "out", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["images"] == 10, done.stderr
        import numpy as np

        np.save(tmp_path / "x.npy", np.zeros((3, 3, 3, 3), np.uint8))
        for value in ('"layout=nchw"', '["layout=nchw"]', '{layout = "nchw"}'):
            (tmp_path / "normcli.toml").write_text(f"[stats]\nopen-options = {value}\n")
            done = run("stats", "x.npy", "--json", "-q")
            assert done.returncode == 0 and json.loads(done.stdout)["images"] == 3, done.stderr


class TestTerminal:
    @pytest.mark.parametrize("before", [True, False])
    def test_logging_before_and_after_the_commands_name(
        self, before: bool, run: Run, folder: Path, tmp_path: Path
    ) -> None:
        def call(*options: str) -> Any:
            arguments = [*options, "stats"] if before else ["stats", *options]
            return run(*arguments, folder, "--engine", "serial")

        plain = call()
        assert b"engine: serial" not in plain.stderr and b"note:" in plain.stderr
        quiet = call("-q")
        assert quiet.stderr == b"" and quiet.stdout == plain.stdout
        assert b"12 inputs in " in call("-v").stderr
        assert call("-vv").stderr.count(b"\n") >= call("-v").stderr.count(b"\n") > plain.stderr.count(b"\n")
        logged = call("--log-file", "run.log")
        assert (
            logged.stderr.count(b"\n") == plain.stderr.count(b"\n")
            and "12 inputs in " in (tmp_path / "run.log").read_text()
        )

    @pytest.mark.parametrize("before", [True, False])
    def test_debug_prints_where(self, before: bool, run: Run) -> None:
        arguments = ["--debug", "stats", "nowhere"] if before else ["stats", "nowhere", "--debug"]
        done = run(*arguments)
        assert done.returncode == 4 and done.stderr.startswith(b"Traceback") and b"normcli: " in done.stderr
        assert b"Traceback" not in run("stats", "nowhere").stderr

    def test_choices_are_case_insensitive(self, run: Run, folder: Path, tmp_path: Path) -> None:
        assert color(run, "--color", "GRAY") == color(run, "--color", "Gray") == "gray"
        done = run("apply", folder, "-o", "out", "-s", "unit", "--to", "TAR", "--dtype", "Float16", "--json", "-q")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["settings"]["to"] == "tar" and (tmp_path / "out/shard-000000.tar").exists()


def test_listed_names_are_the_codes_own(run: Run) -> None:
    from normcli.constants.exporters import EXPORTERS
    from normcli.schemes import PRESETS, SCHEMES
    from normcli.sinks import OUTPUT_KINDS
    from normcli.sources import describe_formats
    from normcli.tensor.normalizers import NORMALIZERS

    expected = {
        "schemes": list(SCHEMES),
        "normalizers": [name.replace("_", "-") for name in NORMALIZERS],
        "presets": list(PRESETS),
        "formats": [row.name for row in describe_formats()],
        "outputs": list(OUTPUT_KINDS),
        "exporters": list(EXPORTERS),
    }
    everything = json.loads(run("list", "--json").stdout)
    assert {name: sorted(row["name"] for row in rows) for name, rows in everything.items()} == {
        name: sorted(names) for name, names in expected.items()
    }
    printed = run("list").stdout.decode()
    for name, names in expected.items():
        one = run("list", name.upper(), "--json")
        assert json.loads(one.stdout) == {name: everything[name]} and one.stderr == b""
        text = run("list", name).stdout.decode()
        assert text in printed
        lines = [line.split()[0] for line in text.splitlines()[1:] if line[2:3].strip()]
        assert sorted(lines) == sorted(names), "one name a row, its other cells below"
        assert all(any(value for key, value in row.items() if key != "name") for row in everything[name])


def test_an_unknown_table_is_one_line(run: Run) -> None:
    done = run("list", "sceme")
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr == b"normcli: unknown table 'sceme': did you mean 'schemes'?\n"


def test_env_prints_for_people_and_programs(run: Run) -> None:
    found = json.loads(run("env", "--json").stdout)
    assert found.keys() == {"versions", "extras", "folders", "variables", "settings"} and found["settings"] == []
    assert found["versions"]["normcli"] == normcli.__version__
    text = run("env").stdout.decode()
    assert "all defaults" in text and all(name in text for name in [*found["versions"], *found["extras"]])
    told = run("env", env={"NORMCLI_STATS_WORKERS": "2"}).stdout.decode()
    assert "stats --workers 2  (NORMCLI_STATS_WORKERS)" in told


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_list_of_commands_says_what_each_help_says(name: str) -> None:
    """The list reads the modules' text instead of making every command."""
    command = typer.main.get_command(importlib.import_module(main.COMMANDS[name]).app)
    paragraph = (command.help or "").split("\n\n")[0]
    assert paragraph and " ".join(main.summary_of(name).split()) == " ".join(paragraph.split())


class TestTensorDefaults:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        np.save(tmp_path / "x.npy", np.arange(48, dtype=np.float32).reshape(2, 4, 2, 3))
        return tmp_path

    def test_tables_of_tensor_and_of_one_normalizer(self, saved: Path, run: Run) -> None:
        (saved / "normcli.toml").write_text("[tensor]\nlayout = 'NCHW'\n[tensor.group-norm]\ngroups = 2\n")
        for name, options in (("group-norm", ["--groups", "2"]), ("instance-norm", [])):
            assert run("tensor", name, "x.npy", "-o", "a.npy", "-f", "-q").returncode == 0
            plain = {"NORMCLI_CONFIG": ""}
            same = run("tensor", name, "x.npy", "--layout", "NCHW", *options, "-o", "b.npy", "-f", "-q", env=plain)
            assert same.returncode == 0
            assert (saved / "a.npy").read_bytes() == (saved / "b.npy").read_bytes()
        rows = origins(run, NORMCLI_TENSOR_THREADS="1")
        assert rows["tensor", "layout"] == ("NCHW", str(saved / "normcli.toml"))
        assert rows["tensor group-norm", "groups"] == (2, str(saved / "normcli.toml"))
        assert rows["tensor", "threads"] == ("1", "NORMCLI_TENSOR_THREADS")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[tensor]\nlayuot = 'NCHW'", b"layuot is not an option of tensor (did you mean 'layout'?)"),
            (
                "[tensor.group-norms]\ngroups = 2",
                b"[tensor.group-norms] is not a normalizer (did you mean 'group-norm'?)",
            ),
            (
                "[tensor.group-norm]\ngruops = 2",
                b"gruops is not an option of tensor group-norm (did you mean 'groups'?)",
            ),
            ("[tensor.group_norm]\ngroups = 'x'", b"normcli.toml: groups: must be an integer, not 'x'"),
        ],
    )
    def test_a_wrong_key_is_named(self, text: str, message: bytes, saved: Path, run: Run) -> None:
        (saved / "normcli.toml").write_text(text)
        done = run("tensor", "group-norm", "x.npy", "--layout", "NCHW", "-o", "a.npy")
        assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1

    def test_variables_set_options_of_tensor(self, saved: Path, run: Run) -> None:
        environment = {"NORMCLI_TENSOR_LAYOUT": "NCHW", "NORMCLI_TENSOR_GROUPS": "2", "NORMCLI_QUIET": "1"}
        done = run("tensor", "group-norm", "x.npy", "-o", "a.npy", env=environment)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_variable_that_sets_nothing_is_named_in_one_line(run: Run, folder: Path) -> None:
    known = {"NORMCLI_DIFF_MAX_SHIFT": "1", "NORMCLI_RETRIES": "1", "NORMCLI_TENSOR_GROUPS": "2", "NORMCLI_PLOT": "0"}
    assert run("list", "schemes", env=known).stderr == b""
    done = run("list", "schemes", env={**known, "NORMCLI_WOKERS": "3"})
    assert (done.returncode, done.stderr) == (0, b"note: NORMCLI_WOKERS sets nothing (did you mean NORMCLI_WORKERS?)\n")
    assert run("list", "schemes", "-q", env={"NORMCLI_WOKERS": "3", "NORMCLI_QUIET": "1"}).stderr == b""


def test_the_environment_sets_what_a_command_declares_itself(run: Run, folder: Path) -> None:
    assert run("stats", folder, "-o", "s.json", "-q").returncode == 0
    plain = run("show", "s.json").stdout
    assert len(run("show", "s.json", env={"NORMCLI_SHOW_PLOT": "1"}).stdout) > len(plain) + 100
