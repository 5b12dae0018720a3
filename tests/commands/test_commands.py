"""The console script lists what there is, imports a subcommand only when it is called, and repairs torchvision."""

import subprocess
import sys
from pathlib import Path

import pytest

from intvit.commands import COMMANDS, main

GROUPS = {group: commands for group, commands in COMMANDS.items() if isinstance(commands, dict)}
PATHS = [[group, command] for group, commands in GROUPS.items() for command in commands]
PATHS += [[command] for command in COMMANDS if command not in GROUPS]


def test_help_lists_every_group(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(group in text for group in COMMANDS)


@pytest.mark.parametrize("group", list(GROUPS))
def test_help_of_a_group_lists_its_subcommands(group: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([group, "--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in GROUPS[group])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["bench"],
        ["bench", "nonsense"],
        ["check"],
        ["check", "resnet"],
        ["check", "deit_t", "--runtimes", "abacus"],
    ],
)
def test_what_is_not_there_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_listing_imports_no_torch() -> None:
    script = (
        "import sys, intvit.commands\n"
        "try: intvit.commands.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help(path: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*path, "--help"])
    assert caught.value.code == 0
    assert " ".join(["intvit", *path]) in capsys.readouterr().out


TOO_SMALL = [
    "bench train --steps 0",
    "bench train --threads 0",
    "bench data --rounds 0",
    "bench data --workers -1",
    "bench runtime --rounds 0",
    "bench presets --weights w --calibration d --data a=b --check -1",
    "certify FOLDER --accumulator 0",
    "export onnx FOLDER FILE --batch 0",
    "shards create SRC DST --seed -1",
    "shards verify DIR --max-pixels 0",
    "search FILE --budget no16 --calibration d --out o --trials 0",
    "sweep NAME --parallel 0",
]


@pytest.mark.parametrize("command", TOO_SMALL)
def test_a_number_that_is_too_small_is_named_before_anything_begins(
    command: str, capsys: pytest.CaptureFixture
) -> None:
    *_, option, value = command.split()
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert f"argument {option}: {value}: expected a number of at least" in capsys.readouterr().err


PLACES = [
    ("bench train --json", "{file}/x.json", "is a file; expected a folder"),
    ("bench data --json", "{folder}", "is no name of a file"),
    ("bench runtime --json", "", "is no name of a file"),
    ("export plan FOLDER", "", "is no name of a file"),
    ("export plan FOLDER", "{folder}", "is no name of a file"),
    ("export onnx FOLDER", "", "is no name of a file"),
    ("bench presets --weights w --calibration d --data a=b --json", "{file}/a/b.json", "is a file; expected a folder"),
    ("results RUN --csv", "{folder}", "is no name of a file"),
    ("export onnx FOLDER", "{folder}", "is no name of a file"),
    ("export plan FOLDER", "{folder}", "is no name of a file"),
    ("golden FOLDER --images a.png --out", "{file}/x", "is a file; expected a folder"),
    ("analyze operators --out", "{file}", "is a file; expected a folder"),
    ("search FILE --budget no16 --calibration d --out", "{file}/x", "is a file; expected a folder"),
]


@pytest.mark.parametrize(("command", "place", "message"), PLACES, ids=lambda value: value)
def test_a_place_that_takes_no_files_is_named_before_anything_begins(
    command: str, place: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), place.format(file=tmp_path / "file", folder=tmp_path)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["index", "info", "verify"])
def test_a_folder_of_shards_that_is_not_there_is_no_empty_one(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["shards", command, "/nowhere"])
    assert "error: /nowhere: no such folder" in capsys.readouterr().err


def test_timm_and_lightning_import_whatever_wheel_torchvision_is() -> None:
    script = (
        "from intvit.torchvision_fix import ensure_torchvision\n"
        "ensure_torchvision(); ensure_torchvision()\n"
        "import torchvision, timm, torchmetrics, pytorch_lightning"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
