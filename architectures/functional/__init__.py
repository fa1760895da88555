"""Maths that several primitives share; plain functions of tensors."""
