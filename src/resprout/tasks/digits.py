"""UCI handwritten digits (1,797 images of 8x8), as they ship with scikit-learn: the embedded default, no download."""

import torch

from ..core.errors import ResproutError
from .arrays import Arrays


def digits(data: str | None = None, seed: int = 0) -> Arrays:
    """Return the task; a fixed fifth of the images is test, a further sixth validation.

    Args:
        data: not used (the data ships with scikit-learn).
        seed: of the split; keep it, or test and training images mix between runs.

    Raises:
        ResproutError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ResproutError("task 'digits' needs scikit-learn: pip install 'resprout[demo]'") from error
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16  # pyright: ignore
    y = torch.tensor(bunch.target, dtype=torch.int64)  # pyright: ignore
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    test, validation, train = order[:360], order[360:660], order[660:]
    split = [(x[i], y[i]) for i in (train, validation, test)]
    return Arrays(split[0], split[1], split[2], mean=(0.3,), std=(0.37,), batch_size=64, pad=1, name=f"digits-{seed}")
