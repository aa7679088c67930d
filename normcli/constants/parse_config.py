"""Parser of constants in other tools' files: JSON, Python, YAML, TOML; parsed, never executed."""

import ast
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from normcli.errors import UsageError


class Number(NamedTuple):
    """A number as written: its value and the unit of its last digit.

    Attributes:
        value: as float64.
        unit: 0.001 for "0.485"; rounding may have changed the value by half of it.
    """

    value: float
    unit: float


class ConfigConstants(NamedTuple):
    """Mean and std in a file.

    Attributes:
        mean: per channel.
        std: per channel, or None.
        location: "line 12" or the JSON keys.
    """

    mean: tuple[Number, ...]
    std: tuple[Number, ...] | None
    location: str


def number(text: str) -> Number:
    """Parse a decimal number with the unit of its last digit.

    >>> number(".485"), number("124"), number("1e-2")
    (Number(value=0.485, unit=0.001), Number(value=124.0, unit=1.0), Number(value=0.01, unit=0.01))

    Raises:
        UsageError: not a finite number.
    """
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise UsageError(f"{text!r} is not a number") from None
    if not exact.is_finite() or abs(exact.adjusted()) > 300:
        raise UsageError(f"{text!r} is not a finite number")
    return Number(float(exact), float(Decimal(1).scaleb(int(exact.as_tuple().exponent))))


def numbers(texts: Sequence[str]) -> tuple[Number, ...]:
    """Parse numbers separated by spaces or commas.

    >>> [n.value for n in numbers([".485,.456", ".406"])]
    [0.485, 0.456, 0.406]
    """
    return tuple(number(word) for text in texts for word in re.split(r"[\s,]+", text.strip("[]() ")) if word)


def as_written(name: str, values: Any) -> tuple[Number, ...]:
    """Return numbers with the unit of their last digit: of text as written, of a float as its shortest decimal.

    >>> [n.unit for n in as_written("mean", ".50,.4")], as_written("mean", 0.5)
    ([0.01, 0.1], (Number(value=0.5, unit=0.1),))

    Args:
        name: of the parameter, for the error.
        values: text, a number, or several.

    Raises:
        UsageError: something that is not a number.
    """
    if isinstance(values, str):
        try:
            return numbers([values])
        except UsageError as error:
            raise UsageError(f"`{name}`: {error}; must be numbers, as in .485,.456,.406 or .485 .456 .406") from None
    several = list(values) if isinstance(values, Iterable) and not isinstance(values, Number) else [values]
    try:
        texts = [v if isinstance(v, Number | str) else repr(float(v)) for v in several]
        return tuple(number(v) if isinstance(v, str) else v for v in texts)
    except (TypeError, ValueError):
        raise UsageError(f"`{name}`: must be numbers, such as [0.485, 0.456, 0.406], not {values!r:.60}") from None


