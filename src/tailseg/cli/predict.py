"""`tailseg predict`."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import tyro
from rich.progress import track

from tailseg.cli.common import (
    UsageError,
    find_own_code,
    output,
    parse,
    print_error,
    require_run,
)
from tailseg.cli.file_kinds import FOUND, PICTURE
from tailseg.cli.outputs import check
from tailseg.export.formats import FILES
from tailseg.files import DETECTIONS, JsonList, Output, is_drawn, write_bytes
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from torch import Tensor

    from tailseg.export.engine import Engine
    from tailseg.inference import Predictor
    from tailseg.structures import Detections

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
"""Endings of the image files that the command reads in folders."""
TORCH_OPTIONS: Final = ("checkpoint", "device", "calibrated", "precision", "compile", "recipe", "module")
"""Options that an exported file does not take: it has its own precision and calibration."""
MAX_ENDINGS = 8
"""Endings that the note about other files names."""
DEFAULT_THRESHOLD: Final = 0.3
THRESHOLDS_FILE: Final = "thresholds.json"
TEXTS = (".json", ".txt", ".csv", ".xml", ".md", ".yaml", ".yml", ".html")
"""Endings of files that often lie next to images; the note does not count them."""


@dataclass(frozen=True)
class Predict:
    """Detect objects in images with a trained run.

    The command writes results.json, a list of COCO-style detections (image_id, file_name, category_id, category, bbox
    as x, y, width, height, score, segmentation as run lengths), and a picture of each image with its detections.

    examples:
      tailseg predict runs/tiny_gumbel photo.jpg
      tailseg predict runs/custom_small photos more_photos --out detections --score-threshold 0.5
      tailseg predict runs/custom_small photos --no-class-thresholds
      tailseg predict runs/custom_small photos --color group      red rare, yellow common, blue frequent classes
      tailseg predict runs/custom_small photos --no-pictures      the results file only
      tailseg predict runs/custom_small photos --engine openvino  with the file that tailseg export wrote
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, which `train` or `convert` wrote, or one checkpoint file. With --engine also the file that
    `tailseg export` wrote."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images (JPEG, PNG, WebP, GIF, TIFF, BMP) and folders of images. In folders, the command leaves out pictures that
    tailseg drew, and counts files of other formats."""
    out: Annotated[Path | None, Output("results.json, a picture for each image")] = None
    """Folder to write into; the default is the folder predictions in the run's folder. The command replaces everything
    that `predict` wrote there before: results.json and all its pictures."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    score_threshold: Annotated[float | None, Range(ge=0, le=1)] = None
    """Leave out detections with a lower score. None uses the score thresholds of the classes that `tailseg thresholds`
    stored in the run's folder, if there are some, and else 0.3."""
    class_thresholds: bool = True
    """Use the score thresholds of the classes, if there are some and --score-threshold is not given."""
    color: Literal["class", "group"] = "class"
    """A color for each class, or for each frequency group."""
    pictures: bool = True
    """Draw pictures."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    device: str = "auto"
    """auto uses cuda if it is available, else cpu."""
    calibrated: bool = True
    """Use the calibration of the scores that `tailseg calibrate` stored in the run's folder, if there is one."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] | None = None
    """Precision of the network; the default is that of the run."""
    engine: Literal["torch", "onnx", "openvino"] = "torch"
    """What computes the network: torch, or onnxruntime or OpenVINO with the file that `tailseg export` wrote into the
    folder "exported" of the run. Precision and calibration are then those of the file."""
    compile: bool = False
    """Compile the backbone. The first image takes a minute; many images of the same size are then faster."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Detects, draws and writes; the command names images that fail, and fails itself at its end."""
    options = parse(Predict, arguments, command="predict")
    files = find_images(options.images)
    exported = find_exported(options)
    require_run(options.run)
    if line := describe_other_files(options.images):
        output().print(line, markup=False, soft_wrap=True)
    out = options.out or (options.run if options.run.is_dir() else options.run.parent) / "predictions"
    earlier = find_earlier_pictures(out)
    names = picture_names(files)
    pictures = {*(out / name for name in names.values() if options.pictures), *earlier}
    targets = {out: None, out / "results.json": FOUND, **dict.fromkeys(pictures, PICTURE)}
    check(options, targets, instead="name another folder (--out)", inputs=files, overwrite=options.overwrite)
    predictor = load_predictor(options) if exported is None else load_engine(options, exported)
    threshold = choose_threshold(predictor, options.score_threshold, class_thresholds=options.class_thresholds)
    out.mkdir(parents=True, exist_ok=True)
    with JsonList(out / "results.json") as results:
        failed, best = predict_files(predictor, files, results, options, threshold)
    remove_old_pictures(earlier)
    output().print(
        f"{count_noun(results.count, 'object')} in {count_noun(len(files) - failed, 'image')}: see {out}", markup=False
    )
    if best and best.score > 0 and not results.count:
        output().print(describe_low_scores(options, best, threshold), markup=False, soft_wrap=True)
    if failed:
        raise ValueError(f"{failed} of {count_noun(len(files), 'image')} could not be read or drawn (see above)")


