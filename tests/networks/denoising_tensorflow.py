"""Writes denoising_tensorflow.npz: what TensorFlow computes for the denoising blocks of Feature Denoising.

    uv run --no-project --python 3.11 --with tensorflow-cpu==2.18.0 tests/networks/denoising_tensorflow.py

The definition of Xie et al. 2019, section 4.2, written with tf.einsum, tf.nn.softmax, tf.nn.conv2d and
tf.nn.batch_normalization in their layout [B,H,W,C]: the weights are the softmax of theta(x_i) . phi(x_j) / sqrt(C/2)
("Gaussian") or theta(x_i) . phi(x_j) / positions ("dot product"), with 1x1 embeddings of half the channels or without.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

HEIGHT, WIDTH, CHANNELS = 5, 4, 6

rng = np.random.default_rng(0)
x = rng.normal(size=(2, HEIGHT, WIDTH, CHANNELS))
weights = {name: rng.normal(size=(1, 1, CHANNELS, CHANNELS // 2)) for name in ("embedding_theta", "embedding_phi")}
weights["conv"] = rng.normal(size=(1, 1, CHANNELS, CHANNELS))
norm = {name: rng.uniform(0.5, 2, CHANNELS) for name in ("gamma", "beta", "mean", "variance")}


def convolved(features, name):
    return tf.nn.conv2d(features, weights[name], strides=1, padding="SAME")


def block(embedded, softmax):
    theta, phi = (convolved(x, f"embedding_{name}") if embedded else tf.constant(x) for name in ("theta", "phi"))
    flat = [tf.reshape(features, [2, HEIGHT * WIDTH, -1]) for features in (theta, phi, x)]
    alike = tf.einsum("nic,njc->nij", flat[0], flat[1])
    share = tf.nn.softmax(alike / np.sqrt(theta.shape[-1]), axis=-1) if softmax else alike / (HEIGHT * WIDTH)
    mean = tf.reshape(tf.einsum("nij,njc->nic", share, flat[2]), x.shape)
    of = (norm["mean"], norm["variance"], norm["beta"], norm["gamma"])
    return x + tf.nn.batch_normalization(convolved(mean, "conv"), *of, variance_epsilon=1e-5)


if __name__ == "__main__":
    results = {f"{e:d}{s:d}": block(e, s).numpy() for e in (False, True) for s in (False, True)}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), x=x, **weights, **norm, **results)
