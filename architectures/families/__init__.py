"""The bases of layers; at most one stands between a primitive and `Primitive`."""
