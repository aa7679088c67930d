"""The geometry of --like: resize, crop and padding in a library's own file; parsed, never executed."""

import ast
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from normcli.constants import like_libraries
from normcli.constants.like_libraries import Geometry
from normcli.errors import UsageError
from normcli.options.field import LIBRARIES
from normcli.options.shared import DecodeOptions, parse_crop, parse_pad, parse_resize

O = TypeVar("O", bound=DecodeOptions)  # noqa: E741
log = logging.getLogger("normcli.like")

_LARGEST = 64 << 20
_NAMES = ("resize", "interpolation", "center_crop", "pad")


def resolve(options: O) -> O:
    """Return options with the geometry of the file of `like`, overridden by those that are set.

    Raises:
        UsageError: the file cannot be read, or contains no geometry that normcli has.
    """
    if options.like is None or options.like in LIBRARIES:
        return options
    name = os.fsdecode(options.like)
    geometry = read_geometry(name)
    values: dict[str, Any] = {}
    for key in _NAMES:
        explicit, inherited = getattr(options, key), getattr(geometry, key)
        values[key] = inherited if explicit is None else explicit
        if explicit is not None and inherited is not None and explicit != inherited:
            log.warning("`%s` %s replaces %s of %s", key, explicit, inherited, name)
    text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items() if value is not None)
    log.info("geometry of %s (%s): %s", name, geometry.library, text)
    for note in geometry.notes:
        log.warning("%s: %s", name, note)
    return options.replace(**values, like=geometry.library)


def read_geometry(path: str) -> Geometry:
    """Read the geometry of a file: JSON, a printed transform, Python, or lines of `key: value`.

    Raises:
        UsageError: it cannot be read, or contains no geometry that normcli has.
    """
    try:
        if os.path.getsize(path) > _LARGEST:  # noqa: PTH202
            raise UsageError(f"`like`: {path} is larger than 64 MB, which no configuration is")
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            text = file.read()
    except OSError as error:
        names = "" if os.path.exists(path) else f" (libraries are {', '.join(LIBRARIES)})"  # noqa: PTH110
        raise UsageError(f"`like`: cannot read {path}: {(error.strerror or str(error)).lower()}{names}") from None
    try:
        geometry = next(_geometries(text), None)
        if geometry is None or not (geometry.resize or geometry.center_crop):
            raise UsageError(_nothing(text))
        return geometry._replace(
            resize=None if geometry.resize is None else parse_resize(geometry.resize),
            center_crop=None if geometry.center_crop is None else parse_crop(geometry.center_crop),
            pad=None if geometry.pad is None else parse_pad(geometry.pad),
        )
    except UsageError as error:
        raise UsageError(f"`like`: {path}: {error}") from None


def _nothing(text: str) -> str:
    hint = " (its _base_ files are not read: use the complete config that the toolbox prints)"
    has_base = re.search(r"(?m)^_base_\s*=", text) is not None
    return (
        "contains no geometry: no resize, crop or image size of Hugging Face, timm, torchvision, Ultralytics or "
        f"OpenMMLab{hint if has_base else ''}"
    )


