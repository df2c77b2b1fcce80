"""Units of a language model that are taken out on trial: planted layers that do nothing, and the same by plain loops."""

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tiny_lm import chain, silent
from torch import Tensor, nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.errors import BudgetError, ResproutError
from resprout.core.granularity import Units
from resprout.core.kinds import Remover
from resprout.core.run import Run
from resprout.core.steps import Arrive, Mark, Meet, Remove
from resprout.core.train import Optimizer, Train
from resprout.graph.alike import difference, outputs
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.remove_once import RemoveOnce
from resprout.methods.remove._greedy import Trials, blocks, inner, layers, left, merged
from resprout.methods.remove._stream import apart
from resprout.methods.remove.deeper_layers import DeeperLayers
from resprout.methods.remove.finercut import FinerCut
from resprout.methods.remove.minitron_depth import MinitronDepth
from resprout.methods.remove.multipruner import MultiPruner, weakest
from resprout.methods.remove.two_ssp import TwoSsp, attentions, ranked
from resprout.methods.schedule.constant import Constant
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.minitron_width import MinitronWidth
from resprout.numerics import distance
from resprout.tasks.text import Text

transformers = pytest.importorskip("transformers")
BLOCKS, WIDTH, INNER, WORDS, WINDOW = 4, 16, 24, 32, 16
ATTENTION, MLP = 2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH // 2, 3 * WIDTH * INNER  # weights of one block
BRANCHES = [f"model.layers.{i}.{part}" for i in range(BLOCKS) for part in ("self_attn", "mlp")]
REMOVERS = [FinerCut(), DeeperLayers(), DeeperLayers("deepest"), MinitronDepth(), TwoSsp(), MultiPruner()]


@pytest.fixture(scope="module")
def task() -> Text:
    return Text(chain(WORDS, 4000, 1), chain(WORDS, 600, 2), chain(WORDS, 300, 3), window=WINDOW, batch_size=16)


@pytest.fixture(scope="module")
def trained(task) -> nn.Module:
    """A Llama of four blocks, two heads of queries to one of keys, that knows the language a little."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=BLOCKS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=WINDOW, initializer_range=0.2,
        tie_word_embeddings=True,
    )  # fmt: skip
    run = Run(transformers.LlamaForCausalLM(config), task)
    run.do(Train(80, Constant(1e-2), Optimizer("adamw"), looks=1))
    return run.model.eval()


FOUND: dict[type, tuple] = {}  # what a trace finds does not depend on the values


def units_of(kind: type, model: nn.Module, task: Text) -> tuple:
    if kind not in FOUND:
        FOUND[kind] = rs.trace(model, task.train[None, :WINDOW], layers=True).groups
    return FOUND[kind]


def start(model: nn.Module, task: Text, dense: bool = True) -> Run:
    model = copy.deepcopy(model)
    run = Run(model, task, probe_batches=3, groups=units_of(type(model), model, task))
    if dense:
        run.do(Mark("dense"))
    return run


class Spoken(Text):
    """What a model says itself: of all networks it predicts that best, so that whatever changes it costs loss."""

    def batches(self, split, **order):
        yield from self.train.view(-1, WINDOW).split(16)


def spoken(model: nn.Module) -> Spoken:
    torch.manual_seed(0)
    first = torch.arange(96)[:, None] % WORDS
    said = model.generate(first, max_length=WINDOW, min_length=WINDOW, do_sample=True, top_k=0)  # pyright: ignore
    return Spoken(said.flatten(), said.flatten(), said.flatten(), window=WINDOW)


def logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(batch).logits


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["loss", "js", "kl", "angular", "euclidean"])
def test_a_trial_with_blocks_run_once_is_a_whole_trial_and_leaves_no_trace(measure, trained, task):
    run = start(trained, task)
    run.model.train()
    run.model.get_submodule("model.layers.1").eval()
    units = layers(run)
    state = [t.clone() for t in run.model.state_dict().values()]
    once, whole = Trials(run, measure), Trials(run, measure, cached=False)
    modes, rng = [m.training for m in run.model.modules()], torch.get_rng_state()
    assert (once.cached, whole.cached) == (True, False)
    assert once(units) == pytest.approx(whole(units), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(state, run.model.state_dict().values(), strict=True))
    assert modes == [m.training for m in run.model.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in run.model.modules())
    once.remove(units[2])
    assert once(units) == pytest.approx(whole(units), rel=1e-6)  # on top of what has left


def test_blocks_that_look_past_the_one_before_are_not_run_once(task):
    class Far(nn.Module):
        """Its last block reads what the first puts out."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(WORDS, WIDTH)
            self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.head = nn.Linear(WIDTH, WORDS)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            first = x + self.blocks[0](x)
            second = first + self.blocks[1](first)
            return self.head(second + self.blocks[2](first))

    torch.manual_seed(0)
    assert not Trials(Run(Far(), task)).cached


