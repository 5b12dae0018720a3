"""`intvit completion bash`: commands, options and files of `intvit` on the Tab key, for bash, zsh or tcsh.

The script is printed; it is static, so that a Tab starts no Python. Commands whose packages are not installed are
completed by name alone.

    intvit completion bash > ~/.local/share/bash-completion/completions/intvit
    intvit completion zsh > ~/.zfunc/_intvit          # with fpath+=~/.zfunc before compinit
    eval "$(python train.py -sc install=bash)"        # overrides of train.py: Hydra's own
"""

from __future__ import annotations

import argparse

from intvit.commands import COMMANDS, command_parser
from intvit.errors import IntVitError

PLACES = {"FOLDER", "DIR", "FILE", "IMAGE", "SRC", "DST", "CKPT", "FILE.png"}  # metavars that stand for files


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def main(arguments: list[str]) -> None:
    """Prints the script."""
    options = parser().parse_args(arguments)
    import shtab

    print(shtab.complete(whole_parser(), shell=options.shell))


def whole_parser() -> argparse.ArgumentParser:
    """One parser of all commands, groups and their options; of a command that cannot be imported, the name alone."""
    import shtab

    top = argparse.ArgumentParser(prog="intvit")
    groups = top.add_subparsers()
    for group, commands in COMMANDS.items():
        if isinstance(commands, tuple):
            _add(groups, [group], commands[1])
            continue
        inner = groups.add_parser(group, help=", ".join(commands)).add_subparsers()
        for command, (_, text) in commands.items():
            _add(inner, [group, command], text)
    for each in _all_parsers(top):
        for action in each._actions:
            if action.metavar in PLACES or action.dest in ("json", "out", "folder", "images"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return top


def _add(place: argparse._SubParsersAction[argparse.ArgumentParser], path: list[str], text: str) -> None:
    try:
        parents = [command_parser(path)]
    except (ImportError, IntVitError):
        parents = []
    place.add_parser(path[-1], help=text, parents=parents, add_help=not parents, conflict_handler="resolve")


def _all_parsers(top: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [top]
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [each for inner in action.choices.values() for each in _all_parsers(inner)]
    return found
