"""Canon layers: a short convolution beside the plain path, at up to four sites of every layer of a body."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.parts.canon import Canon
from architectures.primitive import Context, Hint, Options, Primitive, option
from architectures.registry import get, primitive

# Of each site what its layers mix, and where it lies.
SITES = {"a": "time", "b": "time", "c": "channel", "d": "channel"}
OUTER, INNER = "ac", "bd"


@primitive(
    "canon",
    mixes="stream",
    version=1,
    paper="arXiv:2512.17351",
    example="canon[sites=abcd]{mh-attention swiglu}",
    known_as="LlamaCanon, GLA5Canon, GDN2Canon, Mamba2Canon",
)
class CanonSites(Wrapper):
    """x = x + f(u_t + sum_i w_i * u_{t-i}) for each block f of the body, u = norm(x): (B, T, D) -> (B, T, D).

    The `taps` w_0, w_1, .. (D,) are those of one site and block, with zeros before the first token, no bias
    and no activation. A lies before a layer that mixes time, all of whose maps and gates read what it gives,
    C before a channel mixer; branches beside each other share one. B is on the vectors that a time mixer
    joins, usually q, k and v, and D on the inner units of a channel mixer before the activation: both are the
    option `canon` of the layers that have it, which is set here in all of the body. A short convolution that
    a layer has by itself, `conv`, stays. Each site keeps its last taps - 1 inputs. Differs from the paper:
    nothing known.

    Hypothesis: A or B alone lifts the recall of every mixer in models of one layer; C and D do little for
    the tasks of MAD and more for several hops.
    """

    class Config(Options):
        sites: str = option(
            "ac", "letters of abcd: before time mixers, inside, before channel mixers, inside"
        )
        taps: int = option(4, "taps of a site, the token itself included", least=1, most=256)

        def __post_init__(self) -> None:
            super().__post_init__()
            known = "".join(site for site in SITES if site in self.sites)
            if not self.sites or self.sites != known:
                remedy = f"sites={known}" if known else "sites=ac"
                raise ValueError(
                    f"sites={self.sites} is not some of the letters a, b, c, d in this order; choose {remedy}"
                )

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        if any(isinstance(layer, CanonSites) for layer in self.inside()):
            raise ValueError("canon stands inside another one; name all sites in one of them: leave one out")
        for site in OUTER:
            chosen = [block for block in self.normed() if _mixes(block) == SITES[site]]
            if site in config.sites and not chosen:
                raise _no_place(config, site, f"no layer that mixes {SITES[site]}")
            for block in chosen if site in config.sites else ():
                block.canon = Canon(dim, config.taps)

    @classmethod
    def respell(cls, config: Config, body: Any) -> Any:
        """The body with the option `canon` in the layers that sites B and D are inside of."""
        inner = [site for site in INNER if site in config.sites]
        for site in inner:
            if not any(_takes(layer, site) for layer in body.walk()):
                raise _no_place(config, site, f"no layer that mixes {SITES[site]} with an option canon")

        def respelled(layer: Any) -> Any:
            options = dict(layer.options)
            if "canon" in options or not any(_takes(layer, site) for site in inner):
                return layer
            changed = get(layer.name).changed({**options, "canon": config.taps})
            return dataclasses.replace(layer, options=changed)

        return body.map(respelled)

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        for block in self.order():
            x = x + run(block, x)
        return x

    def axes(self) -> Axes:
        return Axes()

    def hints(self) -> dict[str, Hint]:
        """Taps are not decayed."""
        sites = [
            n for n, block in self.named_modules() if isinstance(block, Block) and block.canon is not None
        ]
        return super().hints() | {f"{name}.canon.weight": Hint(decay=False) for name in sites}


def _mixes(block: Block) -> str:
    """What a block mixes: time, if one of its branches does."""
    kinds = {layer.mixes for layer in block.layer.modules() if isinstance(layer, Primitive)}
    return "time" if "time" in kinds else "channel"


def _takes(layer: Any, site: str) -> bool:
    """Whether a layer of a spec has the option that is this site."""
    entry = get(layer.name)
    names = [f.name for f in dataclasses.fields(entry.cls.Config)]
    return entry.mixes == SITES[site] and "canon" in names


def _no_place(config: CanonSites.Config, site: str, why: str) -> ValueError:
    rest = config.sites.replace(site, "")
    remedy = f"state sites={rest}" if rest else "give it one"
    return ValueError(
        f"canon[sites={config.sites}] has no place for site {site}: {why} in its body; {remedy}"
    )
