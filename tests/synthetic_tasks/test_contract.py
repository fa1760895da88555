"""What every registered task promises; a new task inherits these proofs by being registered."""

import doctest
import hashlib
import importlib
import pkgutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import synthetic_tasks
from synthetic_tasks import IGNORE, Batch, Task
from synthetic_tasks.contract.checkup import examine
from synthetic_tasks.task import SPLITS

NAMES = synthetic_tasks.names()

# SHA-256 of inputs and targets, little-endian int64, of the first 64 training rows of seed 0. Where one of
# these changes, the data did: raise the task's version.
GOLDEN = """
2d8016e240dfe7e86ad7eff761e0438042b6b6d8022c4ab95624ca5cab11ec78 compression
29faa864c3336a1a11b0f36df86d8e329900c44b50114321f3825e22d33f0453 compression[variant=public]
6f0b02304e7743704ccbe1ac2726bae86028958cb0b4c23612062659480bb946 fuzzy-in-context-recall
4adbd4da8a4ecb2c969291629974da1483f1cb6ff7ab95020a4728e91bc9ae3c fuzzy-in-context-recall[variant=public]
a8a5d4457e85c82f78f1f067c012f6fa10539d2c1ad8d90944b7ffcd4d2d4c2e in-context-recall
b06382d424117bc24a34b95071e38e265c3118fd78066f01ec4c9070100a2624 in-context-recall[multi_query=false]
f9376d354e07a2befe5c4bfe008c7af2c0926eb4db858cd8a90204fb9bb9ed8e memorization
e348a3ed1197cca5a10b0a5d55dd07854ea85847801f4834c82dd1a0f11a7d03 noisy-in-context-recall
8108dfbda959d2bea8f52fb256952be886985c9de4e965ef71a96a98f181dce3 selective-copying
db395ba1c05afde5a5ddb7418a564e08fecfd416129cb088b1129dea862c8627 selective-copying[variant=public]
"""
PINNED = {setting: digest for digest, setting in map(str.split, GOLDEN.strip().splitlines())}

# Small and odd settings beside the defaults, on which each contract must hold as well.
SETTINGS = [
    *NAMES,
    "compression[vocab_size=3,seq_len=2]",
    "compression[variant=public]",
    "fuzzy-in-context-recall[vocab_size=5,seq_len=5,key_motif_max=1,value_motif_max=1]",
    "fuzzy-in-context-recall[vocab_size=9,seq_len=37,key_motif_max=2,value_motif_max=4]",
    "fuzzy-in-context-recall[vocab_size=11,seq_len=13,key_motif_max=5,value_motif_max=1]",
    "fuzzy-in-context-recall[multi_query=false]",
    "in-context-recall[vocab_size=4,seq_len=4]",
    "in-context-recall[multi_query=false]",
    "in-context-recall[vocab_size=9,seq_len=10,multi_query=false]",
    "memorization[vocab_size=5,seq_len=2]",
    "memorization[vocab_size=11]",
    "noisy-in-context-recall[vocab_size=5,seq_len=4,noise_vocab_size=1,frac_noise=0.9]",
    "noisy-in-context-recall[frac_noise=0,multi_query=false]",
    "noisy-in-context-recall[vocab_size=30,seq_len=32,noise_vocab_size=3,frac_noise=0.8,multi_query=false]",
    "selective-copying[vocab_size=4,seq_len=3,num_tokens_to_copy=1]",
    "selective-copying[seq_len=33]",
    "selective-copying[variant=public]",
]


def scored(batch: Batch) -> np.ndarray:
    return batch.targets != IGNORE


def alternatives(task: Task) -> list[tuple[str, Task]]:
    """For each field, the same task with another valid value of it."""
    found = []
    hints = get_type_hints(type(task))
    for field in fields(task):
        value = getattr(task, field.name)
        if get_origin(hints[field.name]) is Literal:
            others = [choice for choice in get_args(hints[field.name]) if choice != value]
        elif isinstance(value, bool):
            others = [not value]
        elif isinstance(value, float):
            others = [value / 2]
        else:
            others = [value + 2 if value > 3 else value - 1]
        found += [(field.name, replace(task, **{field.name: other})) for other in others]
    return found


def digest(batch: Batch) -> str:
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in batch)).hexdigest()


@pytest.mark.parametrize("setting", PINNED)
def test_the_first_batch_is_pinned(setting: str) -> None:
    assert digest(synthetic_tasks.parse(setting).draw(0, "train", 64)) == PINNED[setting]


