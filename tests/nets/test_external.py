"""Networks of torchvision and timm return an Output as ours do; tested on a few of each kind."""

from __future__ import annotations

import copy
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.errors import OptionError, Stopped, UserError
from model.home import ROOT
from model.nets import external
from model.registry import NETS
from model.types import Output
from tests.conftest import MakeFolder

WITHOUT_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed: pip install timm")


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=WITHOUT_TIMM if name.startswith("timm/") else ()) for name in names]


def meta_output(name: str, image_size: int, num_classes: int = 10, in_channels: int = 3) -> Output:
    with torch.device("meta"):
        net = NETS.build(name, num_classes, in_channels, image_size)
        output: Output = net.train()(torch.empty(2, in_channels, image_size, image_size))
    return output


# Output -------------------------------------------------------------------------------------------------------------

# The figures of the papers: image size, channels and side of each resolution's last map, width of the embedding.
FIGURES: dict[str, tuple[int, list[tuple[int, int]], int]] = {
    "torchvision/alexnet": (224, [(64, 55), (192, 27), (256, 13), (256, 6)], 4096),
    "torchvision/vgg16_bn": (224, [(64, 224), (128, 112), (256, 56), (512, 28), (512, 14), (512, 7)], 4096),
    "torchvision/googlenet": (224, [(64, 112), (192, 56), (480, 28), (832, 14), (1024, 7)], 1024),
    "torchvision/resnet34": (224, [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)], 512),
    "torchvision/resnet50": (224, [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)], 2048),
    "torchvision/densenet121": (224, [(64, 112), (256, 56), (512, 28), (1024, 14), (1024, 7)], 1024),
    "torchvision/squeezenet1_1": (224, [(64, 111), (128, 55), (256, 27), (512, 13)], 512),
    "torchvision/mobilenet_v2": (224, [(16, 112), (24, 56), (32, 28), (96, 14), (1280, 7)], 1280),
    "torchvision/efficientnet_b0": (224, [(16, 112), (24, 56), (40, 28), (112, 14), (1280, 7)], 1280),
    "torchvision/shufflenet_v2_x0_5": (224, [(24, 112), (24, 56), (48, 28), (96, 14), (1024, 7)], 1024),
    "torchvision/regnet_x_400mf": (224, [(32, 112), (32, 56), (64, 28), (160, 14), (400, 7)], 400),
    "torchvision/convnext_tiny": (224, [(96, 56), (192, 28), (384, 14), (768, 7)], 768),
    "torchvision/swin_t": (224, [(96, 56), (192, 28), (384, 14), (768, 7)], 768),
    "torchvision/vit_b_16": (224, [(768, 14)], 768),
    "torchvision/vit_b_32": (64, [(768, 2)], 768),
    "torchvision/resnet18": (32, [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)], 512),
    "timm/resnet50": (224, [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)], 2048),
    "timm/convnext_atto": (224, [(40, 56), (80, 28), (160, 14), (320, 7)], 320),
    "timm/efficientnet_b0": (224, [(16, 112), (24, 56), (40, 28), (112, 14), (1280, 7)], 1280),
    "timm/pvt_v2_b0": (224, [(32, 56), (64, 28), (160, 14), (256, 7)], 256),
    "timm/swin_tiny_patch4_window7_224": (224, [(96, 56), (192, 28), (384, 14), (768, 7)], 768),
    "timm/vit_tiny_patch16_224.augreg_in21k": (224, [(192, 14)], 192),
    "timm/vit_small_patch14_dinov2": (28, [(384, 2)], 384),
    "timm/deit_tiny_distilled_patch16_224": (32, [(192, 2)], 192),
}


@pytest.mark.parametrize("name", cases(list(FIGURES)))
def test_maps_have_the_shapes_of_the_papers(name: str) -> None:
    image_size, maps, width = FIGURES[name]
    output = meta_output(name, image_size)
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == [(2, c, side, side) for c, side in maps]
    assert output.embedding.shape == (2, width)
    assert output.logits.shape == (2, 10)


@pytest.mark.parametrize(
    "name", cases(["torchvision/resnet18", "torchvision/vit_b_32", "timm/convnext_atto", "timm/test_vit"])
)
def test_channels_and_classes_are_arguments(name: str) -> None:
    assert meta_output(name, 96, num_classes=7, in_channels=1).logits.shape == (2, 7)


