"""Optional libraries: which extra has one, said where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_by(feature: str, *, extra: str) -> Iterator[None]:
    """Say which extra to install if a library that is imported inside is missing.

    One that is there but fails to import keeps its own error, since no installation of the extra would mend that.

    Parameters
    ----------
    feature : str
        What needs the library: the subject of the message.
    extra : str
        Extra of ``pyproject.toml`` that has the library.

    Raises
    ------
    ImportError
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        raise ImportError(f'{feature} needs {library}: pip install "sktorch-mlp[{extra}]"') from error
