"""Well-formed inputs at the extremes, and what must not happen to them: drawn from what is registered.

    python -m tests.extremes 0 10000      # seed, number of inputs: prints the failures, and exits with 1

An input is answered, or refused with a ValueError of one line, within `SECONDS` of processor time and `BYTES`
of memory. A layer, an option or a task is covered by being registered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import signal
import sys
import tempfile
import time
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, BYTES, ADDRESSES = 5, 2**30, 2**33
# So that no model that is built for real is larger than a test should be.
MACHINE = 2**26
INTEGERS = [0, 1, 2, 3, 7, 16, 64, 100, 1000, 4095, 4096, 65_536, 10**6, 2**20, 2**20 + 1, 2**24, 2**24 + 1]
INTEGERS += [2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**19, 10**29]
REALS = [0.0, 1e-320, 1e-30, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.5, 3.0, 1e3, 1e9, 1e30, 1e308]


class Slow(BaseException):
    """An input took too long; not an Exception, so that nothing on the way can swallow it."""


class Drawer:
    """Draws inputs of one seed: (what to call, its arguments)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.inside = 0  # wrappers around what is being drawn

    def number(self) -> int:
        return self.random.choice(INTEGERS) * self.random.choice([1, 1, 1, -1])

    def size(self, usual: int) -> int:
        """Mostly what people take, to come past the first refusal."""
        return self.random.choice([usual, usual, usual, self.number()])

    def value(self, hint: Any, field: Any) -> str:
        from architectures.registry import _allowed

        kind = self.random.choice(_allowed(hint))
        if typing.get_origin(kind) is typing.Literal:
            return str(self.random.choice(typing.get_args(kind)))
        if kind is type(None):
            return "none"
        if kind is bool:
            return self.random.choice(["true", "false"])
        if kind is float:
            return repr(self.random.choice(REALS) * self.random.choice([1, 1, -1]))
        if kind is int:
            return str(self.random.choice([self.number(), self.random.choice([1, 2, 3, 4, 8, 16, 32])]))
        weights = "-".join(
            str(self.random.choice([0, 1, 3, 10**9])) for _ in range(self.random.choice([1, 4, 30]))
        )
        return self.random.choice([str(field.default), "uniform", "joint", f"w{weights}", "word"])

    def layer(self, depth: int) -> str:
        from architectures import registry

        entry = registry.get(self.random.choice(registry.names()))
        hints = registry._hints(entry.cls.Config)
        fields = {f.name: f for f in dataclasses.fields(entry.cls.Config)}
        chosen = self.random.sample(sorted(hints), min(len(hints), self.random.choice([0, 1, 1, 2, 3])))
        options = ",".join(f"{name}={self.value(hints[name], fields[name])}" for name in chosen)
        self.inside += entry.mixes == "stream"
        body = f"{{{self.spec(depth + 1)}}}" if entry.mixes == "stream" else ""
        self.inside -= entry.mixes == "stream"
        return entry.name + (f"[{options}]" if options else "") + body

    def item(self, depth: int) -> str:
        kind = self.random.random()
        if depth > 2 or kind < 0.6:
            return self.layer(depth)
        if kind < 0.8:
            # A wrapper is counted by running it, with all that is inside.
            count = self.random.choice([0, 2, 16, 10**29]) if self.inside else abs(self.size(2))
            return f"{count}*({self.spec(depth + 1)})"
        if kind < 0.9:
            return f"({self.spec(depth + 1)} + {self.spec(depth + 1)})"
        return "(" * (deep := self.random.choice([1, 3, 30, 60, 3000])) + self.layer(3) + ")" * deep

    def spec(self, depth: int = 0) -> str:
        from architectures.grammar.presets import PRESETS

        if depth == 0 and self.random.random() < 0.05:
            return self.random.choice(sorted(PRESETS))
        return " ".join(self.item(depth) for _ in range(self.random.choice([1, 1, 2, 3])))

    def sizes(self) -> dict[str, int]:
        return {"vocab_size": self.size(16), "dim": self.size(64), "seq_len": self.size(128)}

    def task(self) -> str:
        import synthetic_tasks

        name = self.random.choice(synthetic_tasks.names())
        cls = type(synthetic_tasks.get(name))
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        chosen = self.random.sample(sorted(fields), self.random.choice([0, 1, 1, 2, 3]))
        options = ",".join(f"{n}={self.value(hints[n], fields[n])}" for n in chosen)
        return f"{name}[{options}]" if options else name

    def goals(self) -> dict[str, Any]:
        """Goals that are refused: how long it takes to reach one that can be is not asked here."""
        name = self.random.choice(["params", "state", "total_state", "flops"])
        return {
            name: self.random.choice([0, -self.number(), 10**19, 1e300, float("inf"), float("nan"), "4096"])
        }

    def words(self, folder: Path) -> list[str]:
        """A command line."""
        draw, out = self.random.choice, str(folder / "out")
        kind = draw(["show", "show", "tasks", "bench", "train", "elastic", "sparsify", "grow", "plan"])
        if kind == "show":
            return ["show", self.spec(), *self.options("--dim", "--seq-len", "--vocab-size")]
        if kind == "tasks":
            return ["tasks", "show", self.task(), *self.options("--seed")]
        if kind == "bench":
            goal = draw(["state", "params", "total-state", "flops"])
            goal = f"{goal}={draw([0, -abs(self.number()), 1e300, 'inf', 'nan'])}"
            return [
                "bench",
                self.spec(),
                "--suite",
                "smoke",
                "--tasks",
                "compression",
                "--iso",
                goal,
                "--dry-run",
            ]
        if kind == "train":
            return [
                "train",
                self.spec(),
                self.task(),
                *self.options("--epochs", "--dim", "--examples", "--batch-size"),
            ]
        if kind == "elastic":
            return ["elastic", self.spec(), "--suite", "smoke", *self.options("--times", "--seed")]
        if kind == "sparsify":
            return ["sparsify", self.spec(), "--suite", "smoke", *self.options("--shares", "--seed")]
        if kind == "grow":
            return ["grow", str(folder / "m.pt"), "--to", self.spec(), "-o", out, *self.options("--dim")]
        budgets = f"{draw(REALS)},{self.number()}"
        words = ["scaling", "plan", self.spec(), "--corpus", "grammar", "-o", out, "--budgets", budgets]
        return [*words, *self.options("--sizes", "--seq-len", "--seed", "--workers")]

    def options(self, *names: str) -> list[str]:
        return [word for name in names for word in (name, str(self.size(64)))]

    def input(self, folder: Path) -> tuple[str, Any]:
        kind = self.random.choice(
            ["account", "account", "build", "scale", "solve", "task", "task", "command"]
        )
        if kind == "task":
            return kind, (self.task(), self.size(8), self.size(0))
        if kind == "command":
            return kind, self.words(folder)
        if kind == "scale":
            return kind, (
                self.spec(),
                {"depth": self.size(8), "dim": self.size(256), "from_dim": self.size(128)},
            )
        if kind == "solve":
            goals = {**self.goals(), **self.random.choice([{}, {}, {"dim": self.size(64)}])}
            return kind, (self.spec(), {**goals, "seq_len": self.size(64)})
        return kind, (self.spec(), self.sizes())