# Small networks for tests that run them: image size and name of the classifier.
SMALL = {
    "torchvision/resnet18": (64, "fc"),
    "torchvision/squeezenet1_1": (64, "classifier.1"),
    "torchvision/shufflenet_v2_x0_5": (64, "fc"),
    "timm/test_resnet": (64, "fc"),
    "timm/test_convnext": (64, "head.fc"),
    "timm/test_vit": (160, "head"),
}


def original_net(name: str, **options: Any) -> nn.Module:
    family, _, member = name.partition("/")
    if family == "torchvision":
        net: nn.Module = models.get_model(member, **options)
        return net
    import timm

    timm_net: nn.Module = timm.create_model(member, **options)
    return timm_net


def images(num_images: int, size: int) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=cases(list(SMALL)))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built: nn.Module = NETS.build(name, 10, 3, SMALL[name][0])
    return built.eval()


def test_names_of_weights_and_logits_are_the_librarys(name: str, net: nn.Module) -> None:
    original = original_net(name, num_classes=10).eval()
    assert list(net.state_dict()) == list(original.state_dict())
    original.load_state_dict(net.state_dict())
    with torch.no_grad():
        batch = images(2, SMALL[name][0])
        torch.testing.assert_close(net(batch).logits, original(batch))


def test_initial_weights_are_the_librarys(name: str, net: nn.Module) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = original_net(name, num_classes=10)
    assert all(torch.equal(weights, net.state_dict()[key]) for key, weights in original.state_dict().items())


def test_initial_weights_do_not_depend_on_what_was_built_before() -> None:
    def drawn() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights: Tensor = NETS.build("torchvision/regnet_x_400mf", 10, 3, 32).fc.weight
        return weights

    external._torchvision_points.cache_clear()  # its constructor does not run on the meta device
    assert torch.equal(drawn(), drawn())


def test_embedding_is_the_classifiers_input(name: str, net: nn.Module) -> None:
    classifier = net.get_submodule(SMALL[name][1])
    classifier_inputs: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda module, inputs: classifier_inputs.append(inputs[0]))
    with torch.no_grad():
        output = net(images(2, SMALL[name][0]))
    hook.remove()
    (expected,) = classifier_inputs
    assert torch.equal(output.embedding, expected if expected.ndim == 2 else expected.mean(dim=(2, 3)))


