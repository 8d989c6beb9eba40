"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, beside this one, which the file then replaces: what is there survives an error.

    The name of the file is the same, because some writers compress by it. Its mode stays that of the file before, which may
    be for the eyes of few. What is no file, such as a device, is written to.
    """
    path = Path(os.path.realpath(path))  # a link stays one, and a loop of links is an error of the system
    if path.exists() and not path.is_file():
        yield path
        return
    prefix = f".{path.name[:20]}."  # the name of the folder has to be no longer than that of the file may be
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        written = Path(folder) / path.name
        yield written
        with suppress(FileNotFoundError):  # a new file has the mode of any other
            shutil.copymode(path, written)
        os.replace(written, path)
