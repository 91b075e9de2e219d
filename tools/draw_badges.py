"""Draws the badges of the README from facts in the repository: docs/assets/badges/*.svg.

    uv run python tools/draw_badges.py
    uv run python tools/draw_badges.py --check

``--check`` writes nothing. It fails when a badge differs from the facts.
"""

import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import tailseg
from tailseg.losses import LOSSES
from tailseg.recipes.published import PUBLISHED

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/assets/badges"
NARROW = "fijlrt.:- "
"""Letters of about 4.3 pixels in Verdana at 11 pixels; the others have about 7.2. ``textLength`` does the rest."""

BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)"><rect width="{middle}" height="20" fill="#4a4f57"/>\
<rect x="{middle}" width="{right}" height="20" fill="#0b6e7f"/></g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="6" y="14" textLength="{label_width}">{label}</text>
<text x="{value_start}" y="14" textLength="{value_width}">{value}</text>
</g>
</svg>
"""


def read_facts() -> dict[str, tuple[str, str]]:
    """Returns label and value of each badge by the name of its file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [need.removeprefix("torch>=") for need in project["dependencies"] if need.startswith("torch>=")]
    return {
        "version": ("version", tailseg.__version__),
        "python": ("Python", project["requires-python"].replace(">=", "≥ ")),
        "torch": ("PyTorch", f"≥ {torch.partition(',')[0]}"),
        "license": ("license", project["license"]),
        "losses": ("classification losses", str(len(LOSSES))),
        "recipes": ("published recipes", str(len(PUBLISHED))),
    }


def measure_text(text: str) -> int:
    """Returns the width of the text in pixels."""
    return round(sum(4.3 if letter in NARROW else 7.2 for letter in text))


def draw_badge(label: str, value: str) -> str:
    """Returns the badge as SVG: the label on gray, the value on the project's color."""
    label_width, value_width = measure_text(label), measure_text(value)
    middle, right = label_width + 12, value_width + 12
    return BADGE.format(
        label=escape(label),
        value=escape(value),
        width=middle + right,
        middle=middle,
        right=right,
        label_width=label_width,
        value_width=value_width,
        value_start=middle + 6,
    )


def find_outdated() -> list[Path]:
    """Returns the badges that are missing or differ from the facts, and files that are no badge."""
    expected = {FOLDER / f"{name}.svg": draw_badge(*fact) for name, fact in read_facts().items()}
    outdated = [path for path, text in expected.items() if not path.is_file() or path.read_text() != text]
    return outdated + sorted(set(FOLDER.glob("*")) - set(expected))


def main(arguments: list[str]) -> None:
    if arguments == ["--check"]:
        if outdated := find_outdated():
            names = ", ".join(path.name for path in outdated)
            raise SystemExit(f"{names}: not current. Run: uv run python tools/draw_badges.py")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, fact in read_facts().items():
        (FOLDER / f"{name}.svg").write_text(draw_badge(*fact))
        print(FOLDER / f"{name}.svg", *fact)


if __name__ == "__main__":
    main(sys.argv[1:])