@pytest.mark.parametrize("remover", REMOVERS, ids=lambda r: f"{type(r).__name__}-{getattr(r, 'rule', '')}")
def test_the_budget_is_met_and_the_smaller_network_computes_the_same(remover, trained, task):
    run = start(trained, task)
    facts = run.do(Remove(Budget.parse(0.4), remover))
    assert run.masks.sparsity >= 0.4
    assert run.masks.sparsity <= 0.4 + (ATTENTION + MLP) / run.masks.total
    assert facts["removed"] or isinstance(remover, TwoSsp)
    x = task.validation[None, :WINDOW]
    small = rs.shrink(run.model, run.masks, x)
    assert difference(outputs(run.model, x), outputs(small, x)) < 1e-4
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in trained.parameters())
    more = run.do(Remove(Budget.parse(0.6), remover))  # on top of what has left
    assert run.masks.sparsity >= 0.6
    assert more["died"] > 0


@pytest.mark.parametrize("remover", [FinerCut(), DeeperLayers("deepest"), TwoSsp(), MultiPruner()])
def test_a_budget_out_of_reach_is_said_before_anything_leaves(remover, trained, task):
    run = start(trained, task)
    if not isinstance(remover, DeeperLayers):  # which leaves the last block
        run.groups = tuple(g for g in run.groups if "layers.3" not in g.name)
    with pytest.raises(BudgetError, match="cannot be met"):
        run.do(Remove(Budget.parse(0.9), remover))
    assert run.masks.sparsity == 0


def test_a_block_that_cannot_leave_whole_is_named(trained, task):
    run = start(trained, task)
    run.groups = tuple(g for g in run.groups if g.name != "model.layers.3.mlp")
    with pytest.raises(ResproutError, match=r"model.layers.3 cannot leave whole: model.layers.3.mlp.down_proj.weight"):
        run.do(Remove(Budget.parse(0.2), DeeperLayers()))


def test_without_layers_it_says_what_to_do(trained, task):
    with pytest.raises(ResproutError, match="granularity='layer'"):
        layers(Run(copy.deepcopy(trained), task))


# -- FinerCut ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["js", "angular", "euclidean", "loss"])
@pytest.mark.parametrize("planted", ["model.layers.1.mlp", "model.layers.2.self_attn"])
def test_finercut_takes_a_branch_that_does_nothing_first(measure, planted, trained, task):
    model = silent(trained, planted)
    run = start(model, spoken(model) if measure == "loss" else task)
    facts = run.do(Remove(Budget.parse(0.05), FinerCut(measure)))
    assert facts["removed"][0]["unit"] == planted
    if measure != "loss":
        assert facts["removed"][0][measure] == pytest.approx(0, abs=1e-6)


def naive(model: nn.Module, data: list[Tensor], count: int) -> list[str]:
    """FinerCut as one would write it: whole forward passes of copies, the divergence by the book."""

    def js(a: Tensor, b: Tensor) -> float:
        p, q = a.double().softmax(-1), b.double().softmax(-1)
        m = (p + q) / 2
        return float(((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)).mean() / 2)

    dense, gone = [logits(model, b) for b in data], []
    for _ in range(count):
        found = {}
        for branch in BRANCHES:
            if branch not in gone:
                twin = silent(model, *gone, branch)
                found[branch] = sum(js(d, logits(twin, b)) for d, b in zip(dense, data, strict=True))
        gone.append(min(found, key=found.__getitem__))
    return gone


def test_finercut_is_the_naive_greedy(trained, task):
    run = start(trained, task)
    data = list(run.probe().data())
    facts = run.do(Remove(Budget.parse(0.55), FinerCut()))
    order = [row["unit"] for row in facts["removed"]]
    assert len(order) >= 4
    assert order == naive(trained, data, len(order))
    assert facts["tried"] == sum(2 * BLOCKS - i for i in range(len(order)))
    assert facts["cached"]


