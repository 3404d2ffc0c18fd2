"""Sixteen pairs on one page, to look at what a model will be trained on."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lit_jax.data.sources.base import Source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.utils.atomic import naming
from lit_jax.utils.shown import in_line

SHOWN = 16
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_COLUMNS = 4
_WIDTH, _HEIGHT = 300, 225  # The box of a picture, in pixels.
_MARGIN, _GAP = 40, 28
_LINES, _LINE = 3, 22  # The lines of a caption, and the height of one in pixels.
_PAPER, _FRAME, _INK, _FAINT = "#faf9f6", "#efece5", "#26241f", "#8b867a"


def contact_sheet(source: Source, records: Sequence[int]) -> Image.Image:
    """RGB: the pictures of up to 16 `records` in rows of four, each above its number, id and first caption."""
    records = records[:SHOWN]
    title, text, small = (ImageFont.load_default(size) for size in (26, 17, 13))
    cell = _HEIGHT + 34 + _LINES * _LINE + _GAP
    rows = -(-len(records) // _COLUMNS)
    width = 2 * _MARGIN + _COLUMNS * _WIDTH + (_COLUMNS - 1) * _GAP
    top = _MARGIN + 76
    page = Image.new("RGB", (width, top + rows * cell + _MARGIN - _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), _cut(draw, source.spec, title, width - 2 * _MARGIN), _INK, title)
    draw.text((_MARGIN, _MARGIN + 38), f"{len(records)} of {len(source):,} records", _FAINT, text)
    for place, index in enumerate(records):
        record = source[index]
        x = _MARGIN + place % _COLUMNS * (_WIDTH + _GAP)
        y = top + place // _COLUMNS * cell
        draw.rounded_rectangle((x, y, x + _WIDTH - 1, y + _HEIGHT - 1), 6, _FRAME)
        picture = _fitted(open_image(record["image"]))
        page.paste(picture, (x + (_WIDTH - picture.width) // 2, y + (_HEIGHT - picture.height) // 2))
        texts = len(record["captions"])
        about = f"{index}  ·  {record['id']}" + (f"  ·  the first of {texts} captions" if texts > 1 else "")
        if "label" in record and source.class_names:
            about += f"  ·  {source.class_names[record['label']]}"
        draw.text((x, y + _HEIGHT + 9), _cut(draw, about, small, _WIDTH), _FAINT, small)
        caption = record["captions"][0] if record["captions"] else "(no caption)"
        for i, line in enumerate(_wrapped(draw, caption, text)):
            ink = _INK if record["captions"] else _FAINT
            draw.text((x, y + _HEIGHT + 30 + i * _LINE), line, ink, text)
    return page


def write_sheet(source: Source, records: Sequence[int], path: Path) -> None:
    """Writes `contact_sheet` as a PNG file."""
    page, file = contact_sheet(source, records), io.BytesIO()
    page.save(file, "PNG")
    with naming(path):
        path.write_bytes(file.getvalue())  # Pillow itself could not write to a pipe.


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture as large as its box allows; a small one is enlarged by a whole factor, so that pixels stay square."""
    scale = min(_WIDTH / picture.width, _HEIGHT / picture.height)
    if scale >= 2:
        scale = int(scale)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return picture.resize((min(size[0], _WIDTH), min(size[1], _HEIGHT)), how)


def _wrapped(draw: ImageDraw.ImageDraw, caption: str, font: _Font) -> list[str]:
    """The caption in up to three lines as wide as a box; one that does not fit ends in an ellipsis."""
    lines, words = [""], in_line(" ".join(caption[:1000].split())).split()
    for i, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= _WIDTH:
            lines[-1] = longer
        elif len(lines) < _LINES:
            lines.append(word)
        else:
            lines[-1] = " ".join([lines[-1], *words[i:]])
            break
    return [_cut(draw, line, font, _WIDTH) for line in lines]


def _cut(draw: ImageDraw.ImageDraw, text: str, font: _Font, width: int) -> str:
    text = in_line(" ".join(text.split()))
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[: -max(1, len(text) // 20)]
    return text.rstrip() + "..."
