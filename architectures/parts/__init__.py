"""Modules with parameters that several layers hold."""
