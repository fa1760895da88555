"""Where things flow inside of layers and around them; another row is another line in a table here."""

from canvas import FILLS, INK, WIDTH, Box, Canvas

import architectures

# What a layer asks its state before it decays; what decays by itself; what is asked then; what is written, y
# being the answer; what is read with.
RULES = (
    ("linear-attention", "", "", "", "phi(k) v", "phi(q) / z"),
    ("retnet", "", "head, fixed", "", "k v", "q"),
    ("mamba2", "", "head", "", "d B x", "C"),
    ("mlstm", "", "head", "", "e^i k v", "q / n"),
    ("gated-linear-attention", "", "key channel", "", "k v", "q"),
    ("hgrn2", "", "key channel", "", "(1 - f) v", "q"),
    ("mesa-net", "", "head", "", "b k v, b k k", "solved for q"),
    ("delta-net", "", "", "k", "b k (v - y)", "q"),
    ("gated-delta-net", "", "head", "k", "b k (v - y)", "q"),
    ("gated-delta-product", "", "head", "k", "n times over", "q"),
    ("momentum-delta-net", "", "head", "k", "b M", "q"),
    ("precond-gdn", "", "head", "k", "b u (v - y)", "q"),
    ("precond-kda", "", "key channel", "k", "b u (v - y)", "q"),
    ("kda", "", "key channel", "k", "b k (v - y)", "q"),
    ("gdn2", "", "key channel", "b * k", "k (w * v - y)", "q"),
    ("gated-oja", "", "value channel", "v", "b (k - y) v", "q"),
    ("comba", "p", "head", "", "b k (v - y)", "q - d p"),
    ("rwkv7", "c", "key channel", "", "k v - (a * c) y", "r"),
    ("titans-linear", "k", "head", "", "M", "q"),
    ("ttt-linear", "k", "", "", "- r s k g", "q, normed"),
)


def rules() -> Canvas:
    """One token's update from left to right, a layer in each row."""
    canvas = Canvas(44 + 18 * len(RULES) + 52)
    columns = (
        ("ask", "ask", 36),
        ("decay", "new", 80),
        ("ask", "ask", 36),
        ("write", "layer", 82),
        ("read", "memory", 66),
    )
    edge, boxes = 120.0, [Box(88, 16, 14)]
    canvas.text(80, 16, "S_{t-1}")
    for i, (words, kind, wide) in enumerate(columns):
        middle = edge + wide / 2
        boxes.append(canvas.box(middle, 16, words, kind, w=36, h=20))
        for row, (_, *cells) in enumerate(RULES):
            y = 44 + 18 * row
            if cells[i]:
                canvas.rect(edge, y - 8, wide, 16, FILLS[kind])
                canvas.text(middle, y, cells[i], size=9.5)
            else:
                canvas.path([(edge, y), (edge + wide, y)], head=False)
        edge += wide + 3
    canvas.chain(*boxes)
    canvas.text((boxes[-2].x + boxes[-1].x) / 2 - 3, 7, "S_t", size=9.5)
    for row, (name, *_) in enumerate(RULES):
        canvas.layer(4, 44 + 18 * row, name, size=8.5, at="start")
    for i, words in enumerate(
        (
            "decay: a factor for each of these. y: the answer; ttt and titans ask at the start of a batch.",
            "u: k, less where much was written. p: a part of k. c: k, rescaled. M, n, z: carried sums.",
            "g: the gradient of an error. The other letters: gates, as in the equations.",
        )
    ):
        canvas.text(6, canvas.height - 40 + 15 * i, words, size=9.5, at="start", grey=True)
    return canvas


# For each vector of a token its channels, in parts of (width, weight of the token and of those before it).
Bar = list[tuple[float, tuple[int, ...]]]
OWN: Bar = [(1, (1,))]
TAPS: Bar = [(1, (1, 1, 1, 1))]
BESIDE: Bar = [(1, (4, 1, 1, 1))]
SMEAR: Bar = [(1, (4, 1))]
SHIFT: Bar = [(1, (1, 1))]
HALF: Bar = [(0.5, (1,)), (0.5, (0, 1))]
BEFORE: tuple[tuple[str, str, tuple[Bar, ...]], ...] = (
    ("mh-attention", "nothing", (OWN, OWN, OWN, OWN)),
    ("delta-net", "short convolution", (OWN, TAPS, TAPS, TAPS)),
    ("rwkv6", "token shift before each map", (OWN, SHIFT, SHIFT, SHIFT)),
    ("smear", "a part of the one before", (SMEAR, SMEAR, SMEAR, SMEAR)),
    ("canon", "site A, before the maps", (BESIDE, BESIDE, BESIDE, BESIDE)),
    ("canon", "site B, behind them", (OWN, BESIDE, BESIDE, BESIDE)),
    ("key-offset-attention", "half of the key", (OWN, OWN, HALF, OWN)),
)


