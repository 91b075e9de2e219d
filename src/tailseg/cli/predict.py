"""`tailseg predict`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.progress import track

from tailseg.cli.common import UsageError, find_recipe, output, parse, print_error, require_run
from tailseg.cli.file_kinds import FOUND, PICTURE
from tailseg.cli.outputs import check
from tailseg.files import DETECTIONS, JsonList, Output, is_drawn, write_bytes
from tailseg.ranges import Range

if TYPE_CHECKING:
    from torch import Tensor

    from tailseg.inference import Predictor
    from tailseg.structures import Detections

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
"""Of what is taken from folders."""
ENDINGS = 8
"""Endings of files that are named."""
TEXTS = (".json", ".txt", ".csv", ".xml", ".md", ".yaml", ".yml", ".html")
"""Of what lies beside images, and is none."""


@dataclass(frozen=True)
class Predict:
    """Find objects in images with a trained run.

    Writes results.json, a list of COCO-style detections (image_id, file_name, category_id, category, bbox as x, y,
    width, height, score, segmentation as run lengths), and each image with its detections drawn in.

    examples:
      tailseg predict runs/tiny_gumbel photo.jpg
      tailseg predict runs/custom_small photos more_photos --out found --score-threshold 0.5
      tailseg predict runs/custom_small photos --color group      red rare, yellow common, blue frequent classes
      tailseg predict runs/custom_small photos --no-pictures      the results file only
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, as `train` or `convert` made it, or one checkpoint file."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images (JPEG, PNG, WebP, GIF, TIFF, BMP) and folders of images; pictures that tailseg drew are left out of
    folders, and files of other formats are counted."""
    out: Annotated[Path | None, Output("results.json, a picture for each image")] = None
    """Folder of what is written; predictions in the run's folder unless given. What `predict` wrote there before is
    replaced: results.json and all its pictures."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    score_threshold: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Leave out detections that score less."""
    color: Literal["class", "group"] = "class"
    """A color for each class, or for each frequency group."""
    pictures: bool = True
    """Draw pictures."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    device: str = "auto"
    """auto takes cuda when present, else cpu."""
    calibrated: bool = True
    """Move scores as `tailseg calibrate` stored it in the run's folder, if it did."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] | None = None
    """Of the network's layers; that of the run unless given."""
    compile: bool = False
    """Compile the backbone: the first image takes a minute, many images of the same size are quicker afterwards."""
    recipe: str | None = None
    """module:function of your own recipe, if the run was trained with one."""


