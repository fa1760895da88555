"""From cells to records: the sweep, its engines, the trainer."""
