"""The pictures of the page of layers, in their order; `generate.py` writes them into docs/figures."""

from collections.abc import Callable
from typing import NamedTuple

import draw_layers
import draw_views
from canvas import Canvas


class Picture(NamedTuple):
    """A picture under the layers of a section, what is said above it, and to those who cannot see it."""

    section: str
    heading: str
    words: str
    about: str
    draw: Callable[[], Canvas]

    def svg(self) -> str:
        return self.draw().svg(self.about)


PICTURES = {
    "layers-attention": Picture(
        "time",
        "Who sees whom",
        "How much each output depends on each input: the gradient of a layer with random weights on one\n"
        "random row of 24 tokens, dark from a fifth of the strongest for that output on, white below a\n"
        "fiftieth. Blocks, windows and choices are made small to fit.",
        "Grids of the inputs that each output of an attention layer depends on",
        draw_views.attention,
    ),
    "layers-memories": Picture(
        "time",
        "What a state still holds",
        "The same for layers that carry a state of a fixed size, over several rows: how what came in fades,\n"
        "before any training.",
        "Grids of how much each input still counts in later outputs",
        draw_views.memories,
    ),
    "layers-kept": Picture(
        "time",
        "Where tokens are kept",
        "What is carried after fourteen tokens, and which of them are in each part of it. To which states\n"
        "and slots tokens are sent is made up here.",
        "Grids of the parts of the state that hold each token",
        draw_views.kept,
    ),
    "layers-rules": Picture(
        "time",
        "One update of a matrix state",
        "What happens to the state S of a head for one token, from left to right. Delta rules ask the state\n"
        "what it holds and write what is new about the value; they differ in what fades, in what is asked\n"
        "and written, and in whether the state is asked before it decays or after.",
        "A table of what each layer does to its matrix state for one token, in order",
        draw_layers.rules,
    ),
    "layers-before": Picture(
        "time",
        "What a token takes from those before",
        "The input of a mixer and its vectors: the width of a bar are channels, its colours the tokens that\n"
        "they come from. Where a key tells of the token before, one layer finds what followed an earlier\n"
        "token; plain attention needs two.",
        "Bars of what the input and the q, k and v of a token take from the tokens before it",
        draw_layers.before,
    ),
    "layers-lookups": Picture(
        "channel",
        "What a token looks up",
        "Tables of which a token pays for a few rows: what chooses them, and what is read. The last three\n"
        "go by the ids of the tokens; they stand among the time mixers and the layers around others.",
        "How a token finds the few rows of a table that it reads",
        draw_layers.lookups,
    ),
    "layers-depth": Picture(
        "stream",
        "What blocks read and write",
        "Two blocks f from top to bottom, and six ways to connect them. A square reads a stream, a circle\n"
        "adds to it; orange is what the layer adds to the plain residual.",
        "Six diagrams of what two blocks read and what they write",
        draw_layers.depth,
    ),
    "layers-canon": Picture(
        "stream",
        "Canon layers",
        "A time mixer and an MLP with the four sites of `canon`, each a short convolution beside the plain\n"
        "path, with weights of its own.",
        "A time mixer and an MLP with sites A, B, C and D",
        draw_layers.canon,
    ),
    "layers-passes": Picture(
        "stream",
        "Several passes, or some of the tokens",
        "`repeat` and `loop` run their body again on what it gave, `loop` with the input put in each time.\n"
        "`sequence-altup` runs its layers L on every few tokens and corrects those between by the last one\n"
        "that was run; `mixture-of-depths` lets tokens choose, and the others pass by.",
        "Layers that run several times, and layers that run on some of the tokens",
        draw_layers.passes,
    ),
}
