"""All that is wrong with an annotation file and its images, for every use."""

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
"""The kind of a file in which no object has a mask; it stops what needs masks, but it is no fault."""


DARK: Final = 26
"""Of 255: an image of 16 bits whose values stay below uses less than a tenth of them."""


def read_problems(path: Path, images: Path | None = None) -> Annotations:
    """An annotation file with the problems that any use has with it, and with what is suspect in it.

    Args:
        path: the file.
        images: folder of the images, see `tailseg.annotations.read.read_dataset`.

    Raises:
        DatasetError: it is no annotation file.
    """
    annotations = open_file(path, images=images)
    problems = {problem.kind.name: problem for problem in annotations.problems}
    if "size_missing" in problems:  # training reads the sizes from the pictures, evaluation does not
        try:
            annotations = open_file(path, images=images, needs_sizes=True)
        except DatasetError:
            pass  # the pictures are not there, which `image_problems` says
        else:
            problems |= {problem.kind.name: problem for problem in annotations.problems}
    missing = problems.get("mask_missing")
    if missing and means_boxes_only(missing, annotations.num_objects):
        problems["mask_missing"] = Problem(KINDS[BOXES_ALONE], missing.count)
    return replace(annotations, problems=(*problems.values(), *lint(annotations)))


def is_fault(problem: Problem) -> bool:
    """Whether a use refuses the file for it."""
    return bool(problem.kind.stops) and problem.kind.name != BOXES_ALONE


def _listed(infos: list[ImageInfo]) -> str:
    """A file, and the images that it is listed as."""
    return f"{infos[0].file} (images {', '.join(str(info.image_id) for info in infos[:3])})"


def image_problems(annotations: Annotations, *, decode: bool, track: Track = track_silently) -> tuple[Problem, ...]:
    """The images that are missing and, if ``decode``, those that cannot be read, have another size or look otherwise
    than one expects.
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
        found = Path(info.file).stat()
        files[found.st_dev, found.st_ino].append(info)
        try:
            if decode:
                looks.add(info)
        except ImageError as error:
            unusable.append(str(error))
    where = ", ".join(map(str, annotations.finder.roots))
    problems = Problems()
    problems.add("images_not_found", missing, detail=f"Looked in {where}. Name the folder that holds them (--images)")
    problems.add("images_unusable", unusable)
    problems.add("images_twice", [infos for infos in files.values() if len(infos) > 1], _listed)
    looks.report(problems)
    return tuple(problems.entries)


@dataclass
class _Looks:
    """Notes about pictures that can be read."""

    turned: list[str] = field(default_factory=list)
    stored: int = 0
    dark: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)

    def add(self, info: ImageInfo) -> None:
        """Reads a picture.

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
        if header.bits == 16 and brightest < DARK:
            self.dark.append(f"{info.file} (up to {brightest} of 255)")
        if several:
            self.several.append(info.file)

    def report(self, problems: Problems) -> None:
        """Adds the notes to the problems."""
        detail = f", {self.stored:,} of them with the annotated size of their stored pixels" if self.stored else ""
        problems.add("images_turned", self.turned, detail=detail)
        problems.add("images_dark", self.dark)
        problems.add("images_of_pages", self.several)
