"""--like: the geometry of other tools' files, and one line for files without one."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.constants import exporters
from normcli.constants.like import read_geometry, resolve
from normcli.errors import UsageError
from normcli.options.stats import StatsOptions
from tests.support.command import Run
from tests.support.images import encoded, photograph

TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5]}
PRINTED = """ImageClassification(
    crop_size=[224]
    resize_size=[232]
    mean=[0.485, 0.456, 0.406]
    std=[0.229, 0.224, 0.225]
    interpolation=InterpolationMode.BILINEAR
)"""
COMPOSE = """Compose(
    Resize(size=235, interpolation=bicubic, max_size=None, antialias=True)
    CenterCrop(size=(224, 200))
    MaybeToTensor()
    Normalize(mean=tensor([0.4850, 0.4560, 0.4060]), std=tensor([0.2290, 0.2240, 0.2250]))
)
"""
MM = """
_base_ = ["../_base_/models/resnet50.py"]
scale = 256
train_pipeline = [dict(type="LoadImageFromFile"), dict(type="RandomResizedCrop", scale=224)]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=scale, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
"""
MMDET = """
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs')]
"""
MMDET_OLD = """
test_pipeline = [
    dict(type='MultiScaleFlipAug', img_scale=(640, 640), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
        dict(type='DefaultFormatBundle')])]
