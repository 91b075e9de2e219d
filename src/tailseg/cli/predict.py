"""`tailseg predict`."""

import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import tyro
from rich.progress import track

from tailseg.cli.common import UsageError, find_own_code, output, parse, print_error, require_run
from tailseg.cli.engines import EngineName, find_exported
from tailseg.cli.file_kinds import CALL, FOUND, LINES, PICTURE
from tailseg.cli.outputs import check
from tailseg.files import DETECTIONS, Output, is_drawn, write_bytes
from tailseg.inference.image_files import SHARDS, SUFFIXES, VIDEOS, find_files, has_ending
from tailseg.ranges import ANY_NUMBER, Range
from tailseg.words import count_noun, count_part

if TYPE_CHECKING:
    from torch import Tensor

    from tailseg.export.engine import Engine
    from tailseg.inference import Predictor
    from tailseg.inference.pipeline import Detector, Outcome
    from tailseg.inference.results_folder import Part, ResultsFolder
    from tailseg.inference.sources import SourceImage
    from tailseg.structures import Detections

MAX_ERRORS: Final = 20
"""Images with an error that the command names; it counts the others, and results.jsonl has them all."""
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
    as x, y, width, height, score, segmentation as run lengths), results.jsonl with a line for each image, and a picture
    of each image with its detections.

    examples:
      tailseg predict runs/tiny_gumbel photo.jpg
      tailseg predict runs/custom_small photos more_photos --out detections --score-threshold 0.5
      tailseg predict runs/custom_small photos --no-class-thresholds
      tailseg predict runs/custom_small photos --color group      red rare, yellow common, blue frequent classes
      tailseg predict runs/custom_small photos --no-pictures      the results files only
      tailseg predict runs/custom_small shards/*.tar --no-pictures --batch-size 8
      tailseg predict runs/custom_small clip.mp4 --frame-step 10
      tailseg predict runs/custom_small aerial.tif --tiles 1024 --values 0 3000
      tailseg predict runs/custom_small photos --flip --scales 0.75 1 1.25
      tailseg predict runs/custom_small photos --engine openvino  with the file that tailseg export wrote
      tailseg predict runs/custom_small photos --resume           go on after an interruption
      tailseg predict runs/custom_small photos --out found --part 2/8; ...; tailseg merge found
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, which `train` or `convert` wrote, or one checkpoint file. With --engine also the file that
    `tailseg export` wrote."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images (JPEG, PNG, WebP, GIF, TIFF, BMP), folders of images, tar files of images (as webdataset's), videos, and
    lists (.txt, a path in each line). In folders, the command leaves out pictures that tailseg drew, and counts files
    of other formats."""
    out: Annotated[Path | None, Output("results.json, results.jsonl, predict.json, a picture for each image")] = None
    """Folder to write into; the default is the folder predictions in the run's folder. The command replaces everything
    that `predict` wrote there before: the results and all its pictures."""
    resume: bool = False
    """Go on where an earlier call with the same options ended. No image is lost or detected twice."""
    part: str | None = None
    """K/N: detect in every N-th image only, from image K on, and write to the folder part-K-of-N in --out. When all
    parts are done, `tailseg merge OUT` makes the results of one call."""
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
    batch_size: Annotated[int, Range(ge=1)] = 1
    """Images that the network gets at a time. More are faster on a GPU, and not on a CPU."""
    frame_step: Annotated[int, Range(ge=1)] = 1
    """Of a video, detect in every such frame."""
    tiles: Annotated[int | None, Range(ge=32)] = None
    """Cut larger images into tiles of this side, in pixels, and join what they show to whole objects."""
    tile_overlap: Annotated[float, Range(gt=0, le=0.9)] = 0.2
    """The share of a tile's side that neighbors have in common."""
    flip: bool = False
    """Detect in the mirrored image too, and join the detections."""
    scales: Annotated[tuple[float, ...], Range(gt=0, some=True)] = (1.0,)
    """Detect in the image at these sizes, times that of the run, and join the detections."""
    bands: Annotated[tuple[int, ...], Range(ge=1)] = ()
    """Read TIFF, JPEG 2000 and PNG files with rasterio, and take these bands, counted from 1, for red, green and blue;
    one band is gray."""
    values: Annotated[tuple[float, float] | None, ANY_NUMBER] = None
    """Read these files with rasterio, and take these two values for black and white: 0 3000 for images of 12 bits."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    ray: str | None = None
    """Detect on a Ray cluster: its address (auto, ray://HOST:10001), or local for one on this machine. All nodes must
    find the run and the images under the same paths. Needs --no-pictures."""
    device: str = "auto"
    """auto uses cuda if it is available, else cpu."""
    calibrated: bool = True
    """Use the calibration of the scores that `tailseg calibrate` stored in the run's folder, if there is one."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] | None = None
    """Precision of the network; the default is that of the run."""
    engine: EngineName = "torch"
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
    part = read_part(options.part)
    check_raster_options(options)
    check_ray_options(options, files)
    find_exported(options)
    require_run(options.run)
    if line := describe_other_files(options.images):
        output().print(line, markup=False, soft_wrap=True)
    out = choose_folder(options, part)
    earlier = {} if options.resume else find_earlier_pictures(out)
    check_targets(options, out, files, earlier)
    from tailseg.inference.results_folder import ResultsFolder

    predictor = load_model(options)
    for line in describe_model(options, predictor):
        output().print(line, markup=False, soft_wrap=True)
    threshold = choose_threshold(predictor, options.score_threshold, class_thresholds=options.class_thresholds)
    out.mkdir(parents=True, exist_ok=True)
    settings = describe_settings(options, predictor, threshold)
    with ResultsFolder(out, settings, part, resume=options.resume) as results:
        best = predict_files(predictor, files, results, options, part, threshold)
    remove_old_pictures(earlier)
    output().print(
        f"{count_noun(results.objects, 'object')} in {count_noun(results.images - results.failed, 'image')}: see {out}",
        markup=False,
    )
    if best and best.score > 0 and not results.objects:
        output().print(describe_low_scores(options, best, threshold), markup=False, soft_wrap=True)
    if results.failed:
        where = "see above" if results.failed <= MAX_ERRORS else f"see {out / 'results.jsonl'}"
        raise ValueError(f"{count_part(results.failed, results.images, 'image')} could not be read or drawn ({where})")


def read_part(text: str | None) -> "Part":
    """Reads ``K/N``; (1, 1) for None.

    Raises:
        UsageError: it is not of this form.
    """
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--part is K/N with K from 1 to N, such as 2/8, got {text!r}")
    return number, count


def check_raster_options(options: Predict) -> None:
    """Checks --bands and --values.

    Raises:
        UsageError: not one or three bands, or equal values.
    """
    if len(options.bands) not in (0, 1, 3):
        raise UsageError(f"--bands takes one band or three, got {len(options.bands)}")
    if options.values is not None and options.values[0] >= options.values[1]:
        low, high = options.values
        raise UsageError(f"--values is the value of black and a larger one of white, got {low:g} and {high:g}")


def check_ray_options(options: Predict, files: Sequence[Path]) -> None:
    """Checks that a call on a Ray cluster can do what the other options ask for.

    Raises:
        UsageError: it should draw, or read videos.
    """
    if options.ray is None:
        return
    if options.pictures:
        raise UsageError("--ray draws no pictures: add --no-pictures")
    if video := next((file for file in files if has_ending(file, VIDEOS)), None):
        raise UsageError(f"--ray reads no videos, and {video} is one: write its frames as images first")


def build_detector(options: Predict, predictor: "Predictor | Engine", threshold: float | Sequence[float]) -> "Detector":
    """Builds the detector of the options: the model, in several views, in tiles.

    Args:
        options: the options of the command.
        predictor: the trained model.
        threshold: the score threshold, or one for each label.

    Returns:
        The detector.
    """
    from tailseg.inference.tiles import TileConfig, TiledDetector
    from tailseg.inference.views import ViewsDetector

    detectors = [partial(predictor.detect_batch, scale=scale) for scale in options.scales]
    detector: Detector = detectors[0]
    if options.flip or len(detectors) > 1:
        detector = ViewsDetector(detectors, options.flip, max_detections=predictor.max_detections)
    if options.tiles is None:
        return detector
    lowest = threshold if isinstance(threshold, int | float) else min(threshold)
    config = TileConfig(options.tiles, options.tile_overlap, lowest / 2, options.batch_size)
    return TiledDetector(detector, config)


def choose_folder(options: Predict, part: "Part") -> Path:
    """Chooses the folder to write to."""
    out = options.out or (options.run if options.run.is_dir() else options.run.parent) / "predictions"
    return out / f"part-{part[0]}-of-{part[1]}" if options.part else out


def check_targets(options: Predict, out: Path, files: Sequence[Path], earlier: Mapping[Path, int]) -> None:
    """Checks before the work that the files may be written, as far as their names are known.

    Args:
        options: the options of the command.
        out: the folder to write to.
        files: the images.
        earlier: the pictures of an earlier call, which will be removed.

    Raises:
        UsageError: a file is an input, or of another kind.
        OSError: the folder cannot be written.
    """
    names = PictureNames()
    pictures = {out / names.choose(file.stem) for file in files if options.pictures and has_ending(file, SUFFIXES)}
    targets = {out: None, out / "results.json": FOUND, out / "results.jsonl": LINES, out / "predict.json": CALL}
    check(
        options,
        {**targets, **dict.fromkeys({*pictures, *earlier}, PICTURE)},
        instead="name another folder (--out)",
        inputs=files,
        overwrite=options.overwrite,
    )


def load_model(options: Predict) -> "Predictor | Engine":
    """Loads the run in torch, or opens its exported file."""
    if exported := find_exported(options):
        from tailseg.export.engine import Engine

        return Engine(exported)
    from tailseg.inference import Predictor
    from tailseg.models.optimize import InferenceConfig

    base, modules = find_own_code(options.recipe, options.module)
    return Predictor.from_run(
        options.run,
        checkpoint=options.checkpoint,
        device=options.device,
        base=base,
        modules=modules,
        calibrated=options.calibrated,
        config=InferenceConfig(precision=options.precision, compile=options.compile),
    )


def describe_model(options: Predict, predictor: "Predictor | Engine") -> list[str]:
    """Says what the user should know about the model: its calibration; of an exported file, its step and age.

    Args:
        options: the options of the command.
        predictor: the model.

    Returns:
        The lines to print.
    """
    from tailseg.detection.recalibration import Setting

    scores = predictor.describe_scores()
    lines = [] if scores["calibration"] == str(Setting()) else [f"Scores are calibrated: {scores['calibration']}"]
    if options.engine != "torch":
        lines.append(f"{predictor.file}: step {scores['step']}, {predictor.precision}")
        checkpoints = options.run.glob("checkpoints/*.pt") if options.run.is_dir() else ()
        if any(checkpoint.stat().st_mtime > predictor.file.stat().st_mtime for checkpoint in checkpoints):
            lines.append("note: the run has a newer checkpoint. Export it again")
    return lines


def describe_settings(
    options: Predict, predictor: "Predictor | Engine", threshold: float | Sequence[float]
) -> dict[str, object]:
    """Describes everything on which the results of an image depend.

    Args:
        options: the options of the command.
        predictor: the trained model.
        threshold: the score threshold, or one for each label.

    Returns:
        The settings, ready for JSON.
    """
    return {
        "checkpoint": predictor.file.name,
        **predictor.describe_scores(),
        "precision": predictor.precision,
        "score_threshold": threshold if isinstance(threshold, int | float) else list(threshold),
        "frame_step": options.frame_step,
        "tiles": None if options.tiles is None else [options.tiles, options.tile_overlap],
        "views": [*options.scales, options.flip],
        "raster": [*options.bands, options.values],
    }


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
    low, high = f"{min(predictor.thresholds):.2g}", f"{max(predictor.thresholds):.2g}"
    what = f"thresholds by class: {low} to {high}" if low != high else f"threshold of all classes: {low}"
    output().print(f"Score {what} ({THRESHOLDS_FILE})", markup=False)
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
        files += find_files(path)
    if not files:
        others = describe_other_files(paths)
        raise UsageError(
            f"no images ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}{'; ' * bool(others)}{others}"
        )
    return list(dict.fromkeys(files))


def describe_other_files(paths: Sequence[Path]) -> str:
    """Counts the files in the folders whose format the command does not read; returns "" if there are none."""
    others = Counter(
        file.suffix.lower() or "without ending"
        for path in paths
        if path.is_dir()
        for file in path.rglob("*")
        if not has_ending(file, (*SUFFIXES, *SHARDS, *TEXTS)) and not file.name.startswith(".") and file.is_file()
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
    results: "ResultsFolder",
    options: Predict,
    part: "Part",
    threshold: float | Sequence[float],
) -> BestDetection | None:
    """Detects, and writes the records, the line and the picture of each image (image ids count from 1).

    An image that cannot be read has no records. An image that cannot be drawn has records and no picture. The function
    prints the reasons.

    Args:
        predictor: the trained model.
        files: the images.
        results: the results; the pictures go next to them.
        options: the options of the command.
        part: which of the images to detect.
        threshold: the score threshold, or one for each label.

    Returns:
        The best detection of all images, if there is one.

    Raises:
        TrainingStopped: a signal came; the current image was finished.
        ValueError: the images are not those of the call that is continued.
        OSError: the disk is full or cannot be written.
    """
    from tailseg.inference.pipeline import detect_all
    from tailseg.training.interrupt import StopRequest, TrainingStopped

    images = Numbering(files, options, part)
    total = images.count_part() if all(has_ending(file, SUFFIXES) for file in files) else None
    numbered = ((image_id, source) for image_id, _, source in results.skip_done(iter(images)))
    worker = Worker(options, predictor, threshold)
    writer = ImageWriter(worker, results, options, images.pictures)
    if options.ray is None:
        outcomes = detect_all(numbered, worker.detector, orientation=worker.orientation, batch_size=options.batch_size)
        lines = (writer.write(outcome) for outcome in outcomes)
    else:
        outcomes = detect_lines_on_ray(list(numbered), options, threshold)
        lines = (writer.write_line(line) for line in outcomes)
    with StopRequest(after="this image") as stop:
        try:
            for _ in track(lines, "predicting", total, transient=True, console=output()):
                stop.check()
            stop.check()
        except TrainingStopped:
            done = count_noun(results.images, "image") if total is None else f"{results.images} of {total} images"
            raise TrainingStopped(
                f"stopped after {done}; their detections are in {results.path}. --resume goes on"
            ) from None
        finally:
            outcomes.close()
    results.finish(images.count)
    return writer.best


class Numbering:
    """The images of a part, with their numbers among all images and the names of their pictures.

    Attributes:
        count: images so far, also those of other parts.
        pictures: from the number of an image to the name of its picture.
    """

    def __init__(self, files: Sequence[Path], options: Predict, part: "Part") -> None:
        self._files, self._options, self._part = files, options, part
        self.count = 0
        self.pictures: dict[int, str] = {}

    def count_part(self) -> int:
        """Counts the images of the part, if each file is an image."""
        number, parts = self._part
        return len(range(number, len(self._files) + 1, parts))

    def __iter__(self) -> "Iterator[tuple[int, str, SourceImage]]":
        from tailseg.inference.raster import RasterImage
        from tailseg.inference.sources import list_images

        number, parts = self._part
        names = PictureNames()
        options = self._options
        open_raster = partial(RasterImage, bands=options.bands or None, values=options.values)
        raster = open_raster if options.bands or options.values else None
        for source in list_images(self._files, frame_step=options.frame_step, raster=raster):
            self.count += 1
            name = names.choose(source.stem) if self._options.pictures else ""
            if self.count % parts == number % parts:
                if options.pictures:
                    self.pictures[self.count] = name
                yield self.count, source.name, source


def detect_lines_on_ray(
    images: "list[tuple[int, SourceImage]]", options: Predict, threshold: float | Sequence[float]
) -> Generator[dict[str, Any]]:
    """Detects on a Ray cluster, whose actors each load the model.

    Args:
        images: number and source of each image.
        options: the options of the command.
        threshold: the score threshold, or one for each label.

    Yields:
        The lines of the images, in their order.
    """
    from tailseg.inference.ray_cluster import detect_on_ray

    assert options.ray is not None
    make_worker = partial(load_worker, options, threshold)
    yield from detect_on_ray(images, make_worker, address=options.ray, batch_size=options.batch_size)


def load_worker(options: Predict, threshold: float | Sequence[float]) -> "Worker":
    """Loads the model in an actor."""
    return Worker(options, load_model(options), threshold)


class Worker:
    """What makes the line of an image: the model and the options.

    Attributes:
        predictor: the trained model.
        detector: the model, in several views and in tiles if asked for.
        orientation: whether images are turned as their EXIF data says.
    """

    def __init__(self, options: Predict, predictor: "Predictor | Engine", threshold: float | Sequence[float]) -> None:
        self.predictor = predictor
        self.detector = build_detector(options, predictor, threshold)
        self.orientation = predictor.orientation
        self._threshold = threshold
        self._ids = [category.id for category in predictor.categories]
        self._names = {category.id: category.name for category in predictor.categories}

    def select(self, outcome: "Outcome") -> "tuple[Detections | None, Exception | None]":
        """Returns the detections of an image above the threshold, or the error."""
        if outcome.detections is None:
            return None, outcome.error
        try:
            return outcome.detections.above(self._threshold), None
        except Exception as error:  # noqa: BLE001 - the other images are still processed
            return None, error

    def make_line(self, outcome: "Outcome") -> dict[str, Any]:
        """Makes the line of an image, with its detections above the threshold or its error."""
        from tailseg.evaluation import to_results
        from tailseg.inference.results_folder import make_line

        detections, error = self.select(outcome)
        image, source = outcome.image, outcome.source
        size = None if image is None else (image.shape[-2], image.shape[-1])
        records = [] if detections is None else to_results(detections, outcome.image_id, self._ids)
        named = [{"category": self._names[record["category_id"]], **record} for record in records]
        line = make_line(outcome.image_id, source.name, source.extra, size, named)
        return line if error is None else {**line, "error": describe_error(source.name, error)}


class ImageWriter:
    """Writes the results of one image after the other.

    Attributes:
        best: the best detection of all images so far, whatever the threshold.
    """

    def __init__(self, worker: Worker, results: "ResultsFolder", options: Predict, pictures: dict[int, str]) -> None:
        self._worker, self._results, self._options, self._pictures = worker, results, options, pictures
        self.best: BestDetection | None = None

    def write(self, outcome: "Outcome") -> None:
        """Writes the records of an image, its picture, and at last its line.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        if outcome.detections is not None:
            self._look_for_best(outcome.detections)
        line = self._worker.make_line(outcome)
        self._results.add_records(line)
        picture = self._pictures.pop(outcome.image_id, "")
        detections, _ = self._worker.select(outcome)
        if self._options.pictures and outcome.image is not None and detections is not None:
            error = self._write_picture(outcome.image, detections, picture)
            if error is not None:
                line = {**line, "error": describe_error(outcome.source.name, error)}
        self._finish(line)

    def write_line(self, line: dict[str, Any]) -> None:
        """Writes the records and the line of an image that another process detected in.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self._results.add_records(line)
        self._finish(line)

    def _finish(self, line: dict[str, Any]) -> None:
        if "error" in line and self._results.failed < MAX_ERRORS:
            print_error(line["error"])
        self._results.finish_image(line)

    def _look_for_best(self, detections: "Detections") -> None:
        if len(detections):
            first = int(detections.scores.argmax())
            score, label = float(detections.scores[first]), int(detections.labels[first])
            if self.best is None or score > self.best.score:
                self.best = BestDetection(score, label, self._worker.predictor.names[label])

    def _write_picture(self, image: "Tensor", detections: "Detections", name: str) -> Exception | None:
        """Writes the picture; returns the error if it cannot be drawn, or if another file has its name."""
        path = self._results.folder / name
        try:
            if path.exists() and not PICTURE.is_own(path) and not self._options.overwrite:
                raise ValueError(f"{path} exists and is not {PICTURE.name}: the picture was not written")
            content = draw_picture(self._worker.predictor, image, detections, self._options.color)
        except Exception as error:  # noqa: BLE001 - the detections are written all the same
            return error
        write_bytes(path, content)
        return None


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


def describe_error(name: str, error: Exception) -> str:
    """Says why an image failed, with its name."""
    reason = str(error).strip() or type(error).__name__
    return reason if name in reason else f"image {name}: {reason}"


class PictureNames:
    """Chooses a file name for each picture: the name of the image, with a number if two names would be equal."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def choose(self, stem: str) -> str:
        """Chooses the name of the next picture, from the name of the image without an ending."""
        name, folded = f"{stem}.jpg", stem.casefold()  # some file systems ignore case
        while name.casefold() in self._taken:
            number = self._next.get(folded, 2)
            name, self._next[folded] = f"{stem}_{number}.jpg", number + 1
        self._taken.add(name.casefold())
        return name
