"""The questions and answers of a task: their shapes and ids, the oracle, and what an answer depends on."""

import numpy as np

from synthetic_tasks.contract.subject import NotApplicable, Subject, Violation, first, scored
from synthetic_tasks.task import IGNORE, SPLITS, Batch

ROWS = 500
# Cuts of a row, after which its tokens are those of another row.
CUTS = 40


def shapes(subject: Subject) -> str:
    """A batch is two contiguous arrays (n, seq_len) of int64, however many rows there are."""
    task = subject.task
    for split in SPLITS:
        for n in (1, 2, 67):
            batch = task.draw(0, split, n)
            if not isinstance(batch, Batch):
                raise Violation(f"sample returns a {type(batch).__name__}; return Batch(inputs, targets)")
            trained = task.training_targets(batch)
            arrays = {"inputs": batch.inputs, "targets": batch.targets, "training targets": trained}
            for name, array in (arrays | {"answers of solve": task.solve(batch.inputs)}).items():
                if not isinstance(array, np.ndarray) or array.shape != (n, task.seq_len):
                    found = getattr(array, "shape", type(array).__name__)
                    raise Violation(f"{name} of {n} rows: {found}; expected an array {(n, task.seq_len)}")
                if array.dtype != np.int64:
                    raise Violation(f"{name} are {array.dtype}; make them int64: array.astype(np.int64)")
                if name in arrays and not array.flags.c_contiguous:
                    raise Violation(f"{name} are a view of another array; copy them: array.copy()")
    return f"(n, {task.seq_len}) int64, for 1 row and more"


def ids(subject: Subject) -> str:
    """Tokens and targets are ids of the vocabulary; what is not scored is IGNORE, and nothing else."""
    task, lowest, highest = subject.task, 0, 0
    for split in SPLITS:
        batch = subject.draw(1, split, ROWS)
        parts = {"target": batch.targets, "training target": task.training_targets(batch)}
        for name, array in ({"token": batch.inputs} | parts).items():
            wrong = (array < 0) | (array >= task.vocab_size)
            if name in parts:
                wrong &= array != IGNORE
            if wrong.any():
                row, position = first(wrong)
                remedy = f"; what is not scored is IGNORE ({IGNORE})" if array[row, position] < 0 else ""
                raise Violation(
                    f"{name} {array[row, position]} at position {position} ({split}): ids are 0 to "
                    f"{task.vocab_size - 1}{remedy}"
                )
        lowest, highest = min(lowest, int(batch.inputs.min())), max(highest, int(batch.inputs.max()))
    return f"tokens {lowest} to {highest} of a vocabulary of {task.vocab_size}"


def asked(subject: Subject) -> str:
    """Every row asks for something, and what is asked for is what is trained."""
    task, count = subject.task, 0
    for split in SPLITS:
        batch = subject.draw(1, split, ROWS)
        empty = ~scored(batch).any(axis=1)
        if empty.any():
            share = f"{empty.mean():.1%} of the rows ({split}) have"
            raise Violation(f"{share} no target but IGNORE; score something in each row")
        trained = task.training_targets(batch)
        wrong = (trained != batch.targets) & scored(batch)
        if wrong.any():
            row, position = first(wrong)
            one, other = trained[row, position], batch.targets[row, position]
            remedy = f"with train_targets {task.train_targets!r} they have to be one"
            raise Violation(f"position {position}: {one} is trained and {other} is asked; {remedy}")
        count += int(scored(batch).sum())
    return f"{count / (len(SPLITS) * ROWS):.1f} targets in a row, {task.train_targets} trained"


def oracle(subject: Subject) -> str:
    """`solve` is right at every scored position, and leaves its inputs alone."""
    task, count = subject.task, 0
    for split in SPLITS:
        for seed in range(2):
            batch = subject.draw(seed, split, ROWS)
            inputs = batch.inputs.copy()
            answers = task.solve(inputs)
            if not np.array_equal(inputs, batch.inputs):
                raise Violation("solve changes its inputs; work on a copy")
            wrong = (answers != batch.targets) & scored(batch)
            if wrong.any():
                row, position = first(wrong)
                share = f"{wrong.sum():,} of {scored(batch).sum():,} targets"
                raise Violation(
                    f"solve misses {share} (seed {seed}, {split}); the first in row {row} at position "
                    f"{position}: {answers[row, position]} for {batch.targets[row, position]}"
                )
            count += int(scored(batch).sum())
    return f"right at all of {count:,} targets"


def causality(subject: Subject) -> str:
    """With readout "every", the answer at a position follows from the tokens up to it."""
    task = subject.task
    if task.readout == "last":
        raise NotApplicable("all answers are read from the last position, which has every token before it")
    batch = subject.draw(2, "train", 60)
    answers, cuts = task.solve(batch.inputs), range(1, task.seq_len, max(1, task.seq_len // CUTS))
    for cut in cuts:
        for other in (1, 7):
            changed = batch.inputs.copy()
            changed[:, cut:] = np.roll(batch.inputs, other, axis=0)[:, cut:]
            moved = ((task.solve(changed) != answers) & scored(batch))[:, :cut]
            if moved.any():
                row, position = first(moved)
                raise Violation(
                    f"the answer at position {position} changes with the tokens from {cut} on, which a "
                    "causal model has not seen there; ask for it later, or declare readout = 'last'"
                )
    return f"no answer moves when the tokens after it do, at {len(cuts)} cuts"
