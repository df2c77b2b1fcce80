"""`hold`: sparsity that no training loop can lose."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import resprout as rs
from resprout.core.hold import change_masks, guards
from resprout.core.masks import Masks


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def batches(n: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 1, 6, 6, generator=g), torch.randint(3, (8,), generator=g)) for _ in range(n)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def raw(model: nn.Module) -> dict[str, Tensor]:
    """The weights as they are in memory, read without any hook."""
    return {n: p.detach() for n, p in model.named_parameters()}


def obeys(model: nn.Module, masks: Masks) -> bool:
    weights = raw(model)
    return all(not weights[n][~m].any() for n, m in masks.items())


def all_alive_move(before: dict[str, Tensor], model: nn.Module, masks: Masks) -> bool:
    """Training took place: nearly all living weights have changed."""
    after = raw(model)
    moved = sum(int((before[n] != after[n])[m].sum()) for n, m in masks.items())
    return moved > 0.9 * masks.alive


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in raw(model).items()}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, foreach=True),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_never_revive_a_dead_weight(kind):
    """The momentum is warm, and dense, when the weights are cut: without the guard they would come back."""
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    for batch in batches(3):
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    loose, loose_optimizer = copy.deepcopy(model), None
    masks = rs.prune(model, 0.8)
    rs.prune(loose, 0.8)
    loose_optimizer = OPTIMIZERS[kind](loose.parameters())
    loose_optimizer.load_state_dict(optimizer.state_dict())
    before = copied(model)
    rs.hold(model, masks, optimizer)
    for batch in batches(5, seed=2):
        for m, o in ((model, optimizer), (loose, loose_optimizer)):
            loss(m, batch).backward()
            o.step()
            o.zero_grad()
        assert obeys(model, masks)
    assert not obeys(loose, masks)
    assert all_alive_move(before, model, masks)


def test_names_stay_and_the_state_dict_has_nothing_extra():
    model = net()
    names, keys = [n for n, _ in model.named_parameters()], list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = rs.hold(model, rs.prune(model, 0.5), optimizer)
    assert [n for n, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == keys
    assert all(type(p) is nn.Parameter for p in model.parameters())
    guard.release()
    assert list(model.state_dict()) == keys


def test_the_alive_weights_move_as_in_ordinary_training():
    """One plain SGD step by hand: alive weights get w - lr g, dead ones stay zero."""
    model, (batch,) = net(), batches(1)
    masks = rs.prune(model, 0.5)
    grads = torch.autograd.grad(loss(model, batch), [dict(model.named_parameters())[n] for n in masks])
    want = {n: (raw(model)[n] - 0.1 * g) * m for (n, m), g in zip(masks.items(), grads, strict=True)}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rs.hold(model, masks, optimizer)
    loss(model, batch).backward()
    optimizer.step()
    for name in masks:
        torch.testing.assert_close(raw(model)[name], want[name])


def test_momentum_of_the_reborn_and_the_dead_is_cleared():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    old = Masks({"weight": torch.tensor([[True, True, False, False]])})
    new = Masks({"weight": torch.tensor([[True, False, True, False]])})
    guard = rs.hold(model, old, optimizer)
    for _ in range(2):  # the gradient is the input, (1, 1, 1, 1); momentum is 1, then 1.9, dead weights included
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(optimizer.state[model.weight]["momentum_buffer"], torch.full((1, 4), 1.9))
    torch.testing.assert_close(raw(model)["weight"], torch.tensor([[1 - 0.29, 2 - 0.29, 0, 0]]))
    moved = change_masks(model, old, new, values={"weight": torch.full((1, 4), 7.0)})
    assert moved == {"died": 1, "reborn": 1}
    assert guard.masks == new
    torch.testing.assert_close(optimizer.state[model.weight]["momentum_buffer"], torch.tensor([[1.9, 0, 0, 0]]))
    torch.testing.assert_close(raw(model)["weight"], torch.tensor([[0.71, 0, 7.0, 0]]))
    optimizer.zero_grad()
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()  # the survivor moves by 0.1 * (0.9 * 1.9 + 1), the reborn by 0.1 * 1
    torch.testing.assert_close(raw(model)["weight"], torch.tensor([[0.71 - 0.271, 0, 6.9, 0]]))


def test_adam_state_of_the_reborn_is_cleared():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    old, new = (Masks({"weight": torch.tensor([[True, alive]])}) for alive in (False, True))
    guard = rs.hold(model, old, optimizer)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    assert state["exp_avg"].all()
    guard.change(new)
    for key in ("exp_avg", "exp_avg_sq"):
        assert state[key][0, 0] != 0
        assert state[key][0, 1] == 0
    assert state["step"] == 1


def test_ema_started_after_hold_stays_sparse_by_itself():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = rs.prune(model, 0.7)
    rs.hold(model, masks, optimizer)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    assert [type(g).__name__ for g in guards(ema.module)] == ["Guard"]
    for batch in batches(4):
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(model)
    assert obeys(ema.module, masks)
    with torch.no_grad():
        for p in ema.module.parameters():
            p.data.add_(1.0)  # behind autograd's back
    ema(batches(1)[0][0])
    assert obeys(ema.module, masks)
    assert raw(ema.module)["4.weight"][masks["4.weight"]].all()


def test_ema_started_before_hold_is_held_by_a_guard_of_its_own():
    model = net()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    ema.update_parameters(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    masks = rs.prune(model, 0.7)
    rs.hold(model, masks, optimizer)
    ema.update_parameters(model)
    assert not obeys(ema.module, masks)  # the dense past lives on in it ...
    rs.hold(ema.module, masks)
    for batch in batches(3):
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(model)
    ema(batches(1)[0][0])
    assert obeys(ema.module, masks)  # ... until it is held
    model.load_state_dict(ema.module.state_dict())
    assert obeys(model, masks)


def test_ema_by_hand_copied_back_from_a_dense_twin():
    model = net()
    twin = copy.deepcopy(model)  # dense, and never told of the masks
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    masks = rs.prune(model, 0.7)
    rs.hold(model, masks, optimizer)
    for batch in batches(3):
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(twin.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.5)
    with torch.no_grad():
        for slow, fast in zip(twin.parameters(), model.parameters(), strict=True):
            fast.copy_(slow)
    assert not obeys(model, masks)
    model(batches(1)[0][0])
    assert obeys(model, masks)


def test_bfloat16_autocast_and_gradient_accumulation():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    masks = rs.prune(model, 0.8)
    before = copied(model)
    rs.hold(model, masks, optimizer)
    for i, batch in enumerate(batches(6)):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, batch)
        value.backward()
        if i % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
            assert obeys(model, masks)
    assert all_alive_move(before, model, masks)


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_two_forward_passes_and_a_state_dict_before_one_backward(with_optimizer):
    """The guard's own writing must not look to autograd like a change of what it has saved."""
    model, (a, b) = net(), batches(2)
    masks = rs.prune(model, 0.5)
    rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1) if with_optimizer else None)
    value = loss(model, a) + loss(model, b)
    model.state_dict()
    value.backward()
    assert raw(model)["4.weight"].abs().sum() > 0
    assert dict(model.named_parameters())["4.weight"].grad is not None


