"""What is asked of a run before it trains: that it can, as its configuration says, and sees nothing later."""

from __future__ import annotations

import torch

from architectures.contract import causality
from mad.messages import near
from mad.run.place import find_place
from mad.run.runner import PROBE_ROWS
from scaling.lm.config import LanguageConfig, resolve_architecture
from scaling.lm.corpus import Corpus
from scaling.lm.cost import build_model, cost_of
from scaling.lm.records import LanguageCost

STRATEGIES = ("auto", "ddp", "fsdp")


def check(config: LanguageConfig, corpus: Corpus, device: str, devices: int, strategy: str) -> str:
    """The device by its name; refuses what cannot be trained, or would not be what `config` says."""
    if strategy not in STRATEGIES:
        choices = f"{', '.join(STRATEGIES)}{near(strategy, STRATEGIES)}"
        raise ValueError(f"strategy {strategy!r} is not one of {choices}")
    if devices < 1:
        raise ValueError(f"devices={devices} must be at least 1")
    if config.batch_size % devices:
        raise ValueError(
            f"batch_size {config.batch_size} does not divide over {devices} devices; choose a multiple of "
            f"{devices}, or fewer devices"
        )
    if strategy != "auto" and devices == 1:
        raise ValueError(
            f"strategy {strategy!r} is for several devices; set devices=2 or more, or leave it out"
        )
    ours, theirs = config.corpus.model_dump(), corpus.config.model_dump()
    other = [name for name in ours if name != "name" and ours[name] != theirs[name]]
    if other:
        raise ValueError(
            f"the corpus is not that of the configuration: {other[0]} is {theirs[other[0]]!r}, not "
            f"{ours[other[0]]!r}; load the corpus that it was made with"
        )
    target = find_place(device, config.precision).device
    if devices > 1 and target.type == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(
            f"devices={devices} are more than the {torch.cuda.device_count()} of this machine; choose fewer"
        )
    if devices > 1 and (target.type == "mps" or ":" in device):
        raise ValueError(f"device {device!r} is one device; choose 'cpu' or 'cuda' for devices={devices}")
    if strategy == "fsdp" and target.type != "cuda":
        raise ValueError(f"strategy 'fsdp' shards over CUDA devices only, not {target.type}; choose 'ddp'")
    _check_source(config)
    return target.type if devices > 1 or target.index is None else f"{target.type}:{target.index}"


def try_out(
    config: LanguageConfig, corpus: Corpus, device: str
) -> tuple[LanguageCost | None, BaseException | None]:
    """What the run costs, after a look at whether its model sees later tokens, which is refused.

    What a user's layer raises comes back, for the record.
    """
    try:
        model = build_model(config, seed=0)
        read = min(config.evaluation_tokens, PROBE_ROWS * config.seq_len)
        rows = corpus.validation(config.seq_len, read)[:, :-1]
        causality.require(
            model.to(device),
            torch.from_numpy(rows.astype("int64")),
            config.corpus.vocab_size,
            who=config.architecture.spec,
            task=f"next-token prediction of {config.corpus.name}",
        )
        return cost_of(config), None
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return None, error


def _check_source(config: LanguageConfig) -> None:
    """The code at hand is the code that the configuration names."""
    assert config.architecture.dim is not None
    here = resolve_architecture(config.architecture.spec, config.architecture.dim)
    for name in ("spec", "versions", "sources"):
        asked, found = getattr(config.architecture, name), getattr(here, name)
        if asked != found:
            raise ValueError(
                f"the configuration has {name} {asked!r}, and here they are {found!r}; make it again with "
                "scaling.lm.config.language_config"
            )
