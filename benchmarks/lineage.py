"""The parts of GOL's authors' later work next to what they replace: CPU time and peak memory of a step.

    uv run python benchmarks/lineage.py [activation] [gate] [mask] [link]

AGLU next to SiLU and ReLU; an SE-ResNet's gate with APA next to the sigmoid; CARAFE next to the deconvolution, from 32
RoIs' features to the mask logits of their classes; a learned temperature next to a fixed one; APA as a link next to the
sigmoid and Gumbel. Forward alone without gradient, and a step with its backward pass. CPU time on one thread. Peak
memory is what a step holds above its inputs.
"""

import json
import sys
from collections.abc import Callable

import torch
from measure import device, in_own_process, peak_memory, seconds, table, write
from torch import Tensor, nn

from tailseg.losses import APA, Gumbel, Sigmoid, binary_cost
from tailseg.models.activations import AGLU
from tailseg.models.config import MaskHeadConfig, NormalizedConfig, SEConfig
from tailseg.models.mask_head import MaskHead
from tailseg.models.resnet import SqueezeExcitation

THREADS = 1
DEVICE = device()
MAPS = (2, 64, 160, 160)
GATED = (2, 1024, 40, 40)
ROIS, CLASSES, REGIONS = 32, 1203, 1024

Way = tuple[Callable[..., Tensor], Tensor]
"""A function and its input."""


def activations() -> dict[str, Way]:
    z = torch.randn(MAPS, device=DEVICE, requires_grad=True)
    return {"SiLU": (nn.SiLU(), z), "AGLU": (AGLU().to(DEVICE), z), "ReLU": (nn.ReLU(), z)}


def gates() -> dict[str, Way]:
    x = torch.randn(GATED, device=DEVICE, requires_grad=True)
    ways = {"SE, sigmoid": SEConfig(), "SE, APA": SEConfig(gate="apa")}
    return {name: (SqueezeExcitation(GATED[1], config).to(DEVICE), x) for name, config in ways.items()}


def masks() -> dict[str, Way]:
    x = torch.randn(ROIS, 256, 14, 14, device=DEVICE, requires_grad=True)
    labels = torch.arange(ROIS, device=DEVICE)
    fixed, learned = NormalizedConfig(), NormalizedConfig(learned=True)
    configs = {
        "deconvolution, T = 20": MaskHeadConfig(normalized=fixed),
        "CARAFE, T = 20": MaskHeadConfig(upsample="carafe", normalized=fixed),
        "deconvolution, T learned": MaskHeadConfig(normalized=learned),
    }
    heads = {name: MaskHead(256, CLASSES, config).to(DEVICE) for name, config in configs.items()}
    return {name: (lambda x, head=head: head.predict(x, labels), x) for name, head in heads.items()}


def links() -> dict[str, Way]:
    q = torch.randn(REGIONS, CLASSES, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, CLASSES + 1, (REGIONS,), device=DEVICE)
    ways = {
        "sigmoid": Sigmoid(),
        "Gumbel": Gumbel(),
        "APA, fixed": APA(0.3).to(DEVICE),
        "APA, learned": APA(0.3, learns=True).to(DEVICE),
    }
    return {name: (lambda q, link=link: binary_cost(q, labels, link), q) for name, link in ways.items()}


CASES = {"activation": activations, "gate": gates, "mask": masks, "link": links}


def forward(way: Way) -> Callable[[], object]:
    function, x = way

    def run() -> object:
        with torch.no_grad():
            return function(x)

    return run


def step(way: Way) -> Callable[[], object]:
    function, x = way

    def run() -> None:
        x.grad = None
        function(x).sum().backward()

    return run


KINDS = {"forward": forward, "step": step}


def main() -> None:
    torch.set_num_threads(THREADS)
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(hold(CASES[sys.argv[2]]())))
        return
    rows = []
    for case in sys.argv[1:] or CASES:
        ways = CASES[case]()
        first = next(iter(ways))
        times = {kind: seconds({n: run(w) for n, w in ways.items()}, rounds=3) for kind, run in KINDS.items()}
        held = hold(ways) if DEVICE.type == "cuda" else in_own_process(__file__, "--memory", case)
        for name in ways:
            cells = []
            for kind in KINDS:
                took, most = times[kind], held[kind]
                cells += [f"{1e3 * took[name]:.1f}", f"{took[name] / took[first]:.2f}"]
                cells += [f"{most[name] / 1e6:.0f}", f"{most[name] / max(most[first], 1):.2f}"]
            rows.append([case, name, *cells])
    head = ["", "", "forward, ms", "ratio", "MB", "ratio", "step, ms", "ratio", "MB", "ratio"]
    write("lineage", "AGLU, APA, CARAFE and learned temperatures", table(head, rows), threads=THREADS)


def hold(ways: dict[str, Way]) -> dict[str, dict[str, int]]:
    """The peak memory of each way, after a first run, which compiles."""
    held: dict[str, dict[str, int]] = {}
    for kind, make in KINDS.items():
        held[kind] = {}
        for name, way in ways.items():
            run = make(way)
            run()
            way[1].grad = None
            held[kind][name] = peak_memory(run)
            way[1].grad = None
    return held


if __name__ == "__main__":
    main()
