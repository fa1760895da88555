"""The leaderboard: its columns, and their table in every format."""

from mad.board.table import frame, render

__all__ = ["frame", "render"]