def test_every_task_is_pinned_here_or_by_the_example_of_its_docstring() -> None:
    docs = {name: str(type(synthetic_tasks.get(name)).__doc__) for name in NAMES}
    shown = {name for name, text in docs.items() if ">>> batch.inputs.tolist()" in text}
    assert set(NAMES) <= set(PINNED) | shown


# What is wrong with the public generators: a marker that is scored, probes that were never shown.
WRONG = {"compression[variant=public]": {"chance"}, "fuzzy-in-context-recall[variant=public]": {"oracle"}}


@pytest.mark.parametrize("setting", dict.fromkeys([*SETTINGS, *WRONG]))
def test_the_contract_holds(setting: str) -> None:
    found = examine(synthetic_tasks.parse(setting))
    failed = {finding.check for finding in found if finding.result in ("failed", "not run")}
    assert failed == WRONG.get(setting, set()), found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_not_part_of_the_content(name: str) -> None:
    task = synthetic_tasks.get(name)
    batch = task.draw(0, "test", 40)
    for other in (other for field, other in alternatives(task) if field == "train_targets"):
        assert digest(other.draw(0, "test", 40)) == digest(batch) and other.content_hash == task.content_hash
        assert not np.array_equal(other.training_targets(batch), task.training_targets(batch))
    if task.train_targets == "next-token":
        np.testing.assert_array_equal(task.training_targets(batch)[:, :-1], batch.inputs[:, 1:])


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_row_at_the_baseline(name: str) -> None:
    task = synthetic_tasks.get(name)
    rows = {
        split: {row.tobytes() for row in task.draw(0, split, 12_800 if split == "train" else 1_280).inputs}
        for split in SPLITS
    }
    assert len(rows["train"]) == 12_800
    assert len(rows["validation"] | rows["test"]) == 2_560
    assert not rows["train"] & (rows["validation"] | rows["test"])


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_keyed_by_seed_split_and_content(name: str) -> None:
    task = synthetic_tasks.get(name)
    draws = {task.stream(seed, split).bytes(16) for seed in (0, 1, 2**32 - 1) for split in SPLITS}
    assert len(draws) == 9
    others = [other for field, other in alternatives(task) if field != "train_targets"]
    assert task.stream(0, "test").bytes(16) not in {other.stream(0, "test").bytes(16) for other in others}
    assert task.stream(0, "test").bytes(16) == task.stream(0, "test").bytes(16)


@pytest.mark.parametrize("setting", SETTINGS)
def test_chance_is_one_over_the_number_of_answers(setting: str) -> None:
    task = synthetic_tasks.parse(setting)
    batches = [task.draw(seed, split, 3000) for seed in range(2) for split in ("train", "test")]
    answers = np.unique(np.concatenate([batch.targets[scored(batch)] for batch in batches]))
    unused = (
        1 if task.shared and task.vocab_size % 2 == 0 else 0
    )  # the value that no key of the dictionary has
    assert len(answers) + unused == round(1 / task.chance)


@pytest.mark.parametrize("name", NAMES)
def test_content_is_what_fixes_the_data(name: str) -> None:
    task = synthetic_tasks.get(name)
    content = task.content()
    assert content["name"] == name and content["version"] == task.version >= 1
    assert set(content) == {"name", "version"} | {field.name for field in fields(task)} - {"train_targets"}
    assert len(task.content_hash) == 64 and int(task.content_hash, 16) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_frozen_and_equal_by_its_fields(name: str) -> None:
    task = synthetic_tasks.get(name)
    assert task == synthetic_tasks.get(name) and hash(task) == hash(synthetic_tasks.get(name))
    with pytest.raises(FrozenInstanceError):
        task.seq_len = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        type(task)(16)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name: str) -> None:
    task = synthetic_tasks.get(name)
    for field in fields(task):
        if type(getattr(task, field.name)) in (int, float):
            for value in (-1, 0, 1) if field.name in ("vocab_size", "seq_len") else (-1,):
                changed: dict[str, Any] = {field.name: value}
                with pytest.raises(ValueError, match=f"{field.name}="):
                    replace(task, **changed)


