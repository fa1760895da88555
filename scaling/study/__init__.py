"""A study: planned, tuned, trained."""

# The learning rates that are tuned over, where none are named.
LRS = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
