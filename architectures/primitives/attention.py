"""Softmax attention over all earlier positions, over a sliding window, or over all positions."""

from __future__ import annotations

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.options import count_of_heads
from architectures.primitive import Primitive, option
from architectures.registry import primitive, variant


@primitive("attention", mixes="time", version=1, paper="arXiv:1706.03762")
class Attention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). With a `window`, position t sees
    itself and the window - 1 positions before it. Groups of heads may share their keys and values
    (arXiv:2305.13245): the cache holds `kv_heads` of them. With `gate`, what the heads found is multiplied by
    sigmoid(W_g x) (arXiv:2505.06708). Differs from the paper: queries and keys are rotated by RoPE
    (arXiv:2104.09864) instead of position embeddings, on the first `rope_fraction` of their channels.
    """

    class WindowOptions(KeyValueMemory.Config):
        heads: int | None = count_of_heads(1)
        window: int | None = option(
            None, "visible positions, itself included; none: all earlier ones", sizes="state", least=1
        )

    class Config(RotaryOptions, WindowOptions):
        pass

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.window = config.window


SOFTMAX = "softmax_s(q_t . k_s / sqrt(K)) v_s"
PAST = f"sum_{{s <= t}} {SOFTMAX}"
WINDOW = f"o_t = sum_s {SOFTMAX} over t - window < s <= t"
MQA, GQA = (f"o_t = {PAST}, k and v the same for {which} heads" for which in ("all", "every 4"))
GATED = f"o_t = sigmoid(W_g x_t) * {PAST}"

variant("mh-attention", of="attention", heads=None)
variant(
    "mqa",
    of="attention",
    paper="arXiv:1911.02150",
    equation=MQA,
    heads=None,
    kv_heads=1,
    known_as="PaLM, Falcon",
)
variant(
    "gqa",
    of="attention",
    paper="arXiv:2305.13245",
    equation=GQA,
    heads=None,
    group=4,
    known_as="Llama 3, Qwen3",
)
variant(
    "gated-attention",
    of="attention",
    paper="arXiv:2505.06708",
    equation=GATED,
    heads=None,
    gate=True,
    known_as="Qwen3-Next",
)
variant("sliding-attention", of="attention", equation=WINDOW, window=32, known_as="Mistral 7B, Gemma 3")
variant("mh-sliding-attention", of="attention", equation=WINDOW, heads=None, window=32)


@primitive("encoder-attention", mixes="time", version=1, paper="arXiv:1706.03762")
class EncoderAttention(KeyValueMemory):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s over all positions s: (B, T, D) -> (B, T, D).

    q, k (B, T, H, K), v (B, T, H, V). For encoders: a model with it cannot decode. Differs from the paper:
    RoPE (arXiv:2104.09864) instead of position embeddings; with `rope=false` the layer sees a set.
    """

    causal = False
    step = Primitive.step
    prefill = Primitive.prefill

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass
