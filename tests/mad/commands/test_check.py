"""`mad check`: a right layer passes, and each wrong one fails in the one check that is about its error."""

import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mad
import mad.cli
from architectures.contract.checkup import CHECKS, examine
from architectures.contract.subject import Finding
from tests.commands import Command

LAYERS = '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from architectures import Hint, Primitive, option
from architectures.functional.scan import linear_scan


class Good(Primitive):
    """h_t = a h_{t-1} + W x_t: (B, T, D) -> (B, T, D)."""

    state_kinds = ("recurrent",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        start: float = option(0.9, "initial a")

    def __init__(self, config, *, dim, max_len, index=0, depth=1):
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.into = nn.Linear(dim, dim, bias=False)
        self.logit = nn.Parameter(torch.full((dim,), config.start).logit())

    def read(self, x):
        return self.into(x)

    def forward(self, x, ctx=None):
        a = self.logit.sigmoid()
        return linear_scan(a.expand_as(x), self.read(x).to(a.dtype))

    def init_state(self, batch, length=None):
        self.check_length(length)
        return (self.logit.new_zeros(batch, self.dim),)

    def step(self, x, state, ctx=None):
        h = self.logit.sigmoid() * state[0] + self.read(x)
        return h, (h,)

    def flops(self, length):
        return 2 * length * self.dim**2 + self.uncounted_flops(length)

    def uncounted_flops(self, length):
        return 2 * length * self.dim


class Builds(Good):
    def __init__(self, config, *, dim, **rest):
        if dim % 32:
            raise ValueError(f"dim {dim} is not a multiple of 32")
        super().__init__(config, dim=dim, **rest)


class Shape(Good):
    def forward(self, x, ctx=None):
        return super().forward(x).squeeze(1)


class Repeatable(Good):
    def forward(self, x, ctx=None):
        return super().forward(x) + 0 * torch.rand(1, dtype=x.dtype)


class Float64(Good):
    def read(self, x):
        return self.into(x).float().to(x.dtype)


class Causality(Good):
    step = Primitive.step

    def forward(self, x, ctx=None):
        return super().forward(x) + torch.nn.functional.pad(x, (0, 0, 0, 2))[:, 2:]


class Rows(Good):
    def read(self, x):
        return self.into(x) - x.mean(0)


class Recurrence(Good):
    def step(self, x, state, ctx=None):
        h = self.logit.sigmoid() ** 2 * state[0] + self.read(x)
        return h, (h,)


class Prefill(Good):
    def prefill(self, x, state, ctx=None):
        y = self.forward(x)
        return y, (y[:, -1],)


class Step(Good):
    def step(self, x, state, ctx=None):
        h = state[0].mul_(self.logit.sigmoid()).add_(self.read(x))
        return h.clone(), (h,)


class State(Good):
    def measure_state(self, length):
        return {"recurrent": 2 * self.dim, "conv": 0, "growing": 0, "total": 2 * self.dim}


class Growth(Good):
    state_kinds = ("recurrent", "recurrent")

    def init_state(self, batch, length=None):
        return *super().init_state(batch, length), self.logit.new_zeros(batch, 0, self.dim)

    def step(self, x, state, ctx=None):
        h, _ = super().step(x, state)
        return h, (h, torch.cat([state[1], x[:, None]], dim=1))


class MaxLen(Good):
    def init_state(self, batch, length=None):
        return super().init_state(batch)


class Gradients(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.spare = nn.Parameter(torch.ones(dim))


class Slope(Good):
    def read(self, x):
        u = self.into(x)
        return u.square().detach() + u - u.detach()


class LoudInputs(Good):
    def read(self, x):
        return self.into(x) + 0.01 * x.exp()


class Bfloat16(Good):
    def read(self, x):
        return self.into(x) + 100 - 100


class Kept(Good):
    def forward(self, x, ctx=None):
        self.last = x.detach()
        return super().forward(x)


class Seed(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.logit = nn.Parameter(0 * self.logit.detach() + np.random.rand())


class Vmap(Good):
    def forward(self, x, ctx=None):
        y = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        y += super().forward(x)
        return y


class Compile(Good):
    def forward(self, x, ctx=None):
        torch._dynamo.graph_break()
        return super().forward(x)


class Meta(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.scale = float(self.logit.detach().sum())


class Flops(Good):
    def flops(self, length):
        return 4 * length * self.dim**2 + self.uncounted_flops(length)


class Hints(Good):
    def hints(self):
        return {"decay": Hint(decay=False)}


class Options(Good):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        start: float = 0.9


class Dropout(nn.Module):
    def __init__(self, dim, width=1):
        super().__init__()
        self.map, self.drop = nn.Linear(dim, dim), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.map(x))


class Centred(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        return self.map(x - x.mean(1, keepdim=True))


class Normed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x):
        return self.norm(x.mT).mT


class Encoder(nn.Module):
    """Thousands of ReLUs: a long step along the slope crosses the kink of one."""

    def __init__(self, dim):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(dim, 4, batch_first=True)

    def forward(self, x):
        return self.inner(x)


class Both(Good):
    """All that a layer may declare instead."""

    causal = False

    def forward(self, x, ctx=None):
        return super().forward(x) + super().forward(x.flip(1)).flip(1)

    def flops(self, length):
        return 4 * length * self.dim**2 + self.uncounted_flops(length)

    def uncounted_flops(self, length):
        return 4 * length * self.dim


class Reversed(Good):
    """A leak of the gradient that no value shows."""

    step = Primitive.step

    def forward(self, x, ctx=None):
        later = x.sum(1, keepdim=True)
        return super().forward(x) + later - later.detach()


class Detached(Good):
    """A leak of a value that no gradient shows."""

    step = Primitive.step

    def forward(self, x, ctx=None):
        return super().forward(x) + x.detach().amax(1, keepdim=True)


class Rounded(Good):
    """A leak of the last bit."""

    step = Primitive.step

    def forward(self, x, ctx=None):
        n = 2 * x.shape[1]
        a = self.logit.sigmoid().sqrt()[:, None] ** torch.arange(x.shape[1])
        spectrum = torch.fft.rfft(self.read(x).mT, n) * torch.fft.rfft(a, n)
        return torch.fft.irfft(spectrum, n)[..., : x.shape[1]].mT


class Declared(Rounded):
    exact_causality = False


class Numpy(Good):
    def forward(self, x, ctx=None):
        return super().forward(x) + np.random.rand()


class Edits(Good):
    def read(self, x):
        return self.into(x.mul_(2))


class Counts(Good):
    calls = 0

    def forward(self, x, ctx=None):
        self.calls += 1
        return super().forward(x)


class Writes(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, x, ctx=None):
        self.mean.add_(x.detach().mean((0, 1)))
        return super().forward(x)


class Holds(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.scale = torch.ones(dim)


class Contextless(Good):
    def forward(self, x):
        return super().forward(x)


class Infinite(Good):
    def forward(self, x, ctx=None):
        return super().forward(x) / (torch.arange(x.shape[1]) != 6).to(x)[:, None]


class Doubles(Good):
    def forward(self, x, ctx=None):
        return super().forward(x).double()


class Singles(Good):
    def forward(self, x, ctx=None):
        return super().forward(x).float()


class Tail(Good):
    """What one call of prefill hands over is not what the next expects."""

    def prefill(self, x, state, ctx=None):
        y, (h,) = super().prefill(x, state)
        state[0].zero_()
        return y, (h,)


class Alone(Good):
    def read(self, x):
        return self.into(x) * x.shape[0]


class OneRow(Good):
    def init_state(self, batch, length=None):
        return super().init_state(1, length)


class Kinds(Good):
    state_kinds = ("recurrent", "conv")


class Triple(Good):
    def step(self, x, state, ctx=None):
        h, state = super().step(x, state)
        return h[:, None], state


class Bare(Good):
    def step(self, x, state):
        return super().step(x, state)


class Twice(torch.autograd.Function):
    """Its rule for vmap is not what it does without."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g

    @staticmethod
    def vmap(info, in_dims, x):
        return 3 * x, in_dims[0]


class Folds(Good):
    def read(self, x):
        return Twice.apply(self.into(x))


class Nominal(Good):
    def nominal_state(self, length):
        return 0.5


class Squares(Good):
    """A growing state, but not in proportion."""

    state_kinds = ("growing",)

    def measure_state(self, length):
        return {"recurrent": 0, "conv": 0, "growing": length**2, "total": length**2}


class Rewrites(Good):
    """All earlier inputs, as they have decayed."""

    state_kinds = ("growing",)

    def init_state(self, batch, length=None):
        self.check_length(length)
        return (self.logit.new_zeros(batch, 0, self.dim),)

    def step(self, x, state, ctx=None):
        kept = torch.cat([self.logit.sigmoid() * state[0], self.read(x)[:, None]], dim=1)
        return kept.sum(1), (kept,)


class Zeros(Good):
    def read(self, x):
        return self.into(x) + 0 * self.logit.sum() * x if x.dim() == 2 else self.into(x)

    def forward(self, x, ctx=None):
        return linear_scan(torch.full_like(x, 0.9), self.into(x)) + 0 * self.logit


class Cheap(Good):
    def executed_flops(self, length):
        return self.flops(length) - 1


class Order(Good):
    def read(self, x):
        return self.into(x) + torch.arange(len(x)).to(x).view(-1, *[1] * (x.dim() - 1))


class Late(Good):
    """A leak where it is trained, in float32, and nowhere else."""

    step = Primitive.step

    def forward(self, x, ctx=None):
        y = super().forward(x)
        return y if x.dtype == torch.float64 else y + x.sum(1, keepdim=True)


class Blind(Good):
    step = Primitive.step

    def forward(self, x, ctx=None):
        return self.logit.expand(x.shape).clone()


class Total(Good):
    def measure_state(self, length):
        return {"recurrent": self.dim, "conv": 0, "growing": 0, "total": 2 * self.dim}


class Unused(Good):
    """Three experts that no token is sent to."""

    routed = ("experts",)

    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.experts = nn.Parameter(torch.ones(4, dim))

    def read(self, x):
        return self.into(x) * self.experts[0]


class Estimate(Slope):
    straight_through = True


class Opened(Good):
    """Away from its initial zero, what autocast rounds is large."""

    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        self.shift = nn.Parameter(torch.zeros(dim))

    def read(self, x):
        u = self.into(x)
        far = (1e5 * self.shift).to(u.dtype)
        return u + far - far


class Draws(Good):
    def __init__(self, config, *, dim, **rest):
        super().__init__(config, dim=dim, **rest)
        np.random.rand()


class Thrice(Twice):
    """Its rule for vmap is wrong in float32 alone."""

    @staticmethod
    def vmap(info, in_dims, x):
        return (2 if x.dtype == torch.float64 else 3) * x, in_dims[0]


class FoldsSingle(Good):
    def read(self, x):
        return Thrice.apply(self.into(x))


class NoDefault(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()


class BadConfig(Good):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        start: float = option(0.9, "initial a")

        def __post_init__(self):
            raise KeyError("start")


class NoModule:
    pass
'''


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("layers")
    (path / "checked_layers.py").write_text(LAYERS)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    yield path
    sys.path.remove(str(path))
    sys.modules.pop("checked_layers", None)


def failed(findings: list[Finding]) -> dict[str, Finding]:
    return {found.check: found for found in findings if found.result == "failed"}


# The class, the one check that it fails, the smallest input that shows it, and words of what is seen.
BROKEN = [
    ("Builds", "builds", None, ["width 16", "dim 16 is not a multiple of 32", "checked_layers.py, line 51"]),
    ("Shape", "shape", (1, 1, 16), ["(1, 1, 16)", "(1, 16)"]),
    ("Repeatable", "repeatable", (1, 1, 16), ["random state of torch", "ctx.noise"]),
    ("Float64", "float64", (1, 1, 16), ["rounded to float32", "promote_types"]),
    ("Causality", "causality", (1, 3, 16), ["T=3", "position 0 changes", "token 2 changes"]),
    ("Rows", "rows", (2, 1, 16), ["row 0 changes", "row 1"]),
    ("Recurrence", "recurrence", (1, 2, 16), ["T=2", "step and forward differ", "position 1"]),
    ("Prefill", "prefill", (1, 3, 16), ["T=3", "pieces at 1, 2", "position 1"]),
    ("Step", "step", (1, 1, 16), ["step edits tensor 0", "in place"]),
    ("State", "state", (1, 1, 16), ["1 rows hold 16 recurrent", "measure_state says 32"]),
    ("Growth", "growth", (1, 1024, 16), ["recurrent state goes from", "'growing'"]),
    ("MaxLen", "max-len", None, ["init_state(2, 17)", "check_length"]),
    ("Gradients", "gradients", (1, 80, 16), ["no gradient: spare"]),
    ("Slope", "slope", (1, 1, 16), ["T=1", "the gradient says", "the loss"]),
    ("LoudInputs", "loud-inputs", (1, 1, 16), ["100 times", "not finite"]),
    ("Bfloat16", "bfloat16", (1, 1, 16), ["under autocast", "differ"]),
    ("Kept", "kept", (1, 1, 16), ["'last'", "keeps nothing"]),
    ("Edits", "kept", (1, 1, 16), ["edits its input"]),
    ("Seed", "seed", None, ["logit differs", "one seed"]),
    ("Vmap", "vmap", (1, 1, 16), ["RuntimeError", "[3, 1, 1, 16]", "checked_layers.py, line"]),
    ("Meta", "meta", None, ["item", "meta", "checked_layers.py, line"]),
    ("Flops", "flops", (1, 2, 16), ["T=2", "counter saw 1,024", "uncounted_flops"]),
    ("Hints", "hints", None, ["'decay'", "into.weight, logit"]),
    ("Options", "options", None, ["'start'", "option("]),
]


@pytest.mark.parametrize(("name", "check", "smallest", "words"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_wrong_layer_fails_in_its_check_alone_at_the_smallest_input(
    name: str, check: str, smallest: tuple[int, int, int] | None, words: list[str]
) -> None:
    wrong = failed(mad.check(f"checked_layers:{name}", dim=32))
    assert list(wrong) == [check], wrong
    assert wrong[check].smallest == smallest
    assert all(word in wrong[check].seen for word in words), wrong[check].seen
    if smallest is not None:
        (again,) = mad.check(f"checked_layers:{name}", only=[check], size=smallest)
        assert again.result == "failed" and again.seen == wrong[check].seen


# Other ways to fail a check: the class, the check, the smallest input, words.
FURTHER = [
    ("Reversed", "causality", (1, 2, 16), ["T=2", "before position 1 have a gradient of", "token 1"]),
    ("Detached", "causality", (1, 2, 16), ["T=2", "position 0 changes", "token 1 changes"]),
    ("Rounded", "causality", (1, 2, 16), ["exact_causality = False"]),
    ("Numpy", "repeatable", (1, 1, 16), ["random state of numpy"]),
    ("Counts", "kept", (1, 1, 16), ["'calls'"]),
    ("Writes", "kept", (1, 1, 16), ["'mean'", "ctx.updates"]),
    ("Holds", "kept", (1, 1, 16), ["'scale'", "register_buffer"]),
    ("Contextless", "shape", (1, 1, 16), ["TypeError", "positional"]),
    ("Infinite", "shape", (1, 7, 16), ["16 of 112 outputs are not finite"]),
    ("Doubles", "shape", (1, 1, 16), ["float32 input gives float64"]),
    ("Singles", "float64", (1, 1, 16), ["float64 layer gives float32"]),
    ("Tail", "step", (1, 1, 16), ["prefill edits tensor 0"]),
    ("Alone", "rows", (2, 1, 16), ["row 0 alone differs", "batch of 2"]),
    ("OneRow", "state", (2, 1, 16), ["init_state(2)"]),
    ("Kinds", "state", (1, 1, 16), ["ValueError", "state_kinds"]),
    ("Triple", "recurrence", (1, 1, 16), ["(1, 1, 16)", "(B, D) to (B, D)"]),
    ("Bare", "recurrence", (1, 1, 16), ["TypeError", "positional"]),
    ("Folds", "vmap", (1, 1, 16), ["outputs under vmap differ from the loop by 0.5"]),
    ("Nominal", "state", (1, 1, 16), ["nominal_state(1) is 0.5"]),
    ("Squares", "growth", (1, 1024, 16), ["in proportion"]),
    ("Rewrites", "state", (1, 1, 16), ["earlier tokens left in tensor 0", "rewrites = True"]),
    ("Zeros", "gradients", (1, 80, 16), ["a zero gradient: logit"]),
    ("Order", "rows", (2, 1, 16), ["in another order"]),
    ("Late", "causality", (1, 2, 16), ["T=2", "before position 1 have a gradient of", "token 1"]),
    ("Total", "state", (1, 1, 16), ["1 rows hold 16 total", "measure_state says 32"]),
    ("Opened", "bfloat16", (1, 1, 16), ["under autocast", "differ"]),
    ("Draws", "seed", None, ["building draws from the random state of numpy"]),
    ("FoldsSingle", "vmap", (1, 1, 16), ["outputs under vmap differ from the loop by 0.5"]),
    ("Cheap", "flops", (1, 1, 16), ["at most executed"]),
]


@pytest.mark.parametrize(("name", "check", "smallest", "words"), FURTHER, ids=[row[0] for row in FURTHER])
def test_a_check_sees_every_side_of_its_question(
    name: str, check: str, smallest: tuple[int, int, int] | None, words: list[str]
) -> None:
    (found,) = mad.check(f"checked_layers:{name}", dim=32, only=[check])
    assert found.result == "failed" and found.smallest == smallest, found
    assert all(word in found.seen for word in words), found.seen


def test_the_rounding_of_a_transform_is_no_leak_where_it_is_declared() -> None:
    (found,) = mad.check("checked_layers:Declared", dim=32, only=["causality"])
    assert found.result == "passed" and "rounding" in found.seen


def test_every_slice_of_a_routed_tensor_is_used_over_a_large_batch() -> None:
    (found,) = mad.check("checked_layers:Unused", dim=48, only=["gradients"])
    assert found.result == "failed" and found.smallest == (1, 80, 48)
    assert found.seen == "3 of 4 slices of experts have no gradient over 96 rows"
    (found,) = mad.check("sparse-mlp", dim=32, only=["gradients"])
    assert found.result == "passed"


def test_what_is_declared_or_has_no_answer_is_said() -> None:
    (slope,) = mad.check("checked_layers:Estimate", dim=16, only=["slope"])
    assert slope.result == "not applicable" and "straight_through" in slope.seen
    (causality,) = mad.check("checked_layers:Blind", dim=16, only=["causality"])
    assert causality.result == "not applicable" and "no output has a gradient" in causality.seen


def test_every_check_has_a_layer_that_fails_it() -> None:
    assert {row[1] for row in BROKEN} | {"compile"} == set(CHECKS)


@pytest.mark.filterwarnings("default")
def test_compilation_is_checked_when_asked_for() -> None:
    (found,) = mad.check("checked_layers:Compile", compile=True, only=["compile"], dim=16)
    assert found.result == "failed" and "graph" in found.seen
    (found,) = mad.check("checked_layers:Good", only=["compile"], size=(2, 5, 16))
    assert found.result == "passed", "named, it needs no flag"
    unasked = mad.check("checked_layers:Good", dim=16)[-1]
    assert (unasked.check, unasked.result) == ("compile", "not run") and "--compile" in unasked.seen


@pytest.mark.parametrize(
    "spec", ["checked_layers:Good[start=0.5]", "mamba", "hyena[tied=4, positions=learned]", "mh-attention"]
)
def test_a_right_layer_passes_everything(spec: str) -> None:
    findings = mad.check(spec, dim=16)
    assert {found.check for found in findings} == set(CHECKS)
    assert {found.check for found in findings if found.result != "passed"} == {"compile"}


@pytest.mark.parametrize(
    ("spec", "skipped"),
    [
        ("swiglu", {"step": "no state"}),
        ("checked_layers:Both", {"causality": "causal = False", "recurrence": "causal = False"}),
        ("checked_layers:Causality", {"recurrence": "no step", "growth": "no step"}),
        ("checked_layers:Dropout", {"recurrence": "plain nn.Module", "flops": "counter", "max-len": "plain"}),
    ],
)
def test_what_does_not_apply_says_why(spec: str, skipped: dict[str, str]) -> None:
    findings = {found.check: found for found in mad.check(spec, dim=16)}
    for check, reason in skipped.items():
        assert findings[check].result == "not applicable" and reason in findings[check].seen
    assert set(failed(list(findings.values()))) <= {"causality"}


@pytest.mark.parametrize(
    "spec",
    [
        "lsh-attention[causal=false]",
        "repeat{encoder-attention}",
        "altup[recycled=true]{mlp lsh-attention[causal=false]}",
    ],
)
def test_a_layer_whose_options_or_body_see_later_tokens_is_not_asked_about_them(spec: str) -> None:
    findings = {found.check: found for found in mad.check(spec, dim=16)}
    assert "causal = False" in findings["causality"].seen and not failed(list(findings.values()))


@pytest.mark.parametrize("spec", ["lsh-attention[window=7]", "repeat{hyena}"])
def test_rounding_that_options_or_a_body_bring_is_declared(spec: str) -> None:
    (found,) = mad.check(spec, dim=16, only=["causality"])
    assert found.result == "passed" and "but for rounding" in found.seen


def test_plain_modules_are_asked_in_both_modes() -> None:
    leak = failed(mad.check("checked_layers:Centred", dim=16))
    assert list(leak) == ["causality"] and leak["causality"].smallest == (1, 2, 16)
    assert "training" not in leak["causality"].seen
    norm = failed(mad.check("checked_layers:Normed", dim=16))
    assert set(norm) == {"causality", "rows"}
    assert all("in training mode" in found.seen for found in norm.values())
    assert norm["rows"].smallest == (2, 1, 16), "one row of one token is refused, which is another failure"


def test_a_plain_module_that_is_not_told_the_width_is_pointed_to_it() -> None:
    (found,) = mad.check("torch.nn:Softplus", only=["builds"])
    assert found.result == "passed" and "the constructor takes no argument dim" in found.seen
    (found,) = mad.check("checked_layers:Centred", only=["builds"])
    assert "argument" not in found.seen


def test_a_window_fills_before_its_state_is_constant() -> None:
    (found,) = mad.check("attention[window=300]", dim=16, only=["growth"])
    assert found.result == "passed" and "constant" in found.seen
    (found,) = mad.check("mamba", only=["growth"], size=(1, 1, 16))
    assert found.result == "passed"


@pytest.mark.parametrize("spec", ["hca[stride=5]", "hca[stride=100]", "csa[stride=3]"])
def test_entries_of_several_tokens_grow_in_proportion_whatever_their_number(spec: str) -> None:
    (found,) = mad.check(spec, dim=16, only=["growth"])
    assert found.result == "passed" and "in proportion" in found.seen, found.seen


def test_a_kink_is_no_wrong_gradient() -> None:
    (found,) = mad.check("checked_layers:Encoder", dim=32, only=["slope"])
    assert found.result == "passed", found.seen


def test_noise_under_vmap_is_run_and_not_compared() -> None:
    (found,) = mad.check("checked_layers:Dropout", dim=16, only=["vmap"])
    assert found.result == "passed" and "not compared" in found.seen


def test_later_checks_wait_for_what_they_need() -> None:
    findings = {found.check: found for found in mad.check("checked_layers:Builds", dim=32)}
    assert {found.result for found in findings.values()} == {"failed", "not run"}
    assert "'builds'" in findings["causality"].seen
    findings = {found.check: found for found in mad.check("checked_layers:Singles", dim=32)}
    assert findings["recurrence"].result == "passed", "asked in float32 instead"
    assert findings["slope"].result == "not run"


def test_widths_that_stated_options_forbid_are_no_failure() -> None:
    built, shape = mad.check("attention[heads=3]", dim=48, only=["builds", "shape"])
    assert built.result == shape.result == "passed" and "refuse 16, 64, 80" in built.seen
    (found,) = mad.check("attention[heads=3]", only=["builds"])
    assert found.result == "failed" and "64 is not divisible by heads 3" in found.seen


def test_the_layers_own_exception_can_be_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAD_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="broadcast"):
        examine("checked_layers:Vmap", only=["vmap"], size=(1, 1, 16))


def test_no_module_hides_a_public_function() -> None:
    importlib.import_module("mad.commands.check")
    for name in mad.__all__:
        assert callable(getattr(mad, name))
        assert not any((Path(mad.__file__).parent / f).exists() for f in (f"{name}.py", name))


def test_the_command_prints_a_table_and_its_status_counts_failures(cli: Command) -> None:
    status, out, err = cli("check", "checked_layers:Good", "--dim", "16")
    assert status == 0 and err == "" and "23 passed, 1 not run" in out
    words = ["check", "checked_layers:Causality[start=0.5]", "--dim", "32"]
    status, out, _ = cli(*words)
    assert status == 1
    assert all(word in out for word in ("check ", "result ", "what was seen", "1 failed", "not applicable"))
    assert "T=3: output at position 0 changes by" in out and "when token 2 changes" in out
    assert "smallest input: batch 1, length 3, width 16" in out
    line = next(line for line in out.splitlines() if "mad check" in line)
    again = shlex.split(line.partition("mad check")[2])
    status, out, _ = cli("check", *again, "--format", "json")
    (found,) = json.loads(out)
    assert status == 1 and found["check"] == "causality" and "T=3: output at position 0" in found["seen"]


REFUSED = [
    (["mambaa"], "mambaa", "did you mean"),
    (["mamba[d_stat=4]"], "d_stat", "d_state"),
    (["mamba swiglu"], "several layers", "name one"),
    (["transformer++"], "several layers", "name one"),
    (["(mamba + hyena)"], "several layers", "name one"),
    (["no_such_module_here:Layer"], "no_such_module_here", "install"),
    (["checked_layers:Goood"], "Goood", "Good"),
    (["checked_layers:NoModule"], "NoModule", "nn.Module"),
    (["checked_layers:NoDefault"], "heads", "default"),
    (["checked_layers:BadConfig"], "KeyError", "Config"),
    (["mamba", "--only", "causalty"], "causalty", "causality"),
    (["mamba", "--only", ","], "no check", "causality"),
    (["mamba", "--dim", "50"], "50", "divisible by 16"),
    (["mamba", "--size", "1,2"], "1,2", "batch,length,width"),
    (["mamba", "--size", "0,2,16"], "(0, 2, 16)", "below 1"),
    (["mamba", "--format", "md"], "md", "table, json"),
    ([], "spec", "--help"),
]


@pytest.mark.parametrize(("words", "value", "remedy"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_bad_input_gets_one_line_and_status_2(
    words: list[str], value: str, remedy: str, cli: Command
) -> None:
    status, out, err = cli("check", *words)
    assert status == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert value in err and remedy in err
