"""Our own parsers: every input that once broke one, and a light search by mutation in the fuzzer's own harness.

The long search is guided by coverage: `python -m tests.fuzz NAME --minutes 10` (dependency group `fuzz`).
"""

import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, Target
from tests.support import needs

CRASHES = sorted((Path(__file__).parent / "crashes").rglob("*.bin"))
WORDS = [b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"{", b"[" * 200, b'"', b"1e999", b"-1", b"null", b"\n"]


def seeds_of(name: str) -> tuple[Target, list[bytes]]:
    target = TARGETS[name]
    try:
        return target, target.seeds()
    except ImportError as error:
        needs.skip(needs.INSTALL[str(error.name)])


def mutated(seed: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change an input: cut it, with or without its end, flip a bit, zero a page, write a word, insert a piece."""
    at = rng.randrange(len(seed) + 1)
    kind = rng.randrange(7)
    if kind == 0:
        return seed[:at]
    if kind == 1:
        return seed[:at] + seed[-rng.randint(1, 64) :]
    out = bytearray(seed)
    if kind == 2 and out:
        out[at % len(out)] ^= 1 << rng.randrange(8)
    elif kind == 3:
        out[at : at + 512] = bytes(len(out[at : at + 512]))
    elif kind == 4:
        word = rng.choice(WORDS)
        out[at : at + len(word)] = word
    elif kind == 5:
        out[at:at] = other[rng.randrange(len(other) + 1) :][:64]
    else:
        out[at : at + rng.randint(1, 9)] = rng.choice(WORDS)
    return bytes(out)


def search(name: str, folder: Path, count: int, seed: int) -> None:
    target, seeds = seeds_of(name)
    path = folder / f"input{target.suffix}"
    rng = random.Random(f"{name}{seed}")
    for start in seeds:
        target.run(start, path)
    for start in seeds:  # cut at 100 places, plainly and with its end put behind the cut
        for step in range(100):
            target.run(start[: len(start) * step // 100], path)
            target.run(start[: len(start) * step // 100] + start[-24:], path)
    for _ in range(count):
        data = mutated(rng.choice(seeds), rng.choice(seeds), rng)
        while rng.random() < 0.5:
            data = mutated(data, rng.choice(seeds), rng)
        target.run(data, path)


@pytest.mark.parametrize("path", CRASHES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_once_broke_a_parser_is_refused_in_words(path: Path, tmp_path: Path) -> None:
    target, _ = seeds_of(path.parent.name)
    target.run(path.read_bytes(), tmp_path / f"input{target.suffix}")


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # the command line does not show them
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutations_end_in_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search(name, tmp_path, 150, seed=1)


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_ten_thousand_mutations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search(name, tmp_path, 10_000, seed=2)


def test_every_crash_names_a_parser() -> None:
    assert {path.parent.name for path in CRASHES} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_modules_that_a_campaign_instruments_exist(name: str) -> None:
    assert [module for module in TARGETS[name].modules if find_spec(module) is None] == []


def test_the_harness_sees_what_is_no_error_of_ours(tmp_path: Path) -> None:
    def parse(data: bytes, path: Path) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Target("wrong", parse, list, ()).run(b"", tmp_path / "a")


SUFFIXES = sorted({target.suffix for target in TARGETS.values()} - {"", ".checkpoint"})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sound_file_under_another_ones_name(suffix: str, tmp_path: Path) -> None:
    """The content decides about the reader, or the file is rejected with a message."""
    reader = next(target for target in TARGETS.values() if target.suffix == suffix)
    for name in TARGETS:
        try:
            seeds = TARGETS[name].seeds()
        except ImportError:
            continue
        for seed in seeds:
            try:
                reader.run(seed, tmp_path / f"input{suffix}")
            except ImportError as error:
                needs.skip(needs.INSTALL[str(error.name)])
