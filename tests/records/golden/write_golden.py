"""Write the golden shards with TensorFlow: `python write_golden.py`, TensorFlow 2.x.

Fields of every kind that the ISIC shards use, an empty record, and one of 70 kB.
"""

from pathlib import Path

import tensorflow as tf


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


EXAMPLES = [
    {"image": b"\xff\xd8\xff pixels", "image_name": b"ISIC_0000000", "target": 0, "sex": -1},
    {"image": b"x" * 70_000, "image_name": "ISIC_é".encode(), "target": 1, "age_approx": 45.5},
]
PAYLOADS = [
    tf.train.Example(
        features=tf.train.Features(feature={name: feature(value) for name, value in fields.items()})
    ).SerializeToString(deterministic=True)
    for fields in EXAMPLES
] + [b""]

here = Path(__file__).parent
for name, compression in (("tensorflow.tfrec", ""), ("tensorflow.gz.tfrec", "GZIP")):
    options = tf.io.TFRecordOptions(compression_type=compression)
    with tf.io.TFRecordWriter(str(here / name), options) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
