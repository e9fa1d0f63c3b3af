"""Every variable of a TensorFlow checkpoint as an .npz file: python checkpoint_to_npz.py CHECKPOINT OUT.npz

Run by lib/networks/slim.py in an environment that has TensorFlow; nothing else of this project imports it.
"""

import sys

import numpy as np
import tensorflow as tf

reader = tf.train.load_checkpoint(sys.argv[1])
np.savez(sys.argv[2], **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
