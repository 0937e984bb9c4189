"""``tf.train.Example`` to plain fields and back, by the message class of the `tfrecord` package.

The records of this field hold scalars only: each feature is one bytes, one int64 or one float
value.
"""

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from tfrecord import example_pb2

Value = bytes | int | float


def parse_example(payload: bytes) -> dict[str, Value]:
    """Return the fields of a serialised ``tf.train.Example``, each of the type it was stored in.

    A feature without a value is left out, as if it were not there.

    Raises:
        ValueError: the bytes are no ``tf.train.Example``, or a feature holds several values.
    """
    try:
        features = example_pb2.Example.FromString(payload).features.feature
    except DecodeError as error:
        raise ValueError(f"expected a tf.train.Example, found other bytes ({error})") from error
    fields: dict[str, Value] = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else ()
        if len(values) > 1:
            raise ValueError(f"field {name}: expected one value, found {len(values)}")
        if values:
            fields[name] = values[0]
    return fields


def plain_fields(fields: Mapping[str, Value]) -> dict[str, int | float | str]:
    """Return all fields but ``image`` as a table has them: text or numbers, ``image_name`` as text.

    Bytes that are no UTF-8 become text as well, each in hexadecimal: other bytes, other text.
    """
    plain = {
        name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        for name, value in fields.items()
        if name != "image"
    }
    # A number names an image as well as text does; a CSV has it as text.
    return plain | {"image_name": str(plain["image_name"])} if "image_name" in plain else plain


def serialize_example(fields: Mapping[str, Value | str]) -> bytes:
    """Return the serialised ``tf.train.Example`` of `fields`; text becomes UTF-8 bytes.

    Fields are written in alphabetical order, so equal fields give equal bytes.

    Raises:
        TypeError: a value is neither bytes, text, int nor float.
    """
    example = example_pb2.Example()
    for name in sorted(fields):
        value = fields[name]
        feature = example.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        elif isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            raise TypeError(
                f"field {name}: expected bytes, str, int or float, found {type(value).__name__}"
            )
    return bytes(example.SerializeToString(deterministic=True))
