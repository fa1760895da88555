import importlib.metadata
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import synthetic_tasks
from mad.data import protocol
from mad.data.protocol import PROTOCOLS, SUITES, Protocol, Setting, Suite, get_protocol, get_suite
from mad.data.records import ArchitectureConfig, RunConfig, content_hash, setting_fields, setting_key
from tests.commands import Command

MAD_2024 = get_suite("mad-2024")
BASELINE = get_suite("baseline")
SOUND, PUBLIC = get_protocol("sound"), get_protocol("public-code")
TASKS = {
    "in-context-recall": 11,
    "noisy-in-context-recall": 14,
    "fuzzy-in-context-recall": 11,
    "selective-copying": 13,
    "compression": 11,
    "memorization": 6,
}
ALL = [(s.name, i) for s in SUITES.values() for i in range(len(s.settings))]


def task_of(setting: Setting) -> synthetic_tasks.Task:
    return synthetic_tasks.parse(setting.task)


def settings_of(name: str) -> list[Setting]:
    return [s for s in MAD_2024.settings if task_of(s).name == name]


def values(name: str, field: str) -> list[Any]:
    """The values of a task's field other than the baseline's, in the order of the settings."""
    base, *changed = settings_of(name)
    found = [getattr(task_of(s), field) for s in changed]
    return [value for value in found if value != getattr(task_of(base), field)]


def test_mad_2024_has_66_settings_of_six_grid_points() -> None:
    assert MAD_2024.label == "mad-2024@1"
    assert Counter(task_of(s).name for s in MAD_2024.settings) == TASKS
    assert sum(len(s.grid) for s in MAD_2024.settings) == 396
    grid = [(lr, wd) for lr in (1e-4, 5e-4, 1e-3) for wd in (0.0, 0.1)]
    assert all(s.grid == grid and s.batch_size == 128 and s.epochs == 200 for s in MAD_2024.settings)
    assert all(s.test_examples == s.validation_examples == 1280 for s in MAD_2024.settings)
    assert (MAD_2024.dim, MAD_2024.seeds) == (128, 1)


def test_no_setting_of_a_suite_is_there_twice() -> None:
    for suite in SUITES.values():
        keys = [setting_key(s, SOUND) for s in suite.settings]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("name", "vocab_size", "lengths"),
    [
        ("in-context-recall", [32, 64, 128], [256, 512, 1024]),
        ("noisy-in-context-recall", [48, 80, 144], [256, 512, 1024]),
        ("fuzzy-in-context-recall", [32, 64, 128], [256, 512, 1024]),
        ("selective-copying", [32, 64, 128], [512, 1024]),
        ("compression", [32, 64, 128], [64, 128, 256]),
        ("memorization", [512, 1024, 2048, 4096, 8192], []),
    ],
)
def test_the_difficulty_levels_are_the_published_ones(
    name: str, vocab_size: list[int], lengths: list[int]
) -> None:
    assert values(name, "vocab_size") == vocab_size
    assert values(name, "seq_len") == lengths
    examples = [s.train_examples for s in settings_of(name)]
    if name == "memorization":
        assert set(examples) == {256}
    else:
        assert [n for n in examples if n != 12_800] == [6400, 3200, 1600, 800]


def test_the_other_difficulties_and_the_baselines_are_the_published_ones() -> None:
    assert values("noisy-in-context-recall", "frac_noise") == [0.4, 0.6, 0.8]
    assert values("selective-copying", "num_tokens_to_copy") == [32, 64, 96]
    noisy: Any = task_of(settings_of("noisy-in-context-recall")[0])
    copying: Any = task_of(settings_of("selective-copying")[0])
    fuzzy: Any = task_of(settings_of("fuzzy-in-context-recall")[0])
    assert (noisy.noise_vocab_size, noisy.frac_noise) == (16, 0.2)
    assert copying.num_tokens_to_copy == 16
    assert (fuzzy.key_motif_max, fuzzy.value_motif_max) == (3, 3)
    shapes = {name: task_of(settings_of(name)[0]) for name in TASKS}
    assert {name: (task.vocab_size, task.seq_len) for name, task in shapes.items()} == {
        "in-context-recall": (16, 128),
        "noisy-in-context-recall": (32, 128),
        "fuzzy-in-context-recall": (16, 128),
        "selective-copying": (16, 256),
        "compression": (16, 32),
        "memorization": (256, 32),
    }


