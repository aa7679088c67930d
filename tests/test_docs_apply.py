"""README.md and docs/apply.md run as written, block after block, beside a folder called photos."""

import re
from pathlib import Path

import pytest

import normcli
from normcli.schemes import SCHEMES
from normcli.sinks import OUTPUT_KINDS
from tests.support import needs, page_data, pages
from tests.support.command import ROOT

TEXT = (ROOT / "docs/apply.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
(TORCH,) = (block for block in pages.blocks(TEXT) if "DataLoader" in block.text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of photographs in which the shell blocks of docs/apply.md have run."""
    place = pages.prepared("docs/apply.md", tmp_path_factory.mktemp("docs"))
    for block in pages.blocks(TEXT):
        if block.language == "bash" and not block.missing:
            pages.run_block(block, place)
    return place


def test_the_shell_blocks_run(folder: Path) -> None:
    assert len(list((folder / "back").rglob("*.*"))) == len(page_data.PHOTOS)
    assert (folder / "dawn.npy").read_bytes()[:6] == b"\x93NUMPY"
    assert (folder / "dawn.png").read_bytes()[:4] == b"\x89PNG"
    assert list((folder / "pngs/photos").rglob("*.png.npy"))


def test_the_torch_block_runs(folder: Path) -> None:
    needs.module("torch")
    told = 'print("batches", sum(1 for _ in DataLoader(Photos("photos"), batch_size=None)), type(batch).__name__)\n'
    photographs = len(list((folder / "photos").rglob("*.jpg")))
    assert photographs > 0
    block = pages.Block("python", "", TORCH.text + told)
    assert pages.run_block(block, folder) == f"batches {photographs} Tensor\n"
    broken = TORCH.text.replace("shape[0] == 3", "shape[0] == 4")
    assert broken != TORCH.text
    with pytest.raises(AssertionError):
        pages.run_block(pages.Block("python", "", broken), folder)


def test_the_torch_block_is_python_that_names_what_there_is() -> None:
    """The block compiles, and its names of normcli exist, also where torch is missing."""
    compile(TORCH.text, "docs/apply.md", "exec")
    names = set(re.findall(r"\bnormcli\.(\w+)", TORCH.text))
    assert names and names <= set(normcli.__all__)


def test_the_readmes_blocks_run(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    left = pages.run_page("README.md", folder)
    for name in ("arrays", "cropped", "listed"):
        assert (folder / name / "normcli.json").exists()
    languages = [block.language for block in pages.blocks(README)]
    assert languages == ["bash", "sh", "console", "console", "bash", "python", "bash"]
    for block in left:
        needs.missing(block.missing)


def test_the_picture_shows_the_sample_scenes() -> None:
    summary = normcli.load(ROOT / "sample_data" / "expected.json")
    text = (ROOT / "docs/stats.svg").read_text("utf-8").replace("&#160;", " ")
    assert "normcli stats sample_data/scenes" in text and f"{summary.images} images" in text
    for values in (summary.mean, summary.std, summary.conventions["mean_of_image_stds"]["std"] or []):
        assert [value for value in values if f"{value:.4f}" not in text] == []
    assert [name for name in summary.conventions if name.replace("_", " ") not in text] == []


def test_every_scheme_and_output_has_a_line() -> None:
    for name in [*SCHEMES, *OUTPUT_KINDS]:
        assert re.search(rf"^\| .*`{name}`", TEXT, re.MULTILINE), name
