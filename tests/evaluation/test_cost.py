"""The cost of networks, compared with published counts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import OptionError
from model.evaluation.cost import Cost, cost
from model.registry import NETS
from model.types import Output

# Wide residual networks of 10 classes with each of pytorch-moonshine's convolutions: parameters and millions of MACs of
# WRN-40-2, WRN-16-2, WRN-40-1 and WRN-16-1; then the parameters of WRN-40-2 of 100 classes. None: that code crashes.
SIZES = ((40, 2.0), (16, 2.0), (40, 1.0), (16, 1.0))
Counts = tuple[int, float] | None
MOONSHINE: dict[str, tuple[Counts, Counts, Counts, Counts, int | None]] = {
    "Conv": ((2_243_546, 327.6), (691_674, 101.1), (563_930, 83.3), (175_066, 26.7), 2_255_156),
    "Conv2x2": ((1_007_066, 146.7), (315_354, 46.1), (254_170, 37.4), (80_346, 12.2), 1_018_676),
    "ConvB2": ((856_538, 125.5), (290_266, 43.7), (217_434, 31.6), (74_074, 11.2), 868_148),
    "ConvB4": ((292_058, 42.5), (103_898, 15.8), (75_610, 10.9), (27_226, 4.2), 303_668),
    "ConvB8": ((118_682, 17.0), (47_002, 7.1), (31_914, 4.5), (12_874, 2.0), 130_292),
    "ConvB16": ((59_210, 8.2), (27_626, 4.1), (16_870, 2.2), (7_966, 1.2), 70_820),
    "DConv": ((293_514, 44.1), (98_186, 14.8), (82_570, 12.9), (27_914, 4.6), 305_124),
    "DConvG2": ((316_698, 50.1), (105_242, 16.6), (94_234, 16.0), (31_514, 5.5), 328_308),
    "DConvG4": ((363_066, 61.9), (119_354, 20.3), (117_562, 22.0), (38_714, 7.5), 374_676),
    "DConvG8": ((455_802, 85.7), (147_578, 27.5), (164_218, 34.2), (53_114, 11.4), 467_412),
    "DConvG16": ((641_274, 133.2), (204_026, 41.9), (257_530, 58.5), (81_914, 19.2), 652_884),
    "DConvA2": ((1_358_970, 197.4), (405_626, 59.0), (343_930, 50.6), (103_802, 16.0), 1_370_580),
    "DConvA4": ((814_650, 117.8), (248_378, 36.0), (207_418, 30.2), (64_058, 9.8), 826_260),
    "DConvA8": ((542_490, 78.0), (169_754, 24.5), (139_162, 20.1), (44_186, 6.7), 554_100),
    "DConvA16": ((406_410, 58.1), (130_442, 18.8), (105_034, 15.0), (34_250, 5.1), 418_020),
    "DConvB2": ((288_026, 43.6), (100_762, 16.4), (78_330, 12.0), (27_706, 4.6), 299_636),
    "DConvB4": ((152_954, 22.8), (57_530, 9.2), (42_346, 6.3), (16_138, 2.7), 164_564),
    "DConvB8": ((85_418, 12.4), (35_914, 5.6), (24_354, 3.5), (10_354, 1.7), 97_028),
    "DConvB16": ((51_650, 7.2), (25_106, 3.8), (15_358, 2.1), (7_462, 1.2), 63_260),
    "DConv3D": ((54_282, 116.5), (25_610, 36.9), (24_650, 31.3), (10_314, 10.3), 65_892),
    "G2B2": ((300_122, 46.7), (104_794, 17.5), (84_378, 13.5), (29_722, 5.1), 311_732),
    "G4B2": ((324_314, 52.9), (112_858, 19.5), (96_474, 16.6), (33_754, 6.2), 335_924),
    "G8B2": ((372_698, 65.3), (128_986, 23.6), (120_666, 22.8), (41_818, 8.2), 384_308),
    "G16B2": ((469_466, 90.1), (161_242, 31.9), None, None, 481_076),
    "G2B4": ((159_002, 24.4), (59_546, 9.7), (45_370, 7.1), (17_146, 2.9), 170_612),
    "G4B4": ((171_098, 27.5), (63_578, 10.8), (51_418, 8.7), (19_162, 3.4), 182_708),
    "G8B4": ((195_290, 33.7), (71_642, 12.8), None, None, 206_900),
    "G16B4": (None, None, None, None, None),
    "A2B2": ((566_234, 83.0), (193_498, 29.5), (144_858, 21.0), (49_882, 7.7), 577_844),
    "A4B2": ((421_082, 61.8), (145_114, 22.5), (108_570, 15.7), (37_786, 5.9), 432_692),
    "A8B2": ((348_506, 51.2), (120_922, 18.9), (90_426, 13.1), (31_738, 5.0), 360_116),
    "A16B2": ((312_218, 45.9), (108_826, 17.2), None, None, 323_828),
}
CASES = [
    pytest.param(conv, size, counts, id=f"{conv}-{size[0]}-{size[1]:.0f}")
    for conv, (*row, _) in MOONSHINE.items()
    for size, counts in zip(SIZES, row, strict=True)
]


def meta_net(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    with torch.device("meta"):
        net: nn.Module = NETS.build(name, num_classes, **options)
    return net


def parameters_of(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("conv", "size", "counts"), [case for case in CASES if case.values[2] is not None])
def test_a_wide_resnet_costs_what_moonshine_counts(
    conv: str, size: tuple[int, float], counts: tuple[int, float]
) -> None:
    depth, width = size
    counted = cost(NETS.build("wrn", 10, depth=depth, width=width, conv=conv), (3, 32, 32))
    assert (counted.parameters, round(counted.macs / 1e6, 1)) == counts


@pytest.mark.parametrize("conv", [conv for conv, row in MOONSHINE.items() if row[-1] is not None])
def test_a_wide_resnet_of_100_classes_has_the_parameters_that_moonshine_counts(conv: str) -> None:
    assert parameters_of(meta_net("wrn", 100, depth=40, width=2.0, conv=conv)) == MOONSHINE[conv][-1]


@pytest.mark.parametrize(("conv", "size", "counts"), [case for case in CASES if case.values[2] is None])
def test_a_network_that_moonshine_cannot_build_is_refused(conv: str, size: tuple[int, float], counts: None) -> None:
    depth, width = size
    with pytest.raises(OptionError, match=f"conv {conv} cannot have 16 input and .*possible: "):
        meta_net("wrn", depth=depth, width=width, conv=conv)


@pytest.mark.parametrize(
    ("block", "conv", "parameters"),
    [("Bottle", "Conv", 1_079_642), ("Bottle", "G8B2", 189_914), ("Old", "Conv", 2_244_218), ("Old", "G8B2", 373_370)],
)
def test_other_blocks_have_the_parameters_that_moonshine_counts(block: str, conv: str, parameters: int) -> None:
    assert parameters_of(meta_net("wrn", block=block, conv=conv)) == parameters


def test_macs_are_exact() -> None:
    assert cost(meta_net("wrn_40_2"), (3, 32, 32)).macs == 327_599_360


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet8", 12.5),
        ("resnet14", 26.7),
        ("resnet20", 40.8),
        ("resnet32", 69.1),
        ("resnet44", 97.4),
        ("resnet56", 125.8),
        ("resnet110", 253.2),
        ("resnet8x4", 177.1),
        ("resnet32x4", 1083.0),
        ("wrn_16_1", 26.7),
        ("wrn_16_2", 101.1),
        ("wrn_40_1", 83.3),
        ("wrn_40_2", 327.6),
        ("resnet50", 1298.0),
        ("vgg8", 96.2),
        ("vgg11", 209.4),
        ("vgg13", 284.9),
        ("vgg16", 398.2),
        ("vgg19", 511.4),
        ("mobilenetv2", 6.5),
        ("shufflev1", 38.7),
        ("shufflev2", 44.5),
        ("resnet20_stem7", 32.8),
        ("resnet110_stem7", 195.3),
    ],
)
def test_macs_of_the_zoo_are_the_published_ones(name: str, millions: float) -> None:
    assert round(cost(meta_net(name, 100), (3, 32, 32)).macs / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "billions"), [("resnet18_imagenet", 1.814), ("resnet34_imagenet", 3.664)])
def test_macs_of_imagenet_networks_are_torchvision_s(name: str, billions: float) -> None:
    assert round(cost(meta_net(name, 1000), (3, 224, 224)).macs / 1e9, 3) == billions


class Layers(nn.Module):
    """One layer of each kind that is counted, and some that are not; the linear layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv2d(3, 8, kernel_size=(3, 1), stride=2, groups=1)
        self.norm, self.dropout = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.grouped = nn.Conv2d(8, 8, kernel_size=3, padding=1, groups=4)
        self.line = nn.Conv1d(8, 2, kernel_size=5)
        self.volume = nn.Conv3d(1, 2, kernel_size=(3, 1, 1))
        self.linear = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Output:
        map_NCHW = self.grouped(self.dropout(F.relu(self.norm(self.flat(images)))))
        lines, volume = self.line(map_NCHW.flatten(2)), self.volume(map_NCHW[:, None])
        logits = self.linear(self.linear(F.adaptive_avg_pool1d(lines, 2).flatten(1) + volume.mean()))
        return Output(logits, logits)


