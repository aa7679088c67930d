"""Sweeps over all combinations that libraries write, each file against NumPy: right, or refused in words that fit.

The light version takes a part of each; `-m campaign` takes all and prints the figures.
"""

import itertools

import pytest

from tests.support import needs, sweeps

needs.modules("tifffile", "imagecodecs")

_MAXVALS = (1, 2, 3, 5, 7, 11, 15, 17, 51, 85, 100, 127, 254, 255, 256, 257, 1000, 1023, 4095, 21845, 65534, 65535)


@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_a_part_of_each_sweep_is_right_or_refused(name: str) -> None:
    light = {"tiff": lambda: sweeps.tiffs(211), "pnm": lambda: sweeps.pnms(_MAXVALS)}
    counts, wrong = sweeps.judge(light.get(name, sweeps.SWEEPS[name])())
    assert not wrong and counts["right"] > counts["refused"], wrong


@pytest.mark.campaign
@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_every_combination_is_right_or_refused(name: str) -> None:
    counts, wrong = sweeps.judge(sweeps.SWEEPS[name]())
    print(f"\n{name}: {sum(counts.values()):,} files, {dict(counts)}")
    assert not wrong, wrong[:20]


def test_a_sweep_sees_what_is_wrong() -> None:
    sample = next(itertools.islice(sweeps.pngs(), 1))
    assert sweeps.outcome(sample) == "right"
    assert sweeps.outcome(sample._replace(values=sample.values + 1)).startswith("wrong values")
    assert sweeps.outcome(sample._replace(white=None)).startswith("wrong scale")
    assert sweeps.outcome(sample._replace(data=sample.data[:8])).startswith("wrong words")