def before() -> Canvas:
    """For each vector of a token, a bar of its channels: what is its own and what earlier tokens gave."""
    colours = ("#5f9bcb", "#f0a24e", "#f7c98f", "#fce6cb")
    canvas = Canvas(64 + 38 * len(BEFORE))
    for column, words in enumerate(("input", "q", "k", "v")):
        canvas.text(206 + 64 * column, 14, words)
    for row, (name, words, bars) in enumerate(BEFORE):
        top = 28 + 38 * row
        canvas.layer(8, top + 7, name, at="start")
        canvas.text(8, top + 21, words, size=10, at="start", grey=True)
        for column, bar in enumerate(bars):
            x = 180.0 + 64 * column
            for share, weights in bar:
                y, unit = float(top), 28 / sum(weights)
                for weight, colour in zip(weights, colours, strict=False):
                    canvas.rect(x, y, 52 * share, unit * weight, colour)
                    y += unit * weight
                x += 52 * share
    for i, (words, colour) in enumerate(zip(("token t", "t - 1", "t - 2", "t - 3"), colours, strict=True)):
        canvas.rect(76 + 80 * i, canvas.height - 22, 12, 12, colour)
        canvas.text(93 + 80 * i, canvas.height - 16, words, size=10, at="start")
    return canvas


# What is looked up, from the left to the right.
LOOKUPS = (
    ("product-key-memory", "x", "q_1, q_2", "best sub-keys|of each half", "best of|n * n rows", "their sum"),
    ("moe-mlp", "x", "router", "best experts", "their MLPs", "their sum"),
    ("sparse-mlp", "x", "map of|low rank", "best unit of|each block", "these rows|of W_1", "columns|of W_2"),
    ("bigram-hash", "the last|two ids", "hash", "number of|a row", "this row|of E", "added to x"),
    ("engram", "the last|2 and 3 ids", "hashes", "numbers|of rows", "their rows", "gated by x,|convolved"),
    ("rosa", "all ids|so far", "longest end|met before", "id that|came next", "its row|of E", "added to x"),
)


def lookups() -> Canvas:
    kinds = ("value", "new", "ask", "memory", "value")
    canvas = Canvas(62 * len(LOOKUPS))
    for i, (name, *words) in enumerate(LOOKUPS):
        canvas.layer(8, 62 * i + 12, name, at="start")
        canvas.row(62 * i + 39, *zip(words, kinds, strict=True), w=76)
    return canvas


def canon() -> Canvas:
    canvas = Canvas(162)
    canvas.layer(8, 12, "canon", at="start")
    halves = (
        (48, ("norm", "A", "maps to|q, k, v", "B", "attention,|memory", "out")),
        (106, ("norm", "C", "gate, up", "D", "activation", "down")),
    )
    for y, words in halves:
        x, boxes = 26.0, [Box(14, y)]
        for word in words:
            small = len(word) == 1
            wide = 22 if small else 62
            boxes.append(canvas.box(x + wide / 2, y, word, "new" if small else "layer", w=wide, h=30))
            x += wide + 15
        plus = canvas.disc(424, y)
        canvas.chain(*boxes, plus)
        canvas.path([(14, y), (14, y - 22), (424, y - 22), (424, y - 7)])
    canvas.path([(424, 55), (424, 70), (6, 70), (6, 106), (12, 106)], head=False)
    canvas.box(30, 144, "A", "new", w=22, h=22)
    sums = "= u_t + w_0 u_t + w_1 u_{t-1} + w_2 u_{t-2} + w_3 u_{t-3}, channel by channel"
    canvas.text(48, 144, sums, at="start")
    return canvas


