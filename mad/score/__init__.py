"""From records to scores with intervals."""

from mad.score.scores import ArchitectureScore, Scores, score

__all__ = ["ArchitectureScore", "Scores", "score"]
