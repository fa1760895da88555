"""What each result says, as one `Section`, and the figures that show it."""
