"""Reads whole lines of plain or gzipped text, in large blocks and with bounded memory.

Gzip is recognized by its first bytes, not by the file's name. A plain file is cut into pieces that are read in
parallel; a gzipped one can only be read from its start, so it is one piece, which a thread unpacks during parsing.
"""

import glob
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from isal import isal_zlib

from dist_rec.core.errors import UserError

BLOCK_BYTES = 2 << 20
PACKED_BYTES = 256 << 10
PIECE_BYTES = 64 << 20
GZIP_MAGIC = b"\x1f\x8b"
T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """The lines of a file that begin at a byte in [start, stop)."""

    path: str
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.stop - self.start

    def line_number(self, line: int) -> int:
        """The number in the file, from 1, of a line counted from 0 in this piece; reads the file up to the piece."""
        before, last = 0, b"\n"
        with Path(self.path).open("rb") as file:
            while block := file.read(min(BLOCK_BYTES, self.start - file.tell())):
                before, last = before + block.count(b"\n"), block[-1:]
        return before + (last != b"\n") + line + 1


def find_files(patterns: Iterable[str], option: str) -> list[str]:
    """Files given as paths or glob patterns: in the order of the patterns, sorted within each.

    Raises:
        UserError: naming the option and a pattern without a match, a folder, or a file that is given twice.
    """
    found: list[str] = []
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise UserError(f"{option} {pattern!r} matches no file")
        found += matches
    resolved: set[Path] = set()
    for path in found:
        if Path(path).is_dir():
            raise UserError(f"{option} {path!r} is a folder; name its files, such as '{path}/*'")
        if Path(path).resolve() in resolved:
            raise UserError(f"{option} names {path} twice; name it once")
        resolved.add(Path(path).resolve())
    return found


def cut(path: str) -> list[Piece]:
    """The pieces of a file: one for gzip, of `PIECE_BYTES` for plain text.

    Raises:
        UserError: if the file is missing, unreadable or empty.
    """
    try:
        with Path(path).open("rb") as file:
            magic = file.read(len(GZIP_MAGIC))
            size = file.seek(0, 2)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if size == 0:
        raise UserError(f"{path} is empty; leave it out")
    step = size if magic == GZIP_MAGIC else PIECE_BYTES
    return [Piece(path, start, min(start + step, size)) for start in range(0, size, step)]


def read_lines(piece: Piece, margin: bytes) -> Iterator[tuple[bytes, int]]:
    r"""Blocks of whole lines, each line ended by one \n (\r\n is replaced), after `margin` for readers that look back.

    Yields:
        The margin and the lines, and the number of bytes of the file that were read for them.

    Raises:
        UserError: for a truncated or damaged gzip file, or a line that is too long for text.
    """
    carry, read = b"", 0
    for block, size in _ahead(_blocks(piece)):
        read += size
        end = block.rfind(b"\n") + 1
        if end:
            yield _unix(b"".join((margin, carry, memoryview(block)[:end]))), read
            carry, read = block[end:], 0
        else:
            carry += block
        if len(carry) > BLOCK_BYTES:
            raise UserError(f"{piece.path} has a line of more than {BLOCK_BYTES >> 20} MiB; give a text file")
    if carry:
        yield _unix(b"".join((margin, carry, b"\n"))), read


def _unix(lines: bytes) -> bytes:
    return lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread computes the next one while the current one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _blocks(piece: Piece) -> Iterator[tuple[bytes, int]]:
    with Path(piece.path).open("rb") as file:
        is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        yield from _unpack(file, piece.path) if is_gzip else _slice(file, piece)


def _slice(file: BinaryIO, piece: Piece) -> Iterator[tuple[bytes, int]]:
    if piece.start:
        file.seek(piece.start - 1)
        file.readline(BLOCK_BYTES)  # the rest of the previous piece's last line, or only its newline
    while (position := file.tell()) < piece.stop:
        block = file.read(min(BLOCK_BYTES, piece.stop - position))
        if position + len(block) >= piece.stop and not block.endswith(b"\n"):
            block += file.readline(BLOCK_BYTES)
        yield block, len(block)


def _unpack(file: BinaryIO, path: str) -> Iterator[tuple[bytes, int]]:
    """All members of a gzip file, their checksums verified."""
    packed = file.read(PACKED_BYTES)
    while packed:
        member = isal_zlib.decompressobj(wbits=31)
        while not member.eof:
            packed = packed or file.read(PACKED_BYTES)
            try:
                block = member.decompress(packed, BLOCK_BYTES)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares an instance, not a class
                raise UserError(f"{path} is a damaged gzip file ({error}); fetch it again") from None
            if not packed and not block:
                raise UserError(f"{path} is a truncated gzip file; fetch it again")
            yield block, len(packed) - len(member.unconsumed_tail) - len(member.unused_data)
            packed = member.unconsumed_tail
        packed = member.unused_data.lstrip(b"\0")  # gzip files may be padded with zeros
        while not packed and (read := file.read(PACKED_BYTES)):
            packed = read.lstrip(b"\0")