def find_exported(options: Predict) -> Path | None:
    """Finds the exported file that --engine asks for; None for torch.

    Raises:
        UsageError: there is none, its ending is that of another engine, or an option is for torch.
    """
    if options.engine == "torch":
        return None
    for entry in fields(options):
        if entry.name in TORCH_OPTIONS and getattr(options, entry.name) != entry.default:
            name = entry.name.replace("_", "-")
            raise UsageError(f"--{name} is for --engine torch: give it to `tailseg export`, if the command has it")
    name = FILES[options.engine]
    file = options.run / "exported" / name if options.run.is_dir() else options.run
    if not file.is_file():
        again = shlex.join(["tailseg", "export", str(options.run), "--to", options.engine])
        raise UsageError(f"there is no exported file {file}: write it with `{again}`, or name another one")
    if file.suffix != Path(name).suffix:
        raise UsageError(f"{file} is not for --engine {options.engine}, whose files end with {Path(name).suffix}")
    return file


def load_engine(options: Predict, file: Path) -> "Engine":
    """Opens an exported file; notes that it may be of an older checkpoint.

    Args:
        options: the options of the command.
        file: the file.

    Returns:
        The file with its runtime.
    """
    from tailseg.export.engine import Engine

    engine = Engine(file)
    output().print(f"{file}: step {engine.settings['step']}, {engine.settings['precision']}", markup=False)
    checkpoints = options.run.glob("checkpoints/*.pt") if options.run.is_dir() else ()
    if any(checkpoint.stat().st_mtime > file.stat().st_mtime for checkpoint in checkpoints):
        output().print("note: the run has a newer checkpoint. Export it again", markup=False, soft_wrap=True)
    return engine


def load_predictor(options: Predict) -> "Predictor":
    """Loads the run in torch; says how its scores are calibrated."""
    from tailseg.inference import Predictor
    from tailseg.models.optimize import InferenceConfig

    base, modules = find_own_code(options.recipe, options.module)
    config = InferenceConfig(precision=options.precision, compile=options.compile)
    predictor = Predictor.from_run(
        options.run,
        checkpoint=options.checkpoint,
        device=options.device,
        base=base,
        modules=modules,
        calibrated=options.calibrated,
        config=config,
    )
    if predictor.calibration.setting.method != "none":
        output().print(f"Scores are calibrated: {predictor.calibration.setting}")
    return predictor


def choose_threshold(
    predictor: "Predictor | Engine", score_threshold: float | None, *, class_thresholds: bool = True
) -> float | tuple[float, ...]:
    """Chooses the score threshold: the user's, one for each class of the run, or `DEFAULT_THRESHOLD`.

    The function prints that thresholds of classes are used, or why they are not.

    Args:
        predictor: the trained model.
        score_threshold: the user's threshold for all classes, if one is given.
        class_thresholds: whether the user wants those of the classes.

    Returns:
        One number, or one for each label.
    """
    if score_threshold is not None:
        return score_threshold
    if not class_thresholds:
        return DEFAULT_THRESHOLD
    if predictor.thresholds_note:
        note = f"note: {predictor.thresholds_note}. The score threshold is {DEFAULT_THRESHOLD:g} for all classes"
        output().print(note, markup=False, soft_wrap=True)
    if predictor.thresholds is None:
        return DEFAULT_THRESHOLD
    low, high = min(predictor.thresholds), max(predictor.thresholds)
    output().print(f"Score thresholds by class: {low:.2g} to {high:.2g} ({THRESHOLDS_FILE})", markup=False)
    return predictor.thresholds


class BestDetection(NamedTuple):
    """The detection with the highest score, whatever its threshold."""

    score: float
    label: int
    class_name: str


