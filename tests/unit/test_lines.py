"""Lines come out of plain and gzipped files whole, once, in order, and with their numbers."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.core.errors import UserError
from dist_rec.prepare import lines as module
from dist_rec.prepare.lines import Piece, cut, find_files, read_lines

texts = st.lists(st.text("ab", max_size=9), min_size=1, max_size=60)
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def all_lines(path: Path) -> list[tuple[int, bytes]]:
    found = []
    for piece in cut(str(path)):
        number = 0
        for block, _ in read_lines(piece, b"margin"):
            assert block.startswith(b"margin")
            assert block.endswith(b"\n")
            for line in block.removeprefix(b"margin").split(b"\n")[:-1]:
                found.append((piece.line_number(number), line))
                number += 1
    return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 16)
    monkeypatch.setattr(module, "PACKED_BYTES", 3)
    monkeypatch.setattr(module, "PIECE_BYTES", 23)


@in_a_folder
@given(texts, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.sampled_from(["plain", "gzip", "members"]))
@pytest.mark.usefixtures("small_blocks")
def test_every_line_once(tmp_path: Path, text: list[str], end: bytes, ended: bool, form: str) -> None:
    expected = [line.encode() for line in text]
    content = end.join(expected) + (end if ended or not expected[-1] else b"")
    if form == "plain":
        stored = content
    elif form == "gzip":
        stored = gzip.compress(content)
    else:
        middle = len(content) // 2
        stored = gzip.compress(content[:middle]) + gzip.compress(b"") + gzip.compress(content[middle:]) + bytes(5)
    path = tmp_path / "log"
    path.write_bytes(stored)
    assert all_lines(path) == list(enumerate(expected, start=1))
    assert sum(size for piece in cut(str(path)) for _, size in read_lines(piece, b"")) <= len(stored)


@in_a_folder
@given(st.integers(1, 200))
@pytest.mark.usefixtures("small_blocks")
def test_a_truncated_gzip_is_refused(tmp_path: Path, missing: int) -> None:
    stored = gzip.compress(b"".join(b"%d\n" % (number * 7919) for number in range(400)))
    path = tmp_path / "log"
    path.write_bytes(stored[:-missing])
    with pytest.raises(UserError, match="truncated"):
        all_lines(path)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(b"1\n2\n" * 1000))
    stored[-6] ^= 1  # in the checksum
    path = tmp_path / "log"
    path.write_bytes(stored)
    with pytest.raises(UserError, match="damaged"):
        all_lines(path)


def test_something_without_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(5 << 20))
    with pytest.raises(UserError, match="text file"):
        list(read_lines(Piece(str(path), 0, 5 << 20), b""))


def test_files_by_pattern(tmp_path: Path) -> None:
    for name in ("b.gz", "a.gz", "odd[1].gz"):
        (tmp_path / name).write_text("x")
    assert find_files([f"{tmp_path}/[ab].gz"], "--train") == [f"{tmp_path}/a.gz", f"{tmp_path}/b.gz"]
    assert find_files([f"{tmp_path}/odd[1].gz"], "--train") == [f"{tmp_path}/odd[1].gz"]
    with pytest.raises(UserError, match=r"--test '.*none\*' matches no file"):
        find_files([f"{tmp_path}/none*"], "--test")
    with pytest.raises(UserError, match="twice"):
        find_files([f"{tmp_path}/a*", f"{tmp_path}/a.gz"], "--test")
    with pytest.raises(UserError, match="twice"):
        find_files([f"{tmp_path}/a.gz", f"{tmp_path}/../{tmp_path.name}/a.gz"], "--test")
    with pytest.raises(UserError, match="is a folder"):
        find_files([str(tmp_path)], "--test")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="empty is empty"):
        cut(str(tmp_path / "empty"))
