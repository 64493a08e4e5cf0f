"""Every network against outputs of the original one: float64, weights drawn from a fixed stream.

`state_dicts/` lists the original's state dict, one `name shape` per line, in order. Our wide residual networks have
RepDistiller's names of weights, which differ from those of pytorch-moonshine: `moonshine` translates them.
"""

import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.registry import NETS
from model.types import Output


def moonshine(num_splits: int = 1) -> Callable[[str], str]:
    """Our names -> those of a WRN-40 in pytorch-moonshine.

    There, a stage is a list of splits (with two splits of three blocks, block 4 is block 1 of split 1), and a 3x3
    convolution is wrapped into a module like its replacements.
    """

    def name(key: str) -> str:
        match = re.fullmatch(r"(block\d)\.layer\.(\d)\.(.+)", key)
        if match is None:
            return key
        split, block = divmod(int(match[2]), 6 // num_splits)
        return f"{match[1]}.{split}.layer.{block}." + re.sub(r"^(conv[12])\.weight$", r"\1.conv.weight", match[3])

    return name


def same(key: str) -> str:
    return key


class Vector(NamedTuple):
    """The original network's output for the fixed images; features and preacts as means of absolute values."""

    name: str
    file: str
    num_classes: int
    logits: tuple[float, ...]  # the first three of the first image
    features: tuple[float, ...] = ()  # the stages after their ReLU, then the embedding where the original returns it
    preacts: tuple[float, ...] = ()
    options: dict[str, Any] = {}
    original_name: Callable[[str], str] = same
    image: tuple[int, int] = (3, 32)  # channels and size


def wrn_of_moonshine(
    conv: str, block: str, logits: tuple[float, float, float], maps: tuple[float, ...], *, splits: int = 1
) -> Vector:
    file = f"seed4_wrn_40_2_{conv}_{block}" + (f"_s{splits}" if splits > 1 else "")
    options = {"depth": 40, "width": 2.0, "conv": conv, "block": block, "splits": splits}
    return Vector("wrn", file, 10, logits, maps, options=options, original_name=moonshine(splits))


VECTORS = [
    Vector("cnn", "seed1_cnn", 10, (-0.96695481, 1.4728958, -2.9719412)),
    Vector("resnet18", "seed1_ResNet18", 10, (-1.4159314, 3.7491193, -1.0560084)),
    Vector("resnet34", "seed1_ResNet34", 10, (-20.214152, 3.1724728, -10.320736)),
    Vector("resnet50", "seed1_ResNet50", 10, (-2.4200079, 5.020243, -4.200313)),
    Vector(
        "resnet50",
        "zoo_ResNet50",
        100,
        (-2.5642354, 5.2419452, -4.2360107),
        (0.5942178, 0.9249494, 1.791174, 2.055619, 2.055619),
        (0.7159209, 1.14269, 2.023971, 2.401305),
    ),
    Vector(
        "resnet8",
        "zoo_resnet8",
        100,
        (0.57643341, 0.49102242, -1.133068),
        (0.5830825, 0.4634801, 0.5390791, 0.5390791),
        (0.7589291, 0.9763532, 0.9322788),
    ),
    Vector(
        "resnet14",
        "zoo_resnet14",
        100,
        (1.4181542, 1.7005527, 4.9700949),
        (0.4904478, 0.6831354, 1.192673, 1.192673),
        (0.7740662, 0.8954699, 1.472608),
    ),
    Vector(
        "resnet20",
        "zoo_resnet20",
        100,
        (2.285698, -2.0731755, -0.24340876),
        (0.6185846, 1.029138, 1.464282, 1.464282),
        (0.8062374, 1.229503, 1.703688),
    ),
    Vector(
        "resnet32",
        "zoo_resnet32",
        100,
        (4.8610577, 6.6729691, 0.10259268),
        (1.331542, 4.01832, 5.998403, 5.998403),
        (1.503116, 4.809005, 6.812228),
    ),
    Vector(
        "resnet44",
        "zoo_resnet44",
        100,
        (39.447433, -40.202978, 67.461863),
        (1.508536, 19.69879, 76.34755, 76.34755),
        (1.999552, 22.79738, 93.65733),
    ),
    Vector(
        "resnet56",
        "zoo_resnet56",
        100,
        (115.949, -50.328102, -47.096439),
        (1.87628, 16.4685, 72.96817, 72.96817),
        (2.531883, 19.65794, 90.26792),
    ),
    Vector(
        "resnet110",
        "zoo_resnet110",
        100,
        (-16992.999, -33129.684, 16.346275),
        (17.33309, 669.4201, 17723.99, 17723.99),
        (19.65982, 747.2374, 22751.07),
    ),
    Vector(
        "resnet20_stem7",
        "seed5_resnet_32_20",
        10,
        (-4.6943836, 3.0620546, -6.0066349),
        (1.110951, 1.263479, 2.257927, 2.257927),
    ),
    Vector(
        "resnet110_stem7",
        "seed5_resnet_32_110",
        10,
        (-239940.15, 9660.3336, -44346.747),
        (54.18308, 3145.343, 163361.1, 163361.1),
    ),
    Vector(
        "resnet8x4",
        "zoo_resnet8x4",
        100,
        (-0.13269706, -1.8632019, -1.3216681),
        (0.4362586, 0.3986808, 0.3805951, 0.3805951),
        (0.898945, 0.8947572, 0.8194188),
    ),
    Vector(
        "resnet32x4",
        "zoo_resnet32x4",
        100,
        (-15.144936, 22.82832, 15.63455),
        (1.190152, 3.09536, 7.946963, 7.946963),
        (1.418921, 3.708562, 9.418349),
    ),
    Vector(
        "wrn_16_1",
        "zoo_wrn_16_1",
        100,
        (2.752164, 2.7191864, 1.1304686),
        (1.406253, 1.242591, 1.586863, 0.8019849),
        (1.036116, 0.9353272, 1.220423),
    ),
    Vector(
        "wrn_16_2",
        "zoo_wrn_16_2",
        100,
        (1.4054453, -1.3907206, 0.92422493),
        (1.356508, 1.530341, 1.975645, 0.8258902),
        (1.048139, 1.196836, 1.509917),
    ),
    Vector(
        "wrn_40_1",
        "zoo_wrn_40_1",
        100,
        (-7.7715026, -13.7767, -18.341509),
        (2.147673, 4.945646, 12.53084, 4.962199),
        (1.573404, 3.789196, 9.655991),
    ),
    Vector(
        "wrn_40_2",
        "zoo_wrn_40_2",
        100,
        (-4.861333, -5.7700196, 11.990746),
        (2.381349, 6.602234, 13.39549, 5.083584),
        (1.957337, 4.964498, 10.55031),
    ),
    Vector(
        "wrn",
        "zoo_wrn_40_2",
        100,
        (-4.861333, -5.7700196, 11.990746),
        (2.381349, 6.602234, 13.39549, 5.083584),
        (1.957337, 4.964498, 10.55031),
    ),
    Vector(
        "vgg8",
        "zoo_vgg8",
        100,
        (0.77133849, -0.016945568, -1.0162368),
        (0.5165166, 0.6523086, 0.575888, 0.3794705, 0.3794705),
        (1.049406, 1.146233, 1.098699, 0.7958109),
    ),
    Vector(
        "vgg11",
        "zoo_vgg11",
        100,
        (-0.42020504, 0.3002942, -0.72606195),
        (0.5165166, 0.5086987, 0.3115281, 0.1782691, 0.1782691),
        (1.049406, 0.9259562, 0.6675162, 0.3588111),
    ),
    Vector(
        "vgg13",
        "zoo_vgg13",
        100,
        (0.20256859, 0.2340805, 0.020426568),
        (0.3346913, 0.2281307, 0.1528834, 0.1003272, 0.1003272),
        (0.681048, 0.5065634, 0.3100891, 0.213347),
    ),
    Vector(
        "vgg16",
        "zoo_vgg16",
        100,
        (-0.3055879, 0.16004817, -0.10735504),
        (0.3346913, 0.1767182, 0.1092554, 0.08224879, 0.08224879),
        (0.681048, 0.3847336, 0.2175596, 0.1654219),
    ),
    Vector(
        "vgg19",
        "zoo_vgg19",
        100,
        (-0.073459364, -0.1404409, 0.061960165),
        (0.3346913, 0.1320382, 0.08412606, 0.08506876, 0.08506876),
        (0.681048, 0.2766123, 0.1718299, 0.1620218),
    ),
    Vector(
        "mobilenetv2",
        "zoo_MobileNetV2",
        100,
        (0.15051312, -0.35186197, -0.68624001),
        (0.3062887, 0.8522504, 1.18598, 0.4841546, 0.2759963),
        (0.3062887, 0.8522504, 1.18598, 0.4841546),
    ),
    Vector(
        "shufflev1",
        "zoo_ShuffleV1",
        100,
        (1.348714, -1.7361291, -0.82405591),
        (0.4201426, 0.8471616, 0.9598094, 0.9598094),
        (0.4902379, 0.9798809, 1.117157),
    ),
    Vector(
        "shufflev2",
        "zoo_ShuffleV2",
        100,
        (-0.10721099, 0.14133788, 0.064013791),
        (0.2126263, 0.1207292, 0.1079908, 0.09516466),
        (0.3403667, 0.1857321, 0.1610555),
    ),
    wrn_of_moonshine("Conv", "Basic", (-5.0526501, -5.7833188, 11.855497), (2.381349, 6.602234, 13.39549)),
    wrn_of_moonshine("G8B2", "Basic", (1.3313853, 1.3601565, -1.156434), (1.155024, 1.444789, 1.613616)),
    wrn_of_moonshine("ConvB4", "Basic", (-0.11293347, 0.7903954, -0.71643145), (0.9470163, 1.211216, 1.202937)),
    wrn_of_moonshine("DConv", "Basic", (-0.52276371, -1.7458401, -3.5770486), (1.209198, 1.845908, 2.002042)),
    wrn_of_moonshine("DConvA8", "Basic", (0.84929956, -2.1625543, 1.5586555), (1.235054, 1.163852, 1.439517)),
    wrn_of_moonshine("DConvG4", "Basic", (2.0965087, -0.95441304, -0.76816399), (1.402166, 1.669747, 1.927738)),
    wrn_of_moonshine("Conv2x2", "Basic", (-0.11536173, 7.8433536, -3.7220778), (1.799751, 3.996715, 8.414593)),
    wrn_of_moonshine("DConv3D", "Basic", (-0.7028636, -0.61889678, -0.71490857), (0.8727151, 0.7983879, 0.8322703)),
    wrn_of_moonshine("Conv", "Bottle", (0.79120406, -54.589057, 85.955363), (4.349019, 18.79239, 74.64051)),
    wrn_of_moonshine("G8B2", "Bottle", (2.4710025, 1.309751, 0.62166668), (2.305859, 3.766459, 5.214191)),
    wrn_of_moonshine("Conv", "Old", (-50.57044, 49.39347, -24.043754), (3.146893, 13.73767, 30.3857)),
    wrn_of_moonshine("G8B2", "Old", (2.2926965, 1.4666262, 1.1625767), (0.8889256, 1.048168, 1.123057)),
    wrn_of_moonshine(
        "Conv",
        "Basic",
        (-5.0526501, -5.7833188, 11.855497),
        (1.627583, 2.381349, 3.694021, 6.602234, 8.834146, 13.39549),
        splits=2,
    ),
    Vector(
        "wrn",
        "seed1_wrn_28_10",
        10,
        (0.10023324, -1.1875296, 8.1153932),
        options={"depth": 28, "width": 10.0, "dropout": 0.3},
    ),
    Vector("densenet", "seed1_densenet_bc_100_12", 10, (-0.46402873, -0.18750167, 0.13450207)),
    Vector("densenet_bc_100_12", "seed1_densenet_bc_100_12", 10, (-0.46402873, -0.18750167, 0.13450207)),
    Vector("resnext", "seed1_resnext29_8x64", 10, (-0.65834909, 0.68063465, -1.0989017)),
    Vector("resnext29_8x64d", "seed1_resnext29_8x64", 10, (-0.65834909, 0.68063465, -1.0989017)),
    Vector("preresnet", "seed1_preresnet110", 10, (1034.5904, -191.07757, -596.70822)),
    Vector("preresnet164", "seed1_preresnet110", 10, (1034.5904, -191.07757, -596.70822)),
    Vector("lenet", "seed2_LeNet", 10, (-1.4422049, 0.25757789, -2.1234693)),
    Vector("mlp", "seed1_mnist_student", 10, (-1.094523, -1.541997, -2.5837406), image=(1, 28)),
    Vector("mlp_1200", "seed1_mnist_teacher", 10, (-0.84094344, 2.5024948, -0.69523918), image=(1, 28)),
    Vector("mlp_800", "seed1_mnist_student", 10, (-1.094523, -1.541997, -2.5837406), image=(1, 28)),
    Vector("mlp_128", "seed2_MLP", 10, (), image=(1, 28)),  # the original has dropout in evaluation
]
WITH_LOGITS = [vector for vector in VECTORS if vector.logits]
WITH_FEATURES = [vector for vector in VECTORS if vector.features]  # not every original returns them
WITH_PREACTS = [vector for vector in VECTORS if vector.preacts]
WITHOUT_VECTOR = {
    # Their parameter counts are checked, and other networks of the same classes have vectors.
    *("resnet101", "resnet152", "preresnet20", "preresnet56", "preresnet110"),
    *("multi_exit_resnet18", "multi_exit_resnet50"),  # see test_multi_exit_resnet.py
    *("peers", "simkd"),  # combinations of other networks
}
AGAINST_TORCHVISION = {"resnet18_imagenet", "resnet34_imagenet"}

NUM_PARAMETERS = [
    ("cnn", 10, 357_514),
    ("resnet18", 10, 11_173_962),
    ("resnet34", 10, 21_282_122),
    ("peers", 100, 2 * 278_324),
    # A resnet8x4, and convolutions of 256 x 128, 128 x 128 x 9 and 128 x 256 with their batch norms.
    ("simkd", 100, 1_233_540 + 32_768 + 147_456 + 32_768 + 2 * (128 + 128 + 256)),
    ("resnet50", 10, 23_520_842),
    ("resnet101", 10, 42_512_970),
    ("resnet152", 10, 58_156_618),
    ("resnet18_imagenet", 1000, 11_689_512),
    ("resnet34_imagenet", 1000, 21_797_672),
    ("resnet18", 100, 11_220_132),
    ("resnet50", 100, 23_705_252),
    ("resnet8", 100, 83_892),
    ("resnet14", 100, 181_108),
    ("resnet20", 100, 278_324),
    ("resnet32", 100, 472_756),
    ("resnet44", 100, 667_188),
    ("resnet56", 100, 861_620),
    ("resnet110", 100, 1_736_564),
    ("resnet20_stem7", 100, 280_244),
    ("resnet110_stem7", 100, 1_738_484),
    ("resnet8x4", 100, 1_233_540),
    ("resnet32x4", 100, 7_433_860),
    ("multi_exit_resnet18", 100, 13_011_152),
    ("multi_exit_resnet50", 100, 50_430_928),
    ("wrn", 100, 2_255_156),
    ("wrn_16_1", 100, 180_916),
    ("wrn_16_2", 100, 703_284),
    ("wrn_40_1", 100, 569_780),
    ("wrn_40_2", 100, 2_255_156),
    ("vgg8", 100, 3_965_028),
    ("vgg11", 100, 9_277_284),
    ("vgg13", 100, 9_462_180),
    ("vgg16", 100, 14_774_436),
    ("vgg19", 100, 20_086_692),
    ("mobilenetv2", 100, 812_836),
    ("shufflev1", 100, 949_258),
    ("shufflev2", 100, 1_355_528),
    ("densenet", 10, 769_162),
    ("densenet_bc_100_12", 10, 769_162),
    ("resnext", 10, 34_426_698),
    ("resnext29_8x64d", 10, 34_426_698),
    ("preresnet", 10, 1_703_258),
    ("preresnet164", 10, 1_703_258),
    ("preresnet20", 10, 272_282),  # these three by hand: 97,216 n - 19,366 for n basic blocks a stage
    ("preresnet56", 10, 855_578),
    ("preresnet110", 10, 1_730_522),
    ("lenet", 10, 62_006),
]
NUM_PARAMETERS_ON_MNIST = [("mlp", 1_276_810), ("mlp_1200", 2_395_210), ("mlp_800", 1_276_810), ("mlp_128", 118_282)]

# The first stage's input (with VGG: before its pool), as the mean of absolute values.
STEMS = {
    "zoo_resnet8": 0.4620321,
    "zoo_resnet110": 0.4620321,
    "zoo_resnet8x4": 0.3768442,
    "zoo_resnet32x4": 0.3768442,
    "zoo_ResNet50": 0.4038163,
    "zoo_wrn_16_1": 1.08378,
    "zoo_wrn_40_2": 1.08378,
    "zoo_vgg8": 0.3998685,
    "zoo_vgg11": 0.3998685,
    "zoo_vgg13": 0.3271561,
    "zoo_vgg16": 0.3271561,
    "zoo_vgg19": 0.3271561,
    "zoo_MobileNetV2": 0.4633238,
    "zoo_ShuffleV1": 0.4566283,
    "zoo_ShuffleV2": 0.4566283,
    "seed5_resnet_32_20": 0.3940678,
    "seed5_resnet_32_110": 0.3940678,
}


def file_of(vector: Vector) -> str:
    return vector.file


def listing(file: str) -> list[tuple[str, tuple[int, ...]]]:
    lines = (Path(__file__).parent / "state_dicts" / f"{file}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return [(key, () if shape == "scalar" else tuple(map(int, shape.split("x")))) for key, shape in pairs]


def drawn_weights(file: str) -> dict[str, Tensor]:
    random = np.random.RandomState(0)
    weights = {}
    for key, shape in listing(file):
        kind = key.rpartition(".")[2]
        if kind == "num_batches_tracked":
            weights[key] = torch.tensor(0)
        elif kind in ("running_mean", "bias"):
            weights[key] = torch.from_numpy(0.1 * random.standard_normal(shape))
        elif kind == "running_var":
            weights[key] = torch.from_numpy(0.5 + random.random_sample(shape))
        elif len(shape) == 1:
            weights[key] = torch.from_numpy(0.5 + 0.5 * random.random_sample(shape))
        else:
            weights[key] = torch.from_numpy(random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])))
    return weights


