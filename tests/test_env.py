"""`normcli env`: versions, extras, cache, variables, and the settings in force with their origin."""

import json
import os
from pathlib import Path

import pytest

import normcli
from normcli.cli.defaults import VARIABLES
from tests.support.command import ROOT, Run


def test_every_section_has_its_rows(run: Run, tmp_path: Path) -> None:
    (tmp_path / "normcli.toml").write_text("workers = 2\n[stats]\nsample = '9%'\n[apply]\nto = 'npz'\n")
    variables = {"NORMCLI_STATS_SAMPLE": "5%", "NORMCLI_AOT": "0", "NORMCLI_VERIFY_QUIET": "1"}
    found = json.loads(run("env", "--json", env=variables).stdout)
    assert list(found) == ["versions", "extras", "folders", "variables", "settings"]
    assert found["versions"]["normcli"] == normcli.__version__
    assert found["folders"]["package"] == str(ROOT / "normcli")
    assert found["folders"]["configuration"] == str(tmp_path / "normcli.toml")
    assert found["variables"]["NORMCLI_AOT"] == "0"
    settings = {(row["command"], row["option"]): (row["value"], row["origin"]) for row in found["settings"]}
    file = str(tmp_path / "normcli.toml")
    assert settings["stats", "sample"] == ("5%", "NORMCLI_STATS_SAMPLE")  # over the file's
    assert settings["apply", "to"] == ("npz", file) and settings["stats", "workers"] == (2, file)
    assert settings["verify", "quiet"] == ("1", "NORMCLI_VERIFY_QUIET")
    text = run("env", env=variables).stdout.decode()
    for line in (
        "  stats --sample 5%  (NORMCLI_STATS_SAMPLE)",
        f"  apply --to npz  ({file})",
        "  NORMCLI_AOT  0",
    ):
        assert line in text.splitlines()


def test_without_settings(run: Run) -> None:
    clean = {name: "" for name in os.environ if name.startswith("NORMCLI_")}
    done = run("env", env=clean)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.endswith(b"\n  all defaults\n")


def test_control_characters_of_a_value_do_not_reach_the_terminal(run: Run) -> None:
    done = run("env", env={"NORMCLI_WORKERS": "a\x1b[31mb\nc"})
    assert b"\x1b" not in done.stdout and rb"--workers a\x1b[31mb\nc  (NORMCLI_WORKERS)" in done.stdout


def test_the_kernel_cache_says_what_it_has(run: Run, tmp_path: Path) -> None:
    def cache(**environment: str) -> str:
        return str(json.loads(run("env", "--json", env=environment).stdout)["folders"]["kernel cache"])

    place = tmp_path / "cache" / "normcli"
    variables = {"NUMBA_CACHE_DIR": str(place.parent)}
    assert cache(**variables) == f"{place} (empty)"
    place.mkdir(parents=True, mode=0o700)
    assert cache(**variables) == f"{place} (empty)"
    (place / "add-0.o").write_bytes(b"x" * 160_000)
    assert cache(**variables) == f"{place} (1 kernel, 0.2 MB)"
    place.chmod(0o777)
    assert cache(**variables) == f"{place} (not used: other users may write it)"


@pytest.mark.parametrize("name", VARIABLES)
def test_the_manual_has_every_variable(name: str) -> None:
    assert f".B {name}\n" in (ROOT / "docs" / "normcli.1").read_text()
