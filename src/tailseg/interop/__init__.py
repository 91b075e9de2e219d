"""Checkpoints of other projects, and AP by frequency group in the trainers of transformers and rfdetr.

`to_tailseg` and `to_mmdet_file` convert files. `from_mmdet`, `to_mmdet` and `from_torchvision` convert state dicts.
`EvaluatingTrainer` (transformers) and `RFDETREvaluation` report AP, APr, APc and APf during a training. The names are
imported when they are used.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.interop.classes import read_classes
    from tailseg.interop.convert import ConversionReport, to_mmdet_file, to_tailseg
    from tailseg.interop.files import WeightsFile, read_weights_file, write_safetensors_file, write_torch_file
    from tailseg.interop.initial import prepare_initial_weights
    from tailseg.interop.lightning import RFDETREvaluation
    from tailseg.interop.mmdet import backbone_from_mmdet, from_mmdet, to_mmdet
    from tailseg.interop.rules import Converted
    from tailseg.interop.torchvision import from_torchvision
    from tailseg.interop.trainer import EvaluatingTrainer
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "classes": ("read_classes",),
            "convert": ("ConversionReport", "to_mmdet_file", "to_tailseg"),
            "files": ("WeightsFile", "read_weights_file", "write_safetensors_file", "write_torch_file"),
            "initial": ("prepare_initial_weights",),
            "lightning": ("RFDETREvaluation",),
            "mmdet": ("backbone_from_mmdet", "from_mmdet", "to_mmdet"),
            "rules": ("Converted",),
            "torchvision": ("from_torchvision",),
            "trainer": ("EvaluatingTrainer",),
        },
    )

__all__ = [
    "ConversionReport",
    "Converted",
    "EvaluatingTrainer",
    "RFDETREvaluation",
    "WeightsFile",
    "backbone_from_mmdet",
    "from_mmdet",
    "from_torchvision",
    "prepare_initial_weights",
    "read_classes",
    "read_weights_file",
    "to_mmdet",
    "to_mmdet_file",
    "to_tailseg",
    "write_safetensors_file",
    "write_torch_file",
]
