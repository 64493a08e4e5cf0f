"""Classifiers of torchvision and timm, under the libraries' names: `torchvision/resnet34`, `timm/convnext_atto`.

https://docs.pytorch.org/vision/stable/models.html and https://huggingface.co/docs/timm
Names of weights and initial weights are the library's. The modules that output the maps are determined by one forward
pass on the meta device, at the image size that the network was designed for: `maps` has the last map of every
resolution, those of the stem included, so most networks have five, those that begin with 4x4 patches have four. A
transformer without stages has one: the tokens of its patches, arranged as a map. `preacts` and `stem` are empty, as
ReLUs cannot be located from outside. `embedding` is the input of the classifier, which is the last linear layer or
convolution that is called.
Both libraries are imported only when a network of theirs is built: torchvision is slow to import, timm is optional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..errors import OptionError, Stopped, did_you_mean, first_sentence
from ..logs import hidden_bars
from ..registry import NETS
from ..types import Normalisation, Output

# torchvision's networks that take the image size as an argument, and those with auxiliary classifiers.
IMAGE_SIZE_ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit": lambda size: {"image_size": size},
    "maxvit": lambda size: {"input_size": (size, size)},
}
WITH_AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")
MAX_EXTRA_TOKENS = 8  # a class token, a distillation token, registers


@NETS.register_family("torchvision")
def torchvision_classifier(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 224, *, pretrained: bool | str = False
) -> nn.Module:
    """A classifier of torchvision.

    Args:
        pretrained: Start from torchvision's default weights, downloaded if necessary, or from a weights file
            (.pth, .pt, .tar, .safetensors); the classifier has initial weights where the number of
            classes differs.
    """
    _refuse_file(pretrained)
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    if pretrained and in_channels != 3:
        raise OptionError("pretrained", f"torchvision's weights are for images of 3 channels, these have {in_channels}")
    points, kind = _torchvision_points(name), name.partition("_")[0]
    options = IMAGE_SIZE_ARGUMENTS[kind](image_size) if kind in IMAGE_SIZE_ARGUMENTS else {}
    if pretrained:
        net = _build_pretrained(
            f"torchvision/{name}",
            lambda: _torchvision_net(name, weights="DEFAULT", **options),
            Path(torch.hub.get_dir(), "checkpoints", Path(models.get_model_weights(name).DEFAULT.url).name),
        )
        _fit_classifier(net, points.classifier, num_classes)
    else:
        net = _build(lambda: _torchvision_net(name, num_classes=num_classes, **options))
        _fit_first_convolution(net, in_channels)
    return adapt(net, points)


@NETS.register_family("timm")
def timm_classifier(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 224, *, pretrained: bool | str = False
) -> nn.Module:
    """A classifier of timm, which is optional: pip install timm.

    Args:
        pretrained: Start from the weights that timm publishes under this name, downloaded if necessary, or from a
            weights file (.pth, .pt, .tar, .safetensors); the classifier has initial weights where the number of
            classes differs.
    """
    _refuse_file(pretrained)
    timm = _import_timm(name)
    _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    if pretrained and not timm.models.is_model_pretrained(name):
        raise OptionError("pretrained", f"timm publishes no weights of {name}")
    options = {"num_classes": num_classes, "in_chans": in_channels}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size
    if pretrained:
        net = _build_pretrained(
            f"timm/{name}",
            lambda: timm.create_model(name, pretrained=True, **options),
            _cache_path_of_timm(timm.get_pretrained_cfg(name)),
        )
    else:
        net = _build(lambda: timm.create_model(name, **options))
    return adapt(net, _timm_points(name))


class Published(NamedTuple):
    """What a library says of the weights that it publishes."""

    class_names: tuple[str, ...] | None
    num_classes: int
    image_size: int
    normalisation: Normalisation


def published(name: str) -> Published:
    """What is known of the published weights of `torchvision/...` or `timm/...`.

    Raises:
        OptionError: There is no such network, or there are no weights of it.
    """
    family, _, rest = name.partition("/")
    return PUBLISHED[family](rest)


def _published_by_torchvision(name: str) -> Published:
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    weights = models.get_model_weights(name).DEFAULT
    names, transforms = tuple(weights.meta["categories"]), weights.transforms()
    normalisation = Normalisation(mean=tuple(transforms.mean), std=tuple(transforms.std))
    return Published(names, len(names), transforms.crop_size[0], normalisation)


def _published_by_timm(name: str) -> Published:
    timm = _import_timm(name)
    _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    if not timm.models.is_model_pretrained(name):
        raise OptionError("teacher", f"timm publishes no weights of {name}")
    config = timm.get_pretrained_cfg(name)
    normalisation = Normalisation(mean=tuple(config.mean), std=tuple(config.std))
    return Published(_names_of_timm(config), config.num_classes, config.input_size[1], normalisation)


def _names_of_timm(config: Any) -> tuple[str, ...] | None:
    """Those of ImageNet's 1,000 classes as torchvision has them; of its larger sets, the first word of each."""
    from timm.data import ImageNetInfo, infer_imagenet_subset  # type: ignore[import-not-found, unused-ignore]
    from torchvision.models import ResNet50_Weights

    subset = infer_imagenet_subset(config)
    if subset == "imagenet-1k":
        return tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(info.num_classes()))


