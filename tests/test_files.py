"""Files and folders are whole or not there, whatever happens while they are written."""

import os
from pathlib import Path

import pytest

from intvit.files import replacing, replacing_folder


class Killed(Exception):
    """Stands for whatever ends a write."""


def entries(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    return tmp_path / "folder"


@pytest.mark.parametrize("keep", [False, True])
def test_a_block_that_raises_leaves_the_folder_as_it_was(folder: Path, keep: bool) -> None:
    def fail() -> None:
        with replacing_folder(folder, keep=keep) as fresh:
            (fresh / "new").write_text("new")
            raise Killed

    with pytest.raises(Killed):
        fail()
    assert entries(folder) == {"old": "old"}
    assert os.listdir(folder.parent) == ["folder"]


def test_the_new_folder_takes_the_place_of_the_old_one(folder: Path) -> None:
    with replacing_folder(folder) as fresh:
        (fresh / "new").write_text("new")
        assert entries(folder) == {"old": "old"}
    assert entries(folder) == {"new": "new"}
    assert os.listdir(folder.parent) == ["folder"]


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "folder"
    with replacing_folder(folder, keep=True) as fresh:
        (fresh / "mine").write_text("mine")
        folder.mkdir()
        (folder / "theirs").write_text("theirs")
    assert entries(folder) == {"theirs": "theirs"}
    assert os.listdir(folder.parent) == ["folder"]


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise Killed

    with pytest.raises(Killed):
        fail()
    assert entries(tmp_path) == {"file": "old"}
