"""Files are written whole or not at all, and every failure names the file."""

import os

import pytest

from dynpartition.errors import FileFormatError, OutputError, ProfileError
from dynpartition.formats import files as module
from dynpartition.formats import find_profile, load_shipped, shipped_names, write_bytes, write_json
from dynpartition.formats.files import read_bytes


def test_writing_replaces_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    write_bytes(path, b"after")
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_of_a_new_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.json", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    write_bytes(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"


def test_a_pipe_is_written_to_directly(tmp_path):
    reader, writer = os.pipe()
    if not os.path.exists("/dev/fd"):
        pytest.skip("no /dev/fd here")
    write_bytes(tmp_path / "x" / ".." / ".." / f"/dev/fd/{writer}", b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("missing/a.json", "its folder does not exist; create the folder first"),
        ("file/a.json", "a part of the path is a file"),
        ("folder", "it is a folder"),
        ("n" * 300, "the name is too long"),
    ],
)
def test_where_nothing_can_be_written(tmp_path, name, fragment):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write_bytes(tmp_path / name, b"x")
    assert str(tmp_path / name) in str(caught.value)
    assert fragment in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_stops_in_the_middle_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def stop(_):
        raise error

    path = tmp_path / "a.json"
    path.write_text("before")
    monkeypatch.setattr(module.os, "fsync", stop)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_bytes(path, b"after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "fragment"),
    [("no.json", "no such file"), (".", "is a folder"), ("file/a", "a part of the path")],
)
def test_what_cannot_be_read(tmp_path, name, fragment):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileFormatError, match=fragment):
        read_bytes(tmp_path / name)


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("12345")
    monkeypatch.setattr(module, "SIZE_BYTES_MAX", 4)
    with pytest.raises(FileFormatError, match="larger than 1 GiB"):
        read_bytes(path)


def test_results_without_a_format_of_their_own(tmp_path):
    write_json(tmp_path / "a.json", {"rows": [{"a": 1}, {"a": 2}], "empty": {}, "n": 1.5})
    assert (tmp_path / "a.json").read_text() == (
        '{\n "rows": [\n  {"a": 1},\n  {"a": 2}\n ],\n "empty": {},\n "n": 1.5\n}\n'
    )


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_are_valid_and_say_where_they_come_from(name):
    profile = load_shipped(name)
    assert profile.provenance["origin"]
    assert find_profile(name) == profile


def test_the_synthetic_profile_says_that_it_is_invented():
    profile = load_shipped("synthetic-cpu-2gpu")
    assert profile.provenance["origin"] == "synthetic: invented numbers, not measured"
    assert profile.cluster.names == ("cpu:0", "cuda:0", "cuda:1")
    for curves in profile.cells.values():
        assert set(curves) == set(profile.cluster.names)


def test_a_profile_is_found_by_file_or_by_name(tmp_path, monkeypatch):
    with pytest.raises(ProfileError, match="did you mean 'synthetic-cpu-2gpu'"):
        find_profile("synthetic-cpu-gpu")
    with pytest.raises(FileFormatError, match=r"no\.json: no such file"):
        find_profile("no.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("{}")
    with pytest.raises(FileFormatError, match='here: "format" is missing'):
        find_profile("here")
