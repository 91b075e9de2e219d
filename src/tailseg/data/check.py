"""Whether the images of a data set are there, and what they are said to be."""

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.problems import Problem, Problems


def image_problems(annotations: Annotations, *, decode: bool) -> tuple[Problem, ...]:
    """The images that are missing and, if ``decode``, those that cannot be read or have another size."""
    missing: list[str] = []
    unusable: list[str] = []
    for index in range(annotations.num_images):
        try:
            info = annotations.info(index)
        except ImageError:
            missing.append(annotations.names.text(index).partition("\n")[0])
            continue
        try:
            if decode:
                from tailseg.data.images import read_image  # and torch with it

                read_image(info)
        except ImageError as error:
            unusable.append(str(error))
    where = ", ".join(map(str, annotations.finder.roots))
    problems = Problems()
    problems.add("images_not_found", missing, detail=f"Looked in {where}. Name the folder that holds them (--images)")
    problems.add("images_unusable", unusable)
    return tuple(problems.found)
