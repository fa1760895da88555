"""Engines run the groups of a sweep."""
