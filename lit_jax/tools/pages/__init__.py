"""HTML pages from the templates and styles in this folder; every value is escaped, as HTML and as `shown` does."""

import base64
import io
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from lit_jax.utils.shown import shown

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lit_jax.tools.pages", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    # The result of a macro has already passed through this.
    finalize=lambda value: (
        shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    ),
)
_TEMPLATES.filters["count"] = lambda number: f"{number:,}"


def render(template: str, **values: object) -> str:
    """The template of this name, such as "report.html", filled in with `values`."""
    return _TEMPLATES.get_template(template).render(values)


def asset(name: str) -> str:
    """The text of a file in this folder, such as "style.css"."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def small(picture: Image.Image, side: int) -> bytes:
    """`picture` as a WEBP file, its longer edge at most `side` pixels."""
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side))
    small.save(file, "WEBP", quality=78)
    return file.getvalue()


def thumbnail(picture: Image.Image, side: int) -> str:
    """`small` as a data: URI."""
    return f"data:image/webp;base64,{base64.b64encode(small(picture, side)).decode()}"
