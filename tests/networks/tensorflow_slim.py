"""TF-Slim's networks with made-up numbers, computed by TensorFlow: the truth that test_slim.py compares with.

    uv run --no-project --isolated --with tensorflow-cpu==2.21.0 python tests/networks/tensorflow_slim.py FOLDER

writes of each network a checkpoint as those released, FOLDER/NAME.tar.gz, and FOLDER/tensorflow_slim.npz: the shapes of
its variables and TensorFlow's logits. That file is committed beside this one. Written with tf.nn alone, apart from lib,
from the definitions in tensorflow/models, research/slim/nets/resnet_v2.py, resnet_utils.py and inception_v3.py.
"""

import json
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

CLASSES = 1001
SIDES = {"resnet_v2_152": (299, 64), "ens3_adv_inception_v3": (299,)}  # of the images; 64 is even before every stride


def made_up(name, shape):
    """The variable of this name: the same numbers everywhere, such that activations neither vanish nor grow."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rsplit("/", 1)[1]
    if kind == "weights":
        gain = 0.3 if "conv3" in name else 1.4 if "logits" not in name.lower() else 0.1
        return draw.uniform(-1, 1, shape).astype(np.float32) * np.float32(gain * (3 / np.prod(shape[:3])) ** 0.5)
    low, high = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 1.5)}.get(kind, (-0.3, 0.3))
    return draw.uniform(low, high, shape).astype(np.float32)


def images(side):
    """One image `[1,side,side,3]`, scaled to [-1,1]."""
    return np.random.RandomState(side).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)


class Slim:
    """The layers of TF-Slim; keeps the variables that they ask for."""

    def __init__(self, epsilon, scale):
        import tensorflow as tf

        self.tf, self.epsilon, self.scale, self.variables = tf, epsilon, scale, {}

    def variable(self, name, *shape):
        self.variables.setdefault(name, made_up(name, shape))
        return self.variables[name]

    def norm(self, x, scope):
        channels = x.shape[-1]
        gamma = self.variable(f"{scope}/gamma", channels) if self.scale else np.ones(channels, np.float32)
        beta, mean, variance = (
            self.variable(f"{scope}/{part}", channels) for part in ("beta", "moving_mean", "moving_variance")
        )
        x, *_ = self.tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, epsilon=self.epsilon, is_training=False
        )
        return self.tf.nn.relu(x)

    def conv(self, x, outputs, kernel, scope, stride=1, padding="SAME", norm=True):
        weights = self.variable(f"{scope}/weights", *kernel, x.shape[-1], outputs)
        x = self.tf.nn.conv2d(x, weights, stride, padding)
        return self.norm(x, f"{scope}/BatchNorm") if norm else x + self.variable(f"{scope}/biases", outputs)

    def conv_same(self, x, outputs, size, stride, scope, norm=True):
        """TF-Slim's conv2d_same: where it strides, the padding does not depend on the image's size."""
        if stride == 1:
            return self.conv(x, outputs, (size, size), scope, norm=norm)
        before = (size - 1) // 2
        around = (before, size - 1 - before)
        x = self.tf.pad(x, [(0, 0), around, around, (0, 0)])
        return self.conv(x, outputs, (size, size), scope, stride, "VALID", norm)


def resnet_v2_152(x):
    """Logits of images `[B,H,W,3]`, and the variables."""
    slim, root = Slim(1e-5, scale=True), "resnet_v2_152"
    x = slim.conv_same(x, 64, 7, 2, f"{root}/conv1", norm=False)
    x = slim.tf.nn.max_pool2d(x, 3, 2, "SAME")
    for block, (width, units, last) in enumerate(((64, 3, 2), (128, 8, 2), (256, 36, 2), (512, 3, 1)), 1):
        for unit in range(1, units + 1):
            stride, scope = last if unit == units else 1, f"{root}/block{block}/unit_{unit}/bottleneck_v2"
            preact = slim.norm(x, f"{scope}/preact")
            if x.shape[-1] == 4 * width:
                shortcut = slim.tf.nn.max_pool2d(x, 1, stride, "SAME") if stride > 1 else x
            else:
                shortcut = slim.conv(preact, 4 * width, (1, 1), f"{scope}/shortcut", stride, norm=False)
            inner = slim.conv(preact, width, (1, 1), f"{scope}/conv1")
            inner = slim.conv_same(inner, width, 3, stride, f"{scope}/conv2")
            x = shortcut + slim.conv(inner, 4 * width, (1, 1), f"{scope}/conv3", norm=False)
    x = slim.tf.reduce_mean(slim.norm(x, f"{root}/postnorm"), (1, 2), keepdims=True)
    return slim.conv(x, CLASSES, (1, 1), f"{root}/logits", norm=False)[:, 0, 0], slim.variables


def ens3_adv_inception_v3(x):
    """Logits of images `[B,H,W,3]`, and the variables, also those of the head that only training uses."""
    slim = Slim(1e-3, scale=False)
    tf = slim.tf

    def conv(x, outputs, name, *, kernel=None, stride=1, padding="SAME"):
        """kernel: where the name says another one."""
        kernel = kernel or tuple(int(size) for size in name.rsplit("_", 1)[1].split("x"))
        return slim.conv(x, outputs, kernel, f"InceptionV3/{name}", stride, padding)

    def pool(x, block, outputs):
        return conv(tf.nn.avg_pool2d(x, 3, 1, "SAME"), outputs, f"{block}/Branch_3/Conv2d_0b_1x1")

    def reduced(x):
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    last = {"stride": 2, "padding": "VALID"}
    x = conv(x, 32, "Conv2d_1a_3x3", **last)
    x = conv(conv(x, 32, "Conv2d_2a_3x3", padding="VALID"), 64, "Conv2d_2b_3x3")
    x = conv(reduced(x), 80, "Conv2d_3b_1x1", padding="VALID")
    x = reduced(conv(x, 192, "Conv2d_4a_3x3", padding="VALID"))
    # The names of Mixed_5c are irregular in the released files, too.
    for block, one, five, outputs in (
        ("Mixed_5b", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 32),
        ("Mixed_5c", "Conv2d_0b_1x1", "Conv_1_0c_5x5", 64),
        ("Mixed_5d", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 64),
    ):
        first = conv(x, 64, f"{block}/Branch_0/Conv2d_0a_1x1")
        second = conv(conv(x, 48, f"{block}/Branch_1/{one}"), 64, f"{block}/Branch_1/{five}")
        third = conv(conv(x, 64, f"{block}/Branch_2/Conv2d_0a_1x1"), 96, f"{block}/Branch_2/Conv2d_0b_3x3")
        third = conv(third, 96, f"{block}/Branch_2/Conv2d_0c_3x3")
        x = tf.concat([first, second, third, pool(x, block, outputs)], 3)
    block = "Mixed_6a"
    first = conv(x, 384, f"{block}/Branch_0/Conv2d_1a_1x1", kernel=(3, 3), **last)
    second = conv(conv(x, 64, f"{block}/Branch_1/Conv2d_0a_1x1"), 96, f"{block}/Branch_1/Conv2d_0b_3x3")
    second = conv(second, 96, f"{block}/Branch_1/Conv2d_1a_1x1", kernel=(3, 3), **last)
    x = tf.concat([first, second, reduced(x)], 3)
    for block, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        first = conv(x, 192, f"{block}/Branch_0/Conv2d_0a_1x1")
        second, third = x, x
        for name, outputs in (("0a_1x1", width), ("0b_1x7", width), ("0c_7x1", 192)):
            second = conv(second, outputs, f"{block}/Branch_1/Conv2d_{name}")
        for name, outputs in (
            ("0a_1x1", width),
            ("0b_7x1", width),
            ("0c_1x7", width),
            ("0d_7x1", width),
            ("0e_1x7", 192),
        ):
            third = conv(third, outputs, f"{block}/Branch_2/Conv2d_{name}")
        x = tf.concat([first, second, third, pool(x, block, 192)], 3)
    for name, *shape in (
        ("Conv2d_1b_1x1", 1, 1, 768, 128), ("Conv2d_2a_5x5", 5, 5, 128, 768), ("Conv2d_2b_1x1", 1, 1, 768, CLASSES)
    ):  # fmt: skip
        slim.variable(f"InceptionV3/AuxLogits/{name}/weights", *shape)
        for part in ("biases",) if name.startswith("Conv2d_2b") else (
            "BatchNorm/beta", "BatchNorm/moving_mean", "BatchNorm/moving_variance"
        ):  # fmt: skip
            slim.variable(f"InceptionV3/AuxLogits/{name}/{part}", shape[-1])
    block = "Mixed_7a"
    first = conv(conv(x, 192, f"{block}/Branch_0/Conv2d_0a_1x1"), 320, f"{block}/Branch_0/Conv2d_1a_3x3", **last)
    second = x
    for name in ("0a_1x1", "0b_1x7", "0c_7x1"):
        second = conv(second, 192, f"{block}/Branch_1/Conv2d_{name}")
    x = tf.concat([first, conv(second, 192, f"{block}/Branch_1/Conv2d_1a_3x3", **last), reduced(x)], 3)
    for block, tall in (("Mixed_7b", "0b_3x1"), ("Mixed_7c", "0c_3x1")):
        first = conv(x, 320, f"{block}/Branch_0/Conv2d_0a_1x1")
        second = conv(x, 384, f"{block}/Branch_1/Conv2d_0a_1x1")
        second = [conv(second, 384, f"{block}/Branch_1/Conv2d_{name}") for name in ("0b_1x3", tall)]
        third = conv(conv(x, 448, f"{block}/Branch_2/Conv2d_0a_1x1"), 384, f"{block}/Branch_2/Conv2d_0b_3x3")
        third = [conv(third, 384, f"{block}/Branch_2/Conv2d_{name}") for name in ("0c_1x3", "0d_3x1")]
        x = tf.concat([first, *second, *third, pool(x, block, 192)], 3)
    x = tf.nn.avg_pool2d(x, 8, 1, "VALID")
    return slim.conv(x, CLASSES, (1, 1), "InceptionV3/Logits/Conv2d_1c_1x1", norm=False)[:, 0, 0], slim.variables


def write(network, folder):
    """The network's checkpoint, in TensorFlow's old format as the released ResNet's or in its new one; what is known
    of it."""
    import tensorflow as tf

    name, v1, known = network.__name__, tf.compat.v1, {}
    for side in SIDES[name]:
        logits, variables = network(tf.constant(images(side)))
        known[f"{name} {side}"] = logits.numpy()
    known[f"{name} shapes"] = json.dumps({each: value.shape for each, value in variables.items()})
    version = v1.train.SaverDef.V1 if name.startswith("resnet") else v1.train.SaverDef.V2
    with v1.Graph().as_default(), v1.Session() as session:
        for each, value in {**variables, "global_step": np.int64(7)}.items():
            v1.get_variable(each, initializer=value)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(write_version=version).save(session, str(folder / f"{name}.ckpt"), write_meta_graph=False)
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.glob(f"{name}.ckpt*")):
            tar.add(path, path.name)
            path.unlink()
    return known


if __name__ == "__main__":
    place = Path(sys.argv[1])
    np.savez_compressed(
        place / "tensorflow_slim.npz", **write(resnet_v2_152, place), **write(ens3_adv_inception_v3, place)
    )