def test_functional_call_with_other_tensors_is_left_alone():
    model, (batch,) = net(), batches(1)
    masks = rs.prune(model, 0.9, allocate="uniform")
    rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    other = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    torch.func.functional_call(model, other, (batch[0],))
    assert all((t == 1).all() for t in other.values())
    assert obeys(model, masks)


def test_deepcopy_of_a_held_model_is_held_by_itself():
    model = net()
    masks = rs.prune(model, 0.6)
    guard = rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.fill_(1.0)
    assert obeys(model, masks)
    assert raw(model)["4.weight"].max() < 1
    twin(batches(1)[0][0])
    assert obeys(twin, masks)
    assert guards(twin)[0] is not guard
    assert guards(twin)[0].model is twin
    other = rs.prune(copy.deepcopy(model), 0.9, allocate="uniform")  # the twin can be held otherwise, or let go
    rs.hold(twin, other)
    assert len(guards(twin)) == 1
    twin(batches(1)[0][0])
    assert obeys(twin, other)
    guards(twin)[0].release()
    assert guards(twin) == []
    assert guards(model) == [guard]


@pytest.mark.parametrize("order", ["model first", "guard first"])
def test_deepcopy_of_model_and_guard_together(order):
    model = net()
    masks = rs.prune(model, 0.6)
    guard = rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    if order == "model first":
        twin, its = copy.deepcopy((model, guard))
    else:
        its, twin = copy.deepcopy((guard, model))
    assert its.model is twin
    assert guards(twin) == [its]
    assert its.masks == masks
    with torch.no_grad():
        for p in twin.parameters():
            p.fill_(1.0)
    assert not obeys(twin, masks)
    its.enforce()
    assert obeys(twin, masks)
    assert raw(model)["4.weight"].max() < 1


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_of_dense_weights(assign):
    model, dense = net(), net(seed=5)
    masks = rs.prune(model, 0.6)
    rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    model.load_state_dict(copy.deepcopy(dense.state_dict()), assign=assign)
    assert obeys(model, masks)
    want = raw(dense)["4.weight"][masks["4.weight"]]
    assert torch.equal(raw(model)["4.weight"][masks["4.weight"]], want)
    model[4].load_state_dict(dense[4].state_dict())  # a part only, behind the model's back
    model(batches(1)[0][0])
    assert obeys(model, masks)


