"""A memo, with which several victims share what a defense makes of their images."""

import hashlib
from collections.abc import Callable

from torch import Tensor

KEPT = 64


class Memo:
    """A defense that is computed once per batch of images: several victims look at the same ones. Kept off the GPU.

    It changes no result, so a stored result is that of the defense itself (`__wrapped__`).
    """

    def __init__(self, defense: Callable[[Tensor], Tensor]):
        self.__wrapped__ = defense
        self.known: dict[bytes, Tensor] = {}  # the last ones, at most KEPT images

    def __call__(self, x: Tensor) -> Tensor:
        key = hashlib.sha256(f"{list(x.shape)}".encode() + x.cpu().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.__wrapped__(x).cpu()
            while sum(map(len, self.known.values())) > max(KEPT, len(x)):
                del self.known[next(iter(self.known))]
        return self.known[key].to(x.device, copy=True)
