"""Draws the gradients of each link: docs/assets/link-gradients.svg, and the table of docs/explain/why-gumbel.md.

    uv run python tools/plot_link_gradients.py [FILE.svg|FILE.png]

Gradients come from the links' own backward passes in float64. Links are compared at equal logits, and at equal
probabilities, which is the comparison that counts: the same logit means something else to each link.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tailseg.losses import Gumbel, Link, NormalCDF, Sigmoid

PICTURE = Path(__file__).resolve().parents[1] / "docs/assets/link-gradients.svg"
PROBABILITIES = (1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999)
DEAD = 0.01
"""Share of the exact link's gradient below which the published gradient counts as dead."""


@dataclass(frozen=True)
class Curve:
    """A link and its style. Color-blind readers can distinguish the colors (Okabe and Ito)."""

    name: str
    link: Link
    color: str
    style: str


CURVES = (
    Curve("sigmoid", Sigmoid(), "#0072B2", "--"),
    Curve("Gumbel", Gumbel(), "#D55E00", "-"),
    Curve("normal CDF", NormalCDF(), "#009E73", "-."),
)
PUBLISHED = Gumbel().published()


def gradients(link: Link, q: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes of the gradients d(cost)/dq of a positive, which raises the logit, and of a negative, which lowers it."""
    q = q.clone().requires_grad_()
    (up,) = torch.autograd.grad(-link.log_probability(q).sum(), q)
    (down,) = torch.autograd.grad(-link.log_complement(q).sum(), q)
    return up.abs(), down.abs()


def logit_of(link: Link, p: Tensor) -> Tensor:
    """Finds the logit with probability p by bisection; p is between 1e-12 and 1 - 1e-12."""
    low, high = torch.full_like(p, -30.0), torch.full_like(p, 30.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = link.probability(middle) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def dead_zones() -> tuple[float, float]:
    """The logit below which a published Gumbel positive has no gradient, and the logit above which a negative has
    none."""
    q = torch.linspace(-6, 12, 18001, dtype=torch.float64)
    (up, down), (exact_up, exact_down) = gradients(PUBLISHED, q), gradients(Gumbel(), q)
    dead_up = q[(up < DEAD * exact_up) & (q < 0)].max().item()
    dead_down = q[(down < DEAD * exact_down) & (q > 0)].min().item()
    return dead_up, dead_down


def table() -> str:
    """Sizes at equal probabilities as Markdown: of the two gradients, and of what a positive does to the log odds.

    A step of the logit along its gradient moves the log odds log(p / (1 - p)) by the gradient times d(log odds)/dq,
    which is the positive's gradient divided by 1 - p.
    """
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)
    columns: dict[str, Tensor] = {}
    for kind in ("positive", "negative", "log odds"):
        for curve in CURVES:
            up, down = gradients(curve.link, logit_of(curve.link, p))
            columns[f"{kind}, {curve.name}"] = {"positive": up, "negative": down, "log odds": up**2 / (1 - p)}[kind]
    lines = [f"| p | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for i, probability in enumerate(PROBABILITIES):
        cells = [f"{float(f'{column[i].item():.2g}'):g}" for column in columns.values()]
        lines.append(f"| {probability:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Writes the picture; the extension of the path gives the format."""
    mpl.rcParams["svg.hashsalt"] = "tailseg"  # the same picture gives the same file
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    q = torch.linspace(-6, 12, 361, dtype=torch.float64)
    p = torch.sigmoid(torch.linspace(-14.5, 9.3, 241, dtype=torch.float64))
    for curve in CURVES:
        for column, (x, at) in enumerate(((q, q), (p, logit_of(curve.link, p)))):
            for row, size in enumerate(gradients(curve.link, at)):
                axes[row, column].plot(x, size, curve.style, color=curve.color, linewidth=2)
    for row, size in enumerate(gradients(PUBLISHED, q)):
        axes[row, 0].plot(q, size.clamp(min=1e-9), ":", color="black", linewidth=1.6)
    label(axes)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def label(axes: "list[list[Axes]]") -> None:
    """Adds titles, scales, and a name next to each curve."""
    (up_q, up_p), (down_q, down_p) = axes
    for row in axes:
        for axis in row:
            axis.set_yscale("log")
            axis.grid(color="0.9", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
            axis.axhline(1, color="0.6", linewidth=0.8)
    up_q.set(ylim=(1e-3, 300), ylabel="pull of a positive: |d(-log p) / dq|", title="at equal logits")
    up_p.set_title("at equal probabilities")
    down_q.set(ylim=(1e-6, 30), ylabel="push of a negative: |d(-log(1 - p)) / dq|", xlabel="logit q", xlim=(-6, 12))
    down_p.set(xscale="logit", xlim=(1e-6, 1 - 1e-4), xlabel="probability p")
    down_p.set_xticks([1e-6, 1e-4, 1e-2, 0.5, 0.99, 0.9999], ["1e-6", "1e-4", "0.01", "0.5", "0.99", "0.9999"])
    down_p.set_xticks([], minor=True)
    sigmoid, gumbel, normal = CURVES
    names = (
        (up_q, gumbel, (-2.4, 20)),
        (up_q, sigmoid, (-5.8, 0.4)),
        (up_q, normal, (-1.3, 2.2e-3)),
        (up_p, gumbel, (3e-6, 18)),
        (up_p, sigmoid, (3e-6, 0.4)),
        (up_p, normal, (3e-6, 1.7)),
        (down_q, gumbel, (-2.3, 4e-5)),
        (down_q, sigmoid, (-5.9, 8e-2)),
        (down_q, normal, (3.0, 9)),
        (down_p, gumbel, (3e-6, 3e-3)),
        (down_p, sigmoid, (3e-4, 6e-5)),
        (down_p, normal, (0.9, 4.5)),
    )
    for axis, curve, at in names:
        axis.text(*at, curve.name, color=curve.color, fontsize=11, fontweight="bold")
    low, high = dead_zones()
    for axis, zone, arrow, text, words in (
        (up_q, (-6, low), (low, 2e-2), (-2.8, 2e-2), f"dotted:\npublished Gumbel,\ndead below {low:.1f}"),
        (down_q, (high, 12), (high, 1e-4), (4.0, 1e-4), f"dotted:\npublished Gumbel,\ndead above {high:.0f}"),
    ):
        axis.axvspan(*zone, color="0.92", zorder=0)
        axis.annotate(words, arrow, text, arrowprops={"arrowstyle": "->"}, fontsize=9, va="center")


if __name__ == "__main__":
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    draw(picture)
    print(picture)
    print(table())
    print("published Gumbel is dead below q = {:.2f} and above q = {:.2f}".format(*dead_zones()))
