"""The commands of `mad`, a file for each or for a pair."""
