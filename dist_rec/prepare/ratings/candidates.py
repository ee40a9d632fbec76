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
from dist_rec.data.negatives import Negatives, repeats
from dist_rec.data.shards import lists
from dist_rec.prepare.ids import id_text
from dist_rec.prepare.lines import cut, read_lines
from dist_rec.prepare.ratings.codes import count
from dist_rec.prepare.ratings.ids import Encoded
from dist_rec.prepare.ratings.lines import Ratings
from dist_rec.prepare.ratings.split import TEST, TRAIN, VALID, WithCandidates

DRAWN_ROWS = 1 << 14
"""Drawn at once: a draw takes some 50 bytes of memory for each candidate, which takes 4."""


def find_candidates(encoded: Encoded, splitter: WithCandidates, warn: Callable[[str], None]) -> dict[int, pa.ListArray]:
    """The candidates of every rating of each part, if the splitter asks for them; those of training are empty lists.

    Drawn candidates are distinct and are not items of the user in any part; given ones are taken as they are.
    """
    if not (splitter.negatives or splitter.draw):
        return {}
    num_train = int(encoded.parts.targets(TRAIN).sum())
    found = {TRAIN: lists(np.empty(0, np.int32), np.zeros(num_train, np.int8))}
    num = splitter.draw or 0
    if splitter.negatives:
        code_RK = _read_candidates(splitter.negatives, encoded.ratings, encoded.parts.targets(TEST))
        found[TEST], num = _given(code_RK, encoded, warn), code_RK.shape[1]
    undrawn = [part for part in (VALID, TEST) if part not in found]
    return found | _draw(encoded, splitter, undrawn, num)


def _draw(encoded: Encoded, splitter: WithCandidates, parts: list[int], num: int) -> dict[int, pa.ListArray]:
    """So many candidates for each rating of some parts.

    A user's number is the row of the table; users that training never saw, who share row 0, get numbers beyond the
    table.
    """
    ratings, items, users = encoded.ratings, encoded.items, len(encoded.ratings.users)
    user_K = np.where(encoded.user_K > 0, encoded.user_K.astype(np.int64), encoded.users + np.arange(users))
    popularity_I = np.zeros(items, np.int64)
    popularity_I[encoded.item_K] = count(ratings.item_N, encoded.parts.targets(TRAIN), len(ratings.items))
    negatives = Negatives(
        encoded.pairs(np.ones(len(ratings), np.bool_), user_K),
        encoded.users + users,
        items,
        splitter.seed,
        splitter.by,
        name=lambda user: ratings.users[int(np.argmax(user_K == user))].as_py(),
        popularity_I=popularity_I,
    )
    found = {}
    for part in parts:
        index = np.flatnonzero(encoded.parts.targets(part))
        drawn_RK = np.empty((index.size, num), np.int32)
        for start in range(0, index.size, DRAWN_ROWS):
            place = index[start : start + DRAWN_ROWS]
            user, item = user_K[ratings.user_N[place]], encoded.item_K[ratings.item_N[place]]
            drawn_RK[start : start + DRAWN_ROWS] = negatives.draw(part, user, item, num, distinct=True)
        found[part] = lists(drawn_RK.reshape(-1), np.full(index.size, num))
    return found


def _given(code_RK: NDArray[np.int32], encoded: Encoded, warn: Callable[[str], None]) -> pa.ListArray:
    """The rows of given candidates, each once and without the test item itself."""
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
    again_RK = repeats(code_RK) & (code_RK >= 0) & other_RK
    if again := int(again_RK.sum()):
        first = encoded.ratings.users[int(user_R[np.argmax(again_RK.any(1))])]
        warn(f"{again} candidates are given again for the same test item, first of user {first}: each counts once")
    kept_RK = other_RK & ~again_RK
    return lists(item_RK[kept_RK], kept_RK.sum(1))


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
    line_R = _find_lines(path, user_L, item_L, ratings, np.flatnonzero(test_N))
    _check_filled(path, table, pc.list_element(key, 1), line_R)
    return candidates_LK[line_R]


def _find_lines(
    path: str, user_L: NDArray[np.int32], item_L: NDArray[np.int32], ratings: Ratings, place_R: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The line of each of some ratings, counted from 0, the last if there are several; raises UserError without one."""
    items = len(ratings.items)
    pair_L = user_L.astype(np.int64) * items + item_L
    pair_R = ratings.user_N[place_R].astype(np.int64) * items + ratings.item_N[place_R]
    pair_L[(user_L < 0) | (item_L < 0)] = -1
    order_L = np.argsort(pair_L, kind="stable")
    last_R = np.searchsorted(pair_L[order_L], pair_R, side="right") - 1
    line_R = order_L[last_R]
    missing = np.flatnonzero(pair_L[line_R] != pair_R)
    if missing.size:
        place = place_R[missing[0]]
        user, item = ratings.users[ratings.user_N[place]], ratings.items[ratings.item_N[place]]
        of_user = np.flatnonzero(user_L == ratings.user_N[place])
        if of_user.size == 1:
            raise UserError(f"{path}, line {of_user[0] + 1}: the item must be {item}, the test item of its user")
        which = f"user {user} and item {item}" if of_user.size else f"user {user}"
        raise UserError(f"{path} has no line for {which}; add it, or draw candidates with --draw")
    return line_R


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
    text = pa.chunked_array([id_text(chunk) for chunk in column.chunks], pa.string())
    return pc.fill_null(pc.index_in(text, value_set=values), -1).to_numpy().astype(np.int32)
