"""The commands of `mad scaling`: of studies, and of laws. Heavy imports stay inside them."""