def _geometries(text: str) -> Iterator[Geometry]:
    """Yield the geometries in a text, the most specific first."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if document is not None:
        yield from _of_document(document)
        return
    try:
        tree = ast.parse(_with_commas(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is not None:
        yield from _of_python(tree)
    yield from _of_document(_flat(text))


def _of_document(document: Any, depth: int = 0) -> Iterator[Geometry]:
    """Yield the geometry of a mapping by the keys that a library writes, then of the mappings in it."""
    if not isinstance(document, Mapping) or depth > 4:
        return
    if str(document.get("schema", "")).startswith("normcli/") and isinstance(document.get("settings"), Mapping):
        yield like_libraries.of_normcli(document["settings"])
        return
    for keys, read in like_libraries.BY_KEYS:
        if any(document.get(key) is not None for key in keys):
            geometry = read(document)
            if geometry is not None:
                yield geometry
    for value in document.values():
        yield from _of_document(value, depth + 1)


def _with_commas(text: str) -> str:
    r"""Return a printed transform as Python: torch separates the parts of a module by lines alone.

    >>> _with_commas("A(\n    b=[1]\n    c=2\n)")
    'A(b=[1], c=2)'
    """
    if not re.match(r"\s*[A-Za-z_.]+\(\s*\n", text):
        return text
    lines = [line.strip().rstrip(",") for line in text.strip().splitlines() if line.strip()]
    lines = [re.sub(r"^\(\w+\):\s*", "", line) for line in lines]  # of Sequential: "(0): Resize(...)"
    joined = ", ".join(lines)
    return re.sub(r",\s*\)", ")", re.sub(r"\(\s*,\s*", "(", joined))


def _flat(text: str) -> dict[str, Any]:
    r"""Return the values of lines `key: value` or `key = value`, as YAML has them on its first level.

    >>> _flat("task: detect\nimgsz: 640  # pixels\nmodel:\n  size: 3\n")
    {'task': 'detect', 'imgsz': 640}
    """
    entries: dict[str, Any] = {}
    for key, value in re.findall(r"(?m)^([A-Za-z_]\w*)\s*[:=][ \t]*([^#\n]*?)[ \t]*(?:#.*)?$", text):
        try:
            entries[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            if value not in ("", "null", "~"):
                entries[key] = {"true": True, "false": False}.get(value.lower(), value)
    return entries


class CodeCall(dict[str, Any]):
    """The keywords of a call or the entries of a dictionary in Python.

    Attributes:
        name: of the callable; "" for a dictionary.
        args: values without a keyword.
    """

    name = ""
    args: tuple[Any, ...] = ()


def _of_python(tree: ast.Module) -> Iterator[Geometry]:
    """Yield the geometry of Python code: pipelines of OpenMMLab, transforms of torchvision, dictionaries, calls."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = value_of(node.value, names)
    for key in ("test_pipeline", "val_pipeline"):
        if isinstance(names.get(key), list) and (geometry := like_libraries.of_pipeline(names[key])) is not None:
            yield geometry
    values = [value_of(node, names) for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Dict | ast.List)]
    calls = [value for value in values if isinstance(value, CodeCall)]
    geometry = like_libraries.of_transforms([(call.name, call.args, call) for call in calls])
    if geometry is not None:
        yield geometry
    for value in values:
        if isinstance(value, list) and (geometry := like_libraries.of_pipeline(value)) is not None:
            yield geometry
    for call in calls:
        yield from _of_document(call)


_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
}


def value_of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return a Python expression as values: numbers, text, lists, tuples, and calls and dictionaries as `CodeCall`.

    A name that is assigned nowhere, and an attribute such as InterpolationMode.BICUBIC, become their own text; values
    that are computed in another way become None.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.List):
        return [value_of(item, names) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(value_of(item, names) for item in node.elts)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return CodeCall({str(value_of(key, names)): value_of(value, names) for key, value in pairs if key is not None})
    if isinstance(node, ast.Call):
        call = CodeCall({k.arg: value_of(k.value, names) for k in node.keywords if k.arg is not None})
        call.name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        call.args = tuple(value_of(item, names) for item in node.args)
        if call.name in ("tuple", "list", "int") and len(call.args) == 1:
            inner = call.args[0]
            return int(inner) if call.name == "int" and isinstance(inner, float) else inner
        return call
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = value_of(node.operand, names)
        return -value if isinstance(value, int | float) else None
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = value_of(node.left, names), value_of(node.right, names)
        if all(isinstance(side, int | float) for side in (left, right)) and not (
            right == 0 and isinstance(node.op, ast.Div | ast.FloorDiv)
        ):
            return _OPERATORS[type(node.op)](left, right)
    return None
