"""Networks in files as their authors released them: recognised by their keys and shapes, loaded strictly.

    companion convert NRP.pth models/paper/NRP.safetensors

turns NRP.pth or NRP_resG.pth (Muzammal-Naseer/NRP), or R152-Denoise.npz or R152.npz (ImageNet-Adversarial-Training,
tensorpack's keys), into a safetensors file, in which no code can hide, and prints what it is. `lib.zoo` loads both.
"""

from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from lib.networks import weights
from lib.networks.denoising import Denoising
from lib.networks.purifier import NRP, NRPResG

TRUNKS = {"RRDB_trunk": NRP, "recon_trunk": NRPResG}


def recognised_purifier(state: dict[str, Tensor], file: str) -> nn.Module:
    """The purifier whose state dict this is; its width and number of blocks are read off keys and shapes.

    It is frozen and in eval mode. ValueError in one line, naming `file`, if it is no purifier, or if a key is missing,
    unexpected or of another shape.
    """
    trunk = next((name for name in TRUNKS if _parts(state, name)), None)
    if trunk is None:
        raise ValueError(f"{file}: neither NRP nor NRP_resG, it has no {' and no '.join(TRUNKS)}")
    return _loaded(TRUNKS[trunk](_length(state, "conv_first.weight", file), len(_parts(state, trunk))), state, file)


def recognised(state: dict[str, Tensor], file: str) -> nn.Module:
    """The purifier, or the ResNet of Feature Denoising, whose weights these are; as `recognised_purifier`."""
    from lib.networks.resnet_denoise import ResNetDenoise  # imports timm, which takes seconds

    state = weights.from_tensorpack(state)
    groups = [_parts(state, f"group{number}") for number in range(4)]
    if not groups[0]:
        return recognised_purifier(state, file)
    network = ResNetDenoise(
        classes=_length(state, "linear.bias", file),
        blocks=[len(group - {"denoise"}) for group in groups],
        width=_length(state, "conv0.weight", file),
        denoise=any("denoise" in group for group in groups),
    )
    return _loaded(network, state, file)


def _parts(state: dict[str, Tensor], module: str) -> set[str]:
    """The names of the submodules of `module`."""
    return {key.split(".")[1] for key in state if key.startswith(f"{module}.")}


def _length(state: dict[str, Tensor], key: str, file: str) -> int:
    if not isinstance(state.get(key), Tensor) or not state[key].dim():
        raise ValueError(f"{file}: missing key '{key}'")
    return len(state[key])


def _loaded(network: nn.Module, state: dict[str, Tensor], file: str) -> nn.Module:
    weights.load_state(network, state, file)
    return network.eval().requires_grad_(False)


def in_words(network: nn.Module) -> str:
    """Class, width, blocks and number of parameters of a recognised network, in words."""
    parts = list(network.children())
    blocks = "+".join(str(len(part)) for part in parts if isinstance(part, nn.Sequential))
    denoising = sum(isinstance(module, Denoising) for module in network.modules())
    among = f" ({denoising} of them denoising)" if denoising else ""
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{type(network).__name__} of width {parts[0].out_channels}, {blocks} blocks{among}, {count:,} parameters"


def to_safetensors(source: Path, target: Path) -> nn.Module:
    """Write the weights in the released file `source` to the safetensors file `target`; returns their network.

    ValueError or OSError in one line, and nothing is written, if `source` is missing or none of the known files.
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: must end in .safetensors")
    network = recognised(weights.read_state(source), source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), target)
    return network
