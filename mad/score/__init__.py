"""From records to scores with intervals."""

from mad.score.rows import ArchitectureScore, Scores
from mad.score.scores import score

__all__ = ["ArchitectureScore", "Scores", "score"]
