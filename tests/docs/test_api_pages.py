"""Each public package has a page in the API reference, and the navigation of the site has it."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_public_package_has_a_page():
    packages = runpy.run_path(str(ROOT / "tests/api/public_names.py"))["PACKAGES"]
    pages = {f"docs/reference/api/{name}.md" for name in packages}
    assert {str(page.relative_to(ROOT)) for page in (ROOT / "docs/reference/api").glob("*.md")} == {
        *pages,
        "docs/reference/api/index.md",
    }
    assert [page for page in sorted(pages) if f"- {page}\n" not in (ROOT / "mkdocs.yml").read_text()] == []
    for name in packages:
        text = (ROOT / f"docs/reference/api/{name}.md").read_text()
        assert text == f"# tailseg.{name}\n\n::: tailseg.{name}\n"
