"""How pages and figures look: one style sheet for every page, colours that colour blindness keeps apart."""

from pathlib import Path

# Colours, type, tables and plots of every page that this project writes; a page adds what is its own.
STYLE = Path(__file__).with_name("look.css")

# From chance to ceiling, in figures as on light pages.
HEAT = ("#fdf3dc", "#b9dfcb", "#72b2e4")
