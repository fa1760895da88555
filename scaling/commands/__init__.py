"""The commands of `mad scaling`, one per file. Heavy imports stay inside them."""
