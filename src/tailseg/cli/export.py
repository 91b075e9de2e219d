"""`tailseg export`."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.progress import Progress

from tailseg.cli.common import UsageError, find_own_code, output, parse, require_run
from tailseg.cli.file_kinds import MARKDOWN_MARK, MODELS, OPENVINO_WEIGHTS, RUNNER, TABLES
from tailseg.cli.outputs import check
from tailseg.cli.predict import find_images
from tailseg.export.formats import FILES, MISSING
from tailseg.files import Input, Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.inference import Predictor


@dataclass(frozen=True)
class Export:
    """Write a trained run as a file for other runtimes, and compare the file with torch.

    The file takes photographs of any size, several at a time. Everything is inside: the classification loss's own
    scores, the stored calibration and thresholds, class-wise NMS, the classes and the preprocessing. detect.py next to
    it runs the file without torch and tailseg: from photographs to results.json. comparison.md says how well detections
    and AP agree with torch on the validation images.

    The command needs `pip install 'tailseg[export]'`.

    examples:
      tailseg export runs/custom_small
      tailseg export runs/custom_small --to openvino --out exported --images 500
      tailseg export runs/custom_small --precision int8 --sample-images photos
      python runs/custom_small/exported/detect.py runs/custom_small/exported/model.onnx photos
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, which `train` or `convert` wrote, or one checkpoint file."""
    to: Literal["onnx", "openvino", "torch"] = "onnx"
    """The format: ONNX for onnxruntime (model.onnx), OpenVINO's own (model.xml and model.bin), or torch's own
    (model.pt2, which torch runs without tailseg)."""
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Precision of convolutions and linear layers. Scores, boxes, NMS and masks are always computed in float32.
    bfloat16 is for OpenVINO and torch, int8 for ONNX and OpenVINO. The default is not the precision of the run."""
    masks: Literal["box", "image"] = "box"
    """Masks as the file returns them: probabilities inside the box (28 x 28, which detect.py pastes), or the pixels of
    the image. With 300 detections, the latter needs 1.5 KB of memory for each pixel of the image."""
    sample_images: Path | None = None
    """Folder of images like those to detect objects in, or one image. For int8: the command measures the ranges of the
    feature maps on them. None takes training images."""
    samples: Annotated[int, Range(ge=1)] = 100
    """The largest number of these images."""
    out: Annotated[Path | None, Output("the model, detect.py, comparison.md")] = None
    """The folder to write to; None writes to the folder "exported" of the run."""
    images: Annotated[int, Range(ge=0)] = 200
    """The largest number of validation images for the comparison with torch; 0 does not compare."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    calibrated: bool = True
    """With the calibration of the scores that `tailseg calibrate` stored, if there is one."""
    val: Annotated[str | None, Input()] = None
    """Another annotation file for the comparison. It must have the classes of the model."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images, if they are neither next to the annotation file nor where they were in
    training."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Writes the file, its runner and the comparison."""
    options = parse(Export, arguments, command="export")
    require_run(options.run)
    if options.out is None and options.run.is_file():
        raise UsageError(f"{options.run} is a file: name the folder to write to (--out)")
    folder = options.out or options.run / "exported"
    if reason := MISSING.get((options.to, options.precision)):
        raise UsageError(f"--to {options.to} --precision {options.precision} is not possible: {reason}")
    photos = find_images([options.sample_images]) if options.sample_images else []
    if photos and options.precision != "int8":
        raise UsageError("--sample-images is for --precision int8")
    file, report = folder / FILES[options.to], folder / "comparison.md"
    targets = {folder: None, file: MODELS[options.to], folder / "detect.py": RUNNER, report: TABLES}
    if options.to == "openvino":
        targets[file.with_suffix(".bin")] = OPENVINO_WEIGHTS
    check(options, targets, instead="name another folder (--out)", inputs=photos, overwrite=options.overwrite)
    from tailseg.export.files import export_model, write_runner
    from tailseg.inference import InferenceConfig, Predictor

    base, modules = find_own_code(options.recipe, options.module)
    predictor = Predictor.from_run(
        options.run,
        checkpoint=options.checkpoint,
        device="cpu",
        base=base,
        modules=modules,
        calibrated=options.calibrated,
        config=InferenceConfig(precision="float32"),
    )
    if predictor.thresholds_note:
        output().print(f"note: {predictor.thresholds_note}", markup=False, soft_wrap=True)
    annotations = read_validation(options, predictor) if options.images else None
    write_runner(folder / "detect.py")  # a full disk is an error before the work
    samples = read_sample_images(options, predictor, photos) if options.precision == "int8" else ()
    with output().status("exporting"):
        export_model(predictor, file, options.to, precision=options.precision, masks=options.masks, samples=samples)
    size = sum(path.stat().st_size for path in targets if path.suffix == file.suffix or path.suffix == ".bin") / 1e6
    output().print(f"Written: {file} ({size:.1f} MB), {folder / 'detect.py'}", markup=False, soft_wrap=True)
    if annotations is not None:
        compare(predictor, file, annotations, options.images, report)
    command = shlex.join(["python", str(folder / "detect.py"), str(file), "PHOTOS"])
    output().print(f"Next:\n  {command}", markup=False, soft_wrap=True)


