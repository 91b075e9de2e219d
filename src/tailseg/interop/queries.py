"""What the adapters for DETR-like models share: the class loss of queries, and scores as logits of another framework.

Shapes: B images, Q queries, C classes, L logits of the loss, K outputs of the model's classifier, M matched queries.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.ops import box_convert

from tailseg.losses.base import ClassificationLoss, at_least_float32
from tailseg.losses.binary_loss import BinaryLoss
from tailseg.losses.links import Link

LEAST_QUALITY = 1e-12
"""A target of exactly 0 would be that of a negative, with the weight of negatives."""
Targets = Sequence[Mapping[str, Any]]
Indices = Sequence[tuple[Tensor, Tensor]]


def check_loss(loss: ClassificationLoss, num_classes: int, widths: Collection[int], model: str) -> None:
    """Refuses a loss that does not fit a classifier.

    Args:
        loss: the loss.
        num_classes: C of the model.
        widths: which numbers of logits L fit.
        model: what errors call the model.

    Raises:
        ValueError: the loss has other classes or logits.
    """
    if loss.num_classes != num_classes or loss.num_logits not in widths:
        hint = " (set background=False)" if loss.num_logits == num_classes + 1 else ""
        raise ValueError(
            f"{model} has {num_classes} classes and takes a loss with {' or '.join(map(str, widths))} logits, got "
            f"{type(loss).__name__} of {loss.num_classes} classes with {loss.num_logits} logits: build the loss for "
            f"the model's classes{hint}"
        )


def check_binary(loss: ClassificationLoss, model: str) -> BinaryLoss:
    """Returns the loss if it asks each class a yes-no question.

    Raises:
        ValueError: it does not.
    """
    if isinstance(loss, BinaryLoss):
        return loss
    raise ValueError(
        f"{model} has no output for 'no object' and asks each class a yes-no question, which {type(loss).__name__} "
        "cannot: take a loss with the method dense, such as GumbelCE(C, background=False), DropLoss or VarifocalLoss"
    )


def check_classes(loss: ClassificationLoss, classes: Tensor) -> None:
    """Refuses objects of a class that the loss has not; the class C would be no object.

    Raises:
        ValueError: a class lies outside ``0 .. C-1``.
    """
    if bool(((classes < 0) | (classes >= loss.num_classes)).any()):
        raise ValueError(
            f"objects have the classes {int(classes.min())} .. {int(classes.max())}, and the loss has the classes "
            f"0 .. {loss.num_classes - 1}: number the classes from 0 in the data set, without gaps"
        )


def set_first_bias(model: nn.Module, loss: ClassificationLoss, width: int, names: Collection[str]) -> None:
    """Sets the bias of the classifiers to the loss's bias before the first step.

    Args:
        model: the model.
        loss: says the bias; outputs behind its logits keep theirs.
        width: K.
        names: the names of the modules that classify.

    Raises:
        ValueError: the model has no such module.
    """
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == width and {*names} & {*name.split(".")}
    ]
    if not heads:
        raise ValueError(
            f"{type(model).__name__} has no classifier with {width} outputs among {', '.join(names)}: set its bias to "
            "loss.init_bias() yourself, and call use_loss with reset_bias=False"
        )
    for head in heads:
        with torch.no_grad():
            head.bias[: loss.num_logits] = loss.init_bias().to(head.bias)


def compute_scores(loss: ClassificationLoss, logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N C"]:
    """Computes the scores of logits of any shape, in float32 or wider, without the outputs behind the loss's logits."""
    rows = at_least_float32(logits[..., : loss.num_logits]).reshape(-1, loss.num_logits)
    return loss.scores(rows).reshape(*logits.shape[:-1], loss.num_classes)


