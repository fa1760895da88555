"""The striping grammar: a string of layers <-> a `Spec`.

    text    := ['[' options of the model ']'] spec
    spec    := item+
    item    := [INT '*'] (layer | '(' spec ')' | '(' spec ('+' spec)+ ')')
    layer   := NAME ['[' NAME '=' VALUE {',' NAME '=' VALUE} ']'] ['{' spec '}']

    >>> str(parse("hyena swiglu hyena swiglu mh-attention swiglu"))
    '2*(hyena swiglu) mh-attention swiglu'
    >>> parse("mamba[d_state=4] swiglu") == parse("mamba swiglu")
    True

`+` is the parallel topology: the branches read the same normed input and are averaged. A preset's name stands
for its layers, `package.module:Class` for a layer of the user's own. Where a preset and a layer share a name,
the name alone is the preset and beside other layers the layer: "mamba" is a model, "1*mamba" one layer.
Options before all layers are those of the model, as in "[tied=true, norm=layer] 2*(mh-attention swiglu)":
they are no part of the spec, and `resolve_options` reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from architectures import registry
from architectures.grammar.outline import Reader, SpecError
from architectures.grammar.presets import PRESETS, ModelOptions
from architectures.grammar.spec import Layer, Parallel, Spec
from architectures.sizes.bounds import MAX_CHARACTERS, MAX_LAYERS, check_sizes, shown

_WORDS = {"true": True, "false": False, "none": None}


def parse(text: str | Spec) -> Spec:
    """The spec that `text` spells; a ValueError with a caret says what was expected where."""
    if isinstance(text, Spec):
        return text
    if not isinstance(text, str):
        raise ValueError(
            f"{shown(text)} is not an architecture; give a spec, such as '2*(mh-attention swiglu)'"
        )
    if not text.strip():
        raise SpecError(
            "an architecture is empty; expected layers, such as '2*(mh-attention swiglu)'", text, 0
        )
    if len(text) > MAX_CHARACTERS:
        raise SpecError(
            f"{len(text)} characters; expected at most {MAX_CHARACTERS}, with repeats such as '2*(...)'",
            text,
            0,
        )
    preset = PRESETS.get(text.strip())
    return Spec(tuple(_Parser(preset.spec if preset else text).parse()))


def resolve_options(text: str | Spec) -> ModelOptions:
    """The options of the model that a text begins with or that a preset's name brings, else the defaults."""
    if not isinstance(text, str) or not text.strip().startswith("["):
        preset = PRESETS.get(text.strip()) if isinstance(text, str) else None
        return preset.options if preset else ModelOptions()
    parse(text)  # Too long a text is refused, and what comes after the options.
    return _Parser(text).model()


def scale(spec: str | Spec, *, depth: int | None = None, dim: int | None = None, from_dim: int = 128) -> Spec:
    """The stripe pattern repeated or cut to `depth` layers, its options carried from `from_dim` to `dim`.

    Options that count widths or heads grow in proportion; sizes of one head and absolute sizes stay. Only
    options that the spec states are touched: defaults follow the width by themselves.
    """
    spec = parse(spec)
    scaled = spec
    if depth is not None:
        if type(depth) is not int or not 1 <= depth <= MAX_LAYERS:
            raise ValueError(f"depth={shown(depth)} is not between 1 and {MAX_LAYERS}")
        scaled = Spec(tuple(spec.layers[i % len(spec)] for i in range(depth)))
    if dim is not None:
        check_sizes(dim=dim, from_dim=from_dim)
        scaled = scaled.map(lambda layer: _widen(layer, dim, from_dim))
    if (size := runs(scaled)) > MAX_LAYERS:
        raise ValueError(
            f"depth={depth} makes {size} layers of {spec}, at most {MAX_LAYERS}; give a smaller depth"
        )
    return scaled


def runs(spec: Spec) -> int:
    """The number of layers as they are run: those in branches and bodies too, a repeated body each time."""
    count = 0
    for item in spec.layers:
        if isinstance(item, Parallel):
            count += sum(runs(branch) for branch in item.branches)
        elif item.body is None:
            count += 1
        else:
            entry = registry.get(item.name)
            count += 1 + entry.cls.passes(entry.config(dict(item.options))) * runs(item.body)
    return count


