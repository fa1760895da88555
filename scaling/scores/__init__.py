"""Scores of the battery beside perplexity."""
