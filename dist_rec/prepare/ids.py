"""One id, one text, however a file writes it.

- A whole number is its digits, whatever its type, width or scale: 2 as an integer, as 2.0 in a column of floats, in
  which pandas keeps integers with gaps, or as 2.00 in a decimal. A boolean is 1 or 0. Other decimals end with a digit
  that counts.
- Text is itself, without spaces around it; only a whole number with zeros after the point is spelt without them (2.0 is
  2, but 02, +2 and 2e0 stay).
- A time is its date, with the time of day if that is not midnight, whatever the unit.

Shapes: N values.
"""

import pyarrow as pa
import pyarrow.compute as pc

LARGE = 2.0**63
"""Whole numbers of this size do not fit int64."""
ZEROS = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
"""A whole number with zeros after the point."""
DECIMAL_ZEROS = r"(\.[0-9]*[1-9])0+$"
FRACTION_ZEROS = r"(?:\.0*|(\.[0-9]*[1-9])0*)(Z?)$"
MIDNIGHT = r" 00:00:00(Z?)$"


def is_text(of: pa.DataType) -> bool:
    """Whether values are text."""
    return pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)


def is_number(of: pa.DataType) -> bool:
    """Whether values are numbers or booleans."""
    is_number = pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of)
    return is_number or pa.types.is_boolean(of)


def id_text(values: pa.Array) -> pa.StringArray | None:
    """The text of each id, null for null and NaN, (N,); None if values of this type cannot be ids."""
    of = values.type
    if is_text(of):
        return _spelt(pc.utf8_trim_whitespace(values.cast(pa.string())))
    if pa.types.is_boolean(of):
        return values.cast(pa.int8()).cast(pa.string())
    if pa.types.is_integer(of):
        return values.cast(pa.string())
    if pa.types.is_floating(of):
        return _of_floats(values.cast(pa.float32()) if pa.types.is_float16(of) else values)
    if pa.types.is_decimal(of):
        return _spelt(pc.replace_substring_regex(values.cast(pa.string()), DECIMAL_ZEROS, r"\1"))
    if pa.types.is_date(of) or pa.types.is_timestamp(of):
        return _of_times(values)
    return None


def recoded(encoded: pa.DictionaryArray, text: pa.StringArray) -> pa.DictionaryArray:
    """With the text of each value in place of the values, each once: 2 and 2.0 may have had two codes.

    Args:
        encoded: values of a type that can be ids.
        text: `id_text` of its dictionary, without null.
    """
    code, values = encoded.indices.cast(pa.int32()), encoded.dictionary
    # Hashing all texts again is only for those that may have become alike.
    if not pa.types.is_integer(values.type) and not text.equals(values):
        joined = text.dictionary_encode()
        code, text = joined.indices.take(code), joined.dictionary
    return pa.DictionaryArray.from_arrays(code, text)


def _spelt(text: pa.StringArray) -> pa.StringArray:
    """Whole numbers without zeros after the point."""
    # One pass over the bytes; the expression takes a hundred times as long.
    data = text.buffers()[2]
    if data is None or b".0" not in data.to_pybytes():
        return text
    text = pc.replace_substring_regex(text, ZEROS, r"\1")
    return pc.if_else(pc.equal(text, "-0"), "0", text)


def _of_floats(values: pa.Array) -> pa.StringArray:
    values = pc.if_else(pc.is_nan(values), None, values)
    is_whole = pc.equal(values, pc.floor(values))
    fits = pc.and_(is_whole, pc.less(pc.abs(values), LARGE))
    if pc.all(fits).as_py() is not False:
        return values.cast(pa.int64()).cast(pa.string())
    whole = pc.if_else(fits, values, None).cast(pa.int64()).cast(pa.string())
    large = pc.and_(is_whole, pc.is_finite(values))
    larger = pc.if_else(large, values, None).cast(pa.float64())
    digits = pa.array([None if value is None else f"{value:.0f}" for value in larger.to_pylist()], pa.string())
    return pc.coalesce(whole, digits, values.cast(pa.string()))


def _of_times(values: pa.Array) -> pa.StringArray:
    text = pc.replace_substring_regex(values.cast(pa.string()), FRACTION_ZEROS, r"\1\2")
    return pc.replace_substring_regex(text, MIDNIGHT, r"\1")
