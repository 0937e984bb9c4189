"""The Xception step on v5e:2x4, against Keras 3 on JAX through the same libtpu; no TPU needed.

    pip install 'lightning_melanoma[estimate]' 'keras>=3.13'
    python benchmarks/tpu_step.py

Ours is `conf/experiment/xception.yaml` with AdamW, no clipping: uint8 images, augmented in the
step. Keras's is keras.applications.Xception with mixed_bfloat16 and AdamW on float32 images, not
augmented. Each is traced and compiled in a process of its own. Bytes are the compiler's estimate.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lightning_melanoma.estimate import run_estimate
from lightning_melanoma.xla.ahead_of_time import compiler_environment, topology_devices

_CONFIG = Path(__file__).parent.parent / "conf" / "experiment" / "xception.yaml"
_PACKAGES = ("torch", "torch_xla", "libtpu", "jax", "keras")


def keras_step(topology: str, batch_size: int, image_size: int) -> dict[str, float]:
    """Compile Keras's training step and return what the compiler says of one chip."""
    import jax
    import keras
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    base = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(image_size, image_size, 3), pooling="avg"
    )
    head = keras.layers.Dense(1, dtype="float32")(keras.layers.Dropout(0.2)(base.output))
    model = keras.Model(base.input, head)
    optimizer = keras.optimizers.AdamW(5e-4, weight_decay=0.05)
    optimizer.build(model.trainable_variables)

    def loss_of(trained, rest, images, targets):
        logits, rest = model.stateless_call(trained, rest, images, training=True)
        losses = keras.losses.binary_crossentropy(targets, logits, from_logits=True)
        return losses.mean(), rest

    def step(trained, rest, state, images, targets):
        found = jax.value_and_grad(loss_of, has_aux=True)(trained, rest, images, targets)
        (loss, rest), gradients = found
        trained, state = optimizer.stateless_apply(state, gradients, trained)
        return loss, trained, rest, state

    mesh = Mesh(topology_devices(topology), ("data",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def shapes(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=whole) for v in variables]

    batch = [
        jax.ShapeDtypeStruct((batch_size, *shape), "float32", sharding=split)
        for shape in ((image_size, image_size, 3), (1,))
    ]
    arguments = [
        shapes(model.trainable_variables),
        shapes(model.non_trainable_variables),
        shapes(optimizer.variables),
    ]
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*arguments, *batch).compile()
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "flops_per_chip": costs["flops"],
        "bytes_per_chip": costs["bytes accessed"],
        "argument_bytes_per_chip": memory.argument_size_in_bytes,
        "temp_bytes_per_chip": memory.temp_size_in_bytes,
    }


def ours(topology: str, batch_size: int, image_size: int, augment: str) -> dict[str, float]:
    """Compile our step and return what the compiler says of one chip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "estimate.json"
        words = [
            *("-c", str(_CONFIG)),
            *("--data.batch_size", str(batch_size)),
            *("--data.image_size", str(image_size)),
            *("--model.augment", augment),
            *("--trainer.gradient_clip_val", "null"),
            *("--topology", topology, "--skip_largest", "--json", str(path)),
        ]
        run_estimate(words)
        return json.loads(path.read_text())[0]


def keras_in_own_process(topology: str, batch_size: int, image_size: int) -> dict[str, float]:
    """Run `keras_step` where the compiler's environment is set before anything is imported."""
    words = ["--keras_only", "--topology", topology]
    words += ["--batch_size", str(batch_size), "--image_size", str(image_size)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env=os.environ | compiler_environment(topology) | {"KERAS_BACKEND": "jax"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--augment", nargs="+", default=["light", "none"])
    parser.add_argument("--keras_only", action="store_true")
    options = parser.parse_args()
    size = options.topology, options.batch_size, options.image_size
    if options.keras_only:
        print(json.dumps(keras_step(*size)))
        return
    rows = {"Keras 3 on JAX": keras_in_own_process(*size)}
    rows |= {f"ours, augment {name}": ours(*size, name) for name in options.augment}
    theirs = rows["Keras 3 on JAX"]
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES))
    print(f"{options.topology}, batch {size[1]}, {size[2]} px; of one chip and step")
    print(f"{'':24}{'GB':>8}{'/ Keras':>9}{'TFLOP':>8}{'/ Keras':>9}{'temp GB':>9}{'args GB':>9}")
    for name, row in rows.items():
        traffic, work = (f"{key}_per_chip" for key in ("bytes", "flops"))
        print(
            f"{name:24}{row[traffic] / 1e9:8.2f}{row[traffic] / theirs[traffic]:9.3f}"
            f"{row[work] / 1e12:8.3f}{row[work] / theirs[work]:9.3f}"
            f"{row['temp_bytes_per_chip'] / 1e9:9.2f}{row['argument_bytes_per_chip'] / 1e9:9.2f}"
        )


if __name__ == "__main__":
    main()
