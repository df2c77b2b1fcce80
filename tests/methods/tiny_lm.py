"""A language of twelve letters, and a network that has learned it in a second."""

import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.magnitude import Magnitude
from resprout.tasks.text import Text

ADAMW = Optimizer("adamw", decay=0.0)
LETTERS = 12


class Block(nn.Module):
    """Mixes each token with the mean of those before it."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(2 * width, 48), nn.Linear(48, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        past = y.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return x + self.down(F.gelu(self.up(torch.cat([y, past], -1))))


class Tiny(nn.Module):
    """A language model of a few thousand weights; embedding and head are tied."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks = nn.Embedding(LETTERS, 24), nn.ModuleList(Block(24) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, LETTERS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def language(style: int, tokens: int, seed: int) -> Tensor:
    """Letters that follow each other by a table of chances that is the style's."""
    g = torch.Generator().manual_seed(100 + style)
    table = (2.5 * torch.randn(LETTERS, LETTERS, generator=g)).softmax(-1)
    g, found = torch.Generator().manual_seed(seed), [0]
    for _ in range(tokens - 1):
        found.append(int(torch.multinomial(table[found[-1]], 1, generator=g)))
    return torch.tensor(found)


def text(style: int = 0) -> Text:
    return Text(language(style, 3000, 1), language(0, 640, 2), language(0, 640, 3), window=32, batch_size=8)


@functools.cache
def trained() -> dict[str, Tensor]:
    """The weights of one that has learned its language."""
    model = Tiny()
    Run(model, text()).do(Train(250, Linear(1e-2, 0.0, 0.1), ADAMW))
    return model.state_dict()


def dense(state: dict[str, Tensor], task: Text | None = None, folder: RunFolder | None = None) -> Run:
    model = Tiny()
    model.load_state_dict(state)
    run = Run(model, task or text(), folder=folder)
    run.do(Mark("dense"))
    return run


def cut(state: dict[str, Tensor], sparsity: float = 0.6) -> Run:
    run = dense(state)
    run.do(Prune(sparsity, Magnitude(), Uniform()))
    return run


def nats(run: Run) -> float:
    return -math.log(run.evaluate("test"))


def chain(words: int, tokens: int, seed: int) -> Tensor:
    """A language in which the next word is one of three."""
    g = torch.Generator().manual_seed(0)
    follow = torch.randint(words, (words, 3), generator=g)
    g.manual_seed(seed)
    out, picks = [0], torch.randint(3, (tokens,), generator=g).tolist()
    for pick in picks:
        out.append(int(follow[out[-1], pick]))
    return torch.tensor(out)


@torch.no_grad()
def silent(model: nn.Module, *branches: str) -> nn.Module:
    """A copy in which these branches put out nothing."""
    model = copy.deepcopy(model)
    for branch in branches:
        module = model.get_submodule(branch)
        getattr(module, "o_proj" if branch.endswith("attn") else "down_proj").weight.zero_()  # pyright: ignore
    return model
