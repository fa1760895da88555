"""The nouns: protocols, suites, settings, records, and the bounds of their numbers."""
