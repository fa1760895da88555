import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
from architectures.primitive import Hint
from mad.data.protocol import get_protocol
from mad.run.optim import AdamW, Optimizer, hints_of, learning_rate

SOUND, PUBLIC = get_protocol("sound"), get_protocol("public-code")


def model(spec: str = "mamba swiglu") -> nn.Module:
    return architectures.build(spec, vocab_size=8, dim=16, max_len=12, seed=0)


def optimizer(parameters: Mapping[str, Tensor], **changes: Any) -> Optimizer:
    options: dict[str, Any] = {"hints": {name: Hint() for name in parameters}, "protocol": SOUND}
    options |= {"lr": 1e-2, "weight_decay": 0.1, **changes}
    hints, protocol = options.pop("hints"), options.pop("protocol")
    return Optimizer(parameters.items(), hints, betas=protocol.betas, eps=protocol.eps, **options)


def rates(opt: Optimizer) -> list[float]:
    return [group["lr"] for group in opt.adamw.param_groups]


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1.0), (25, 0.5 + math.sqrt(0.125)), (50, 0.5), (75, 0.5 - math.sqrt(0.125)), (99, 2.4671981713e-4)],
)
def test_the_cosine_is_the_closed_form(step: int, factor: float) -> None:
    assert learning_rate("cosine", step, 100) == pytest.approx(factor, rel=1e-9)


def test_the_cosine_falls_at_every_step_and_never_reaches_zero() -> None:
    factors = [learning_rate("cosine", step, 7) for step in range(7)]
    assert factors == sorted(factors, reverse=True) and len(set(factors)) == 7 and factors[-1] > 0
    assert learning_rate("cosine", 0, 1) == 1.0


def test_the_cosine_is_that_of_torch() -> None:
    steps, base = 23, 3e-3
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=base)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, T_max=steps)
    for step in range(steps):
        assert base * learning_rate("cosine", step, steps) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-6
        )
        adamw.step()
        schedule.step()


def test_constant_is_constant() -> None:
    assert {learning_rate("constant", step, 9) for step in range(9)} == {1.0}


def test_the_learning_rate_is_applied_at_each_step() -> None:
    # With Adam and a gradient that stays the same, the first step moves a parameter by the learning rate.
    for factor in (1.0, 0.5, 0.125):
        weight = nn.Parameter(torch.zeros(3))
        opt = optimizer({"weight": weight}, weight_decay=0.0)
        weight.grad = torch.full((3,), 0.7)
        opt.step(factor)
        assert rates(opt) == [1e-2 * factor]
        torch.testing.assert_close(weight.detach(), torch.full((3,), -1e-2 * factor), rtol=1e-5, atol=0)


def test_a_falling_schedule_moves_less_and_less() -> None:
    weight, moves, applied = nn.Parameter(torch.zeros(1)), [], []
    opt = optimizer({"weight": weight}, weight_decay=0.0)
    for step in range(10):
        before = float(weight.detach())
        weight.grad = torch.ones(1)
        opt.step(learning_rate("cosine", step, 10))
        moves.append(before - float(weight.detach()))
        applied += rates(opt)
    assert moves == pytest.approx([1e-2 * learning_rate("cosine", step, 10) for step in range(10)], rel=1e-4)
    assert applied == pytest.approx(moves, rel=1e-4)


def test_a_factor_does_not_wear_off_the_base_rate() -> None:
    opt = optimizer({"weight": nn.Parameter(torch.zeros(1))})
    opt.step(0.1)
    opt.step(1.0)
    assert rates(opt) == [1e-2]


def test_hints_are_honoured() -> None:
    weights = {name: nn.Parameter(torch.ones(2, 2)) for name in ("plain", "bare", "slow")}
    hints = {"plain": Hint(), "bare": Hint(decay=False), "slow": Hint(lr_scale=0.1)}
    opt = optimizer(weights, hints=hints)
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    opt.step(0.5)
    # A zero gradient leaves the decay alone: weight * (1 - lr * decay).
    kept = {name: float(weight.detach()[0, 0]) for name, weight in weights.items()}
    assert kept == pytest.approx({"plain": 1 - 5e-4, "bare": 1.0, "slow": 1 - 5e-5}, rel=1e-7)
    assert sorted(rates(opt)) == pytest.approx([5e-4, 5e-3, 5e-3])


