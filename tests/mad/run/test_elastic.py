"""Nested models in training: which sizes a step uses, what the optimiser does, and `mad elastic`."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures
from architectures.elastic import Sampling, extract, nested_layers
from architectures.primitive import Context
from mad.data.records import RunConfig
from mad.run.batched import Batched
from mad.run.batches import Split
from mad.run.elastic import compare, summarise
from mad.run.learners import Objective, Turns
from mad.run.metrics import cross_entropy
from mad.run.runner import check_cell
from mad.run.sweep import Group, resolve
from tests.commands import Command
from tests.mad.run.test_trainer import CPU, MODES, SOUND, cell, close, trained

COPY = "compression[vocab_size=8,seq_len=8]"


def nested(draw: str = "uniform") -> str:
    return f"matformer-attention[draw={draw}] matformer-mlp[draw={draw}]"


def rows(seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(8, (12, 8), generator=generator)
    return Split(None, inputs, inputs.flip(1))  # type: ignore[arg-type]


def group(spec: str, **changes: Any) -> tuple[torch.nn.Module, list[RunConfig]]:
    at = cell(spec, COPY, **changes)
    return at.architecture.build(at.task, 0), Group(at, 0).runs


@pytest.mark.parametrize("draw", ["uniform", "w1-0-0-3", "joint"])
def test_batched_replicas_train_as_in_turns(draw: str) -> None:
    turns, batched = (
        trained(nested(draw), COPY, replicas=replicas, epochs=2, evaluations=2) for replicas in MODES
    )
    close(turns, batched, rel=1e-4)


def test_a_step_is_taken_at_the_size_that_seed_and_step_draw() -> None:
    model, runs = group(nested())
    sampling = Sampling.of(model)
    learner, data, batch = Turns(model, runs[:1], CPU), rows(), torch.arange(12)
    trained_model = learner.objectives[0].model
    sizes = [sampling.draw(0, step) for step in range(40)]
    assert set(sizes) == {0, 1, 2, 3}
    for size in (0, 1, 2, 3):
        step = sizes.index(size)
        gradients: dict[str, torch.Tensor] = {}
        for name, p in trained_model.named_parameters():
            p.register_hook(lambda g, name=name, found=gradients: found.__setitem__(name, g))
        before = {n: p.clone() for n, p in trained_model.named_parameters()}
        learner.optimizers[0].adamw.zero_grad()
        learner.advance(data, [batch], step, [True], lambda r, s: None)
        for path, layer in nested_layers(trained_model).items():
            for name, kept in layer.prefix(size).items():
                whole = trained_model.get_parameter(f"{path}.{name}")
                outside = torch.ones_like(whole, dtype=torch.bool)
                outside[tuple(slice(n) for n in kept.shape)] = False
                found = gradients[f"{path}.{name}"]
                assert bool((found[outside] == 0).all()) and bool((found[~outside] != 0).any())
        assert any(not torch.equal(p, before[n]) for n, p in trained_model.named_parameters())


def test_joint_training_adds_the_losses_of_all_sizes() -> None:
    model, _ = group(nested("joint"))
    assert isinstance(model, architectures.SequenceModel)
    objective, data = Objective(model), rows()
    loss, _ = objective(data.inputs, data.targets, *objective.contexts(0, 0))
    parts = [cross_entropy(extract(model, g)(data.inputs), data.targets) for g in range(4)]
    torch.testing.assert_close(loss, torch.stack(parts).sum())
    single, _ = Objective(group(nested())[0])(data.inputs, data.targets, Context(granularity=1))
    torch.testing.assert_close(single, parts[1])


def test_evaluation_uses_the_whole_model_or_its_static_size() -> None:
    model, runs = group(nested())
    assert isinstance(model, architectures.SequenceModel)
    data = rows()
    for size in (3, 1):
        for layer in nested_layers(model).values():
            layer.granularity = size
        expected = float(cross_entropy(extract(model, size)(data.inputs).detach(), data.targets))
        for learner in (Turns(model, runs, CPU), Batched(model, runs, CPU)):
            assert [m.loss for m in learner.measure(data, 8)] == pytest.approx(2 * [expected], rel=1e-5)


@pytest.mark.parametrize("kind", [Turns, Batched])
def test_rows_that_were_not_drawn_move_as_plain_adamw_moves_them(kind: Any) -> None:
    """Their gradient is zero, not absent: momentum carries them on, and weight decay pulls them."""
    draw = "w1-0-0-1"
    model, runs = group(nested(draw), lrs=(1e-2, 2e-2))
    runs = [run.model_copy(update={"weight_decay": 0.1}) for run in runs]
    sizes = [Sampling.of(model).draw(0, step) for step in range(30)]
    first = next(s for s in range(29) if sizes[s] == 3 and sizes[s + 1] == 0)
    learner, data, batch = kind(model, runs, CPU), rows(), torch.arange(12)
    name = "blocks.1.layer.up.weight"

    def row() -> torch.Tensor:
        if kind is Turns:
            return learner.objectives[0].model.get_parameter(name).detach()[-1].clone()
        return learner.parameters[f"model.{name}"].detach()[0, -1].clone()

    def moments() -> tuple[torch.Tensor, torch.Tensor]:
        """Of that row."""
        if kind is Turns:
            parameter = learner.objectives[0].model.get_parameter(name)
            state = learner.optimizers[0].adamw.state[parameter]
            return state["exp_avg"][-1].clone(), state["exp_avg_sq"][-1].clone()
        index = list(learner.parameters).index(f"model.{name}")
        return learner.optimizer.means[index][0, -1].clone(), learner.optimizer.squares[index][0, -1].clone()

    tick = [True, True]
    learner.advance(data, [batch], first, tick, lambda r, s: None)
    before = row()
    m, v = moments()
    learner.advance(data, [batch], first + 1, tick, lambda r, s: None)
    from mad.run.optim import learning_rate

    lr, (b1, b2) = 1e-2 * learning_rate("cosine", first + 1, runs[0].steps), SOUND.betas
    step = (b1 * m / (1 - b1**2)) / ((b2 * v / (1 - b2**2)).sqrt() + SOUND.eps)
    torch.testing.assert_close(row(), before * (1 - lr * 0.1) - lr * step, rtol=1e-4, atol=1e-7)
    assert not torch.equal(row(), before)


def test_what_cannot_be_trained_is_refused_before_any_training() -> None:
    with pytest.raises(ValueError, match="drawn in 2 ways"):
        check_cell(cell("matformer-mlp matformer-mlp[draw=joint]"))
    with pytest.raises(ValueError, match="encoder-attention sees later positions: .* compression"):
        check_cell(cell("encoder-attention mlp"))
    check_cell(cell("encoder-attention mlp", COPY))


def test_how_sizes_are_drawn_is_part_of_a_runs_identity() -> None:
    ids = {
        resolve(nested(draw), dim=16, protocol=SOUND).config.model_dump_json()
        for draw in ("uniform", "joint")
    }
    assert len(ids) == 2


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "draw, replicas",
    [
        ("uniform", "turns"),
        pytest.param("uniform", "batched", marks=pytest.mark.slow),
        pytest.param("joint", "turns", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_nested_model_trains_the_same(
    draw: str, replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # Three models of three sizes are more than the eight versions that the compiler keeps by itself.
    spec, lrs = f"matformer-mlp[granularities=3, draw={draw}]", (1e-3, 2e-3, 4e-3)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        eager, fast = (
            trained(spec, COPY, lrs=lrs, replicas=replicas, compile=compile, epochs=4, evaluations=1)
            for compile in (False, True)
        )
    assert all(outcome.note is None for outcome in fast)
    close(fast, eager, rel=1e-4)


def test_one_training_is_compared_with_a_training_a_size() -> None:
    lines: list[str] = []
    points = compare(nested(), suite="smoke", tasks=["compression"], times=1, report=lines.append)
    kinds = [point.kind for point in points]
    assert kinds == 4 * ["nested"] + ["mixed"] * kinds.count("mixed") + 4 * ["alone"] + 3 * ["cut"]
    assert kinds.count("mixed") == 3 and len(lines) == 5
    sizes = {k: [p.params for p in points if p.kind == k] for k in ("nested", "alone", "cut")}
    assert sizes["nested"] == sizes["alone"] == sorted(sizes["nested"]) and sizes["cut"] == sizes["alone"][:3]
    for point in points:
        assert 0 <= point.accuracy <= 1 and point.steps == 8
        assert (point.sizes != (3, 3)) or (point.agreement == 1 and abs(point.kl) < 1e-6)
    again = compare(nested(), suite="smoke", tasks=["compression"], times=1)
    assert again == points
    assert [row["kind"] for row in summarise(points + again)] == kinds
    with pytest.raises(ValueError, match="times=0 must be at least 1"):
        compare(nested(), suite="smoke", tasks=["compression"], times=0)


def test_the_verb_prints_writes_and_plots(tmp_path: Path, cli: Command) -> None:
    plot, data = tmp_path / "sizes.svg", tmp_path / "sizes.json"
    words = ["matformer-mlp", "--suite", "smoke", "--tasks", "compression", "--times", "1"]
    status, out, _ = cli("elastic", *words, "--plot", plot, "--json", data)
    assert status == 0 and all(word in out for word in ("nested", "alone", "cut", "accuracy"))
    assert len(json.loads(data.read_text())["points"]) == 11 and plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "words, part",
    [
        (["mlp"], "no nested layer; use some"),
        (["matformer-mlp", "--sute", "smoke"], "No such option"),
        ([], "Missing argument 'SPEC'"),
    ],
)
def test_a_wrong_call_is_one_line(words: list[str], part: str, cli: Command) -> None:
    _, out, err = cli("elastic", *words)
    assert part in out + err