def test_saved_weights_are_sparse_even_after_a_manual_edit():
    model = net()
    masks = rs.prune(model, 0.6)
    rs.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    for p in model.parameters():
        p.data.add_(1.0)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file)
    assert all(not loaded[n][~m].any() and loaded[n][m].all() for n, m in masks.items())


def test_a_model_that_changes_its_type_or_memory_format_stays_held():
    model = net()
    masks = rs.prune(model, 0.6)
    rs.hold(model, masks)
    model.double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    model(batches(1)[0][0].double())
    assert obeys(model, masks)
    assert raw(model)["0.weight"].dtype == torch.float64


def test_a_replaced_module_of_the_same_shape_is_held_too():
    model = net()
    masks = rs.prune(model, 0.6)
    rs.hold(model, masks)
    model[4] = nn.Linear(64, 3)
    model(batches(1)[0][0])
    assert obeys(model, masks)


def test_release_lets_go():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    masks = rs.prune(model, 0.6)
    guard = rs.hold(model, masks, optimizer)
    guard.release()
    loss(model, batches(1)[0]).backward()
    optimizer.step()
    assert not obeys(model, masks)
    assert not model._forward_pre_hooks
    assert not model._state_dict_pre_hooks
    assert not model._load_state_dict_post_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_holding_again_replaces_the_guard():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rs.hold(model, rs.prune(copy.deepcopy(model), 0.9, allocate="uniform"), optimizer)
    wider = rs.prune(copy.deepcopy(net()), 0.2)
    rs.hold(model, wider, optimizer)
    assert len(guards(model)) == len(optimizer._optimizer_step_post_hooks) == 1
    loss(model, batches(1)[0]).backward()
    optimizer.step()
    assert int(torch.count_nonzero(raw(model)["4.weight"])) == wider.counts["4.weight"]


def test_optimizer_of_another_model_is_refused_and_the_old_guard_stays():
    model = net()
    masks = rs.prune(model, 0.6)
    guard = rs.hold(model, masks)
    with pytest.raises(rs.ResproutError, match=r"optimizer holds none of the 2 masked weights \('0.weight'"):
        rs.hold(model, masks, torch.optim.SGD(net().parameters(), 0.1))
    assert guards(model) == [guard]


def test_masks_of_another_model_are_refused_and_leave_nothing_behind():
    model = net()
    for name, shape in (("9.weight", (3, 64)), ("4.weight", (3, 65)), ("4", (3, 64))):
        with pytest.raises(rs.ResproutError, match=f"cannot keep '{name}' sparse"):
            rs.hold(model, Masks({name: torch.ones(shape, dtype=torch.bool)}))
        assert guards(model) == []
    model(batches(1)[0][0])


def test_a_parametrised_weight_is_a_clear_error():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rs.hold(model, rs.prune(model, 0.6), optimizer)
    parametrize.register_parametrization(model[4], "weight", nn.Identity())
    with pytest.raises(rs.ResproutError, match=r"cannot keep '4.weight' sparse.*re-parametrised"):
        model(batches(1)[0][0])


def test_a_weight_of_another_shape_is_a_clear_error():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rs.hold(model, rs.prune(model, 0.6), optimizer)
    loss(model, batches(1)[0]).backward()
    model[4] = nn.Linear(64, 5)
    with pytest.raises(rs.ResproutError, match=r"cannot keep '4.weight' sparse"):
        optimizer.step()


def test_the_masks_of_other_shapes_cannot_be_changed_to():
    model = net()
    masks = rs.prune(model, 0.6)
    guard = rs.hold(model, masks)
    with pytest.raises(rs.ResproutError, match="different models"):
        guard.change(Masks({"4.weight": masks["4.weight"]}))
    assert guard.masks == masks
