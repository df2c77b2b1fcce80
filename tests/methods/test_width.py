"""Scores and removers that take heads and MLP channels out of language models, on networks small enough to check by hand."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout import catalog
from resprout.core import select
from resprout.core.budget import Budget
from resprout.core.errors import BudgetError
from resprout.core.granularity import Units, parse
from resprout.core.kinds import Remover, Scores
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.core.units import living
from resprout.methods.allocate.cfsp_coarse import CfspCoarse, densities
from resprout.methods.recover.mean_shift import compensate
from resprout.methods.remove._regression import draw, regress, tau
from resprout.methods.remove.bonsai import Bonsai
from resprout.methods.remove.cfsp import Cfsp
from resprout.methods.remove.k_prune import KPrune
from resprout.methods.score.cfsp_fine import CfspFine
from resprout.methods.score.flap import Flap
from resprout.methods.score.minitron_width import MinitronWidth
from resprout.methods.score.taylor_mixed import TaylorMixed
from resprout.models.encoder import Layer, TextEncoder
from resprout.tasks.sst2 import Sentences
from resprout.tasks.text import Text

IDS = torch.tensor([[1, 4, 9, 2, 7]])
MLP = "model.layers.{}.mlp.{}_proj.weight"
HEADS = "model.layers.{}.self_attn.{}_proj.weight"


def llama(tied: bool = True) -> nn.Module:
    """Two blocks of width 16 with 4 heads (2 of keys and values) and 12 MLP channels, in evaluation mode."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # far enough from zero that every layer counts
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(8)
    return model


def text() -> Text:
    tokens = torch.randint(3, 32, (600,), generator=torch.Generator().manual_seed(0))
    return Text(tokens, tokens, tokens, 12, 1, 8, "noise")


def started(model: nn.Module, task: rs.Task, example: object, kind: str = "width", batches: int = 3) -> Run:
    masks, groups = Masks.dense(model), rs.trace(model, example).groups
    chosen = selectable(model, groups, list(masks), masks)
    run = Run(model, task, granularity=parse(kind), groups=chosen, probe_batches=batches)
    run.do(Mark("dense"))
    return run


def of_llama(remover: Remover, budget: str, model: nn.Module | None = None) -> tuple[Run, dict]:
    """Remove, and check that the shrunk network computes what the masked one does."""
    model = model or llama()
    structure = rs.trace(model, {"input_ids": IDS})
    run = started(model, text(), {"input_ids": IDS})
    facts = run.do(Remove(Budget.parse(budget), remover))
    small = rs.shrink(model, run.masks, structure=structure)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert torch.allclose(small(IDS).logits, model(IDS).logits, atol=1e-4)
    return run, facts


def mlp() -> tuple[nn.Sequential, Probe]:
    """Hidden units 1 and 4 of six are constant: 3 and relu(-1) = 0."""
    torch.manual_seed(0)
    first = nn.Linear(4, 6)
    with torch.no_grad():
        first.weight[[1, 4]] = 0
        first.bias[[1, 4]] = torch.tensor([3.0, -1.0])
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(6, 3))
    data = [torch.randn(n, 4) for n in (30, 7)]
    probe = Probe(model, data=data, loss=lambda m, x: m(x).square().mean(), training=False)
    probe.groups = rs.trace(model, data[0]).groups
    return model, probe


def rows(scores: dict[str, Tensor], name: str) -> Tensor:
    return scores[name].flatten(1)[:, 0]


# -- scores ----------------------------------------------------------------------------------------------------


def test_flap_is_the_variance_times_the_squared_norm_of_the_column():
    model, probe = mlp()
    hidden = model[1](model[0](torch.cat(list(probe.data()))))
    by_hand = hidden.var(0, correction=0) * dict(model.named_parameters())["2.weight"].square().sum(0)
    plain = rows(dict(Flap(standardise=False)(probe)), "0.weight")
    assert torch.allclose(plain, by_hand, rtol=1e-5)
    standard = rows(dict(Flap()(probe)), "0.weight")
    assert torch.allclose(standard, (by_hand - by_hand.mean()) / by_hand.std(correction=0), atol=1e-5)


