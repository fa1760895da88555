"""Sparse feed-forward, sparse attention, the multiplicative map and the SRU (arXiv:2111.12763)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import architectures
from architectures.functional.weighted_rows import row_products
from architectures.parts.linear import MultiplicativeLinear
from architectures.primitive import Context
from architectures.primitives.sparse_mlp import SparseMLP
from architectures.primitives.sru import SimpleRecurrentUnit
from tests.architectures import helpers
from tests.architectures.helpers import in_pieces, layer_of, noise, parameters_in, stacked

DIM = 32
make = partial(layer_of, away=0.1)
close = partial(helpers.close, atol=1e-12)


# Sparse feed-forward.


def plain_units(layer: SparseMLP, x: Tensor) -> Tensor:
    """One token x (D,): the chosen unit of each block, by loops."""
    assert layer.reduce is not None
    logits = (layer.reduce.weight @ x) @ layer.choose + layer.choose_bias
    n = layer.config.block
    return torch.stack([b * n + logits[b * n : (b + 1) * n].argmax() for b in range(layer.inner // n)])


def plain_sparse(layer: SparseMLP, x: Tensor) -> Tensor:
    """One token, from the definition: a sum over the chosen units."""
    y = torch.zeros_like(x) if layer.down_bias is None else layer.down_bias.clone()
    for f in plain_units(layer, x):
        h = layer.up[f] @ x + (0 if layer.up_bias is None else layer.up_bias[f])
        y = y + F.relu(h) * layer.down[f]
    return y


@pytest.mark.parametrize("options", ["", "inner=96, block=8, rank=5", "block=64, bias=true, rescale=true"])
def test_forward_and_step_are_the_sum_over_the_chosen_units(options: str) -> None:
    layer = make(f"sparse-mlp[{options}]" if options else "sparse-mlp")
    x = noise(2, 5, DIM)
    expected = torch.stack([torch.stack([plain_sparse(layer, t) for t in row]) for row in x])
    close(layer(x), expected)
    for t in range(5):
        close(layer.step(x[:, t], ())[0], expected[:, t])


@pytest.mark.parametrize("options", ["block=16", "block=32, rank=4, multiply=true", "bias=true", "sru=8"])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_gathered_inference_equals_masked_evaluation(options: str, batch: int) -> None:
    layer = make(f"sparse-mlp[{options}]")
    x = noise(batch, DIM)
    state = layer.init_state(batch)
    close(layer.step(x, state)[0], layer(x[:, None])[:, 0])


class Shapes(TorchDispatchMode):
    """The largest result of every operator: a copy of a whole matrix would show."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else [out]
        found = [t for t in results if isinstance(t, Tensor)]
        if not any(getattr(t, "_is_view", bool)() for t in found):
            self.largest = max([self.largest, *(t.numel() for t in found)])
        return out


@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_reads_one_row_a_block_of_each_matrix_and_no_other(batch: int) -> None:
    layer = make("sparse-mlp[inner=128, block=16]")
    x = noise(batch, DIM)
    expected = layer.step(x, ())[0].detach()
    rows = torch.cat([plain_units(layer, row) for row in x])
    assert len(rows) == batch * 128 // 16
    unread = torch.ones(128, dtype=torch.bool)
    unread[rows] = False
    assert int(unread.sum()) >= 128 - len(rows)
    for matrix in (layer.up, layer.down):
        matrix.data[unread] = torch.nan
    with torch.no_grad(), Shapes() as shapes:
        y = layer.step(x, ())[0]
    assert torch.equal(y, expected)
    assert shapes.largest < layer.up.numel()
    # Each of the rows is read: one that is poisoned spoils the output.
    for matrix in (layer.up, layer.down):
        for row in plain_units(layer, x[0]):
            kept = matrix.data[row].clone()
            matrix.data[row] = torch.nan
            assert bool(layer.step(x, ())[0][0].isnan().any())
            matrix.data[row] = kept


def test_blocks_of_one_are_the_dense_layer_without_a_controller() -> None:
    layer = make("sparse-mlp[block=1, bias=true]")
    x = noise(2, 7, DIM)
    dense = F.linear(F.relu(F.linear(x, layer.up, layer.up_bias)), layer.down.mT, layer.down_bias)
    assert layer.reduce is None and {n for n, _ in layer.named_parameters()} == {
        "up",
        "down",
        "up_bias",
        "down_bias",
    }
    close(layer(x), dense)
    close(layer(x, Context(seed=0)), dense)


