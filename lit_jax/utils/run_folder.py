"""Recognises the workdir of a run where a model or another folder is wanted, and the reverse."""

from pathlib import Path


def run_of(folder: Path) -> Path | None:
    """The workdir if `folder` is one, or is inside one as its model or one of its checkpoints; otherwise None."""
    for place in (folder, *folder.absolute().parents[:2]):
        if (place / "checkpoints").is_dir() and (place / "model" / "config.json").is_file():
            return place
    return None
