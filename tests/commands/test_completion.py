"""`intvit completion`: a static script that knows every command, its options and where files go."""

import shutil
import subprocess
from pathlib import Path

import pytest

from intvit.commands import COMMANDS, main

shtab = pytest.importorskip("shtab", reason="shtab comes with intvit[completion]")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from intvit.commands.completion import whole_parser

    path = tmp_path_factory.mktemp("completion") / "intvit.bash"
    path.write_text(shtab.complete(whole_parser(), shell="bash"))
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    lines = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE={' '.join(words)!r}"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'{lines}; $(complete -p intvit | sed "s/.*-F //; s/ .*//") intvit; printf "%s\n" "${{COMPREPLY[@]}}"',
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=script.parent,
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("intvit", ""), set(COMMANDS)),
        (("intvit", "export", ""), set(COMMANDS["export"])),
        (("intvit", "export", "c", "--w"), {"--weights"}),
        (("intvit", "run", "--runtime", "na"), {"native"}),
        (("intvit", "doctor", "--h"), {"--help"}),
        (("intvit", "run", "int"), {"intvit.bash"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bash_offers_commands_options_choices_and_files(
    words: tuple[str, ...], offered: set[str], script: Path
) -> None:
    assert offered <= set(completed(script, *words))


def test_a_command_prints_the_script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "intvit.commands.completion.whole_parser", lambda: __import__("argparse").ArgumentParser("intvit")
    )
    assert main(["completion", "bash"]) == 0
    assert "complete" in capsys.readouterr().out
