"""How the groups of a sweep are run: one module an engine."""
