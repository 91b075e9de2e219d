"""`tailseg data errors`, `apply` and `next`: label errors, the patch that repairs them, and what to label next."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tailseg.cli.common import UsageError, find_own_code, output, require_run
from tailseg.cli.data_check import say
from tailseg.cli.data_convert import say_losses, say_written
from tailseg.cli.data_edit import require_new_files
from tailseg.cli.file_kinds import NEXT_IMAGES, PAGE, SUSPECTS
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import Input, Output, write_text
from tailseg.ranges import Range
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.inference import Predictor
    from tailseg.label_errors.suspects import Kind, Suspect

NAMED_IMAGES = 10
"""Images that the command prints; the file has all."""


@dataclass(frozen=True)
class DataErrors:
    """Find label errors with a trained run: wrong classes, missing objects, bad outlines and duplicates.

    The network of the run looks at each annotated object and at its own detections. Classifiers on the features of
    these regions, which did not see the image, say which classes and which objects are unlikely. The command writes
    errors.json with all suspects of each kind, the most suspicious first, and the page errors.html. On the page, keys
    confirm or dismiss each suspect, and a button saves the confirmed changes as a patch for `tailseg data apply`.

    examples:
      tailseg data errors runs/custom_small
      tailseg data errors runs/custom_small --data val.json --out val_errors
      tailseg data apply my.json patch.json repaired.json
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a trained run of Mask R-CNN or Faster R-CNN."""
    data: Annotated[str | None, Input()] = None
    """Annotation file with the classes of the run; the training set of the run unless given."""
    images: Path | None = None
    """Folder of the images of DATA, if they are not next to it."""
    out: Annotated[Path | None, Output("errors.json and errors.html")] = None
    """Folder of the two files; the folder of the run unless given."""
    pictures: Annotated[int, Range(ge=0)] = 200
    """The largest number of suspects of each kind on the page."""
    folds: Annotated[int, Range(ge=2)] = 5
    """Folds of the images for the classifiers."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Another seed gives other folds."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    device: str = "auto"
    """Device of the network; auto uses cuda if it is available, else cpu."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


@dataclass(frozen=True)
class DataApply:
    """Write a copy of an annotation file with the changes of a patch, which the page of `tailseg data errors` saved.

    examples:
      tailseg data apply my.json patch.json repaired.json
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """The annotation file that the patch was made for. It must not have changed since."""
    patch: Annotated[Path, tyro.conf.Positional]
    """The patch."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""


@dataclass(frozen=True)
class DataNext:
    """Rank unlabeled images by the rare objects that they probably hold: what to label next.

    The command detects objects in each image and writes next.json: the images in order, with the classes that they
    probably hold. A rare class counts 10 times as much as a common one, and 100 times as much as a frequent one.

    examples:
      tailseg data next runs/custom_small unlabeled
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a trained run."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder with images, also in its subfolders."""
    out: Annotated[Path, Output("a list of images")] = Path("next.json")
    """The list to write."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    device: str = "auto"
    """Device of the network; auto uses cuda if it is available, else cpu."""
    overwrite: bool = False
    """Replace an existing file of another kind. The command never replaces its inputs."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def errors(options: DataErrors) -> None:
    """Ranks the suspects, and writes the list and the page."""
    require_run(options.run)
    out = options.out or (options.run if options.run.is_dir() else options.run.parent)
    targets = {out / "errors.json": SUSPECTS, out / "errors.html": PAGE} | ({} if options.out is None else {out: None})
    check_outputs(options, targets, instead="name another folder (--out)", overwrite=options.overwrite)
    from tailseg.label_errors import find_suspects, read_regions
    from tailseg.label_errors.changes import list_suspects
    from tailseg.label_errors.page import render

    predictor = _open(options)
    annotations = _read_data(options, predictor)
    with Progress(console=output(), transient=True) as bar:
        task = bar.add_task("images", total=annotations.num_images)
        regions = read_regions(predictor, annotations, lambda done, _total: bar.update(task, completed=done))
    suspects = find_suspects(annotations, regions, folds=options.folds, seed=options.seed)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "errors.json", json.dumps(list_suspects(annotations, suspects)) + "\n")
    text, shown = render(annotations, suspects, limit=options.pictures)
    write_text(out / "errors.html", text)
    _print_suspects(annotations, suspects)
    say(f"All suspects: {out / 'errors.json'}")
    say(f"The first {count_noun(shown, 'suspect')} with pictures: {out / 'errors.html'}")


