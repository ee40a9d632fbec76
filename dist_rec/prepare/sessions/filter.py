"""Which events count: of items, sessions and users with enough of them.

Shapes: S sessions.
"""

from collections.abc import Callable

import numpy as np

from dist_rec.core.errors import UserError
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.order import Sessions


def choose(sessions: Sessions, options: Options, given: bool) -> tuple[Sessions, dict[str, int]]:
    """Leaves out rare items, short sessions and users with few sessions, again and again until all is enough.

    Args:
        sessions: of the files.
        options: how much is enough.
        given: whether files say what is for training: then items are counted, and left out, there alone.

    Returns:
        What stays, and how many events went, by reason.

    Raises:
        UserError: if nothing stays, or users are counted and there are none.
    """
    if options.min_user_sessions > 1 and sessions.user_S is None:
        raise UserError("--min-user-sessions needs users; name their column with --user")
    steps: dict[str, Callable[[Sessions], Sessions]] = {
        "of_rare_items": lambda some: _without_rare_items(some, options.min_item_support, given),
        "in_short_sessions": lambda some: _without_short(some, options.min_session_length, options.merged),
        "of_users_with_few_sessions": lambda some: _without_few(some, options.min_user_sessions),
    }
    left_out, before = dict.fromkeys(steps, 0), -1
    while before != (before := sessions.item_N.size):
        for reason, step in steps.items():
            events = sessions.item_N.size
            sessions = step(sessions)
            left_out[reason] += events - sessions.item_N.size
    if not len(sessions):
        raise UserError(
            f"no session is left: none has {options.min_session_length} events of items and users that are frequent "
            "enough; lower --min-session-length, --min-item-support or --min-user-sessions"
        )
    return sessions, left_out


def _without_rare_items(sessions: Sessions, least: int, given: bool) -> Sessions:
    if least == 1:
        return sessions
    if not given:
        count_K = np.bincount(sessions.item_N)
        return sessions.without_events((count_K >= least)[sessions.item_N])
    training_N = np.repeat(sessions.part_S == 0, sessions.length_S)
    count_K = np.bincount(sessions.item_N[training_N], minlength=int(sessions.item_N.max(initial=0)) + 1)
    return sessions.without_events((count_K >= least)[sessions.item_N] | ~training_N)


def _without_short(sessions: Sessions, least: int, merged: bool) -> Sessions:
    """A sequence of at least that many events stays; in any case sessions without one go."""
    if merged and sessions.user_S is not None:
        count_K = np.bincount(sessions.user_S, sessions.length_S)
        return sessions.where((count_K >= least)[sessions.user_S] & (sessions.length_S > 0))
    return sessions.where(sessions.length_S >= least)


def _without_few(sessions: Sessions, least: int) -> Sessions:
    if sessions.user_S is None or least == 1:
        return sessions
    return sessions.where((np.bincount(sessions.user_S) >= least)[sessions.user_S])
