"""The scores of an evaluation."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from tailseg.annotations.types import Group
from tailseg.evaluation.notebook import import_pandas, to_csv, to_html, to_markdown, to_text
from tailseg.words import count_noun

IouType = Literal["bbox", "segm"]
COLUMNS = ("AP", "AP50", "AP75", "APr", "APc", "APf", "APs", "APm", "APl", "AR")
ROW_NAMES: dict[IouType, str] = {"bbox": "boxes", "segm": "masks"}


@dataclass(frozen=True)
class ClassScore:
    """One class: the number of its objects in the annotation file, its AP (IoU 0.50 to 0.95), AP50 and AR in 0..1.

    The scores are None for a class without objects: nothing can be found, nothing is scored.
    """

    category_id: int
    name: str
    group: Group | None
    num_objects: int
    AP: float | None
    AP50: float | None
    AR: float | None


@dataclass(frozen=True, repr=False)
class Metrics:
    """Scores in 0..1: ``metrics["segm"]["APr"]``; the table, which is also the repr, shows them in percent.

    Of each kind of overlap (``"bbox"``, ``"segm"``) there are AP (mean over classes and IoU 0.50, 0.55 .. 0.95), AP50,
    AP75; APr, APc, APf (rare, common, frequent classes); APs, APm, APl (objects below 32², up to 96², above); AR, ARs,
    ARm, ARl; AP50f (AP50 of frequent classes). None where the annotation file holds no object to score.

    Attributes:
        scores: kind of overlap -> name -> value.
        per_class: kind of overlap -> one entry a category of the annotation file, in order of id.
        protocol: the definition of AP.
        max_detections: how many detections of an image (LVIS), or of each class in an image (COCO), count.
        num_images, num_detections: the number of images of the annotation file, and of records.
        notes: what the reader should know about the input, such as the number of masks without a pixel.
        extra: figures of the user's own metrics: name of the metric -> name of the figure -> value.
    """

    scores: dict[IouType, dict[str, float | None]]
    per_class: dict[IouType, tuple[ClassScore, ...]]
    protocol: Literal["lvis", "coco"]
    max_detections: int
    num_images: int
    num_detections: int
    notes: tuple[str, ...] = ()
    extra: dict[str, dict[str, float]] = field(default_factory=dict)

    def __getitem__(self, key: str) -> dict[str, float | None]:
        for iou_type, scores in self.scores.items():
            if iou_type == key:
                return scores
        raise KeyError(f"no scores for {key!r}, only for {', '.join(self.scores)}")

    def __contains__(self, key: str) -> bool:
        return key in self.scores

    def table(self) -> Table:
        """Rows boxes and masks, the scores in percent, notes below; 80 characters wide or less."""
        per = "an image" if self.protocol == "lvis" else "an image and class"
        origin = (
            f"{self.protocol.upper()} AP in percent; {count_noun(self.num_images, 'image')}, "
            f"{count_noun(self.num_detections, 'detection')} "
            f"(at most {self.max_detections} {per})"
        )
        caption = Text(
            "\n".join((origin, *self.describe_extra(), *self.notes)), "table.caption"
        )  # brackets in notes are no markup
        table = Table(
            box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("", min_width=5, no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", min_width=5, no_wrap=True)
        for iou_type, scores in self.scores.items():
            table.add_row(ROW_NAMES[iou_type], *(format_percent(scores[column]) for column in COLUMNS))
        return table

    def __repr__(self) -> str:
        return to_text(self.table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_html(self.table())

    def to_dict(self) -> dict[str, Any]:
        """All attributes as dicts, lists and numbers; ``extra`` only where there are metrics of your own."""
        content = asdict(self)
        if not self.extra:
            del content["extra"]
        return content

    def flatten(self) -> dict[str, float]:
        """The figures by ``segm/AP``, ``bbox/APr`` and so on, for a log; without those that are not defined."""
        return {
            f"{kind}/{name}": value
            for kind, scores in (*self.scores.items(), *self.extra.items())
            for name, value in scores.items()
            if value is not None
        }

    def to_json(self) -> str:
        """All attributes as a JSON object, indented."""
        return json.dumps(self.to_dict(), indent=1)

    def to_csv(self) -> str:
        """One line for boxes and one for masks: the scores, in 0..1."""
        names = next(iter(self.scores.values()))
        return to_csv([("iou_type", *names), *((kind, *scores.values()) for kind, scores in self.scores.items())])

    def to_markdown(self) -> str:
        """The table in Markdown."""
        return to_markdown(self.table())

    def to_pandas(self, *, per_class: bool = False) -> Any:  # noqa: ANN401 - pandas need not be installed
        """The scores as a pandas DataFrame: one row for boxes and one for masks, or one row for each class of them.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = import_pandas()
        if not per_class:
            return pandas.DataFrame.from_dict(self.scores, orient="index", dtype=float).rename_axis("iou_type")
        rows = [
            {"iou_type": iou_type, **asdict(entry)} for iou_type, entries in self.per_class.items() for entry in entries
        ]
        return pandas.DataFrame(rows)

    def describe_extra(self) -> list[str]:
        """The figures of the user's own metrics, a line each: ``DetectionCount: mean 3.2, most 17``."""
        return [
            f"{metric}: {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}"
            for metric, figures in self.extra.items()
        ]


def format_percent(value: float | None) -> str:
    """``42.7`` for 0.4268, ``-`` for None."""
    return "-" if value is None else f"{100 * value:.1f}"
