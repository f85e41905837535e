"""scikit-learn's real handwritten digits (UCI ML, 8x8 pixels), split as all applications here split them."""

from typing import NamedTuple

import numpy as np

__all__ = ["Digits", "digits"]


class Digits(NamedTuple):
    """Images (N, 8, 8) from 0 to 1, and labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


def digits() -> tuple[Digits, Digits]:
    """The digits for training, three quarters of them, and those for validation.

    Raises:
        ImportError: scikit-learn is missing; the extras `demo` and `detection` install it.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('the digits need scikit-learn: pip install "timm-backbones-ext[detection]"') from error
    data = load_digits()
    parts = train_test_split(data.images / 16, data.target, test_size=0.25, random_state=0, stratify=data.target)
    return Digits(parts[0], parts[2]), Digits(parts[1], parts[3])
