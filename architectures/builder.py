"""From the items of a spec to blocks: each layer with its place, its seed and a refusal that names it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from architectures import registry
from architectures.blocks import Block, Branches, Part, WrapperBlock, owns_stream, twin
from architectures.context import keyed_seed
from architectures.grammar.spec import Layer, Parallel, Spec
from architectures.outside.surroundings import kept
from architectures.parts.norms import RMSNorm
from architectures.primitive import Primitive


def build_blocks(spec: Spec, *, dim: int, max_len: int, seed: int) -> nn.ModuleList:
    """The layers of a spec as the module `blocks` of a model, which runs them with `blocks.add`."""
    blocks = nn.ModuleList(Builder(spec, dim, max_len, seed).blocks(spec, "blocks"))
    for name, module in blocks.named_modules():
        if isinstance(module, Primitive):
            module.path = f"blocks.{name}"
    return blocks


@contextlib.contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Key the CPU's random state by (seed, part) for a while, and put it and what else is `kept` back."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(keyed_seed(f"{seed}/{part}"))
    try:
        with kept():
            yield
    finally:
        torch.set_rng_state(before)


class Builder:
    """Builds blocks in the order of reading, counting each kind of mixer."""

    def __init__(
        self,
        spec: Spec,
        dim: int,
        max_len: int,
        seed: int,
        vocab_size: int | None = None,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        self.spec, self.dim, self.max_len, self.seed = spec, dim, max_len, seed
        self.vocab_size, self.norm = vocab_size, norm
        self.depth = Counter(registry.get(layer.name).mixes for layer in spec.walk())
        self.count: Counter[str] = Counter()
        self.built: list[Primitive] = []
        self.sketched: dict[Any, Primitive] = {}

    def seeded(self, part: str) -> contextlib.AbstractContextManager[None]:
        return seeded(self.seed, part)

    def blocks(self, spec: Spec, path: str) -> list[Part]:
        return [self.block(item, f"{path}.{i}") for i, item in enumerate(spec.layers)]

    def block(self, item: Layer | Parallel, path: str) -> Part:
        part = self.bare(item, path)
        return part if owns_stream(part) else Block(part, self.norm(self.dim))

    def bare(self, item: Layer | Parallel, path: str) -> Primitive | Branches:
        """An item without a norm of its own."""
        if isinstance(item, Layer):
            return self.layer(item, path)
        branches: list[list[Part]] = []
        for b, branch in enumerate(item.branches):
            head, *rest = branch.layers
            first = self.bare(head, f"{path}.{b}.0")
            branches.append([first, *(self.block(x, f"{path}.{b}.{i}") for i, x in enumerate(rest, start=1))])
        return Branches(branches)

    def made(self, item: Layer, path: str, entry: registry.Entry, where: dict[str, Any]) -> Primitive:
        config = entry.config(dict(item.options))
        try:
            with self.seeded(path):
                return entry.cls(config, **where)
        except ValueError:
            raise
        except Exception as error:
            # A user's layer may raise anything, and need not be built without numbers; ours raise what torch
            # says of sizes that no tensor can have.
            too_large = isinstance(error, RuntimeError | OverflowError | MemoryError)
            if on_meta() if entry.source else not too_large:
                raise
            reason = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"{item} cannot be built at width {self.dim} and length {self.max_len}: "
                f"{type(error).__name__}: {reason}; {'repair it' if entry.source else 'choose smaller sizes'}"
            ) from error

    def bodiless(self, item: Layer, path: str, entry: registry.Entry, where: dict[str, Any]) -> Primitive:
        if not on_meta() or entry.source:
            return self.made(item, path, entry, where)
        # Without numbers, one layer is like the other, but the first of its kind.
        same = item, self.max_len, where["index"] == 0
        if same not in self.sketched:
            self.sketched[same] = self.made(item, path, entry, where)
        layer = twin(self.sketched[same])
        layer.index = where["index"]
        return layer

    def layer(self, item: Layer, path: str) -> Primitive:
        entry = registry.get(item.name)
        index, depth = self.count[entry.mixes], self.depth[entry.mixes]
        self.count[entry.mixes] += 1
        where: dict[str, Any] = dict(dim=self.dim, max_len=self.max_len, index=index, depth=depth)
        if entry.cls.reads_tokens:
            if self.vocab_size is None:
                raise ValueError(f"{item.name} reads the ids of tokens, and what is built here has none")
            where["vocab_size"] = self.vocab_size
        if item.body is None:
            layer = self.bodiless(item, path, entry, where)
            layer.join(self.built)
            self.built.append(layer)
            return layer
        config = entry.config(dict(item.options))
        outside, self.max_len = self.max_len, entry.cls.body_len(config, self.max_len)
        parts = self.blocks(entry.cls.respell(config, item.body), f"{path}.body")
        self.max_len = outside
        body = [WrapperBlock(part) if isinstance(part, Primitive) else part for part in parts]
        wrapper = self.made(item, path, entry, {**where, "body": body})
        if wrapper.stream_width != self.dim and (path != "blocks.0" or len(self.spec) > 1):
            remedy = f", or state {item.name}[{wrapper.keeps_width}]" if wrapper.keeps_width else ""
            raise ValueError(
                f"{item.name} makes the stream {wrapper.stream_width} wide in a model of width {self.dim}, "
                "embedding and readout too, so it must be the only item of a spec; put the other layers into "
                f"its body{remedy}"
            )
        return wrapper


def on_meta() -> bool:
    """Whether tensors are being made without numbers."""
    return torch.get_default_device().type == "meta"
