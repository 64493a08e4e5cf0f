"""Networks, one file an architecture. Importing this package registers them: a new one is a file and a name here."""

from . import (
    cnn,
    densenet,
    external,
    lenet,
    mlp,
    mobilenetv2,
    multi_exit_resnet,
    peers,
    preresnet,
    resnet,
    resnet_cifar,
    resnet_imagenet,
    resnet_stem7,
    resnext,
    shufflev1,
    shufflev2,
    simkd,
    vgg,
    wrn,
)
