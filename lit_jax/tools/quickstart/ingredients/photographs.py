"""Photographs of things as image-caption pairs: the stamps of Tux Paint, with captions in many languages.

They come from a Debian package, which is downloaded and read, not installed.
"""

import hashlib
import io
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lit_jax.tools.quickstart.ingredients.packages import whole_folder
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError, DataError, first_line

PACKAGE, LICENCE = "tuxpaint-stamps-default", "GPL-2"
SOURCE = "https://tuxpaint.org/stamps/"
HELD_OUT = 0.2
SIDE = 512  # Most pixels of the longer side.
_STAMPS = "usr/share/tuxpaint/stamps"
_DRAWN = {"cartoon", "symbols"}  # Folders without photographs.


class Stamp(NamedTuple):
    """A picture: its name (`food/fruit/apple`), its file, and its caption in each language; "" is English."""

    name: str
    png: bytes
    captions: dict[str, str]


def photograph_pairs(out_dir: str | Path, *, every_language: bool = False) -> Path:
    """Writes the photographs into `out_dir`/{train,test}, two `folder:` sources, and returns `out_dir`.

    A picture is an RGB PNG on white of at most SIDE pixels. Its caption is the English one; in `train`, with
    `every_language`, it has those of all languages. `captions_de` and so on hold the caption in one language. A fifth
    of the pictures is held out, by the hash of their names. With version 2022.06.04-1: 430 pictures, 86 of them held
    out.

    The folder appears only when it is complete; one that was made in the same way is kept. Raises ConfigError if there
    is no apt-get or the package cannot be downloaded, and for a folder that holds something else, and DataError if the
    package has no such pictures.
    """
    out_dir = Path(out_dir)
    made = {"package": PACKAGE, "every_language": every_language}
    if (out_dir / "made.json").is_file():
        _check_existing(out_dir, made)
        return out_dir
    with tempfile.TemporaryDirectory() as place:
        stamps = read_stamps(download(Path(place)))
    if not stamps:
        raise DataError(f"the package {PACKAGE} has no photographs with captions")
    order = sorted(stamps, key=lambda stamp: hashlib.sha256(stamp.name.encode()).digest())
    held = {stamp.name for stamp in order[: round(HELD_OUT * len(stamps))]}
    with whole_folder(out_dir) as draft:
        for part in ("train", "test"):
            chosen = [stamp for stamp in stamps if (stamp.name in held) == (part == "test")]
            _write(draft / part, chosen, every_language and part == "train")
        (draft / "README.md").write_text(
            f"Photographs and captions of Tux Paint's stamps ({PACKAGE} of Debian, {SOURCE}): {LICENCE}.\n"
        )
        (draft / "made.json").write_text(json.dumps(made) + "\n")
    return out_dir


def download(folder: Path) -> Path:
    """The package as a file in `folder`. Raises ConfigError."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ConfigError(
            f"the photographs are in {PACKAGE}, a package of Debian, and this machine has no apt-get; use Debian or "
            "Ubuntu, or --pictures emoji"
        )
    folder.chmod(0o755)  # apt-get may read and write as another user.
    done = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True)
    if done.returncode or not (files := sorted(folder.glob("*.deb"))):
        reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
        raise ConfigError(
            f"apt-get cannot download {PACKAGE} ({reason}); run `apt-get update` and try again, or use --pictures emoji"
        )
    return files[0]


def read_stamps(package: Path) -> list[Stamp]:
    """The photographs in a Debian package that have a caption, by name. Raises DataError if it cannot be read."""
    with tempfile.TemporaryDirectory(dir=package.parent) as place:
        done = subprocess.run(["dpkg-deb", "-x", str(package), place], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it ends early"])[-1]
            raise DataError(f"{package.name} is damaged ({reason}); start again")
        root = Path(place) / _STAMPS
        return [
            Stamp(str(png.relative_to(root).with_suffix("")), png.read_bytes(), parsed(text.read_bytes()))
            for png in sorted(root.rglob("*.png"))
            if not _DRAWN.intersection(png.parts) and (text := png.with_suffix(".txt")).is_file()
        ]


def parsed(text: bytes) -> dict[str, str]:
    """Language -> caption, from a stamp's text: English in the first line, then lines like `de.utf8=Ein Apfel.`"""
    first, *others = text.decode("utf-8", "replace").splitlines() or [""]
    captions = {"": first.strip()}
    for line in others:
        language, has_one, caption = line.partition(".utf8=")
        if has_one and caption.strip():
            captions[language.strip()] = caption.strip()
    return captions


def _write(folder: Path, stamps: list[Stamp], every_language: bool) -> None:
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as rows:
        for stamp in stamps:
            name = stamp.name.replace("/", "_")
            (folder / f"{name}.png").write_bytes(_on_white(stamp.png))
            english = stamp.captions[""]
            captions = [english, *stamp.captions.values()] if every_language else [english]
            row = {"file_name": f"{name}.png", "id": stamp.name, "captions": [*dict.fromkeys(captions)]}
            row |= {f"captions_{language}": [text] for language, text in stamp.captions.items() if language}
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")


def _on_white(png: bytes) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    picture.thumbnail((SIDE, SIDE))
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    file = io.BytesIO()
    white.convert("RGB").save(file, "PNG")
    return file.getvalue()


def _check_existing(out_dir: Path, made: dict[str, object]) -> None:
    try:
        stored = strict_json.read_own(out_dir / "made.json")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{out_dir}/made.json is damaged ({first_line(error)}): remove {out_dir}"
        ) from error
    if stored != made:
        raise ConfigError(
            f"{out_dir} holds pairs that were made in another way; remove it or choose another folder"
        )
