"""A memo, with which several victims share what a defense makes of their images; no key of the store has it."""

import hashlib

from torch import Tensor

from lib.checks import Defense


class Memo:
    """A defense that is computed once per batch of images: several victims look at the same ones. Kept off the GPU.

    It changes no result, so a stored result is that of the defense itself (`__wrapped__`).
    """

    most = 64  # images

    def __init__(self, defense: Defense):
        self.__wrapped__ = defense
        self.known: dict[bytes, Tensor] = {}  # the last ones

    def __call__(self, x: Tensor) -> Tensor:
        key = hashlib.sha256(f"{list(x.shape)}".encode() + x.cpu().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.__wrapped__(x).cpu()
            while sum(map(len, self.known.values())) > max(self.most, len(x)):
                del self.known[next(iter(self.known))]
        return self.known[key].to(x.device, copy=True)
