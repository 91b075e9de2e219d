"""Results files of any framework as the report needs them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import add_classes, open_file
from tailseg.annotations.types import LVIS_BOUNDS, GroupBounds
from tailseg.evaluation.analysis import analyze_in_detail
from tailseg.evaluation.image_fields import FieldsSource, read_fields
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.sources import read_truth
from tailseg.report.evaluated import THRESHOLD, EvaluatedRun
from tailseg.report.evidence import collect_evidence


def read_models(
    annotations: Annotations,
    models: Mapping[str, Mapping[IouType, Path]],
    *,
    train: Path | None = None,
    groups: GroupBounds | None = None,
    threshold: float = THRESHOLD,
    by: FieldsSource = (),
    samples: int = 1000,
    start: Callable[[str], None] = lambda _: None,
) -> list[EvaluatedRun]:
    """Reads the results of one or several models, and analyzes the detections.

    Args:
        annotations: the annotation file, by `open_with_sizes`.
        models: by the name of each model, the results file of each kind of overlap, the same kinds for all.
        train: annotation file of the training set, for the frequency groups and for the training examples.
        groups: bounds of the frequency groups, see `tailseg.evaluation.evaluate`.
        threshold: the lowest score of a detection that the page shows, in [0, 1].
        by: fields of the image records, see `tailseg.evaluation.analyze`.
        samples: how often images are drawn at random, for the intervals of ``by``.
        start: called with what is being done, such as ``"ours: reading results (40 %)"``.

    Returns:
        The evaluated models, in their order.

    Raises:
        FileNotFoundError, ValueError: a file cannot be used; the message names the record and the remedy.
    """
    fields = read_fields(annotations, annotations, by)
    training = open_file(train) if train else None
    kind: IouType = "segm" if any("segm" in kinds for kinds in models.values()) else "bbox"
    truth = read_truth(annotations, masks=kind == "segm", train=training, groups=groups)
    shown = replace(truth.annotations, group_bounds=groups or LVIS_BOUNDS)
    learned = add_classes(training, shown.categories) if training else None
    evaluated = []
    for name, sources in models.items():
        step = partial(_describe_step, start, name)
        found = analyze_in_detail(truth, sources, least_score=threshold, fields=fields, samples=samples, step=step)
        evaluated.append(
            EvaluatedRun(
                name=name,
                analysis=found.analysis,
                evidence=collect_evidence(truth, found.found, found.matches, kind=kind, least_score=threshold),
                annotations=shown,
                frequency=learned.frequency if learned else None,
                train=learned,
                threshold=threshold,
            )
        )
    return evaluated


def _describe_step(start: Callable[[str], None], name: str, step: str, done: int, total: int) -> None:
    share = f" ({100 * done // total} %)" if total > 1 else ""
    start(f"{name}: {step}{share}")


def open_with_sizes(annotations: Path, images: Path | None = None) -> Annotations:
    """Opens an annotation file for a report. Sizes that it does not state are read from the image files, if possible.

    Args:
        annotations: the annotation file.
        images: folder of the images; None searches next to the annotation file.

    Returns:
        The annotations.

    Raises:
        DatasetError: there is no such file, or it is not in COCO or LVIS format.
    """
    try:
        return open_file(annotations, images=images, needs_sizes=True)
    except DatasetError:  # an image file is missing: boxes need no sizes
        return open_file(annotations, images=images)
