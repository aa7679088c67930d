"""Exporters for Earth observation: by band name, and the statistics that rasters carry."""

import json

from normcli.constants.exporters import quote
from normcli.constants.exporters.values import DatasetConstants

_RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"


def terratorch(constants: DatasetConstants) -> str:
    """Write init_args of a TerraTorch data module: bands, means and stds of pixels as stored."""
    constants.require_nonzero_std("terratorch")
    names = ", ".join(map(quote.double_quoted, constants.channels))
    means, stds = (", ".join(map(quote.real, row)) for row in (constants.stored_mean, constants.stored_std))
    return f"""\
# {constants.description}
# TerraTorch: pixels as stored, {constants.stored_range}, {constants.channel_order}; with constant_scale: 1
data:
  init_args:
    dataset_bands: [{names}]
    output_bands: [{names}]
    constant_scale: 1.0
    means: [{means}]
    stds: [{stds}]
"""


def torchgeo(constants: DatasetConstants) -> str:
    """Write mean and std by band name, and Kornia's Normalize, as TorchGeo's data modules have them."""
    constants.require_nonzero_std("torchgeo")
    mean, std = (
        "".join(f"    {name!a}: {value!r},\n" for name, value in zip(_distinct(constants.channels), row, strict=True))
        for row in (constants.stored_mean, constants.stored_std)
    )
    return f"""\
# {constants.description}
# TorchGeo: samples (B,C,H,W) of pixels as stored, {constants.stored_range}, {constants.channel_order}
# class MyDataModule(NonGeoDataModule): mean, std = mean, std
import kornia.augmentation as K
import torch

MEAN = {{
{mean}}}
STD = {{
{std}}}
bands = [*MEAN]
mean = torch.tensor([MEAN[band] for band in bands])
std = torch.tensor([STD[band] for band in bands])
normalize = K.Normalize(mean=mean, std=std)
"""


def stac(constants: DatasetConstants) -> str:
    """Write raster:bands of a STAC asset, with the statistics of pixels as stored, and the names of the bands."""
    low, high = (constants.rounded(constants.stored(row), 2) for row in constants.extremes("stac"))
    dtype = next(iter(constants.white_levels))
    bands = [
        {
            **({} if dtype == "float" else {"data_type": dtype}),
            "statistics": {
                "minimum": low[c],
                "maximum": high[c],
                "mean": constants.stored_mean[c],
                "stddev": constants.stored_std[c],
                "valid_percent": constants.valid_percent[c],
            },
        }
        for c in range(len(constants.channels))
    ]
    asset = {
        "description": f"{constants.description}; pixels as stored, {constants.stored_range}",
        "eo:bands": [{"name": name} for name in constants.channels],
        "raster:bands": bands,
    }
    return json.dumps({"stac_extensions": [_RASTER, _EO], "assets": {"data": asset}}, indent=2) + "\n"


_EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"


def gdal(constants: DatasetConstants) -> str:
    """Write the .aux.xml next to a raster: STATISTICS_* of each band, of pixels as stored."""
    low, high = (constants.rounded(constants.stored(row), 2) for row in constants.extremes("gdal"))
    bands = []
    for c, name in enumerate(constants.channels):
        items = {
            "STATISTICS_MAXIMUM": high[c],
            "STATISTICS_MEAN": constants.stored_mean[c],
            "STATISTICS_MINIMUM": low[c],
            "STATISTICS_STDDEV": constants.stored_std[c],
            "STATISTICS_VALID_PERCENT": constants.valid_percent[c],
        }
        metadata = "".join(f'      <MDI key="{key}">{value!r}</MDI>\n' for key, value in items.items())
        bands.append(f"""\
  <PAMRasterBand band="{c + 1}">
    <Description>{quote.xml(name)}</Description>
    <Metadata>
{metadata}    </Metadata>
  </PAMRasterBand>
""")
    return f"""\
<PAMDataset>
  <!-- {quote.xml_comment(constants.description)} -->
  <!-- GDAL: pixels as stored, {quote.xml_comment(f"{constants.stored_range}, {constants.channel_order}")} -->
{"".join(bands)}</PAMDataset>
"""


def _distinct(names: list[str]) -> list[str]:
    """Return names as keys of a dictionary: one that comes again has its position added."""
    return [name if names.index(name) == c else f"{name} {c}" for c, name in enumerate(names)]