MACS_OF_LAYERS = (
    8 * 4 * 5 * 9  # 8 channels of 4x5 positions, each of which has 3 channels x 3 weights
    + 8 * 4 * 5 * 18  # 2 channels a group x 9 weights
    + 2 * 16 * 40  # 20 positions less 4, 8 channels x 5 weights
    + 2 * 6 * 20 * 3  # 8 channels less 2, 20 positions, 3 weights
    + 2 * 4 * 4
)


def test_every_kind_of_layer_is_counted_with_its_groups_and_strides() -> None:
    parameters = 8 * 9 + 8 + 16 + 8 * 18 + 8 + 2 * 40 + 2 + 2 * 3 + 2 + 16 + 4
    assert cost(Layers(), (3, 9, 10)) == (parameters, MACS_OF_LAYERS)


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(training: bool) -> None:
    net = Layers().train(training)
    before = copy.deepcopy(net.state_dict())
    cost(net, (3, 9, 10))
    assert net.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_frozen_parameters_are_counted() -> None:
    net = Layers()
    assert cost(copy.deepcopy(net).requires_grad_(False), (3, 9, 10)) == cost(net, (3, 9, 10))


def test_a_cost_is_written_in_words() -> None:
    assert str(Cost(2_243_546, 327_599_360)) == "2,243,546 parameters, 327,599,360 multiply-accumulates an image"
