"""`intvit export hub FOLDER DIR`: a folder ready for the Hugging Face Hub. Nothing is sent.

DIR gets the integer checkpoint, which is checked and proven on the way, its model card with what --license and
--evaluation say, and .gitattributes, which keeps the weights in large-file storage. `hf upload USER/NAME DIR` of
huggingface_hub uploads it; `intvit run DIR photo.jpg` runs it, here and where it was downloaded.

    DIR/README.md  program.json  weights.safetensors  bounds.json  .gitattributes
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from intvit.commands.argument_types import new_folder
from intvit.errors import IntVitError
from intvit.files import write_text
from intvit.program import bounds, load_checkpoint, save_checkpoint
from intvit.program.card import FILE, model_card
from intvit.program.weights import FILE as WEIGHTS

ATTRIBUTES = f"{WEIGHTS} filter=lfs diff=lfs merge=lfs -text\n"


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="an integer checkpoint")
    parser.add_argument("out", metavar="DIR", type=new_folder, help="a new or empty folder")
    parser.add_argument("--license", metavar="NAME", help="of the weights, in the Hub's words, such as apache-2.0")
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="evaluation.json of evaluate.py, for the card")
    return parser


def main(arguments: list[str]) -> None:
    """Writes the folder and says what it holds."""
    options = parser().parse_args(arguments)
    if options.out.is_dir() and any(options.out.iterdir()):
        raise IntVitError(f"{options.out} is not empty; give a new folder, nothing was written")
    evaluation = None if options.evaluation is None else _evaluation(options.evaluation)
    program = load_checkpoint(options.folder)
    card = model_card(program, bounds(program), license=options.license, evaluation=evaluation)
    save_checkpoint(program, options.out)
    write_text(options.out / FILE, card)
    write_text(options.out / ".gitattributes", ATTRIBUTES)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size:,} bytes; `hf upload USER/NAME {shlex.quote(str(options.out))}` uploads it")


def _evaluation(file: Path) -> dict[str, Any]:
    """What evaluation.json holds. Raises IntVitError for another file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if all(isinstance(entry, dict) for entry in values["runtimes"].values()) and int(values["images"]) > 0:
            return dict(values)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise IntVitError(f"--evaluation {file}: not an evaluation.json of evaluate.py")