def test_flap_takes_constant_units_and_their_means_make_up_for_them():
    model, probe = mlp()
    dense, x = copy.deepcopy(model), torch.randn(9, 4)
    masks = rs.prune(model, 1 / 3, score="flap", granularity="width", example=x, data=probe.data(), loss=probe._loss)
    dead = ~living(probe.groups, masks)[probe.groups[0].name]
    assert dead.nonzero().flatten().tolist() == [1, 4]
    compensate(model, masks, Probe(dense, data=probe.data(), loss=probe._loss, training=False))
    assert torch.allclose(model(x), dense(x), atol=1e-5)


def test_heads_and_channels_are_ranked_together():
    model, task = llama(), text()
    dense, data = copy.deepcopy(model), list(task.batches("train"))[:3]
    structure = rs.trace(model, {"input_ids": IDS})
    masks = rs.prune(
        model, 0.4, score="flap", granularity="width", floor=1, example=structure, data=data, loss=task.loss
    )
    units = Units("width").units(masks, selectable(model, structure.groups, list(masks), masks))
    assert (units.total, units.alive) == (2 * (2 + 12), 17)
    assert torch.allclose(rs.shrink(model, masks, structure=structure)(IDS).logits, model(IDS).logits, atol=1e-4)
    shifted = compensate(model, masks, Probe(dense, data=data, loss=task.loss, training=False), create=True)
    assert MLP.format(0, "down") in shifted
    assert torch.allclose(rs.shrink(model, masks, structure=structure)(IDS).logits, model(IDS).logits, atol=1e-4)


def test_minitron_by_hand_and_dead_units_are_worth_nothing():
    model, task = llama(tied=False), text()
    with torch.no_grad():
        params = dict(model.named_parameters())
        params[MLP.format(0, "up")][[3, 5]] = 0
        params[HEADS.format(1, "v")][4:] = 0  # the second of two heads of values
        for name, p in params.items():  # nobody writes channel 7 of the width
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                p[7] = 0
            if "embed" in name:
                p[:, 7] = 0
    data = list(task.batches("train"))[:2]
    probe = Probe(model, data=data, loss=task.loss, training=False)
    probe.groups = rs.trace(model, {"input_ids": IDS}).groups
    seen: dict[str, list[Tensor]] = {}
    found = MinitronWidth()(probe)
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.0.mlp.gate_proj"]
    probe.watch(names, lambda n, x: seen.setdefault(n, []).append(x), inputs=True)
    channels, heads, width = (torch.cat(seen[n]) for n in names)
    assert torch.allclose(rows(found, MLP.format(0, "gate")), channels.norm(dim=1).mean(0), rtol=1e-5)
    each = heads.unflatten(2, (2, 8)).norm(dim=3).norm(dim=1).mean(0)  # two query heads of 4 to each head of values
    assert torch.allclose(rows(found, HEADS.format(1, "q")).view(2, 8), each[:, None].expand(2, 8), rtol=1e-5)
    assert torch.allclose(rows(found, HEADS.format(0, "o")), width.norm(dim=1).mean(0), rtol=1e-5)
    assert rows(found, MLP.format(0, "up"))[[3, 5]].tolist() == [0.0, 0.0]
    assert float(each[1]) == 0
    assert float(rows(found, HEADS.format(0, "o"))[7]) == 0


def test_minitron_that_keeps_all_is_the_network_itself():
    model, task = llama(), text()
    data = list(task.batches("train"))[:1]
    before, structure = model(IDS).logits.clone(), rs.trace(model, {"input_ids": IDS})
    masks = rs.prune(
        model, 0.0, score="minitron_width", granularity="width", example=structure, data=data, loss=task.loss
    )
    assert torch.equal(rs.shrink(model, masks, structure=structure)(IDS).logits, before)