def _widen(layer: Layer, dim: int, from_dim: int) -> Layer:
    entry = registry.get(layer.name)
    kinds = {f.name: f.metadata.get("per", "absolute") for f in dataclasses.fields(entry.cls.Config)}
    options = dict(layer.options)
    for name, value in layer.options:
        if kinds[name] == "width" and isinstance(value, int):
            unit = from_dim // math.gcd(value, from_dim)
            if dim % unit:
                raise ValueError(
                    f"{layer.name}[{name}={value}] at width {from_dim} is not a whole number at width {dim}; "
                    f"choose a width that is a multiple of {unit}, or state {name} for that width"
                )
            options[name] = value * dim // from_dim
    return Layer(layer.name, entry.changed(options), layer.body)


# What has the options of the model, for their names and types.
_MODEL = registry.Entry("the model", cast(Any, SimpleNamespace(Config=ModelOptions)), {}, "", 1, "", "")


class _Parser(Reader[Layer | Parallel]):
    def parse(self) -> list[Layer | Parallel]:
        self.model()
        return super().parse()

    def model(self) -> ModelOptions:
        """The options before all layers."""
        if self.word != "[":
            return ModelOptions()
        column = self.column
        found = self.options(_MODEL)
        with self.pointing(column):
            return cast(ModelOptions, _MODEL.config(found))

    @contextlib.contextmanager
    def pointing(self, column: int) -> Iterator[None]:
        """Give a refusal from elsewhere the string and a caret at `column`."""
        try:
            yield
        except ValueError as error:
            raise self.error(str(error), column) from error

    def parallel(self, branches: list[list[Layer | Parallel]]) -> Parallel:
        return Parallel(tuple(Spec(tuple(branch)) for branch in branches))

    def count(self, items: list[Layer | Parallel]) -> int:
        return runs(Spec(tuple(items)))

    def layer(self) -> list[Layer | Parallel]:
        name, column = self.word, self.column
        known = registry.names()
        if name in PRESETS and name not in known:
            self.here += 1
            if self.word in ("[", "{"):
                spec = PRESETS[name].spec
                raise self.error(
                    f"preset {name} takes no options and no body; expected its layers instead: {spec}"
                )
            return list(parse(name).layers)
        if name not in known and ":" not in name:
            raise self.error(f"unknown layer {registry.unknown(name, [*known, *PRESETS])}")
        with self.pointing(column):
            entry = registry.get(name)
        self.here += 1
        options = self.options(entry)
        with self.pointing(column):
            changed = entry.changed(options)
        body = None
        if self.word == "{":
            if entry.mixes != "stream":
                raise self.error(f"{name} takes no body; expected a layer, a number or the end")
            body = Spec(tuple(self.body(name)))
        elif entry.mixes == "stream":
            raise self.error(f"{name} wraps layers; expected a body, such as {entry.example}", column)
        return [Layer(name, changed, body)]

    def options(self, entry: registry.Entry) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.word == ("," if found else "["):
            self.here += 1
            if self.kind != "name":
                raise self.error(f"expected an option of {entry.name}; {entry.choices()}")
            key = self.word
            with self.pointing(self.column):
                entry.kind(key)
            if key in found:
                raise self.error(f"option {key!r} is given twice; expected another option")
            self.here += 1
            self.take("=", f"after option {key!r}")
            if self.kind not in ("name", "number"):
                raise self.error(f"expected a value for {key!r}: a number, true, false, none or a word")
            found[key] = self.value()
            with self.pointing(self.column):
                entry.check(key, found[key])
            self.here += 1
        if found:
            self.take("]", "to close the options")
        return found

    def value(self) -> Any:
        if self.kind == "name":
            return _WORDS.get(self.word, self.word)
        if len(self.word) > 30:
            raise self.error("a number of more than 30 characters; expected a shorter one")
        if re.fullmatch(r"-?\d+", self.word):
            return int(self.word)
        value = float(self.word)
        if not math.isfinite(value):
            raise self.error(f"{self.word} is too large; expected a finite number")
        return value
