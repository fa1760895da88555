"""Scaling laws: from language-model runs to compute-optimal and state-optimal laws."""