@pytest.mark.parametrize("name", NAMES)
def test_draws_that_make_no_sense_are_refused(name: str) -> None:
    task = synthetic_tasks.get(name)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown split 'dev'; choose train, validation or test"):
        task.sample(rng, 4, split="dev")
    for n in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match="rows; choose an int"):
            task.sample(rng, n)  # type: ignore[arg-type]
    for seed in (-1, 2**32, 1.0, True, None):
        with pytest.raises(ValueError, match="seed .* is refused"):
            task.stream(seed, "train")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fuzzy-in-context-recall", {"vocab_size": 4}, "vocab_size=4 is refused"),
        (
            "fuzzy-in-context-recall",
            {"vocab_size": 6},
            "key_motif_max=3 is refused: vocab_size=6 allows 1 to 2",
        ),
        ("fuzzy-in-context-recall", {"vocab_size": 8, "value_motif_max": 5}, "value_motif_max=5 is refused"),
        ("fuzzy-in-context-recall", {"key_motif_max": 0}, "key_motif_max=0 is refused"),
        ("fuzzy-in-context-recall", {"vocab_size": 4096, "key_motif_max": 4}, "2\\*\\*40"),
        ("fuzzy-in-context-recall", {"seq_len": 12}, "seq_len=12 is refused: a pair and its probe need 13"),
        ("in-context-recall", {"vocab_size": 15}, "vocab_size=15 is refused: .* even"),
        ("in-context-recall", {"vocab_size": 2}, "two keys"),
        ("in-context-recall", {"vocab_size": 4, "multi_query": False}, "two keys"),
        ("in-context-recall", {"seq_len": 127}, "seq_len=127 is refused: .* even number"),
        ("in-context-recall", {"seq_len": 2}, "even number from 4"),
        ("noisy-in-context-recall", {"frac_noise": 1.0}, "frac_noise=1.0 is refused"),
        ("noisy-in-context-recall", {"frac_noise": 1}, "frac_noise=1.0 is refused"),
        ("noisy-in-context-recall", {"noise_vocab_size": 0}, "noise_vocab_size=0 is refused"),
        ("noisy-in-context-recall", {"vocab_size": 31}, "vocab_size=31 is refused: .* even"),
        ("noisy-in-context-recall", {"vocab_size": 18}, "choose 22 or more"),
        ("noisy-in-context-recall", {"seq_len": 127}, "even number"),
        ("selective-copying", {"vocab_size": 3}, "vocab_size=3 is refused"),
        ("selective-copying", {"num_tokens_to_copy": 0}, "num_tokens_to_copy=0 is refused"),
        ("selective-copying", {"seq_len": 32}, "seq_len=32 is refused: .* at least 33"),
        ("selective-copying", {"num_tokens_to_copy": 128}, "seq_len=256 is refused: .* at least 257"),
    ],
)
def test_settings_without_a_question_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_tasks.get(name, **options)


# What the published settings change, one option at a time, against the defaults.
CHANGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "in-context-recall": {"vocab_size": (32, 64, 128), "seq_len": (256, 512, 1024)},
    "noisy-in-context-recall": {
        "vocab_size": (48, 80, 144),
        "seq_len": (256, 512, 1024),
        "frac_noise": (0.4, 0.6, 0.8),
    },
    "fuzzy-in-context-recall": {"vocab_size": (32, 64, 128), "seq_len": (256, 512, 1024)},
    "selective-copying": {
        "vocab_size": (32, 64, 128),
        "seq_len": (512, 1024),
        "num_tokens_to_copy": (32, 64, 96),
    },
    "compression": {"vocab_size": (32, 64, 128), "seq_len": (64, 128, 256)},
    "memorization": {"vocab_size": (512, 1024, 2048, 4096, 8192)},
}


def test_the_published_settings_can_be_drawn() -> None:
    """66 published settings; four a task but memorization change the number of training rows only."""
    count = 0
    for name, changes in CHANGES.items():
        settings = [{}, *({option: value} for option, values in changes.items() for value in values)]
        count += len(settings) + (0 if name == "memorization" else 4)
        for options in settings:
            task = synthetic_tasks.get(name, **options)
            batch = task.draw(0, "train", 5)
            assert (task.solve(batch.inputs) == batch.targets)[scored(batch)].all()
    assert count == 66


def test_the_docstrings_run() -> None:
    for module in pkgutil.iter_modules(synthetic_tasks.__path__):
        result = doctest.testmod(importlib.import_module(f"synthetic_tasks.{module.name}"))
        assert result.failed == 0, module.name
    for name in NAMES:
        assert ">>>" in (type(synthetic_tasks.get(name)).__doc__ or ""), name


def test_the_docstring_of_a_published_task_says_how_it_differs_from_the_public_code() -> None:
    for name in CHANGES:
        assert "Differs from the public code:" in (type(synthetic_tasks.get(name)).__doc__ or ""), name


def test_numpy_is_all_it_imports() -> None:
    code = (
        "import sys, numpy.random; before = set(sys.modules); "
        "import synthetic_tasks; synthetic_tasks.names(); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(found) <= {"numpy", "synthetic_tasks"}
