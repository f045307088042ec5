"""Atomic writes: a file or folder is whole at its place, or not there at all.

It is written into a hidden folder beside its place, ``.sections.zarr.part-x1y2``, which holds a lock while its process
lives. The next write to the same place removes the folder of a killed process, and restores what that had moved away.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from c2sti import _logging

try:
    import fcntl
except ImportError:  # Windows: leftovers of a killed run cannot be told from a run in progress, and stay
    fcntl = None  # type: ignore[assignment]

LOCK, OLD = ".lock", ".old"
REMOVALS, PAUSE = 20, 0.1  # another thread or worker may still write once more


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the place of `path` when the block ends.

    If the block fails, or is interrupted, what was written is removed, and what was there before stays.
    """
    _clear_leftovers(path)
    folder, lock = _claim(path)
    try:
        yield folder / path.name
        _into_place(folder, path)
    finally:
        _remove(folder)
        if lock is not None:
            lock.close()


def put(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as part:
        part.write_bytes(content)


def _into_place(folder: Path, path: Path) -> None:
    """Replace a file in one step; move a folder away first, and back if the new one cannot take its place."""
    if not path.is_dir() or path.is_symlink():
        (folder / path.name).replace(path)
        return
    path.rename(folder / OLD)
    try:
        (folder / path.name).rename(path)
    except OSError:
        (folder / OLD).rename(path)
        raise


def _hidden(path: Path) -> str:
    return f".{path.name}.part-"


def _claim(path: Path) -> tuple[Path, IO[str] | None]:
    """A folder of this process, and the lock that marks it while the process lives."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=_hidden(path), dir=path.parent))
    except OSError as error:
        text = f"{path.parent} cannot be written into ({error.strerror}); name another place for {path.name}"
        raise PermissionError(error.errno, text) from error
    if fcntl is None:
        return folder, None
    lock = (folder / LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


def _clear_leftovers(path: Path) -> None:
    """Remove folders of killed processes, whose locks are free, for the same place."""
    if fcntl is None or not path.parent.is_dir():
        return
    for left in [folder for folder in path.parent.iterdir() if folder.name.startswith(_hidden(path))]:
        try:
            with (left / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (left / OLD).exists() and not path.exists():
                    (left / OLD).rename(path)
                    _logging.warning(f"put {path} back, which a run that was killed had moved out of the way")
        except OSError:
            continue  # a run in progress, or a folder without a lock
        shutil.rmtree(left, ignore_errors=True)
        _logging.info(f"removed {left.name}, which a run that was killed had left")


def _remove(folder: Path) -> None:
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(PAUSE)
    _logging.warning(f"{folder} could not be removed; remove it by hand")
