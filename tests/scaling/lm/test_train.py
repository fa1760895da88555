import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from architectures import registry
from architectures.primitive import Context, Hint, Primitive
from architectures.registry import primitive
from mad.store import Store
from scaling.laws.runs.cleaning import clean
from scaling.lm.cost import build_model, cost_of
from scaling.lm.frames import language_frame
from scaling.lm.loop import CHECKPOINT, LOOK, Learner, learning_rate, make_optimizer, share
from scaling.lm.records import LanguagePoint, LanguageRecord
from scaling.lm.train import train
from tests.programs import program, says
from tests.scaling.lm.stand_in import VOCABULARY, StandIn, tiny

ROOT = Path(__file__).parents[3]


def run(config: Any = None, corpus: Any = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"device": "cpu", "progress": False, "loggers": ()}
    return train(config or tiny(), corpus or StandIn(), **{**settings, **options})


class Cut(StandIn):
    """A corpus whose reader is interrupted when it asks for a step."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.at, self.error = at, error

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> np.ndarray:
        if step == self.at:
            raise self.error("cut")
        return super().batch(step, batch_size=batch_size, seq_len=seq_len, seed=seed)


# What decides the numbers


def test_the_learning_rate_warms_up_and_falls_to_its_end() -> None:
    config = tiny(steps=100, warmup=10, final_lr=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(config, 100) == pytest.approx(0.2)


def test_the_rate_that_was_applied_is_recorded() -> None:
    applied: list[set[float]] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *rest: applied.append({group["lr"] for group in optimizer.param_groups})
    )
    config = tiny()
    record = run(config)
    handle.remove()
    assert applied == [{config.lr * learning_rate(config, s)} for s in range(config.steps)]
    assert [{point.lr} for point in record.metrics.curve] == [applied[9], applied[19], applied[29]]


def test_ranks_share_the_batch_of_one_process() -> None:
    config = tiny(steps=3)
    for step in (1, 2):
        whole = share(config, StandIn(), step, 0, 1)
        assert torch.equal(torch.cat([share(config, StandIn(), step, rank, 2) for rank in (0, 1)]), whole)
        assert whole.shape == (8, 17)


def test_equal_runs_are_equal_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = run(), run(), run(tiny(seed=1))
    assert first.metrics == second.metrics
    assert first.metrics != other.metrics
    assert torch.equal(torch.get_rng_state(), before)


def test_training_is_what_a_plain_loop_makes_of_it() -> None:
    """AdamW, decay by hints, clipping and the schedule, written out."""
    config = tiny(steps=10, clip=0.5, evaluations=1)
    corpus, model = StandIn(), build_model(tiny())
    hints = model.hints()
    groups = [
        {"params": [p], "weight_decay": 0.1 if hints[name].decay else 0.0}
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)
    losses, clipped = [], 0
    for step in range(config.steps):
        rows = torch.from_numpy(corpus.batch(step, batch_size=8, seq_len=16, seed=0))
        loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        clipped += int(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5) > 0.5)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    rows = torch.from_numpy(corpus.validation(16, 160))
    with torch.no_grad():
        nats = nn.functional.cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
    windows = nats.double().mean(1).numpy()
    metrics = run(config).metrics
    # Fused and plain AdamW round differently; ten steps make a few 1e-6 of that.
    assert metrics.loss == pytest.approx(windows.mean(), rel=1e-5)
    assert metrics.loss_error == pytest.approx(windows.std(ddof=1) / math.sqrt(10), rel=1e-4)
    assert metrics.train_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics.initial_loss == pytest.approx(losses[0], rel=1e-6)
    assert 0 < clipped == metrics.clipped_steps


def test_a_loss_below_the_entropy_of_the_text_is_no_result(tmp_path: Path) -> None:
    """As a model has it that sees what it is to predict; here the corpus says more than is true."""
    corpus = StandIn(entropy=2.7)
    config = tiny(corpus, steps=150, lr=1e-2, evaluation_tokens=1600)
    record = run(config, corpus=corpus, store=tmp_path / "store.sqlite")
    assert record.status == "failed" and record.metrics is None
    assert "below the entropy of its text, 2.7, by more" in record.error
    assert language_frame(tmp_path / "store.sqlite").empty
    again = run(tiny(corpus), corpus=corpus, store=tmp_path / "store.sqlite")
    assert again.status == "ok" and again.metrics.loss is not None
    assert len(clean(language_frame(tmp_path / "store.sqlite"))) == 1


def test_a_model_learns_what_there_is_to_learn() -> None:
    assert run(tiny(steps=150, lr=1e-2)).metrics.loss < 0.75 * math.log(VOCABULARY)


@primitive(name="test-scaling-outlier", mixes="channel", version=1)
class Outlier(Primitive):
    """A bias with a fixed decay, a fast rate, an auxiliary loss, noise and a buffer."""

    calls: torch.Tensor

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__(config, **where)
        self.bias = nn.Parameter(torch.zeros(self.dim, self.dim))
        self.register_buffer("calls", torch.zeros(()))

    def hints(self) -> dict[str, Hint]:
        return {"bias": Hint(decay=False, lr_scale=3.0)}

    def flops(self, length: int) -> int:
        return 2 * length * self.dim**2

    def forward(self, x: torch.Tensor, ctx: Context | None = None) -> torch.Tensor:
        if ctx is not None and ctx.seed is not None:
            ctx.losses[self.path] = (self.bias - 1).square().mean()
            ctx.updates[f"{self.path}.calls"] = self.calls + 1
        return x @ self.bias


def test_hints_auxiliary_losses_and_updates_of_a_layer_are_honoured(tmp_path: Path) -> None:
    config = tiny(spec="mh-attention test-scaling-outlier", steps=4, evaluations=1, lr=1e-2, warmup=0)
    learner = Learner(build_model(config), config)
    groups = make_optimizer(learner).adamw.param_groups
    bias = next(p for name, p in learner.named_parameters() if name.endswith("bias"))
    (own,) = (group for group in groups if any(p is bias for p in group["params"]))
    assert (own["lr"], own["weight_decay"]) == (pytest.approx(3e-2), 0.0)
    assert {g["weight_decay"] for g in groups if g is not own} == {0.0, 0.1}
    plain, with_loss = run(tiny(steps=4, evaluations=1)), run(config, folder=tmp_path)
    assert with_loss.metrics.initial_loss > plain.metrics.initial_loss + 0.8
    weights = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state_dict"]
    assert [float(value) for name, value in weights.items() if name.endswith("calls")] == [4.0]
    # Held-out loss is that of the tokens alone.
    assert with_loss.metrics.loss < with_loss.metrics.initial_loss - 0.5


# The record


def test_the_record_says_what_the_run_was_and_took() -> None:
    corpus = StandIn(bytes_per_token=2.0, train_tokens=1000)
    config = tiny(corpus)
    record = run(config, corpus, study="s", role="grid", budget=1e8, label="transformer", given="tiny")
    assert (record.id, record.status, record.error) == (config.id, "ok", None)
    assert (record.study, record.role, record.budget, record.label) == ("s", "grid", 1e8, "transformer")
    metrics, cost = record.metrics, record.cost
    assert [p.step for p in metrics.curve] == [10, 20, 30]
    assert [p.tokens for p in metrics.curve] == [1280, 2560, 3840]
    assert metrics.curve[-1].loss == metrics.loss
    assert metrics.bits_per_byte == pytest.approx(metrics.loss / math.log(2) / 2)
    assert (metrics.unique_tokens, metrics.epochs, metrics.evaluated) == (1000, 3.84, 160)
    assert cost.seconds > 0 and cost.peak_memory is not None
    assert record.environment["device"] == "cpu"


def test_cost_counts_by_each_convention() -> None:
    config = tiny()
    model = build_model(config)
    cost = cost_of(config)
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.embedding == VOCABULARY * 16
    assert cost.params_counted == cost.params - VOCABULARY * 16
    assert cost.core == cost.params_counted - VOCABULARY * 16
    assert cost.flops == cost.flops_per_token * config.tokens
    # Two matmuls per weight, forward and twice that backward; attention's pairs come on top.
    assert 1.0 < cost.flops_per_token / (6 * cost.params_counted) < 1.2
    assert cost.state is not None and cost.state["growing"] == 2 * 16 * 16


def test_a_tied_table_is_the_readout_and_counts() -> None:
    config = tiny()
    architecture = config.architecture.model_copy(update={"options": {"tied": True}})
    tied = config.model_copy(update={"architecture": architecture})
    assert cost_of(tied).params_counted == cost_of(config).params_counted


def test_unlimited_text_is_never_repeated() -> None:
    corpus = StandIn(train_tokens=None)
    metrics = run(tiny(corpus, steps=3), corpus).metrics
    assert (metrics.unique_tokens, metrics.epochs) == (384, 1.0)


def test_a_stored_run_is_not_repeated_and_counts_to_the_greater_purpose(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    first = run(store=store, role="tuning", study="a")
    again = run(corpus=Cut(0, RuntimeError), store=store, role="grid", study="b", budget=1.0, label="x")
    assert again.metrics == first.metrics
    assert (again.role, again.study, again.budget, again.label) == ("grid", "b", 1.0, "x")
    assert run(corpus=Cut(0, RuntimeError), store=store, role="tuning", study="a") == again
    with Store(store, read_only=True) as opened:
        assert opened.records(LanguageRecord) == [again]


# What goes wrong


def test_a_run_that_blows_up_has_diverged_and_no_loss() -> None:
    record = run(tiny(steps=200, lr=1e20, clip=None, warmup=0, evaluations=1))
    assert record.status == "diverged" and record.cost is not None
    assert record.metrics.loss is None and record.metrics.bits_per_byte is None
    assert [point.step for point in record.metrics.curve] == [LOOK]


def test_a_run_that_ends_above_its_start_has_diverged() -> None:
    record = run(tiny(lr=5.0, warmup=0, final_lr=1.0))
    assert record.status == "diverged" and record.metrics.loss is None
    assert record.metrics.curve[-1].loss > record.metrics.initial_loss


def test_what_the_training_raises_is_kept_and_tried_again(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    failed = run(corpus=Cut(4, RuntimeError), store=store)
    assert failed.status == "failed" and "RuntimeError: cut" in failed.error
    with Store(store) as opened:
        assert run(store=opened).status == "ok"
        (found,) = opened.records(LanguageRecord)
        assert (found.status, found.attempts) == ("ok", 2)


def test_what_cannot_work_is_refused_before_any_training(tmp_path: Path) -> None:
    refused: dict[str, dict[str, Any]] = {
        "strategy 'dpd' is not one of auto, ddp, fsdp; did you mean 'ddp'": {"strategy": "dpd"},
        "'ddp' is for several devices": {"strategy": "ddp"},
        "'fsdp' shards over CUDA devices only": {"strategy": "fsdp", "devices": 2},
        "batch_size 8 does not divide over 3": {"devices": 3},
        "logger 'cvs' is not csv; did you mean 'csv'": {"loggers": ("cvs",)},
        "device 'gpu' is not one of": {"device": "gpu"},
        "sha256 is 'd": {"corpus": StandIn(sha256="d" * 64)},
        "vocab_size is 17, not 16": {"corpus": StandIn(vocab_size=17)},
        "test-scaling-bidirectional declares": {"config": tiny(spec="test-scaling-bidirectional")},
    }
    for message, options in refused.items():
        with pytest.raises(ValueError, match=message):
            run(store=tmp_path / "store.sqlite", **options)
    old = tiny().architecture.model_copy(update={"versions": {"mh-attention": 0, "swiglu": 1}})
    with pytest.raises(ValueError, match="configuration has versions"):
        run(tiny().model_copy(update={"architecture": old}))
    run(corpus=StandIn(name="another name"), config=tiny(steps=1))


@primitive(name="test-scaling-bidirectional", mixes="time", version=1)
class Bidirectional(Outlier):
    causal = False


# Only the tests of this file know these layers.
ENTRIES = {name: registry._entries.pop(name) for name in list(registry._entries) if "test-scaling" in name}


@pytest.fixture(autouse=True)
def known_layers() -> Iterator[None]:
    registry._entries.update(ENTRIES)
    yield
    for name in ENTRIES:
        del registry._entries[name]


# Resumption


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The checkpoint is of step 15; its curve has a point, and the mean of five losses runs."""
    store = tmp_path / "store.sqlite"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(corpus=Cut(17), store=store, checkpoint_every=5)
    assert signal.getsignal(signal.SIGINT) is before
    with Store(store) as opened:
        (lost,) = opened.records(LanguageRecord)
        assert lost.status == "interrupted"
        asked: list[int] = []

        class Asked(StandIn):
            def batch(self, step: int, **rest: Any) -> np.ndarray:
                asked.append(step)
                return super().batch(step, **rest)

        resumed = run(corpus=Asked(), store=opened)
        assert asked == list(range(15, 30))
        (found,) = opened.records(LanguageRecord)
    assert (found.status, found.attempts) == ("ok", 2)
    assert resumed.metrics == run().metrics  # to the last bit


