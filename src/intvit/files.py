"""Files and folders written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # of a file system, not of the disk
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Indented JSON."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Any content; makes the folder."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write in the block; it takes the place of `path` in one step once it is on the disk.

    When the block raises or the process dies, `path` is as it was. Makes the folder. Who opens the new file gives it
    the umask's mode. Processes of several machines may write one path at once: the last counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # the new name is on the disk, too
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing_folder(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` to fill in the block; it takes the place of `folder` once all of it is on the disk.

    A reader, or a crash, meets the old folder, the new one, or (between two renames) none, never a mixture. When the
    block raises, `folder` is as it was. keep: a folder that is there by then stays, and the new one goes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    suffix = f"{os.getpid()}.{secrets.token_hex(4)}"
    fresh, old = (folder.with_name(f".{folder.name}.{kind}.{suffix}") for kind in ("new", "old"))
    fresh.mkdir()
    try:
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            _sync(path)
        if not (keep and folder.exists()):
            _move_into_place(fresh, folder, old, keep=keep)
        _sync(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _move_into_place(fresh: Path, folder: Path, old: Path, *, keep: bool) -> None:
    if keep or not folder.exists():
        try:
            fresh.rename(folder)
        except OSError:
            if not (keep and folder.exists()):  # else another process was first
                raise
        return
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, made if need be, during the block; wait for who holds it.

    Another user's will do. File systems without locks let everyone in.
    """
    import fcntl  # not on Windows, where programs are read and run as well

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what is open for writing
    except PermissionError as error:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise error from None
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
