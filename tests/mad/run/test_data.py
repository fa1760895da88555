from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import synthetic_tasks
from mad.data.protocol import get_protocol, get_suite
from mad.run.batches import Split, load, order, split_of
from mad.run.sweep import Group, plan
from synthetic_tasks.task import SPLITS

CPU = torch.device("cpu")
TASKS = {task.name: task for s in get_suite("smoke").settings for task in [s.resolve(get_protocol("sound"))]}
NAMES = sorted(TASKS)


def epochs(seed: int, rows: int, batch_size: int, count: int) -> list[list[Tensor]]:
    batches = order(seed, rows, batch_size, CPU)
    return [list(itertools.islice(batches, -(-rows // batch_size))) for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 80))
def test_an_epoch_is_a_permutation_whose_last_batch_may_be_smaller(seed: int, rows: int, size: int) -> None:
    for batches in epochs(seed, rows, size, 3):
        assert sorted(torch.cat(batches).tolist()) == list(range(rows))
        assert [len(b) for b in batches] == [min(size, rows - i) for i in range(0, rows, size)]


def test_the_order_is_its_seeds_own() -> None:
    first, again, other = (epochs(seed, 50, 8, 2) for seed in (3, 3, 4))
    assert [torch.cat(e).tolist() for e in first] == [torch.cat(e).tolist() for e in again]
    assert torch.cat(first[0]).tolist() != torch.cat(other[0]).tolist()


def test_every_epoch_has_another_order() -> None:
    seen = {tuple(torch.cat(e).tolist()) for e in epochs(0, 50, 8, 5)}
    assert len(seen) == 5
    assert tuple(range(50)) not in seen


def test_the_batch_size_cuts_the_order_and_does_not_change_it() -> None:
    assert torch.cat(epochs(1, 30, 30, 1)[0]).equal(torch.cat(epochs(1, 30, 7, 1)[0]))


def test_the_order_neither_reads_nor_moves_the_global_state() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index]
    first = epochs(0, 20, 6, 2)
    assert torch.get_rng_state().equal(before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    torch.manual_seed(2)
    np.random.seed(2)
    assert [[b.tolist() for b in e] for e in epochs(0, 20, 6, 2)] == [[b.tolist() for b in e] for e in first]


def test_the_order_of_the_first_epoch_is_what_it_was() -> None:
    # A change here changes every result.
    assert torch.cat(epochs(0, 10, 4, 1)[0]).tolist() == [2, 3, 1, 4, 7, 0, 6, 5, 8, 9]


@pytest.mark.parametrize("name", NAMES)
def test_training_data_differ_between_seeds_and_held_out_data_do_not(name: str) -> None:
    def drawn(seed: int, split: str) -> Tensor:
        return load(TASKS[name], seed=seed, split=split, rows=40, device=CPU).inputs

    assert not drawn(0, "train").equal(drawn(1, "train"))
    assert drawn(0, "train").equal(drawn(0, "train"))
    assert not drawn(0, "validation").equal(drawn(0, "test"))
    assert not drawn(0, "train").equal(drawn(0, "validation"))


def test_the_protocol_fixes_the_held_out_data_for_every_seed_and_architecture(splits: Splits) -> None:
    first, other_seed, other_model = splits("hyena", 0), splits("hyena", 1), splits("swiglu", 0)
    for name in ("validation", "test"):
        assert first[name].inputs.equal(other_seed[name].inputs)
        assert first[name].inputs.equal(other_model[name].inputs)
    assert first["train"].inputs.equal(other_model["train"].inputs)
    assert not first["train"].inputs.equal(other_seed["train"].inputs)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_drawn_is_what_is_on_the_device(name: str) -> None:
    split = load(TASKS[name], seed=5, split="test", rows=9, device=CPU)
    drawn = TASKS[name].draw(5, "test", 9)
    assert split.inputs.tolist() == drawn.inputs.tolist() == split.drawn.inputs.tolist()
    assert split.targets.tolist() == drawn.targets.tolist() == split.drawn.targets.tolist()
    assert split.inputs.dtype == split.targets.dtype == torch.int64
    assert load(TASKS[name], seed=5, split="test", rows=9, device=torch.device("meta")).inputs.is_meta


@pytest.mark.parametrize(
    ("name", "targets"),
    [*((name, "answers") for name in NAMES), *((n, "next-token") for n in NAMES if n.endswith("recall"))],
)
def test_training_takes_the_targets_that_the_task_says(name: str, targets: str) -> None:
    chosen = synthetic_tasks.parse(f"{name}[train_targets={targets}]")
    split = load(chosen, seed=0, split="train", rows=8, device=CPU, training=True)
    assert split.targets.tolist() == chosen.training_targets(split.drawn).tolist()
    scored = load(chosen, seed=0, split="train", rows=8, device=CPU)
    assert scored.targets.tolist() == split.drawn.targets.tolist()
    if targets == "next-token":
        assert split.targets[:, :-1].equal(split.inputs[:, 1:])


Splits = Callable[[str, int], dict[str, Split]]


@pytest.fixture
def splits() -> Splits:
    def draw(spec: str, seed: int) -> dict[str, Split]:
        cell = plan([spec], get_suite("smoke"), get_protocol("sound"), tasks=["compression"])[0]
        return {split: split_of(Group(cell, seed).runs[0], cell.task, split, CPU) for split in SPLITS}

    return draw
