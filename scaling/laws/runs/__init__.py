"""A table of runs: read, its columns recognised, its rows checked, its units doubted."""
