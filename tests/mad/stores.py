"""A store as a laboratory has one: a battery of each architecture, and a study that can be fitted."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mad.data.protocol import SUITES
from mad.store import Store
from scaling.laws.law import Law
from scaling.lm.records import LanguageRecord
from tests.mad.language_records import CORPUS, language
from tests.mad.records import architecture, group

# Whole-number sizes, so that FLOPs are exact.
LAW = Law(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.31)


def study(label: str, spec: str, penalty: float) -> list[LanguageRecord]:
    """IsoFLOP runs at four budgets, five sizes each; the loss is that of `LAW` and a penalty."""
    runs = []
    corpus = CORPUS.model_copy(update={"train_tokens": 10**13})
    who = architecture(spec, dim=64)
    for budget in (1e18, 1e19, 1e20, 1e21):
        for factor in np.geomspace(1 / 3, 3, 5):
            params = round(float(LAW.n_opt(budget)) * factor)
            steps = round(budget / 6 / params / 2048)
            loss = float(LAW.loss(params, steps * 2048)) * penalty
            made = language(
                loss,
                label=label,
                budget=budget,
                architecture=who,
                corpus=corpus,
                steps=steps,
                cost={
                    "params": params + 999,
                    "embedding": 999,
                    "params_counted": params,
                    "core": params - 1,
                    "active": params - 1,
                    "flops_per_token": 6.0 * params,
                    "flops": 6.0 * params * steps * 2048,
                },
            )
            runs.append(made)
    return runs


def filled(path: Path, specs: Mapping[str, str], *, studies: int = 3) -> Path:
    """Write the store: the smoke suite of each spec, by label, and a study of the first ones."""
    with Store(path) as store:
        for i, (label, spec) in enumerate(specs.items()):
            for at in SUITES["smoke"].settings:
                store.commit(group(at, 0.5 + i / 32, 0.5, who=architecture(spec), given=spec))
            if i < studies:
                store.commit(study(label, spec, math.exp(-i / 50)))
    return path