def test_every_parameter_gets_a_gradient(name: str, net: nn.Module) -> None:
    student = copy.deepcopy(net)
    for weights in student.parameters():
        if not weights.any():  # timm initialises the last weights of branches with zeros
            nn.init.ones_(weights)
    loss = student(images(2, SMALL[name][0])).logits @ torch.randn(10, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(loss.sum(), list(student.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_eval_outputs_do_not_depend_on_other_images(name: str, net: nn.Module) -> None:
    batch = images(2, SMALL[name][0])
    with torch.no_grad():
        together, alone = net(batch), net(batch[:1])
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)
    for both, one in zip(together.maps, alone.maps, strict=True):
        torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-4)


def test_the_output_of_a_copy_is_its_own(name: str, net: nn.Module) -> None:
    batch = images(1, SMALL[name][0])
    other = copy.deepcopy(net)
    with torch.no_grad():
        for weights in other.parameters():
            weights.zero_()
        before, zeroed, after = net(batch), other(batch), net(batch)
    assert all(torch.equal(a, b) for a, b in zip(before.maps, after.maps, strict=True))
    assert not zeroed.maps[-1].any()
    assert not zeroed.logits.any()


def test_no_tensor_is_stored_between_calls(name: str, net: nn.Module) -> None:
    with torch.no_grad():
        net(images(1, SMALL[name][0]))
    assert net.captured == {}


def test_outputs_are_finite_under_bfloat16(name: str, net: nn.Module) -> None:
    batch = images(2, SMALL[name][0]).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(batch)
    assert all(tensor.isfinite().all() for tensor in (output.logits, output.embedding, *output.maps))


def test_compiles_into_one_graph(name: str, net: nn.Module) -> None:
    torch.compiler.reset()
    compiled: Callable[[Tensor], Output] = torch.compile(net, fullgraph=True, backend="eager")
    batch = images(2, SMALL[name][0])
    with torch.no_grad():
        expected, output = net(batch), compiled(batch)
    for a, b in zip((expected.logits, *expected.maps), (output.logits, *output.maps), strict=True):
        torch.testing.assert_close(a, b)


def test_maps_of_a_resnet_are_its_stages_outputs() -> None:
    net = NETS.build("torchvision/resnet18", 10, 3, 64).eval()
    original: Any = original_net("torchvision/resnet18", num_classes=10).eval()
    original.load_state_dict(net.state_dict())
    with torch.no_grad():
        batch = images(2, 64)
        stem = F.relu(original.bn1(original.conv1(batch)))
        expected = [stem]
        for stage in (original.layer1, original.layer2, original.layer3, original.layer4):
            expected.append(stage(original.maxpool(stem) if len(expected) == 1 else expected[-1]))
        maps = net(batch).maps
    for map_NCHW, expected_NCHW in zip(maps, expected, strict=True):
        torch.testing.assert_close(map_NCHW, expected_NCHW)


@pytest.mark.parametrize(
    ("name", "image_size", "stages"),
    [("test_vit", 160, [-1]), ("test_convnext", 64, [0, 1, 2, 3]), ("test_resnet", 64, [0, 1, 2, 3, 4])],
)
@WITHOUT_TIMM
def test_maps_are_timms_intermediate_features(name: str, image_size: int, stages: list[int]) -> None:
    net = NETS.build(f"timm/{name}", 10, 3, image_size).eval()
    original: Any = original_net(f"timm/{name}", num_classes=10).eval()
    original.load_state_dict(net.state_dict())
    with torch.no_grad():
        batch = images(2, image_size)
        expected = original.forward_intermediates(
            batch, indices=stages, norm=name == "test_vit", intermediates_only=True
        )
        maps = net(batch).maps
    for map_NCHW, expected_NCHW in zip(maps, expected, strict=True):
        torch.testing.assert_close(map_NCHW, expected_NCHW)


@WITHOUT_TIMM
def test_maps_with_the_channels_in_the_last_dimension_are_permuted() -> None:
    net = NETS.build("timm/swin_tiny_patch4_window7_224", 10, 3, 32).eval()
    original: Any = original_net("timm/swin_tiny_patch4_window7_224", num_classes=10, img_size=32).eval()
    original.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = original.forward_intermediates(images(1, 32), indices=[0, 1, 2], intermediates_only=True)
        maps = net(images(1, 32)).maps
    for map_NCHW, expected_NCHW in zip(maps[:3], expected, strict=True):
        torch.testing.assert_close(map_NCHW, expected_NCHW)


# Published weights --------------------------------------------------------------------------------------------------

FILE = "shufflenetv2_x0.5-f707e7126e.pth"  # torchvision's file name


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Torch's folder of downloaded files, empty; downloads fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def published(no_network: Path) -> dict[str, Tensor]:
    """Weights for 1000 classes in the file that torchvision would download."""
    state: dict[str, Tensor] = original_net("torchvision/shufflenet_v2_x0_5").state_dict()
    torch.save(state, no_network / FILE)
    return state


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_published_weights_are_loaded_and_a_different_classifier_has_initial_ones(
    num_classes: int, published: dict[str, Tensor]
) -> None:
    state = NETS.build("torchvision/shufflenet_v2_x0_5", num_classes, 3, 32, pretrained=True).state_dict()
    fresh = {"fc.weight", "fc.bias"} if num_classes == 10 else set()
    assert {key for key in state if not torch.equal(state[key], published[key])} == fresh
    assert state["fc.weight"].shape == (num_classes, 1024)


def test_published_weights_are_downloaded_also_on_the_meta_device(published: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        net = NETS.build("torchvision/shufflenet_v2_x0_5", 10, 3, 32, pretrained=True)
        assert net(torch.empty(2, 3, 32, 32)).logits.shape == (2, 10)
    assert {weights.device.type for weights in net.state_dict().values()} == {"meta"}


def test_a_failed_download_is_one_line(no_network: Path) -> None:
    with pytest.raises(OptionError) as refused:
        NETS.build("torchvision/shufflenet_v2_x0_5", 10, 3, 32, pretrained=True)
    assert str(refused.value) == (
        "pretrained: the weights of torchvision/shufflenet_v2_x0_5 could not be downloaded "
        f"(<urlopen error no route to host>); they are looked for in {no_network / FILE}"
    )


def test_a_download_can_be_interrupted(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    monkeypatch.setattr("torch.hub.urlopen", stop)
    with pytest.raises(Stopped):
        NETS.build("torchvision/shufflenet_v2_x0_5", 10, 3, 32, pretrained=True)


def test_published_weights_of_torchvision_are_for_three_channels() -> None:
    with pytest.raises(
        OptionError, match="pretrained: torchvision's weights are for images of 3 channels, these have 1"
    ):
        NETS.build("torchvision/resnet18", 10, 1, 32, pretrained=True)


@WITHOUT_TIMM
def test_published_weights_of_timm_are_loaded_and_a_different_classifier_has_initial_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = original_net("timm/test_resnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    loaded = NETS.build("timm/test_resnet", 10, 3, 64, pretrained=True).state_dict()
    assert {key for key in loaded if not torch.equal(loaded[key], state[key])} == {"fc.weight", "fc.bias"}


@WITHOUT_TIMM
def test_a_failed_download_of_timm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no connection. Try again later\nor not")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    with pytest.raises(
        OptionError,
        match=r"the weights of timm/test_resnet could not be downloaded \(no connection\); they are ",
    ):
        NETS.build("timm/test_resnet", 10, 3, 64, pretrained=True)


@WITHOUT_TIMM
def test_a_network_of_timm_without_published_weights_is_refused() -> None:
    import timm

    name = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    with pytest.raises(OptionError, match=f"pretrained: timm publishes no weights of {name}$"):
        NETS.build(f"timm/{name}", 10, 3, 64, pretrained=True)


# Names --------------------------------------------------------------------------------------------------------------


def test_the_error_for_an_unknown_name_has_the_nearest_one() -> None:
    with pytest.raises(OptionError) as refused:
        NETS.build("torchvision/resnext50_32x4", 10, 3, 32)
    assert str(refused.value) == (
        'name: torchvision has no classifier named "resnext50_32x4", did you mean "torchvision/resnext50_32x4d"?'
    )


@WITHOUT_TIMM
@pytest.mark.parametrize("name", ["convnxt_atto", "hf-hub:timm/resnet18", "resnet18.no_such_tag"])
def test_an_unknown_name_of_timm_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f'^name: timm has no classifier named "{name}"'):
        NETS.build(f"timm/{name}", 10, 3, 32)


def test_missing_timm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(OptionError, match="name: timm/resnet18 needs timm, which is not installed: pip install timm"):
        NETS.build("timm/resnet18", 10, 3, 32)


def test_an_unsuitable_image_size_is_refused() -> None:
    with pytest.raises(OptionError, match="Input shape indivisible by patch size"):
        NETS.build("torchvision/vit_b_16", 10, 3, 28)


def test_neither_library_is_imported_before_its_networks_are_built() -> None:
    script = "import sys, model.build; print({'torchvision', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# In a run -----------------------------------------------------------------------------------------------------------


def test_such_networks_learn_and_teach(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "torchvision/shufflenet_v2_x1_0"})
    torch.save(original_net("torchvision/shufflenet_v2_x1_0", num_classes=10).state_dict(), teacher.checkpoint("best"))
    student = make_folder(
        tmp_path / "student",
        student={"name": "torchvision/shufflenet_v2_x0_5"},
        teacher=str(teacher.path),
        loss={"kd": {}, "at": {}},
        num_epochs=1,
    )
    Experiment(student.path, runtime).train(train_teachers=False)
    assert student.state() == "finished"


def test_a_trained_network_teaches_without_its_published_weights(
    no_network: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    network = {"name": "torchvision/shufflenet_v2_x0_5", "pretrained": True}
    teacher = make_folder(tmp_path / "teacher", student=network)
    torch.save(original_net("torchvision/shufflenet_v2_x0_5", num_classes=10).state_dict(), teacher.checkpoint("best"))
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train()
    assert student.state() == "finished"


def test_a_run_that_cannot_fetch_is_refused_before_it_begins(
    no_network: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    network = {"name": "torchvision/shufflenet_v2_x0_5", "pretrained": True}
    folder = make_folder(tmp_path / "run", student=network)
    with pytest.raises(UserError, match=r"params\.json: student\.pretrained: the weights of torchvision/shufflenet"):
        Experiment(folder.path, runtime).train()
    assert [file.name for file in folder.path.iterdir()] == ["params.json"]
