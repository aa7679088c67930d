"""Published constants, each with the convention it follows and where that is known from.

"Measured" means recomputed from the images with big integers. Constants in wide use that belong to another
convention or split than their users assume are included and flagged, so that `check` can name them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Mean and std as published.

    Attributes:
        mean: per channel, in `order` and `range`.
        std: per channel, or None where only the mean is subtracted.
        range: "0-1" or "0-255".
        order: "RGB", "BGR" or "L".
        convention: a convention of the statistics file, "fixed" for constants that are no statistics, or
            "mean only".
        source: the evidence.
        seen: the fault of a wrong copy of another preset; "" for none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...] | None
    range: str = "0-1"
    order: str = "RGB"
    convention: str
    source: str
    seen: str = ""


_N1 = "the stds are means of per-image stds with N-1, not the pooled std"

PRESETS: dict[str, Preset] = {
    "imagenet": Preset(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        convention="mean_of_image_stds",
        source="after resize 256 and center crop 224, on a lost subset of train: pytorch/vision issue 1439, PR 1965",
    ),
    "imagenet-255": Preset(
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        range="0-255",
        convention="mean_of_image_stds",
        source="imagenet times 255: the configs of the OpenMMLab toolboxes",
    ),
    "clip": Preset(
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        convention="pooled_population",
        source="CLIP's preprocessing (OpenAI); fits the pooled family",
    ),
    "inception": Preset(
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        convention="fixed",
        source='no statistics: maps 0-1 to [-1,1], as the scheme "signed"; Keras mode="tf", timm',
    ),
    "caffe": Preset(
        mean=(103.939, 116.779, 123.68),
        std=None,
        range="0-255",
        order="BGR",
        convention="mean only",
        source='Keras preprocess_input(mode="caffe")',
    ),
    "cifar10": Preset(
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        convention="pooled_population",
        source="train, measured: .491400 .482158 .446531 / .247032 .243485 .261588",
    ),
    "cifar10-copied": Preset(
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        convention="mean_of_image_sample_stds",
        source="train, measured: .202202 .199315 .200863 with N, times sqrt(1024/1023)",
        seen=_N1,
    ),
    "cifar100": Preset(
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        convention="pooled_population",
        source="train, measured",
    ),
    "cifar100-copied": Preset(
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        convention="pooled_population",
        source="pooled, off in the last digit",
        seen="off by 1 to 2 in the fourth digit",
    ),
    "cifar100-copied-n1": Preset(
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2009, 0.1984, 0.2023),
        convention="mean_of_image_sample_stds",
        source="train, measured: .200798 .198346 .202198 with N",
        seen=_N1,
    ),
    "mnist": Preset(
        mean=(0.1307,),
        std=(0.3081,),
        order="L",
        convention="pooled_population",
        source="train (60,000), measured: .130660 / .308108; the test split has .132515 / .310480",
    ),
    "mnist-copied": Preset(
        mean=(0.1307,),
        std=(0.3015,),
        order="L",
        convention="mean_of_image_sample_stds",
        source="train, measured: .301312 with N",
        seen=_N1,
    ),
    "fashion-mnist": Preset(
        mean=(0.2860,),
        std=(0.3530,),
        order="L",
        convention="pooled_population",
        source="train, measured: .286041 / .353024",
    ),
    "fashion-mnist-copied": Preset(
        mean=(0.2860,),
        std=(0.3205,),
        order="L",
        convention="mean_of_image_sample_stds",
        source="train, measured: .320249 with N",
        seen=_N1,
    ),
    "emnist-letters": Preset(
        mean=(0.1722,),
        std=(0.3309,),
        order="L",
        convention="pooled_population",
        source="letters, measured: .172227 / .330947; often given for other splits",
    ),
    "tiny-imagenet": Preset(
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2764, 0.2689, 0.2816),
        convention="pooled_population",
        source="gray as RGB, measured: .276436 .268863 .281590",
    ),
    "tiny-imagenet-copied": Preset(
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        convention="pooled_population",
        source="also seen for tiny-imagenet",
        seen="stds off by 2 to 6 in the fourth digit",
    ),
}
