"""Architectures as text: the striping grammar, its presets, and an index of the layers."""
