"""What the recall tasks share: where something was first shown, rows of key-value pairs, motifs."""

import numpy as np
import numpy.typing as npt

from synthetic_tasks.task import IGNORE, Batch, Tokens

Mask = npt.NDArray[np.bool_]


def first_occurrence(codes: Tokens, preferred: Mask | None = None) -> Tokens:
    """For every slot, the first slot of its row that holds the same code: (n, slots) -> (n, slots).

    With `preferred`, the first preferred slot of that code, or its first slot where none is preferred.
    """
    n, slots = codes.shape
    # Code, preference and slot packed in one number: a plain sort brings equal codes together, in that order.
    group = codes if preferred is None else 2 * codes + ~preferred
    packed = np.sort(group * slots + np.arange(slots), axis=1)
    group, slot = np.divmod(packed, slots)
    code = group if preferred is None else group // 2
    starts = np.ones((n, slots), dtype=bool)
    starts[:, 1:] = code[:, 1:] != code[:, :-1]
    start = np.maximum.accumulate(np.where(starts, np.arange(slots), 0), axis=1)
    first = np.empty_like(codes)
    np.put_along_axis(first, slot, np.take_along_axis(slot, start, axis=1), axis=1)
    return first


def recall_rows(
    rng: np.random.Generator,
    keys: Tokens,
    values: Tokens,
    *,
    copy_prefix: int | None = None,
    noise: Tokens | None = None,
    used: Mask | None = None,
) -> Batch:
    """Rows of pairs and a probe, from one key and one candidate value per slot, (n, pairs) each.

    A key takes the candidate of the slot that shows it first. Without a copy prefix the probe is a last pair
    and each key that was shown before is scored; with one, the row ends "copy prefix, probe key" and only
    that key is scored. Slots that are not `used` hold two tokens of `noise`, (n, pairs, 2), instead; each row
    needs one used slot.
    """
    n, pairs = keys.shape
    used = np.ones((n, pairs), dtype=bool) if used is None else used
    first = first_occurrence(np.where(used, keys, -1))
    values = np.take_along_axis(values, first, axis=1)
    fresh = used & (first == np.arange(pairs))  # one slot a distinct key: the probe is uniform among the keys
    probe = np.where(fresh, rng.random((n, pairs)), -1.0).argmax(axis=1)[:, None]
    probe_key, probe_value = (np.take_along_axis(array, probe, axis=1) for array in (keys, values))

    context = np.stack([keys, values], axis=2)  # (n, pairs, 2)
    if noise is not None:
        context = np.where(used[:, :, None], context, noise)
    targets = np.full((n, 2 * pairs + 2), IGNORE)
    if copy_prefix is None:
        tail = [probe_key, probe_value]
        targets[:, :-2:2] = np.where(used & ~fresh, values, IGNORE)
        targets[:, -2:-1] = probe_value
    else:
        tail = [np.full((n, 1), copy_prefix), probe_key]
        targets[:, -1:] = probe_value
    return Batch(np.concatenate([context.reshape(n, 2 * pairs), *tail], axis=1), targets)


def solve_recall(inputs: Tokens, num_keys: int) -> Tokens:
    """After a key that was shown before: the token that followed it then. Elsewhere 0."""
    first = first_occurrence(np.where(inputs < num_keys, inputs, -1))
    known = (inputs < num_keys) & (first < np.arange(inputs.shape[1]))
    return np.where(known, np.take_along_axis(inputs, np.where(known, first + 1, 0), axis=1), 0)


def draw_motifs(rng: np.random.Generator, shape: tuple[int, ...], num_ids: int, size: int) -> Tokens:
    """Motifs of `size` different ids below num_ids, uniform: (size, *shape).

    Place j picks uniformly among the num_ids - j ids that are left, counted upwards; stepping over the ids
    that were picked before, in rising order, turns the count into an id.
    """
    motif = np.empty((size, *shape), dtype=np.int64)
    for place in range(size):
        pick = rng.integers(num_ids - place, size=shape)
        for earlier in np.sort(motif[:place], axis=0):
            pick += pick >= earlier
        motif[place] = pick
    return motif
