"""Figures of results. Each can be read alone: axes carry units, titles n."""
