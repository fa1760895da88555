"""Who sees whom, measured on the layers themselves: another layer is another line here."""

import re

import torch
from canvas import WIDTH, Canvas

import architectures

# A spec of one layer, and what is to be seen.
ATTENTION = (
    ("attention[heads=1]", "all tokens so far"),
    ("encoder-attention[heads=1]", "later ones as well"),
    ("sliding-attention[heads=1,window=6]", "the last six"),
    ("fox[heads=1]", "fades by what it forgets"),
    ("stick-breaking[heads=1]", "what later keys left"),
    ("selective-attention[heads=1]", "what was not taken away"),
    ("lsh-attention[heads=1,hashes=1,buckets=4]", "those in its bucket"),
    ("statistical-topk-attention[heads=1,keep=4]", "about the best four"),
    ("dsa[heads=1,top_k=4]", "four by an indexer"),
    ("moba[heads=1,block=4,top_k=2]", "its own block and the best"),
    ("nsa[heads=4,block=4,top_k=4,window=4]", "blocks, means, a window"),
    ("hca[heads=1,stride=4,window=4]", "sums of four, a window"),
    ("csa[heads=1,stride=2,top_k=2,window=4]", "the best sums, a window"),
    ("sequence-altup[stride=4]{mh-attention}", "one in four is run"),
    ("mixture-of-depths{mh-attention}", "half go around it"),
)
MEMORIES = (
    ("mh-linear-attention", "keeps all alike"),
    ("retnet", "fades at fixed rates"),
    ("gated-delta-net", "fades as tokens say"),
    ("rg-lru", "each channel has a rate"),
    ("hgrn", "halves at each token"),
    ("hyena-se", "ends with its filter"),
)
LENGTH, CHANNELS, CELL = 24, 16, 5
# Of the largest influence on the same output: from here on, in this shade.
LEVELS = ((0.02, "#dbe8f4"), (0.05, "#a9cae5"), (0.1, "#5f9bcb"), (0.2, "#1d5f97"))


def influence(spec: str, rows: int) -> list[list[int]]:
    """How much input s of a layer moves its output t, [t][s]: steps of LEVELS, over random rows."""
    model = architectures.build(f"1*{spec}", vocab_size=16, dim=CHANNELS, max_len=LENGTH, seed=0).double()
    layer = getattr(model.blocks[0], "layer", model.blocks[0])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, LENGTH, CHANNELS, generator=generator, dtype=torch.float64)
    tokens = torch.randint(16, (rows, LENGTH), generator=generator)
    # A copy of each row for each output of it: their gradients come at once, and stay apart.
    outputs = LENGTH * CHANNELS
    x, tokens = (z.repeat_interleave(outputs, dim=0) for z in (x, tokens))
    y = layer(x.requires_grad_(), architectures.Context(tokens=tokens))
    own = y.reshape(rows, outputs, outputs).diagonal(dim1=1, dim2=2)
    (gradient,) = torch.autograd.grad(own.sum(), x)
    parts = gradient.reshape(rows, LENGTH, CHANNELS, LENGTH, CHANNELS)
    strengths = parts.square().sum((0, 2, 4)).sqrt()  # (t, s)
    shares = (strengths / strengths.amax(1, keepdim=True)).tolist()
    return [[sum(share >= least for least, _ in LEVELS) for share in row] for row in shares]


def seen(entries: tuple[tuple[str, str], ...], rows: int) -> Canvas:
    """A panel for each layer: a row for each output, a column for each input."""
    side, wide, high = LENGTH * CELL, WIDTH / 3, LENGTH * CELL + 44
    canvas = Canvas(-(-len(entries) // 3) * high + 24)
    for i, (spec, words) in enumerate(entries):
        x, y = i % 3 * wide + (wide - side) / 2, i // 3 * high + 36
        name = re.split(r"[\[{]", spec)[0]
        canvas.layer(x + side / 2, y - 24, name, size=10.5 if len(name) < 22 else 8.5)
        canvas.text(x + side / 2, y - 10, words, size=10, grey=True)
        canvas.rect(x, y, side, side, "#fafafa", edge="#bbbbbb")
        canvas.cells(x, y, CELL, influence(spec, rows), [shade for _, shade in LEVELS])
    words = "A row is an output, a column an input, both in the order of time."
    canvas.text(WIDTH / 2, canvas.height - 13, words, size=10, grey=True)
    return canvas


def attention() -> Canvas:
    # What is chosen differs from row to row: more than one would blur it.
    return seen(ATTENTION, rows=1)


def memories() -> Canvas:
    return seen(MEMORIES, rows=4)
