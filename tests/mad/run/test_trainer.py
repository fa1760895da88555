import dataclasses
import importlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import architectures
import mad
from architectures.primitive import Context, Primitive
from mad.data.protocol import Protocol, get_protocol
from mad.data.records import Metrics, Record
from mad.run.batched import Batched
from mad.run.batches import load, order
from mad.run.cost import cost_of, training_work
from mad.run.engines import Options, get_engine
from mad.run.learners import Objective, Turns
from mad.run.optim import learning_rate
from mad.run.place import find_place
from mad.run.runner import check_cell, run_group
from mad.run.sweep import Cell, Group, resolve
from mad.run.trainer import Outcome, Progress, Replicas, evaluation_steps, train
from mad.store import Store
from synthetic_tasks import Task
from tests.mad.records import setting

SOUND, PUBLIC = get_protocol("sound"), get_protocol("public-code")
CPU = find_place("cpu")
RECALL = "in-context-recall[vocab_size=8,seq_len=16]"
COPY = "compression[vocab_size=8,seq_len=8]"  # Every position is scored, and the answer is the input.
MODES: list[Replicas] = ["turns", "batched"]
both_modes = pytest.mark.parametrize("replicas", MODES)


def cell(
    given: Any,
    task: str = RECALL,
    *,
    lrs: tuple[float, ...] = (1e-3, 4e-3),
    protocol: Protocol = SOUND,
    compile: bool = False,
    **changes: Any,
) -> Cell:
    """A cell of 24 steps in 4 intervals, unless the changes say otherwise."""
    budget = {"train_examples": 90, "epochs": 8, "batch_size": 32, "evaluations": 4}
    budget |= {"validation_examples": 130, "test_examples": 70}
    at = setting(task, lrs, **(budget | changes))
    who = resolve(given, dim=16, protocol=protocol)
    return Cell(architecture=who, setting=at, protocol=protocol, seeds=(0,), suite="test@1", compile=compile)


def trained(
    given: Any,
    task: str = RECALL,
    *,
    replicas: Replicas = "turns",
    seed: int = 0,
    report: Any = None,
    **changes: Any,
) -> list[Outcome]:
    """What `train` makes of one group."""
    at = cell(given, task, **changes)
    model = at.architecture.build(at.task, seed)
    watch = {} if report is None else {"report": report}
    return train(Group(at, seed).runs, at.task, model, place=CPU, replicas=replicas, **watch)


def curve(outcome: Outcome, field: str = "loss") -> list[float]:
    return [getattr(point, field) for point in outcome.metrics.curve]


