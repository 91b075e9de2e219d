"""Losses of tailseg in other projects' models, their checkpoints, and AP by frequency group in their trainers.

`to_tailseg` and `export_file` convert files. `from_mmdet`, `from_detectron2`, `from_torchvision` and their inverses
convert state dicts. `read_classes` reads the frequency of the classes, which a loss needs, from an annotation file. The
names are imported when they are used.

Some modules are imported by their own names. `tailseg.interop.torchvision`, `detr` (transformers), `lightning`
(rfdetr) and `ultralytics` have ``use_loss(model, loss)``; `mmdet` registers the losses for configs. `trainer`
(transformers) and `lightning` report AP, APr, APc and APf during a training. All but the first need the package that
they are for.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.interop.classes import read_classes
    from tailseg.interop.convert import ConversionReport, export_file, to_mmdet_file, to_tailseg
    from tailseg.interop.detectron2 import FileSettings, find_settings, from_detectron2, to_detectron2
    from tailseg.interop.files import WeightsFile, read_weights_file, write_safetensors_file, write_torch_file
    from tailseg.interop.initial import prepare_initial_weights
    from tailseg.interop.mmdet_weights import backbone_from_mmdet, from_mmdet, to_mmdet
    from tailseg.interop.rules import Converted
    from tailseg.interop.torchvision_weights import from_torchvision, to_torchvision
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "classes": ("read_classes",),
            "convert": ("ConversionReport", "export_file", "to_mmdet_file", "to_tailseg"),
            "detectron2": ("FileSettings", "find_settings", "from_detectron2", "to_detectron2"),
            "files": ("WeightsFile", "read_weights_file", "write_safetensors_file", "write_torch_file"),
            "initial": ("prepare_initial_weights",),
            "mmdet_weights": ("backbone_from_mmdet", "from_mmdet", "to_mmdet"),
            "rules": ("Converted",),
            "torchvision_weights": ("from_torchvision", "to_torchvision"),
        },
    )

__all__ = [
    "ConversionReport",
    "Converted",
    "FileSettings",
    "WeightsFile",
    "backbone_from_mmdet",
    "export_file",
    "find_settings",
    "from_detectron2",
    "from_mmdet",
    "from_torchvision",
    "prepare_initial_weights",
    "read_classes",
    "read_weights_file",
    "to_detectron2",
    "to_mmdet",
    "to_mmdet_file",
    "to_tailseg",
    "to_torchvision",
    "write_safetensors_file",
    "write_torch_file",
]
