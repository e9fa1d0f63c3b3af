"""Architectures of weights that were converted from another framework and differ from torchvision's or timm's own.

torchvision and timm take seconds to import, so they are only when one of these networks is asked for.
"""

from torch import nn


def resnet50_stride1(classes: int = 1000) -> nn.Module:
    """torchvision's ResNet-50 with the stride of layer2-4's first blocks on conv1 instead of conv2.

    This is where the original Caffe model of He et al. (2016) has it; torchvision's own is called "V1.5". Same keys.
    """
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=classes)
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return network


def mobilenetv2_same(classes: int = 1000) -> nn.Module:
    """timm's `mobilenetv2_100` with TensorFlow's "same" padding, which depends on the input size. Same keys.

    Sandler et al. (2018).
    """
    import timm

    return timm.create_model("mobilenetv2_100", pretrained=False, num_classes=classes, pad_type="same")
