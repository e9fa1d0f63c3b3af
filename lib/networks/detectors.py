"""Small detectors for 48x48 images on a CPU: torchvision's own RetinaNet and Mask R-CNN over a small trunk.

Stand-ins for the detectors of Table 4 (Mask R-CNN) and Table 7 (RetinaNet). The trunk is the `resnet50` stand-in of
`lib.networks.small`, as ImageNet weights initialise a real detector. Labels are 1 to `classes`.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from lib.networks.small import ARCHITECTURES, MEAN, STD

INPUT_SIDE = 48
CHANNELS = 32  # of the pyramid
# Of the embedded world's objects two in three are 7 to 14 pixels large (root of the box's area), the others 21 to 38.
SIZES = ((9, 12), (25, 32))
RATIOS = ((0.7, 1.4),) * len(SIZES)
# At their own size: neither scaled (min_size, max_size) nor padded (size_divisible; torchvision's 32 would pad to 64).
TRANSFORM = {"min_size": INPUT_SIDE, "max_size": INPUT_SIDE, "size_divisible": 8, "image_mean": MEAN, "image_std": STD}


def pyramid() -> nn.Sequential:
    """Trunk and feature pyramid: normalised images `[B,3,H,W]` -> {"0": 1/4 of the side, "1": 1/8}, CHANNELS each."""
    trunk = IntermediateLayerGetter(ARCHITECTURES["resnet50"](1), {"layer2": "0", "layer3": "1"})
    widths = [layer[-1].last.num_features for layer in (trunk.layer2, trunk.layer3)]
    backbone = nn.Sequential(OrderedDict(trunk=trunk, fpn=FeaturePyramidNetwork(widths, CHANNELS)))
    backbone.out_channels = CHANNELS
    return backbone


def retinanet(classes: int) -> RetinaNet:
    """RetinaNet (Lin et al. 2017) with two convolutions per head where the original has four."""
    backbone, anchors = pyramid(), AnchorGenerator(SIZES, RATIOS)
    head = RetinaNetHead(CHANNELS, anchors.num_anchors_per_location()[0], classes + 1)
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[:2]
        for layer in part.conv:
            # torchvision's deviation of 0.01 is made for 256 channels; with few of them the signal dies out.
            nn.init.kaiming_normal_(layer[0].weight, nonlinearity="relu")
    return RetinaNet(
        backbone, classes + 1, anchor_generator=anchors, head=head, score_thresh=0.05, nms_thresh=0.5,
        detections_per_img=100, topk_candidates=200, **TRANSFORM,
    )  # fmt: skip


def mask_rcnn(classes: int) -> MaskRCNN:
    """Mask R-CNN (He et al. 2017) with two mask convolutions where the original has four, and few proposals."""
    side, width = 5, 128
    return MaskRCNN(
        pyramid(),
        rpn_anchor_generator=AnchorGenerator(SIZES, RATIOS),
        rpn_pre_nms_top_n_train=200, rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=50, rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], side, sampling_ratio=1),
        box_head=TwoMLPHead(CHANNELS * side**2, width),
        box_predictor=FastRCNNPredictor(width, classes + 1),
        box_score_thresh=0.05, box_nms_thresh=0.5, box_detections_per_img=100,
        box_batch_size_per_image=32,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, sampling_ratio=1),
        mask_head=MaskRCNNHeads(CHANNELS, (CHANNELS, CHANNELS), 1),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, classes + 1),
        **TRANSFORM,
    )  # fmt: skip


DETECTORS = {"retinanet": retinanet, "mask_rcnn": mask_rcnn}
