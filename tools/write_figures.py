"""Writes the figures of the README and their picture from the newest results in benchmarks/results.

    uv run python tools/write_figures.py
    uv run python tools/write_figures.py --check

The README has two such parts, between ``<!-- figures -->`` and ``<!-- /figures -->``, and between ``<!-- picture -->``
and ``<!-- /picture -->``. The picture is docs/assets/gain.svg. ``--check`` writes nothing. It fails when one of them
differs from the results.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "README.md"
PICTURE = ROOT / "docs/assets/gain.svg"
BLOCK = re.compile(r"(?s)(?<=<!-- (figures|picture) -->\n).*?(?=<!-- /\1 -->\n)")
GROUPS = {"AP": "all classes", "APr": "rare", "APc": "common", "APf": "frequent"}
COLORS = {"softmax": "#8a939e", "Gumbel": "#0b6e7f"}

FIGURES = """\
**Instance segmentation for data in which most classes are rare.** The Gumbel loss of tailseg reaches
**{gumbel[APr]} AP on rare classes where softmax reaches {softmax[APr]}, and {gumbel[AP]} AP on all where softmax
reaches {softmax[AP]}**: the same network after four epochs on tiny_tail, the data set that tailseg draws
({losses}, mean of {seeds} seeds, standard deviations up to {spread}).
**An image takes {image:.2f} of torchvision's time** ({image_source}),
a training step {step:.2f} ({step_source}): Mask R-CNN R50, 1,203 classes, on a CPU.
[All benchmarks](docs/benchmarks.md).

tailseg trains, evaluates and explains detectors on your COCO or LVIS file, in plain typed PyTorch.
"""


@dataclass(frozen=True)
class Result:
    """A results file: a link to it with the script that made it, and its rows by their first cell."""

    link: str
    header: list[str]
    rows: dict[str, list[str]]

    def read(self, row: str, column: str) -> str:
        """Returns the text of a cell."""
        return self.rows[row][self.header.index(column)]


def read_result(path: Path) -> Result:
    """Reads the script and the table of a results file."""
    text = path.read_text()
    (script,) = re.findall(r"(?m)^`uv run python (\S+\.py)", text)
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return Result(f"[`{script}`]({path.relative_to(ROOT)})", header, {row[0]: row for row in rows})


def find_newest(pattern: str) -> Result:
    """Reads the file of the latest date that matches; of the same date, the one with the most seeds."""

    def order(path: Path) -> tuple[str, int]:
        result = read_result(path)
        seeds = int(result.read("gumbel", "seeds")) if "seeds" in result.header else 0
        return re.findall(r"\d{4}-\d\d-\d\d", path.name)[-1], seeds

    paths = [path for path in RESULTS.glob(pattern) if "seeds" not in path.read_text() or has_both(path)]
    return read_result(max(paths, key=order))


def has_both(path: Path) -> bool:
    """Returns whether the file compares softmax with Gumbel."""
    return {"softmax", "gumbel"} <= set(read_result(path).rows)


def make_files() -> dict[Path, str]:
    """Returns the text of the README and of the picture."""
    losses = find_newest("tiny_tail*.md")
    image, step = find_newest("inference-2???-??-??-cpu.md"), find_newest("training-2???-??-??-cpu.md")
    means: dict[str, dict[str, str]] = {}
    spreads: dict[str, dict[str, str]] = {}
    for name in COLORS:
        cells = {group: losses.read(name.lower(), group).split(" ± ") for group in GROUPS}
        means[name] = {group: cell[0] for group, cell in cells.items()}
        spreads[name] = {group: cell[1] if len(cell) > 1 else "0" for group, cell in cells.items()}
    alt = "Mask AP on tiny_tail, softmax and Gumbel: " + "; ".join(
        f"{words} {means['softmax'][group]} and {means['Gumbel'][group]}" for group, words in GROUPS.items()
    )
    figures = FIGURES.format(
        softmax=means["softmax"],
        gumbel=means["Gumbel"],
        seeds=losses.read("gumbel", "seeds"),
        losses=losses.link,
        spread=max((spread for values in spreads.values() for spread in values.values()), key=float),
        image=get_ratio(image, "an image, s"),
        image_source=image.link,
        step=get_ratio(step, "a step, s"),
        step_source=step.link,
    )
    parts = {"figures": figures, "picture": f"![{alt}]({PICTURE.relative_to(ROOT)})\n"}
    readme = README.read_text()
    if sorted(BLOCK.findall(readme)) != sorted(parts):
        raise SystemExit(f"{README}: expected <!-- NAME --> ... <!-- /NAME --> once for each of {', '.join(parts)}")
    readme = BLOCK.sub(lambda block: parts[block[1]], readme)
    return {README: readme, PICTURE: draw(means, spreads, alt)}


def get_ratio(result: Result, row: str) -> float:
    """Returns the time of tailseg as a share of the time of torchvision."""
    return float(result.read(row, "tailseg")) / float(result.read(row, "torchvision"))


def draw(means: dict[str, dict[str, str]], spreads: dict[str, dict[str, str]], alt: str) -> str:
    """Draws the bars with their standard deviations. The card has its own background: it is readable on any page."""
    width, height, left, top, base = 720, 260, 28, 82, 214
    scale = (base - top) / max(float(value) for values in means.values() for value in values.values())
    parts = [draw_text(left, 42, "Mask AP by class frequency", anchor="start", bold=True)]
    for i, (name, color) in enumerate(COLORS.items()):
        x = 446 + 132 * i
        parts += [draw_bar(x, 26, 18, 18, color), draw_text(x + 26, 42, name, anchor="start")]
    for i, (group, words) in enumerate(GROUPS.items()):
        middle = left + (width - 2 * left) / len(GROUPS) * (i + 0.5)
        parts.append(draw_text(middle, base + 28, words))
        for j, (name, color) in enumerate(COLORS.items()):
            value, spread = float(means[name][group]), float(spreads[name][group])
            low, high = base - scale * max(value - spread, 0), base - scale * (value + spread)
            x = middle - 58 + 60 * j
            parts += [
                draw_bar(x, base - scale * value, 56, scale * value, color),
                f'<path d="M{x + 28:.1f} {low:.1f}V{high:.1f}" stroke="#1f2328" stroke-width="2" opacity="0.6"/>',
                draw_text(x + 28, high - 7, means[name][group], bold=name == "Gumbel"),
            ]
    size = f'width="{width}" height="{height}"'
    font = 'font-family="Helvetica,Arial,DejaVu Sans,sans-serif" font-size="20" fill="#1f2328"'
    card = f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="10" fill="#fff" stroke="#d0d7de"/>'
    axis = f'<path d="M{left} {base}.5H{width - left}" stroke="#57606a"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} {font} role="img">'
    return "\n".join([start, f"<title>{alt}</title>", card, *parts, axis, "</svg>"]) + "\n"


def draw_bar(x: float, y: float, width: float, height: float, color: str) -> str:
    """Returns a rectangle with slightly round corners."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height:.1f}" rx="2" fill="{color}"/>'


def draw_text(x: float, y: float, text: str, *, anchor: str = "middle", bold: bool = False) -> str:
    """Returns a line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{text}</text>'


def main(arguments: list[str]) -> None:
    files = make_files()
    if arguments == ["--check"]:
        outdated = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
        if outdated:
            names = ", ".join(path.name for path in outdated)
            raise SystemExit(
                f"{names}: the figures are not those of the newest results in benchmarks/results. "
                f"Run: uv run python tools/write_figures.py"
            )
        return
    for path, text in files.items():
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