def test_one_thing_is_changed_at_a_time() -> None:
    for name in TASKS:
        base, *others = settings_of(name)
        known = task_of(base).content() | {"train_examples": base.train_examples}
        for setting in others:
            changed = task_of(setting).content() | {"train_examples": setting.train_examples}
            assert sum(changed[field] != known[field] for field in known) == 1, setting.task


def test_steps_follow_from_examples() -> None:
    steps = {s.train_examples: s.steps for s in MAD_2024.settings if not s.task.startswith("memorization")}
    assert steps == {12_800: 20_000, 6400: 10_000, 3200: 5000, 1600: 2600, 800: 1400}
    assert {s.steps for s in settings_of("memorization")} == {400}
    assert sum(s.steps for s in MAD_2024.settings) == 897_400


def test_baseline_is_the_first_setting_of_each_task() -> None:
    assert list(BASELINE.settings) == [settings_of(name)[0] for name in TASKS]
    assert (BASELINE.dim, BASELINE.seeds) == (128, 3)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
@pytest.mark.parametrize(("suite", "index"), ALL, ids=[f"{name}-{i}" for name, i in ALL])
def test_every_setting_resolves_under_every_protocol(suite: str, index: int, protocol: Protocol) -> None:
    setting = SUITES[suite].settings[index]
    task = setting.resolve(protocol)
    assert task.name == task_of(setting).name
    assert getattr(task, "variant", protocol.variant) == protocol.variant
    assert 0 <= task.chance < 1
    assert setting.evaluations <= setting.steps


def test_the_protocols_are_what_was_published() -> None:
    assert (SOUND.betas, SOUND.schedule, SOUND.select_on, SOUND.metric) == (
        (0.9, 0.98),
        "cosine",
        "validation",
        "micro",
    )
    assert (PUBLIC.betas, PUBLIC.schedule, PUBLIC.select_on, PUBLIC.metric) == (
        (0.9, 0.999),
        "constant",
        "test",
        "macro-batches",
    )
    assert (SOUND.variant, SOUND.hints, PUBLIC.variant, PUBLIC.hints) == ("repaired", True, "public", False)
    assert SOUND.solved_at == PUBLIC.solved_at == 0.999


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("mad-2023", "did you mean 'mad-2024'"),
        ("basline", "did you mean 'baseline'"),
        ("nothing like it", "available: smoke, "),
    ],
)
def test_an_unknown_suite_is_answered_with_the_nearest(name: str, answer: str) -> None:
    with pytest.raises(ValueError, match=f"unknown suite '{name}'.*{answer}"):
        get_suite(name)


def test_an_unknown_protocol_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'public'; did you mean 'public-code'"):
        get_protocol("public")


def test_a_suite_is_found_by_name_and_version_but_not_by_another_version() -> None:
    assert get_suite("mad-2024@1") is get_suite("mad-2024")
    with pytest.raises(ValueError, match="'mad-2024@2' is not in this release, which has mad-2024@1"):
        get_suite("mad-2024@2")
    with pytest.raises(ValueError, match="did you mean 'mad-2024'"):
        get_suite("mad-2042@1")


MINE = """
from mad.data.protocol import Setting, Suite

setting = Setting(task="compression[seq_len=8]", train_examples=32, epochs=1, batch_size=16, lrs=(1e-3,),
                  weight_decays=(0.0,), validation_examples=16, test_examples=16)
MINE = Suite(name="mine", version=3, about="", dim=16, seeds=1, settings=(setting,))
QUICK = MINE.model_copy(update={"name": "quick"})
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A file with a suite, which can be announced as a package's."""
    (tmp_path / "their_suites.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    def announce(value: str) -> None:
        point = EntryPoint(name="mine", value=value, group="mad.suites")
        entry_points = importlib.metadata.entry_points
        monkeypatch.setattr(
            "importlib.metadata.entry_points",
            lambda *, group: [point] if group == "mad.suites" else entry_points(group=group),
        )
        protocol._announced.cache_clear()

    yield announce
    sys.modules.pop("their_suites", None)
    protocol._announced.cache_clear()


def test_a_suite_of_the_users_own_is_named_in_a_file_or_by_an_entry_point(
    mine: Callable[[str], None], cli: Command, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "store.sqlite")
    assert cli("bench", "mlp", "--suite", "their_suites:MINE", "--device", "cpu", *store).status == 0
    mine("their_suites:MINE")
    for name in ("mine", "mine@3", "their_suites:MINE"):
        said = cli("leaderboard", "--suite", name, "--format", "csv", *store)
        assert said.status == 0 and "\n1,mlp," in said.out
    with pytest.raises(ValueError, match="unknown suite 'mime'; did you mean 'mine'"):
        get_suite("mime")


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("their_suites:setting", r"\(their_suites:setting\) is a Setting; name a mad.data.protocol.Suite"),
        ("their_suites:QUICK", "the name 'quick' is taken; choose another"),
        ("no_such_module:MINE", "cannot be loaded: No module named 'no_such_module'; repair or uninstall"),
    ],
)
def test_a_suite_that_cannot_be_announced_is_refused(
    value: str, answer: str, mine: Callable[[str], None]
) -> None:
    mine(value)
    with pytest.raises(ValueError, match=f"entry point 'mine' of group mad.suites.*{answer}"):
        get_suite("quick")


