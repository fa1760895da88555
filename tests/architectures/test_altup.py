"""AltUp by its definition, slice by slice; what it costs; what it leaves as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures.model import SequenceModel
from architectures.primitive import Context
from architectures.sizes.accounting import account
from tests.architectures.helpers import (
    close,
    decodes_and_learns,
    in_pieces,
    moved,
    noise,
    parameters_in,
    random_tokens,
    wrapper_of,
)

BODY = "delta-net mlp mh-attention swiglu gated-delta-net"
SMALL = "mh-attention mlp swiglu"
FORMS = ["altup", "altup[recycled=true]", "gemma3n-altup[k=2]"]


def tokens(*shape: int) -> Tensor:
    return random_tokens(*shape, seed=2)


def build(spec: str, *, dim: int = 32, **options: Any) -> SequenceModel:
    return architectures.build(spec, vocab_size=5, dim=dim, max_len=64, seed=0, **options)


def pair(wrapper: str, body: str, **options: Any) -> tuple[SequenceModel, SequenceModel]:
    """A model, and the same weights inside of a wrapper."""
    base, wrapped = build(body, **options), build(f"{wrapper}{{{body}}}", **options)
    wrapped.get_submodule("blocks.0.body").load_state_dict(base.blocks.state_dict())
    for part in ("embedding", "norm", "head", "decoder"):
        if getattr(base, part) is not None:
            getattr(wrapped, part).load_state_dict(getattr(base, part).state_dict())
    return base, wrapped


@pytest.mark.parametrize("wrapper", ["altup[k=1]", "altup[k=1, recycled=true]", "altup[k=1, schedule=same]"])
@pytest.mark.parametrize("readout", ["every", "last"])
def test_one_slice_is_the_base_to_the_last_bit(wrapper: str, readout: str) -> None:
    base, wrapped = pair(wrapper, BODY, readout=readout)
    assert torch.equal(base(tokens(2, 19)), wrapped(tokens(2, 19)))


@pytest.mark.parametrize("schedule", ["alternating", "same"])
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("body", [BODY, "2*(mh-attention moe-mlp) mlp", "(mamba + mlp) hyena"])
def test_recycled_slices_start_as_the_base(k: int, schedule: str, body: str) -> None:
    base, wrapped = pair(f"altup[k={k}, schedule={schedule}, recycled=true]", body)
    base, wrapped = base.double(), wrapped.double()
    close(wrapped(tokens(2, 23)), base(tokens(2, 23)), atol=1e-12)


def test_copies_stay_copies_under_the_identity() -> None:
    wrapper = wrapper_of("altup[k=3]{mlp mlp mlp mlp}", away=0)
    x = noise(2, 5, 32)
    assert torch.equal(*wrapper(torch.cat([x, x, x], -1)).split(32, -1)[:2])


def by_definition(wrapper: Any, x: Tensor) -> Tensor:
    """Predict, compute and correct, one slice, token and number at a time."""
    k, config = wrapper.config.k, wrapper.config
    slices = [x.clone() for _ in range(k)] if config.recycled else list(x.split(wrapper.dim, dim=-1))
    for n, block in enumerate(wrapper.body):
        active = n % k if config.schedule == "alternating" else 0
        p, g = wrapper.p[n], wrapper.g[n]
        computed = slices[active] + block(slices[active])
        new = [torch.zeros_like(s) for s in slices]
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                predicted = [torch.zeros_like(slices[0][b, t]) for _ in range(k)]
                for i in range(k):
                    for j in range(k):
                        predicted[i] += p[i, j] * slices[j][b, t]
                for i in range(k):
                    new[i][b, t] = predicted[i] + g[i] * (computed[b, t] - predicted[active])
        slices = new
    if not config.recycled:
        return torch.cat(slices, dim=-1)
    total = torch.zeros_like(slices[0])
    for s in slices:
        total += s
    return total / k


@pytest.mark.parametrize("schedule", ["alternating", "same"])
@pytest.mark.parametrize("recycled", ["true", "false"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@torch.no_grad()
def test_it_is_its_definition(k: int, recycled: str, schedule: str) -> None:
    wrapper = wrapper_of(f"altup[k={k}, recycled={recycled}, schedule={schedule}]{{{BODY}}}")
    assert [n for n, _ in wrapper.named_parameters()][:2] == ["p", "g"]
    x = noise(2, 7, wrapper.stream_width)
    assert wrapper.stream_width == (32 if recycled == "true" else 32 * k)
    close(wrapper(x), by_definition(wrapper, x))


def test_each_block_runs_once_on_its_slice() -> None:
    wrapper = wrapper_of("altup[k=3]{mlp mlp mlp mlp mlp}")
    seen: list[Tensor] = []
    for block in wrapper.body:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        wrapper.p.copy_(torch.eye(3).expand(5, 3, 3))
        wrapper.g.zero_()  # nothing moves: the slices that the blocks are given are those of the input
    x = noise(2, 5, 96)
    wrapper(x)
    assert [s.shape for s in seen] == 5 * [(2, 5, 32)]
    for given, active in zip(seen, [0, 1, 2, 0, 1], strict=True):
        assert torch.equal(given, x.split(32, -1)[active])
    fixed = wrapper_of("altup[k=3, schedule=same]{mlp mlp}")
    assert wrapper.active == [0, 1, 2, 0, 1] and fixed.active == [0, 0]


def test_the_active_slice_is_what_its_layer_gives_whatever_was_predicted() -> None:
    wrapper = wrapper_of("altup[k=2]{mlp}")
    with torch.no_grad():
        wrapper.g.fill_(1.0)
    x = noise(2, 5, 64)
    first = x[..., :32]
    close(wrapper(x)[..., :32], first + wrapper.body[0](first))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_parameters_are_those_of_the_formula(k: int) -> None:
    def count(spec: str, **options: Any) -> architectures.Account:
        return account(spec, vocab_size=100, dim=32, seq_len=16, **options)

    base, blocks = count(SMALL), 3
    recycled, wide = count(f"altup[k={k}, recycled=true]{{{SMALL}}}"), count(f"altup[k={k}]{{{SMALL}}}")
    coefficients = (k * k + k) * blocks
    assert recycled.params == base.params + coefficients
    assert (wide.params, wide.embedding) == (
        base.params + coefficients + (k - 1) * 32 * (2 * 100 + 1),  # embedding, readout, final norm
        k * base.embedding,
    )
    assert wide.active == wide.params - wide.embedding
    tied = count(f"altup[k={k}]{{{SMALL}}}", options=architectures.ModelOptions(tied=True))
    assert tied.params == wide.params - 100 * k * 32
    decoded = count(f"altup[k={k}]{{{SMALL}}}", readout="last")
    assert decoded.params == wide.params + 2 * (k * 32) ** 2 + 4 * k * 32
    assert decoded.flops == wide.flops + 4 * (k * 32) ** 2
    routed = count(f"gemma3n-altup[k={k}]{{{SMALL}}}")
    token = k**3 + k**2 + k * 32 + 32
    assert routed.params == base.params + blocks * token + 2 * (k - 1) * 32 * 32


@pytest.mark.parametrize("k", [2, 3])
def test_flops_are_those_of_the_base_and_of_the_mixing(k: int) -> None:
    base = account(SMALL, vocab_size=100, dim=32, seq_len=16)
    wide = account(f"altup[k={k}]{{{SMALL}}}", vocab_size=100, dim=32, seq_len=16)
    assert wide.flops == base.flops + 3 * 2 * k * (k + 1) * 32 + (k - 1) * 2 * 32 * 100
    recycled = account(f"altup[k={k}, recycled=true]{{{SMALL}}}", vocab_size=100, dim=32, seq_len=16)
    assert recycled.flops == base.flops + 3 * 2 * k * (k + 1) * 32


@pytest.mark.parametrize(
    "spec", ["altup[k=3]", "altup[k=4, recycled=true]", "gemma3n-altup[k=3]", "altup[k=1]"]
)
def test_flops_agree_with_the_counter(spec: str) -> None:
    wrapper = wrapper_of(f"{spec}{{delta-net mlp}}").float()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wrapper(noise(1, 21, wrapper.stream_width).float())
    assert counter.get_total_flops() == wrapper.executed_flops(21) - wrapper.uncounted_flops(21)


@pytest.mark.parametrize("spec", FORMS)
def test_decoding_is_the_forward_and_the_cache_that_of_the_base(spec: str) -> None:
    model, seq = build(f"{spec}{{{BODY}}}").double(), tokens(2, 23)
    moved(model.blocks)
    logits, state = in_pieces(model, seq, *range(1, 10))
    close(logits, model(seq))
    base, wrapped = build(BODY), build(f"{spec}{{{BODY}}}")
    _, plain = base.prefill(seq, base.init_state(2))
    assert [t.shape for block in state for t in block] == [t.shape for block in plain for t in block]
    counts = [account(s, vocab_size=5, dim=32, seq_len=23) for s in (BODY, f"{spec}{{{BODY}}}")]
    assert counts[0].state == counts[1].state and counts[0].nominal == counts[1].nominal
    wrapper: Any = wrapped.blocks[0]
    assert wrapper.measure_state(23)["growing"] > 0


def literal_gemma(wrapper: Any, x: Tensor) -> Tensor:
    """The published form, one token and one number at a time."""
    k, dim = wrapper.config.k, wrapper.dim

    def rms(v: Tensor) -> Tensor:
        return v.square().mean().sqrt()

    def resize(v: Tensor, like: Tensor) -> Tensor:
        return v * rms(like) / torch.sqrt(v.square().mean().clamp(min=1e-5))

    def modalities(maps: Any, v: Tensor) -> Tensor:
        normed = v / torch.sqrt(v.square().mean() + 1e-6) * maps.norm.weight
        return torch.stack([torch.tanh((maps.router[r] * normed / dim).sum()) for r in range(k)])

    rows, length = x.shape[:2]
    streams = [[[x[b, t]] for t in range(length)] for b in range(rows)]
    for b in range(rows):
        for t in range(length):
            for i in range(k - 1):
                projected = torch.stack([(wrapper.ends.up[i, c] * x[b, t]).sum() for c in range(dim)])
                streams[b][t].append(resize(projected, x[b, t]))
    for block, maps in zip(wrapper.body, wrapper.maps, strict=True):
        predicted = copy.deepcopy(streams)
        for b in range(rows):
            for t in range(length):
                h = streams[b][t]
                m = modalities(maps, h[0])
                flat = torch.stack([(maps.prediction[r].clamp(-120, 120) * m).sum() for r in range(k * k)])
                for i in range(k):
                    predicted[b][t][i] = h[i] + sum(flat[i * k + j] * h[j] for j in range(k))
        active = torch.stack([torch.stack([predicted[b][t][0] for t in range(length)]) for b in range(rows)])
        out = active + block(active)
        for b in range(rows):
            for t in range(length):
                m = modalities(maps, out[b, t])
                innovation = out[b, t] - predicted[b][t][0]
                for i in range(k):
                    c = (maps.correction[i].clamp(-120, 120) * m).sum() + 1
                    streams[b][t][i] = predicted[b][t][i] + c * innovation
    result = torch.zeros_like(x)
    for b in range(rows):
        for t in range(length):
            h = streams[b][t]
            for i in range(k):
                v = h[i]
                if i:
                    v = torch.stack([(wrapper.ends.down[i - 1, c] * h[i]).sum() for c in range(dim)])
                    v = resize(v, h[0])
                result[b, t] += v / k
    return result


@pytest.mark.parametrize("k", [1, 2, 3])
@torch.no_grad()
def test_the_form_of_gemma_3n_is_its_definition(k: int) -> None:
    wrapper = wrapper_of(f"gemma3n-altup[k={k}]{{mh-attention mlp}}", dim=16, away=0.5)
    for maps in wrapper.maps:
        maps.router.mul_(8)  # tanh far from the line, and some coefficients beyond their limit
        maps.prediction[0, 0], maps.correction[0, 0] = 130.0, -140.0
    x = noise(2, 3, 16)
    close(wrapper(x), literal_gemma(wrapper, x))
    close(wrapper(x * 1e-4), literal_gemma(wrapper, x * 1e-4))  # below the floor of the mean square


def test_gemma_3n_begins_as_published() -> None:
    wrapper: Any = build("gemma3n-altup{mh-attention mlp}", dim=64).blocks[0]
    assert wrapper.config.k == 4 and wrapper.active == [0, 0] and wrapper.stream_width == 64
    for maps in wrapper.maps:
        assert maps.prediction.shape == (16, 4) and maps.correction.shape == (4, 4)
        for weight in (maps.router, maps.prediction, maps.correction):
            assert 0.5 * 0.02 < float(weight.detach().std()) < 1.6 * 0.02
    gradients = torch.autograd.grad(wrapper(torch.zeros(1, 3, 64)).sum(), list(wrapper.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in gradients), "a row of zeros has no direction"


def test_coefficients_are_not_decayed() -> None:
    for spec in (*FORMS, "gemma3n-altup"):
        hints = build(f"{spec}{{mlp swiglu}}").hints()
        own = {n: h.decay for n, h in hints.items() if ".body." not in n and n.startswith("blocks.")}
        ends = {n for n in own if ".ends." in n}
        assert own and not any(h for n, h in own.items() if n not in ends) and all(own[n] for n in ends)
        assert hints["blocks.0.body.0.layer.up.weight"].decay


@pytest.mark.parametrize("spec", FORMS)
def test_every_coefficient_moves_the_output(spec: str) -> None:
    wrapper = wrapper_of(f"{spec}{{mlp mlp}}")
    (wrapper(noise(2, 5, wrapper.stream_width)) * noise(2, 5, wrapper.stream_width, seed=4)).sum().backward()
    for n, p in wrapper.named_parameters():
        if ".body." not in n:
            assert p.grad is not None and bool((p.grad != 0).all()), n


def test_the_stream_is_not_rounded_by_autocast() -> None:
    base, wrapped = pair("altup[k=2, recycled=true]", "mlp mlp swiglu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = base(tokens(2, 9)), wrapped(tokens(2, 9))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("readout", ["every", "last"])
def test_embedding_norm_and_readout_are_as_wide_as_the_stream(tied: bool, readout: str) -> None:
    options = architectures.ModelOptions(tied=tied)
    model = build("altup[k=3]{mh-attention mlp}", readout=readout, options=options)
    assert model.width == 96 and model.dim == 32
    assert model.embedding.weight.shape == (5, 96) and model.norm.weight.shape == (96,)
    assert model.head.in_features == 96 and (model.head.weight is model.embedding.weight) == tied
    assert model.head_scale == (96**-0.5 if tied else 1.0)
    logits = model(tokens(2, 11))
    logits.square().sum().backward()
    assert logits.shape == (2, 11, 5) and all(p.grad is not None for p in model.parameters())
    narrow = build("altup[k=3, recycled=true]{mh-attention mlp}")
    assert narrow.width == 32 and narrow.embedding.weight.shape == (5, 32)


@pytest.mark.parametrize(
    "spec",
    [
        "altup{mlp} mlp",
        "mlp altup{mlp}",
        "2*altup{mlp}",
        "repeat{altup{mlp}}",
        "altup{altup{mlp} mlp}",
        "(altup{mlp} + mlp)",
    ],
)
def test_a_wide_stream_is_refused_where_nothing_is_as_wide(spec: str) -> None:
    with pytest.raises(
        ValueError, match=r"64 wide .* only item of a spec; .* or state altup\[recycled=true\]"
    ):
        build(spec)
    build(spec.replace("altup{", "altup[recycled=true]{"))
    build(spec.replace("altup{", "altup[k=1]{"))
    build(spec.replace("altup{", "gemma3n-altup{"))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("altup[k=0]{mlp}", "k=0 must be at least 1"),
        ("altup[form=gemma3n]{mlp}", "write gemma3n-altup"),
        ("gemma3n-altup[recycled=true]{mlp}", "its slices are projections"),
        ("gemma3n-altup[schedule=alternating]{mlp}", "first slice is always the active one"),
        ("altup[schedule=random]{mlp}", "expected alternating or same"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "altup[k=3]{2*(mh-attention moe-mlp)}",
        "altup{repeat[times=1]{mh-attention swiglu} repeat{mamba mlp}}",
        "altup{(delta-net + mh-attention) hyper-connections[streams=2]{mlp}}",
        "repeat{altup[recycled=true]{delta-net (mlp + mamba)}} mlp",
        "altup{altup[recycled=true, k=3]{mlp delta-net} gemma3n-altup{mlp}}",
        "gemma3n-altup{sequence-altup{delta-net} altup[recycled=true]{mlp}}",
        "value-residual{delta-net altup[recycled=true]{delta-net mlp}}",
        "(altup[recycled=true]{mlp} + mamba) mlp",
    ],
)
def test_it_composes(spec: str) -> None:
    model = decodes_and_learns(spec)
    assert account(spec, vocab_size=5, dim=32, seq_len=17).params == parameters_in(model)


def test_experts_inside_report_their_losses() -> None:
    ctx = Context(seed=0)
    logits, losses, _ = build("altup{mh-attention moe-mlp}").call(tokens(2, 9), ctx)
    assert len(losses) == 1 and logits.shape == (2, 9, 5)


def test_a_model_with_a_wide_stream_is_solved_and_batched() -> None:
    solution = architectures.solve("altup{mh-attention swiglu}", params=60_000)
    model = architectures.build(solution.spec, vocab_size=16, dim=solution.dim, max_len=128, seed=0)
    core = parameters_in(model) - parameters_in(model.embedding) - parameters_in(model.head)
    assert abs(core / 60_000 - 1) <= 0.02
    models = [
        architectures.build("altup{delta-net mlp}", vocab_size=5, dim=32, max_len=64, seed=r) for r in (0, 1)
    ]
    parameters, buffers = torch.func.stack_module_state(list(models))
    seq = tokens(2, 9)
    found = torch.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (seq,)))(
        parameters, buffers
    )
    for r, model in enumerate(models):
        torch.testing.assert_close(found[r], model(seq), rtol=0, atol=1e-5)
