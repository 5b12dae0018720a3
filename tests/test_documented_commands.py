"""What README.md and the guides tell to run: every command parses, and those that can are run on a small model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import intvit
from intvit.commands import COMMANDS, command_parser, main
from intvit.evaluation.entry import evaluate
from tests.support.documented_commands import OTHERS, PARSED_ONLY, PROGRAMS_NOT_RUN, ROOT, Command, commands, programs
from tests.support.tiny_runs import TINY, composed

ALL = list({command.text: command for command in commands()}.values())  # pages repeat some
RUN = [command for command in ALL if command.ours and command.reason is None]


def path_of(words: list[str]) -> list[str]:
    """The words that name the command: [group, command] or [command]."""
    return words[:2] if isinstance(COMMANDS[words[0]], dict) else words[:1]


def overrides(command: Command) -> list[str]:
    """Of train.py or evaluate.py, without Hydra's own options."""
    words, kept = command.words()[2:], []
    while words:
        word = words.pop(0)
        if word == "--config-dir":
            words.pop(0)
        elif not word.startswith("-"):
            kept.append(word)
    return kept


def test_there_are_commands_and_every_entry_of_the_tables_is_of_use() -> None:
    assert len(ALL) >= 80
    assert len(RUN) >= 25
    for start in OTHERS:
        assert start in ("docker ", "git ") or any(c.text.startswith(start) for c in ALL), start
    for part in PARSED_ONLY:
        assert part == "intvit models" or any(c.ours and part in c.text for c in ALL), part
    assert all((ROOT / "docs" / name).is_file() for name, _ in PROGRAMS_NOT_RUN)


@pytest.mark.parametrize(
    "command", [c for c in ALL if c.text.startswith("intvit ")], ids=lambda c: f"{c.page}: {c.text}"
)
def test_a_documented_command_has_the_options_that_it_is_given(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command.words()[1:]
    path = path_of(words)
    parser = command_parser(path)
    (parser.parse_intermixed_args if path == ["sweep"] else parser.parse_args)(words[len(path) :])


@pytest.mark.parametrize(
    "command",
    [c for c in ALL if c.text.startswith("python ") and "--help" not in c.text],
    ids=lambda c: f"{c.page}: {c.text}",
)
def test_a_documented_run_composes(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        (tmp_path / "DIR" / split / "class").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    own = [word.replace("~/birds", "DIR") for word in overrides(command) if "quant=found" not in word]  # of a search
    if "-m" in command.words():
        own = [word.partition(",")[0] for word in own if not word.startswith("hydra")]
    composed(*own, config_name=Path(command.words()[1]).stem)


@pytest.mark.parametrize(("page", "blocks"), programs(), ids=lambda value: value if isinstance(value, str) else "")
def test_documented_programs_are_python(page: str, blocks: list[str]) -> None:
    for block in blocks:
        compile(block, page, "exec")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what pages call integer, photo.jpg, pixels.npy, own_gelu.py and outputs/RUN_FOLDER."""
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        intvit.train("model=deit_s", "quant=ivit8", *TINY, folder=folder / "outputs" / "RUN_FOLDER")
        evaluate(composed("ckpt=outputs/RUN_FOLDER", config_name="evaluate"))
        (folder / "integer").symlink_to(folder / "outputs" / "RUN_FOLDER" / "integer")
        (folder / "FOLDER").symlink_to(folder / "integer")
        (folder / "evaluation.json").symlink_to(folder / "outputs" / "RUN_FOLDER" / "evaluation.json")
        images, _ = intvit.digits()
        np.save(folder / "pixels.npy", images[:2])
        for name in ("photo.jpg", "photo.png"):
            Image.fromarray(images[0].transpose(1, 2, 0)).resize((64, 48)).save(folder / name)
        (folder / "own_gelu.py").write_text((ROOT / "examples" / "own_gelu.py").read_text())
        yield folder


@pytest.mark.slow
def test_documented_commands_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(workspace)  # as train.py does, for own_gelu
    for number, command in enumerate(RUN):
        words = command.words()
        if words[1] == "train.py":  # as tests/test_library.py shows, what the command line does
            intvit.train(*overrides(command), *TINY, folder=workspace / "outputs" / str(number))
            continue
        if words[1] == "evaluate.py":
            figures = evaluate(composed(*overrides(command), config_name="evaluate"))
            assert all(runtime["mismatches"] == 0 for runtime in figures["runtimes"].values()), command
            continue
        made = {"c", "rtl", "golden", "model", "vectors", "hub"}  # new folders, of each command its own
        words = [f"{word}{number}" if word in made and place > 2 else word for place, word in enumerate(words)]
        code = main(words[1:])
        # `certify` answers with its exit code whether an accumulator is enough
        assert code == 0 or (code == 1 and "--accumulator" in words), f"{command.page}: {command.text}"


@pytest.mark.slow
def test_documented_programs_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    for page, blocks in programs():
        folder = workspace / Path(page).stem
        folder.mkdir()
        if page != "README.md" and "first-hour" not in page:
            (folder / "integer").symlink_to(workspace / "integer")
        monkeypatch.chdir(folder)
        names = {"images": intvit.digits()[0], "__name__": "__main__"}
        for block in blocks:
            if "intvit.train(" in block:
                block = block.replace("folder=", f"*{TINY!r}, folder=")
            exec(compile(block, page, "exec"), names)