def _open(options: DataErrors | DataNext) -> "Predictor":
    from tailseg.inference import Predictor

    base, modules = find_own_code(options.recipe, options.module)
    return Predictor.from_run(
        options.run, checkpoint=options.checkpoint, device=options.device, base=base, modules=modules
    )


def _read_data(options: DataErrors, predictor: "Predictor") -> "Annotations":
    """Reads the given data set, or the training set of the run, with the groups of the run.

    Raises:
        UsageError: the data set is no file, so that a patch cannot name it.
    """
    from tailseg.annotations.read import read_dataset
    from tailseg.recipes.build import build_training
    from tailseg.recipes.places import locate_data

    if options.data is None:
        annotations = build_training(locate_data(predictor.recipe, predictor.checkpoint.recipe, options.run))
    else:
        annotations = read_dataset(options.data, images=options.images, on_problem="repair")
    if not annotations.path.is_file():
        raise UsageError(
            f"{annotations.path} is not one file, and a patch changes one file. Convert the labels first: "
            f"tailseg data import {annotations.path} my.json, then --data my.json"
        )
    return annotations


def _print_suspects(annotations: "Annotations", suspects: "dict[Kind, list[Suspect]]") -> None:
    from tailseg.label_errors.suspects import KIND_NAMES

    table = Table(title=escape(str(annotations.path)), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("kind")
    for name in ("suspects", "rare", "common", "frequent", "score 0.5 or more"):
        table.add_column(name, justify="right")
    for kind, ranked in suspects.items():
        groups = [sum(suspect.group == group for suspect in ranked) for group in "rcf"]
        likely = sum(suspect.score >= 0.5 for suspect in ranked)
        table.add_row(KIND_NAMES[kind], *(f"{number:,}" for number in (len(ranked), *groups, likely)))
    output().print(table)


def apply(options: DataApply) -> None:
    """Writes the changed copy."""
    from tailseg.annotations.edit import write
    from tailseg.annotations.patch import apply_patch, read_patch
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.writers.labels import read_labels

    source = Path(options.source)
    require_new_files(options, [options.out])
    if not source.is_file():
        raise UsageError(f"{source} is no file. Name the annotation file that the patch was made for")
    patch = read_patch(options.patch)
    annotations = read_dataset(source, use="boxes", on_problem="repair")
    labels = read_labels(annotations)
    apply_patch(labels, patch)
    write(labels, options.out, lvis=annotations.format == "lvis")
    say_written(options.out, len(labels.images), labels.num_written, len(labels.categories))
    say(f"  {count_noun(len(patch.changes), 'change')} of {options.patch}")
    say_losses(labels.list_losses())


def rank_next(options: DataNext) -> None:
    """Writes the ranked images."""
    require_run(options.run)
    check_outputs(options, {options.out: NEXT_IMAGES}, instead="name another file (--out)", overwrite=options.overwrite)
    from tailseg.inference.image_files import SHARDS, find_files, has_ending
    from tailseg.label_errors.unlabeled import rank_images

    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is no folder. Name a folder with images")
    paths = [path for path in find_files(options.folder) if not has_ending(path, SHARDS)]
    if not paths:
        raise UsageError(f"{options.folder} has no image files. Name a folder with images")
    predictor = _open(options)
    with Progress(console=output(), transient=True) as bar:
        ranked, unread = rank_images(predictor, bar.track(paths, description="images"))
    if not ranked:
        raise next(iter(unread.values()))
    content = [
        {
            "file": str(image.path),
            "score": round(image.score, 4),
            "rare": round(image.expected["r"], 4),
            "common": round(image.expected["c"], 4),
            "frequent": round(image.expected["f"], 4),
            "classes": {name: round(probability, 4) for name, probability in image.classes},
        }
        for image in ranked
    ]
    write_text(
        options.out,
        json.dumps({"run": str(options.run), "images": content, "unread": list(map(str, unread))}, indent=1) + "\n",
    )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("image", "expected rare classes", "likeliest classes"):
        table.add_column(name, overflow="fold")
    for image in ranked[:NAMED_IMAGES]:
        names = ", ".join(f"{name} {probability:.2f}" for name, probability in image.classes)
        table.add_row(escape(str(image.path)), f"{image.expected['r']:.2f}", escape(names))
    output().print(table)
    for error in list(unread.values())[:NAMED_IMAGES]:
        say(f"note: left out: {error}")
    if len(unread) > NAMED_IMAGES:
        say(f"note: {count_noun(len(unread), 'image')} left out; {options.out} names them")
    say(f"All {count_noun(len(ranked), 'image')}: {options.out}")
