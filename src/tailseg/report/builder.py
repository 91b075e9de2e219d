"""Builds a page of one HTML file: template, style and script, with packed data. Every page of tailseg uses it.

A page extends ``templates/base.html``. Its data is packed, so that no name from an annotation file can become markup.
Its Content-Security-Policy allows its own script alone, by the hash, and no request unless the page asks for one.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, FunctionLoader, select_autoescape
from markupsafe import Markup

from tailseg import __version__

MAX_BYTES: Final = 5_000_000
"""The largest size of a page."""


def build_page(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    blocks: Mapping[str, str] | None = None,
    requests: str = "",
    **values: object,
) -> str:
    """Fills a template.

    Args:
        template: name of a file in ``templates/``; it extends ``base.html``.
        styles: names of files in ``styles/``, in their order, without the suffix.
        scripts: names of files in ``script/`` that are one script, in their order, without the suffix.
        blocks: packed data by the id of its element, see `pack`.
        requests: where the script may send requests, as the policy writes it (``'self'``); nowhere if empty.
        **values: what the template shows. Everything is escaped.

    Returns:
        The text of the page.
    """
    script, style = join_files("script", scripts, "js"), join_files("styles", styles, "css")
    return (
        _make_environment()
        .get_template(template)
        .render(
            **values,
            version=__version__,
            blocks=blocks or {},
            policy=make_policy(script, requests),
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
        )
    )


def make_policy(script: str, requests: str = "") -> str:
    """The Content-Security-Policy of a page with this script.

    Args:
        script: the text of the script.
        requests: where the script may send requests; nowhere if empty.

    Returns:
        The policy.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    connect = f"connect-src {requests}; " if requests else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; {connect}"
        "base-uri 'none'; form-action 'none'"
    )


def join_files(folder: str, names: Sequence[str], suffix: str) -> str:
    """The text of some files of a folder of this package, joined by line feeds.

    Args:
        folder: the folder.
        names: the names of the files, without the suffix.
        suffix: the suffix without the dot.

    Returns:
        The text.
    """
    return "\n".join(_read_text(f"{folder}/{name}.{suffix}") for name in names)


def pack(content: object) -> str:
    """Packs content as JSON, gzip, base64: nothing of it can be taken for markup, and it is a third as long."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


@cache
def _read_text(name: str) -> str:
    return files("tailseg.report").joinpath(name).read_text("utf-8")


@cache
def _make_environment() -> Environment:
    loader = FunctionLoader(lambda name: _read_text(f"templates/{name}"))
    return Environment(autoescape=select_autoescape(default=True), keep_trailing_newline=True, loader=loader)
