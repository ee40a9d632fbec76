"""Parses numbers of tab-separated text without a Python step per row: eight characters of a field are a 64-bit word.

A field's last eight bytes are gathered as one little-endian word, so its last character is the top byte, and all eight
digits are then checked and combined by arithmetic inside the word (SWAR: "SIMD within a register", Lamport 1975).

Shapes: N rows, F fields of a row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

WORD = 8
MAX_DIGITS = 2 * WORD
MARGIN = b"0" * MAX_DIGITS
"""Must precede the text, so that the bytes before its first fields can be read."""

TAB, NEWLINE, MINUS = 9, 10, 45
U64 = np.uint64


class NotNumbers(ValueError):
    """Some field of the text is invalid; the caller has to find which one."""


def _bytes(value: int) -> np.uint64:
    """A word of eight equal bytes."""
    return U64(value * 0x0101010101010101)


@dataclass(frozen=True)
class Fields:
    """The positions of the fields in N lines of F tab-separated fields.

    A field is read by its index, (N,), several fields by a slice of indices: (fields, N).
    """

    text: NDArray[np.uint8]
    """The margin and the lines."""
    end_FN: NDArray[np.int64]
    """Position of the tab or newline after each field."""
    length_FN: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """N."""
        return self.end_FN.shape[1]

    @classmethod
    def find(cls, lines: bytes, fields: int) -> "Fields":
        """Finds the fields of whole lines, each ended by a newline, after a margin (`MARGIN`).

        Raises:
            NotNumbers: if a line has another number of fields.
        """
        text = np.frombuffer(lines, np.uint8)
        # Tab and newline are below every character of a number, so one comparison finds them all.
        separator = np.flatnonzero(text <= NEWLINE)
        count = np.count_nonzero(text == NEWLINE)
        if separator.size != count * fields or np.count_nonzero(text == TAB) != separator.size - count:
            raise NotNumbers("fields of a line")
        end_FN = np.ascontiguousarray(separator.reshape(count, fields).T)
        if (text[end_FN[-1]] != NEWLINE).any():
            raise NotNumbers("fields of a line")
        length_FN = np.empty_like(end_FN)
        np.subtract(end_FN[1:], end_FN[:-1], out=length_FN[1:])
        length_FN[0, 0] = end_FN[0, 0] - len(MARGIN) + 1
        np.subtract(end_FN[0, 1:], end_FN[-1, :-1], out=length_FN[0, 1:])
        length_FN -= 1
        return cls(text, end_FN, length_FN)

    def word(self, field: int | slice) -> NDArray[np.uint64]:
        """The characters of a field of at most eight, the last one in the top byte; an empty one gives 0.

        Raises:
            NotNumbers: if a value has more characters.
        """
        length = self.length_FN[field]
        if length.max(initial=0) > WORD:
            raise NotNumbers("word")
        word = _last_eight(self.text, self.end_FN[field])
        word &= _mask(length)
        return word

    def integer(self, field: int | slice) -> NDArray[np.int64]:
        """A field of up to `MAX_DIGITS` decimal digits after an optional minus sign; an empty one gives 0.

        Raises:
            NotNumbers: if a value has another character, more digits, or a sign alone.
        """
        end, length = self.end_FN[field], self.length_FN[field]
        negative = (self.text[end - length] == MINUS) & (length > 0)
        digits = length - negative
        if (digits < negative).any() or digits.max(initial=0) > MAX_DIGITS:
            raise NotNumbers("integer")
        value = _decimal(self.text, end, np.minimum(digits, WORD))
        long = digits > WORD
        if long.any():
            value[long] += 10**WORD * _decimal(self.text, end[long] - WORD, digits[long] - WORD)
        np.negative(value, out=value, where=negative)
        return value

    def bit(self, field: int) -> NDArray[np.bool_]:
        """A field that is 0 or 1, (N,).

        Raises:
            NotNumbers: if a value is anything else.
        """
        character = self.text[self.end_FN[field] - 1]
        if (self.length_FN[field] != 1).any() or ((character | 1) != ord("1")).any():
            raise NotNumbers("0 or 1")
        return character == ord("1")


def hexadecimal(word_N: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The numbers that words of hexadecimal digits represent (`Fields.word`), (N,); an empty word is 0.

    Raises:
        NotNumbers: if a word has another character.
    """
    below_first = (word_N & (~word_N + U64(1))) - U64(1)
    absent = (below_first >> U64(7)) & _bytes(1)
    # XOR-ed with "0", digits are 0x00-0x09, "a"-"f" 0x51-0x56 and "A"-"F" 0x71-0x76.
    word = word_N ^ ((_bytes(1) - absent) * U64(ord("0")))
    letter = (word >> U64(6)) & _bytes(1)
    digit = (word & _bytes(0x0F)) + letter * U64(9)
    wrong = (word >> U64(7)) | ((word >> U64(4)) ^ letter) | ((word >> U64(5)) & ~letter)
    wrong |= (digit >> U64(4)) | (((digit + _bytes(6)) >> U64(4)) ^ letter)
    if (wrong & _bytes(1)).any():
        raise NotNumbers("hexadecimal")
    digit = ((digit << U64(4)) | (digit >> U64(8))) & U64(0x00FF00FF00FF00FF)
    digit = ((digit << U64(8)) | (digit >> U64(16))) & U64(0x0000FFFF0000FFFF)
    return ((digit << U64(16)) | (digit >> U64(32))).astype(np.uint32)


def _last_eight(text: NDArray[np.uint8], end: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The eight characters before `end` as words."""
    words = as_strided(text[:WORD].view("<u8"), shape=(text.size - WORD + 1,), strides=(1,))
    return words[end - WORD]


def _mask(length: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Bit mask of the last `length` (at most 8) characters of a word."""
    return ~U64(0) << ((WORD - length) * 8).astype(np.uint64)


def _decimal(text: NDArray[np.uint8], end: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    digit = (_last_eight(text, end) ^ _bytes(ord("0"))) & _mask(length)
    if ((digit | (digit + _bytes(6))) & _bytes(0xF0)).any():
        raise NotNumbers("integer")
    digit = (digit * U64(10) + (digit >> U64(8))) & U64(0x00FF00FF00FF00FF)
    digit = (digit * U64(100) + (digit >> U64(16))) & U64(0x0000FFFF0000FFFF)
    return ((digit * U64(10000) + (digit >> U64(32))) & U64(0xFFFFFFFF)).astype(np.int64)
