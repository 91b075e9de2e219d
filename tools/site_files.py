"""Makes the site show docs/ as a code host does: a hook of MkDocs (see mkdocs.yml).

MkDocs knows only the files below docs/. This hook gives each file its path in the repository, and adds the files that
the pages link to: Markdown as it is, code as a page that shows it. The same relative links then work in both places.
The addresses in the site stay without ``docs/``. The hook also warns where MkDocs reads Markdown differently.
"""

import logging
import re
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")
TAGS = {"li": "items of lists", "table": "tables", "pre": "blocks of code", "h2": "sections"}
LOG = logging.getLogger("mkdocs.hooks.site_files")
LANGUAGES = {".md": "markdown", ".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml"}


class CodePage(File):
    """A file of code, shown on a page of its own that the search leaves out."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Returns the files of docs/ under their paths in the repository, and the other files that they link to."""
    known: dict[str, File] = {}
    for file in list(files.src_uris.values()):
        if file.generated_by is None and file.src_dir == config.docs_dir:
            address, source = file.dest_uri, file.abs_src_path
            file.src_uri, file.dest_uri, file.abs_src_path = f"docs/{file.src_uri}", address, source
        known[file.src_uri] = file
    for path in re.findall(r"[\w/.-]+\.md", str(config.nav)):
        if path not in known and (ROOT / path).is_file():
            known[path] = _add_file(path, config)
    waiting = [file for file in known.values() if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(page.content_string):
            path = normpath(join(dirname(page.src_uri), unquote(link)))
            if ":" in link or path in known or path.startswith("..") or not (ROOT / path).is_file():
                continue  # MkDocs reports links to files that do not exist
            known[path] = _add_file(path, config)
            if path.endswith(".md"):
                waiting.append(known[path])
    return Files(known.values())


def _add_file(path: str, config: MkDocsConfig) -> File:
    """A file outside of docs/, with its address in the site."""
    is_code = not path.endswith((".md", *PICTURES))
    file = (CodePage if is_code else File)(path, None, config.site_dir, use_directory_urls=config.use_directory_urls)
    file.generated_by, file.inclusion = "site_files", InclusionLevel.NOT_IN_NAV
    if is_code:
        code = (ROOT / path).read_text()
        language = LANGUAGES.get(Path(path).suffix, "text")
        file.dest_uri = f"{path}.html"
        file.content_string = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n`````{language}\n{code}\n`````\n"
    else:
        file.abs_src_path = str(ROOT / path)
        if path == "README.md":
            file.dest_uri = "readme.html"
    return file


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warns of a page whose lists, tables or blocks of code are not what a code host shows (CommonMark)."""
    del config, files
    if ":::" not in (page.markdown or ""):
        expected = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.markdown or "")
        for tag, name in TAGS.items():
            numbers = [len(re.findall(f"<{tag}[ >]", text)) for text in (expected, html)]
            if numbers[0] != numbers[1]:
                LOG.warning("%s: %d %s on a code host, %d in the site", page.file.src_uri, numbers[0], name, numbers[1])
    return html
