"""Whether the images of a data set are there, and what they are said to be."""

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.problems import SHOWN, Problem


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
    kinds = (
        ("images not found", missing, f"Looked in {where}. Name the folder that holds them (--images)"),
        ("images cannot be used", unusable, "Replace them, or remove them from the annotation file"),
    )
    return tuple(Problem(len(wrong), what, tuple(wrong[:SHOWN]), remedy) for what, wrong, remedy in kinds if wrong)
