"""Networks, one file an architecture. Importing this package imports every file below, which registers it in NETS."""

from model.nets import cnn as cnn
from model.nets import densenet as densenet
from model.nets import external as external
from model.nets import lenet as lenet
from model.nets import mlp as mlp
from model.nets import mobilenetv2 as mobilenetv2
from model.nets import multi_exit_resnet as multi_exit_resnet
from model.nets import peers as peers
from model.nets import preresnet as preresnet
from model.nets import resnet as resnet
from model.nets import resnet_cifar as resnet_cifar
from model.nets import resnet_imagenet as resnet_imagenet
from model.nets import resnet_stem7 as resnet_stem7
from model.nets import resnext as resnext
from model.nets import shufflev1 as shufflev1
from model.nets import shufflev2 as shufflev2
from model.nets import simkd as simkd
from model.nets import vgg as vgg
from model.nets import wrn as wrn
