"""Self-data distillation: the dense model itself writes the text that its pruned copy is trained on.

Thangarasa, Venkatesh, Lasby, Sinnadurai, Lie: "Self-Data Distillation for Recovering Quality in Pruned Large Language Models",
MLSys 2025, arXiv:2410.09982. There it rewrites the answers of an instruction set, and an answer with a wrong result is left as
it was; here it continues plain text, which has no results, and all that it writes is taken.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core import store
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recover, Step
from ...core.run import Run, mix, ranks
from ...core.steps import Mark, Rewind
from ...core.train import Train
from ...evaluate.perplexity import logits_of
from ..schedule.linear import Linear
from ..tune.mask_lora import MaskLora
from ._slerp import slerp
from .finetune import Finetune


@dataclass(frozen=True)
class SelfDataDistill(Recover):
    """`then` on `rows` windows of training text of which the dense network has written all but the first `prompt`.

    With `sets=2` two are trained for half of the steps each, on two texts, and merged: half-way along the arc between them.
    """

    then: Recover = Finetune(Linear(1e-3, 0.0, 0.1), tune=MaskLora(8, 16.0, biases_norms=False))  # noqa: RUF009
    rows: int = 256
    prompt: float = 0.25
    temperature: float = 1.0
    sets: int = 1
    key: ClassVar[str | None] = "self-data-distill"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.sets not in (1, 2) or not 0 <= self.prompt < 1 or self.rows < 1 or not self.temperature > 0:
            raise ResproutError(f"sets is 1 or 2, prompt in [0, 1), rows and temperature above 0, got {self}")

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return what `then` does, its training on that text."""
        if self.sets == 1:
            return self._trained(steps, 0)
        first, second = self._trained(max(1, steps // 2), 0), self._trained(max(1, steps - steps // 2), 1)
        return (Mark("cut"), *first, Mark("first"), Rewind("cut"), *second, Merge("first"))

    def _trained(self, steps: int, which: int) -> tuple[Step, ...]:
        own = (self.rows, self.prompt, self.temperature, which)
        return tuple(OnOwnText(s, *own) if isinstance(s, Train) else s for s in self.then(steps))


@dataclass(frozen=True)
class OnOwnText(Step):
    """Train on text that the dense network writes; it is kept in the run's folder, and would be written the same again."""

    train: Train
    rows: int
    prompt: float
    temperature: float
    which: int = 0

    def __call__(self, run: Run) -> dict[str, Any]:
        """Train."""
        task: Any = run.task
        run.task = dataclasses.replace(task, train=self.text(run))
        try:
            return self.train(run)
        finally:
            run.task = task

    def text(self, run: Run) -> Tensor:
        """Return token ids int64 (tokens,).

        Raises:
            ResproutError: a task without token ids to train on, or no dense network.
        """
        ids = getattr(run.task, "train", None)
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.dim() != 1:
            raise ResproutError("self-data distillation writes text: it needs a task of token ids such as 'text'")
        if run.anchor is None:
            raise ResproutError('the dense network writes the text: mark it first, run.do(Mark("dense"))')
        path = None if run.folder is None else run.folder.path / f"self-data-{self.which}.safetensors"
        if path is not None and path.exists():
            return store.load_tensors(path)[0]["ids"]
        dense = copy.deepcopy(run.model).eval()
        dense.load_state_dict(run.tensors_at("dense"))
        seed, made, lead = mix(run.seed, "self-data", self.which), [], int(getattr(run.task, "bos", None) is not None)
        while sum(map(len, made)) < self.rows:
            for windows in run.task.batches("train", seed=seed, epoch=len(made)):
                given = min(max(1, round(self.prompt * windows.shape[1])), windows.shape[1] - 1)
                begun = windows[: self.rows - sum(map(len, made)), :given].to(run.device)
                made.append(continued(dense, begun, windows.shape[1], self.temperature, mix(seed, len(made)))[:, lead:])
                if sum(map(len, made)) >= self.rows:
                    break
        found = torch.cat(made).flatten().cpu()
        if path is not None and ranks()[0] == 0:
            store.save_tensors(path, {"ids": found}, {})
        return found


@dataclass(frozen=True)
class Merge(Step):
    """Go half-way from the point `point` to the weights of now, tensor by tensor along the arc between them."""

    point: str

    def __call__(self, run: Run) -> dict[str, Any]:
        """Merge."""
        then = run.tensors_at(self.point)
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                parameter.copy_(slerp(then[name], parameter, 0.5))
        run.set_masks(run.masks)
        return {"merged": self.point, "validation": run.evaluate()}


@torch.no_grad()
def continued(model: nn.Module, ids: Tensor, length: int, temperature: float, seed: int) -> Tensor:
    """Return token ids (rows, length) that begin with `ids` and go on as `model` would, sampled from all of its tokens."""
    with torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else []):
        torch.manual_seed(seed)
        if hasattr(model, "generate"):  # of transformers, which remembers keys and values
            more = length - ids.shape[1]
            write: Any = model.generate
            return write(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=more, min_new_tokens=more, do_sample=True,
                temperature=temperature, top_k=0, top_p=1.0, use_cache=True, pad_token_id=0,
            )  # fmt: skip
        while ids.shape[1] < length:
            likely = (logits_of(model(ids))[:, -1].float() / temperature).softmax(-1)
            ids = torch.cat([ids, torch.multinomial(likely, 1)], 1)
    return ids
