"""Bytes to records to examples: storage, framing, ``tf.train.Example``, index. No torch."""
