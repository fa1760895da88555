"""The suites as plain data, by name and version: `mad.data.protocol.Suite` checks the fields.

A new suite is an entry in SUITES, and so is a change of one: a new version, beside the older ones. This
imports nothing, so that a listing can name the suites.
"""

from typing import Any

Settings = list[dict[str, Any]]


def _settings(budget: dict[str, Any], *tasks: str, **changes: Any) -> Settings:
    return [{"task": task, **budget, **changes} for task in tasks]


SMOKE: dict[str, Any] = dict(train_examples=64, epochs=2, batch_size=16, evaluations=2)
SMOKE |= dict(lrs=(1e-3, 2e-3), weight_decays=(0.0,), validation_examples=64, test_examples=64)
# One learning rate: at these budgets 3e-3 beat 1e-3 for every architecture and task that was calibrated.
QUICK = dict(train_examples=12_800, epochs=2, batch_size=32, lrs=(3e-3,), weight_decays=(0.0,))
PUBLISHED: dict[str, Any] = dict(train_examples=12_800, epochs=200, batch_size=128, evaluations=40)
PUBLISHED |= dict(lrs=(1e-4, 5e-4, 1e-3), weight_decays=(0.0, 0.1))

# What arXiv:2403.17844 varies, one thing at a time.
VARIED = {
    "in-context-recall": "vocab_size=32,64,128 seq_len=256,512,1024",
    "noisy-in-context-recall": "vocab_size=48,80,144 seq_len=256,512,1024 frac_noise=0.4,0.6,0.8",
    "fuzzy-in-context-recall": "vocab_size=32,64,128 seq_len=256,512,1024",
    "selective-copying": "vocab_size=32,64,128 seq_len=512,1024 num_tokens_to_copy=32,64,96",
    "compression": "vocab_size=32,64,128 seq_len=64,128,256",
    "memorization": "vocab_size=512,1024,2048,4096,8192",
}


def _published(name: str) -> Settings:
    """The settings of a task: its baseline, then one variable changed at a time."""
    axes = [axis.split("=") for axis in VARIED[name].split()]
    tasks = [name, *(f"{name}[{field}={value}]" for field, values in axes for value in values.split(","))]
    if name == "memorization":
        return _settings(PUBLISHED, *tasks, train_examples=256)
    fewer = [_settings(PUBLISHED, name, train_examples=count) for count in (6400, 3200, 1600, 800)]
    return sum(fewer, start=_settings(PUBLISHED, *tasks))


SUITES: dict[str, dict[str, Any]] = {
    "smoke@1": {
        "about": "six tiny tasks: does everything run? Its scores mean nothing",
        "dim": 32,
        "seeds": 1,
        "settings": _settings(
            SMOKE,
            "in-context-recall[vocab_size=8, seq_len=16]",
            "noisy-in-context-recall[vocab_size=12, seq_len=16, noise_vocab_size=4]",
            "fuzzy-in-context-recall[vocab_size=10, seq_len=24, key_motif_max=2, value_motif_max=2]",
            "selective-copying[vocab_size=8, seq_len=16, num_tokens_to_copy=4]",
            "compression[vocab_size=8, seq_len=8]",
            "memorization[vocab_size=32, seq_len=8]",
        ),
    },
    "quick@1": {
        "about": "six small tasks, calibrated to tell architectures apart in minutes on a laptop",
        "dim": 64,
        "seeds": 1,
        "settings": [
            *_settings(
                QUICK,
                "in-context-recall[vocab_size=32, seq_len=32, train_targets=answers]",
                "noisy-in-context-recall[seq_len=32, train_targets=answers]",
                "fuzzy-in-context-recall[vocab_size=12, seq_len=48, key_motif_max=2, value_motif_max=2, "
                "train_targets=answers]",
                "selective-copying[seq_len=32, num_tokens_to_copy=8]",
            ),
            *_settings(QUICK, "compression[seq_len=8]", epochs=3),
            *_settings(QUICK, "memorization[vocab_size=1024]", epochs=50, train_examples=256),
        ],
    },
    "baseline@1": {
        "about": "the six baseline settings of the published protocol, three seeds: one GPU, minutes",
        "dim": 128,
        "seeds": 3,
        "settings": [_published(name)[0] for name in VARIED],
    },
    "mad-2024@1": {
        "about": "all 66 settings of arXiv:2403.17844 at six grid points: the published protocol",
        "dim": 128,
        "seeds": 1,
        "settings": [setting for name in VARIED for setting in _published(name)],
    },
}


# In the order of the entries, each once.
NAMES = tuple(dict.fromkeys(label.partition("@")[0] for label in SUITES))
