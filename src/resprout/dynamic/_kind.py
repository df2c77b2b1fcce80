"""The kind of method that decides per input what of a network is computed; no method itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import nn

from ..core.kinds import Method
from .gates import Gated


class Dynamic(Method):
    """Puts gates behind layers of a network; each decides from what its layer reads which of its filters are computed."""

    @abstractmethod
    def __call__(self, model: nn.Module, layers: Sequence[str]) -> Gated:
        """Return a network around `model`, whose layers it shares; it is trained like any other.

        Args:
            model: the network, trained.
            layers: names of convolutions to gate.

        Raises:
            ResproutError: a name that is no convolution of the network.
        """
