"""One suite over every registered network: what a training step and a distillation loss rely on."""

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.registry import NETS
from model.types import Output

# Batch norm and ReLU come before the convolutions, so the output of a stage is before both.
WIDE_RESNETS = {"wrn", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"}
PRE_RESNETS = {"preresnet", "preresnet20", "preresnet56", "preresnet110", "preresnet164"}
DENSE_NETS = {"densenet", "densenet_bc_100_12"}
BATCH_NORM_FIRST = WIDE_RESNETS | PRE_RESNETS | DENSE_NETS
LINEAR_STAGES = {"mobilenetv2"}  # no ReLU after a stage: map and preact are one tensor
WITHOUT_MAPS = {"mlp", "mlp_1200", "mlp_800", "mlp_128"}  # only linear layers

# Small options for networks of any size; the named ones of the same class are tested in full.
SMALL: dict[str, dict[str, Any]] = {
    "densenet": {"depth": 22},
    "preresnet": {"depth": 29},
    "resnext": {"depth": 20, "cardinality": 4, "base_width": 16},
}


def build_net(name: str, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    net: nn.Module = NETS.build(name, num_classes, in_channels, **SMALL.get(name, {}))
    return net


def num_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def smallest_of_each_kind(file: str) -> list[str]:
    """Names of a file's networks, without those that only have more layers of the same kinds than a smaller one."""
    smallest: dict[frozenset[type], tuple[int, str]] = {}
    for name in NETS.names():
        if NETS[name].__module__ == file:
            with torch.device("meta"):
                net = build_net(name)
            kind, candidate = frozenset(map(type, net.modules())), (num_parameters(net), name)
            smallest[kind] = min(smallest.get(kind, candidate), candidate)
    return sorted(name for _, name in smallest.values())


def images(num_images: int) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def all_tensors(output: Output) -> Iterator[Tensor]:
    yield from (output.logits, output.embedding, *output.maps, *output.preacts)
    if output.stem is not None:
        yield output.stem
    for early in output.exits:
        yield from all_tensors(early)


@pytest.fixture(scope="module", params=NETS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_net(name).eval()


@pytest.fixture(scope="module", params=sorted({NETS[name].__module__ for name in NETS.names()}))
def kinds(request: pytest.FixtureRequest) -> dict[str, nn.Module]:
    """For slow tests: the networks of a file, without those that are a smaller one with more layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: build_net(name).eval() for name in smallest_of_each_kind(request.param)}


def test_output_has_a_row_for_every_image(net: nn.Module) -> None:
    with torch.no_grad():
        output = net(images(2))
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 10)
    assert output.embedding.ndim == 2
    assert all(tensor.ndim == 4 for tensor in output.maps + output.preacts)
    assert all(len(tensor) == 2 for tensor in all_tensors(output))


def test_output_keeps_the_dtype_of_the_images(net: nn.Module) -> None:
    with torch.no_grad():
        assert {tensor.dtype for tensor in all_tensors(net(images(1)))} == {torch.float32}


def test_embedding_is_what_the_classifier_reads(net: nn.Module) -> None:
    calls: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, result: calls.append((inputs[0], result)))
        for module in net.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        output = net(images(2))
    for hook in hooks:
        hook.remove()
    assert any(read is output.embedding and result is output.logits for read, result in calls)


def test_every_stage_has_a_map_and_its_preact(name: str, net: nn.Module) -> None:
    with torch.no_grad():
        output = net(images(1))
    assert bool(output.maps) == (name not in WITHOUT_MAPS)
    assert [tensor.shape for tensor in output.maps] == [tensor.shape for tensor in output.preacts]


def test_map_is_the_relu_of_its_preact(name: str, net: nn.Module) -> None:
    if name in BATCH_NORM_FIRST:
        pytest.skip("its maps are inputs of batch norm")
    with torch.no_grad():
        output = net(images(2))
    if name in LINEAR_STAGES:
        assert all(after is before for after, before in zip(output.maps, output.preacts, strict=True))
        return
    assert all(torch.equal(after, F.relu(before)) for after, before in zip(output.maps, output.preacts, strict=True))


def test_preact_has_negative_values(net: nn.Module) -> None:
    with torch.no_grad():
        assert all((before < 0).any() for before in net(images(2)).preacts)


def test_logits_depend_on_every_map(name: str, net: nn.Module) -> None:
    if name in WITHOUT_MAPS:
        pytest.skip("it has no maps")
    output = net(images(1))
    gradients = torch.autograd.grad(output.logits[0, 0], output.maps)
    assert all(gradient.any() for gradient in gradients)


def test_every_parameter_gets_a_gradient(net: nn.Module) -> None:
    # In eval mode: before a BatchNorm in training mode, the gradient of a convolution's bias is exactly zero.
    output = net(images(2))
    classes = torch.randn(10, generator=torch.Generator().manual_seed(2))
    loss = sum(exit_output.logits @ classes for exit_output in (output, *output.exits)).sum()
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    reached = [
        key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None and gradient.any()
    ]
    assert reached == list(parameters)


def test_eval_is_deterministic(net: nn.Module) -> None:
    with torch.no_grad():
        first, second = net(images(2)), net(images(2))
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(first), all_tensors(second), strict=True))


def test_eval_outputs_do_not_depend_on_other_images(net: nn.Module) -> None:
    with torch.no_grad():
        together, alone = net(images(2)).logits[0], net(images(2)[:1]).logits[0]
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


def test_eval_changes_no_buffer(net: nn.Module) -> None:
    before = {key: buffer.clone() for key, buffer in net.named_buffers()}
    with torch.no_grad():
        net(images(2))
    assert all(torch.equal(buffer, before[key]) for key, buffer in net.named_buffers())


def test_maps_stay_channels_last_under_bfloat16(net: nn.Module) -> None:
    student = copy.deepcopy(net).to(memory_format=torch.channels_last)
    batch = images(2).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = student(batch)
    assert all(tensor.isfinite().all() for tensor in all_tensors(output))
    for tensor in output.maps + output.preacts:
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_two_builds_share_no_storage(name: str, net: nn.Module) -> None:
    other = build_net(name)
    storages, other_storages = (
        {tensor.untyped_storage().data_ptr() for tensor in chain(build.parameters(), build.buffers())}
        for build in (net, other)
    )
    assert storages.isdisjoint(other_storages)


def test_channels_and_classes_are_arguments(name: str) -> None:
    with torch.device("meta"):
        output = build_net(name, 7, 1)(torch.empty(2, 1, 32, 32))
    assert output.logits.shape == (2, 7)


def test_gradient_equals_the_finite_difference(kinds: dict[str, nn.Module]) -> None:
    for name, net in kinds.items():
        exact = copy.deepcopy(net).double()
        image = images(1).double().requires_grad_()
        (gradient,) = torch.autograd.grad(exact(image).logits[0, 0], image)
        step = 1e-7 * gradient / gradient.norm()
        with torch.no_grad():
            rise = exact(image + step).logits[0, 0] - exact(image - step).logits[0, 0]
        assert rise.item() / 2e-7 == pytest.approx(gradient.norm().item(), rel=1e-3), name


def test_training_accepts_a_short_last_batch(kinds: dict[str, nn.Module]) -> None:
    for name, net in kinds.items():
        student = copy.deepcopy(net).train()
        for num_images in (4, 3):
            output = student(images(num_images))
            losses = [
                F.cross_entropy(classified.logits, torch.arange(num_images)) for classified in (output, *output.exits)
            ]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), list(student.parameters()))
            assert all(gradient.isfinite().all() for gradient in gradients), name


def test_compiles_into_one_graph(kinds: dict[str, nn.Module]) -> None:
    net = min(kinds.values(), key=num_parameters)
    torch.compiler.reset()
    compiled: Callable[[Tensor], Output] = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(images(2)).logits, net(images(2)).logits)