PUBLISHED: dict[str, Callable[[str], Published]] = {
    "torchvision": _published_by_torchvision,
    "timm": _published_by_timm,
}


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise OptionError("name", f"timm/{name} needs timm, which is not installed: pip install timm") from None
    return timm


def _refuse_file(pretrained: bool | str) -> None:
    """A student's file is loaded by the experiment; those of networks inside another one are not."""
    if isinstance(pretrained, str):
        raise OptionError("pretrained", "a file is loaded into the student alone, not into a network inside it")


def _check_name(family: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = did_you_mean(f"{family}/{name}", [f"{family}/{member}" for member in known])
        raise OptionError("name", f'{family} has no classifier named "{name}"{hint}')


def _build(build: Callable[[], nn.Module]) -> nn.Module:
    """A network on the default device, which may be the meta device."""
    device = torch.get_default_device()
    try:
        return build()
    except AssertionError as error:  # raised by these libraries for an unsuitable image size
        raise ValueError(str(error)) from None
    except RuntimeError:
        if device.type != "meta":
            raise
    # Some constructors read values of tensors. The global random generator must not advance.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return build().to(device)


def _cache_path_of_timm(config: Any) -> Path:
    """Where timm looks for published weights: the cache of Hugging Face's hub, or torch's."""
    if not config.hf_hub_id:
        return Path(torch.hub.get_dir(), "checkpoints", Path(config.url).name)
    from huggingface_hub.constants import HF_HUB_CACHE  # timm needs it, too

    return Path(HF_HUB_CACHE, f"models--{config.hf_hub_id.replace('/', '--')}")


def _build_pretrained(name: str, build: Callable[[], nn.Module], cache_path: Path) -> nn.Module:
    """A network with published weights; it is built on the CPU even if only shapes are needed, and then moved.

    Args:
        cache_path: Where the weights are once they are downloaded.
    """
    device = torch.get_default_device()
    try:
        with torch.device("cpu"), hidden_bars():
            net = build()
    except Stopped:
        raise
    except Exception as error:  # a failing download may raise almost anything
        reason = first_sentence(error)
        raise OptionError(
            "pretrained",
            f"the weights of {name} could not be downloaded ({reason}); they are looked for in {cache_path}",
        ) from None
    return net.to(device)


def _torchvision_net(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    if name in WITH_AUXILIARY_CLASSIFIERS:
        options |= {"aux_logits": False} if "weights" in options else {"aux_logits": False, "init_weights": True}
    net: nn.Module = models.get_model(name, **options)
    return net


def _fit_classifier(net: nn.Module, name: str, num_classes: int) -> None:
    """Replace the classifier by one with initial weights if it has another number of classes."""
    old = net.get_submodule(name)
    if isinstance(old, nn.Linear) and old.out_features != num_classes:
        net.set_submodule(name, nn.Linear(old.in_features, num_classes, device=old.weight.device))
    elif isinstance(old, nn.Conv2d) and old.out_channels != num_classes:
        net.set_submodule(name, _convolution_like(old, old.in_channels, num_classes))


def _fit_first_convolution(net: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one with initial weights if it has another number of input channels."""
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    if old.in_channels != in_channels:
        net.set_submodule(name, _convolution_like(old, in_channels, old.out_channels))


def _convolution_like(old: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    size, stride, padding = (tuple(values) for values in (old.kernel_size, old.stride, old.padding))
    has_bias, device = old.bias is not None, old.weight.device
    return nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=has_bias, device=device)  # type: ignore[arg-type]


# Output adapter -------------------------------------------------------------------------------------------------------


class MapPoint(NamedTuple):
    """A module whose output is a map, and its layout: (N, C, H, W), (N, H, W, C) or (N, extra + H * W, C)."""

    module: str
    layout: Literal["NCHW", "NHWC", "tokens"]
    num_extra: int = 0  # leading tokens without a position, such as a class token

    def to_map(self, output: Tensor) -> Tensor:
        if self.layout == "NCHW":
            return output
        if self.layout == "tokens":
            side = math.isqrt(output.shape[1] - self.num_extra)
            output = output[:, self.num_extra :].reshape(len(output), side, side, -1)
        return output.permute(0, 3, 1, 2)


class FeaturePoints(NamedTuple):
    """The modules of a network whose inputs or outputs become parts of its Output."""

    classifier: str  # its input is the embedding
    maps: tuple[MapPoint, ...]  # shallow to deep


class OutputAdapter(nn.Module):
    """A mixin before a network's own class: `forward` returns an Output instead of logits.

    Its hooks are methods, so that the hooks of a copied network belong to the copy.
    """

    points: FeaturePoints
    captured: dict[str, Tensor]  # by the name of the module; empty between calls

    def forward(self, images_NCHW: Tensor) -> Output:
        logits_NK = super().forward(images_NCHW)
        embedding = self.captured.pop(self.points.classifier)
        if embedding.ndim == 4:  # the classifier is a convolution, followed by the pool
            embedding = embedding.mean(dim=(2, 3))
        elif embedding.ndim == 3:  # the same with tokens
            embedding = embedding.mean(dim=1)
        maps = tuple(point.to_map(self.captured.pop(point.module)) for point in self.points.maps)
        return Output(logits_NK, embedding, maps)

    def capture_input(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.captured[name] = inputs[0]

    def capture_output(self, name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self.captured[name] = output


def adapt(net: nn.Module, points: FeaturePoints) -> nn.Module:
    """The network itself, changed to return an Output; it is not wrapped, so that names of weights stay the same."""
    net.__class__ = type(type(net).__name__, (OutputAdapter, type(net)), {})
    adapted = cast(OutputAdapter, net)
    adapted.points, adapted.captured = points, {}
    classifier = adapted.get_submodule(points.classifier)
    classifier.register_forward_pre_hook(partial(adapted.capture_input, points.classifier))
    for point in points.maps:
        adapted.get_submodule(point.module).register_forward_hook(partial(adapted.capture_output, point.module))
    return adapted


# Feature points -------------------------------------------------------------------------------------------------------


@cache
def _torchvision_points(name: str) -> FeaturePoints:
    with torch.device("meta"):
        return find_points(_build(lambda: _torchvision_net(name)), image_size=224)


@cache
def _timm_points(name: str) -> FeaturePoints:
    import timm

    with torch.device("meta"):
        net = _build(lambda: timm.create_model(name, num_classes=1000))
        return find_points(net, image_size=timm.get_pretrained_cfg(name).input_size[-1])


class ModuleCall(NamedTuple):
    """A call of a module: the side lengths of its input and output maps, 0 where they are not maps."""

    module: str
    input_side: int
    output_side: int
    point: MapPoint | None  # None where the output is no map, or is the unchanged input


@torch.no_grad()
def find_points(net: nn.Module, image_size: int) -> FeaturePoints:
    """Run a network on square images, for shapes alone, and select the modules that output its maps."""
    modules = dict(net.named_modules())
    calls: list[ModuleCall] = []
    classifier, num_before, patches = "", 0, 0  # calls after the classifier's output no maps

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal classifier, num_before, patches
        if isinstance(module, nn.Linear | nn.Conv2d):
            classifier, num_before = name, len(calls)
        if isinstance(module, nn.Conv2d):
            patches, _ = _map_layout(name, output, patches)
        first_input = inputs[0] if inputs else None
        input_side, _ = _map_layout(name, first_input, patches)
        output_side, point = _map_layout(name, output, patches)
        calls.append(ModuleCall(name, input_side, output_side, None if output is first_input else point))

    hooks = [module.register_forward_hook(partial(record, name)) for name, module in modules.items() if name]
    net.eval()(torch.empty(2, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()

    call_of = {call.module: call for call in calls}
    last_of_side: dict[int, MapPoint] = {}
    for call in calls[:num_before]:
        parents = [call_of[parent] for parent in _parents(call.module) if parent in call_of]
        if call.point is not None and not any(_is_inside(call, parent, modules[parent.module]) for parent in parents):
            last_of_side.pop(call.output_side, None)  # re-inserted at the end, so that the order is that of the calls
            last_of_side[call.output_side] = call.point
    return FeaturePoints(classifier, tuple(last_of_side.values()))


def _map_layout(name: str, tensor: Any, patches: int) -> tuple[int, MapPoint | None]:
    """Side length and layout of a map of the two images; tokens are positions of the last convolution's map.

    Args:
        patches: Side length of that map.
    """
    if isinstance(tensor, Tensor) and len(tensor) == 2:
        _, *sizes = tensor.shape
        if tensor.ndim == 4 and sizes[1] == sizes[2] > 1:
            return sizes[1], MapPoint(name, "NCHW")
        if tensor.ndim == 4 and sizes[0] == sizes[1] > 1:
            return sizes[0], MapPoint(name, "NHWC")
        if tensor.ndim == 3 and patches > 1 and 0 <= sizes[0] - patches**2 <= MAX_EXTRA_TOKENS:
            return patches, MapPoint(name, "tokens", sizes[0] - patches**2)
    return 0, None


def _parents(name: str) -> list[str]:
    """layer1.0.conv1 -> layer1, layer1.0."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _is_inside(call: ModuleCall, parent: ModuleCall, module: nn.Module) -> bool:
    """Whether a map is internal to a step from one resolution to another, the parent `module`.

    Steps are blocks, and sequences from the map's resolution to the next one; other sequences contain stages.
    """
    is_step = parent.input_side == call.output_side and parent.input_side < 4 * parent.output_side
    return parent.output_side != call.output_side and (is_step or not isinstance(module, nn.Sequential))