def read_constants(text: str, name: str) -> list[ConfigConstants]:
    """Return every pair of mean and std in a config file: JSON, Python, YAML or TOML.

    Python is parsed with `ast` and never run: calls and dicts with mean= and std=, Normalize([..], [..]),
    assignments to names such as MEAN and IMAGENET_STD, with arithmetic such as `[0.485 * 255, ...]`.

    Raises:
        UsageError: no such pair.
    """
    if _PAM.search(text):
        return _in_pam(text, name)
    try:
        pairs = list(_in_json(json.loads(text, parse_float=_Token, parse_int=_Token), ""))
    except (ValueError, RecursionError):
        try:
            pairs = list(_in_toml(text)) or list(_in_python(ast.parse(text), text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pairs = []
        pairs = pairs or list(_in_text(text))
    if not pairs:
        raise UsageError(f"{name}: no mean and std found (JSON, Python, YAML or TOML with lists of numbers)")
    unique = {(pair.mean, pair.std): pair for pair in reversed(pairs)}
    return _most_complete(list(reversed(unique.values())))


def _most_complete(pairs: list[ConfigConstants]) -> list[ConfigConstants]:
    """Return the pairs without the lesser ones: a mean alone next to a pair, one number next to several."""
    complete = [pair for pair in pairs if pair.std is not None] or pairs
    return [pair for pair in complete if len(pair.mean) > 1] or complete


def _in_toml(text: str) -> Iterator[ConfigConstants]:
    """Yield the pairs of a TOML file with tables, which would be lists to Python."""
    if _HEADER.search(text):
        try:
            yield from _in_json(tomllib.loads(text, parse_float=_Token), "")
        except (tomllib.TOMLDecodeError, RecursionError):
            return


class _Token(str):
    """A JSON number, as written."""


# key of a mean -> key of its std: Hugging Face; timm, normcli and most others; mm*
_HEADER = re.compile(r"(?m)^\s*\[+[\w.\"-]+\]+\s*(?:#.*)?$")  # of a table in TOML
_MEAN_KEYS = {"image_mean": "image_std", "mean": "std", "pixel_mean": "pixel_std"}


def _in_json(value: Any, where: str) -> Iterator[ConfigConstants]:
    if isinstance(value, dict):
        for mean_key, std_key in _MEAN_KEYS.items():
            mean = _row(value.get(mean_key))
            if mean:
                yield ConfigConstants(mean, _row(value.get(std_key)), f"{where}{mean_key}")
        for key in filter(_MEAN_NAME.search, value):
            mean, std = _row(value[key]), _row(value.get(_std_name(key)))
            if key not in _MEAN_KEYS and mean and std:
                yield ConfigConstants(mean, std, f"{where}{key}")
        if list(value) == [str(c) for c in range(len(value))]:  # of nnU-Net: an object for each channel
            yield from _by_channel(list(value.values()), where)
        for key, inner in value.items():
            yield from _in_json(inner, f"{where}{key}.")
    elif isinstance(value, list):
        yield from _by_channel(value, where)
        for index, inner in enumerate(value):
            yield from _in_json(inner, f"{where}{index}.")


def _by_channel(channels: list[Any], where: str) -> Iterator[ConfigConstants]:
    """Yield the pair of several objects of which each has one mean and one std, such as STAC's raster:bands."""
    entries = [channel.get("statistics", channel) if isinstance(channel, dict) else None for channel in channels]
    rows: list[tuple[Number, ...] | None] = []
    for names in (("mean",), ("std", "stddev")):
        cells = [next((_row(e[n]) for n in names if n in e), None) if isinstance(e, dict) else None for e in entries]
        known = [cell[0] for cell in cells if cell is not None and len(cell) == 1]
        rows.append(tuple(known) if known and len(known) == len(entries) else None)
    if rows[0] is not None and rows[1] is not None:
        yield ConfigConstants(rows[0], rows[1], f"{where}mean")


_PAM = re.compile(r"<PAMDataset\b")
_PAM_ITEM = re.compile(r"<MDI key=\"STATISTICS_(MEAN|STDDEV)\">\s*([^<>\s]+)\s*</MDI>")


def _in_pam(text: str, name: str) -> list[ConfigConstants]:
    """Return the statistics of the bands in the .aux.xml of GDAL, in their order.

    Raises:
        UsageError: a band without them, or a value that is not a number.
    """
    bands = [dict(_PAM_ITEM.findall(band)) for band in re.split(r"<PAMRasterBand\b", text)[1:]]
    if not bands or any(band.keys() != {"MEAN", "STDDEV"} for band in bands):
        raise UsageError(f"{name}: no STATISTICS_MEAN and STATISTICS_STDDEV of every band")
    mean, std = (tuple(number(band[key]) for band in bands) for key in ("MEAN", "STDDEV"))
    return [ConfigConstants(mean, std, "STATISTICS_MEAN")]


def _row(value: Any) -> tuple[Number, ...] | None:
    values = _one_row(value, list)
    values = values if isinstance(values, list) else [values]
    if values and all(isinstance(v, _Token) or type(v) is int for v in values):  # integers of TOML
        return tuple(number(str(v)) for v in values)
    return None


def _one_row(nested: Any, kind: type | tuple[type, ...], cells: str = "") -> Any:
    """Return nested lists of one row or one column, such as (1,1,3) or (3,1,1), as a list; others as they are.

    >>> _one_row([[[1]], [[2]]], list), _one_row([[1, 2]], list), _one_row([[1, 2], [3, 4]], list)
    ([1, 2], [1, 2], [[1, 2], [3, 4]])
    """

    def inner(value: Any) -> Any:
        return getattr(value, cells) if cells else value

    row = nested
    while isinstance(row, kind) and inner(row) and all(isinstance(cell, kind) for cell in inner(row)):
        if len(inner(row)) == 1:
            row = inner(row)[0]
        elif all(len(inner(cell)) == 1 for cell in inner(row)):
            row = [inner(cell)[0] for cell in inner(row)]
            if cells:
                row = ast.List(elts=row)
        else:
            return nested
    return row


_MEAN_NAME = re.compile(r"(^|_)(mean|means)$", re.IGNORECASE)


def _std_name(name: str) -> str:
    """Return the name of the std that belongs to a mean, in the same case."""
    return name.replace("mean", "std").replace("MEAN", "STD").replace("Mean", "Std")


def _in_python(tree: ast.Module, source: str) -> Iterator[ConfigConstants]:
    names: dict[str, tuple[Number, ...]] = {}
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            row = _evaluate(node.value, source, {})
            if row:
                names[node.targets[0].id], lines[node.targets[0].id] = row, node.lineno
    for node in ast.walk(tree):
        pair: tuple[ast.expr | None, ast.expr | None] = (None, None)
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            if not _RANDOM.search(_function_name(node)):
                pair = _pair(keywords)
            if (
                pair[0] is None
                and _function_name(node) in ("Normalize", "from_stats", "Normalization")
                and len(node.args) >= 2
            ):
                pair = node.args[0], node.args[1]
        elif isinstance(node, ast.Dict):
            literal = {k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
            pair = _pair(literal)
        mean = _evaluate(pair[0], source, names) if pair[0] is not None else None
        if mean:
            std = _evaluate(pair[1], source, names) if pair[1] is not None else None
            yield ConfigConstants(mean, std, f"line {getattr(node, 'lineno', 0)}")
    for name, row in names.items():
        std = names.get(_std_name(name))
        if _MEAN_NAME.search(name) and std is not None:  # `mean = 0` alone need not be of images
            yield ConfigConstants(row, std, f"line {lines[name]}")


_RANDOM = re.compile(r"normal_?$|randn")  # torch.nn.init.normal_(w, mean=0, std=0.02), np.random.normal
_ARRAYS = {"array", "asarray", "tensor", "as_tensor", "Tensor", "FloatTensor", "tuple", "list"}


def _function_name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _pair(entries: dict[Any, ast.expr]) -> tuple[ast.expr | None, ast.expr | None]:
    for mean_key, std_key in _MEAN_KEYS.items():
        if mean_key in entries:
            return entries[mean_key], entries.get(std_key)
    return None, None


def _evaluate(node: ast.expr, source: str, names: dict[str, tuple[Number, ...]]) -> tuple[Number, ...] | None:
    """Return the numbers of a list, tuple, name, tensor(...) or array(...); None for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Call):
        if len(node.args) != 1 or _function_name(node) not in _ARRAYS:
            return None
        return _evaluate(node.args[0], source, names)
    node = _one_row(node, (ast.List, ast.Tuple), "elts")
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant | ast.Attribute) for key in node.keys):
        node = ast.List(elts=node.values)  # by band name, as MEAN = {"B02": 1354.4, "B03": 1118.2}
    if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
        loop = node.generators[0]
        over = _evaluate(loop.iter, source, names)
        if over is None or not isinstance(loop.target, ast.Name) or loop.ifs:
            return None
        target = loop.target.id
        row = [_arithmetic(node.elt, source, {target: value}) for value in over]
    elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.List | ast.Tuple | ast.Call | ast.Name):
        left, right = _evaluate(node.left, source, names), _arithmetic(node.right, source, {})
        if left is None or right is None:
            return None
        row = [_combine(node.op, value, right) for value in left]
    else:
        cells = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
        row = [_arithmetic(cell, source, {}) for cell in cells]
    numbers_ = tuple(value for value in row if value is not None)
    return numbers_ if numbers_ and len(numbers_) == len(row) else None


def _arithmetic(node: ast.expr, source: str, names: dict[str, Number]) -> Number | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        try:
            return number((ast.get_source_segment(source, node) or "").replace("_", ""))
        except UsageError:
            return None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _arithmetic(node.operand, source, names)
        return None if value is None else Number(-value.value, value.unit)
    if isinstance(node, ast.BinOp):
        left, right = (_arithmetic(side, source, names) for side in (node.left, node.right))
        return None if left is None or right is None else _combine(node.op, left, right)
    return None


def _combine(op: ast.operator, left: Number, right: Number) -> Number | None:
    """Multiply or divide; 255 and other integers are exact, and the other side's unit scales."""
    if isinstance(op, ast.Mult):
        if left.value == round(left.value):
            left, right = right, left
        return Number(left.value * right.value, left.unit * abs(right.value))
    if isinstance(op, ast.Div) and right.value != 0:
        return Number(left.value / right.value, left.unit / abs(right.value))
    return None


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LIST = rf"\s*[\"']?\s*[:=]\s*[\[(\"']?\s*({_NUMBER}(?:[\s,]+{_NUMBER})*)"


_KEY = r"(?<![\w.-])[\"']?([A-Za-z_][\w.-]*)"


def _in_text(text: str) -> Iterator[ConfigConstants]:
    """Yield pairs from lines such as `mean: [0.485, 0.456, 0.406]`, each with the std of its block."""
    flow = re.sub(r"(?m)^\s*#.*$", "", text)
    flow = re.sub(rf"\n\s*-\s+(?={_NUMBER}\s*(?:#.*)?(?:\n|$))", " ", flow)  # a YAML list with one number a line
    flow = re.sub(r"(?<=[\[\s,])[\[(]\s*([-+.\d][^\[\]()]*)[\])](?=\s*[,\]])", r"\1", flow)  # [[0.5], [0.4]]
    entries = [
        (match[1], match.start(1), match.end(), numbers([match[2]])) for match in re.finditer(_KEY + _LIST, flow)
    ]
    for name, start, end, row in entries:
        if not _MEAN_NAME.search(re.split(r"[.-]", name)[-1]):
            continue
        stds = [entry for entry in entries if entry[0].lower() == _std_name(name).lower()]
        stds = [entry for entry in stds if _same_block(flow, (start, end), (entry[1], entry[2]))]
        nearest = min(stds, key=lambda entry: abs(entry[1] - start), default=None)
        line = flow.count("\n", 0, start) + 1
        yield ConfigConstants(row, None if nearest is None else nearest[3], f"line {line}")


def _same_block(flow: str, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return True if two entries are of one block: on one line, or at one column with nothing farther left between."""
    first, last = sorted((one, other))
    if "\n" not in flow[first[0] : last[0]]:
        return "}" not in flow[first[1] : last[0]]
    column = first[0] - flow.rfind("\n", 0, first[0])
    if column != last[0] - flow.rfind("\n", 0, last[0]):
        return False
    for line in flow[first[1] : last[0]].split("\n")[1:]:
        text = line.lstrip(" \t")
        item = text.startswith("- ")  # of a list: another block begins
        if text and not item and (_HEADER.match(line) or len(line) - len(text) + 1 < column):
            return False
        if item and len(line) - len(text) + 3 <= column:
            return False
    return True
