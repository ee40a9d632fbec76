"""The shapes that a head's output must have: a loss would broadcast another one, or a catalog cut it, unnoticed."""

from typing import Any

from torch import Tensor

from dist_rec.core.errors import UserError
from dist_rec.core.head import Head, Query


def check_scores(head: Head, output: Any, rows: int) -> None:
    """Raises UserError unless the output of a head that scores rows is a tensor [rows]."""
    _check_type(head, output, Tensor, "a tensor of scores")
    _check(head, "scores", output, rows, "rows", ())


def check_query(head: Head, output: Any, rows: int, targets: int, dim: int, state: int | None) -> None:
    """Raises UserError unless the output of a catalog's head is a query that fits.

    Args:
        head: whose output it is.
        output: its vectors are to be [rows, dim], or [targets, dim] if there is one for each target.
        rows: rows of the batch.
        targets: targets of all rows.
        dim: of the catalog.
        state: numbers of a lane's state, for a recurrent head.
    """
    _check_type(head, output, Query, "a Query")
    queries = (targets, "targets") if output.per_target else (rows, "rows")
    _check(head, "queries", output.vectors, *queries, (dim,))
    if output.penalty is not None:
        _check(head, "penalties", output.penalty, rows, "rows", ())
    if state is not None:
        _check(head, "states", output.state, rows, "rows", (state,))


def check_of_each(name: str, values: Tensor, each: Tensor) -> None:
    """Raises UserError unless there is one value for each of [B] or [V] others."""
    if values.shape != each.shape:
        raise UserError(f"the head's {name} have shape {[*values.shape]}; they must have shape {[*each.shape]}")


def _check_type(head: Head, output: Any, wanted: type, called: str) -> None:
    if not isinstance(output, wanted):
        raise UserError(f"head {type(head).__name__} gives {type(output).__name__}; it must give {called}")


def _check(head: Head, name: str, values: Any, number: int, of: str, columns: tuple[int, ...]) -> None:
    wanted, shape = [number, *columns], [*getattr(values, "shape", ())]
    if not isinstance(values, Tensor) or shape != wanted:
        given = f"shape {shape}" if isinstance(values, Tensor) else f"type {type(values).__name__}"
        raise UserError(
            f"head {type(head).__name__} gives {name} of {given} for {number} {of}; they must have shape {wanted}"
        )