def test_a_run_that_was_cut_after_its_last_step_is_only_recorded(tmp_path: Path) -> None:
    whole = run(folder=tmp_path)
    assert run(corpus=Cut(0, AssertionError), folder=tmp_path).metrics == whole.metrics


def test_checkpoints_end_with_the_run_unless_a_folder_is_given(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    run(store=store)
    assert not list(tmp_path.rglob("*.ckpt*"))
    run(folder=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [CHECKPOINT]
    loaded = torch.load(tmp_path / "mine" / CHECKPOINT, weights_only=True)
    assert loaded["run"]["id"] == tiny().id
    with pytest.raises(ValueError, match="is the checkpoint of run"):
        run(tiny(seed=1), folder=tmp_path / "mine")


def flipped(content: bytes) -> bytes:
    """One bit, where the weights are."""
    at = content.index(b"data/1") + 400
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


DAMAGE = {
    "truncated": lambda content: content[:3000],
    "emptied": lambda content: b"",
    "overwritten": lambda content: b"something else\n" * 500,
    "flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_run_begins_anew(
    damage: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(corpus=Cut(17), folder=tmp_path, checkpoint_every=5)
    path = tmp_path / CHECKPOINT
    content = damage(path.read_bytes())
    path.write_bytes(content)
    found = run(folder=tmp_path)
    said = f"{path} is damaged ("
    assert capfd.readouterr().err.startswith(said) and found.environment["note"].startswith(said)
    assert found.metrics == run().metrics
    assert path.with_name("last.ckpt.damaged").read_bytes() == content and path.exists()


def test_a_checkpoint_of_an_older_version_is_set_aside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(folder=tmp_path)
    path = tmp_path / CHECKPOINT
    content = torch.load(path, weights_only=True)
    content["optimizer_states"] = [content.pop("optimizer")]
    torch.save(content, path)
    found = run(folder=tmp_path)
    assert capfd.readouterr().err.startswith(f"{path} is of an older version: the run begins anew")
    assert "older version" in found.environment["note"] and found.metrics == run().metrics
    assert path.with_name("last.ckpt.old").exists() and path.exists()


def test_a_checkpoint_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="is the checkpoint of no run of ours"):
        run(folder=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    record = run(folder=tmp_path, checkpoint_every=5)
    assert record.status == "failed" and "No space left on device" in record.error
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["global_step"] == 5


CLUSTERS = {
    "slurm": "SLURM_JOB_ID=7 SLURM_JOB_NAME=job SLURM_NTASKS=2 SLURM_NNODES=1 SLURM_NODELIST=n1 "
    "SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NODEID=0",
    "torchrun": "RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 GROUP_RANK=0 LOCAL_WORLD_SIZE=2 MASTER_ADDR=nowhere "
    "MASTER_PORT=1 TORCHELASTIC_RUN_ID=7",
    "mpi": "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 JSM_NAMESPACE_RANK=1 LSB_JOBID=7",
}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_run_is_one_process_whatever_a_cluster_has_set(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run()
    for word in CLUSTERS[cluster].split():
        monkeypatch.setenv(*word.split("="))
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it from these when it is imported
    found = run(folder=tmp_path, loggers=("csv",))
    assert found.metrics == alone.metrics
    (file,) = tmp_path.rglob("metrics.csv")
    assert len(pd.read_csv(file)) == 4 and vars(rank_zero_only)["rank"] == 1


def test_nothing_is_written_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(loggers=("csv",))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_csv_log_has_the_curve(tmp_path: Path) -> None:
    metrics = run(folder=tmp_path, loggers=("csv",)).metrics
    (file,) = tmp_path.rglob("metrics.csv")
    log = pd.read_csv(file)
    assert list(log["step"]) == [1, 10, 20, 30]
    assert list(log["loss"].dropna()) == [point.loss for point in metrics.curve]


class Kept(Logger):
    """A logger of the user's own."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, *arguments: Any, **more: Any) -> None:
        raise AssertionError

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def test_any_logger_of_lightning_and_any_callback_is_told(tmp_path: Path) -> None:
    logger, points = Kept(), list[LanguagePoint]()
    metrics = run(folder=tmp_path, loggers=("csv", logger), callbacks=(points.append,)).metrics
    assert logger.ended == ["success"]
    assert [step for step, _ in logger.rows] == [point.step for point in points] == [1, 10, 20, 30]
    assert tuple(points[1:]) == metrics.curve
    assert [row.get("loss") for _, row in logger.rows] == [point.loss for point in points]
    with pytest.raises(KeyboardInterrupt):
        run(corpus=Cut(17), loggers=(logger,))
    assert logger.ended == ["success", "failed"]


def test_progress_is_said_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "step 20 of 30" in err and "held-out" in err


# Slow: processes

SCRIPT = """
    import sys
    from pathlib import Path
    from scaling.lm.train import train
    from tests.scaling.lm.stand_in import StandIn, tiny
    if __name__ == "__main__":
        record = train(tiny(steps=200), StandIn(), store=Path(sys.argv[1]), device="cpu", loggers=(),
                       progress=False, checkpoint_every=10, devices=int(sys.argv[2]))
        print(record.status)
"""


def start(folder: Path, devices: int) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "store.sqlite"), str(devices)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_killed_run_resumes_exactly(tmp_path: Path, devices: int) -> None:
    process = start(tmp_path, devices)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob(CHECKPOINT)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        assert store.records(LanguageRecord) == []
    (checkpoint,) = tmp_path.rglob(CHECKPOINT)
    at = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < at < 200
    again = start(tmp_path, devices)
    out, err = again.communicate(timeout=240)
    assert out.strip() == "ok", err
    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        (found,) = store.records(LanguageRecord)
    whole = run(tiny(steps=200), devices=devices)
    assert found.metrics == whole.metrics


@pytest.mark.slow
def test_two_processes_over_loopback_give_the_loss_of_one() -> None:
    one, two = run(), run(devices=2, strategy="ddp")
    assert two.error is None
    # Gradients are summed in another order: a few roundings of float32 in 30 steps.
    assert two.metrics.loss == pytest.approx(one.metrics.loss, rel=1e-5)
    assert two.metrics.loss_error == pytest.approx(one.metrics.loss_error, rel=1e-4)
    for a, b in zip(one.metrics.curve, two.metrics.curve, strict=True):
        assert b.train_loss == pytest.approx(a.train_loss, rel=1e-5)
    assert (two.environment["devices"], two.environment["strategy"]) == (2, "ddp")


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_others_and_is_kept() -> None:
    failed = run(corpus=Cut(3, RuntimeError), devices=2)
    assert failed.status == "failed" and "RuntimeError: cut" in failed.error


def test_a_run_that_another_program_trains_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, config = tmp_path / "store.sqlite", tiny()
    claims = "store = Store(sys.argv[1]); print(store.claim(sys.argv[2]), flush=True); sys.stdin.readline()"
    with program(claims, path, config.id) as other:
        says(other, "True")

        def wait(seconds: float) -> None:
            assert (
                "another program trains run" in caplog.text and not (tmp_path / "store.sqlite.runs").exists()
            )
            other.kill()
            other.wait()

        monkeypatch.setattr("scaling.lm.train.time.sleep", wait)
        assert run(config, store=path).status == "ok"
    assert other.returncode == -signal.SIGKILL