def test_finercut_may_take_several_before_it_tries_again(trained, task):
    run = start(trained, task)
    first = Trials(run, "js")(layers(run))
    facts = run.do(Remove(Budget.parse(0.5), FinerCut(every=3)))
    order = [row["unit"] for row in facts["removed"]]
    assert order[:3] == [b for _, b in sorted(zip(first, BRANCHES, strict=True))][:3]
    with pytest.raises(ResproutError):
        FinerCut(every=0)


# -- deeper layers -----------------------------------------------------------------------------------------------------


def test_deeper_layers_finds_blocks_that_do_nothing_and_nothing_changes(trained, task):
    model = silent(trained, *BRANCHES[2:6])
    run = start(model, task)
    facts = run.do(Remove(Budget.parse(0.5), DeeperLayers()))
    table = facts["distances"]
    assert facts["removed"] == [{"unit": "model.layers.1 to model.layers.2", "blocks": 2, "angular": 0.0}]
    assert [len(row) for row in table] == [4, 3, 2, 1]
    assert table[0][1] == table[0][2] == table[1][1] == 0
    assert all(0 <= d <= 1 for row in table for d in row)
    assert sum(d == 0 for row in table for d in row) == 3
    x = task.validation[None, :WINDOW]
    assert torch.equal(logits(run.model, x), logits(model, x))


def test_the_heat_map_is_that_of_the_hidden_states(trained, task):
    run = start(trained, task)
    probe, names = run.probe(), [b.name for b in blocks(run)]
    probe.training = False
    table = apart(probe, names, distance.angular, range(1, BLOCKS + 1), last=True)
    with torch.no_grad():
        states = [trained(b, output_hidden_states=True).hidden_states for b in probe.data()]
    for n, first in itertools.product(range(1, BLOCKS), range(BLOCKS)):
        if first + n < BLOCKS:  # transformers' last hidden state is behind the norm
            a, b = (torch.cat([s[at][:, -1] for s in states]).double() for at in (first, first + n))
            expected = F.cosine_similarity(a, b).arccos().mean() / torch.pi
            assert table[n][first] == pytest.approx(float(expected), abs=1e-6)


def test_the_simple_rule_takes_the_deepest_but_the_last(trained, task):
    run = start(trained, task)
    facts = run.do(Remove(Budget.parse(0.5), DeeperLayers("deepest")))
    assert [row["unit"] for row in facts["removed"]] == ["model.layers.1 to model.layers.2"]
    with pytest.raises(BudgetError):
        run.do(Remove(Budget.parse(0.9), DeeperLayers("deepest")))  # the last block stays


def test_healing_lowers_the_loss_of_the_cut_model(trained, task):
    run = start(trained, task)
    run.do(Remove(Budget.parse(0.5), DeeperLayers()))
    found = [run.evaluate()]
    for _ in range(3):
        run.do(Train(40, Constant(3e-3), Optimizer("adamw"), looks=1))
        found.append(run.evaluate())
    assert found == sorted(found)
    assert run.masks.sparsity == 0.5


# -- Minitron, depth; ShortGPT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["loss", "influence"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_minitron_takes_a_block_that_does_nothing_first(by, contiguous, trained):
    model = silent(trained, *BRANCHES[4:6])
    task = spoken(model)
    run = start(model, task)
    with torch.no_grad():
        before = float(torch.stack([task.loss(model, b) for b in run.probe().data()]).mean())
    facts = run.do(Remove(Budget.parse(0.25), MinitronDepth(by, contiguous)))
    assert [row["unit"] for row in facts["removed"]] == ["model.layers.2"]
    assert facts["removed"][0][by] == pytest.approx(0 if by == "influence" else before, abs=1e-6)


def test_minitron_tries_every_run_of_blocks(trained, task):
    run = start(trained, task)
    data = list(run.probe().data())
    facts = run.do(Remove(Budget.parse(0.5), MinitronDepth()))
    found = []
    for i in range(BLOCKS - 1):
        twin = silent(trained, *BRANCHES[2 * i : 2 * i + 4])
        with torch.no_grad():
            found.append(float(torch.stack([task.loss(twin, b) for b in data]).mean()))
    assert list(facts["values"].values()) == pytest.approx(found, rel=1e-6)
    assert facts["removed"][0]["unit"] == list(facts["values"])[found.index(min(found))]
    assert facts["removed"][0]["blocks"] == 2


