"""A study: planned, tuned, trained."""
