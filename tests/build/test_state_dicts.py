"""A network's weights are found in what other programs save, and the log says which of several were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.build.weights import WeightsFile
from model.errors import UserError

State = dict[str, Tensor]


class Net(nn.Module):
    """Two layers and batch norm's buffers between them; every value is one number."""

    def __init__(self, value: float, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, width, 1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)
        for tensor in self.state_dict().values():
            tensor.fill_(value)


class Deeper(Net):
    """A network with all names of the other, and more."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.fc2 = nn.Linear(4, 4)
        for tensor in self.fc2.state_dict().values():
            tensor.fill_(value)


class Wrapped(nn.Module):
    """All its own names begin with `module.`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.module = Net(value)


def state_of(value: float) -> State:
    return Net(value).state_dict()


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def load(content: dict[str, Any], net: nn.Module) -> set[float]:
    """The values that a network has after it loaded a file."""
    WeightsFile(Path("best.pth.tar"), content).load_into(net)
    return {value for tensor in net.state_dict().values() for value in tensor.flatten().tolist()}


PREFIXES = ("module.", "_orig_mod.", "model.", "student.", "module.student.", "module._orig_mod.", "net.", "backbone.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_removed_silently(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load({"state_dict": behind(prefix, state_of(2))}, Net(1)) == {2}
    assert not caplog.messages


def test_the_prefix_of_a_network_own_names_stays() -> None:
    assert load({"state_dict": Wrapped(2).state_dict()}, Wrapped(1)) == {2}
    assert load({"state_dict": behind("module.", Wrapped(2).state_dict())}, Wrapped(1)) == {2}


KEYS = ("state_dict", "model", "weight", "weights", "net", "network", "model_state_dict", "model_state", "params")


@pytest.mark.parametrize("key", KEYS)
def test_well_known_keys_are_read(key: str) -> None:
    assert load({key: state_of(2), "epoch": 3, "optimizer": {"state": {}}}, Net(1)) == {2}


AVERAGED_KEYS = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "averaged_model", "swa_model", "params_ema"),
    "ema_model_state_dict",
)


@pytest.mark.parametrize("own_key", ["state_dict", "model"])
@pytest.mark.parametrize("key", AVERAGED_KEYS)
def test_averaged_weights_are_taken_and_logged(key: str, own_key: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load({own_key: state_of(1), key: state_of(2)}, Net(0)) == {2}
    [message] = caplog.messages
    assert message == f"best.pth.tar: {key}, the averaged weights, is used, not {own_key} (9 entries)"


@pytest.mark.parametrize("inner", ["module", "state_dict", "shadow", "model.module"])
def test_averaged_weights_may_lie_deeper(inner: str) -> None:
    averaged: dict[str, Any] = state_of(2)
    for key in reversed(inner.split(".")):
        averaged = {key: averaged}
    assert load({"model": state_of(1), "ema": averaged | {"decay": 0.999}}, Net(0)) == {2}


def test_an_averaged_model_of_torch_is_read(caplog: pytest.LogCaptureFixture) -> None:
    averaged = AveragedModel(Net(2)).state_dict()
    assert load({"model": state_of(1), "model_ema": averaged}, Net(0)) == {2}
    assert load(averaged, Net(0)) == {2}
    assert caplog.messages[-1] == "best.pth.tar: module is used, not n_averaged"


def test_an_average_of_the_parameters_goes_with_the_buffers_beside_it() -> None:
    averaged = {name: tensor.detach() for name, tensor in Net(2).named_parameters()}
    net = Net(0)
    load({"state_dict": state_of(1), "ema": averaged}, net)
    assert all((tensor == 2).all() for tensor in net.parameters())
    assert all((tensor == 1).all() for tensor in (net.bn.running_mean, net.bn.running_var) if tensor is not None)


@pytest.mark.parametrize("name", ["decay", "num_updates", "n_averaged", "steps"])
def test_averaged_weights_may_have_bookkeeping_beside_them(name: str) -> None:
    assert load({"model": state_of(1), "ema": state_of(2) | {name: torch.tensor(3)}}, Net(0)) == {2}


@pytest.mark.parametrize("entry", [0.999, None, {}, {"decay": torch.tensor(0.999)}, {"shadow_params": [torch.ones(2)]}])
def test_an_entry_of_averages_without_weights_is_not_taken(entry: Any) -> None:
    assert load({"state_dict": state_of(2), "ema": entry}, Net(1)) == {2}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_student_is_taken_from_beside_its_teacher(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    weights = behind(f"{prefix}teacher.", state_of(1)) | behind(f"{prefix}student.", state_of(2))
    assert load({"state_dict": weights}, Net(0)) == {2}
    [message] = caplog.messages
    assert message == f"best.pth.tar: {prefix}student is used, not {prefix}teacher (9 entries)"


def test_the_student_is_taken_from_a_key_beside_its_teacher() -> None:
    assert load({"teacher": state_of(1), "student": state_of(2)}, Net(0)) == {2}


def test_the_network_decides_between_student_and_teacher() -> None:
    weights = behind("teacher.", Deeper(1).state_dict()) | behind("student.", state_of(2))
    assert load({"state_dict": weights}, Net(0)) == {2}
    assert load({"state_dict": weights}, Deeper(0)) == {1}


def test_shapes_decide_between_student_and_teacher() -> None:
    weights = behind("student.", Net(1, width=5).state_dict()) | behind("teacher.", state_of(2))
    assert load({"state_dict": weights}, Net(0)) == {2}


def test_bookkeeping_of_profilers_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    extra = {name: torch.zeros(1) for name in ("total_ops", "total_params", "fc.total_ops", "fc.total_params")}
    assert load(state_of(2) | extra, Net(0)) == {2}
    [message] = caplog.messages
    assert message == "best.pth.tar: left out: total_ops (2 entries), total_params (2 entries)"


@pytest.mark.parametrize("first", ["teacher", "own"])
def test_a_network_inside_the_network_is_unknown_and_not_taken(first: str) -> None:
    parts = [behind("teacher.", state_of(1)), state_of(2)]
    weights = parts[0] | parts[1] if first == "teacher" else parts[1] | parts[0]
    with pytest.raises(UserError, match=r"has unknown teacher\.conv\.weight \(and 8 more\): not this network"):
        load({"state_dict": weights}, Net(0))


def test_the_reason_may_be_a_prefix_of_all_names() -> None:
    weights = behind("encoder.", {"conv7.weight": torch.zeros(1), "conv7.bias": torch.zeros(1)})
    with pytest.raises(UserError, match=r"lacks conv\.weight .*; all names begin with encoder\.$"):
        load({"state_dict": weights}, Net(0))


def test_what_is_missing_behind_a_prefix_is_named() -> None:
    weights = behind("model.", {name: tensor for name, tensor in state_of(1).items() if name != "fc.bias"})
    with pytest.raises(UserError, match=r"lacks fc\.bias: not this network's weights; all names begin with model\.$"):
        load({"state_dict": weights}, Net(0))


def test_a_wrong_shape_behind_a_prefix_is_named() -> None:
    with pytest.raises(UserError, match=r"conv\.weight has shape \(5, 2, 1, 1\), the network \(3, 2, 1, 1\)"):
        load({"state_dict": behind("model.", Net(1, width=5).state_dict())}, Net(0))