def test_shortgpt_ranks_blocks_by_their_influence_over_all_tokens(trained, task):
    run = start(trained, task)
    data = list(run.probe().data())
    facts = run.do(Remove(Budget.parse(0.5), MinitronDepth("influence", contiguous=False)))
    with torch.no_grad():
        states = [trained(b, output_hidden_states=True).hidden_states for b in data]
    for i in range(BLOCKS - 1):
        cos = torch.cat([F.cosine_similarity(s[i].double(), s[i + 1].double(), dim=-1).flatten() for s in states])
        assert facts["values"][f"model.layers.{i}"] == pytest.approx(1 - float(cos.mean()), abs=1e-6)
    order = sorted(facts["values"], key=facts["values"].__getitem__)
    assert [row["unit"] for row in facts["removed"]] == order[:2]


# -- 2SSP --------------------------------------------------------------------------------------------------------------


def test_the_number_of_attentions_is_the_catalogues():
    assert attentions(32, 0.5, 2) == 13
    assert attentions(32, 0.0, 2) == 0
    assert attentions(32, 1.0, 2) == 32


@pytest.mark.parametrize("sparsity", [0.25, 0.375, 0.5])
def test_two_ssp_meets_its_budget_within_a_neuron_of_each_mlp(sparsity, trained, task):
    run = start(trained, task)
    facts = run.do(Remove(Budget.parse(sparsity), TwoSsp()))
    assert facts["sparsity"] == pytest.approx(sparsity)
    assert facts["attentions"] == attentions(BLOCKS, sparsity, MLP / ATTENTION)
    gone, neuron = run.masks.total - run.masks.alive, 3 * WIDTH
    assert 0 <= gone - sparsity * BLOCKS * (ATTENTION + MLP) < BLOCKS * neuron
    alive = {n: int(m.any(1).sum()) for n, m in run.masks.items() if "gate_proj" in n}
    assert set(alive.values()) == {facts["neurons"]}


def test_two_ssp_drops_an_attention_that_does_nothing_first(trained):
    model = silent(trained, "model.layers.2.self_attn")
    run = start(model, spoken(model))
    facts = run.do(Remove(Budget.parse(0.2), TwoSsp(batches=None)))
    assert facts["removed"][0]["unit"] == "model.layers.2.self_attn"


def test_neurons_are_ranked_by_the_mean_of_their_norms_over_tokens(trained, task):
    run = start(trained, task)
    group = inner(run, "channel")[1][0]
    seen = []
    module = run.model.get_submodule("model.layers.1.mlp.down_proj")
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().double()))
    for batch in run.probe().data():
        logits(run.model, batch)
    handle.remove()
    mean = torch.cat([h.norm(dim=1) for h in seen]).mean(0)
    assert ranked(run, [group], MinitronWidth())[group.name].tolist() == mean.argsort(descending=True).tolist()


# -- MultiPruner; BlockPruner ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_reordered_by_norms_the_network_is_the_same_and_its_tail_the_weakest(trained, task):
    run, twin = start(trained, task), copy.deepcopy(trained)
    for kind in ("channel", "head"):
        for group, _ in inner(run, kind):
            best = weakest(run, group).flip(0)
            for slot in group.slots:
                old = twin.get_parameter(slot.parameter)
                old.index_copy_(slot.dim, slot.index.flatten(), old.index_select(slot.dim, slot.index[best].flatten()))
    x = task.validation[None, :WINDOW]
    assert difference([logits(twin, x)], [logits(trained, x)]) < 1e-5
    mlp = twin.get_submodule("model.layers.0.mlp")
    norms = (mlp.gate_proj.weight.abs().sum(1) + mlp.up_proj.weight.abs().sum(1)).tolist()  # pyright: ignore
    assert norms == sorted(norms, reverse=True)


