"""Traces a detector with `torch.export`, for images of any size and any number of them in a batch."""

import copy
import logging
import operator
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import jaxtyping
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tailseg.export.backbones import writable_backbones
from tailseg.export.graph import DetectorGraph
from tailseg.models.detector import Detector
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.models.precision import Precision, autocast

EXAMPLE_SIZE: Final = (128, 160)
"""Height and width of the images that are traced; two different numbers, because equal ones would count as one."""

SIZE_CHECKS: Final = (operator.lt, operator.ne, torch.sym_not)
"""Conditions with which `torch.export` says that a side is more than 1."""


def trace(
    model: Detector, thresholds: Sequence[float] | None, *, precision: Precision = "float32", whole_masks: bool = False
) -> ExportedProgram:
    """Traces a detector.

    Args:
        model: in float32, prepared by `tailseg.models.optimize.for_inference`; it stays as it is.
        thresholds: the score threshold of each label, or None.
        precision: of convolutions and linear layers, as in `tailseg.models.precision.autocast`. Boxes, scores, NMS and
            masks are computed in float32.
        whole_masks: see `DetectorGraph`.

    Returns:
        The program, with the inputs and outputs of `DetectorGraph.forward`.

    Raises:
        ValueError: the model is not a built-in detector, or `torch.export` cannot trace its backbone.
    """
    if precision != "float32":
        model = for_inference(copy.deepcopy(model), InferenceConfig(precision=precision))
    graph = Outputs(DetectorGraph(model, thresholds, whole_masks=whole_masks)).eval()
    inputs, shapes = make_example()
    with quiet(), torch.no_grad(), writable_backbones(), autocast(torch.device("cpu"), precision):
        try:
            program = torch.export.export(
                graph,
                inputs,
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            if precision != "float32":  # the first trace lacks the casts of autocast, which are below its operations
                program = program.run_decompositions({})
        except Exception as error:  # torch.export has many exceptions, without a common class
            raise ValueError(describe_failure(model, error)) from error
    remove_size_checks(program)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine
    return program


def remove_size_checks(program: ExportedProgram) -> None:
    """Removes the checks with which a program refuses maps of one row or column, as small or narrow images have.

    `torch.export` adds them, because its example has larger maps. No operation of a detector depends on this. Checks
    that sizes are equal stay: they find inputs of different batches.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:  # noqa: SLF001 - its only name
            condition = node.args[0]
            if isinstance(condition, torch.fx.Node) and condition.target in SIZE_CHECKS:
                program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


class Outputs(nn.Module):
    """A graph whose result is a plain tuple, without masks if there are none: torch cannot save a named tuple."""

    def __init__(self, graph: DetectorGraph) -> None:
        super().__init__()
        self.detector = graph  # a module must not be called graph: torch.fx has that name

    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> tuple[Tensor, ...]:
        """Computes `DetectorGraph.forward`.

        Args:
            images: see there.
            sizes: see there.
            original_sizes: see there.

        Returns:
            The outputs that there are.
        """
        return tuple(value for value in self.detector(images, sizes, original_sizes) if value is not None)


def describe_failure(model: Any, error: Exception) -> str:  # noqa: ANN401 - a detector with a config
    """Says that a backbone cannot be traced, with the first line of the reason."""
    config = model.config.backbone
    backbone = getattr(config, "name", type(config).__name__)
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    return f"torch cannot export this model with the backbone {backbone}: {reason}. Take a ResNet, a Swin or a ConvNeXt"


def make_example() -> tuple[tuple[Tensor, Tensor, Tensor], tuple[dict[int, Any], ...]]:
    """Makes inputs to trace a detector with, and says which of their sides may change."""
    height, width = EXAMPLE_SIZE
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 28, width - 30]])
    # not the same tensor twice: torch.export takes it for one input, and ignores the second one at run time
    original_sizes = 2 * sizes
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 1: 32 * rows, 2: 32 * columns}, {0: batch}, {0: batch})
    return (images, sizes, original_sizes), shapes


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without the exporter's warnings and log, and without checks of shapes, which would fix the symbolic ones."""
    log = logging.getLogger("torch.onnx")
    level, checked = log.level, not jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        jaxtyping.config.update("jaxtyping_disable", not checked)