"""
MMYOLO = """
img_scale = (640, 640)
test_pipeline = [
    dict(type='YOLOv5KeepRatioResize', scale=img_scale),
    dict(type='LetterResize', scale=img_scale, allow_scale_up=False, pad_val=dict(img=114)),
]
"""
CODE = """
from torchvision import transforms as T
size = 288
evaluate = T.Compose([T.Resize(int(size / 0.9), interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(size)])
"""


def hf(**entries: Any) -> str:
    return json.dumps({"image_processor_type": "CLIPImageProcessor", "resample": 3, **entries})


CENTER = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
# name of the file, its text -> resize, interpolation, center_crop, pad, like
FILES: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "CLIP": ("p.json", hf(size={"shortest_edge": 224}, **CENTER), (224, "bicubic", 224, None, "huggingface")),
    "CLIP of 2021": (
        "p.json",
        '{"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "do_center_crop": true, '
        '"do_resize": true, "resample": 3}',
        (224, "bicubic", 224, None, "huggingface"),
    ),
    "ViT of 2021": (
        "p.json",
        '{"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "do_resize": true, "resample": 2}',
        ("224x224", None, None, None, None),
    ),
    "no filter": (
        "p.json",
        '{"image_processor_type": "ViTImageProcessor", "size": 9}',
        ("9x9", None, None, None, None),
    ),
    "two sides": ("p.json", hf(size={"height": 20, "width": 30}, resample=1), ("20x30", "lanczos", None, None, None)),
    "bounds": (
        "p.json",
        hf(size={"shortest_edge": 800, "longest_edge": 1333}, resample=2, do_pad=True),
        ("800,longest:1333", None, None, None, "huggingface"),
    ),
    "SAM": (
        "p.json",
        hf(size={"longest_edge": 64}, resample=2, do_pad=True, pad_size={"height": 64, "width": 64}),
        ("longest:64", None, None, "0:corner", "huggingface"),
    ),
    "a crop alone": ("p.json", hf(do_resize=False, **CENTER), (None, None, 224, "0", "huggingface")),
    "ConvNext": (
        "p.json",
        '{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875, '
        '"resample": 3}',
        (256, "bicubic", 224, None, "huggingface"),
    ),
    "ConvNext of 384": (
        "p.json",
        '{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875, '
        '"resample": 3}',
        ("384x384", "bicubic", None, None, None),
    ),
    "in a processor": (
        "p.json",
        json.dumps({"image_processor": json.loads(hf(size={"shortest_edge": 9}))}),
        (9, "bicubic", None, None, None),
    ),
    "timm": ("c.json", json.dumps({"pretrained_cfg": TIMM}), (248, "bicubic", 224, None, None)),
    "timm, defaults": ("c.json", '{"input_size": [3, 32, 32], "interpolation": ""}', (36, "bicubic", 32, None, None)),
    "timm, squash": (
        "c.json",
        json.dumps({**TIMM, "crop_mode": "squash", "crop_pct": 1.0}),
        ("224x224", "bicubic", None, None, None),
    ),
    "timm, border": (
        "c.json",
        json.dumps({**TIMM, "crop_mode": "border"}),
        ("longest:248", "bicubic", 224, "128", "timm"),
    ),
    "timm, as Python": (
        "c.py",
        f"data_config = dict(**{{}}, {', '.join(f'{k}={v!r}' for k, v in TIMM.items())})",
        (248, "bicubic", 224, None, None),
    ),
    "timm, printed": ("c.txt", repr(TIMM), (248, "bicubic", 224, None, None)),
    "timm, arguments": (
        "args.yaml",
        "img_size: 224\ncrop_pct: 0.95\ninterpolation: bicubic\n",
        (235, "bicubic", 224, None, None),
    ),
    "torchvision": ("w.txt", PRINTED, (232, None, 224, None, None)),
    "torchvision, crop larger": ("w.txt", PRINTED.replace("232", "200"), (200, None, 224, "0", None)),
    "torchvision, Compose": ("w.txt", COMPOSE, (235, "bicubic", "224x200", None, None)),
    "torchvision, code": ("t.py", CODE, (320, "bicubic", 288, None, None)),
    "torchvision, max_size": ("t.py", "Resize(None, max_size=640)", ("longest:640", None, None, None, None)),
    "torchvision, both": ("t.py", "Resize(800, max_size=1333)", ("800,longest:1333", None, None, None, None)),
    "torchvision, two sides": ("t.py", "Resize((20, 30), interpolation=3)", ("20x30", "bicubic", None, None, None)),
    "Ultralytics": (
        "args.yaml",
        "task: detect\nmode: train\nimgsz: 640\n",
        ("longest:640", None, None, "114", "ultralytics"),
    ),
    "Ultralytics, classify": ("args.yaml", "task: classify\nimgsz: 224\n", (224, None, 224, None, None)),
    "Ultralytics, code": (
        "train.py",
        'from ultralytics import YOLO\nYOLO("a.pt").train(data="coco8.yaml", imgsz=320)\n',
        ("longest:320", None, None, "114", "ultralytics"),
    ),
    "mmpretrain": ("m.py", MM, (256, "bicubic", 224, None, None)),
    "mmpretrain 0.x": (
        "m.py",
        "test_pipeline = [dict(type='Resize', size=(256, -1)), dict(type='CenterCrop', crop_size=224)]",
        (256, None, 224, None, None),
    ),
    "mmdet": ("m.py", MMDET, ("800,longest:1333", None, None, None, "mmcv")),
    "mmdet 2": ("m.py", MMDET_OLD, ("longest:640", None, None, "114:corner", "mmcv")),
    "mmseg": ("m.py", "test_pipeline = [dict(type='Resize', scale=(40, 20))]", ("20x40", None, None, None, None)),
    "mmyolo": ("m.py", MMYOLO, ("longest:640", None, None, "114", "mmcv")),
}


def options_of(path: Path, **options: Any) -> StatsOptions:
    return resolve(StatsOptions(like=path, **options))


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read(name: str, tmp_path: Path) -> None:
    file, text, want = FILES[name]
    (tmp_path / file).write_text(text)
    options = options_of(tmp_path / file)
    got = (options.resize, options.interpolation, options.center_crop, options.pad, options.like)
    assert got == want


BAD = {
    "empty": ("", "contains no geometry"),
    "mean and std alone": ('{"image_mean": [0.5], "image_std": [0.5], "do_resize": false}', "contains no geometry"),
    "prose": ("Resize your images to 224 pixels.", "contains no geometry"),
    "numbers": ("[1, 2, 3]", "contains no geometry"),
    "base": ('_base_ = ["a.py"]\nmodel = dict(type="ResNet")\n', "its _base_ files are not read"),
    "tiles": (hf(size={"shortest_edge": 9}, min_pixels=3136), "min_pixels sets the sides of every image"),
    "size": (hf(size={"area": 9}), "--resize cannot express size {'area': 9}"),
    "box filter": (hf(size={"shortest_edge": 9}, resample=4), "interpolation must be one of"),
    "no side": (hf(size={"shortest_edge": "large"}), "a side must be a number, not large"),
    "huge": (hf(size={"shortest_edge": 10**30}), "is not a number of pixels"),
    "no share": (json.dumps({**TIMM, "crop_pct": -1}), "crop_pct must be a number above 0 and at most 8, not -1"),
    "no mode": (
        json.dumps({**TIMM, "crop_mode": "corner"}),
        "crop_mode must be one of center, squash, border, not 'corner'",
    ),
    "no square": (json.dumps({**TIMM, "input_size": [3, 224, 320]}), "crop_mode center requires a square"),
    "crop first": ("Compose([CenterCrop(9), Resize(5)])", "CenterCrop comes before Resize"),
    "computed": ("Resize(side_of(model))", "a side must be a number, not an expression"),
    "deep": ("[" * 5000, "contains no geometry"),
    "statistics without": ('{"schema": "normcli/stats/2", "settings": {"resize": null}}', "contains no geometry"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_without_a_geometry_is_one_line(name: str, tmp_path: Path) -> None:
    text, words = BAD[name]
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError) as raised:
        read_geometry(str(tmp_path / "file"))
    assert words in str(raised.value) and str(raised.value).startswith(f"`like`: {tmp_path / 'file'}: ")
    assert "\n" not in str(raised.value)


def test_the_commands_end_with_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph(8, 8)))
    (tmp_path / "empty.json").write_text("{}")
    for file, words in (
        ("empty.json", b"contains no geometry"),
        ("absent", b"no such file or directory (libraries are"),
    ):
        for command in (("stats", "a.png"), ("apply", "a.png", "-o", "out", "-s", "unit"), ("diff", "a.png", "a.png")):
            done = run(*command, "--like", file)
            assert done.returncode == 2 and done.stdout == b"", command
            assert done.stderr.count(b"\n") == 1 and b"--like: " in done.stderr and words in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_option_replaces_the_file_and_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph(300, 400)))
    (tmp_path / "c.json").write_text(json.dumps(TIMM))
    done = run("stats", "a.png", "--like", "c.json", "--resize", "256", "--interpolation", "bilinear", "--json")
    assert done.stderr.splitlines()[:2] == [
        b"normcli: --resize 256 replaces 248 of c.json",
        b"normcli: --interpolation bilinear replaces bicubic of c.json",
    ]
    same = run("stats", "a.png", "--resize", "256", "--center-crop", "224", "--json")
    assert same.stdout == done.stdout
    silent = run("stats", "a.png", "--like", "c.json", "--center-crop", "224", "--json")
    assert b"replaces" not in silent.stderr


def test_pixels_that_differ_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "args.yaml").write_text("task: detect\nimgsz: 640\n")
    with caplog.at_level(logging.WARNING, "normcli"):
        options_of(tmp_path / "args.yaml")
    assert "OpenCV resizes without antialiasing" in caplog.text


def test_statistics_say_their_own_geometry(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph(30, 40)))
    path = tmp_path / "s.json"
    options: Any = {"resize": "longest:20", "pad": "1,2,3:corner", "interpolation": "lanczos", "like": "timm"}
    made = normcli.stats(tmp_path / "a.png", output=path, **options)
    assert normcli.stats(tmp_path / "a.png", like=path).to_json() == made.to_json()


def test_every_exporter_of_a_config_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph(300, 400)))
    for options in ({"resize": 256, "center_crop": 224}, {"resize": "224x224"}, {"resize": 235, "center_crop": 224}):
        summary = normcli.stats(tmp_path / "a.png", interpolation="bicubic", **options)
        for name in ("timm", "huggingface", "torchvision", "mmcv"):
            (tmp_path / "config").write_text(exporters.export(summary, name))
            back = options_of(tmp_path / "config")
            got = {key: getattr(back, key) for key in ("resize", "center_crop") if getattr(back, key) is not None}
            assert (got, back.interpolation) == (options, "bicubic"), name


def test_nothing_is_executed(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\nResize(__import__('os').getpid())\n")
    with pytest.raises(UsageError):
        read_geometry(str(tmp_path / "evil.py"))
    assert not (tmp_path / "made").exists()
