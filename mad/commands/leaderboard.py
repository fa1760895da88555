"""The command `mad leaderboard`: the scores of everything in a store."""

import sys
from pathlib import Path
from typing import Annotated, Any

from mad import terminal
from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption, listed, option
from mad.messages import counted, printable


def leaderboard(
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    format: Annotated[str, option("table, md, csv or json.")] = "table",
    iso: Annotated[
        str, option("Show the sizes that bench --iso made equal, comma-separated: state, params.")
    ] = "",
    tasks: Annotated[
        str | None, option("Only these tasks of the suite and their mean, comma-separated.")
    ] = None,
    sort: Annotated[
        str | None, option("Order by this column, scores from the best on; -COLUMN the other way round.")
    ] = None,
    filter: Annotated[
        str | None, option("Rows that meet all of these: params<1e6,family=hybrid,label~hyena,mad>80.")
    ] = None,
    reference: Annotated[
        bool, option("Show the results that come with the package too.", "--reference/--no-reference")
    ] = True,
    html: Annotated[
        Path | None, option("Folder for the page, index.html: all rows, to sort and filter there.")
    ] = None,
    figures: Annotated[Path | None, option("Folder for the page's plots as SVG and PDF, for papers.")] = None,
    published: Annotated[
        Path | None, option("CSV of published scores, which the page shows apart: model, source, tasks in %.")
    ] = None,
) -> None:
    """Compare every architecture in the store, and those whose results come with the package."""
    from mad.api import scores_of
    from mad.board import render
    from mad.board.choice import filtered, sorted_by

    if published is not None and html is None:
        raise ValueError(f"published scores {published} stand on the page only; name its folder with --html")
    asked: dict[str, Any] = {"suite": suite, "protocol": protocol, "store": store, "reference": reference}
    asked["tasks"] = listed(tasks)
    scores = scores_of(**asked)
    if filter is not None:
        scores = filtered(scores, filter)
    if sort is not None:
        scores = sorted_by(scores, sort)
    color, equal = sys.stdout.isatty(), listed(iso) or []
    text = render(scores, format, width=terminal.width(), color=color, iso=equal)
    made = []
    if html is not None:
        from mad.board.page.gather import leaderboard_page

        page = leaderboard_page(html, published=published, **asked)
        made.append(f"the page is {page}: open it in a browser")
    if figures is not None:
        from mad.board.figures import leaderboard_figures

        drawn = leaderboard_figures(figures, **asked)
        made.append(f"{counted(len(drawn), 'figure')} in {figures}, each as SVG and PDF")
    sys.stdout.write(text)
    sys.stdout.flush()
    # Not on standard output, which is the table's and may go into a file.
    sys.stderr.write("".join(f"{printable(line)}\n" for line in made))
