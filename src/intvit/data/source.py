"""Where shards lie and how their bytes are read: a folder, a URL or a command; retried, and staged on a local disk.

Only files and byte ranges here; what they mean is `index`'s and `tars`'s.
"""

from __future__ import annotations

import atexit
import gzip
import hashlib
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from intvit.data.config import DataConfig, DataError
from intvit.files import NOT_WRITABLE, locked, replacing

PLACE = "{shard}"  # stands for the file's name in a URL or command
PACKED = (".gz", ".tgz")  # no random access inside: unpacked once, into the cache
OPEN_SHARDS = 32  # opening a shard for each image would burden the metadata server of a cluster's file system
BLOCK = 1 << 20
FIRST_WAIT = 0.5  # seconds before the second attempt; every further one waits twice as long
LONGEST_WAIT = 30.0

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class ShardSource:
    """Files under `root`: a folder, or a URL or `pipe:` command of webdataset with {shard} in the name's place.

    Files of a URL or command, packed ones, and with `cache` those of a folder too, are copied whole into the folder
    `cache` before they are read (a temporary one where it is None, removed at exit); beyond `cache_bytes` the ones that
    were longest not opened go. Any number of processes and users may share a cache. What it lacks and cannot take, as
    nobody may write there, is read where it lies, or copied to a temporary folder. What fails is tried `retries` times
    more.
    """

    def __init__(
        self, root: str | Path, cache: str | None = None, cache_bytes: int | None = None, retries: int = 5
    ) -> None:
        self.remote = is_remote(root)
        self.root = str(root) if self.remote else os.path.abspath(os.path.expanduser(root))
        self.retries = retries
        self.cache_bytes = cache_bytes
        self.cache: Path | None = None
        self.spare: Path | None = None  # temporary folder for what must be copied and finds no place in the cache
        # Of a file, where known: what tells its versions apart, and the sha256 that a copy must have.
        self.versions: dict[str, str] = {}
        self.checksums: dict[str, str] = {}
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._lacking = False  # whether that was said
        if self.remote and PLACE not in self.root:
            raise DataError(
                f"data.root={root}: say where the shard's name goes, as in data.root='https://host/imagenet/{PLACE}' "
                f"or data.root='pipe:aws s3 cp s3://bucket/imagenet/{PLACE} -'"
            )
        if cache is not None:
            # One folder for each source, as different ones have files of the same names.
            self.cache = Path(cache).expanduser() / hashlib.sha256(self.root.encode()).hexdigest()[:16]
        elif self.remote:
            self.cache = _temporary_folder()

    def path(self, name: str) -> Path:
        """A local file with the content of `name`, copied first if need be. Raises OSError."""
        return self._attempt(name, lambda: self._path(name))

    def fetch(self, name: str) -> bytes:
        """The whole content of a small file, never from the cache. Raises OSError."""

        def read() -> bytes:
            with self._open(name) as stream:
                return bytes(stream.read())

        return self._attempt(name, read)

    def where(self, name: str) -> str:
        """The file's name for messages."""
        return self.root.replace(PLACE, name) if self.remote else str(Path(self.root) / name)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset`. Raises OSError once every attempt has failed."""
        data = self._attempt(name, lambda: self._pread(name, offset, size))
        if len(data) < size:
            raise OSError("the shard has become shorter")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _path(self, name: str) -> Path:
        packed = name.endswith(PACKED)
        if self.cache is None and not self.remote and not packed:
            return Path(self.root) / name
        if self.cache is not None:
            try:
                return self._staged(self.cache, name)
            except OSError as error:
                if error.errno not in NOT_WRITABLE:
                    raise
                if not self._lacking:
                    log.warning(
                        "data.cache: %s; what it lacks, such as %s, is read without it", error, self.where(name)
                    )
                self._lacking = True
            if not self.remote and not packed:
                return Path(self.root) / name
        self.spare = self.spare or _temporary_folder()
        return self._staged(self.spare, name)

    def _staged(self, folder: Path, name: str) -> Path:
        """The copy of a file in `folder`, made if it is not there."""
        version = hashlib.sha256(self.versions.get(name, "").encode()).hexdigest()[:8]
        plain = name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar") + ".tar" if _is_tar(name) else name
        staged = folder / f"{version}-{plain.replace('/', '%2F')}"
        if not staged.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{staged.name}.lock"):  # one process copies, the others wait for it
                if not staged.exists():
                    self._stage(name, staged)
        with suppress(OSError):  # another user's file, or a file system without times
            os.utime(staged)  # in use: the last to go
        return staged

    def _pread(self, name: str, offset: int, size: int) -> bytes:
        if name not in self._files:
            if len(self._files) == OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            self._files[name] = open(self._path(name), "rb", buffering=0)  # noqa: SIM115, it stays open
        self._files.move_to_end(name)
        try:
            # pread, not seek and read: forked workers share the file's position
            return os.pread(self._files[name].fileno(), size, offset)
        except OSError:
            self._files.pop(name).close()  # a stale handle of a network file system stays stale
            raise

    def _attempt(self, name: str, action: Callable[[], Result]) -> Result:
        wait = FIRST_WAIT
        for attempt in range(self.retries + 1):
            try:
                return action()
            except OSError as error:
                copied = self.cache is not None or self.spare is not None  # there it was only removed
                absent = isinstance(error, FileNotFoundError) and not copied
                if absent or attempt == self.retries:
                    raise
                log.warning("%s: %s; attempt %d follows in %.1f s", self.where(name), error, attempt + 2, wait)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("unreachable")

    def _stage(self, name: str, staged: Path) -> None:
        """Copy a file into a cache, unpacked, whole or not at all."""
        size, digest = 0, hashlib.sha256()
        with replacing(staged) as temporary:
            with open(temporary, "wb") as target, self._open(name) as stream:
                unpacked = gzip.GzipFile(fileobj=stream) if name.endswith(PACKED) else stream
                try:
                    while block := unpacked.read(BLOCK):
                        target.write(block)
                        digest.update(block)
                        size += len(block)
                except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                    raise DataError(f"{self.where(name)}: does not unpack ({error}); write it again") from error
            if self.checksums.get(name, digest.hexdigest()) != digest.hexdigest():
                raise OSError(f"{size} bytes came whose checksum is not that of the index")
            self._make_room(staged.parent, size)

    def _open(self, name: str) -> Any:
        if not self.remote:
            return open(Path(self.root) / name, "rb")
        from webdataset import gopen

        return gopen(self.root.replace(PLACE, name))

    def _make_room(self, folder: Path, size: int) -> None:
        """Remove the files that were longest not opened, other processes' too: who has one open reads on."""
        if self.cache_bytes is None:
            return
        files = sorted((stat.st_mtime, stat.st_size, path) for path, stat in _stats(folder))
        total = sum(length for _, length, _ in files)
        for _, length, path in files:
            if total + size <= self.cache_bytes:
                break
            with suppress(OSError):  # another process was faster, or it is another user's
                path.unlink()
            total -= length


def is_remote(root: str | Path) -> bool:
    """Whether `root` is a URL or a command, not a folder."""
    return str(root).startswith("pipe:") or "://" in str(root)


def shard_source(config: DataConfig, root: str | Path) -> ShardSource:
    """The source that a config describes; one for all loaders of a process, so that they share a temporary cache."""
    return _shared(
        str(root), config.cache, None if config.cache_gb is None else int(config.cache_gb * 1e9), config.retries
    )


def without_absent_cache(config: DataConfig) -> DataConfig:
    """The config of a run for reading its data elsewhere: a cache folder that is not there is that of another machine.

    So is a relative one, which was in the folder where the run was started.
    """
    there = config.cache is not None and os.path.isabs(os.path.expanduser(config.cache))
    return config if there and Path(str(config.cache)).expanduser().is_dir() else replace(config, cache=None)


_shared = lru_cache(ShardSource)


def _stats(folder: Path) -> list[tuple[Path, os.stat_result]]:
    stats = []
    for path in folder.glob("*.tar"):
        try:
            stats.append((path, path.stat()))
        except FileNotFoundError:
            continue  # another process was faster
    return stats


def _is_tar(name: str) -> bool:
    return name.removesuffix(".gz").endswith((".tar", ".tgz"))


def _temporary_folder() -> Path:
    """Gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="intvit-shards-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # forked workers inherit the exit handler
        shutil.rmtree(folder, ignore_errors=True)
