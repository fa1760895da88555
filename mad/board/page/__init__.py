"""The leaderboard as one self-contained HTML page, built from the store.

`payload.py` makes one JSON value of scores and records; `page.html`, the scripts and the style sheets are
written for people, and `assemble.py` puts them into one file that opens from a disk and loads nothing.
"""
