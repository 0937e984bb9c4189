"""Files and folders that appear whole or not at all."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error.

    The bytes go to a temporary file in the same folder (made when it is missing), so that the final
    rename stays within one file system; after an error nothing is left of it.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unlike mkstemp's, an ordinary file, which others may read.
    aside = _aside(path)
    try:
        with aside.open("xb") as stream:
            yield stream
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def prepare_file(path: Path, *, setting: str) -> None:
    """Make sure, before long work, that `atomic_file` can write its outcome; make its folder.

    Args:
        path: of the file.
        setting: that it was given by, for the message.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: the folder cannot be made or written.
    """
    try:
        is_folder = path.is_dir()
        if not is_folder:
            _try_to_write(_aside(path))
    except OSError as error:
        raise _unwritable(path, setting, error) from error
    if is_folder:
        raise IsADirectoryError(
            f"{setting}: expected a file, found a folder: {path}; name a file in it"
        )


def prepare_folder(folder: Path, *, setting: str) -> None:
    """Make a folder where it is missing, and make sure that it can be written.

    Args:
        folder: to be filled later.
        setting: that it was given by, for the message.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        _try_to_write(_aside(folder / "file"))
    except OSError as error:
        raise _unwritable(folder, setting, error) from error


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Give a new folder to fill whose content becomes that of `out` if the block ends well.

    Raises:
        FileExistsError: `out` is a file, or a folder that holds something.
        OSError: the place cannot be written.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = "a folder that is not empty" if out.is_dir() else "a file"
        raise FileExistsError(
            f"out: expected a new or empty folder, found {what} at {out}; "
            "name another, or delete it first"
        )
    # A folder that is there may be a mount point or a link: it is filled, not replaced.
    is_new = not out.exists()
    aside = (out.parent if is_new else out) / f".partial.{uuid.uuid4().hex}"
    folder = aside / "whole"
    try:
        _make(folder, out)
        yield folder
        if is_new:
            folder.replace(out)
        else:
            for path in sorted(folder.iterdir()):
                path.replace(out / path.name)
    finally:
        # Where it could not be made, the reason is what is to be heard.
        shutil.rmtree(aside, ignore_errors=True)


def _make(folder: Path, out: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(out, "out", error) from error


def _aside(path: Path) -> Path:
    """Return a name in the same folder that nobody else has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _try_to_write(aside: Path) -> None:
    # Of a file in the folder's place, `mkdir` would say that it exists.
    if not aside.parent.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
    # Permissions alone do not tell: a file system may be read-only, or a name too long.
    aside.touch()
    aside.unlink()


def _unwritable(path: Path, setting: str, error: OSError) -> OSError:
    return OSError(
        f"{setting}: expected a place that can be written, found {path} ({error.strerror}); "
        "name another"
    )
