"""Options of the commands of `tensor` that are no normalizers."""

import os
from functools import partial
from typing import Literal

from normcli.errors import UsageError
from normcli.options.field import Options, option, parse_size, parse_texts

StrPath = str | os.PathLike[str]


class FoldOptions(Options):
    """All options of `tensor fold`."""

    panel = "Normalization"

    pair: tuple[str, ...] = option(
        "Fold the norm of two adjacent layers into the weights of the other, in the order of the data: conv1:bn1, "
        "bn0:fc, ln1:q,k,v (a norm before several layers), fc,embed:ln (the mean-centering of a layer norm), "
        "input:conv1 (--stats). Repeatable.",
        (),
        metavar="A:B",
        parse=lambda values: parse_texts("pair", values),
    )
    auto: bool = option(
        "Find the pairs, and fold those that the outputs of the layers in --verify prove to be adjacent.", False
    )
    verify: StrPath | None = option(
        "Check the result on a tensor, the input of a layer; or prove that pairs are adjacent on a file of the outputs "
        "of all layers, each under its name (default: random input).",
        metavar="FILE",
    )
    stats: StrPath | None = option(
        "Statistics file whose mean and std the pair input:LAYER folds into that layer.", metavar="FILE", panel="Input"
    )
    input_range: str = option(
        "Range of the pixels that the folded network is fed: 0-1, 0-255 or LOW,HIGH; requires --stats.",
        "0-1",
        metavar="RANGE",
        panel="Input",
    )
    eps: float = option("Number added to the variance of batch norms.", 1e-5, metavar="X", minimum=0)
    weight_offset: float = option(
        "Number added to the stored weight of norms without running statistics: 1 for Gemma.", 0.0, metavar="X"
    )
    transposed: tuple[str, ...] = option(
        "Layer whose weight has the input channels first: a transposed convolution, an embedding; not needed where the "
        "shapes of a pair allow one reading only. Repeatable.",
        (),
        metavar="LAYER",
        parse=lambda values: parse_texts("transposed", values),
    )
    unpadded: tuple[str, ...] = option(
        "Convolution after a norm that does not pad; a padded one cannot take a shift exactly. Repeatable.",
        (),
        metavar="LAYER",
        parse=lambda values: parse_texts("unpadded", values),
    )
    pad_value: str | None = option(
        "Value with which the folded network pads where the original padded normalized values with 0: `channel`, the "
        "values that are printed for each channel, or one number, if it is that of all channels.",
        metavar="channel|X",
        complete=("channel",),
    )
    assume_adjacent: bool = option(
        "Fold pairs although other layers are between them in the file: its order is not that of the data.", False
    )
    norms: Literal["auto", "drop", "keep"] = option(
        "Tensors of folded norms: drop removes them, keep makes them the identity, auto drops those of batch norms and "
        "keeps those of other norms, which then are exact.",
        "auto",
    )
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = option(
        "Type of the folded weights: float16, bfloat16, float32 or float64 (default: that of the original weight)."
    )
    memory_limit: int | str | None = option(
        "Largest amount of memory for the folded layers, such as 2G; other tensors pass through in pieces.",
        metavar="SIZE",
        parse=partial(parse_size, "memory_limit"),
        panel="Run",
    )

    def _check(self) -> None:
        super()._check()
        if self.auto == bool(self.pair):
            raise UsageError("one of `pair` and `auto` is required: the layers to fold")
        if self.auto and self.verify is None:
            raise UsageError(
                "`auto` requires `verify`, the outputs of the layers by name: nothing in a checkpoint shows whether an "
                "activation is between two layers"
            )
        if self.input_range != "0-1" and self.stats is None:
            raise UsageError("`input_range` requires `stats`")
