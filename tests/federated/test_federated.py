"""Federated learning: who has what, averages, what is sent, and FedTiny's exchange against central RigL."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import resprout as rs
from resprout import catalog, find
from resprout.core.budget import Budget
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Optimizer, Train
from resprout.federated._steps import Choose, Exchange, Round, mean, sent, size, statistics
from resprout.federated.clients import Federation
from resprout.federated.fedtiny import FedTiny, blocks_of
from resprout.methods.allocate.erk import Erk
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.rule._move import swap
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.gradient import Gradient
from resprout.methods.score.magnitude import Magnitude

SGD = Optimizer("sgd", momentum=0.0, decay=0.0, nesterov=False)


def task(n: int = 240, batch: int = 10) -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = torch.randn(n, 2, 4, 4, generator=g) + y[:, None, None, None].float()
    return rs.Arrays((x, y), (x[:20], y[:20]), (x[20:40], y[20:40]), batch_size=batch, name="tiny")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def half(run: Run) -> Masks:
    g = torch.Generator().manual_seed(1)
    return Masks({n: torch.rand(m.shape, generator=g) < 0.5 for n, m in run.masks.items()})


@pytest.mark.parametrize(
    "federation", [Federation(6, 3, alpha=0.3), Federation(6, 3, classes=2)], ids=["shares", "classes"]
)
def test_every_sample_has_one_client(federation):
    whole = task()
    parts = federation.split(whole)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(240))
    assert all(torch.equal(a, b) for a, b in zip(parts, federation.split(whole), strict=True))
    for i, part in enumerate(parts):
        client = federation.client(whole, i)
        trained, held = client.train[1], client.validation[1]
        assert len(trained) + len(held) == len(part)
        assert len(held) == round(0.2 * len(part))
        if federation.classes:
            assert len(whole.train[1][part].unique()) <= 2
    drawn = federation.drawn(torch.Generator().manual_seed(2))
    assert len(set(drawn)) == 3


def test_small_alpha_makes_clients_unlike():
    def skew(alpha: float) -> float:
        whole = task()
        parts = Federation(6, 6, alpha=alpha, least=2).split(whole)
        most = [float(whole.train[1][p].bincount(minlength=4).max()) / len(p) for p in parts]
        return sum(most) / len(most)

    assert skew(0.1) > skew(100.0) + 0.2


def test_a_split_says_what_it_cannot_do():
    with pytest.raises(ResproutError, match="fewer clients"):
        Federation(60, 5).split(task())
    with pytest.raises(ResproutError, match="per_round <= count"):
        Federation(5, 6)


def test_the_smallest_client_has_something_to_train_on_and_to_be_judged_by():
    whole, federation = task(40), Federation(12, 12, alpha=0.5, least=2)
    parts = federation.split(whole)
    assert min(map(len, parts)) == 2
    clients = [federation.client(whole, i, parts) for i in range(12)]
    assert min(len(part[1]) for c in clients for part in (c.train, c.validation)) == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Federation(least=1), "two samples"),
        (lambda: Federation(classes=0), "two samples"),
        (lambda: FedTiny(candidates=0), "candidates"),
        (lambda: FedTiny(every=0), "every"),
        (lambda: FedTiny(share=0.6), "share"),
        (lambda: FedTiny(epochs=float("nan")), "epochs"),
        (lambda: Choose(Federation(), Budget.parse("0.5"), 2, 0.5, Magnitude(), Erk(), "sharde"), "shared"),
    ],
)
def test_settings_that_are_none_are_named(make, says):
    with pytest.raises(ResproutError, match=says):
        make()


def test_a_round_of_one_step_each_is_one_step_on_all_they_have():
    """FedAvg with one full-batch step per client is gradient descent on the weighted mean of their losses."""
    federation, lr = Federation(3, 3, alpha=50.0, held=0.01), 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4))
    run = Run(copy.deepcopy(model), task(batch=1000))
    record = run.do(Round(federation, 1, lr, SGD))
    parts = federation.split(run.task)
    clients = [federation.client(run.task, i) for i in range(3)]
    for i, client in enumerate(clients):
        loss = client.loss(model, client.train) * len(parts[i]) / 240
        loss.backward()
    for p, got in zip(model.parameters(), run.model.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(got.detach(), (p - lr * p.grad).detach())
    assert record["up"] == record["down"] == 3 * 132
    assert run.trained == 1


def test_masks_hold_through_rounds_and_the_meter_counts_the_living():
    run = Run(net(), task())
    run.set_masks(half(run))
    run.do(Round(Federation(4, 2), 1, 0.05, SGD))
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())
    others = sum(t.numel() for n, t in run.model.state_dict().items() if t.is_floating_point() and n not in run.masks)
    assert size(run) == run.masks.alive + others
    assert sent(run.journal) == {"up": 2 * size(run), "down": 2 * size(run)}


def test_a_mean_is_weighted():
    states = [
        {"a": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([4.0, 0.0]), "n": torch.tensor(9)},
    ]
    found = mean(states, [1, 3])
    assert found["a"].tolist() == [3.0, 1.0]
    assert int(found["n"]) == 3


def test_an_exchange_keeps_densities_and_sends_as_many_as_come():
    run = Run(net(), task())
    run.set_masks(half(run))
    before, names = run.masks, list(run.masks)
    record = run.do(Exchange(Federation(4, 3), (names[1], names[2]), 0.2))
    assert run.masks.counts == before.counts
    moved = {n: round(0.2 * before.counts[n]) for n in names[1:]}
    assert record["moved"] == sum(moved.values()) == record["reborn"] == record["died"]
    assert record["up"] == 3 * 2 * sum(moved.values())  # values and places
    assert torch.equal(run.masks[names[0]], before[names[0]])
    assert all(int((run.masks[n] & ~before[n]).sum()) == moved[n] for n in names[1:])


def test_a_single_client_with_all_its_data_in_one_batch_is_central_rigl():
    """But that what goes cannot come back at once: clients send gradients of weights that were dead before."""
    whole = task(batch=1000)
    run = Run(net(), whole)
    run.set_masks(half(run))
    federation, names = Federation(1, 1), list(run.masks)
    client = federation.client(whole, 0)
    central = run.fork()
    probe = run.probe_with([next(iter(client.batches("train")))], client.loss)
    central.live = {n: g * ~run.masks[n] for n, g in probe.gradients().items()}
    swap(central, Magnitude(), Gradient(), 0.3)
    run.do(Exchange(federation, (names[0], names[2]), 0.3))
    assert torch.equal(run.masks[names[0]], central.masks[names[0]])
    assert torch.equal(run.masks[names[2]], central.masks[names[2]])
    assert not torch.equal(run.masks[names[1]], central.masks[names[1]])


def test_norms_without_running_statistics_are_not_counted():
    run = Run(nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten(),
                            nn.Linear(24, 4)), task())  # fmt: skip
    record = run.do(Choose(Federation(3, 3), Budget.parse("0.5"), 2, 0.5, Magnitude(), Uniform()))
    assert record["up"] == 2 * 3


def test_batch_norms_are_measured_and_left_alone():
    model, client = net(), Federation(2, 2).client(task(batch=1000), 0)
    before = copy.deepcopy(model.state_dict())
    found = statistics(model, client)
    x = model[0](client.validation[0])
    torch.testing.assert_close(found["1.running_mean"], x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["1.running_var"], x.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("norms", ["shared", "own", "server"])
def test_candidates_meet_the_budget_and_the_least_loss_stays(norms):
    run = Run(net(), task())
    step = Choose(Federation(3, 3), Budget.parse("0.7"), 4, 0.5, Magnitude(), Uniform(), norms)
    pool = step.pool(run)
    assert len({masks.digest() for masks in pool}) == 4
    assert {masks.alive for masks in pool} == {run.masks.total - round(0.7 * run.masks.total)}
    record = run.do(step)
    assert record["losses"][record["chosen"]] == min(record["losses"])
    assert run.masks == pool[record["chosen"]]
    assert record["up"] == 4 * 3 * (1 + 12 * (norms == "shared"))


def test_blocks_are_in_order_and_about_equal():
    assert blocks_of("abcdefg", 3) == [("a", "b"), ("c", "d", "e"), ("f", "g")]
    assert blocks_of("ab", 5) == [("a",), ("b",)]


def test_fedtiny_walks_its_budgets_and_a_killed_run_ends_the_same(tmp_path):
    recipe = FedTiny(
        epochs=8, federation=Federation(3, 2), local=1, candidates=2, allocate=Uniform(), every=1, until=1.0
    )
    budgets = [Budget.parse("0.5"), Budget.parse("0.8")]

    def go(folder: str, kill: bool = False) -> Run:
        run = Run(net(), task(), folder=rs.core.store.RunFolder(tmp_path, folder, {}), save_every=0.0)
        if kill:

            def stop(event: str, facts: dict) -> None:
                if event == "step" and facts["step"] == "Exchange" and not facts.get("resumed"):
                    raise KeyboardInterrupt

            run.report = stop
        run.resume()
        run.do(Mark("dense"))
        recipe(run, budgets)
        return run

    whole = go("whole")
    assert [round(r["sparsity"], 2) for r in whole.journal if r["step"] == "Arrive"] == [0.5, 0.8]
    exchanged = [r for r in whole.journal if r["step"] == "Exchange"]
    assert len(exchanged) == 6
    assert exchanged[0]["moved"] > exchanged[2]["moved"]
    with pytest.raises(KeyboardInterrupt):
        go("cut", kill=True)
    again = go("cut")
    assert all(torch.equal(t, again.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


def test_a_recipe_of_a_setting_is_found_as_a_recipe():
    assert catalog.find("recipe", "fedtiny") is FedTiny
    assert find.method("recipe", "fedtiny(share=0.1)") == FedTiny(share=0.1)


@pytest.mark.slow
def test_shared_norms_choose_a_good_candidate_and_the_servers_do_not():
    """Clients of two classes each, five candidates: the place of the choice by test accuracy, 0 is the best."""
    federation, places = Federation(10, 10, classes=2), {"shared": [], "own": [], "server": []}
    for seed in (0, 1):
        digits = find.task("digits", None, "digits_cnn")
        x, y = digits.train
        own = dataclasses.replace(digits, train=(x[:113], y[:113]), batch_size=32)
        run = Run(find.network("digits_cnn", None, seed), own, seed=seed)
        run.do(Train(60, Cosine(0.05, 0.0), Optimizer()))
        run.task = dataclasses.replace(digits, train=(x[113:], y[113:]), batch_size=32)
        step = Choose(federation, Budget.parse("0.95"), 5, 0.5, Magnitude(), Erk())
        clients = [federation.client(run.task, i) for i in range(10)]
        accuracy = []
        for masks in step.pool(run):
            twin = run.fork()
            twin.set_masks(masks)
            step._judge(twin, clients, [len(p) for p in federation.split(run.task)])
            accuracy.append(twin.evaluate("test"))
        order = sorted(range(5), key=lambda i: -accuracy[i])
        for norms, found in places.items():
            found.append(order.index(dataclasses.replace(step, norms=norms)(run.fork())["chosen"]))
    assert max(places["shared"]) <= 2
    assert sum(places["shared"]) <= sum(places["own"])
    assert sum(places["shared"]) < sum(places["server"])
