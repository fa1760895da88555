"""A plain nn.Module as a layer: what can be said of a class that knows nothing of us."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from architectures.primitive import Context, Primitive, State, UnknownState, config_options

# Arguments that the model itself provides, if the class asks for them.
PROVIDED = ("dim", "max_len")


class Foreign(Primitive):
    """Adapter around an nn.Module class that maps (B, T, D) to (B, T, D).

    It is built with `dim` and `max_len` where its constructor names them; its other arguments are options.
    It has a forward, parameters and FLOPs as torch's counter sees them; its state is unknown and it has no
    `step`.
    """

    inner: ClassVar[type[nn.Module]]
    draws = True

    def __init__(self, config: object, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        parameters = inspect.signature(self.inner).parameters
        provided = {name: getattr(self, name) for name in PROVIDED if name in parameters}
        self.module = self.inner(**provided, **config_options(config))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = self.module(x)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{self.inner.__name__} returned {got} for an input {tuple(x.shape)}; "
                "a layer maps (B, T, D) to (B, T, D)"
            )
        return y

    def init_state(self, batch: int, length: int | None = None) -> State:
        raise UnknownState(
            f"the state of {self.inner.__name__} is unknown: a plain nn.Module has no step; "
            "subclass architectures.Primitive to define one"
        )

    def flops(self, length: int) -> int:
        weight = next(self.parameters(), torch.empty(0))
        with torch.no_grad():
            x = torch.zeros(1, length, self.dim, device=weight.device, dtype=weight.dtype)
            try:
                return counted_flops(self.module, x)
            except Exception as error:
                if x.is_meta:  # It need not run without numbers.
                    raise
                reason = next(iter(str(error).splitlines()), "")
                raise ValueError(
                    f"{self.inner.__name__} cannot be run on an input {tuple(x.shape)}: "
                    f"{type(error).__name__}: {reason}; a layer maps (B, T, D) to (B, T, D)"
                ) from error


def counted_flops(module: nn.Module, *inputs: Any) -> int:
    """Forward FLOPs of a call as torch's counter sees them: matrix products, neither element-wise nor FFT."""
    # The counter has no formula for the fused kernel of the CPU, and would take it for free.
    known: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_flops
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        module(*inputs)
    return counter.get_total_flops()


def _fused_attention_flops(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: Any, **__: Any
) -> int:
    batch, heads, length, width = q
    return 2 * batch * heads * length * k[2] * (width + v[3])


def foreign_config(cls: type[nn.Module]) -> type:
    """A frozen config of the constructor's own arguments, with its annotations and defaults.

    An argument without a default is `inspect.Parameter.empty` until a spec spells it (`Entry.changed`).
    """
    try:
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError):
        # Annotations that name what is imported for type checkers only.
        hints = {}
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(cls).parameters.items():
        collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        # A list or a dictionary no spec can spell: the class keeps its own.
        if not collects and name not in PROVIDED and type(parameter.default).__hash__ is not None:
            fields.append((name, hints.get(name, Any), dataclasses.field(default=parameter.default)))
    return dataclasses.make_dataclass("Config", fields, frozen=True, kw_only=True)
