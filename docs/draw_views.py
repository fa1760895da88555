"""Grids of tokens: who sees whom, measured on the layers themselves, and where tokens are kept.

Another layer is another line in a table here.
"""

import re
from collections.abc import Callable

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


# What a layer carries after TOKENS tokens: in how many places, and whether a token is in one of them.
TOKENS, ROUTES = 14, (3, 5, 9, 6, 12, 5, 10, 3, 6, 9, 12, 10, 5, 3)
KEPT: tuple[tuple[str, str, int, Callable[[int, int], bool]], ...] = (
    ("attention", "each in its own place", TOKENS, lambda token, place: token == place),
    (
        "hca",
        "by fours, and the last four",
        7,
        lambda token, place: token // 4 == place if place < 3 else token == place + 7,
    ),
    ("gated-delta-net", "all in one state", 1, lambda token, place: True),
    (
        "log-linear-gated-delta-net",
        "in states of 8, 4, 2 and 1",
        5,
        lambda token, place: ((TOKENS - 1) ^ token).bit_length() == 4 - place,
    ),
    ("mom", "each in two of four states", 4, lambda token, place: bool(ROUTES[token] >> place & 1)),
    ("raven", "each in some of the slots", 8, lambda token, place: (place * 5 + token * 3) % 8 < 3),
)


def kept() -> Canvas:
    """A column for each token, a row for each place in the state."""
    size, wide, high = 8, WIDTH / 3, 8 * TOKENS + 46
    canvas = Canvas(high + 8 * 5 + 46 + 44)
    for i, (name, words, places, holds) in enumerate(KEPT):
        x, y = i % 3 * wide + (wide - size * TOKENS) / 2, i // 3 * high + 36
        canvas.layer(wide * (i % 3 + 0.5), y - 24, name, size=10.5 if len(name) < 22 else 8.5)
        canvas.text(wide * (i % 3 + 0.5), y - 10, words, size=9.5, grey=True)
        canvas.rect(x, y, size * TOKENS, size * places, "#fafafa", edge="#bbbbbb")
        grid = [[int(holds(token, place)) for token in range(TOKENS)] for place in range(places)]
        canvas.cells(x, y, size, grid, ["#3f9f77"])
    canvas.text(
        WIDTH / 2,
        canvas.height - 13,
        "A column is a token, a row a place in what is carried.",
        size=10,
        grey=True,
    )
    return canvas
