"""Every block of the pages below docs runs, or is parsed; outputs on the pages are those that are printed."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

import normcli
from normcli.cli import main, tensor
from tests.support import needs, page_data, pages, stand_ins
from tests.support.command import ROOT
from tests.support.images import photograph
from tests.support.pages import Block

# the others run in tests/test_docs_apply.py, which looks at their outputs
PAGES = [name for name in pages.names() if name not in ("README.md", "docs/apply.md")]
# options of other programs that the pages name
FOREIGN = {
    "--array",
    "--dependency",
    "--parsable",
    "--wrap",
    "--cores",
    "--for",
    "--timeout",
    "--group",
    "--user",
    "--cpus",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which a page runs; the stand-ins are in another one next to it."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_the_page_run(name: str, folder: Path) -> None:
    for block in pages.run_page(name, folder):
        needs.missing(block.missing)


WRONG = [
    Block("bash", "", "normcli show nothing.json\n"),
    Block("bash", "a.sh", "if true; then\n"),
    Block("console", "", "$ echo a\nb\n"),
    Block("console", "", "$ normcli show nothing.json\nnormcli: nothing.json: no such file\n"),  # no exit code
    Block("python", "", "raise SystemExit(1)\n"),
    Block("python", "a.py", "def f(:\n"),
    Block("yaml", "a.yaml", "a: [1\n"),
    Block("toml", "", "a = \n"),
    Block("", "", "normcli stats photos\n"),
]


@pytest.mark.parametrize("block", WRONG, ids=lambda block: f"{block.language} {block.text[:20]!r}")
def test_a_wrong_block_is_seen(block: Block, folder: Path) -> None:
    with pytest.raises(AssertionError):
        pages.run_block(block, folder)


def test_a_wrong_command_in_a_table_is_seen(folder: Path) -> None:
    table = "| job | command |\n|---|---|\n| show | `normcli show nothing.json` |\n"
    with pytest.raises(AssertionError, match="no such file"):
        pages.run_text(table, folder)


def test_output_is_written_anew_where_it_changed(folder: Path) -> None:
    text = "a\n\n```console\n$ echo 1\n2\n$ exit 3\n```\n\n```console\n$ echo 1\n...\n```\n"
    fresh = text.replace("\n2\n$ exit 3\n", "\n1\n$ exit 3\n$ echo $?\n3\n")
    assert pages.rerun(text, folder) == fresh == pages.rerun(fresh, folder)


def scripts(block: Block) -> list[str]:
    """Return the commands of the jobs of a GitHub workflow or of GitLab CI."""
    document = yaml.safe_load(block.text)
    if "jobs" in document:
        return [step["run"] for job in document["jobs"].values() for step in job["steps"] if "run" in step]
    return [command for job in document.values() for command in job["script"]]


@pytest.mark.parametrize("name", ["github-action", "makefile"])
def test_the_commands_of_the_workflows_run(name: str, folder: Path) -> None:
    """Each in a shell of its own, as the services run them."""
    page = f"docs/how-to/{name}.md"
    pages.prepared(page, folder)
    pages.run_shell("normcli stats photos -q -o stats.json; cp stats.json reference.json", folder)
    (block,) = (b for b in pages.blocks((ROOT / page).read_text("utf-8")) if re.match(r"\.git(hub|lab)", b.title))
    assert len(scripts(block)) >= 3
    for script in scripts(block):
        pages.run_shell(script, folder)


class TestStandIns:
    """A stand-in fails where the real program would."""

    def test_an_array_job_runs_once_for_each_id(self, folder: Path) -> None:
        (folder / "a.sbatch").write_text('#!/bin/bash\n#SBATCH --array=1-3\nsrun echo "$SLURM_ARRAY_TASK_ID"\n')
        assert pages.run_shell("sbatch a.sbatch", folder) == "1\n2\n3\nSubmitted batch job 1\n"

    @pytest.mark.parametrize(
        ("file", "text", "command"),
        [
            ("a.sbatch", "#!/bin/bash\nexit 1\n", "sbatch a.sbatch"),
            ("a.sbatch", "srun true\n", "sbatch a.sbatch"),
            ("job.yaml", "{apiVersion: batch/v1, kind: Pod}", "kubectl apply -f job.yaml"),
            ("dvc.yaml", "stages: {a: {cmd: 'true', outs: [a.txt]}}", "dvc repro"),
            ("dvc.yaml", "stages: {a: {cmd: 'true', deps: [a.txt]}}", "dvc repro"),
            ("Snakefile", 'rule all:\n    input: "a.txt"\n', "snakemake --cores 1"),
            ("Snakefile", 'rule a:\n    output: "a.txt"\n    shell: "true"\n', "snakemake --cores 1"),
            ("a.txt", "", "pip install numpy"),
            ("a.txt", "", 'pip install "normcli[nothing]"'),
            ("a.txt", "", "docker run normcli/other stats photos"),
        ],
    )
    def test_it_fails(self, file: str, text: str, command: str, folder: Path) -> None:
        (folder / file).write_text(text)
        with pytest.raises(AssertionError):
            pages.run_shell(command, folder)

    def test_each_is_used_by_a_page(self) -> None:
        text = "".join((ROOT / name).read_text("utf-8") for name in PAGES)
        assert [name for name in stand_ins.STAND_INS if not re.search(rf"^\s*\S*\b{name} ", text, re.MULTILINE)] == []


def options() -> dict[str, set[str]]:
    """Return the options of every command."""
    found = {}
    for name, module in main.COMMANDS.items():
        command: Any = typer.main.get_command(importlib.import_module(module).app)
        every: list[Any] = (
            [command] if name != "tensor" else [tensor.command_of(subcommand) for subcommand in tensor.names()]
        )
        found[name] = {"--help", *(flag for one in every for parameter in one.params for flag in parameter.opts)}
    return found


def test_every_option_on_a_page_exists() -> None:
    known = options()
    top = {flag for parameter in typer.main.get_command(main.app).params for flag in parameter.opts}
    anywhere = set.union(FOREIGN, top, *known.values())
    wrong = []
    for name in [*PAGES, "README.md", "CONTRIBUTING.md"]:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / name).read_text("utf-8")):
            command = re.match(r"normcli (\w+)", code)
            allowed = known.get(command[1], anywhere) | top if command and command[1] != "tensor" else anywhere
            flags = re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)
            wrong += [(name, code) for flag in flags if flag not in allowed and not code.startswith(("pip", "docker"))]
            wrong += [(name, code) for match in [command] if match and match[1] not in known]
    assert wrong == []


class TestComparison:
    """The statements of docs/comparison.md about other tools: their formulas, on the images of the page."""

    def images(self, folder: Path) -> list["np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]:
        page_data.prepare("docs/comparison.md", folder)
        from PIL import Image

        return [np.asarray(Image.open(path)) / 255 for path in sorted((folder / "sizes").iterdir())]

    def test_orfeo_leaves_out_the_differences_between_images(self) -> None:
        equal = [photograph(seed=seed)[:, :, 0] * (0.3 + 0.1 * seed) / 255 for seed in range(4)]
        n, total = equal[0].size, sum(image.size for image in equal)
        std = np.sqrt(sum((image.size - 1) * image.var(ddof=1) for image in equal) / (total - len(equal)))
        np.testing.assert_allclose(std, np.sqrt(np.mean([i.var() for i in equal]) * n / (n - 1)), rtol=1e-12)

    def test_datumaro_is_pooled_only_for_equal_sizes_and_a_power_of_two(self, folder: Path) -> None:
        different = self.images(folder)
        equal = [image[:40, :40] for image in different]
        pooled = np.concatenate([image.ravel() for image in equal])
        np.testing.assert_allclose(datumaro(equal), (pooled.mean(), pooled.std(ddof=1)), rtol=1e-12)
        for images in (different, equal[:3]):
            pooled = np.concatenate([image.ravel() for image in images])
            assert abs(datumaro(images)[0] - pooled.mean()) > 0.001

    def test_the_commands_compute_them(self, folder: Path) -> None:
        images = self.images(folder)
        found = normcli.stats(folder / "sizes").conventions
        means = [image.mean() for image in images]
        np.testing.assert_allclose(found["mean_of_image_sample_stds"]["mean"][0], np.mean(means))  # type: ignore[index]
        stds = [image.std(ddof=1) for image in images]
        np.testing.assert_allclose(found["mean_of_image_sample_stds"]["std"][0], np.mean(stds))  # type: ignore[index]


def datumaro(images: list["np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]) -> tuple[float, float]:
    """Compute mean and std as Datumaro does: a tree of pairs, means unweighted, variances of samples merged."""

    def tree(rows: list[tuple[int, float, float]]) -> tuple[int, float, float]:
        if len(rows) == 1:
            return rows[0]
        (n, mean, var), (m, other, more) = tree(rows[: len(rows) // 2]), tree(rows[len(rows) // 2 :])
        squares = var * (n - 1) + more * (m - 1) + (other - mean) ** 2 * n * m / (n + m)
        return n + m, (mean + other) / 2, squares / (n + m - 1)

    _, mean, variance = tree([(i.size, float(i.mean()), float(i.var(ddof=1))) for i in images])
    return mean, variance**0.5
