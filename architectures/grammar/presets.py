"""Named architectures: a preset is a spec and the options of the model around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a model has besides its layers; part of its identity.

    tied           the readout uses the embedding's weights, scaled by 1 / sqrt(dim)
    embedding_std  standard deviation of the initial embedding. With 1, what a token is outweighs what fresh
                   layers add to the stream, and recall is learned in a few hundred steps; with the 0.02 of
                   the public MAD code it takes thousands at that rate (measured: docs/quick-suite.md)
    norm           before each layer and the readout: "rms", or "layer" with mean and bias (arXiv:1607.06450)
    norm_eps       what is added to the mean square under its root
    readout_sparsity  parts S of a multiplicative readout (arXiv:2111.12763), with dim S + dim vocabulary / S
                   parameters, the division rounded up; 0: a dense one
    """

    tied: bool = False
    embedding_std: float = 1.0
    readout_sparsity: int = 0
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.norm not in ("rms", "layer"):
            raise ValueError(f"norm={self.norm!r} is not one of rms, layer")
        for name in ("norm_eps", "embedding_std"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be positive and finite")
        if self.readout_sparsity < 0:
            raise ValueError(
                f"readout_sparsity={self.readout_sparsity} must be at least 0; 0 is a dense readout"
            )
        if self.tied and self.readout_sparsity:
            raise ValueError(
                f"readout_sparsity={self.readout_sparsity} has weights of its own and cannot be tied; "
                "choose tied=False or readout_sparsity=0"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    spec: str
    options: ModelOptions = ModelOptions()
    about: str = ""


# The layers of the MAD study with its settings at width 128 (arXiv:2403.17844): two mixers of 2,048 state
# elements each, Mamba four of 1,024; SwiGLU 512 wide, mixtures of 8 gated experts 16 wide, 2 active. What
# its public code (athms/mad-lab) does otherwise is in docs/protocol.md.
_ATTENTION = "mh-attention[heads=16]"
_SWIGLU = "swiglu[inner=512]"
_MOE = "moe-mlp[inner=16, activation=swiglu]"
_CHANNELS = {"": (_SWIGLU, "SwiGLU"), "-moe": (_MOE, "mixture of experts")}
_MIXERS = {
    "transformer": (_ATTENTION, "attention with 16 heads of 8"),
    "gla": ("mh-gated-linear-attention[heads=8]", "gated linear attention with 8 heads of 16"),
    "hyena": ("hyena[tied=4, positions=learned]", "implicit long convolutions"),
    "mh-hyena": ("mh-hyena[tied=4, positions=learned]", "multi-head long convolutions"),
    "hyena-experts": ("hyena-experts[positions=learned]", "routed long convolutions"),
}
# One attention layer for every `n - 1` other mixers.
_SHARES = {"8": 12, "25": 4, "50": 2}


def _mad_study() -> dict[str, Preset]:
    """The 21 two-mixer architectures of the study, and its striping at three shares of attention.

    The paper names the families and prints no list; these are the pure families with both channel mixers,
    and the striped ones at one attention layer for each other mixer.
    """
    linear = "mh-linear-attention[heads=16, feature_map=elementwise-product]"
    specs = {
        "transformer": (f"2*({_ATTENTION} mlp)", "attention, MLP"),
        "linear-attention": (
            f"2*({linear} {_SWIGLU})",
            "linear attention with a product as feature map, SwiGLU",
        ),
        "mamba": ("4*mamba", "mamba alone"),
        "striped-mamba": (f"2*mamba {_ATTENTION} {_SWIGLU}", "mamba and attention, SwiGLU"),
        "striped-mamba-moe": (f"2*mamba {_ATTENTION} {_MOE}", "mamba and attention, mixture of experts"),
    }
    for family, (mixer, words) in _MIXERS.items():
        for suffix, (channel, called) in _CHANNELS.items():
            name = "transformer++" if family + suffix == "transformer" else family + suffix
            specs[name] = f"2*({mixer} {channel})", f"{words}, {called}"
        for suffix, (channel, called) in _CHANNELS.items() if "hyena" in family else ():
            stripe = f"{mixer} {channel} {_ATTENTION} {channel}"
            specs[f"striped-{family}{suffix}"] = stripe, f"{words} and attention, {called}"
    return {f"mad-{n}": Preset(spec=spec, about=f"MAD study: {about}") for n, (spec, about) in specs.items()}


def _striped() -> dict[str, Preset]:
    """The study's stripes as patterns for deep models: `architectures.scale` repeats or cuts them."""
    found = {}
    for share, period in _SHARES.items():
        for family in ("hyena", "mh-hyena", "hyena-experts", "mamba"):
            for suffix, (_, called) in _CHANNELS.items():
                channel = "moe-mlp" if suffix else "swiglu"
                pair = f"{family} {channel}"
                repeat = pair if period == 2 else f"{period - 1}*({pair})"
                if family == "mamba":  # two mambas stand for a mixer and a channel mixer
                    repeat = f"{2 * (period - 1)}*mamba"
                found[f"striped-{family}-{share}{suffix}"] = Preset(
                    spec=f"{repeat} mh-attention {channel}",
                    about=f"stripe with {share} % attention" + (f", {called}" if suffix else ""),
                )
    return found


# Of the canon study (arXiv:2512.17351; facebookresearch/PhysicsLM4), which trained these eight at 1.3, 3.1
# and 8 billion parameters. Heads are as wide as MAD has them, K = 16, there 128 (Llama at 1B: 64). The three
# fixed states hold 2 K numbers for each channel of the model, 32 D a layer, at any width; mixer and MLP have
# 6 D^2 parameters each. What departs: norms inside the mixers keep our epsilon; one initialisation for all,
# ours, where theirs differ by family; attention has no QK-norm (theirs one over all heads together, at 1B and
# 3B) and full key and value heads (theirs 8 at 8B); rank 16 restricts less below width 256.
_CANON_OPTIONS = ModelOptions(norm_eps=1e-5)
_CANON_STUDY = {
    "llama": ("mh-attention", "swiglu", "attention with RoPE"),
    "gla5": (
        "mh-gated-linear-attention[key_dim=16, value_dim=32, conv=4, output_rank=16]",
        "swiglu[expand=2.0]",
        "gated linear attention, gates of rank 16",
    ),
    "gdn2-lowrank": (
        "gated-delta-net[key_dim=16, value_dim=32, output_rank=16]",
        "swiglu[expand=2.0]",
        "gated delta net, output gate of rank 16",
    ),
    "mamba2": ("mamba2[d_state=16, head_dim=32]", "swiglu[expand=2.0]", "mamba-2 with a SwiGLU"),
}


def _canon_study() -> dict[str, Preset]:
    """Each family as it was and with Canon layers: all four sites for attention, which then rotates a quarter
    of each head; A, C and D for the others, whose own short convolution stays in the place of B.
    """
    found = {}
    for family, (mixer, channel, about) in _CANON_STUDY.items():
        plain = "mamba2-conv" if family == "mamba2" else family
        found[plain] = Preset(
            spec=f"2*({mixer} {channel})", options=_CANON_OPTIONS, about=f"canon study: {about}"
        )
        sites, mixer = ("abcd", f"{mixer}[rope_fraction=0.25]") if family == "llama" else ("acd", mixer)
        found[f"{family}-canon"] = Preset(
            spec=f"2*canon[sites={sites}]{{{mixer} {channel}}}",
            options=_CANON_OPTIONS,
            about=f"canon study: {about}, Canon at {', '.join(sites.upper())}",
        )
    return found


# The mixers of a study of 72 hybrids (arXiv:2507.06457), and how many of them there are for each attention.
_LINEAR_MIXERS = {
    "hgrn": "hgrn",
    "hgrn2": "hgrn2",
    "retnet": "retnet",
    "gla": "mh-gated-linear-attention",
    "delta-net": "delta-net",
    "gated-delta-net": "gated-delta-net",
}
_RATIOS = (24, 12, 6, 3)


def _linear_hybrids() -> dict[str, Preset]:
    """One period of each hybrid: the linear mixers, then one full attention."""
    return {
        f"{family}-hybrid-{ratio}-1": Preset(
            spec=f"{ratio}*({mixer} swiglu) mh-attention swiglu",
            about=f"{ratio} {family} for each attention, as in the study of hybrid linear attention",
        )
        for family, mixer in _LINEAR_MIXERS.items()
        for ratio in _RATIOS
    }


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
    "kimi-linear": Preset(
        spec="3*(kda moe-mlp) mla[rope_dim=0] moe-mlp",
        about="three KDA for each latent attention without positions, experts (arXiv:2510.26692)",
    ),
    "gated-delta-hybrid": Preset(
        spec="3*(gated-delta-net swiglu) gated-attention swiglu",
        about="three gated delta nets for each gated attention, as in Qwen3-Next",
    ),
    "jamba": Preset(
        spec="2*(mamba swiglu mamba moe-mlp) mh-attention[rope=false] swiglu mamba moe-mlp "
        "mamba swiglu mamba moe-mlp",
        about="one attention for each seven mamba, experts in every second layer (arXiv:2403.19887)",
    ),
    "samba": Preset(
        spec="2*(mamba swiglu mh-sliding-attention swiglu)",
        about="mamba and sliding attention by turns (arXiv:2406.07522)",
    ),
    "striped-hyena-2": Preset(
        spec="hyena-se swiglu hyena-mr swiglu hyena-li swiglu mh-attention swiglu",
        about="short, medium and long convolutions and attention (arXiv:2503.01868)",
    ),
    "griffin": Preset(
        spec="2*(rg-lru swiglu) mh-sliding-attention[kv_heads=1] swiglu",
        about="two RG-LRU for each local multi-query attention (arXiv:2402.19427)",
    ),
    "falcon-h1": Preset(
        spec="2*((mamba2 + mh-attention) swiglu)",
        about="mamba-2 and attention beside each other (arXiv:2507.22448)",
    ),
    "terraformer": Preset(
        spec="reversible{2*(sparse-attention sparse-attention sparse-mlp[sru=32])}",
        options=ModelOptions(readout_sparsity=4),
        about="sparse layers, reversible, decoder only (arXiv:2111.12763)",
    ),
    **_mad_study(),
    **_striped(),
    **_canon_study(),
    **_linear_hybrids(),
}