def describe_low_scores(options: Predict, best: BestDetection, threshold: float | Sequence[float]) -> str:
    """Says what a user can do if all scores are below the threshold.

    Args:
        options: the options of the command.
        best: the detection with the highest score of all images.
        threshold: one number, or one for each label.

    Returns:
        One line.
    """
    lower = float(f"{best.score / 2:.1g}")
    images = " ".join(quote(str(path)) for path in options.images)
    if isinstance(threshold, int | float):
        reason = f"and --score-threshold is {threshold:g}"
    else:
        reason = f"of the class {best.class_name}, whose threshold in {THRESHOLDS_FILE} is {threshold[best.label]:.2g}"
    return (
        f"note: the highest score is {best.score:.2g}, {reason}. See the best "
        f"detections with `tailseg predict {quote(str(options.run))} {images} --score-threshold {lower:g}`. If images "
        "that look like the training images get such scores, the training was too short"
    )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Lists the images among the paths and, in order of their names, the images in the folders among the paths.

    It leaves out pictures in folders that tailseg drew: the pictures of the last call are not new images.

    Raises:
        UsageError: a path does not exist, or there is no image.
    """
    if not paths:
        raise UsageError("name at least one image or folder: tailseg predict RUN IMAGES_OR_FOLDERS...")
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist. Name an image or a folder")
        files += filter(is_image, sorted(path.rglob("*"))) if path.is_dir() else [path]
    if not files:
        others = describe_other_files(paths)
        raise UsageError(
            f"no images ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}{'; ' * bool(others)}{others}"
        )
    return list(dict.fromkeys(files))


def is_image(file: Path) -> bool:
    """Whether a path in a folder is an image that tailseg did not draw."""
    return file.suffix.lower() in SUFFIXES and file.is_file() and not is_drawn(file)


def describe_other_files(paths: Sequence[Path]) -> str:
    """Counts the files in the folders whose format the command does not read; returns "" if there are none."""
    others = Counter(
        file.suffix.lower() or "without ending"
        for path in paths
        if path.is_dir()
        for file in path.rglob("*")
        if file.suffix.lower() not in (*SUFFIXES, *TEXTS) and not file.name.startswith(".") and file.is_file()
    )
    if not others:
        return ""
    endings = ", ".join(ending for ending, _ in others.most_common(MAX_ENDINGS)) + ", .." * (len(others) > MAX_ENDINGS)
    return f"left out: {count_noun(others.total(), 'file')} of other formats ({endings})"


def find_earlier_pictures(folder: Path) -> dict[Path, int]:
    """Finds the pictures in a folder that an earlier call drew; returns them with their inode numbers."""
    return {file: file.stat().st_ino for file in sorted(folder.glob("*.jpg")) if is_drawn(file, DETECTIONS)}


def remove_old_pictures(earlier: Mapping[Path, int]) -> None:
    """Removes the pictures of an earlier call that this call has not replaced.

    A replaced picture is another file with the same name, and so has another inode number.
    """
    for file, number in earlier.items():
        if file.stat().st_ino == number:
            file.unlink()


def predict_files(
    predictor: "Predictor | Engine",
    files: Sequence[Path],
    results: JsonList,
    options: Predict,
    threshold: float | Sequence[float],
) -> tuple[int, BestDetection | None]:
    """Adds the result records of all images (image ids count from 1), and draws pictures.

    An image that cannot be read has no records. An image that cannot be drawn has records and no picture. The function
    prints the reasons.

    Args:
        predictor: the trained model.
        files: the images.
        results: the results file; the pictures go next to it.
        options: the options of the command.
        threshold: the score threshold, or one for each label.

    Returns:
        How many images could not be read or drawn, and the best detection of all images, if there is one.

    Raises:
        TrainingStopped: a signal came; the current image was finished.
        OSError: the disk is full or cannot be written.
    """
    from tailseg.evaluation import to_results
    from tailseg.training.interrupt import StopRequest, TrainingStopped

    failed, best = 0, None
    names = picture_names(files)
    ids = [category.id for category in predictor.categories]
    class_names = {category.id: category.name for category in predictor.categories}
    with StopRequest(after="this image") as stop:
        for image_id, file in enumerate(track(files, "predicting", transient=True, console=output()), start=1):
            try:
                stop.check()
            except TrainingStopped:
                done = f"{image_id - 1} of {len(files)} images"
                raise TrainingStopped(f"stopped after {done}; their detections are in {results.path}") from None
            try:
                image = predictor.read(file)
                all_detections = predictor.detect(image)
                detections = all_detections.above(threshold)
            except Exception as error:  # noqa: BLE001 - the other images are still processed
                failed += 1
                print_error(describe_error(file, error))
                continue
            if len(all_detections):
                first = int(all_detections.scores.argmax())
                score, label = float(all_detections.scores[first]), int(all_detections.labels[first])
                if best is None or score > best.score:
                    best = BestDetection(score, label, predictor.names[label])
            records = to_results(detections, image_id, ids)
            results.add(
                {"file_name": file.as_posix(), "category": class_names[record["category_id"]], **record}
                for record in records
            )
            if not options.pictures:
                continue
            try:
                picture = draw_picture(predictor, image, detections, options.color)
            except Exception as error:  # noqa: BLE001
                failed += 1
                print_error(describe_error(file, error))
            else:
                write_bytes(results.path.parent / names[file], picture)
    return failed, best


def draw_picture(
    predictor: "Predictor | Engine", image: "Tensor", detections: "Detections", color: Literal["class", "group"]
) -> bytes:
    """Draws detections into an image.

    Args:
        predictor: the trained model, for the names and groups of the classes.
        image: RGB, ``[3, h, w]``.
        detections: the detections.
        color: whether each class or each frequency group has its color.

    Returns:
        The bytes of a JPEG file.

    Raises:
        ImageError: the image is too long for a JPEG file.
    """
    from PIL import Image

    from tailseg.drawing import draw, to_jpeg

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return to_jpeg(draw(picture, detections, predictor.names, predictor.groups, color_by=color), quality=92)


def describe_error(file: Path, error: Exception) -> str:
    """Says why an image failed, with the name of its file."""
    reason = str(error).strip() or type(error).__name__
    return reason if str(file) in reason else f"image {file}: {reason}"


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """Chooses a file name for each picture: the name of the image, with a number if two names would be equal."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.jpg", 2
        while name.casefold() in taken:  # some file systems ignore case
            name, number = f"{file.stem}_{number}.jpg", number + 1
        taken.add(name.casefold())
        names[file] = name
    return names