def read_sample_images(options: Export, predictor: "Predictor", photos: Sequence[Path]) -> Iterable[dict[str, Any]]:
    """Reads the images on which the ranges of int8 are measured.

    Args:
        options: the options of the command.
        predictor: the model.
        photos: the images that the user names; none takes the training set.

    Returns:
        The inputs of the exported model for each image.

    Raises:
        ValueError: the training set is not there.
    """
    from tailseg.export.samples import read_samples
    from tailseg.recipes.build import build_training
    from tailseg.recipes.places import get_run_folder, locate_data

    if photos:
        return read_samples(predictor, photos, options.samples)
    recipe = locate_data(predictor.recipe, predictor.checkpoint.recipe, get_run_folder(options.run))
    try:
        return read_samples(predictor, build_training(recipe), options.samples)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{error}. Or name a folder of images for int8 with --sample-images") from error


def read_validation(options: Export, predictor: "Predictor") -> "Annotations | None":
    """Reads the validation set of the run; None, with a note, if it is not there."""
    from tailseg.recipes.build import build_validation
    from tailseg.recipes.places import get_run_folder, locate_data
    from tailseg.training.fit import with_classes_of_run

    recipe = locate_data(predictor.recipe, predictor.checkpoint.recipe, get_run_folder(options.run))
    if options.val:
        recipe = replace(recipe, data=replace(recipe.data, val=options.val, val_images=None))
    try:
        annotations = build_validation(recipe, images=options.val_images)
    except (ValueError, FileNotFoundError) as error:
        if options.val or options.val_images:
            raise
        reason = f"the file is not compared with torch, because the validation set was not found ({error})"
        output().print(f"note: {reason}. Name it with --val", markup=False, soft_wrap=True)
        return None
    return with_classes_of_run(annotations, predictor.checkpoint, predictor.file)


def compare(predictor: "Predictor", file: Path, annotations: "Annotations", images: int, report: Path) -> None:
    """Compares the file with torch, prints the result and writes the report.

    Args:
        predictor: the model in torch.
        file: the exported file.
        annotations: the validation set.
        images: the largest number of images.
        report: the file to write.
    """
    from tailseg.export.comparison import compare_with_torch
    from tailseg.files import write_text

    with Progress(console=output(), transient=True) as bar:
        task = bar.add_task("comparing with torch", total=None)
        comparison = compare_with_torch(
            predictor,
            file,
            annotations,
            images=images,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_text(report, MARKDOWN_MARK + comparison.to_markdown())
    output().print(comparison.summary(), markup=False, soft_wrap=True)
    output().print(f"Written: {report}", markup=False, soft_wrap=True)
