"""From a spec to a model: embed -> pre-norm residual stripes -> readout."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from architectures import registry
from architectures.blocks import Block, Branches, Change, Part, add, owns_stream
from architectures.functional.multiplicative import MultiplicativeLinear
from architectures.functional.norms import RMSNorm
from architectures.options import ModelOptions
from architectures.presets import PRESETS
from architectures.primitive import Context, Hint, Primitive, State
from architectures.spec import Layer, Parallel, Spec
from architectures.stripe import parse

READOUTS = ("every", "last")


class SequenceModel(nn.Module):
    """Tokens (B, T) -> logits (B, T, vocabulary).

    readout "every": each position's vector gives its logits. readout "last": the auto-encoder of
    arXiv:2403.17844, in which the last position's vector, plus a fixed sinusoidal code of each position, is
    decoded by a two-layer MLP into every input token.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        vocab_size: int,
        dim: int,
        max_len: int,
        readout: str,
        seed: int,
        options: ModelOptions,
    ) -> None:
        super().__init__()
        self.spec, self.dim, self.max_len, self.readout = spec, dim, max_len, readout
        self.vocab_size, self.options = vocab_size, options
        builder = _Builder(spec, dim, max_len, seed)
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
        self.norm = RMSNorm(self.width)
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
        """One state a block, before the first token."""
        return tuple(block.init_state(batch, length) for block in self._parts())

    def step(
        self, tokens: Tensor, state: tuple[State, ...], ctx: Context | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """One token a row (B,) -> logits (B, vocabulary) and the next state."""
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
        for block, before in zip(self._parts(), state, strict=True):
            if x.shape[1] == 1:
                y, after = block.step(x[:, 0], before, ctx)
                y = y[:, None]
            else:
                y, after = block.prefill(x, before, ctx)
            x = y if owns_stream(block) else x + y
            states.append(after)
        return self._read(x), tuple(states)

    def around(self, spec: Spec) -> SequenceModel:
        """A fresh model that is like this one but for its layers, at their initial weights."""
        return SequenceModel(
            spec,
            vocab_size=self.vocab_size,
            dim=self.dim,
            max_len=self.max_len,
            readout=self.readout,
            seed=0,
            options=self.options,
        )

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
                    raise ValueError(
                        f"{type(layer).__name__}.hints names {name!r}, which is no parameter of it"
                    )
                plain[full] = hint
        return plain

    def _logits(self, tokens: Tensor, ctx: Context) -> Tensor:
        self._check_length(tokens.shape[1])
        x = self.embedding(tokens)  # (B, T, D), D the width of the stream
        for block in self._parts():
            x = add(block, x, ctx)
        if self.decoder is not None:
            x = self.decoder(x[:, -1], tokens.shape[1])
        return self._read(x)

    def _parts(self) -> list[Part]:
        return list(cast("Iterable[Part]", self.blocks))

    def _check_length(self, length: int) -> None:
        if length > self.max_len:
            raise ValueError(
                f"{length} tokens are more than max_len {self.max_len}; build the model with max_len={length}"
            )

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
    for name, value in (("vocab_size", vocab_size), ("dim", dim), ("max_len", max_len)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if readout not in READOUTS:
        raise ValueError(f"readout={readout!r} is not one of {', '.join(READOUTS)}")
    options = resolve_options(spec) if options is None else options
    return SequenceModel(
        parse(spec),
        vocab_size=vocab_size,
        dim=dim,
        max_len=max_len,
        readout=readout,
        seed=seed,
        options=options,
    )


def resolve_options(spec: str | Spec) -> ModelOptions:
    """The model options that belong to a preset's name; the defaults for anything else."""
    preset = PRESETS.get(spec.strip()) if isinstance(spec, str) else None
    return preset.options if preset else ModelOptions()


def build_blocks(spec: Spec, *, dim: int, max_len: int, seed: int) -> nn.ModuleList:
    """The layers of a spec as the module `blocks` of a model, which runs them with `blocks.add`."""
    blocks = nn.ModuleList(_Builder(spec, dim, max_len, seed).blocks(spec, "blocks"))
    for name, module in blocks.named_modules():
        if isinstance(module, Primitive):
            module.path = f"blocks.{name}"
    return blocks


@contextlib.contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Key the CPU's random state by (seed, part) for a while, and put it back."""
    before = torch.get_rng_state()
    key = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    torch.default_generator.manual_seed(int.from_bytes(key[:8], "little") % 2**63)
    try:
        yield
    finally:
        torch.set_rng_state(before)


class _Builder:
    """Builds blocks in the order of reading, counting each kind of mixer."""

    def __init__(self, spec: Spec, dim: int, max_len: int, seed: int) -> None:
        self.spec, self.dim, self.max_len, self.seed = spec, dim, max_len, seed
        self.depth: dict[str, int] = {}
        for layer in spec.walk():
            mixes = registry.get(layer.name).mixes
            self.depth[mixes] = self.depth.get(mixes, 0) + 1
        self.count: dict[str, int] = {}
        self.built: list[Primitive] = []

    def seeded(self, part: str) -> contextlib.AbstractContextManager[None]:
        return seeded(self.seed, part)

    def blocks(self, spec: Spec, path: str) -> list[Part]:
        return [self.block(item, f"{path}.{i}") for i, item in enumerate(spec.layers)]

    def block(self, item: Layer | Parallel, path: str) -> Part:
        part = self.bare(item, path)
        return part if owns_stream(part) else Block(part, self.dim)

    def bare(self, item: Layer | Parallel, path: str) -> Primitive | Branches:
        """An item without a norm of its own."""
        if isinstance(item, Layer):
            return self.layer(item, path)
        branches: list[list[Part]] = []
        for b, branch in enumerate(item.branches):
            first, *rest = branch.layers
            head = self.bare(first, f"{path}.{b}.0")
            branches.append([head, *(self.block(x, f"{path}.{b}.{i}") for i, x in enumerate(rest, start=1))])
        return Branches(branches)

    def layer(self, item: Layer, path: str) -> Primitive:
        entry = registry.get(item.name)
        index = self.count.get(entry.mixes, 0)
        self.count[entry.mixes] = index + 1
        where = dict(dim=self.dim, max_len=self.max_len, index=index, depth=self.depth[entry.mixes])
        config = entry.config(dict(item.options))
        if item.body is None:
            with self.seeded(path):
                built = entry.cls(config, **where)
            built.join(self.built)
            self.built.append(built)
            return built
        outside, self.max_len = self.max_len, entry.cls.body_len(config, self.max_len)
        parts = self.blocks(item.body, f"{path}.body")
        self.max_len = outside
        body = [Change(part) if isinstance(part, Primitive) else part for part in parts]
        with self.seeded(path):
            wrapper = entry.cls(config, body=body, **where)  # type: ignore[call-arg]
        if wrapper.stream_width != self.dim and (path != "blocks.0" or len(self.spec) > 1):
            remedy = f", or state {item.name}[{wrapper.keeps_width}]" if wrapper.keeps_width else ""
            raise ValueError(
                f"{item.name} makes the stream {wrapper.stream_width} wide in a model of width {self.dim}, "
                "embedding and readout too, so it must be the only item of a spec; put the other layers into "
                f"its body{remedy}"
            )
        return wrapper
