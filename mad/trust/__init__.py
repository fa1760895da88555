"""Whether results are what they say they are: re-runs, submissions, and the state of a machine."""
