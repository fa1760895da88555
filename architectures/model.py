"""From a spec to a model: embed -> pre-norm residual stripes -> readout."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from architectures import registry
from architectures.blocks import Part, add, owns_stream
from architectures.builder import Builder, on_meta
from architectures.builder import build_blocks as build_blocks  # imported from here by users
from architectures.grammar.presets import ModelOptions
from architectures.grammar.spec import Spec
from architectures.grammar.stripe import parse
from architectures.grammar.stripe import resolve_options as resolve_options
from architectures.parts.linear import MultiplicativeLinear
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Hint, Primitive, State, check_length
from architectures.sizes.allowance import Allowance, Exceeded
from architectures.sizes.bounds import check_sizes, machine_memory

READOUTS = ("every", "last")
NORMS = {"rms": RMSNorm, "layer": nn.LayerNorm}
# Tokens whose states take no time to measure.
SHORT = 1024


class SequenceModel(nn.Module):
    """Tokens (B, T) -> logits (B, T, vocabulary).

    readout "every": each position's vector gives its logits. readout "last": the auto-encoder of
    arXiv:2403.17844, in which the last position's vector, plus a fixed sinusoidal code of each position, is
    decoded by a two-layer MLP into every input token.
    """

    def __init__(
        self,
        spec: Spec,
        vocab_size: int,
        dim: int,
        max_len: int,
        readout: str,
        options: ModelOptions,
        seed: int,
    ) -> None:
        super().__init__()
        self.spec, self.dim, self.max_len, self.readout = spec, dim, max_len, readout
        self.vocab_size, self.options = vocab_size, options
        norm = functools.partial(NORMS[options.norm], eps=options.norm_eps)
        builder = Builder(spec, dim, max_len, seed, vocab_size, norm)
        blocks = builder.blocks(spec, "blocks")
        # Of the stream: what stands outside of the layers is as wide.
        self.width = max([dim, *(block.stream_width for block in blocks if isinstance(block, Primitive))])
        with builder.seeded("embedding"):
            self.embedding = nn.Embedding(vocab_size, self.width)
            nn.init.normal_(self.embedding.weight, std=options.embedding_std)
        self.blocks = nn.ModuleList(blocks)
        self.decoder: Decoder | None = None
        if readout == "last":
            with builder.seeded("decoder"):
                self.decoder = Decoder(self.width, max_len)
        self.norm = norm(self.width)
        with builder.seeded("head"):
            self.head = _readout(self.width, vocab_size, options.readout_sparsity)
        for path, layer in self.layers():
            layer.path = path
        self.head_scale = 1.0
        if options.tied:
            assert isinstance(self.head, nn.Linear)
            self.head.weight = self.embedding.weight
            self.head_scale = self.width**-0.5

    def forward(self, tokens: Tensor) -> Tensor:
        # A context without a seed: layers are deterministic, and can still share values of the same tokens.
        return self._logits(tokens, Context())

    def call(self, tokens: Tensor, ctx: Context) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Logits, weighted auxiliary losses, new values of buffers."""
        logits = self._logits(tokens, ctx)
        return logits, ctx.losses, ctx.updates

    def init_state(self, batch: int, length: int | None = None) -> tuple[State, ...]:
        """One state per block, before the first token."""
        return tuple(block.init_state(batch, length) for block in self._parts())

    def step(
        self, tokens: Tensor, state: tuple[State, ...], ctx: Context | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """One token per row (B,) -> logits (B, vocabulary) and the next state."""
        logits, state = self.prefill(tokens[:, None], state, ctx)
        return logits[:, 0], state

    def prefill(
        self, tokens: Tensor, state: tuple[State, ...], ctx: Context | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """Tokens (B, T) -> logits (B, T, vocabulary) and the state after them."""
        if self.readout != "every":
            raise ValueError(
                "a model with readout='last' encodes whole sequences; build it with readout='every' to decode"
            )
        self._check_length(tokens.shape[1])
        x, states = self.embedding(tokens), []
        ctx = Context() if ctx is None else ctx
        outside = ctx.tell(tokens)
        for block, before in zip(self._parts(), state, strict=True):
            if x.shape[1] == 1:
                y, after = block.step(x[:, 0], before, ctx)
                y = y[:, None]
            else:
                y, after = block.prefill(x, before, ctx)
            x = y if owns_stream(block) else x + y
            states.append(after)
        ctx.tell(outside)
        return self._read(x), tuple(states)

    @property
    def settings(self) -> dict[str, Any]:
        """What `build` was given beside the spec and the seed."""
        names = ("vocab_size", "dim", "max_len", "readout", "options")
        return {name: getattr(self, name) for name in names}

    def around(self, spec: Spec, **changes: Any) -> SequenceModel:
        """A fresh model that is like this one but for its layers and `changes`, at its initial weights."""
        return build(spec, **{**self.settings, "seed": 0, **changes})

    def layers(self) -> list[tuple[str, Primitive]]:
        """Every primitive of the model with its dotted name, in the order of the spec."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, Primitive)]

    def hints(self) -> dict[str, Hint]:
        """How each parameter is to be optimised; vectors and the embedding are not decayed."""
        plain = {n: Hint(decay=p.dim() > 1) for n, p in self.named_parameters()}
        plain["embedding.weight"] = Hint(decay=False)
        for prefix, layer in self.layers():
            for name, hint in layer.hints().items():
                full = f"{prefix}.{name}"
                if full not in plain:
                    kind = type(layer).__name__
                    raise ValueError(f"{kind}.hints names {name!r}, which is not a parameter of it")
                plain[full] = hint
        return plain

    def _logits(self, tokens: Tensor, ctx: Context) -> Tensor:
        self._check_length(tokens.shape[1])
        x = self.embedding(tokens)  # (B, T, D), D the width of the stream
        outside = ctx.tell(tokens)
        for block in self._parts():
            x = add(block, x, ctx)
        ctx.tell(outside)
        if self.decoder is not None:
            x = self.decoder(x[:, -1], tokens.shape[1])
        return self._read(x)

    def _parts(self) -> list[Part]:
        return list(cast("Iterable[Part]", self.blocks))

    def _check_length(self, length: int) -> None:
        if length < 1:
            raise ValueError("a sequence of 0 tokens has no answer; give at least one token")
        check_length(length, self.max_len)

    def _read(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x) * self.head_scale)


def _readout(dim: int, vocab_size: int, sparsity: int) -> nn.Linear | MultiplicativeLinear:
    if sparsity > vocab_size:
        raise ValueError(
            f"readout_sparsity={sparsity} is more than the vocabulary of {vocab_size}; "
            f"choose at most {vocab_size}"
        )
    if sparsity:
        return MultiplicativeLinear(dim, sparsity, vocab_size)
    return nn.Linear(dim, vocab_size, bias=False)


class Decoder(nn.Module):
    """Two hidden layers from one vector and a position's code to that position's vector.

    (B, D) -> (B, T, D).
    """

    positions: Tensor

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([RMSNorm(dim), RMSNorm(dim)])
        self.maps = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)])
        half = (dim + 1) // 2
        frequency = 10_000.0 ** (-torch.arange(half) / max(half - 1, 1))
        angle = torch.arange(max_len)[:, None] * frequency
        self.register_buffer(
            "positions", torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim], persistent=False
        )

    def forward(self, x: Tensor, length: int) -> Tensor:
        x = x[:, None] + self.positions[:length].to(x.dtype)
        for norm, linear in zip(self.norms, self.maps, strict=True):
            x = nn.functional.gelu(linear(norm(x)))
        return x


def check_model(model: object, verb: str) -> None:
    """Refuse a model that is not ours to rebuild; `verb` is the function that was called."""
    if not isinstance(model, SequenceModel):
        raise ValueError(
            f"{verb} takes a SequenceModel, which architectures.build makes from a spec, and this is of type "
            f"{type(model).__name__}"
        )


def build(
    spec: str | Spec,
    *,
    vocab_size: int,
    dim: int = 128,
    max_len: int,
    readout: str = "every",
    seed: int,
    options: ModelOptions | None = None,
) -> SequenceModel:
    """Build the model of a spec, a string or a preset's name.

    `seed` keys the initial weights, each part by itself: the same seed gives the same weights, and the global
    random state is left as it was. `options=None` takes the preset's own, else the defaults.
    """
    _check_settings(vocab_size, dim, max_len, readout)
    options = resolve_options(spec) if options is None else options
    spec = parse(spec)
    if not on_meta():
        check_size(spec, vocab_size, dim, max_len, readout, options)
    return SequenceModel(spec, vocab_size, dim, max_len, readout, options, seed)


def _check_settings(vocab_size: int, dim: int, max_len: int, readout: str) -> None:
    check_sizes(vocab_size=vocab_size, dim=dim, max_len=max_len)
    if readout not in READOUTS:
        raise ValueError(f"readout={readout!r} is not one of {', '.join(READOUTS)}")


def sketch(
    spec: str | Spec,
    vocab_size: int,
    dim: int,
    max_len: int,
    readout: str = "every",
    options: ModelOptions | None = None,
) -> SequenceModel:
    """The model of a spec without its numbers: built on the meta device, where no size takes memory."""
    with torch.device("meta"):
        return build(
            spec, vocab_size=vocab_size, dim=dim, max_len=max_len, readout=readout, seed=0, options=options
        )


@functools.lru_cache(maxsize=8)
def _outline(
    spec: Spec,
    vocab_size: int,
    dim: int,
    max_len: int,
    readout: str = "every",
    options: ModelOptions | None = None,
) -> SequenceModel:
    """A sketch, or the model itself where it is small: torch loads its compiler to do without numbers."""
    _check_settings(vocab_size, dim, max_len, readout)
    options = ModelOptions() if options is None else options
    if max_len <= SHORT:
        # What is wrong with it, a sketch says without taking memory.
        with contextlib.suppress(Exceeded, ValueError), Allowance():
            return SequenceModel(spec, vocab_size, dim, max_len, readout, options, seed=0)
    return sketch(spec, vocab_size, dim, max_len, readout, options)


def sketched(spec: Spec, *settings: Any) -> SequenceModel:
    """A model that is shared by all who only count in it; of layers of the user's own, whose code may
    change, a new `sketch`.
    """
    return (sketch if _has_own(spec) else _outline)(spec, *settings)


def check_size(spec: Spec, vocab_size: int, dim: int, max_len: int, *settings: Any, copies: int = 1) -> int:
    """Bytes of the tensors of a model, counted without taking memory; refused where the machine has fewer.

    `settings` as in `sketch`. `copies`: how many of each tensor there will be: 1 for a model, 4 for one in
    training (its gradient and two moments beside it), times the replicas that are trained at once.
    """
    size = _bytes(spec, vocab_size, dim, max_len, *settings)
    if copies * size > (memory := machine_memory()):
        raise ValueError(
            f"{spec} at width {dim}, length {max_len} and vocabulary {vocab_size} has "
            f"{size / 2**30:,.1f} GiB of weights and constants, needed {copies} times: more than the "
            f"{memory / 2**30:,.1f} GiB of this machine; choose smaller sizes"
        )
    return size


def _has_own(spec: Spec) -> bool:
    return any(registry.get(layer.name).source for layer in spec.walk())


@functools.lru_cache(maxsize=256)
def _bytes(spec: Spec, *settings: Any) -> int:
    try:
        model = sketched(spec, *settings)
    except Exception:
        # A layer of the user's own need not run on the meta device; built in earnest, it says what is wrong.
        if _has_own(spec):
            return 0
        raise
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