def masks(layer: SparseMLP, x: Tensor, steps: int) -> list[Tensor]:
    return [layer.mask(x, Context(seed=4, step=s)) for s in range(steps)]


def test_without_noise_one_unit_a_block_is_used() -> None:
    layer = make("sparse-mlp")
    m = layer.mask(noise(3, 9, DIM))
    assert torch.equal(m.sum(-1), torch.ones(3, 9, 8, dtype=m.dtype))
    assert set(m.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(m, layer.mask(noise(3, 9, DIM), Context()))


def test_three_steps_in_ten_are_one_hot_and_the_others_the_softmax() -> None:
    layer = make("sparse-mlp").requires_grad_(False)
    x = noise(1, 2, DIM)
    soft = layer._logits(x).softmax(-1)
    found, steps = masks(layer, x, 1000), 1000
    hard = [m for m in found if float(m.max(-1).values.min()) == 1]
    assert abs(len(hard) / steps - 0.3) < 0.05  # three standard deviations are 0.043
    for m in found:
        close(m.sum(-1), torch.ones_like(m.sum(-1)))
    rest = [m for m in found if float(m.max(-1).values.min()) != 1]
    assert all(torch.equal(m, soft) for m in rest)
    # The noise is small: mostly the best unit, sometimes another one.
    same = torch.stack([(m.argmax(-1) == soft.argmax(-1)).double().mean() for m in hard]).mean()
    assert 0.3 < float(same) < 1


def test_the_choice_is_that_of_logits_with_a_tenth_of_gumbel_noise() -> None:
    layer = make("sparse-mlp").requires_grad_(False)
    layer.path = "blocks.7.layer"
    x = noise(1, 6, DIM)
    logits = layer._logits(x)
    for step in range(40):
        ctx = Context(seed=4, step=step)
        u = ctx.noise("blocks.7.layer/gumbel", tuple(logits.shape), logits)
        draw = ctx.noise("blocks.7.layer/hard", (), logits)
        assert u is not None and draw is not None
        gumbel = -torch.log(-torch.log(u.clamp(1e-6, 1 - 1e-6)))
        expected = (logits.log_softmax(-1) + 0.1 * gumbel).argmax(-1)
        m = layer.mask(x, ctx)
        if float(draw) < 0.3:
            assert torch.equal(m.argmax(-1), expected)
        assert (float(m.max(-1).values.min()) == 1) == (float(draw) < 0.3)


def test_a_one_hot_step_computes_the_hard_mask() -> None:
    layer = make("sparse-mlp").requires_grad_(False)
    x = noise(2, 6, DIM)
    step = next(s for s, m in enumerate(masks(layer, x, 50)) if float(m.max(-1).values.min()) == 1)
    ctx = Context(seed=4, step=step)
    m = layer.mask(x, ctx).detach().round()
    expected = (F.relu(x @ layer.up.mT) * m.flatten(-2)) @ layer.down
    close(layer(x, ctx), expected)


def test_the_straight_through_gradient_is_the_jacobian_of_the_softmax() -> None:
    layer = make("sparse-mlp[inner=32, block=4]")
    x, weight = noise(1, 3, DIM), noise(1, 3, 8, 4, seed=5)
    parameters = [layer.reduce.weight, layer.choose, layer.choose_bias]
    for ctx in (None, Context(seed=4, step=2), Context(seed=4, step=5)):
        found = torch.autograd.grad((layer.mask(x, ctx) * weight).sum(), parameters)
        expected = torch.autograd.grad((layer._logits(x).softmax(-1) * weight).sum(), parameters)
        for a, b in zip(found, expected, strict=True):
            close(a, b)


def test_on_a_soft_step_the_gradient_is_the_slope() -> None:
    layer = make("sparse-mlp[inner=32, block=4, sru=4]", dim=16)
    x = noise(1, 3, 16).requires_grad_()
    step = next(s for s, m in enumerate(masks(layer, x, 50)) if float(m.detach().max(-1).values.min()) < 1)
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        bound = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, bound, (x, Context(seed=4, step=step)))

    assert torch.autograd.gradcheck(call, (x, *parameters.values()), fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("slope", ["all", "chosen"])
def test_multiplied_units_train_as_the_public_code_has_it(slope: str) -> None:
    """A soft step has the softmax once; a one-hot step has it as a constant, beside the straight-through."""
    layer = make(f"sparse-mlp[inner=32, block=4, bias=true, multiply=true, slope={slope}]")
    x, parameters, kinds = noise(2, 5, DIM), dict(layer.named_parameters()), set()
    for step in (None, *range(8)):
        ctx = None if step is None else Context(seed=4, step=step)
        draw = None if ctx is None else ctx.noise(f"{layer.path}/hard", (), x)
        soft = layer._logits(x).softmax(-1).flatten(-2)
        h = F.linear(x, layer.up, layer.up_bias)
        if draw is None or draw < 0.3:
            one = (layer.mask(x, ctx) > 0).flatten(-2)
            m = one + soft - soft.detach()
            h = (F.relu(h) * m if slope == "all" else F.relu(h * m)) * soft.detach()
        else:
            h = F.relu(h) * soft
        expected, found = h @ layer.down + layer.down_bias, layer(x, ctx)
        close(found, expected)
        slopes = [torch.autograd.grad(y.square().sum(), list(parameters.values())) for y in (found, expected)]
        for a, b in zip(*slopes, strict=True):
            close(a, b)
        kinds.add(None if draw is None else bool(draw < 0.3))
    assert kinds == {None, True, False}


@pytest.mark.parametrize(("slope", "teach"), [("all", "positive"), ("chosen", "positive and chosen")])
def test_which_units_teach_the_controller(slope: str, teach: str) -> None:
    layer = make(f"sparse-mlp[inner=64, block=16, slope={slope}]")
    x = noise(1, 1, DIM)
    units = (x @ layer.up.mT).detach().flatten() > 0
    chosen = layer.mask(x).detach().flatten() > 0.5
    kept: dict[str, Tensor] = {}
    mask = layer.mask

    def leaf(x: Tensor, ctx: Context | None = None) -> Tensor:
        kept["m"] = mask(x, ctx).detach().requires_grad_()
        return kept["m"]

    object.__setattr__(layer, "mask", leaf)
    layer(x).square().sum().backward()
    assert kept["m"].grad is not None
    reached = kept["m"].grad.flatten() != 0
    assert torch.equal(reached, units if teach == "positive" else units & chosen)


def test_replicas_share_the_noise_and_equal_the_loop() -> None:
    layers = [make("sparse-mlp", seed=s) for s in range(3)]
    x = noise(2, 5, DIM)
    for step in range(6):
        ctx = Context(seed=4, step=step)
        together = torch.vmap(
            lambda p, ctx=ctx: torch.func.functional_call(layers[0], p, (x, ctx)), randomness="same"
        )(stacked(layers))
        for r, layer in enumerate(layers):
            close(together[r], layer(x, ctx))


def test_counts_are_the_closed_forms() -> None:
    layer = make("sparse-mlp[inner=128, block=16, rank=6]")
    controller = DIM * 6 + 6 * 128
    assert parameters_in(layer) == 2 * 128 * DIM + controller + 128
    assert layer.active_params() == 2 * 8 * DIM + controller + 128
    assert layer.flops(7) == 7 * (4 * DIM * 8 + 2 * controller + 8)
    # Shares of the dense weights in the paper's shapes, as published.
    for d, inner, n, r, share in ((1024, 4096, 64, 64, 0.055), (9216, 65536, 256, 32, 0.0059)):
        account = architectures.account(
            f"1*sparse-mlp[inner={inner}, block={n}, rank={r}]", vocab_size=2, dim=d, seq_len=4
        )
        assert account.layers[0].active / (2 * d * inner) == pytest.approx(share, rel=0.03)


def test_initialisation() -> None:
    model = architectures.build("1*sparse-mlp[block=64]", vocab_size=2, dim=256, max_len=4, seed=0)
    layer = model.layers()[0][1]
    assert isinstance(layer, SparseMLP) and layer.reduce is not None
    found = {
        layer.up: 256 + 1024,
        layer.down: 256 + 1024,
        layer.reduce.weight: 256 + 16,
        layer.choose: 16 + 1024,
    }
    for tensor, fans in found.items():
        bound = (6 / fans) ** 0.5
        assert 0.98 * bound < float(tensor.detach().abs().max()) <= bound
    assert 0 < float(layer.choose_bias.detach().std()) < 2e-6
    wide = architectures.build(
        "1*sparse-mlp[block=64, rescale=true]", vocab_size=2, dim=256, max_len=4, seed=0
    )
    torch.testing.assert_close(wide.layers()[0][1].down, 8 * layer.down)


def test_whole_blocks_are_independent() -> None:
    small, large = make("sparse-mlp[inner=64, rank=6]"), make("sparse-mlp[inner=96, rank=6]", seed=2)
    with torch.no_grad():
        for name, p in large.named_parameters():
            q = dict(small.named_parameters())[name]
            if name == "choose":
                p[:, :64] = q
            else:
                p[: q.shape[0]] = q
        large.down[64:] = 0
    close(large(noise(2, 5, DIM)), small(noise(2, 5, DIM)))


def test_a_model_in_bfloat16_decodes() -> None:
    layer = make("sparse-mlp[sru=8]").to(torch.bfloat16)
    x = noise(1, DIM).to(torch.bfloat16)
    assert layer.step(x, layer.init_state(1))[0].dtype == torch.bfloat16


# Rows.


@pytest.mark.parametrize("in_dims", [(0, None, None), (0, 0, 0), (None, 0, 0), (0, None, 1), (1, 0, 0)])
def test_row_products_are_those_of_an_index_with_replicas_too(in_dims: tuple[int | None, ...]) -> None:
    sizes = [(7, 5), (3, 4), (3, 5)]
    shapes = [[*s] if d is None else [*s[:d], 2, *s[d:]] for s, d in zip(sizes, in_dims, strict=True)]
    table, x = noise(*shapes[0]).requires_grad_(), noise(*shapes[2], seed=2).requires_grad_()
    indices = torch.randint(7, shapes[1], generator=torch.Generator().manual_seed(0))

    def plain(table: Tensor, indices: Tensor, x: Tensor) -> Tensor:
        return (F.embedding(indices, table) * x[:, None]).sum(-1)

    found = []
    for call in (row_products, plain):
        y = torch.vmap(call, in_dims=in_dims)(table, indices, x)
        found.append((y, *torch.autograd.grad((y * noise(*y.shape, seed=3)).sum(), (table, x))))
    for a, b in zip(*found, strict=True):
        close(a, b)


def test_row_products_have_the_right_slope_twice() -> None:
    indices = torch.tensor([[0, 3], [2, 2]])
    inputs = noise(4, 5).requires_grad_(), noise(2, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, x: row_products(t, indices, x), inputs)


# The multiplicative map.


@pytest.mark.parametrize(("parts", "outputs"), [(4, 24), (1, 24), (24, 24), (5, 33)])
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_the_multiplicative_map_is_its_sum(parts: int, outputs: int, rows: int) -> None:
    layer = MultiplicativeLinear(24, parts, outputs).double()
    x = noise(rows, 24)
    expected = torch.zeros(rows, outputs, dtype=x.dtype)
    for j in range(outputs):
        s, m = divmod(j, layer.width)
        for i in range(24):
            expected[:, j] += x[:, i] * layer.scale[s, i] * layer.shared[i, m]
    close(layer(x), expected.detach())
    close(layer(x.unflatten(0, (rows, 1)))[:, 0], expected.detach())
    assert parameters_in(layer) == 24 * (parts + -(-outputs // parts))


def test_the_multiplicative_map_realises_any_permutation_exactly() -> None:
    layer = MultiplicativeLinear(24, 4, 24).double()
    for seed in range(5):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for p in layer.parameters():
                p.zero_()
            for j, i in enumerate(order.tolist()):
                s, m = divmod(j, 6)
                layer.scale[s, i] = layer.shared[i, m] = 1
        for rows in (1, 30):
            x = noise(rows, 24)
            assert torch.equal(layer(x), x[:, order])


def test_initial_factors_and_the_published_count() -> None:
    torch.manual_seed(0)
    layer = MultiplicativeLinear(1024, 16, 1024)
    assert parameters_in(layer) == 81_920
    assert float(layer.scale.detach().std()) == pytest.approx(0.5, rel=0.02)
    assert 0.99 < float(layer.shared.detach().abs().max()) / (6 / (1024 + 64)) ** 0.5 <= 1
    with torch.device("meta"):
        model = architectures.build(
            "1*sparse-attention[modules=16]", vocab_size=2, dim=1024, max_len=4, seed=0
        )
    assert sum(p.numel() for p in model.layers()[0][1].parameters()) == 167_936


# Sparse attention.


def plain_attention(layer: Any, x: Tensor) -> Tensor:
    """One row x (T, D), from the definition, loops over outputs of the convolution."""
    length, (s_all, m) = x.shape[0], (layer.parts, layer.width)
    taps, kernel = layer.config.conv, layer.config.kernel
    z = torch.einsum("ti,si,im->tsm", x, layer.mix.scale, layer.mix.shared)
    w = layer.query_key.weight.unflatten(1, (kernel, taps, m))  # (2 M, module, token, channel)
    wv = layer.value.weight.unflatten(1, (taps, m))
    qk, v = x.new_zeros(length, s_all, 2 * m), x.new_zeros(length, s_all, m)
    for t in range(length):
        for s in range(s_all):
            for f in range(taps):
                at = t - (taps - 1) + f
                if at < 0:
                    continue
                v[t, s] += wv[:, f] @ z[at, s]
                for o in range(kernel):
                    beside = s + o - kernel // 2
                    if 0 <= beside < s_all:
                        qk[t, s] += w[:, o, f] @ z[at, beside]
    q, k = qk[..., :m].flatten(1), qk[..., m:].flatten(1)
    q, k, v = (y.flatten(1).unflatten(1, (layer.heads, layer.key_dim)) for y in (q, k, v))
    if layer.config.rope:
        half = layer.key_dim // 2
        rate = 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = torch.arange(length, dtype=x.dtype)[:, None, None] * rate
        q, k = (
            torch.cat(
                [
                    y[..., :half] * angle.cos() - y[..., half:] * angle.sin(),
                    y[..., half:] * angle.cos() + y[..., :half] * angle.sin(),
                ],
                dim=-1,
            )
            for y in (q, k)
        )
    scores = torch.einsum("thk,shk->hts", q, k) * layer.key_dim**-0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    found = torch.einsum("hts,shv->thv", scores.softmax(-1), v).flatten(1)
    return found if layer.out is None else layer.out(found)


OPTIONS = ["", "[modules=4, heads=2]", "[conv=1, kernel=1]", "[kernel=5, conv=2, out=true]", "[rope=false]"]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 2, 17])
def test_sparse_attention_is_its_definition(options: str, length: int) -> None:
    layer = make(f"sparse-attention{options}")
    x = noise(2, length, DIM)
    expected = torch.stack([plain_attention(layer, row) for row in x])
    close(layer(x), expected.detach(), atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS)
def test_decoding_with_the_convolution_state_equals_forward(options: str) -> None:
    layer = make(f"sparse-attention{options}")
    x = noise(2, 40, DIM)
    close(in_pieces(layer, x, *range(20, 40))[0], layer(x))
    # A state that forgets its convolution inputs does not.
    if layer.config.conv > 1:
        _, state = layer.prefill(x[:, :20], layer.init_state(2))
        wrong = layer.step(x[:, 20], (*state[:3], torch.zeros_like(state[3])))[0]
        assert float((wrong - layer(x)[:, 20]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("options", OPTIONS)
def test_sparse_attention_does_not_see_the_future(options: str) -> None:
    layer = make(f"sparse-attention{options}")
    x = noise(1, 12, DIM).requires_grad_()
    for t in (0, 5, 10):
        (gradient,) = torch.autograd.grad(layer(x)[:, t].square().sum(), x)
        assert gradient[:, t].abs().max() > 0 and gradient[:, t + 1 :].abs().max() == 0


# SRU.


def plain_sru(unit: Any, u: Tensor) -> Tensor:
    """u (T, N) -> y (T, D), token by token."""
    n = unit.width
    w, b = unit.gates.weight, unit.gates.bias
    c, outputs = u.new_zeros(n), []
    for token in u:
        f = torch.sigmoid(w[:n] @ token + b[:n])
        r = torch.sigmoid(w[n : 2 * n] @ token + b[n : 2 * n])
        c = f * c + (1 - f) * (w[2 * n :] @ token + b[2 * n :])
        outputs.append(unit.up.weight @ (r * c + (1 - r) * token * 3**0.5))
    return torch.stack(outputs)


@pytest.mark.parametrize("length", [1, 5, 37])
def test_the_sru_is_its_recurrence(length: int) -> None:
    layer = make("sru[width=12]")
    assert isinstance(layer, SimpleRecurrentUnit)
    x = noise(2, length, DIM)
    expected = torch.stack([plain_sru(layer.unit, row @ layer.unit.down.weight.mT) for row in x])
    close(layer(x), expected.detach(), atol=1e-11)
    state = layer.init_state(2)
    for t in range(length):
        y, state = layer.step(x[:, t], state)
        close(y, expected[:, t].detach(), atol=1e-11)
    assert layer.measure_state(length)["recurrent"] == 12


def test_the_sru_beside_a_sparse_layer_is_added_and_is_its_state() -> None:
    layer = make("sparse-mlp[sru=6]")
    x = noise(2, 9, DIM)
    bare = make("sparse-mlp")
    bare.load_state_dict({n: p for n, p in layer.state_dict().items() if not n.startswith("sru.")})
    beside = torch.stack([plain_sru(layer.sru, row @ layer.sru.down.weight.mT) for row in x])
    close(layer(x), (bare(x) + beside).detach(), atol=1e-11)
    assert layer.measure_state(9)["total"] == 6 and bare.measure_state(9)["total"] == 0
    count = 2 * 6 * DIM + 3 * 6 * 6 + 3 * 6
    assert parameters_in(layer) - parameters_in(bare) == count


def test_gates_at_their_extremes_are_finite() -> None:
    for sign in (-1, 1):
        layer = make("sru").float()
        with torch.no_grad():
            layer.unit.gates.bias.fill_(sign * 1e4)
        x = noise(1, 40, DIM).float().requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        assert x.grad is not None and bool(torch.isfinite(y).all() and torch.isfinite(x.grad).all())


# The readout, the whole model, and what is refused.


def test_a_sparse_readout_is_the_multiplicative_map_and_is_counted() -> None:
    options = architectures.ModelOptions(readout_sparsity=4)
    where: dict[str, Any] = {"vocab_size": 30, "dim": 64}
    model = architectures.build("1*mlp", **where, max_len=8, seed=0, options=options)
    tokens = torch.arange(8)[None]
    assert model(tokens).shape == (1, 8, 30)
    dense = architectures.account("1*mlp", **where, seq_len=8)
    sparse = architectures.account("1*mlp", **where, seq_len=8, options=options)
    assert dense.embedding == 2 * 30 * 64
    assert sparse.embedding == 30 * 64 + 64 * 4 + 64 * 8  # 30 / 4 rounded up
    assert sparse.params == parameters_in(model)
    assert sparse.core == dense.core
    # The same products, 32 columns for 30, and the scaling of 8 rows.
    assert sparse.flops - dense.flops == 2 * 64 * 2 + 64 * 4
    state = model.init_state(1)
    for t in range(8):
        y, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(y, model(tokens)[:, t])


def test_a_model_of_sparse_layers_decodes_what_it_computes() -> None:
    model = architectures.build(
        "2*(sparse-attention sparse-mlp[sru=8])",
        vocab_size=30,
        dim=64,
        max_len=20,
        seed=0,
        options=architectures.ModelOptions(readout_sparsity=2),
    ).double()
    tokens = torch.randint(30, (2, 20), generator=torch.Generator().manual_seed(0))
    state = model.init_state(2)
    for t in range(20):
        y, state = model.step(tokens[:, t], state)
        close(y, model(tokens)[:, t], atol=1e-11)


def test_impossible_readouts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        architectures.ModelOptions(readout_sparsity=-1)
    with pytest.raises(ValueError, match="cannot be tied"):
        architectures.ModelOptions(readout_sparsity=2, tied=True)
    with pytest.raises(ValueError, match="choose at most 5"):
        architectures.build(
            "1*mlp",
            vocab_size=5,
            dim=16,
            max_len=4,
            seed=0,
            options=architectures.ModelOptions(readout_sparsity=6),
        )
