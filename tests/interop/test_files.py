"""Files are replaced as a whole or not at all."""

import os
import socket

import pytest

from sktorch_mlp._interop.files import written_beside


@pytest.mark.parametrize("before", [None, "before"])
def test_a_file_appears_when_it_is_written(before, tmp_path):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    with written_beside(path) as written:
        assert written.name == path.name
        written.write_text("after")
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def interrupted():
        with written_beside(str(path)) as written:
            written.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [path.name]


def test_a_link_stays_one(tmp_path):
    path, link = tmp_path / "file.txt", tmp_path / "link.txt"
    link.symlink_to(path)
    with written_beside(link) as written:
        written.write_text("after")
    assert link.is_symlink()
    assert path.read_text() == "after"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_the_mode_stays(mode, tmp_path):
    path, link = tmp_path / "file.txt", tmp_path / "link.txt"
    path.touch(mode)
    path.chmod(mode)
    link.symlink_to(path)
    with written_beside(link) as written:
        written.write_text("after")
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == mode


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "nowhere" / "file.txt"):
        pass


def test_what_is_no_file_is_written_to(tmp_path):
    """A device, say, which must not become a file. A socket is one that anybody can make; nobody can open it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
        with written_beside(path) as given:
            assert given == path
        assert path.is_socket()


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("a" * 250)
    with written_beside(path) as written:
        written.write_text("new")
    assert path.read_text() == "new"


def test_a_link_to_itself_is_an_error_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"), written_beside(tmp_path / "loop") as written:
        written.write_text("new")
