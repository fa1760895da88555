"""The command `mad grow`: enlarge the model in a checkpoint, and say what was done and that it computes the
same.
"""

from pathlib import Path
from typing import Annotated

from mad.commands.flags import ForceOption, argument, option
from mad.messages import say


def grow(
    checkpoint: Annotated[Path, argument("A model that `mad train --save` wrote.")],
    to: Annotated[str, option("The larger architecture.")],
    out: Annotated[Path, option("Where to write it.", "-o", "--out")],
    dim: Annotated[int | None, option("Its width; default that of the model.")] = None,
    force: ForceOption = False,
) -> None:
    """Enlarge a trained model without changing what it computes."""
    say(grow_file(checkpoint, to=to, dim=dim, out=out, force=force))


def grow_file(
    checkpoint: Path, *, to: str, dim: int | None, out: Path, force: bool = False, seed: int = 0
) -> str:
    """Grow the model of a file, and its optimiser if it holds one, into another file; returns the report."""
    import torch

    from architectures import growth
    from architectures.checkpoint import load, save
    from architectures.files import check_target
    from mad.data.labels import read

    check_target(out, force=force, sources=[checkpoint])
    _, to = read(to)
    model, optimizer = load(checkpoint)
    steps = growth.plan(model, to, dim=dim)
    generator = torch.Generator().manual_seed(seed)
    grown, carried = growth.grow(model, to, optimizer, dim=dim, generator=generator)
    tokens = torch.randint(model.vocab_size, (2, min(model.max_len, 256)), generator=generator)
    with torch.no_grad():
        before, after = model.eval()(tokens), grown.eval()(tokens)
    error = float((after - before).abs().max() / before.abs().max())
    save(grown, out, carried, force=force)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, grown)]
    lines = [
        f"{model.spec}, width {model.dim}: {sizes[0]:,} parameters",
        *(f"  {step}" for step in steps),
        f"{grown.spec}, width {grown.dim}: {sizes[1]:,} parameters",
        f"largest change of a logit on random tokens: {error:.1e} of the largest logit",
        f"written to {out}" + (", with the state of its optimiser" if carried is not None else ""),
    ]
    return "\n".join(lines)