class Panel:
    """Depth from top to bottom: lanes that carry a stream, and blocks to the right of them."""

    def __init__(self, canvas: Canvas, i: int, name: str, words: str) -> None:
        self.canvas, self.x, self.y = canvas, WIDTH / 3 * (i % 3 + 0.5), 236 * (i // 3)
        if name in architectures.names():
            canvas.layer(self.x, self.y + 14, name)
        else:
            canvas.text(self.x, self.y + 14, name)
        canvas.text(self.x, self.y + 28, words, size=10, grey=True)

    def lanes(self, *at: float, start: float = 54, end: float = 214, words: str = "") -> None:
        for lane, word in zip(at, words.split() or [""] * len(at), strict=True):
            self.canvas.path([(self.x + lane, self.y + start), (self.x + lane, self.y + end)])
            self.canvas.text(self.x + lane, self.y + start - 8, word, size=10)

    def box(self, at: float, height: float, words: str, wide: float) -> None:
        """What the mechanism adds."""
        self.canvas.box(self.x + at, self.y + height, words, "new", w=wide, h=16)

    def block(
        self, at: float, words: str, reads: list[float], writes: list[float], mix: str = "", adds: bool = True
    ) -> None:
        """A block that reads lanes, through a mix of several, and adds to those it writes, or begins one."""
        x, y, canvas = self.x + 40, self.y + at, self.canvas
        canvas.path([(self.x + reads[0], y - 29), (x, y - 29), (x, y - 12)])
        for lane in reads:
            canvas.rect(self.x + lane - 2.5, y - 31.5, 5, 5, INK)
        if mix:
            self.box(40, at - 29, mix, 42)
        canvas.box(x, y, words, w=44)
        canvas.path([(x, y + 12), (x, y + 27), (self.x + writes[-1] + 7 * adds, y + 27)], head=adds)
        canvas.path([(self.x + writes[-1], y + 27), (self.x + writes[0], y + 27)], head=False)
        for lane in writes if adds else []:
            canvas.disc(self.x + lane, y + 27)


def depth() -> Canvas:
    canvas = Canvas(474)
    first, second = 97, 173
    plain = Panel(canvas, 0, "plain residual", "one stream, a sum")
    plain.lanes(-40, words="x")
    plain.block(first, "f_1", [-40], [-40])
    plain.block(second, "f_2", [-40], [-40])

    streams = Panel(canvas, 1, "hyper-connections", "n streams and maps")
    streams.lanes(-60, -42, -24, words="x x x")
    for height, words in ((first, "f_1"), (second, "f_2")):
        streams.block(height, words, [-60, -42, -24], [-60, -42, -24], "mix")
        streams.box(-42, height - 4, "mix", 54)

    wide = Panel(canvas, 2, "altup", "blocks on one slice")
    wide.lanes(-56, -28, words="x_1 x_2")
    for height, words, lane in ((first, "f_1", -56.0), (second, "f_2", -28.0)):
        wide.block(height, words, [lane], [-56, -28])
        wide.box(-42, height - 4, "predict", 54)

    apart = Panel(canvas, 3, "attn-res", "all outputs, kept apart")
    apart.lanes(-60, end=207, words="x")
    apart.block(first, "f_1", [-60], [-42], adds=False)
    apart.lanes(-42, start=first + 27, end=207)
    apart.block(second, "f_2", [-60, -42], [-24], "attend", adds=False)
    apart.box(-42, 216, "attend", 54)
    apart.lanes(-24, start=second + 27, end=207)
    apart.lanes(-42, start=224, end=234)

    values = Panel(canvas, 4, "value-residual", "the first values again")
    values.lanes(-40, words="x")
    values.block(first, "mixer 1", [-40], [-40])
    values.block(second, "mixer 2", [-40], [-40])
    x, y = values.x + 62, values.y
    canvas.path([(x, y + first), (x + 5, y + first), (x + 5, y + second), (x + 1, y + second)])
    values.box(62, (first + second) / 2, "v_1", 20)

    pair = Panel(canvas, 5, "reversible", "two streams, in turn")
    pair.lanes(-56, -28, words="x x")
    pair.block(first, "f_1", [-28], [-56])
    pair.block(second, "f_2", [-56], [-28])
    return canvas


def passes() -> Canvas:
    """Layers that are run more than once, or on some tokens only."""
    canvas = Canvas(322)
    canvas.layer(8, 12, "repeat", at="start")
    canvas.row(38, ("x", "value"), ("body", "layer"), ("body", "layer"), ("y", "value"), w=58)
    canvas.text(56, 12, "the same weights in each pass", size=10, at="start", grey=True)
    canvas.layer(8, 74, "loop", at="start")
    canvas.text(42, 74, "the input in each of them", size=10, at="start", grey=True)
    e = canvas.box(41, 96, "e = norm x", "value", w=66, h=22)
    h = canvas.row(
        136, ("h = 0", "value"), ("body", "layer"), ("body", "layer"), ("C", "new"), ("y", "value"), w=58
    )
    for box, words in zip(h[1:3], ("d B e", "d B e"), strict=True):
        x = box.x - 45
        canvas.path([(e.x + 33, e.y), (x, e.y), (x, box.y - 7)])
        canvas.disc(x, box.y, kind="new")
        canvas.text(x + 5, 112, words, size=10, at="start")
    canvas.text(h[2].x - 45, 152, "a * h", size=10)
    halves = (
        ("sequence-altup", "one token in four is run", 102, (0, 4), 172),
        ("mixture-of-depths", "tokens choose", 120, (0, 2, 3, 6), 248),
    )
    for name, words, at, chosen, top in halves:
        canvas.layer(8, top + 8, name, at="start")
        canvas.text(at, top + 8, words, size=10, at="start", grey=True)
        last = None
        for t in range(8):
            x = 34 + 53 * t
            start, end = canvas.disc(x, top + 26, "", r=4), canvas.disc(x, top + 64, "", r=4)
            if t in chosen:
                cell = canvas.box(x, top + 45, "L", w=22, h=16)
                canvas.arrow(start, cell, head=False)
                canvas.arrow(cell, end, head=False)
                if last:
                    canvas.arrow(last, cell)
                last = cell
            else:
                canvas.arrow(start, end, head=False)
                if last and name == "sequence-altup":
                    canvas.path([(last.x + 11, last.y + 6), (x - 4, top + 62)], dashed=True)
    return canvas
