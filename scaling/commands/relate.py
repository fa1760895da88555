"""`mad scaling relate`."""

from __future__ import annotations

from typing import Annotated

import typer

from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption
from mad.messages import say
from scaling.commands import flags


def relate(
    runs: flags.Runs = None,
    scores: flags.Scores = None,
    scores_where: Annotated[
        str | None, typer.Option("--scores-where", help="Only these rows of the scores, as --where.")
    ] = None,
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    study: flags.Study = None,
    by: flags.By = None,
    where: flags.Where = None,
    columns: flags.Columns = None,
    budget: flags.Budget = None,
    target: Annotated[str, typer.Option(help="compute-optimal or state-optimal.")] = "compute-optimal",
    bootstrap: flags.Bootstrap = 2000,
    confidence: flags.Confidence = 0.95,
    seed: flags.Seed = 0,
    format: flags.Format = "text",
) -> None:
    """Do the synthetic scores predict the perplexity? Correlations with exact p, and what n allows to say."""
    from scaling.commands.reading import read, read_scores
    from scaling.report.printing import writer
    from scaling.report.results.relation import relation_section
    from scaling.scores import relation

    frame, _ = read(runs, None if runs else store, study=study, by=by, where=where, columns=columns)
    write = writer(format)
    found = relation.relate(
        read_scores(scores, store, suite=suite, protocol=protocol, where=scores_where),
        frame,
        budget=budget,
        target=target,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    say(write(relation_section(found)))
