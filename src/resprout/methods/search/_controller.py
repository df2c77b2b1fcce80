"""The controller of the policy-gradient search: an LSTM cell that samples a budget, then a share for each layer."""

import torch
from torch import Tensor, nn

SHARES = 11  # j / 10 of what a layer can take


class Controller(nn.Module):
    """Samples how many weights return where; keeps the log-probabilities and entropies of its choices."""

    def __init__(self, levels: int, hidden: int = 64):
        super().__init__()
        self.cell = nn.LSTMCell(3, hidden)
        self.level = nn.Linear(hidden, levels)
        self.share = nn.Linear(hidden, SHARES)

    def sample(
        self, budgets: list[int], rooms: list[int], generator: torch.Generator
    ) -> tuple[list[int], Tensor, Tensor]:
        """Sample counts per layer; choices that repeat a smaller share's count, or exceed what is left, are masked.

        Args:
            budgets: the levels of the whole budget, in weights.
            rooms: dead weights of each layer.
            generator: of the samples.

        Returns:
            counts per layer, the sum of log-probabilities, the mean entropy.
        """
        state = None
        logs, entropies = [], []

        def choose(head: nn.Linear, context: tuple[float, float, float], allowed: Tensor) -> int:
            nonlocal state
            state = self.cell(torch.tensor([context]), state)
            log = torch.log_softmax(head(state[0])[0].masked_fill(~allowed, -1e9), 0)
            pick = int(torch.multinomial(log.detach().exp(), 1, generator=generator))
            logs.append(log[pick])
            entropies.append(-(log.exp() * log)[allowed].sum())
            return pick

        budget = budgets[choose(self.level, (0.0, 1.0, 1.0), torch.ones(len(budgets), dtype=torch.bool))]
        left, counts = budget, []
        for i, room in enumerate(rooms):
            limit = min(room, left)
            options = [limit * j // (SHARES - 1) for j in range(SHARES)]
            allowed = torch.tensor([j == 0 or options[j] != options[j - 1] for j in range(SHARES)])
            context = (i / len(rooms), room / max(1, sum(rooms)), left / max(1, budget))
            counts.append(options[choose(self.share, context, allowed)])
            left -= counts[-1]
        return counts, torch.stack(logs).sum(), torch.stack(entropies).mean()
