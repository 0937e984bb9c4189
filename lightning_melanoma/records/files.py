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
    # Unlike mkstemp's, an ordinary file, which others may read; a name that nobody else has.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as stream:
            yield stream
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


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
        raise OSError(
            f"out: expected a place that can be written, found {out} ({error.strerror}); "
            "name another"
        ) from error