def to_sigmoid_logits(loss: ClassificationLoss, logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N K"]:
    """Computes the logits whose sigmoid is the score, for a framework that applies a sigmoid.

    Outputs behind the C classes become -inf: their score is 0.
    """
    classes = loss.num_classes
    link = getattr(loss, "link", None)
    if loss.num_logits == classes and isinstance(link, Link):
        z = link.as_sigmoid_logits(at_least_float32(logits[..., :classes]))
    else:
        p = compute_scores(loss, logits)
        z = p.clamp(torch.finfo(p.dtype).tiny, 1 - torch.finfo(p.dtype).eps / 2).logit()
    return F.pad(z, (0, logits.shape[-1] - classes), value=-torch.inf)


def to_softmax_logits(loss: ClassificationLoss, logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N C_and_none"]:
    """Computes the logits whose softmax is the score divided by `get_share`, with the rest for 'no object'."""
    scores = compute_scores(loss, logits) / get_share(loss)
    return torch.cat([scores, (1 - scores.sum(-1, keepdim=True)).clamp(min=0)], dim=-1).log()


def get_share(loss: ClassificationLoss) -> int:
    """Returns the most that a query's scores can sum to: 1, or C where each class is a question of its own."""
    return 1 if loss.scores_are_exclusive else loss.num_classes


def to_single_classes(
    loss: ClassificationLoss, logits: Float[Tensor, "B Q K"], masks: Float[Tensor, "B Q h w"]
) -> tuple[Float[Tensor, "B Q C_and_none"], Float[Tensor, "B Q h w"]]:
    """Computes queries for a framework whose score is a softmax with an output for 'no object'.

    Scores that sum to more than 1 are no softmax of one query. Therefore the Q best pairs of query and class become
    queries of one class each: the softmax of (log p, log(1 - p)) is p. The masks are repeated accordingly. Scores of a
    softmax stay with their queries.

    The best come last: where a post-processing makes a map of segments, as EoMT's does, later masks cover earlier ones,
    and all classes of a query have one mask.

    Args:
        loss: computes the scores.
        logits: of the queries.
        masks: of the queries.

    Returns:
        Logits and masks of Q queries, the best last; for a softmax in the old order.
    """
    if loss.scores_are_exclusive:
        return to_softmax_logits(loss, logits), masks
    scores, pairs = (each.flip(1) for each in compute_scores(loss, logits).flatten(1).topk(logits.shape[1]))
    queries, classes = pairs // loss.num_classes, pairs % loss.num_classes
    single = scores.new_full((*scores.shape, loss.num_classes + 1), -torch.inf)
    single.scatter_(2, classes.unsqueeze(2), scores.log().unsqueeze(2))
    single[..., -1] = torch.log1p(-scores)
    return single, masks[torch.arange(len(masks), device=masks.device).unsqueeze(1), queries]


def compute_query_loss(
    loss: ClassificationLoss, logits: Float[Tensor, "N K"], labels: Int64[Tensor, " N"], no_object_weight: float
) -> Float[Tensor, ""]:
    """Computes the mean cost of queries, in which those without an object have a weight.

    With w = 1 for a query with an object and ``no_object_weight`` for the others, and c the cost of a query:

        sum of w c / sum of w

    Args:
        loss: says the costs.
        logits: of the queries of all images.
        labels: ``0 .. C-1``, and C for no object.
        no_object_weight: the weight of a query without an object.

    Returns:
        The weighted mean.
    """
    logits, has_object = logits[:, : loss.num_logits], labels < loss.num_classes
    if isinstance(loss, BinaryLoss):
        weights = torch.where(has_object, 1.0, no_object_weight)
        return loss.dense(logits, labels, weights=weights, normalizer=weights.sum())
    # These losses take no weights: the means over the queries with and without objects are weighed.
    costs = [sum(loss(logits[rows], labels[rows]).values()) for rows in (has_object, ~has_object)]
    weights = [has_object.sum(), (~has_object).sum() * no_object_weight]
    return (costs[0] * weights[0] + costs[1] * weights[1]) / (weights[0] + weights[1])


def pair_ious(boxes: Float[Tensor, "M 4"], others: Float[Tensor, "M 4"]) -> Float[Tensor, " M"]:
    """Computes the IoU of each box with the other at the same place; both are center x, center y, width, height."""
    first, second = (box_convert(at_least_float32(each), "cxcywh", "xyxy") for each in (boxes, others))
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    inside = (high - low).clamp(min=0).prod(1)
    union = sum((each[:, 2:] - each[:, :2]).prod(1) for each in (first, second)) - inside
    return inside / union.clamp(min=torch.finfo(inside.dtype).tiny)


class QueryCriterion(nn.Module):
    """The class loss of tailseg in a DETR-like criterion: a base class in front of the framework's own.

    The framework matches, and computes the losses of boxes and masks. Its matcher and its statistics, which apply a
    sigmoid, get `to_sigmoid_logits`.

    Attributes:
        class_loss: the loss.
        logits_name: the framework's name of the logits [B, Q, K].
        labels_name: the framework's name of the classes of an image's objects.
    """

    class_loss: BinaryLoss
    matcher: nn.Module
    logits_name = "logits"
    labels_name = "class_labels"

    def take_loss(self, loss: BinaryLoss) -> None:
        """Sets the loss, and the logits that the matcher gets."""
        self.class_loss = loss
        self.matcher.register_forward_pre_hook(self._convert_input, with_kwargs=True)

    def find_quality(self, p: Float[Tensor, " M"], ious: Float[Tensor, " M"]) -> Float[Tensor, " M"] | None:
        """Returns the targets of matched queries, as the framework sets them.

        Args:
            p: the scores of their objects' classes.
            ious: IoUs of their boxes with the objects.

        Returns:
            The targets; None for 1.
        """
        raise NotImplementedError

    def get_loss(
        self,
        loss: str,
        outputs: Mapping[str, Any],
        targets: Targets,
        indices: Indices,
        num_boxes: Any,  # noqa: ANN401 - a number or a tensor
        **options: Any,  # noqa: ANN401 - the framework's
    ) -> dict[str, Tensor]:
        """Computes one of the framework's losses.

        Args:
            loss: the framework's name of the loss.
            outputs: logits, boxes and so on of a layer.
            targets: of the images.
            indices: for each image, queries and their objects.
            num_boxes: divides the sum.
            **options: the framework's.

        Returns:
            Named losses.
        """
        if loss in ("labels", "vfl"):
            name = "loss_ce" if loss == "labels" else "loss_vfl"
            return {name: self.compute_class_loss(outputs, targets, indices, num_boxes)}
        if loss in ("cardinality", "local"):
            outputs = self._convert(outputs)
        return super().get_loss(loss, outputs, targets, indices, num_boxes, **options)  # ty: ignore[missing-attribute]

    def compute_class_loss(
        self,
        outputs: Mapping[str, Any],
        targets: Targets,
        indices: Indices,
        num_boxes: Any,  # noqa: ANN401
    ) -> Float[Tensor, ""]:
        """Computes the class loss of a layer.

        Args:
            outputs: logits and boxes.
            targets: of the images.
            indices: for each image, queries and their objects.
            num_boxes: divides the sum.

        Returns:
            The loss.

        Raises:
            ValueError: an object has a class that the loss has not.
        """
        loss = self.class_loss
        logits = outputs[self.logits_name][..., : loss.num_logits]
        images, queries, classes, boxes = self.find_matches(targets, indices)
        check_classes(loss, classes)
        labels = torch.full(logits.shape[:2], loss.num_classes, device=logits.device)
        labels[images, queries] = classes
        with torch.no_grad():
            p = compute_scores(loss, logits[images, queries]).gather(1, classes.unsqueeze(1)).squeeze(1)
            target = self.find_quality(p, pair_ious(outputs["pred_boxes"][images, queries], boxes))
        quality = None
        if target is not None:
            quality = torch.ones(labels.shape, dtype=target.dtype, device=labels.device)
            quality[images, queries] = target.clamp(min=LEAST_QUALITY)
        return loss.dense(logits, labels, quality=quality, normalizer=num_boxes)

    def find_matches(self, targets: Targets, indices: Indices) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lists the matches of all images.

        Args:
            targets: of the images.
            indices: for each image, queries and their objects.

        Returns:
            The image and the query of each match, and the class and the box of its object.
        """
        images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(indices)])
        matches = [images, torch.cat([queries for queries, _ in indices])]
        matches += [
            torch.cat([target[name][objects] for target, (_, objects) in zip(targets, indices, strict=True)])
            for name in (self.labels_name, "boxes")
        ]
        if "valid" in targets[0]:  # rfdetr fills the objects of an image up to a fixed number
            pairs = zip(targets, indices, strict=True)
            valid = torch.cat([target["valid"][objects] for target, (_, objects) in pairs]).bool()
            matches = [each[valid.to(each.device)] for each in matches]  # a matcher may answer on the CPU
        images, queries, classes, boxes = matches
        return images, queries, classes, boxes

    def _convert(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        names = {self.logits_name, "teacher_logits"} & outputs.keys()
        return {**outputs, **{name: to_sigmoid_logits(self.class_loss, outputs[name]) for name in names}}

    def _convert_input(self, matcher: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:  # noqa: ARG002
        return (self._convert(inputs[0]), *inputs[1:]), options