def call(kind: str, given: Any) -> None:
    """Do what an input asks; ValueError is its refusal."""
    import architectures
    import synthetic_tasks

    if kind == "account":
        spec = architectures.parse(given[0])
        assert architectures.parse(str(spec)) == spec, f"{spec} is not read back"
        architectures.account(spec, **given[1])
    elif kind == "build":
        sizes = dict(given[1])
        architectures.build(given[0], max_len=sizes.pop("seq_len"), seed=0, **sizes)
    elif kind == "scale":
        architectures.scale(given[0], **given[1])
    elif kind == "solve":
        architectures.solve(given[0], **given[1])
    elif kind == "task":
        name, rows, seed = given
        synthetic_tasks.parse(name).draw(seed, "test", rows)
    else:
        _command(given)


def _command(words: list[str]) -> None:
    from mad import cli

    out, said = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["mad", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), contextlib.suppress(OSError):
            cli.main()
    except SystemExit as end:
        assert end.code in (0, 2), f"exit status {end.code}"
        *_, last = said.getvalue().splitlines() or [""]
        told = last.startswith("mad: ") and "Traceback" not in said.getvalue()
        assert end.code == 0 or told, f"not one line: {said.getvalue()!r}"
    finally:
        sys.argv = before


def judge(kind: str, given: Any) -> str:
    """What is wrong with the answer to an input; "" for nothing."""
    from mad.messages import one_line

    def stop(*_: Any) -> None:
        raise Slow

    signal.signal(signal.SIGPROF, stop)
    before, start = peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)
    wrong = ""
    try:
        call(kind, given)
    except ValueError as error:
        text = one_line(str(error))
        if type(error) is UnicodeError or not text or "\n" in text or len(text) > 5000:
            wrong = f"a message of {len(text)} characters: {text[:200]}"
    except Slow:
        wrong = f"more than {SECONDS} s"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = peak() - before
    if not wrong and taken > BYTES:
        wrong = f"{taken / 2**30:.1f} GiB of memory in {time.process_time() - start:.1f} s"
    return wrong


def peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(seed: int, count: int, tell: Callable[[str], None]) -> int:
    """The number of inputs that failed; each is told."""
    import resource

    import architectures
    import mad.run.cost
    import mad.run.elastic
    import mad.run.sparsify
    from architectures import checkpoint, model
    from mad.run.engines import inline

    def train(*_: Any, **__: Any) -> Any:
        raise ValueError("nothing is trained here")

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    model.machine_memory = lambda: MACHINE
    sys.modules["synthetic_tasks.task"].MOST_NUMBERS = MACHINE // 32  # type: ignore[attr-defined]
    inline.run = mad.run.elastic.train_cell = mad.run.sparsify.train_cell = train
    mad.run.cost._flops_per_second = lambda *_: 1e9  # type: ignore[assignment]
    # What is imported on first use is not a cost of an input.
    architectures.account("mlp", vocab_size=16, seq_len=16)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MAD_STORE"] = str(folder / "store.db")
        small = architectures.build("mh-attention mlp", vocab_size=16, dim=32, max_len=16, seed=0)
        checkpoint.save(small, folder / "m.pt")
        for i in range(count):
            kind, given = Drawer(seed * 1_000_003 + i).input(folder)
            wrong = judge(kind, given)
            if wrong:
                failed += 1
                tell(f"{seed} {i} {kind} {given!r:.1500}: {wrong}")
            (folder / "out").unlink(missing_ok=True)
    return failed


if __name__ == "__main__":
    sys.exit(1 if run(int(sys.argv[1]), int(sys.argv[2]), lambda text: print(text, flush=True)) else 0)
