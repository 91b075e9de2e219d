"""Which checkpoint is the best, and when a run without progress ends."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from tailseg.annotations.dataset import get_scored_groups
from tailseg.evaluation import Metrics, evaluate
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.own_metrics import get_metric_name
from tailseg.ranges import SettingError
from tailseg.training.checkpoint import Progress
from tailseg.training.run import Run
from tailseg.words import count_noun

DEFAULT_FIGURE: Final = "AP"


def name_figure(name: str | None, *, has_masks: bool) -> str:
    """Returns the whole name of a figure: ``segm/APr`` for ``APr`` of a model with masks; None is AP."""
    name = name or DEFAULT_FIGURE
    return name if "/" in name else f"{'segm' if has_masks else 'bbox'}/{name}"


def get_figure(metrics: Metrics, name: str | None) -> float:
    """Returns a figure of an evaluation, 0 if it is not defined.

    Args:
        metrics: the evaluation.
        name: ``run.best_by``.

    Returns:
        The figure; larger is better.
    """
    return metrics.flatten().get(name_figure(name, has_masks="segm" in metrics), 0.0)


def check_figure(run: Run) -> None:
    """Checks before the training that the validation set defines the figure of ``run.best_by``.

    Raises:
        SettingError: it does not; names those that it defines.
    """
    recipe, val_data, has_masks = run.recipe, run.val_data, run.model.has_masks
    if recipe.run.best_by is None:
        return
    name = name_figure(recipe.run.best_by, has_masks=has_masks)
    own = [get_metric_name(config, taken={}) for config in recipe.metrics]
    if name.partition("/")[0] in own:  # known after the first evaluation
        return
    iou_types: tuple[IouType, ...] = ("bbox", "segm") if has_masks else ("bbox",)
    nothing = evaluate(val_data, [], iou_types=iou_types, groups=get_scored_groups(val_data))
    defined = list(nothing.flatten())
    if name not in defined:
        raise SettingError(
            f"run.best_by is {recipe.run.best_by!r}, and {val_data.path} defines no {name}: "
            f"{_suggest(name, [*defined, *(f'{metric}/..' for metric in own)])}"
        )


def _suggest(name: str, defined: Sequence[str]) -> str:
    close = get_close_matches(name, defined, n=1)
    return f"choose one of {', '.join(defined)}" + (f" (did you mean {close[0]}?)" if close else "")


def record_evaluation(progress: Progress, figure: float, min_gain: float) -> bool:
    """Notes the figure of an evaluation in the progress of a run.

    Args:
        progress: changed.
        figure: of the evaluation; larger is better.
        min_gain: how much larger it must be than at the last gain, to count as one.

    Returns:
        Whether it is the best one so far.
    """
    is_best = progress.best is None or figure > progress.best
    if is_best:
        progress.best = figure
    if progress.gained_to is None or figure > progress.gained_to + min_gain:
        progress.gained_to, progress.evaluations_without_gain = figure, 0
    else:
        progress.evaluations_without_gain += 1
    return is_best


def explain_stop(run: Run) -> str:
    """Says why a run ends early; nothing if it does not."""
    recipe, progress = run.recipe, run.progress
    patience = recipe.run.patience
    if patience is None or progress.evaluations_without_gain < patience:
        return ""
    count = count_noun(progress.evaluations_without_gain, "evaluation")
    figure = name_figure(recipe.run.best_by, has_masks=run.model.has_masks)
    gain = f" by more than {recipe.run.min_gain:g}" * (recipe.run.min_gain > 0)
    return (
        f"the training ends early: in {count} {figure} did not rise{gain} "
        f"above {progress.gained_to or 0:.4f} (run.patience = {patience}). best.pt is the best checkpoint"
    )
