"""An integer checkpoint: a folder of program.json, weights.safetensors, bounds.json and README.md, its model card.

Saving is atomic; loading checks everything and runs no code from the files: JSON and plain arrays only.
"""

import os
from pathlib import Path

from intvit.arguments import as_path
from intvit.files import replacing_folder
from intvit.program import document, weights
from intvit.program.bounds import FILE as BOUNDS_FILE
from intvit.program.bounds import bounds, proof
from intvit.program.card import FILE as CARD_FILE
from intvit.program.card import model_card
from intvit.program.check import check
from intvit.program.program import Program, ProgramError

FILES = {document.FILE, weights.FILE, BOUNDS_FILE, CARD_FILE}


def save_checkpoint(program: Program, folder: str | os.PathLike[str]) -> None:
    """Check the program, prove its bounds, and write it to `folder`, whose old checkpoint it replaces.

    A reader or a crash meets the old checkpoint, the new one, or none, never a mixture. Raises ProgramError if the
    program is not well formed, may overflow, or if `folder` holds anything but a checkpoint.
    """
    folder = Path(os.path.abspath(as_path("folder", folder)))
    _check_target(folder)
    check(program)
    proven = bounds(program)
    evidence, card = proof(program, proven), model_card(program, proven)
    with replacing_folder(folder) as fresh:
        entry = weights.write(program.constants, fresh / weights.FILE)
        (fresh / document.FILE).write_text(document.to_json(program, entry), encoding="utf-8")
        (fresh / BOUNDS_FILE).write_text(evidence, encoding="utf-8")
        (fresh / CARD_FILE).write_text(card, encoding="utf-8")


def load_checkpoint(folder: str | os.PathLike[str]) -> Program:
    """Read the program in `folder`, check it, and prove its bounds again: an edited file cannot overflow a runtime.

    Raises ProgramError, one line, that starts with the folder.
    """
    folder = as_path("folder", folder)
    try:
        if not folder.is_dir():
            raise ProgramError("is not a folder; give the folder that holds program.json")
        for name in (document.FILE, weights.FILE):
            if not (folder / name).is_file():
                inside = "; the folder integer in it is one" if (folder / "integer" / name).is_file() else ""
                raise ProgramError(f"holds no {name}; this is not a whole integer checkpoint{inside}")
        try:
            text = (folder / document.FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ProgramError(
                f"{document.FILE} is not UTF-8 text; the file is damaged, copy or export it again"
            ) from None
        program, declarations, entry = document.from_json(text)
        program.constants = weights.read(folder / weights.FILE, declarations, entry)
        check(program)
        bounds(program)
    except ProgramError as error:
        raise ProgramError(f"{folder}: {error}") from None
    return program


def _check_target(folder: Path) -> None:
    """A folder is replaced only if it holds a checkpoint's files and nothing else (or nothing at all)."""
    if not folder.exists():
        there = next(path for path in folder.parents if path.exists())
        if not there.is_dir():
            raise ProgramError(f"{there} is a file; {folder} cannot be made in it, nothing was written")
        return
    if not folder.is_dir():
        raise ProgramError(f"{folder} is a file; give a folder for the checkpoint")
    names = {path.name for path in folder.iterdir()}
    if names and document.FILE not in names:
        raise ProgramError(f"{folder} is not empty and not a checkpoint; give a new folder, nothing was written")
    if names - FILES:
        foreign = ", ".join(sorted(names - FILES))
        raise ProgramError(f"{folder} holds files besides a checkpoint's ({foreign}); move them, nothing was written")
