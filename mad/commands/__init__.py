"""The commands of `mad`, one file per command."""
