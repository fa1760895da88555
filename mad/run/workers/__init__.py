"""Work in other processes: what an engine needs that runs more than one group at a time."""