def test_vectors_and_the_embedding_are_not_decayed() -> None:
    built = model("mh-attention swiglu")
    hints = hints_of(built, SOUND)
    assert set(hints) == {name for name, _ in built.named_parameters()}
    bare = {name for name, hint in hints.items() if not hint.decay}
    vectors = {name for name, p in built.named_parameters() if p.dim() < 2}
    assert bare == vectors | {"embedding.weight"}


def test_what_a_layer_says_reaches_the_optimiser() -> None:
    built = model("mamba swiglu")
    hints = hints_of(built, SOUND)
    layer: Any = built.get_submodule("blocks.0.layer")
    said = {f"blocks.0.layer.{name}": hint for name, hint in layer.hints().items()}
    assert said and {name: hints[name] for name in said} == said
    opt = optimizer(dict(built.named_parameters()), hints=hints)
    decayed = {id(p) for group in opt.adamw.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in built.named_parameters() if id(p) in decayed}
    assert names == {name for name, hint in hints.items() if hint.decay}
    assert "head.weight" in names


def test_the_public_code_decays_everything_at_one_rate() -> None:
    built = model("mamba swiglu")
    opt = optimizer(dict(built.named_parameters()), hints=hints_of(built, PUBLIC), protocol=PUBLIC)
    (group,) = opt.adamw.param_groups
    assert (group["weight_decay"], group["lr"], group["betas"]) == (0.1, 1e-2, (0.9, 0.999))
    assert len(group["params"]) == len(list(built.parameters()))


def test_a_plain_module_decays_its_matrices() -> None:
    assert hints_of(nn.Linear(3, 3), SOUND) == {"weight": Hint(), "bias": Hint(decay=False)}


def test_it_is_torchs_own_bit_for_bit() -> None:
    ours, peer = model(), model()
    both = [
        kind(net.parameters(), lr=3e-3, fused=True)
        for kind, net in ((AdamW, ours), (torch.optim.AdamW, peer))
    ]
    for step in range(3):
        for net, adamw in zip((ours, peer), both, strict=True):
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            adamw.step()
            adamw.zero_grad()
            assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), peer.parameters(), strict=True))
    assert not any(p.grad_fn for p in ours.parameters())
    assert str(both[0].state_dict()) == str(both[1].state_dict())


def test_no_compiler_is_loaded_that_nobody_asked_for(tmp_path: Path) -> None:
    """It takes longer than torch itself, in every process."""
    code = f"""
import sys, mad
store, tasks = {str(tmp_path / "store")!r}, ["compression"]
mad.bench("mamba mh-attention", suite="smoke", tasks=tasks, engine="inline", store=store)
print("torch._dynamo" in sys.modules, "torch.optim" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-2:] == ["False", "True"]


def test_every_parameter_is_in_one_group() -> None:
    built = model("hyena swiglu mamba")
    opt = optimizer(dict(built.named_parameters()), hints=hints_of(built, SOUND))
    held = [id(p) for group in opt.adamw.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in built.parameters())


@pytest.mark.parametrize("protocol", [SOUND, PUBLIC], ids=lambda p: p.name)
def test_it_is_adamw(protocol: Any) -> None:
    ours, peer = model(), model()
    opt = optimizer(dict(ours.named_parameters()), protocol=protocol, lr=3e-3)
    adamw = torch.optim.AdamW(
        peer.parameters(), lr=3e-3, betas=protocol.betas, eps=1e-8, weight_decay=0.1, foreach=False
    )
    tokens = torch.randint(8, (4, 12), generator=torch.Generator().manual_seed(0))
    for step in range(5):
        for net, update in ((ours, lambda: opt.step(1.0)), (peer, adamw.step)):
            net.zero_grad()
            net(tokens).square().mean().backward()
            update()
        for (name, p), q in zip(ours.named_parameters(), peer.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7, msg=f"{name} at step {step}")