def empty_net(name: str, *sizes: int, **options: Any) -> nn.Module:
    with torch.device("meta"):
        net: nn.Module = NETS.build(name, *sizes, **options)
    return net


def original(vector: Vector) -> nn.Module:
    has_image_size = "image_size" in signature(NETS[vector.name]).parameters
    sizes = vector.image if has_image_size else vector.image[:1]
    return empty_net(vector.name, vector.num_classes, *sizes, **dict(vector.options))


def mean_abs(tensors: tuple[Tensor, ...]) -> list[float]:
    return [tensor.abs().mean().item() for tensor in tensors]


@pytest.fixture(scope="module", params=VECTORS, ids=file_of)
def vector(request: pytest.FixtureRequest) -> Vector:
    vector: Vector = request.param
    return vector


@pytest.fixture(scope="module")
def output(vector: Vector) -> Output:
    net = original(vector).eval()
    weights = drawn_weights(vector.file)
    net.load_state_dict({key: weights[vector.original_name(key)] for key in net.state_dict()}, assign=True)
    channels, size = vector.image
    images = torch.from_numpy(np.random.RandomState(1).standard_normal((2, channels, size, size)))
    with torch.no_grad():
        output: Output = net(images)
    return output


def test_state_dict_has_the_originals_names_shapes_and_order(vector: Vector) -> None:
    state_dict = original(vector).state_dict()
    ours = [(vector.original_name(key), tuple(value.shape)) for key, value in state_dict.items()]
    assert ours == listing(vector.file)


