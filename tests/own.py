"""What people write themselves, for tests: a codec, an aggregate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gossipfl.core.codecs import Codec, Shape


def halves() -> Codec:
    """Sends every other coordinate."""

    def decode(coded: tuple[Tensor, ...], like: Tensor) -> Tensor:
        whole = coded[0].new_zeros((*coded[0].shape[:-1], like.shape[-1]))
        whole[..., ::2] = coded[0]
        return whole

    return Codec("halves", lambda z: (z[..., ::2].contiguous(),), decode, lambda d: (Shape((d + 1) // 2),))


def shy(weights: Sequence[float], losses: Sequence[float]) -> list[float]:
    """Takes from the best model alone."""
    best = losses.index(min(losses))
    return [1.0 if k == best else 0.0 for k in range(len(weights))]
