"""The leaderboard, as a table."""

from mad.board.table import frame, render

__all__ = ["frame", "render"]