def run(arguments: Sequence[str]) -> None:
    """Detect, draw, write; images that cannot be read, drawn or written are named, and fail the command at its end."""
    options = parse(Predict, arguments, command="predict")
    files = find_images(options.images)
    require_run(options.run)
    if line := left_out(options.images):
        output().print(line, markup=False, soft_wrap=True)
    out = options.out or (options.run if options.run.is_dir() else options.run.parent) / "predictions"
    earlier = earlier_pictures(out)
    names = picture_names(files)
    pictures = {*(out / name for name in names.values() if options.pictures), *earlier}
    targets = {out: None, out / "results.json": FOUND, **dict.fromkeys(pictures, PICTURE)}
    check(options, targets, instead="name another folder (--out)", inputs=files, overwrite=options.overwrite)
    from tailseg.inference import Predictor
    from tailseg.models.optimize import InferenceConfig

    base = find_recipe(options.recipe) if options.recipe else None
    config = InferenceConfig(precision=options.precision, compile=options.compile)
    predictor = Predictor.from_run(
        options.run,
        checkpoint=options.checkpoint,
        device=options.device,
        base=base,
        calibrated=options.calibrated,
        config=config,
    )
    if predictor.calibration.setting.method != "none":
        output().print(f"Scores are calibrated: {predictor.calibration.setting}")
    out.mkdir(parents=True, exist_ok=True)
    with JsonList(out / "results.json") as results:
        failed = predict_files(predictor, files, results, options)
    remove_left(earlier)
    output().print(f"{results.count} objects in {len(files) - failed} images: see {out}", markup=False)
    if failed:
        raise ValueError(f"{failed} of {len(files)} images could not be read or drawn (named above)")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images among the paths and, in order of their names, in the folders among them.

    Pictures that tailseg drew are left out of folders: those of the last call would be taken for new images.

    Raises:
        UsageError: a path does not exist, or nothing is left.
    """
    if not paths:
        raise UsageError("name at least one image or folder: tailseg predict RUN IMAGES_OR_FOLDERS...")
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"no image or folder {path}")
        files += filter(is_image, sorted(path.rglob("*"))) if path.is_dir() else [path]
    if not files:
        others = left_out(paths)
        raise UsageError(
            f"no images ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}{'; ' * bool(others)}{others}"
        )
    return list(dict.fromkeys(files))


def is_image(file: Path) -> bool:
    """Whether something in a folder is an image, and none that tailseg drew."""
    return file.suffix.lower() in SUFFIXES and file.is_file() and not is_drawn(file)


def left_out(paths: Sequence[Path]) -> str:
    """How many files of the folders are of formats that are not read, by their endings; nothing for none."""
    others = Counter(
        file.suffix.lower() or "without ending"
        for path in paths
        if path.is_dir()
        for file in path.rglob("*")
        if file.suffix.lower() not in (*SUFFIXES, *TEXTS) and not file.name.startswith(".") and file.is_file()
    )
    if not others:
        return ""
    endings = ", ".join(ending for ending, _ in others.most_common(ENDINGS)) + ", .." * (len(others) > ENDINGS)
    return f"left out: {others.total():,} files of formats that are not read ({endings})"


def earlier_pictures(folder: Path) -> dict[Path, int]:
    """The pictures in a folder that an earlier call drew, with the numbers of their files."""
    return {file: file.stat().st_ino for file in sorted(folder.glob("*.jpg")) if is_drawn(file, DETECTIONS)}


def remove_left(earlier: Mapping[Path, int]) -> None:
    """Removes the pictures of an earlier call that this one has not replaced, once it has its results.

    One that was replaced is another file under the same name.
    """
    for file, number in earlier.items():
        if file.stat().st_ino == number:
            file.unlink()


def predict_files(predictor: "Predictor", files: Sequence[Path], results: JsonList, options: Predict) -> int:
    """Adds the result records of all images (ids count from 1), and draws pictures beside them.

    An image that cannot be read has no records; one that cannot be drawn has, but no picture.

    Returns:
        How many images could not be read or drawn; they are named.

    Raises:
        TrainingStopped: by a signal; the image at that moment was finished.
        OSError: the disk is full or cannot be written.
    """
    from tailseg.evaluation import to_results
    from tailseg.training.interrupt import StopRequest, TrainingStopped

    failed = 0
    names = picture_names(files)
    ids = [category.id for category in predictor.categories]
    class_names = {category.id: category.name for category in predictor.categories}
    with StopRequest(after="this image") as stop:
        for image_id, file in enumerate(track(files, "predicting", transient=True, console=output()), start=1):
            try:
                stop.check()
            except TrainingStopped:
                done = f"{image_id - 1} of {len(files)} images"
                raise TrainingStopped(f"stopped after {done}: what was found is in {results.path}") from None
            try:
                image = predictor.read(file)
                found = predictor.detect(image).above(options.score_threshold)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one image, the others are looked at
                failed += 1
                print_error(describe(file, error))
                continue
            records = to_results(found, image_id, ids)
            results.add(
                {"file_name": file.as_posix(), "category": class_names[record["category_id"]], **record}
                for record in records
            )
            if not options.pictures:
                continue
            try:
                picture = drawn(predictor, image, found, options.color)
            except Exception as error:  # noqa: BLE001
                failed += 1
                print_error(describe(file, error))
            else:
                write_bytes(results.path.parent / names[file], picture)
    return failed


def drawn(predictor: "Predictor", image: "Tensor", found: "Detections", color: Literal["class", "group"]) -> bytes:
    """A JPEG file of an image (RGB, ``[3, h, w]``) with its detections.

    Raises:
        ImageError: it is too long for a JPEG file.
    """
    from PIL import Image

    from tailseg.drawing import draw, to_jpeg

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    groups = predictor.frequency.groups
    return to_jpeg(draw(picture, found, predictor.names, groups, color_by=color), quality=92)


def describe(file: Path, error: Exception) -> str:
    """What is wrong with an image, with the name of its file."""
    reason = str(error).strip() or type(error).__name__
    return reason if str(file) in reason else f"image {file}: {reason}"


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """A file name for each picture: the image's own, with a number where two would be the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.jpg", 2
        while name.casefold() in taken:  # file systems may take both cases for the same
            name, number = f"{file.stem}_{number}.jpg", number + 1
        taken.add(name.casefold())
        names[file] = name
    return names