def test_the_same_channels_of_the_width_leave_in_all_layers():
    """Where the embedding has a mask too; it is tied to the head here."""
    model, task = llama(), text()
    data, structure = list(task.batches("train"))[:2], rs.trace(model, {"input_ids": IDS})
    everything = Masks.dense(model, targets=["re:.*proj.weight", "re:.*embed_tokens.weight"])
    masks = rs.prune(
        model, 0.25, score="minitron_width", allocate="uniform", granularity="width", floor=1, example=structure,
        data=data, loss=task.loss, masks=everything,
    )  # fmt: skip
    small = rs.shrink(model, masks, structure=structure)
    shapes = {n: tuple(p.shape) for n, p in small.named_parameters()}
    assert (shapes["model.embed_tokens.weight"], shapes[MLP.format(1, "gate")]) == ((32, 12), (9, 12))
    assert torch.allclose(small(IDS).logits, model(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("score", ["taylor", "taylor_mixed"])
def test_llm_pruners_importance_is_the_sum_over_all_coupled_weights(score):
    """Elementwise, gathered by summation: what `taylor` at a structured granularity is already."""
    model, task = llama(), text()
    data = list(task.batches("train"))[:2]
    probe = Probe(model, data=data, loss=task.loss, training=False)
    probe.groups = selectable(model, rs.trace(model, {"input_ids": IDS}).groups, probe.names, probe.names)
    g, f, w = probe.gradients(), probe.fisher(), probe.weights()
    second = 0.5 if score == "taylor_mixed" else 0.0
    worth = {n: (g[n] * w[n] - second * f[n] * w[n].square()).abs() for n in w}
    found = catalog.make("score", score)(probe)
    pooled = Units("width")._pool(Scores(found, groups=probe.groups), list(probe.groups))
    mlp0 = [worth[MLP.format(0, n)] for n in ("gate", "up", "down")]
    assert torch.allclose(pooled[MLP.format(0, "gate")], mlp0[0].sum(1) + mlp0[1].sum(1) + mlp0[2].sum(0), rtol=1e-4)
    q, k, v, o = (worth[HEADS.format(1, n)] for n in "qkvo")
    each = [q.view(2, -1).sum(1), k.view(2, -1).sum(1), v.view(2, -1).sum(1), o.view(16, 2, 8).sum((0, 2))]
    assert torch.allclose(pooled[HEADS.format(1, "q")], sum(each, torch.zeros(2)), rtol=1e-4)


def test_the_second_term_of_taylor_by_hand():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    data = [torch.tensor([[1.0]]), torch.tensor([[3.0]])]  # of w x the gradients 1 and 3, mean 2, mean square 5
    found = TaylorMixed()(Probe(model, data=data, loss=lambda m, x: m(x).sum()))
    assert float(select.dense(found["weight"])) == pytest.approx(abs(2 * 2 - 5 * 4 / 2))


def test_cfsp_as_released_is_the_norm_of_the_activation_alone():
    model, task = llama(), text()
    probe = Probe(model, data=list(task.batches("train"))[:2], loss=task.loss, training=False)
    probe.groups = rs.trace(model, {"input_ids": IDS}).groups
    probe.groups = tuple(g for g in probe.groups if "gate" in g.name)
    seen = []
    probe.watch(["model.layers.1.mlp.down_proj"], lambda n, x: seen.append(x.flatten(0, 1)), inputs=True)
    size = torch.cat(seen).square().mean(0).sqrt()
    released = rows(CfspFine(relative="channel")(probe), MLP.format(1, "gate"))
    assert torch.allclose(released, 3 / 16 * size, rtol=1e-6)
    assert torch.allclose(rows(CfspFine(relative="channel", c=0)(probe), MLP.format(1, "up")), torch.tensor(3 / 16))
    both = rows(CfspFine()(probe), MLP.format(1, "gate"))
    w = {n: p.detach().abs() for n, p in model.named_parameters()}
    gate, up, down = w[MLP.format(1, "gate")], w[MLP.format(1, "up")], w[MLP.format(1, "down")].T * size[:, None]
    across = sum((m / m.sum(0)).mean(1) for m in (gate, up, down))
    assert torch.allclose(both, (3 / 16 + across) * size, rtol=1e-5)


def test_cfsp_blocks_keep_in_proportion_to_their_angle():
    names = [f"layers.{i}.up.weight" for i in range(4)]
    scores = Scores({n: torch.rand(100) for n in names})
    angle = {f"layers.{i}": a for i, a in enumerate((0.3, 0.1, 0.1, 0.0))}
    wishes = CfspCoarse(angle)(scores, dict.fromkeys(names, 1.0), 240.0)
    kept = [wishes[n] / 100 for n in names]
    assert sum(kept) / 4 == pytest.approx(0.6)
    assert max(kept) < 1
    assert kept[0] == max(kept)
    assert kept[3] == min(kept)
    assert kept[1] == pytest.approx(kept[2])
    plain = densities({"a": 0.6, "b": 0.4}, 0.5)  # none would reach 1
    assert plain == {"a": pytest.approx(0.6), "b": pytest.approx(0.4)}
    assert CfspCoarse()(scores, dict.fromkeys(names, 1.0), 240.0) == dict.fromkeys(names, pytest.approx(60))


# -- removers --------------------------------------------------------------------------------------------------


def test_cfsp_cuts_a_block_that_does_nothing_most():
    model = llama()
    with torch.no_grad():
        dict(model.named_parameters())[HEADS.format(1, "o")].zero_()
        dict(model.named_parameters())[MLP.format(1, "down")].zero_()
    run, facts = of_llama(Cfsp(), "0.2", model)
    assert facts["angles"]["model.layers.1"] == pytest.approx(0, abs=1e-6)
    assert facts["left"][MLP.format(1, "gate")] < facts["left"][MLP.format(0, "gate")] < 12
    assert run.masks[HEADS.format(0, "q")].all()


def encoder(heads: int = 2) -> tuple[TextEncoder, rs.Task]:
    torch.manual_seed(0)
    model = TextEncoder(40, 12, 16, 2, heads, 24, 3, 0.1).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(4)
    g = torch.Generator().manual_seed(1)
    parts = [(torch.randint(1, 40, (64, 12), generator=g), torch.randint(3, (64,), generator=g)) for _ in range(3)]
    return model, Sentences(*parts, batch_size=16, name="words")


def test_k_prune_without_a_cut_leaves_the_weights():
    model, task = encoder()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run = started(model, task, torch.ones(1, 12, dtype=torch.int64))
    run.do(Remove(Budget.parse("0.0"), KPrune()))
    assert all(torch.allclose(p, before[n], atol=1e-5) for n, p in model.named_parameters())


def test_k_prune_loses_nothing_with_neurons_that_others_say_already():
    model, task = encoder()
    with torch.no_grad():
        for layer in model.layers:
            assert isinstance(layer, Layer)
            layer.up.weight[12:], layer.up.bias[12:] = layer.up.weight[:12], layer.up.bias[:12]
            layer.down.weight[:, 12:] = torch.randn(16, 12) * 0.05  # the copies do little, and so they go
    dense = copy.deepcopy(model)
    run = started(model, task, torch.ones(1, 12, dtype=torch.int64))
    half = sum(2 * 12 * 16 for _ in model.layers) / run.masks.total
    facts = run.do(Remove(Budget.parse(half), KPrune(heads=1e12)))
    x = torch.randint(1, 40, (8, 12))
    assert [layer["left"] for layer in facts["sublayers"]] == [2, 12, 2, 12]
    assert max(layer["missed"][1] for layer in facts["sublayers"]) < 1e-9
    assert torch.allclose(model(x), dense(x), atol=1e-3)


def kl_to(dense: nn.Module, model: nn.Module, data: Sequence[Tensor]) -> float:
    with torch.no_grad():
        p, q = (torch.cat([m(x) for x in data]).log_softmax(-1) for m in (dense, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_k_prunes_fit_never_loses_and_comes_nearer_to_the_dense_network():
    found = {}
    for refit in (True, False):
        model, task = encoder()
        dense = copy.deepcopy(model)
        run = started(model, task, torch.ones(1, 12, dtype=torch.int64))
        facts = run.do(Remove(Budget.parse("0.5"), KPrune(refit=refit)))
        assert run.masks.sparsity >= 0.5
        assert all(after <= before for before, after in (layer["missed"] for layer in facts["sublayers"]))
        small = rs.shrink(model, run.masks, torch.ones(1, 12, dtype=torch.int64))
        x = torch.randint(1, 40, (64, 12), generator=torch.Generator().manual_seed(5))
        assert torch.allclose(small(x), model(x), atol=1e-4)
        found[refit] = kl_to(dense, model, [x])
    assert found[True] < found[False]


def test_k_prune_of_a_language_model():
    run, facts = of_llama(KPrune(), "0.3")
    assert [layer["reads"].split(".")[-2] for layer in facts["sublayers"]] == ["o_proj", "down_proj"] * 2
    assert 0.3 <= run.masks.sparsity < 0.33


def test_the_regression_finds_what_units_are_worth_by_themselves():
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        worth = torch.randn(24, generator=g).double()
        masks = torch.stack([m for _ in range(48) for m in draw(torch.ones(24), 12, g)])
        value = masks.double() @ worth + 0.2 * torch.randn(96, generator=g)
        assert tau(regress(masks, value, torch.randn(24, generator=g), (1e-3, 1e-1, 10.0)), worth) > 0.9


def test_complements_help_where_units_depend_on_each_other():
    missed = {}
    for pairs in (True, False):
        missed[pairs] = 0.0
        for seed in range(8):
            g = torch.Generator().manual_seed(seed)
            worth, both = torch.randn(24, generator=g).double(), 0.3 * torch.randn(24, 24, generator=g).double()
            drawn = [draw(torch.ones(24), 12, g) for _ in range(96)]
            m = torch.stack([m for pair in drawn[:48] for m in pair] if pairs else [a for a, _ in drawn]).double()
            value = m @ worth + ((m - 0.5) @ both * (m - 0.5)).sum(1)
            beta = regress(m.bool(), value, worth, (1e-4,)) * value.std(correction=0)
            missed[pairs] += float((beta - beta.mean() - worth + worth.mean()).square().mean())
    assert missed[True] < missed[False]


def test_a_prior_counts_where_there_is_little_else():
    g = torch.Generator().manual_seed(0)
    worth = torch.randn(30, generator=g).double()
    masks = torch.stack([m for _ in range(4) for m in draw(torch.ones(30), 15, g)])
    assert tau(regress(masks, masks.double() @ worth, worth, (10.0,)), worth) > 0.95


@pytest.mark.parametrize("jointly", [True, False])
def test_bonsai_keeps_the_most_active_units_and_stops_at_the_budget(jointly):
    model = llama()
    probe = Probe(model, data=list(text().batches("train"))[:3], loss=text().loss, training=False)
    probe.groups = rs.trace(model, {"input_ids": IDS}).groups
    seen = []
    probe.watch(["model.layers.0.mlp.down_proj"], lambda n, x: seen.append(x.abs().flatten(0, 1)), inputs=True)
    run, facts = of_llama(Bonsai(part=0.2, networks=16, batches=1, jointly=jointly), "0.1", model)
    # 10 % of 2 * (768 + 576) weights are six channels of 48; of each twelve, four competed at first.
    assert 0.1 <= run.masks.sparsity < 0.1 + 48 / run.masks.total
    assert [r["left"] for r in facts["rounds"]] == [2 * (2 + 12) - 4, 2 * (2 + 12) - 6]
    assert all(r["least"] <= r["greatest"] for r in facts["rounds"])
    gone = ~living(run.groups, run.masks)[MLP.format(0, "gate")]
    assert not gone[torch.cat(seen).mean(0).topk(4).indices].any()


def test_bonsai_takes_heads_where_it_is_told_to():
    """Of four heads of keys and values each."""
    model, task = encoder(heads=4)
    run = started(model, task, torch.ones(1, 12, dtype=torch.int64))
    run.do(Remove(Budget.parse("0.2"), Bonsai(part=0.25, networks=8, batches=1, jointly=False)))
    assert Units("head").units(run.masks, run.groups).alive < 8
    with pytest.raises(BudgetError, match="cannot be met"):  # a part that is less than half a unit is none
        run.do(Remove(Budget.parse("0.999"), Bonsai(part=0.25, networks=4, batches=1)))