def test_what_is_not_a_suite_is_refused(mine: Callable[[str], None]) -> None:
    with pytest.raises(ValueError, match="their_suites:setting is a Setting; name a mad.data.protocol.Suite"):
        get_suite("their_suites:setting")
    with pytest.raises(ValueError, match="has no 'MIME'; did you mean 'MINE'"):
        get_suite("their_suites:MIME")


@pytest.mark.parametrize(
    "data", [SOUND, MAD_2024.settings[0], MAD_2024], ids=["protocol", "setting", "suite"]
)
def test_protocols_and_suites_are_frozen_and_refuse_unknown_fields(data: Protocol | Setting | Suite) -> None:
    first = next(iter(type(data).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(data, first, "other")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(data).model_validate(data.model_dump() | {"dropout": 0.1})


@pytest.mark.parametrize("field", ["epochs", "batch_size", "train_examples", "evaluations", "test_examples"])
def test_a_setting_without_work_is_refused(field: str) -> None:
    given = BASELINE.settings[0].model_dump() | {field: 0}
    with pytest.raises(ValidationError, match=field):
        Setting(**given)


def test_a_setting_with_a_typo_in_its_task_is_refused_when_it_is_resolved() -> None:
    with pytest.raises(ValueError, match="did you mean 'vocab_size'"):
        BASELINE.settings[0].model_copy(update={"task": "compression[vocab_sise=8]"}).resolve(SOUND)


def run_config(**changes: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "architecture": ArchitectureConfig(
            spec="hyena swiglu", dim=32, versions={"hyena": 1, "swiglu": 1}, options={"tied": True}
        ),
        "lr": 1e-3,
        "weight_decay": 0.1,
        "seed": 0,
        **setting_fields(SETTING, SOUND),
    }
    return RunConfig(**(fields | changes))


# Written out, not taken from a suite: the golden id is to change with the code, not with a suite.
SETTING = Setting(
    task="in-context-recall[vocab_size=8,seq_len=16]",
    train_examples=640,
    epochs=2,
    batch_size=64,
    lrs=(1e-3, 2e-3),
    weight_decays=(0.1,),
)
CHANGES: dict[str, Any] = {
    "architecture": ArchitectureConfig(spec="mamba swiglu", dim=32),
    "task": {"name": "compression", "version": 1},
    "train_examples": 641,
    "epochs": 3,
    "batch_size": 32,
    "evaluations": 11,
    "validation_examples": 1281,
    "test_examples": 1281,
    "protocol": PUBLIC,
    "lr": 2e-3,
    "weight_decay": 0.0,
    "seed": 1,
    "precision": "bf16-mixed",
    "backend": "kernel",
    "compile": True,
}
ASKED = (
    "task",
    "train_examples",
    "epochs",
    "batch_size",
    "evaluations",
    "validation_examples",
    "test_examples",
)


def test_the_identity_of_a_run_is_what_it_was() -> None:
    # A change here orphans every stored result. If it is meant, raise a version instead of this number.
    assert run_config().id == "ae49ed7529e124baf2f1"
    assert run_config().setting_key == "4d83e95657cdb671b8b1"
    assert run_config().architecture_key == "9c58d64aa7464f73110e"


def test_the_id_hashes_canonical_json() -> None:
    assert content_hash({"b": 1, "a": [1.0, None]}) == content_hash({"a": [1.0, None], "b": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])
    assert len(content_hash("")) == 20
    with pytest.raises(ValueError, match="JSON"):
        content_hash(float("nan"))


def test_every_field_of_a_run_has_a_change_here() -> None:
    assert set(CHANGES) == set(RunConfig.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_a_run_changes_its_id(field: str) -> None:
    assert run_config(**{field: CHANGES[field]}).id != run_config().id


@pytest.mark.parametrize("field", ArchitectureConfig.model_fields)
def test_every_field_of_an_architecture_changes_the_id_and_the_architecture(field: str) -> None:
    changes: dict[str, Any] = {
        "spec": "swiglu hyena",
        "dim": None,
        "options": {},
        "versions": {"hyena": 2, "swiglu": 1},
        "sources": {"x:Y": "ab"},
    }
    other = run_config().architecture.model_copy(update={field: changes[field]})
    changed = run_config(architecture=other)
    assert changed.id != run_config().id
    assert changed.architecture_key != run_config().architecture_key
    assert changed.setting_key == run_config().setting_key


@pytest.mark.parametrize("field", Protocol.model_fields)
def test_every_field_of_a_protocol_changes_the_id_and_the_setting(field: str) -> None:
    changes: dict[str, Any] = {"eps": 1e-6, "solved_at": 0.9, "model": {"tied": 1.0}, "data_seed": 1}
    changes |= {"metric": "macro", "version": 2}
    other = SOUND.model_copy(update={field: changes.get(field, getattr(PUBLIC, field))})
    changed = run_config(protocol=other)
    assert changed.id != run_config().id
    assert changed.setting_key != run_config().setting_key


@pytest.mark.parametrize("field", CHANGES)
def test_the_setting_key_is_what_is_asked_and_the_architecture_key_who_answers(field: str) -> None:
    changed = run_config(**{field: CHANGES[field]})
    assert (changed.setting_key != run_config().setting_key) == (field in (*ASKED, "protocol"))
    who = ("architecture", "precision", "backend", "compile")
    assert (changed.architecture_key != run_config().architecture_key) == (field in who)


def test_the_setting_key_of_a_setting_is_that_of_its_runs() -> None:
    assert setting_key(SETTING, SOUND) == run_config().setting_key
    other_grid = SETTING.model_copy(update={"lrs": (1e-2,), "weight_decays": (0.5,)})
    assert setting_key(other_grid, SOUND) == setting_key(SETTING, SOUND)
    spelled = SETTING.model_copy(update={"task": "in-context-recall[ seq_len=16, vocab_size=8 ]"})
    assert setting_key(spelled, SOUND) == setting_key(SETTING, SOUND)
    answers = SETTING.model_copy(update={"task": SETTING.task.replace("]", ",train_targets=answers]")})
    assert setting_key(answers, SOUND) != setting_key(SETTING, SOUND)


def test_a_run_survives_json_with_its_id() -> None:
    run = run_config()
    again = RunConfig.model_validate_json(run.model_dump_json())
    assert again == run and again.id == run.id
    assert run.steps == SETTING.steps == 20


def test_a_run_refuses_unknown_fields_and_numbers_that_are_none() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        run_config(learning_rate=1.0)
    with pytest.raises(ValidationError, match="finite"):
        run_config(lr=float("inf"))


def test_a_layer_of_the_users_own_is_labelled_with_its_source() -> None:
    ours = ArchitectureConfig(spec="hyena swiglu", dim=8)
    assert ours.label == "hyena swiglu"
    theirs = ArchitectureConfig(
        spec="2*(my.net:Mix my.net:MixMore) swiglu",
        dim=8,
        sources={"my.net:Mix": "ab12cd", "my.net:MixMore": "ab12cd"},
    )
    assert theirs.label == "2*(Mix@ab12 MixMore@ab12) swiglu"
    short = ArchitectureConfig(spec="ema ema-two", dim=8, sources={"ema": "ab12cd"})
    assert short.label == "ema@ab12 ema-two"


def test_a_label_does_not_grow_with_the_number_of_sources() -> None:
    sources = {
        c: 4 * chr(ord(c) + 1) for c in "abcdefgh"
    }  # Replaced one after another, the text grows by 3^8.
    assert ArchitectureConfig(spec="a b c", dim=8, sources=sources).label == "a@bbbb b@cccc c@dddd"
