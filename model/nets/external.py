"""Classifiers of torchvision and timm, by their names there: `torchvision/resnet34`, `timm/convnext_atto`.

https://docs.pytorch.org/vision/stable/models.html and https://huggingface.co/docs/timm
Weights keep the names that they have there, and initial weights are drawn as there. Where a network's maps are is found
out by running it once for shapes alone, at the image size that it was made for: `maps` has the last map of every
resolution, those of a stem included, so most networks give five, those that begin with patches of 4x4 four. A
transformer without stages gives one: the tokens of its patches, each in its place. `preacts` and `stem` are not given,
as the ReLUs cannot be told from outside. `embedding` is what the classifier reads, which is the last linear layer or
convolution that is called.
Both libraries are imported when a network of theirs is asked for: torchvision is slow to import, timm is optional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..errors import OptionError, Stopped, did_you_mean, first_sentence
from ..registry import NETS
from ..types import Output

# torchvision's networks that are built for one image size, and those that have more classifiers in training.
OF_ONE_SIZE: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit": lambda size: {"image_size": size},
    "maxvit": lambda size: {"input_size": (size, size)},
}
WITH_MORE_CLASSIFIERS = ("googlenet", "inception_v3")
MOST_EXTRA_TOKENS = 8  # a class token, one for a second teacher, registers


@NETS.register_family("torchvision")
def of_torchvision(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 224, *, pretrained: bool = False
) -> nn.Module:
    """A classifier of torchvision.

    Args:
        pretrained: Begin with the weights that torchvision publishes as its default, fetched where they are not here;
            the classifier is fresh where the number of classes is another.
    """
    from torchvision import models

    _refuse_unknown("torchvision", name, models.list_models(module=models))
    if pretrained and in_channels != 3:
        raise OptionError("pretrained", f"torchvision's weights read images of 3 channels, these have {in_channels}")
    points, kind = _points_of_torchvision(name), name.partition("_")[0]
    options = OF_ONE_SIZE[kind](image_size) if kind in OF_ONE_SIZE else {}
    if pretrained:
        net = _fetched(f"torchvision/{name}", lambda: _torchvision_net(name, weights="DEFAULT", **options))
        _fit_classifier(net, points.classifier, num_classes)
    else:
        net = _built(lambda: _torchvision_net(name, num_classes=num_classes, **options))
        _fit_first_convolution(net, in_channels)
    return adapt(net, points)


@NETS.register_family("timm")
def of_timm(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 224, *, pretrained: bool = False
) -> nn.Module:
    """A classifier of timm, which is optional: pip install timm.

    Args:
        pretrained: Begin with the weights that timm publishes under this name, fetched where they are not here; the
            classifier is fresh where the number of classes is another.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise OptionError("name", f"timm/{name} needs timm, which is not installed: pip install timm") from None

    _refuse_unknown("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    if pretrained and not timm.models.is_model_pretrained(name):
        raise OptionError("pretrained", f"timm publishes no weights of {name}")
    options = {"num_classes": num_classes, "in_chans": in_channels}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size
    if pretrained:
        net = _fetched(f"timm/{name}", lambda: timm.create_model(name, pretrained=True, **options))
    else:
        net = _built(lambda: timm.create_model(name, **options))
    return adapt(net, _points_of_timm(name))


def _refuse_unknown(family: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = did_you_mean(f"{family}/{name}", [f"{family}/{each}" for each in known])
        raise OptionError("name", f'{family} has no classifier named "{name}"{near}')


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    """A network on the device of the moment, which may be the meta device."""
    device = torch.get_default_device()
    try:
        return build()
    except AssertionError as error:  # how these libraries refuse an image size
        raise ValueError(str(error)) from None
    except RuntimeError:
        if device.type != "meta":
            raise
    # Some constructors compute with tensors and read values. The run's random numbers must not move.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return build().to(device)


def _fetched(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """A network with published weights; where only shapes are asked for, it is built all the same, and then emptied."""
    device = torch.get_default_device()
    try:
        with torch.device("cpu"):
            net = build()
    except Stopped:
        raise
    except Exception as error:  # a download that breaks may raise almost anything
        reason = first_sentence(error)
        raise OptionError("pretrained", f"the weights of {name} are not here and were not fetched ({reason})") from None
    return net.to(device)


def _torchvision_net(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    if name in WITH_MORE_CLASSIFIERS:
        options |= {"aux_logits": False} if "weights" in options else {"aux_logits": False, "init_weights": True}
    net: nn.Module = models.get_model(name, **options)
    return net


def _fit_classifier(net: nn.Module, name: str, num_classes: int) -> None:
    """Put a fresh one in its place where it has another number of classes."""
    old = net.get_submodule(name)
    if isinstance(old, nn.Linear) and old.out_features != num_classes:
        net.set_submodule(name, nn.Linear(old.in_features, num_classes, device=old.weight.device))
    elif isinstance(old, nn.Conv2d) and old.out_channels != num_classes:
        net.set_submodule(name, _convolution_like(old, old.in_channels, num_classes))


def _fit_first_convolution(net: nn.Module, in_channels: int) -> None:
    """Put a fresh one in its place where it reads another number of channels."""
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    if old.in_channels != in_channels:
        net.set_submodule(name, _convolution_like(old, in_channels, old.out_channels))


def _convolution_like(old: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    size, stride, padding = (tuple(each) for each in (old.kernel_size, old.stride, old.padding))
    has_bias, device = old.bias is not None, old.weight.device
    return nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=has_bias, device=device)  # type: ignore[arg-type]


# What a network tells -----------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A module that hands on a map, and how that lies: (N, C, H, W), (N, H, W, C) or (N, extra + H * W, C)."""

    module: str
    layout: Literal["NCHW", "NHWC", "tokens"]
    num_extra: int = 0  # tokens that belong to no place, such as a class token; they come first

    def map_of(self, output: Tensor) -> Tensor:
        if self.layout == "NCHW":
            return output
        if self.layout == "tokens":
            side = math.isqrt(output.shape[1] - self.num_extra)
            output = output[:, self.num_extra :].reshape(len(output), side, side, -1)
        return output.permute(0, 3, 1, 2)


class FeaturePoints(NamedTuple):
    """Where a network is looked into."""

    classifier: str
    stages: tuple[Stage, ...]  # shallow to deep


class OutputAdapter(nn.Module):
    """Stands before a network's own class and turns its logits into an Output.

    Its hooks are methods, so that the hooks of a copy are the copy's.
    """

    points: FeaturePoints
    seen: dict[str, Tensor]  # by the name of the module; empty between calls

    def forward(self, images_NCHW: Tensor) -> Output:
        logits_NK = super().forward(images_NCHW)
        embedding = self.seen.pop(self.points.classifier)
        if embedding.ndim == 4:  # the classifier is a convolution, and the pool comes behind it
            embedding = embedding.mean(dim=(2, 3))
        elif embedding.ndim == 3:  # the same with tokens
            embedding = embedding.mean(dim=1)
        maps = tuple(stage.map_of(self.seen.pop(stage.module)) for stage in self.points.stages)
        return Output(logits_NK, embedding, maps)

    def see_given(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen[name] = inputs[0]

    def see_handed_on(self, name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen[name] = output


def adapt(net: nn.Module, points: FeaturePoints) -> nn.Module:
    """The network itself, which from now on returns an Output; it is not wrapped, so that weights keep their names."""
    net.__class__ = type(type(net).__name__, (OutputAdapter, type(net)), {})
    told = cast(OutputAdapter, net)
    told.points, told.seen = points, {}
    told.get_submodule(points.classifier).register_forward_pre_hook(partial(told.see_given, points.classifier))
    for stage in points.stages:
        told.get_submodule(stage.module).register_forward_hook(partial(told.see_handed_on, stage.module))
    return told


# Where to look ------------------------------------------------------------------------------------------------------


@cache
def _points_of_torchvision(name: str) -> FeaturePoints:
    with torch.device("meta"):
        return find_points(_built(lambda: _torchvision_net(name)), image_size=224)


@cache
def _points_of_timm(name: str) -> FeaturePoints:
    import timm

    with torch.device("meta"):
        net = _built(lambda: timm.create_model(name, num_classes=1000))
        return find_points(net, image_size=timm.get_pretrained_cfg(name).input_size[-1])


class Call(NamedTuple):
    """A call of a module: height and width of the map that it is given and of the one that it hands on, 0 for none."""

    module: str
    side_given: int
    side: int
    stage: Stage | None


@torch.no_grad()
def find_points(net: nn.Module, image_size: int) -> FeaturePoints:
    """Run a network on square images, for shapes alone, and see what its modules hand on."""
    modules = dict(net.named_modules())
    calls: list[Call] = []
    classifier, num_before, patches = "", 0, 0  # what comes behind the classifier is no map

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal classifier, num_before, patches
        if isinstance(module, nn.Linear | nn.Conv2d):
            classifier, num_before = name, len(calls)
        if isinstance(module, nn.Conv2d):
            patches, _ = _found(name, output, patches)
        given = inputs[0] if inputs else None
        side_given, _ = _found(name, given, patches)
        side, stage = _found(name, output, patches)
        calls.append(Call(name, side_given, side, None if output is given else stage))

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items() if name]
    net.eval()(torch.empty(2, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()

    of_module = {call.module: call for call in calls}
    stages: dict[int, Stage] = {}
    for call in calls[:num_before]:
        around = [of_module[outer] for outer in _around(call.module) if outer in of_module]
        if call.stage is not None and not any(_hides(outer, call, modules[outer.module]) for outer in around):
            stages.pop(call.side, None)  # so that the last one comes last
            stages[call.side] = call.stage
    return FeaturePoints(classifier, tuple(stages.values()))


def _found(name: str, tensor: Any, patches: int) -> tuple[int, Stage | None]:
    """Side and layout of a map of the two images; tokens stand for the positions of the last convolution's map.

    Args:
        patches: Height and width of that map.
    """
    if isinstance(tensor, Tensor) and len(tensor) == 2:
        _, *sizes = tensor.shape
        if tensor.ndim == 4 and sizes[1] == sizes[2] > 1:
            return sizes[1], Stage(name, "NCHW")
        if tensor.ndim == 4 and sizes[0] == sizes[1] > 1:
            return sizes[0], Stage(name, "NHWC")
        if tensor.ndim == 3 and patches > 1 and 0 <= sizes[0] - patches**2 <= MOST_EXTRA_TOKENS:
            return patches, Stage(name, "tokens", sizes[0] - patches**2)
    return 0, None


def _around(name: str) -> list[str]:
    """layer1.0.conv1 -> layer1, layer1.0."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _hides(outer: Call, call: Call, module: nn.Module) -> bool:
    """Whether a map is the inside of a step to another resolution.

    Steps are blocks, and sequences that begin at the map's resolution and end at the next one; other sequences are what
    stages lie in.
    """
    is_step = outer.side_given == call.side and outer.side_given < 4 * outer.side
    return outer.side != call.side and (is_step or not isinstance(module, nn.Sequential))
