"""Lists the problems of an annotation file and of its images, for every use."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError, SharedNameError
from tailseg.annotations.kinds import KINDS
from tailseg.annotations.leaks import Track, track_silently
from tailseg.annotations.lints import lint
from tailseg.annotations.pictures import open_picture, read_header
from tailseg.annotations.problems import DatasetError, Problem, Problems, means_boxes_only
from tailseg.annotations.read import open_file
from tailseg.annotations.types import ImageInfo

BOXES_ALONE: Final = "boxes_alone"
"""The kind of problem of a file without any mask. It is no fault, although uses that need masks refuse the file."""

MIN_BRIGHTEST: Final = 26
"""A 16-bit image is dark if all its values, reduced to 0 .. 255, are below this: a tenth of the range."""


def read_problems(path: Path, images: Path | None = None) -> Annotations:
    """Reads an annotation file with its problems for every use, and with everything suspect in it.

    Args:
        path: the file.
        images: the folder of the images, see `tailseg.annotations.read.read_dataset`.

    Raises:
        DatasetError: the file is not an annotation file.
    """
    annotations = open_file(path, images=images)
    problems = {problem.kind.name: problem for problem in annotations.problems}
    if "size_missing" in problems:  # training reads the sizes from the image files, evaluation does not
        try:
            annotations = open_file(path, images=images, needs_sizes=True)
        except DatasetError:
            pass  # `find_image_problems` reports that the image files are missing
        else:
            problems |= {problem.kind.name: problem for problem in annotations.problems}
    missing = problems.get("mask_missing")
    if missing and means_boxes_only(missing, annotations.num_objects):
        problems["mask_missing"] = Problem(KINDS[BOXES_ALONE], missing.count)
    return replace(annotations, problems=(*problems.values(), *lint(annotations)))


def is_fault(problem: Problem) -> bool:
    """Whether any use refuses the file because of the problem."""
    return bool(problem.kind.stops) and problem.kind.name != BOXES_ALONE


def _describe_shared_file(infos: list[ImageInfo]) -> str:
    """Writes the file and the ids of the images that name it."""
    return f"{infos[0].file} (images {', '.join(str(info.image_id) for info in infos[:3])})"


def find_image_problems(
    annotations: Annotations, *, decode: bool, track: Track = track_silently
) -> tuple[Problem, ...]:
    """Finds images that are missing, unreadable, of another size, or suspect.

    Args:
        annotations: the data set.
        decode: read every image; False only looks for the files.
        track: shows the progress.

    Returns:
        The problems.
    """
    missing: list[str] = []
    unusable: list[str] = []
    looks = _Looks()
    files: defaultdict[tuple[int, int], list[ImageInfo]] = defaultdict(list)
    rows = range(annotations.num_images)
    for index in track(rows, "Reading the images", len(rows)) if decode else rows:
        try:
            info = annotations.get_info(index)
        except SharedNameError as error:
            unusable.append(str(error))
            continue
        except ImageError:
            missing.append(annotations.names.text(index).partition("\n")[0])
            continue
        status = Path(info.file).stat()
        files[status.st_dev, status.st_ino].append(info)
        try:
            if decode:
                looks.add(info)
        except ImageError as error:
            unusable.append(str(error))
    where = ", ".join(map(str, annotations.finder.roots))
    problems = Problems()
    problems.add("images_not_found", missing, detail=f"Looked in {where}. Name the folder that holds them (--images)")
    problems.add("images_unusable", unusable)
    problems.add("images_twice", [infos for infos in files.values() if len(infos) > 1], _describe_shared_file)
    looks.report(problems)
    return tuple(problems.entries)


@dataclass
class _Looks:
    """Collects notes about readable images."""

    turned: list[str] = field(default_factory=list)
    stored: int = 0
    dark: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)

    def add(self, info: ImageInfo) -> None:
        """Reads an image.

        Raises:
            ImageError: as `tailseg.data.images.read_image`.
        """
        from tailseg.data.images import read_image  # and torch with it

        brightest = int(read_image(info).max())
        with open_picture(info.file) as picture:
            header, several = read_header(picture), getattr(picture, "is_animated", False)
        if header.orientation != 1:
            as_stored = header.shown_size != (info.height, info.width)
            self.stored += as_stored
            self.turned.append(f"{info.file} ({header.orientation}{', read as stored' * as_stored})")
        if header.bits == 16 and brightest < MIN_BRIGHTEST:
            self.dark.append(f"{info.file} (up to {brightest} of 255)")
        if several:
            self.several.append(info.file)

    def report(self, problems: Problems) -> None:
        """Adds the notes to the problems."""
        detail = f", {self.stored:,} of them with the annotated size of their stored pixels" if self.stored else ""
        problems.add("images_turned", self.turned, detail=detail)
        problems.add("images_dark", self.dark)
        problems.add("images_of_pages", self.several)
