"""Takes the pictures of the report that the documentation shows: docs/assets/report.png and report-class.png.

    uv run python benchmarks/tiny_tail.py --losses softmax gumbel --seeds 0
    uv run tailseg report runs/tiny_tail/softmax_0 runs/tiny_tail/gumbel_0 --out runs/report.html
    uv run python tools/take_report_pictures.py runs/report.html "checked cross"

The second argument names the class whose page is shown. Chromium must be installed.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ASSETS = Path(__file__).resolve().parents[1] / "docs/assets"
OVERVIEW, CLASS_PAGE = (1000, 660), (900, 720)
"""Width and height in pixels."""


def take_picture(page: Page, path: Path, top: float, size: tuple[int, int]) -> None:
    """Saves a part of the page, from ``top`` pixels down, with 128 colors."""
    width, height = size
    shot = page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": width, "height": height})
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    report, name = Path(arguments[0]).resolve(), arguments[1]
    browser_file = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file)
        page = browser.new_page(viewport={"width": OVERVIEW[0], "height": OVERVIEW[1]})
        page.goto(report.as_uri())
        page.wait_for_selector("a[href^='#class-']")
        take_picture(page, ASSETS / "report.png", 0, OVERVIEW)
        address = page.get_by_role("link", name=name, exact=True).first.get_attribute("href")
        page.set_viewport_size({"width": CLASS_PAGE[0], "height": CLASS_PAGE[1]})
        page.goto(report.as_uri() + address)
        heading = page.get_by_role("heading", name="Training examples").first
        heading.wait_for()
        take_picture(page, ASSETS / "report-class.png", heading.bounding_box()["y"] - 12, CLASS_PAGE)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
