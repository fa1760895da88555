"""The commands of `mad`, one file each."""
