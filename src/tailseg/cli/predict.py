"""`tailseg predict`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.progress import track

from tailseg.cli.common import UsageError, find_recipe, output, parse, print_error, require_run
from tailseg.cli.file_kinds import FOUND, PICTURE
from tailseg.cli.outputs import check
from tailseg.files import DETECTIONS, Output, drawn, write_picture, write_text

if TYPE_CHECKING:
    from tailseg.inference import Predictor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
"""Of what is taken from folders."""


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
    """Images (JPEG, PNG, WebP, GIF) and folders of images; pictures that tailseg drew are left out of folders."""
    out: Annotated[Path | None, Output("results.json, a picture for each image")] = None
    """Folder of what is written; predictions in the run's folder unless given. What `predict` wrote there before is
    replaced: results.json and all its pictures."""
    overwrite: bool = False
    """Replace files of other kinds that are there already; inputs never are."""
    score_threshold: float = 0.3
    """Leave out detections that score less, in [0, 1]."""
    color: Literal["class", "group"] = "class"
    """A colour for each class, or for each frequency group."""
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
    """Detect, draw, write; images that cannot be read are named, and fail the command at its end."""
    options = parse(Predict, arguments, command="predict")
    if not 0 <= options.score_threshold <= 1:
        raise UsageError(f"--score-threshold is in [0, 1], got {options.score_threshold:g}")
    files = find_images(options.images)
    require_run(options.run)
    out = options.out or (options.run if options.run.is_dir() else options.run.parent) / "predictions"
    earlier = earlier_pictures(out)
    names = picture_names(files)
    pictures = {*(out / name for name in names.values() if options.pictures), *earlier}
    targets = {out: None, out / "results.json": FOUND, **dict.fromkeys(pictures, PICTURE)}
    check(options, targets, instead="name another folder (--out)", inputs=files, overwrite=options.overwrite)
    from tailseg.inference import Predictor
    from tailseg.models.optimise import InferenceConfig

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
    results, unread = predict_files(predictor, files, out, options)
    write_text(out / "results.json", json.dumps(results))
    remove_left(earlier)
    output().print(f"{len(results)} objects in {len(files) - unread} images: see {out}", markup=False)
    if unread:
        raise ValueError(f"{unread} of {len(files)} images could not be read (named above)")


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
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in found if not path.is_dir() or is_image(file)]
    if not files:
        raise UsageError(f"no images ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(files))


def is_image(file: Path) -> bool:
    """Whether something in a folder is an image, and none that tailseg drew."""
    return file.suffix.lower() in SUFFIXES and file.is_file() and not drawn(file)


def earlier_pictures(folder: Path) -> dict[Path, int]:
    """The pictures in a folder that an earlier call drew, with the numbers of their files."""
    return {file: file.stat().st_ino for file in sorted(folder.glob("*.jpg")) if drawn(file, DETECTIONS)}


def remove_left(earlier: Mapping[Path, int]) -> None:
    """Removes the pictures of an earlier call that this one has not replaced, once it has its results.

    One that was replaced is another file under the same name.
    """
    for file, number in earlier.items():
        if file.stat().st_ino == number:
            file.unlink()


def predict_files(
    predictor: "Predictor", files: Sequence[Path], out: Path, options: Predict
) -> tuple[list[dict[str, Any]], int]:
    """Result records of all images (ids count from 1), and how many images could not be read."""
    from PIL import Image

    from tailseg.annotations.image_files import ImageError
    from tailseg.drawing import above, draw
    from tailseg.evaluation import to_results

    results: list[dict[str, Any]] = []
    unread = 0
    names = picture_names(files)
    ids = [category.id for category in predictor.categories]
    class_names = {category.id: category.name for category in predictor.categories}
    for image_id, file in enumerate(track(files, "predicting", transient=True, console=output()), start=1):
        try:
            image = predictor.read(file)
        except ImageError as error:
            print_error(str(error))
            unread += 1
            continue
        found = above(predictor.detect(image), options.score_threshold)
        for record in to_results(found, image_id, ids):
            results.append({"file_name": str(file), "category": class_names[record["category_id"]], **record})
        if options.pictures:
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            shown = draw(picture, found, predictor.names, predictor.frequency.groups, color_by=options.color)
            write_picture(out / names[file], shown, DETECTIONS)
    return results, unread


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