def test_multipruner_takes_what_costs_the_least_of_all_in_each_stage(trained, task):
    run = start(trained, task)
    data, keep = list(run.probe().data()), copy.deepcopy(trained)
    facts = run.do(Remove(Budget.parse(0.4), MultiPruner((0.4, 0.3, 0.3), channels=4)))
    stages = [0 if row["unit"] in BRANCHES else 1 if "mlp" in row["unit"] else 2 for row in facts["removed"]]
    assert stages == sorted(stages)
    assert set(stages) == {0, 1, 2}
    group_of = {g.name: g for kind in ("channel", "head") for g, _ in inner(run, kind)}
    order = {g.name: weakest(start(trained, task), g).tolist() for g in group_of.values()}
    dead: dict[str, int] = dict.fromkeys(order, 0)

    @torch.no_grad()
    def cut(model: nn.Module, unit: str) -> None:
        if unit in BRANCHES:
            for parameter in model.get_submodule(unit).parameters():
                parameter.zero_()
            return
        step = 4 if "mlp" in unit else 1
        for slot in group_of[unit].slots:
            at = slot.index[order[unit][dead[unit] : dead[unit] + step]].flatten()
            model.get_parameter(slot.parameter).index_fill_(slot.dim, at, 0)

    def loss(unit: str) -> float:
        twin = copy.deepcopy(keep)
        cut(twin, unit)
        with torch.no_grad():
            return float(torch.stack([task.loss(twin, b) for b in data]).mean())

    gone: list[str] = []
    for row, stage in zip(facts["removed"], stages, strict=True):
        unit = row["unit"].partition(" ")[0]
        living = [n for n in order if not any(n.startswith(f"{g}.") for g in gone)]
        some = {0: [b for b in BRANCHES if b not in gone], 1: [n for n in living if "mlp" in n]}.get(
            stage, [n for n in living if "attn" in n]
        )
        some = [n for n in some if stage == 0 or len(order[n]) - dead[n] > (4 if stage == 1 else 1)]
        found = {n: loss(n) for n in some}
        assert found[unit] == pytest.approx(row["loss"], rel=1e-5)
        assert found[unit] <= min(found.values()) * (1 + 1e-5)
        cut(keep, unit)
        if stage:
            dead[unit] += 4 if stage == 1 else 1
        else:
            gone.append(unit)


def test_multipruner_stops_within_a_unit_of_each_share(trained, task):
    run = start(trained, task)
    shares = (0.5, 0.4, 0.1)
    facts = run.do(Remove(Budget.parse(0.4), MultiPruner(shares, channels=2)))
    whole = {b: MLP if b.endswith("mlp") else ATTENTION for b in BRANCHES}
    sizes = [whole.get(r["unit"], 2 * 3 * WIDTH if "mlp" in r["unit"] else ATTENTION // 2) for r in facts["removed"]]
    stages = [0 if r["unit"] in BRANCHES else 1 if "mlp" in r["unit"] else 2 for r in facts["removed"]]
    total, goal = 0.4 * run.masks.total, 0.0
    for stage, part in enumerate(shares):
        goal += part * total
        done = sum(size for size, at in zip(sizes, stages, strict=True) if at <= stage)
        last = [size for size, at in zip(sizes, stages, strict=True) if at <= stage][-1]
        assert done - last < goal <= done + 1e-6
    assert sum(sizes) == run.masks.total - run.masks.alive


def test_blockpruner_is_its_first_stage_and_takes_what_does_nothing_first(trained):
    planted = "model.layers.1.self_attn"
    model = silent(trained, planted)
    run = start(model, spoken(model))
    facts = run.do(Remove(Budget.parse(0.4), MultiPruner((1, 0, 0))))
    assert all(row["unit"] in BRANCHES for row in facts["removed"])
    assert facts["removed"][0]["unit"] == planted
    with pytest.raises(ResproutError):
        MultiPruner((0, 0, 0))


# -- in a recipe -------------------------------------------------------------------------------------------------------


def test_layers_by_a_score_meet_a_sparsity_where_all_of_them_can_leave(trained, task):
    """No weight is outside of them, so that no layer is no weight: which once passed for counting weights."""
    run = start(trained, task)
    run.granularity = Units("layer")
    run.do(Meet(Budget.parse(0.2), Magnitude(), Global()))
    assert run.masks.sparsity == pytest.approx(0.2)  # two attentions


@dataclass(frozen=True)
class Three(Remover):
    """An attention and two MLPs."""

    fidelity = "smoke-tested"

    def __call__(self, run: Run, budget: Budget) -> dict:
        chosen = [layers(run)[at] for at in (0, 1, 3)]
        run.set_masks(left(run.masks, run.groups, merged("three", chosen)))
        return {}


def test_what_a_remover_has_taken_out_does_not_come_back(trained, task, monkeypatch):
    """Not even where the budget has room for a smaller layer than the last one that left."""
    monkeypatch.setattr("resprout.core.steps.DRIFT", 0.5)
    run = start(trained, task)
    run.granularity = Units("layer")
    RemoveOnce(Three(), epochs=0)(run, [Budget.parse(0.3)])
    assert run.journal[-1]["step"] == "Arrive"
    assert run.masks.total - run.masks.alive == ATTENTION + 2 * MLP
    run.do(Arrive(Budget.parse(0.3)))  # as recipes do that grow
    assert run.masks.total - run.masks.alive == 2 * MLP