def close(ours: list[Outcome], theirs: list[Outcome], rel: float = 1e-5) -> None:
    assert [o.status for o in ours] == [o.status for o in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for field in ("step", "lr", "accuracy", "loss", "train_loss"):
            assert curve(a, field) == pytest.approx(curve(b, field), rel=rel, nan_ok=True), field
        assert (a.metrics.test is None) == (b.metrics.test is None)
        if a.metrics.test is not None and b.metrics.test is not None:
            assert a.metrics.test.loss == pytest.approx(b.metrics.test.loss, rel=rel)
            assert a.metrics.test.hits == b.metrics.test.hits is not None
        assert a.metrics.validation is None or a.metrics.validation.hits is None


# Layers and models of a user's own. They live here, so that `package.module:name` finds them.


class Misbehaving(Primitive):
    """Fails, or returns NaN, as the test says; otherwise nothing."""

    fails: ClassVar[bool] = False

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__(config, **where)
        self.weight = nn.Parameter(torch.zeros(self.dim))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.fails:
            raise RuntimeError("the layer broke its string")
        # NaN as soon as the weight has gone far, as a layer that overflows.
        return x * torch.where(self.weight.abs().amax() > 0.5, math.nan, self.weight)


class Counting(Primitive):
    """Counts training steps in a buffer, and adds the count to what it returns."""

    count: Tensor

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__(config, **where)
        self.register_buffer("count", torch.zeros(()))
        self.weight = nn.Parameter(torch.ones(self.dim))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None:
            ctx.updates["blocks.0.layer.count"] = self.count + 1
        return x * self.weight + 0.1 * self.count


class Taxed(Primitive):
    """Does nothing but ask for a small weight."""

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__(config, **where)
        self.weight = nn.Parameter(torch.full((), 2.0))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None:
            ctx.losses["tax"] = 10 * self.weight.square()
        return torch.zeros_like(x)


class Noisy(Primitive):
    """Multiplies by keyed noise while it is trained."""

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__(config, **where)
        self.weight = nn.Parameter(torch.ones(self.dim))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        noise = None if ctx is None else ctx.noise("noisy", (self.dim,), x)
        return x * self.weight * (1.0 if noise is None else noise)


class Branching(nn.Module):
    """A layer whose path depends on the values that it sees, which vmap cannot follow."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.mean().item() > 0 else -y


class Placing(nn.Module):
    """A layer that puts a new tensor in the place of a buffer."""

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x - self.mean)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * (1 + x.detach().mean((0, 1)))
        return y


class Copier(nn.Module):
    """Answers with the input once its one parameter has become positive; it starts at -1.5."""

    eye: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-1.5))
        self.register_buffer("eye", torch.eye(vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight * self.eye[tokens]


def copier(task: Task) -> nn.Module:
    return Copier(task.vocab_size)


def plain(task: Task) -> nn.Module:
    return nn.Sequential(nn.Embedding(task.vocab_size, 16), nn.Linear(16, task.vocab_size))


def dropping(task: Task) -> nn.Module:
    return nn.Sequential(nn.Embedding(task.vocab_size, 16), nn.Dropout(0.3), nn.Linear(16, task.vocab_size))


def frozen(task: Task) -> nn.Module:
    model = plain(task)
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    return model


def misshapen(task: Task) -> nn.Module:
    return nn.Sequential(nn.Embedding(task.vocab_size, 16), nn.Linear(16, task.vocab_size + 1))


def not_a_model(task: Task) -> Any:
    return [plain(task)]


def own(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Misbehaving, "fails", True)
    return monkeypatch


# Both ways to train a group


def learners(given: Any, task: str, **changes: Any) -> dict[str, dict[str, Tensor]]:
    """Weights and buffers (R, ...) after 24 steps, in each mode, in float64."""
    at = cell(given, task, **changes)
    runs = Group(at, 0).runs
    data = load(at.task, seed=0, split="train", rows=90, device=CPU.device, training=True)
    batches = list(itertools.islice(order(0, 90, 32, CPU.device), 24))
    turns = Turns(at.architecture.build(at.task, 0).double(), runs, CPU)
    batched = Batched(at.architecture.build(at.task, 0).double(), runs, CPU)
    both: list[Turns | Batched] = [turns, batched]
    for learner in both:
        for first in range(0, 24, 8):
            learner.advance(data, batches[first : first + 8], first, [True] * len(runs), lambda r, n: None)
    stacked = [dict(o.named_parameters()) | dict(o.named_buffers()) for o in turns.objectives]
    for r in range(len(runs)):
        for name, weights in batched.model_of(r).named_parameters():
            assert torch.equal(weights, batched.parameters[f"model.{name}"][r])
    return {
        "turns": {name: torch.stack([one[name].detach() for one in stacked]) for name in stacked[0]},
        "batched": {n: t.detach() for n, t in (batched.parameters | batched.buffers).items()},
    }


STRIPES = ["mh-attention swiglu", "mamba", "hyena swiglu", "linear-attention swiglu"]


@pytest.mark.parametrize("task", [RECALL, COPY], ids=["every", "last"])
@pytest.mark.parametrize("spec", STRIPES)
def test_replicas_at_once_end_with_the_weights_of_replicas_in_turns(spec: str, task: str) -> None:
    found = learners(spec, task, weight_decays=(0.0, 0.1))
    assert found["turns"].keys() == found["batched"].keys()
    for name, weights in found["turns"].items():
        torch.testing.assert_close(found["batched"][name], weights, rtol=1e-5, atol=1e-8, msg=name)
    assert not found["turns"]["model.head.weight"][0].equal(found["turns"]["model.head.weight"][1])


@pytest.mark.parametrize("task", [RECALL, COPY], ids=["every", "last"])
@pytest.mark.parametrize("spec", STRIPES)
def test_replicas_at_once_have_the_curves_of_replicas_in_turns(spec: str, task: str) -> None:
    turns, batched = (trained(spec, task, replicas=mode) for mode in MODES)
    assert all(o.note is None for o in batched)
    # float32, in which the two round differently; Adam divides small gradients by small numbers.
    close(batched, turns, rel=2e-4)


@both_modes
def test_a_run_does_not_depend_on_its_group(replicas: Replicas) -> None:
    lrs = (4e-3, 1e-3, 2e-3)
    group = trained("hyena swiglu", lrs=lrs, replicas=replicas)
    for lr, outcome in zip(lrs, group, strict=True):
        close(trained("hyena swiglu", lrs=(lr,)), [outcome], rel=1e-4)


@both_modes
@pytest.mark.parametrize("given", ["mamba swiglu", dropping], ids=["mamba", "dropout"])
def test_a_run_neither_reads_nor_moves_the_global_random_state(given: Any, replicas: Replicas) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append([o.metrics for o in trained(given, replicas=replicas, epochs=2)])
        assert torch.get_rng_state().equal(before)
    assert found[0] == found[1]


def test_dropout_of_the_users_own_is_the_same_in_both_modes_and_off_when_measured() -> None:
    turns, batched = (trained(dropping, replicas=mode) for mode in MODES)
    close(batched, turns, rel=1e-4)
    assert curve(turns[0]) != curve(trained(plain)[0])


def test_a_buffer_that_a_layer_replaces_is_kept_in_both_modes() -> None:
    found = learners(f"{__name__}:Placing", RECALL)
    (turns,) = (value for name, value in found["turns"].items() if name.endswith("mean"))
    (batched,) = (value for name, value in found["batched"].items() if name.endswith("mean"))
    assert turns.abs().max() > 0.1
    torch.testing.assert_close(batched, turns)


def test_the_seed_decides_data_order_and_weights() -> None:
    first, again, other = (trained("hyena swiglu", seed=seed)[0].metrics for seed in (0, 0, 1))
    assert first == again
    assert first.curve != other.curve


@both_modes
def test_what_does_not_ask_for_a_gradient_is_left_alone(replicas: Replicas) -> None:
    at = cell(frozen)
    found = learners(frozen, RECALL, weight_decays=(0.1,))[replicas]
    before = at.architecture.build(at.task, 0).double().state_dict()["0.weight"]
    assert all(weight.equal(before) for weight in found["model.0.weight"])
    assert not found["model.1.weight"][0].equal(found["model.1.weight"][1])


# Learning rate and schedule


@both_modes
@pytest.mark.parametrize("protocol", [SOUND, PUBLIC], ids=lambda p: p.name)
def test_the_curve_tells_the_learning_rate_that_was_applied(protocol: Protocol, replicas: Replicas) -> None:
    outcomes = trained(plain, lrs=(1e-3, 2e-3), protocol=protocol, replicas=replicas)
    for lr, outcome in zip((1e-3, 2e-3), outcomes, strict=True):
        steps = [int(step) for step in curve(outcome, "step")]
        assert steps == [6, 12, 18, 24]
        factors = [learning_rate(protocol.schedule, step - 1, 24) for step in steps]
        assert curve(outcome, "lr") == pytest.approx([lr * factor for factor in factors])
        assert (len(set(curve(outcome, "lr"))) == 1) == (protocol is PUBLIC)


@pytest.mark.parametrize("kind", [Turns, Batched])
def test_the_schedule_reaches_the_optimisers_at_every_step(kind: type[Turns] | type[Batched]) -> None:
    # The first step of Adam is as long as its rate, whatever the gradient: each is the first of a learner.
    at = cell(copier, COPY, lrs=(1e-3, 2e-3), weight_decays=(0.0,))
    data = load(at.task, seed=0, split="train", rows=90, device=CPU.device, training=True)
    for step in (0, 3, 18):
        learner = kind(at.architecture.build(at.task, 0), Group(at, 0).runs, CPU)
        learner.advance(data, [torch.arange(15)], step, [True, True], lambda r, done: None)
        moved = [float(p.detach()) + 1.5 for r in range(2) for p in learner.model_of(r).parameters()]
        rate = learning_rate("cosine", step, 24)
        assert moved == pytest.approx([1e-3 * rate, 2e-3 * rate], rel=2e-2)


def test_the_first_losses_are_what_they_were() -> None:
    # A change here changes every result: raise a version. A part in a thousand is room for other processors.
    found = [curve(o, "train_loss") for o in trained("mh-attention swiglu hyena swiglu", lrs=(2e-3, 8e-3))]
    golden = [[2.149408, 1.995682, 1.900798, 1.866855], [1.970409, 1.531118, 1.393371, 1.363939]]
    assert found == [pytest.approx(losses, rel=1e-3) for losses in golden]


# Stopping


@both_modes
def test_a_solved_group_stops_and_the_others_carry_no_score(replicas: Replicas) -> None:
    outcomes = trained(copier, COPY, lrs=(1e-6, 1.0, 0.5), evaluations=12, replicas=replicas)
    assert [o.status for o in outcomes] == ["stopped", "ok", "stopped"]
    assert [o.metrics.solved for o in outcomes] == [False, True, False]
    for outcome in outcomes:
        assert curve(outcome, "step") == [2] and outcome.metrics.steps == 2
        assert (
            (outcome.metrics.test is None) == (outcome.metrics.validation is None) == (outcome.status != "ok")
        )
    winner = outcomes[1].metrics
    assert winner.validation is not None and winner.validation.micro == 1.0 and winner.validation.rows == 130
    assert winner.test is not None and winner.test.micro == 1.0 and winner.test.rows == 70


@both_modes
def test_replicas_that_solve_at_the_same_point_are_all_ok(replicas: Replicas) -> None:
    outcomes = trained(copier, COPY, lrs=(1e-6, 1.0, 1.1), evaluations=12, replicas=replicas)
    assert [o.status for o in outcomes] == ["stopped", "ok", "ok"]


def test_nobody_is_stopped_at_the_last_step() -> None:
    outcomes = trained(copier, COPY, lrs=(1e-6, 1.0), evaluations=1)
    assert [(o.status, o.metrics.solved, o.metrics.steps) for o in outcomes] == [
        ("ok", False, 24),
        ("ok", True, 24),
    ]
    assert all(o.metrics.test is not None for o in outcomes)


def test_an_unsolved_group_runs_to_the_end() -> None:
    outcomes = trained(copier, COPY, lrs=(1e-6, 1e-5))
    assert [(o.status, o.metrics.steps) for o in outcomes] == [("ok", 24)] * 2


@pytest.mark.parametrize(("protocol", "stops"), [(SOUND, False), (PUBLIC, True)], ids=lambda v: str(v)[:4])
def test_the_split_that_the_protocol_names_decides(
    protocol: Protocol, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Validation targets are made wrong, so that only the test set can be solved.
    def loading(task: Task, *, split: str, **options: Any) -> Any:
        found = load(task, split=split, **options)
        wrong = (found.targets + 1) % task.vocab_size
        return dataclasses.replace(found, targets=wrong) if split == "validation" else found

    monkeypatch.setattr("mad.run.batches.load", loading)
    outcomes = trained(copier, COPY, lrs=(1.0, 1e-6), evaluations=12, protocol=protocol)
    assert (outcomes[0].metrics.steps < 24) == stops
    assert (outcomes[1].status == "stopped") == stops
    last = outcomes[0].metrics.curve[-1]
    watched = outcomes[0].metrics.test if stops else outcomes[0].metrics.validation
    assert (
        watched is not None
        and last.accuracy == watched.accuracy(protocol.metric)
        and last.loss == watched.loss
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 200))
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(steps: int, evaluations: int) -> None:
    ends = list(evaluation_steps(steps, evaluations))
    assert ends[-1] == steps and ends[0] > 0
    assert len(ends) == min(steps, evaluations)
    gaps = [b - a for a, b in itertools.pairwise([0, *ends])]
    assert min(gaps) > 0 and max(gaps) - min(gaps) <= 1


# Divergence


@both_modes
@pytest.mark.parametrize(
    ("given", "bad"),
    [("mh-attention swiglu", 1e30), (own("Misbehaving"), 1.0)],
    ids=["huge-rate", "nan-layer"],
)
def test_a_diverged_replica_harms_no_other(given: str, bad: float, replicas: Replicas) -> None:
    outcomes = trained(given, lrs=(1e-3, bad, 2e-3), replicas=replicas)
    assert [o.status for o in outcomes] == ["ok", "diverged", "ok"]
    lost = outcomes[1].metrics
    assert lost.test is None and lost.validation is None and not lost.solved
    assert lost.curve[-1].loss is None or lost.curve[-1].train_loss is None
    assert lost.steps == lost.curve[-1].step == 6
    close([outcomes[0], outcomes[2]], trained(given, lrs=(1e-3, 2e-3), replicas=replicas), rel=1e-4)


@both_modes
def test_a_group_that_diverged_as_a_whole_ends(replicas: Replicas) -> None:
    outcomes = trained(own("Misbehaving"), lrs=(1.0, 2.0), replicas=replicas)
    assert [(o.status, o.metrics.steps) for o in outcomes] == [("diverged", 6)] * 2


@both_modes
def test_a_diverged_replica_is_not_the_best(replicas: Replicas) -> None:
    seen: list[Progress] = []
    lost: list[Progress] = []
    trained(own("Misbehaving"), lrs=(1.0, 1e-3), replicas=replicas, report=seen.append)
    trained(own("Misbehaving"), lrs=(1.0, 2.0), replicas=replicas, report=lost.append)
    assert seen[-1].accuracy is not None
    assert all(progress.accuracy is None for progress in lost)


@both_modes
def test_progress_counts_every_step(replicas: Replicas) -> None:
    seen: list[Progress] = []
    outcomes = trained(plain, lrs=(1e-3, 2e-3), replicas=replicas, report=seen.append)
    assert {(p.steps, p.replicas) for p in seen} == {(24, 2)}
    of_last = [p.step for p in seen if p.replica == 1]
    assert sorted(set(of_last)) == list(range(1, 25)) and of_last == sorted(of_last)
    assert seen[-1].accuracy == max(max(curve(o, "accuracy")) for o in outcomes)


# What a layer can say


@both_modes
def test_updates_are_written_after_each_step(replicas: Replicas) -> None:
    found = learners(own("Counting"), RECALL)[replicas]
    assert found["model.blocks.0.layer.count"].tolist() == [24, 24]


def test_updates_act_alike_in_both_modes() -> None:
    turns, batched = (trained(f"{own('Counting')} swiglu", replicas=mode) for mode in MODES)
    close(batched, turns, rel=1e-4)


@both_modes
def test_losses_are_added_to_the_training_loss(replicas: Replicas) -> None:
    found = learners(own("Taxed"), RECALL, lrs=(1e-1, 1e-9))[replicas]
    shrunk, kept = found["model.blocks.0.layer.weight"].tolist()
    assert shrunk < 1.0 and kept == pytest.approx(2.0)
    taxed = trained(own("Taxed"), lrs=(1e-9,), replicas=replicas, epochs=2)[0]
    free = trained("swiglu", lrs=(1e-9,), replicas=replicas, epochs=2)[0]
    assert curve(taxed, "train_loss")[0] > 40 > curve(free, "train_loss")[0]
    assert curve(taxed)[0] < 10


def test_noise_is_keyed_and_the_same_for_every_replica() -> None:
    turns, batched = (trained(f"{own('Noisy')} swiglu", replicas=mode) for mode in MODES)
    assert batched[0].note is None
    close(batched, turns, rel=1e-4)


# Models of a user's own


@both_modes
def test_a_whole_model_of_the_users_own_learns(replicas: Replicas) -> None:
    outcomes = trained(plain, COPY, lrs=(1e-2, 3e-2), replicas=replicas, evaluations=24)
    assert all(o.note is None for o in outcomes)
    assert all(curve(o)[-1] < 0.9 * curve(o)[0] for o in outcomes)
    assert [o.metrics.solved for o in outcomes] == [False, True]


def test_a_layer_that_vmap_cannot_follow_is_trained_in_turns_with_a_note() -> None:
    turns, asked = (trained(own("Branching"), replicas=mode) for mode in MODES)
    assert [o.note for o in turns] == [None, None]
    assert all(
        o.note is not None and o.note.startswith("replicas ran in turns: vmap failed (") for o in asked
    )
    assert [o.metrics for o in asked] == [o.metrics for o in turns]


def test_an_error_that_is_not_vmaps_is_raised(broken: Any) -> None:
    with pytest.raises(RuntimeError, match="broke its string"):
        trained(own("Misbehaving"), replicas="batched")


def test_training_in_turns_leaves_the_given_model_as_it_was() -> None:
    at = cell(plain)
    model = at.architecture.build(at.task, 0)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    train(Group(at, 0).runs, at.task, model, place=CPU)
    assert all(p.equal(before[name]) for name, p in model.state_dict().items())


def test_a_place_of_another_precision_is_refused() -> None:
    at = cell(plain)
    with pytest.raises(ValueError, match="precision '32-true', the place is of 'bf16-mixed'.*find_place"):
        train(Group(at, 0).runs, at.task, plain(at.task), place=find_place("cpu", "bf16-mixed"))


@both_modes
def test_mixed_precision_is_near_float32(replicas: Replicas) -> None:
    at = cell("mh-attention swiglu")
    at = dataclasses.replace(at, precision="bf16-mixed")
    model = at.architecture.build(at.task, 0)
    mixed = train(Group(at, 0).runs, at.task, model, place=find_place("cpu", "bf16-mixed"), replicas=replicas)
    for a, b in zip(mixed, trained("mh-attention swiglu"), strict=True):
        assert curve(a) == pytest.approx(curve(b), rel=0.02)
        assert curve(a) != curve(b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@both_modes
def test_compiling_changes_no_curve(replicas: Replicas) -> None:
    eager, compiled = (
        trained("mh-attention swiglu", replicas=replicas, compile=compile, train_examples=96)
        for compile in (False, True)
    )
    assert all(o.note is None for o in compiled)
    close(compiled, eager, rel=2e-4)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "body",
    ["sequence-altup{mlp}", "mixture-of-depths{mlp}", "reversible{mlp mlp}", "bigram-hash{repeat{mlp}}"],
)
def test_a_step_is_compiled_once_whatever_its_number(body: str) -> None:
    torch.compiler.reset()
    counter = CompileCounter()
    model = architectures.build(body, vocab_size=8, dim=16, max_len=8, seed=0)
    objective = Objective(model)
    fast = torch.compile(objective, backend=counter, dynamic=False)
    for step in range(3):
        tokens = torch.randint(8, (2, 8), generator=torch.Generator().manual_seed(step))
        fast(tokens, tokens, *objective.contexts(0, step))
    assert counter.frame_count == 1


def test_the_tenth_model_of_a_process_is_still_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler gives up on a function after eight versions of it; what it compiles to does not matter.
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for vocab_size in range(8, 28, 2):
        counters.clear()
        task = f"compression[vocab_size={vocab_size},seq_len=8]"
        trained(plain, task, compile=True, lrs=(1e-3, 2e-3), epochs=1, evaluations=1)
        assert counters["stats"]["unique_graphs"] > 0, vocab_size


# Devices


@pytest.mark.parametrize(
    ("device", "precision", "answer"),
    [
        ("cpu", "16-mixed", "precision '16-mixed' is not one of 32-true, bf16-mixed"),
        ("tpu", "32-true", "device 'tpu' is not one of auto, cpu, cuda"),
        ("cpu:1", "32-true", "device 'cpu:1' is not one of auto, cpu, cuda"),
        ("cuda:x", "32-true", "device 'cuda:x' is not one of auto, cpu, cuda"),
        ("cuda:", "32-true", "device 'cuda:' is not one of auto, cpu, cuda"),
    ],
)
def test_what_no_machine_has_is_refused(device: str, precision: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        find_place(device, precision)


def test_what_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device, bare in (("cuda", "cuda"), ("cuda:0", "cuda"), ("mps", "mps")):
        with pytest.raises(ValueError, match=f"device '{bare}' is not available here; choose --device cpu"):
            find_place(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="device 'cuda:2': this machine has 2"):
        find_place("cuda:2")


def test_a_place_is_of_the_device_and_precision_asked_for() -> None:
    assert find_place("cpu").device.type == "cpu"
    assert find_place("cpu", "bf16-mixed").precision == "bf16-mixed"


# Records


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return run_group(Group(cell("mh-attention swiglu"), 0), place=CPU)


def test_a_record_says_who_what_where_and_how_long(records: list[Record]) -> None:
    group = Group(cell("mh-attention swiglu"), 0)
    assert [r.id for r in records] == [run.id for run in group.runs] == [r.config.id for r in records]
    assert {(r.group, r.given, r.suite, r.status, r.error) for r in records} == {
        (group.id, "mh-attention swiglu", "test@1", "ok", None)
    }
    for r in records:
        assert r.metrics is not None and r.cost is not None
        assert r.metrics.validation is not None and r.metrics.test is not None
        assert (r.metrics.chance, r.metrics.ceiling, r.metrics.steps) == (0.25, 1.0, 24)
        assert len(r.metrics.curve) == 4
        assert r.cost.seconds > 0 and r.cost.peak_memory is not None and r.cost.peak_memory > 10**7
        assert r.cost.core_params is not None and r.cost.params > r.cost.core_params > 0
        assert r.cost.flops_per_token is not None and r.cost.flops_per_token > r.cost.core_params
        assert r.cost.state is not None and r.cost.state["total"] == r.cost.state["growing"] > 0
        where = ("mad_suite", "torch", "python", "system", "device", "device_name", "threads")
        assert all(r.environment[name] for name in where) and r.environment["device"] == "cpu"
        assert "note" not in r.environment


def test_a_record_survives_json(records: list[Record]) -> None:
    for r in records:
        assert Record.model_validate_json(r.model_dump_json()) == r


def test_the_cost_of_a_model_counts_every_parameter() -> None:
    for who in ("mamba swiglu", own("Branching"), plain):
        at = cell(who)
        model = at.architecture.build(at.task, 0)
        assert cost_of(at).params == sum(p.numel() for p in model.parameters())


def test_a_nested_model_costs_one_pass_to_run_and_those_of_its_draw_to_train() -> None:
    at = cell("matformer-swiglu[draw=joint] matformer-mlp[draw=joint]")
    cost = cost_of(at)
    assert cost.flops_per_token and cost.training_flops_per_token
    assert 1.8 < cost.training_flops_per_token / (3 * cost.flops_per_token) < 4
    assert training_work(at) == cost.training_flops_per_token * training_work(cell("mlp")) / (
        3 * (cost_of(cell("mlp")).flops_per_token or 0)
    )


@pytest.mark.parametrize("given", [plain, own("Noisy")], ids=["factory", "layer"])
def test_flops_that_nobody_defines_are_unknown_and_no_failure(given: Any) -> None:
    at = cell(given)
    assert cost_of(at).flops_per_token is None
    assert {r.status for r in run_group(Group(at, 0), place=CPU)} == {"ok"}


def test_a_diverged_run_is_a_record_that_survives_json() -> None:
    found = run_group(Group(cell(own("Misbehaving"), lrs=(1.0, 1e-3)), 0), place=CPU)
    assert [r.status for r in found] == ["diverged", "ok"]
    assert [Record.model_validate_json(r.model_dump_json()) for r in found] == found


def test_a_note_is_kept_in_the_environment() -> None:
    found = run_group(Group(cell(own("Branching"), epochs=1), 0), place=CPU, replicas="batched")
    assert all("vmap failed" in r.environment["note"] for r in found)


@both_modes
def test_what_a_layer_raises_becomes_a_failed_record(broken: Any, replicas: Replicas) -> None:
    at = cell(own("Misbehaving"))
    found = run_group(Group(at, 0), place=CPU, replicas=replicas)
    assert [r.id for r in found] == [run.id for run in Group(at, 0).runs]
    for r in found:
        assert r.status == "failed" and r.metrics is None
        assert r.error is not None and "RuntimeError: the layer broke its string" in r.error
        assert Record.model_validate_json(r.model_dump_json()) == r


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (misshapen, r"returned \(2, 16, 9\) for tokens \(2, 16\).*\(B, T, vocab_size\) = \(2, 16, 8\)"),
        (not_a_model, "returned a list .*an nn.Module"),
    ],
)
def test_a_model_of_the_wrong_shape_is_refused_before_training(given: Any, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        check_cell(cell(given))


@pytest.mark.parametrize("given", ["mamba swiglu", own("Branching"), plain], ids=["ours", "layer", "factory"])
def test_a_model_of_the_right_shape_passes(given: Any) -> None:
    for task in (RECALL, COPY):
        check_cell(cell(given, task))


# The inline engine


@dataclass
class Engine:
    """Runs groups against one store and remembers which of them were trained."""

    store: Store | None
    trained: list[tuple[str, int]]

    def run(
        self, *cells: Cell, report: Callable[[Group, Progress], None] | None = None
    ) -> list[list[Record]]:
        def note(group: Group, progress: Progress) -> None:
            spec = group.cell.architecture.config.spec
            if (spec, group.seed) not in self.trained:
                self.trained.append((spec, group.seed))
            if report is not None:
                report(group, progress)

        groups = [group for at in cells for group in at.groups()]
        return [
            found for _, found in get_engine("inline")(groups, self.store, Options(place=CPU, report=note))
        ]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Store(tmp_path / "runs.sqlite") as store:
        yield Engine(store, [])


def short(given: Any, **changes: Any) -> Cell:
    return cell(given, epochs=2, evaluations=2, **changes)


def test_a_second_call_repeats_nothing(engine: Engine) -> None:
    cells = [short("swiglu"), dataclasses.replace(short("mlp"), seeds=(0, 1))]
    first = engine.run(*cells)
    assert engine.trained == [("swiglu", 0), ("mlp", 0), ("mlp", 1)]
    assert engine.store is not None and len(engine.store.records()) == 6
    engine.trained.clear()
    assert engine.run(*cells) == first
    assert engine.trained == []


def test_a_stopped_group_is_not_repeated(engine: Engine) -> None:
    at = cell(own("copier"), COPY, lrs=(1e-6, 1.0), evaluations=12)
    assert [r.status for r in engine.run(at)[0]] == ["stopped", "ok"]
    engine.trained.clear()
    assert [r.status for r in engine.run(at)[0]] == ["stopped", "ok"]
    assert engine.trained == []


def test_a_stopped_run_is_repeated_for_a_grid_in_which_nobody_stops_it(engine: Engine) -> None:
    engine.run(cell(own("copier"), COPY, lrs=(1e-6, 1.0), evaluations=12))
    (found,) = engine.run(cell(own("copier"), COPY, lrs=(1e-6, 1e-5), evaluations=12))
    assert [(r.status, r.metrics and r.metrics.steps) for r in found] == [("ok", 24), ("ok", 24)]
    assert engine.store is not None and len(engine.store.records()) == 3


def test_a_wider_grid_keeps_what_is_stored(engine: Engine) -> None:
    (narrow,) = engine.run(short("swiglu", lrs=(1e-3,)))
    engine.run(short("swiglu", lrs=(1e-3, 2e-3)))
    assert engine.store is not None and len(engine.store.records()) == 2
    assert engine.store.get(narrow[0].id) == narrow[0]


def test_a_failed_group_is_run_again(engine: Engine, broken: pytest.MonkeyPatch) -> None:
    at = short(own("Misbehaving"))
    (failed,), (fine,) = engine.run(at), engine.run(short("swiglu"))
    assert {r.status for r in failed} == {"failed"} and {r.status for r in fine} == {"ok"}
    assert engine.store is not None and engine.store.get(failed[0].id) is not None
    broken.setattr(Misbehaving, "fails", False)
    engine.run(at)
    stored = [engine.store.get(r.id) for r in failed]
    assert [(r.status, r.attempts, r.error) for r in stored if r] == [("ok", 2, None)] * 2


def test_an_interruption_is_recorded_and_run_again(engine: Engine) -> None:
    def interrupt(group: Group, progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    before, at, after = short("mlp"), short("swiglu"), short("hyena")
    engine.run(before)
    with pytest.raises(KeyboardInterrupt):
        engine.run(before, at, after, report=interrupt)
    assert engine.store is not None
    lost = [engine.store.get(run.id) for run in at.groups()[0].runs]
    assert [(r.status, r.metrics) for r in lost if r] == [("interrupted", None)] * 2
    assert len(engine.store.records()) == 4
    undisturbed = trained("swiglu", epochs=2, evaluations=2)
    engine.run(before, at, after)
    found = [engine.store.get(run.id) for run in at.groups()[0].runs]
    assert [(r.status, r.attempts) for r in found if r] == [("ok", 2)] * 2
    measured: list[Metrics | None] = [r.metrics for r in found if r]
    assert measured == [o.metrics for o in undisturbed]
    assert len(engine.store.records()) == 6


def test_an_interruption_leaves_stored_runs_of_the_group_alone(engine: Engine) -> None:
    (narrow,) = engine.run(short("swiglu", lrs=(1e-3,)))

    def interrupt(group: Group, progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(short("swiglu", lrs=(1e-3, 2e-3)), report=interrupt)
    assert engine.store is not None and engine.store.get(narrow[0].id) == narrow[0]
    assert sorted(r.status for r in engine.store.records()) == ["interrupted", "ok"]


def test_a_nameless_factory_and_a_run_without_a_store_leave_no_trace(engine: Engine) -> None:
    def local(task: Task) -> nn.Module:
        return plain(task)

    (found,) = engine.run(short(local))
    assert [r.status for r in found] == ["ok", "ok"]
    assert engine.store is not None and len(engine.store.records()) == 0
    assert Engine(None, []).run(short("swiglu"))[0][0].status == "ok"


def test_one_hot_logits_are_what_the_copier_answers() -> None:
    tokens = torch.tensor([[1, 0]])
    assert Copier(3)(tokens).equal(-1.5 * F.one_hot(tokens, 3))


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "7", "GROUP_RANK": "1"},
    ],
    ids=["slurm", "torchrun"],
)
def test_a_run_is_one_process_whatever_a_cluster_has_set(
    variables: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert engine.store is not None
    engine.run(short("swiglu"))
    assert [record.status for record in engine.store.records()] == ["ok", "ok"]


@pytest.mark.parametrize(
    "value, left", [("x", False), ("", False), ("1.5", False), ("3", True), ("-1", True)]
)
def test_a_rank_that_is_not_a_number_is_none(value: str, left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"]
    for name in names:
        monkeypatch.setenv(name, value)
    importlib.reload(mad)
    assert [name in os.environ for name in names] == 4 * [left]
