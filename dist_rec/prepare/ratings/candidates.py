"""Candidates that the item of a validation or test rating is ranked among: given in a file, or drawn.

Shapes: N ratings, L lines, R rows of a split, K candidates of each.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.negatives import Negatives
from dist_rec.data.seen import sorted_pairs
from dist_rec.data.shards import lists
from dist_rec.prepare.lines import cut, read_lines
from dist_rec.prepare.ratings.ids import Encoded
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import TEST, TRAIN, VALID, LeaveOneOut


def find_candidates(encoded: Encoded, splitter: LeaveOneOut, warn: Callable[[str], None]) -> dict[int, pa.ListArray]:
    """The candidates of every rating of each part, if the splitter asks for them; those of training are empty lists.

    Drawn candidates are distinct and are not items of the user in any part; given ones are taken as they are.
    """
    if not (splitter.negatives or splitter.draw):
        return {}
    found, num = {}, splitter.draw or 0
    if splitter.negatives:
        code_RK = _read_candidates(splitter.negatives, encoded.ratings, encoded.parts.targets(TEST))
        found[TEST], num = _given(code_RK, encoded, warn), code_RK.shape[1]
    negatives, user_N = _negatives(encoded, splitter)
    for part, of_part in ((TRAIN, 0), (VALID, num), (TEST, num)):
        if part not in found:
            target_N = encoded.parts.targets(part)
            drawn_RK = negatives.draw(part, user_N[target_N], encoded.item_N[target_N], of_part, distinct=True)
            found[part] = lists(drawn_RK.reshape(-1), np.full(len(drawn_RK), of_part))
    return found


def _negatives(encoded: Encoded, splitter: LeaveOneOut) -> tuple[Negatives, NDArray[np.int64]]:
    """A sampler of items that a user has in no part, and the number of each rating's user in it.

    That is the row of the table; users that training never saw, who share row 0, get numbers beyond the table.
    """
    ratings, items = encoded.ratings, encoded.items
    user_N = np.where(encoded.user_N > 0, encoded.user_N.astype(np.int64), encoded.users + ratings.user_N)
    return Negatives(
        sorted_pairs(user_N, encoded.item_N, items),
        encoded.users + len(ratings.users),
        items,
        splitter.seed,
        splitter.by,
        name=lambda user: ratings.users[int(ratings.user_N[np.argmax(user_N == user)])].as_py(),
        popularity_I=np.bincount(encoded.item_N[encoded.parts.targets(TRAIN)], minlength=items),
    ), user_N


def _given(code_RK: NDArray[np.int32], encoded: Encoded, warn: Callable[[str], None]) -> pa.ListArray:
    """The rows of given candidates, without the test item itself."""
    test_N = encoded.parts.targets(TEST)
    user_R = encoded.ratings.user_N[test_N]
    other_RK = code_RK != encoded.ratings.item_N[test_N, None]
    item_RK = np.where(code_RK < 0, 0, encoded.item_K[code_RK])
    if own := int((~other_RK).sum()):
        first = encoded.ratings.users[int(user_R[np.argmin(other_RK.all(1))])]
        warn(f"{own} test items are among their own candidates, first of user {first}: they are left out there")
    if unknown := int((item_RK == 0).sum()):
        first = encoded.ratings.users[int(user_R[np.argmax((item_RK == 0).any(1))])]
        warn(f"{unknown} candidates are items that training never saw, first of user {first}: row 0 of the table")
    return lists(item_RK[other_RK], other_RK.sum(1))


def _read_candidates(path: str, ratings: Ratings, test_N: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Reads lines of `(user,item)` and K other items, tab-separated, plain or gzipped.

    Returns:
        The code of each candidate of each test rating in the order of the ratings, -1 for an unknown item, [R, K].

    Raises:
        UserError: naming the file, and the line or user, if lines differ in length, or a test rating has no line, a
            line of another item or one without candidates.
    """
    table = _read_table(path)
    names = table.column_names
    key = pc.split_pattern(pc.utf8_trim(table["positive"], characters="()"), ",", max_splits=1)
    is_pair_L = pc.equal(pc.list_value_length(key), 2).to_numpy()
    if not is_pair_L.all():
        raise UserError(f"{path}, line {np.argmin(is_pair_L) + 1} does not begin with (user,item)")
    user_L = _codes(pc.list_element(key, 0), ratings.users)
    item_L = _codes(pc.list_element(key, 1), ratings.items)
    candidates_LK = np.stack([_codes(table[name], ratings.items) for name in names[1:]], axis=1)
    line_U = np.full(len(ratings.users) + 1, -1)
    line_U[user_L] = np.arange(user_L.size)
    line_R = line_U[:-1][ratings.user_N[test_N]]
    if (line_R < 0).any():
        user = ratings.users[ratings.user_N[test_N][np.argmax(line_R < 0)]]
        raise UserError(f"{path} has no line for user {user}; add it, or draw candidates with --draw")
    other_R = item_L[line_R] != ratings.item_N[test_N]
    if other_R.any():
        row = int(np.argmax(other_R))
        item = ratings.items[ratings.item_N[test_N][row]]
        raise UserError(f"{path}, line {line_R[row] + 1}: the item must be {item}, the test item of its user")
    _check_filled(path, table, pc.list_element(key, 1), line_R)
    return candidates_LK[line_R]


def _check_filled(path: str, table: pa.Table, item_L: pa.ChunkedArray, line_R: NDArray[np.int64]) -> None:
    """Raises UserError if a line that is used has no candidates but its own item."""
    columns = [table[name] for name in table.column_names[1:]]
    void_L = np.all([pc.or_(pc.equal(column, ""), pc.equal(column, item_L)).to_numpy() for column in columns], axis=0)
    if void_L[line_R].any():
        line = line_R[np.argmax(void_L[line_R])]
        raise UserError(f"{path}, line {line + 1}: {table['positive'][line]} has no candidates beside its own item")


def _read_table(path: str) -> pa.Table:
    lines = b"".join(block for piece in cut(path) for block, _ in read_lines(piece, b""))
    if not lines:
        raise UserError(f"{path} holds no candidates")
    fields = lines[: lines.index(b"\n")].count(b"\t") + 1
    if fields < 2:
        raise UserError(f"{path}, line 1 has no tab; give `(user,item)` and its candidates, separated by tabs")
    names = ["positive", *(str(place) for place in range(1, fields))]
    try:
        return pacsv.read_csv(
            pa.BufferReader(lines),
            pacsv.ReadOptions(column_names=names, use_threads=False),
            pacsv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid:
        for number, line in enumerate(lines.split(b"\n")[:-1], start=1):
            if (found := line.count(b"\t") + 1) != fields:
                raise UserError(f"{path}, line {number} has {found} fields, but line 1 has {fields}") from None
        raise UserError(f"{path} is not UTF-8 text; convert it") from None


def _codes(column: pa.ChunkedArray, values: pa.Array) -> NDArray[np.int32]:
    """The index of each text among the values, or -1."""
    return pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int32)