@pytest.mark.parametrize("vector", WITH_LOGITS, indirect=True, ids=file_of)
def test_logits_equal_the_originals(vector: Vector, output: Output) -> None:
    tolerance = 1e-6 * output.logits.abs().max().item()
    assert output.logits[0, :3].tolist() == pytest.approx(vector.logits, rel=0, abs=tolerance)


@pytest.mark.parametrize("vector", WITH_FEATURES, indirect=True, ids=file_of)
def test_features_equal_the_originals(vector: Vector, output: Output) -> None:
    has_embedding = len(vector.features) > len(output.maps)
    features = (*output.maps, output.embedding) if has_embedding else output.maps
    assert mean_abs(features) == pytest.approx(vector.features, rel=1e-6)


@pytest.mark.parametrize("vector", WITH_PREACTS, indirect=True, ids=file_of)
def test_preacts_equal_the_originals(vector: Vector, output: Output) -> None:
    assert mean_abs(output.preacts) == pytest.approx(vector.preacts, rel=1e-6)


@pytest.mark.parametrize(("name", "num_classes", "expected"), NUM_PARAMETERS)
def test_parameter_count_is_the_published_one(name: str, num_classes: int, expected: int) -> None:
    parameters = empty_net(name, num_classes).parameters()
    assert sum(parameter.numel() for parameter in parameters if parameter.requires_grad) == expected


@pytest.mark.parametrize(("name", "expected"), NUM_PARAMETERS_ON_MNIST)
def test_parameter_count_is_the_published_one_on_mnist(name: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in empty_net(name, 10, 1, 28).parameters()) == expected


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.file in STEMS], indirect=True, ids=file_of)
def test_stem_equals_the_originals(vector: Vector, output: Output) -> None:
    assert output.stem is not None
    assert output.stem.abs().mean().item() == pytest.approx(STEMS[vector.file], rel=1e-6)


def test_every_network_has_a_vector_or_is_listed_without() -> None:
    assert {vector.name for vector in VECTORS} | WITHOUT_VECTOR | AGAINST_TORCHVISION == set(NETS.names())


def test_every_network_has_a_published_parameter_count() -> None:
    counted = {name for name, _, _ in NUM_PARAMETERS} | {name for name, _ in NUM_PARAMETERS_ON_MNIST}
    assert counted == set(NETS.names())
