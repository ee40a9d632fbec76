"""What becomes of sessions: the options of `dist-rec prepare sessions`."""

from typing import Literal, Self

from pydantic import Field

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError

Layout = Literal["sessions", "users", "windows"]
LENGTHS = {"users": 200, "windows": 5}
TARGETS = 3


class Options(Config):
    """Which events count, and what a row is."""

    layout: Layout = "sessions"
    """A row is a session; all events of a user; or a window of them, with the items that follow it (Tang & Wang 2018).
    Where there are no users, sessions take their place."""
    length: int | None = Field(None, ge=1)
    """users: items of a history at most, 200 if not given; windows: of every one, 5."""
    targets: int | None = Field(None, ge=1)
    """windows: items that follow one, 3 if not given."""
    min_session_length: int = Field(2, ge=1)
    """Sessions (users, in layouts users and windows) with fewer events are left out."""
    min_item_support: int = Field(1, ge=1)
    """Items with fewer events are left out; with --split given, fewer in training."""
    min_user_sessions: int = Field(1, ge=1)
    """Users with fewer sessions are left out."""
    unknown: Literal["miss", "drop"] = "miss"
    """Validation and test events of items that training never saw: miss makes them row 0, drop leaves them out."""

    @property
    def merged(self) -> bool:
        """Whether the sessions of a user are one sequence."""
        return self.layout != "sessions"

    def filled(self) -> Self:
        """With the defaults of the layout; raises UserError for options of another one."""
        if self.layout == "sessions" and self.length is not None:
            raise UserError("--length is for --layout users or windows: a session is a whole row")
        if self.layout != "windows" and self.targets is not None:
            raise UserError("--targets is for --layout windows")
        length = self.length or LENGTHS.get(self.layout)
        targets = (self.targets or TARGETS) if self.layout == "windows" else None
        return self.model_copy(update={"length": length, "targets": targets})
