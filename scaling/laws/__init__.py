"""From a table of runs to laws with intervals: numpy, scipy and pandas only."""
