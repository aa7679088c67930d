"""The cells of the matrix of digests: commands x sources x engines x kill and resume.

Options are written as words of their own (`@max-value=4095`): `spelling` turns each into what the edition under test
calls it, by asking its `--help`. So one table serves the first edition, the second, and every step between.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Helps = Mapping[str, str]  # command -> text of its --help; "" where there is no such command


@dataclass(frozen=True)
class Kill:
    """Kill -9 when the K-th file is opened whose path holds a word."""

    word: str
    k: int


@dataclass(frozen=True)
class Step:
    """One command; or `remove`, files that disappear before the next one; or `copy` of a source to change."""

    arguments: tuple[str, ...] = ()
    kill: Kill | None = None
    stdin: str = ""
    stdout: bool = False  # whether its stdout is digested
    remove: str = ""
    copy: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Cell:
    """A name, the commands that run one after the other in an empty folder, and the libraries that they need."""

    name: str
    steps: tuple[Step, ...]
    needs: frozenset[str] = field(default_factory=frozenset)
    light: bool = False


# a word -> the spellings of editions, newest first: (an option that its --help must hold, the arguments)
WORDS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "group-by": (("--group-by", ("--group-by", "{}")), ("--by", ("--by", "{}"))),
    "max-value": (("--max-value", ("--max-value", "{}")), ("--range", ("--range", "{}"))),
    "max-file-size": (("--max-file-size", ("--max-file-size", "{}")), ("", ("--max-file-bytes", "{}"))),
    "strict": (("--strict", ("--strict",)), ("", ("--integrity", "strict"))),
    "margin": (("--margin", ("--margin", "{}")), ("", ("--tolerance", "{}"))),
    "max-failures": (("--max-failures", ("--max-failures", "{}")), ("", ("--max-errors", "{}"))),
    "fail-fast": (("--max-failures", ("--max-failures", "0")), ("", ("--on-error", "fail"))),
    "output-layout": (("--output-layout", ("--output-layout", "{}")), ("", ("--layout", "{}"))),
    "channel-order": (("--channel-order", ("--channel-order", "{}")), ("", ("--order", "{}"))),
    "no-suffix": (("--no-suffix", ("--no-suffix",)), ("", ("--names", "stem"))),
    "column": (("-O", ("-O", "column={}")), ("", ("--column", "{}"))),
    "input-layout": (
        ("-O", ("-O", "layout={}")),
        ("--source-layout", ("--source-layout", "{}")),
        ("", ("--layout", "{}")),
    ),
    "all-digits": (("--digits", ("--digits", "0")), ("", ())),
    "incremental": (("--incremental", ("--incremental",)), ("", ("--ledger",))),
    "incremental-again": (("--incremental", ("--incremental",)), ("", ("--ledger", "--update", "{}"))),
}


def spelling(arguments: tuple[str, ...], helps: Helps) -> list[str]:
    """Return the arguments as the edition with these help texts spells them."""
    command, *rest = arguments
    out: list[str] = []
    if command == "restore" and not helps["restore"]:
        return ["apply", "--inverse", *spelling(("apply", *rest), helps)[1:]]
    if command == "verify" and not helps["verify"]:
        return ["apply", "--verify", *spelling(("apply", *rest), helps)[1:]]
    for argument in rest:
        if not argument.startswith("@"):
            out.append(argument)
            continue
        word, _, value = argument[1:].partition("=")
        text = helps[command]
        known = next(form for probe, form in WORDS[word] if not probe or _has(text, probe))
        out += [part.format(value) for part in known]
    return [command, *out]


def _has(text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){option}(?![\w-])", text) is not None


NEEDS = {".parquet": "parquet", ".zst": "zst", ".tif": "tiff"}
SOURCES = {
    "folder": ("../mixed",),
    "tar": ("../mixed.tar",),
    "tar.gz": ("../mixed.tar.gz",),
    "tar.zst": ("../mixed.tar.zst",),
    "zip": ("../mixed.zip",),
    "parquet": ("../mixed.parquet",),
    "csv": ("../mixed.csv",),
    "jsonl": ("../mixed.jsonl",),
    "npy": ("../stack.npy",),
    "npy-nchw16": ("../deep.npy", "@input-layout=nchw"),
    "npy-float": ("../floats.npy",),
    "npz": ("../arrays.npz", "@column=images"),
    "idx": ("../gray-images-idx3-ubyte",),
    "idx.gz": ("../gray-images-idx3-ubyte.gz",),
    "several": ("../same", "../stack.npy", "../mixed.zip"),
}
ENGINES = ("serial", "threads", "processes", "auto")
_EXTRA = {"tar.zst": "zst", "parquet": "parquet"}


def cells() -> Iterator[Cell]:
    """Yield every cell; names are unique."""
    yield from _stats()
    yield from _stats_options()
    yield from _stats_runs()
    yield from _apply()
    yield from _apply_runs()
    yield from _other()
    yield from _tensor()


def _needs(*names: str) -> frozenset[str]:
    # `mixed` holds TIFF files, read by tifffile where it is installed
    return frozenset(names)


def _stats() -> Iterator[Cell]:
    for source, arguments in SOURCES.items():
        needs = _needs("tiff", *([_EXTRA[source]] if source in _EXTRA else []))
        for engine in ENGINES:
            command = ("stats", *arguments, "-o", "s.json", "-q", "--engine", engine, "-j", "2")
            light = (engine == "serial" and source not in ("csv", "idx.gz")) or engine == source == "processes"
            yield Cell(f"stats/{source}/{engine}", (Step(command),), needs, light)
        if source in ("folder", "tar.gz", "npy"):
            command = ("stats", *arguments, "-o", "s.json", "-q", "--engine", "dask", "-j", "2")
            yield Cell(f"stats/{source}/dask", (Step(command),), needs | {"dask"})


_OPTIONS = {
    "rgb": ("--color", "rgb"),
    "gray": ("--color", "gray"),
    "native": ("--color", "native"),
    "composite": ("--alpha", "composite:white"),
    "alpha-weight": ("--alpha", "weight"),
    "alpha-keep": ("--alpha", "keep", "--color", "native", "--include", "*rgba8.png"),
    "no-common-channels": ("--alpha", "keep", "--color", "native"),
    "resize-crop": ("--resize", "24", "--center-crop", "16"),
    "crop": ("--center-crop", "8"),
    "max-value": ("@max-value=255",),
    "nan-skip": ("--nan", "skip"),
    "strict": ("@strict",),
    "max-pixels": ("--max-pixels", "20000"),
    "max-file-size": ("@max-file-size=9000",),
    "weight-image": ("--weight", "image"),
    "weight-group": ("--weight", "group", "@group-by=folder"),
    "by-folder": ("@group-by=folder",),
    "by-regex": ("@group-by=([a-z])[^/]*$",),
    "nodata": ("--nodata", "0", "--max-pixels", "20000"),
    "include": ("--include", "*.png"),
    "exclude": ("--exclude", "*.png", "--exclude", "*/cut*"),
    "sample": ("--sample", "9", "--seed", "5"),
    "sample-percent": ("--sample", "40%"),
    "margin": ("@margin=0.2",),
    "fail-fast": ("@fail-fast",),
    "max-failures": ("@max-failures=1",),
    "max-failures-percent": ("@max-failures=90%",),
    "per-image": ("--per-image", "i.jsonl"),
    "failures": ("--failures", "f.jsonl"),
}


def _stats_options() -> Iterator[Cell]:
    for name, options in _OPTIONS.items():
        command = ("stats", "../mixed", "-o", "s.json", "-q", "-j", "2", *options)
        light = name in ("alpha-weight", "nan-skip", "by-folder", "sample", "fail-fast", "per-image")
        yield Cell(f"stats-options/{name}", (Step(command),), _needs("tiff"), light)
    masked = ("stats", "../same", "-o", "s.json", "-q", "--mask-dir", "../masks")
    yield Cell("stats-options/mask-dir", (Step(masked),), light=True)
    listed = ("stats", "--files-from", "-", "-o", "s.json", "-q")
    yield Cell("stats-options/files-from", (Step(listed, stdin="../same/a/00.png\n../many/003.png\n"),))
    null = Step((*listed, "-0"), stdin="../same/a/00.png\0../same/b/01.png\0")
    yield Cell("stats-options/files-from-0", (null,))
    missing = {"missing": "../absent", "no-image": "../mixed/made/note.txt", "broken": "../mixed/made/broken.png"}
    for name, source in missing.items():
        yield Cell(f"exit/{name}", (Step(("stats", source, "-q")),), light=name == "missing")
    yield Cell("exit/usage", (Step(("stats", "../same", "--no-such-option")),), light=True)
    yield Cell("exit/choice", (Step(("stats", "../same", "--color", "grey")),))
    yield Cell("exit/output", (Step(("stats", "../same", "-o", "no/such/folder/s.json")),))


def _stats_runs() -> Iterator[Cell]:
    shards = [Step(("stats", "../mixed", "--shard", f"{i}/3", "-o", f"{i}.json", "-q")) for i in range(3)]
    merged = Step(("merge", "0.json", "1.json", "2.json", "-o", "m.json"))
    less = Step(("merge", "m.json", "--minus", "1.json", "-o", "less.json"))
    partial = Step(("merge", "0.json", "2.json", "-o", "partial.json"))
    yield Cell("stats-runs/shards", (*shards, merged, less, partial), _needs("tiff"), light=True)
    for engine in ("serial", "threads", "processes"):
        for k in (7, 45):
            command = ("stats", "../many", "-o", "s.json", "-q", "--resume", "--engine", engine, "-j", "2")
            steps = (Step(command, kill=Kill("many/", k)), Step(command))
            yield Cell(f"stats-runs/killed-{engine}-{k}", steps, light=engine == "threads" and k == 45)
    first = ("stats", "copy", "-o", "s.json", "-q")
    again = Step((*first, "@incremental-again=s.json"))
    start: tuple[Step, ...] = (Step(copy=("../many", "copy")), Step((*first, "@incremental")))
    change = (Step(remove="copy/00*.png"), Step(copy=("../same/a", "copy/a")))
    yield Cell("stats-runs/incremental", (*start, *change, again), light=True)
    killed = Step((*first, "@incremental-again=s.json"), kill=Kill("copy/", 3))
    yield Cell("stats-runs/incremental-killed", (*start, *change, killed, again))


TO = ("npy", "npz", "stack", "safetensors", "tar", "parquet", "png", "png16", "tiff")
_TO_NEEDS = {"safetensors": "safetensors", "parquet": "parquet", "tiff": "tiff"}
_SCHEMES = {
    "unit": ("-s", "unit"),
    "signed": ("-s", "signed"),
    "contrast": (),
    "given": ("--mean", "0.1,0.2,0.3", "--std", "0.5,0.6,0.7", "--color", "rgb"),
    "preset": ("--preset", "imagenet", "--color", "rgb"),
    "convention": ("--convention", "mean_of_image_stds"),
    "caffe": ("-s", "caffe", "--color", "rgb"),
    "zscore": ("-s", "zscore"),
    "minmax": ("-s", "minmax:per=image"),
    "percentile": ("-s", "percentile:over=image"),
    "percentile-dataset": ("-s", "percentile:lo=2,hi=98,over=dataset"),
    "robust": ("-s", "robust"),
    "gcn": ("-s", "gcn:sqrt_bias=10"),
    "clip": ("--clip", "-1,1"),
    "window": ("-s", "clip:30,200"),
    "nonzero": ("-s", "zscore:mask=nonzero"),
    "zero-std": ("-s", "zscore", "--zero-std", "one"),
    "float16": ("--dtype", "float16"),
    "float64": ("--dtype", "float64"),
    "uint8": ("--dtype", "uint8"),
    "hwc": ("@output-layout=hwc",),
    "bgr": ("@channel-order=bgr", "--color", "rgb"),
    "resize-crop": ("--resize", "20", "--center-crop", "16"),
    "no-orientation": ("--orientation", "ignore"),
    "max-value": ("@max-value=1", "-s", "unit"),
}


def _apply() -> Iterator[Cell]:
    for to in TO:
        needs = _needs(*([_TO_NEEDS[to]] if to in _TO_NEEDS else []))
        scheme = ("-s", "unit") if to in ("png", "png16") else ()
        for engine in ENGINES:
            first = Step(("apply", "../same", "-o", "out", "--to", to, *scheme, "--engine", engine, "-j", "2", "-q"))
            light = engine == ("threads" if to in ("npy", "stack", "tar") else "serial")
            yield Cell(f"apply/{to}/{engine}", (first,), needs, light)
        written = Step(("apply", "../same", "-o", "out", "--to", to, *scheme, "-q"))
        both = (Step(("verify", "out")), Step(("restore", "out", "-o", "back", "-q")))
        yield Cell(f"apply/{to}/back", (written, *both), needs, light=to in ("npy", "tar"))
        crop = ("--color", "rgb", "--resize", "20", "--center-crop", "16", "--exclude", "*.tif")
        mixed = Step(("apply", "../mixed", "-o", "out", "--to", to, *scheme, "-q", *crop))
        yield Cell(f"apply/{to}/mixed", (mixed,), needs | {"tiff"}, light=to == "npz")
    for name, options in _SCHEMES.items():
        written = Step(("apply", "../mixed", "-o", "out", "-q", *options))
        back = Step(("restore", "out", "-o", "back", "-q"))
        light = name in ("unit", "percentile-dataset", "float16", "bgr")
        yield Cell(f"schemes/{name}", (written, back), _needs("tiff"), light)
    for source, arguments in SOURCES.items():
        needs = _needs("tiff", *([_EXTRA[source]] if source in _EXTRA else []))
        steps = (Step(("apply", *arguments, "-o", "out", "-q", "-j", "2", "--to", "tar", "--shard-size", "9")),)
        yield Cell(f"apply-sources/{source}", steps, needs, light=source == "tar.gz")
    stats = Step(("stats", "../same", "-o", "s.json", "-q"))
    yield Cell("apply/no-suffix", (Step(("apply", "../same", "-o", "out", "-q", "@no-suffix")),))
    stated = Step(("apply", "../same", "--stats", "s.json", "-o", "out", "-q"))
    yield Cell("apply/stats-file", (stats, stated, Step(("verify", "out"))))


def _apply_runs() -> Iterator[Cell]:
    for to in ("npy", "npz", "stack", "tar", "parquet", "safetensors"):
        needs = _needs(*([_TO_NEEDS[to]] if to in _TO_NEEDS else []))
        size = ("--shard-size", "7") if to in ("tar", "parquet") else ()
        for engine in ("serial", "threads", "processes"):
            command = ("apply", "../same", "-o", "out", "--to", to, "-s", "unit", "-q", "--engine", engine, *size)
            killed = Step((*command, "-j", "2"), kill=Kill("same/", 14))
            steps = (killed, Step((*command, "-j", "2", "--resume")))
            light = engine == "threads" and to in ("npy", "stack", "tar")
            yield Cell(f"apply-runs/killed-{to}-{engine}", steps, needs, light)
    writing = ("apply", "../same", "-o", "out", "-s", "unit", "-q")
    partly = (Step(writing), Step(remove="out/a/*"), Step((*writing, "--skip-existing")))
    yield Cell("apply-runs/skip-existing", partly)
    yield Cell("apply-runs/dry-run", (Step((*writing, "-n")),), light=True)
    yield Cell("apply-runs/occupied", (Step(writing), Step(writing)))
    yield Cell("apply-runs/force", (Step(writing), Step((*writing, "-f", "--exclude", "*/a/*"))))
    one = ("apply", "../same/a/00.png", "-o", "-", "-s", "unit", "-q")
    yield Cell("apply-runs/stdout", (Step(one, stdout=True),), light=True)
    strict = ("apply", "../mixed", "-o", "out", "-s", "unit", "-q", "--engine", "serial", "@fail-fast")
    gone = Step(remove="out/**/*")  # how many images were in flight depends on the load of the machine
    yield Cell("apply-runs/fail-fast", (Step(strict), gone), _needs("tiff"))
    few = ("apply", "../mixed", "-o", "out", "-s", "unit", "-q", "--engine", "serial", "@max-failures=1")
    yield Cell("apply-runs/max-failures", (Step(few), gone), _needs("tiff"))


EXPORTERS = (
    *("csv", "yaml", "toml", "env", "torchvision", "albumentations", "kornia", "timm", "fastai", "keras"),
    *("keras-rescaling", "huggingface", "opencv", "mmcv", "dali", "onnx", "kaldi"),
)


def _other() -> Iterator[Cell]:
    stats = Step(("stats", "../same", "-o", "s.json", "-q"))
    for name in EXPORTERS:
        yield Cell(f"show/{name}", (stats, Step(("show", "s.json", "--format", name, "@all-digits"), stdout=True)))
    gates = (
        Step(("check", "s.json", "--preset", "imagenet")),
        Step(("diff", "s.json", "s.json", "--max-shift", "0.001")),
        Step(("stats", "../many", "-o", "other.json", "-q")),
        Step(("diff", "s.json", "other.json", "--max-shift", "0.001")),
        Step(("show", "absent.json")),
        Step(("merge", "s.json", "s.json", "-o", "twice.json")),
    )
    yield Cell("exit/gates", (stats, *gates))


_NCHW = ("--layout", "NCHW")
NORMALIZERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("batch-instance-norm", "batch-norm", "batch-renorm", "divisive-norm", "dynamic-tanh"),
            *("dynamic-erf", "reversible-instance-norm"),
            *("filter-response-norm", "global-response-norm", "instance-norm", "iter-norm"),
            *("local-response-norm", "lp-batch-norm", "lp-normalize", "mean-variance-norm", "pixel-norm"),
            *("power-norm", "scale-norm", "switchable-norm", "zca-whitening"),
        ),
        _NCHW,
    ),
    "adaptive-instance-norm": (*_NCHW, "--style", "../x2_{}.npy"),
    "adaptive-layer-norm": (*_NCHW, "--scale", "../channels.npy", "--shift", "../channels.npy"),
    "spatially-adaptive-norm": (*_NCHW, "--scale", "../x2_{}.npy", "--shift", "../x2_{}.npy"),
    "reversible-instance-denorm": (*_NCHW, "--mean", "../channels.npy", "--std", "../channels.npy"),
    "ghost-batch-norm": (*_NCHW, "--batch", "4"),
    "evo-norm": (*_NCHW, "--groups", "4"),
    "group-norm": (*_NCHW, "--groups", "4"),
    "layer-norm": (*_NCHW, "--axes", "image"),
    "rms-norm": (*_NCHW, "--axes", "token"),
    "noisy-batch-norm": (*_NCHW, "--seed", "3"),
    "cosine-norm": ("--weight", "../w_{}.npy"),
    "centred-weight-norm": (),
    "spectral-norm": (),
    "tensor-norm": (),
    "weight-norm": (),
    "weight-standardization": (),
}
_STATEFUL = ("batch-norm", "batch-renorm", "power-norm", "zca-whitening", "iter-norm", "ghost-batch-norm")


def _tensor() -> Iterator[Cell]:
    for name, options in NORMALIZERS.items():
        for dtype in ("f32", "f16", "f64"):
            source = f"../{'rows' if name == 'cosine-norm' else 'x'}_{dtype}.npy"
            settings = tuple(option.format(dtype) for option in options)
            command = ("tensor", name, source, *settings, "-o", "y.npy", "-q")
            yield Cell(f"tensor/{name}/{dtype}", (Step(command),))
        settings = tuple(option.format("f32") for option in options)
        source, cotangent = "../x_f32.npy", "../x2_f32.npy"
        if name != "cosine-norm":
            gradient = ("tensor", name, source, *settings, "--grad", cotangent, "-o", "g.npz", "-q")
            yield Cell(f"tensor/{name}/gradient", (Step(gradient),))
    for name in _STATEFUL:
        both = ("tensor", name, "../x_f32.npy", "../x2_f32.npy", *NORMALIZERS[name], "-o", "out", "-q")
        running = Step((*both, "--save-state", "state.npz"))
        later = ("tensor", name, "../x2_f32.npy", *NORMALIZERS[name], "--state", "state.npz", "--mode", "eval")
        yield Cell(f"tensor-state/{name}", (running, Step((*later, "-o", "y.npy", "-q"))))
    plain = ("tensor", "instance-norm", "../x_f32.npy", *_NCHW, "-q")
    for suffix, need in (("npz", ""), ("safetensors", "safetensors"), ("pt", "torch")):
        steps = (Step((*plain, "-o", f"y.{suffix}")), Step((*plain[:2], f"y.{suffix}", *_NCHW, "-o", "z.npy", "-q")))
        yield Cell(f"tensor-files/{suffix}", steps, frozenset({need} - {""}))
    evo = ("tensor", "evo-norm", "../x_f32.npy", *_NCHW, "--variant", "B0", "-o", "y.npy", "-q")
    yield Cell("tensor-files/evo-norm-b0", (Step(evo),))
    keyed = ("tensor", "instance-norm", "../x.npz:a", *_NCHW, "-o", "y.npy", "-q", "-j", "1")
    yield Cell("tensor-files/key", (Step(keyed),))
    affine = ("tensor", "group-norm", "../x_f16.npy", *_NCHW, "--groups", "2", "--weight", "../channels.npy")
    yield Cell("tensor-files/affine", (Step((*affine, "-o", "y.npy", "-q")),))
    compare = ("tensor", "compare", "../x_f32.npy", *_NCHW, "--with", "batch_norm,group_norm:groups=8")
    yield Cell("tensor-files/compare", (Step(compare),))
