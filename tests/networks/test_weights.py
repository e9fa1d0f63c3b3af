import hashlib
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lib.networks import weights


class Harmful:
    """Unpickling this would call `print`."""

    def __reduce__(self):
        return print, ("unpickled",)


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_check_accepts_the_right_sum_and_none(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"weights")
    weights.check_sha256(file, hashlib.sha256(b"weights").hexdigest())
    weights.check_sha256(file, None)


def test_check_names_file_expected_found_and_the_remedy(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"weights")
    found = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(ValueError, match=rf"w\.pth: SHA-256 is {found}, expected {'0' * 64}; move .* get the file"):
        weights.check_sha256(file, "0" * 64)


@pytest.mark.parametrize("suffix", weights.FORMATS)
def test_every_format_gives_the_state_back(tmp_path, suffix):
    state, file = network().state_dict(), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    elif suffix == ".npz":
        np.savez(file, **{key: value.numpy() for key, value in state.items()})
    else:
        torch.save(state, file)
    read = weights.read_state(file)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


# As a pickle: no such mark, an entry of a memo that is not there, an empty stack, half a number.
@pytest.mark.parametrize("content", [b"not weights at all", b"hello", b".", b"J\x00"])
@pytest.mark.parametrize("suffix", weights.FORMATS)
def test_corrupt_file_is_one_line(tmp_path, suffix, content):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^w\{suffix}: ") as error:
        weights.read_state(file)
    assert "\n" not in str(error.value)


def test_pickled_objects_are_refused_and_not_run(tmp_path, capsys):
    torch.save({"a": Harmful()}, tmp_path / "w.pt")
    np.savez(tmp_path / "w.npz", a=np.array([Harmful()], dtype=object))
    for file in ("w.pt", "w.npz"):
        with pytest.raises(ValueError, match=f"^{file}: "):
            weights.read_state(tmp_path / file)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["model", "state_dict"])
@pytest.mark.parametrize("prefix", ["module.model.", "module.attacker.model.", "module.", ""])
def test_training_checkpoints_are_unwrapped(tmp_path, entry, prefix):
    state = network().state_dict()
    checkpoint = {entry: {prefix + key: value for key, value in state.items()}, "epoch": 90}
    torch.save(checkpoint, tmp_path / "w.pt")
    assert weights.read_state(tmp_path / "w.pt").keys() == state.keys()


def test_load_copies_every_key_and_widens_half_precision():
    source, target = network(), network()
    source[1].running_mean.fill_(3)
    state = {key: value.half() for key, value in source.state_dict().items() if "num_batches" not in key}
    weights.load_state(target, state, "w.npz")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.half().float())
    assert torch.equal(target[1].running_mean, torch.full((3,), 3.0))


def _without(state):
    del state["0.bias"], state["1.weight"]


def _with_extra(state):
    state["2.weight"] = torch.zeros(1)


def _misshaped(state):
    state["0.weight"] = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, r"^w\.npz: missing key '0\.bias' and 1 more for Sequential$"),
        (_with_extra, r"^w\.npz: unexpected key '2\.weight' for Sequential$"),
        (_misshaped, r"^w\.npz: .* Sequential: size mismatch for 0\.weight: .*\[3, 4\].*\[3, 2\]\)\.$"),
    ],
)
def test_wrong_keys_are_named(change, message):
    target = network()
    state = dict(network().state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.load_state(target, state, "w.npz")


@pytest.mark.parametrize("wrong", [torch.tensor(torch.nan), torch.tensor(torch.inf), torch.tensor(1), torch.tensor(1j)])
def test_weights_are_finite_floats(wrong):
    state = dict(network().state_dict())
    state["0.bias"] = wrong.expand(3)
    with pytest.raises(ValueError, match=r"^w\.npz: '0\.bias' holds other numbers than finite floats"):
        weights.load_state(network(), state, "w.npz")


@pytest.mark.parametrize(
    "content, message",
    [
        (torch.zeros(2), "a Tensor, not a state dict"),
        ([1, 2], "a list, not a state dict"),
        ({"model": {"state_dict": {"bias": torch.zeros(2)}}}, "'state_dict' is a dict, not a tensor"),
        ({"bias": "x"}, "'bias' is a str, not a tensor"),
    ],
)
def test_a_torch_file_without_a_state_dict_is_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message) as caught:
        weights.read_state(tmp_path / "odd.pth")
    assert "\n" not in str(caught.value)


def test_a_key_that_holds_no_tensor_is_named():
    with pytest.raises(
        ValueError,
        match=r"^odd\.pth: .* the parameter named \"bias\", expected torch\.Tensor .* received <class 'list'>",
    ):
        weights.load_state(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2), "bias": [0, 0]}, "odd.pth")


def test_a_program_and_a_damaged_file_are_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("w/constants.pkl", b"")
    whole = tmp_path / "whole.pt"
    torch.save({"model": network().state_dict()}, whole)
    for content in (None, b"", b"weights?", b"\x80\x02.", whole.read_bytes()[:500]):
        if content is not None:
            (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"^w\.pt: cannot be read \(") as error:
            weights.dilled_state(tmp_path / "w.pt")
        assert "\n" not in str(error.value) and (content is not None or "TorchScript" in str(error.value))
