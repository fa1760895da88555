"""What each result says: one `Section` each."""
