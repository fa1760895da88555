"""Named architectures: a preset is a spec and the model options that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from architectures.options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Preset:
    spec: str
    options: ModelOptions = ModelOptions()
    about: str = ""


PRESETS: dict[str, Preset] = {
    "transformer++": Preset(
        spec="2*(mh-attention swiglu)",
        about="attention with RoPE, SwiGLU, RMSNorm; heads 16 wide",
    ),
    "hyena": Preset(spec="2*(hyena swiglu)", about="long convolutions only"),
    "striped-hyena": Preset(
        spec="hyena swiglu mh-attention swiglu", about="one attention layer for each hyena"
    ),
    "mamba": Preset(spec="4*mamba", about="selective state spaces only; mamba mixes channels itself"),
    "striped-mamba": Preset(spec="2*mamba mh-attention swiglu", about="half mamba, half attention"),
}
