"""Results as text, JSON and one HTML page."""
