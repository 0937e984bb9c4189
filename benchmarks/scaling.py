"""One config on v5e slices of 4 to 256 chips at a fixed batch a chip; no TPU needed.

    python benchmarks/scaling.py -c conf/experiment/xception.yaml --rows 128

Bytes and FLOPs a chip must stay the same within 2 %, and the results of collectives be no more than
1.2 times the bytes of the gradients, whatever the number of chips. All other flags are `fit`'s.
"""

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path

from lightning_melanoma.estimate import EstimateCLI, run_estimate
from lightning_melanoma.xla.chips import check_topology

# Bytes of a gradient's element: parameters are float32.
_FLOAT32 = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    topologies = ["v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"]
    parser.add_argument("--topology", nargs="+", default=topologies)
    parser.add_argument("--rows", type=int, default=128, help="images a chip")
    options, words = parser.parse_known_args()
    network = EstimateCLI(words).model.network
    gradients = _FLOAT32 * sum(parameter.numel() for parameter in network.parameters())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch_xla", "libtpu")]
    print(", ".join(versions), f"; {options.rows} images a chip; of one chip and step")
    print(
        f"{'':12}{'chips':>6}{'GB':>9}{'TFLOP':>9}{'collectives MB':>16}{'/ gradients':>13}", end=""
    )
    print(f"{'bound ms':>10}{'images/s':>12}", flush=True)
    for topology in options.topology:
        batch = options.rows * check_topology(topology)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "estimate.json"
            own = ["--data.batch_size", str(batch), "--topology", topology, "--json", str(path)]
            run_estimate([*words, *own, "--skip_largest"])
            row = json.loads(path.read_text())[0]
        print(
            f"{topology:12}{row['chips']:6}{row['bytes_per_chip'] / 1e9:9.3f}"
            f"{row['flops_per_chip'] / 1e12:9.4f}{row['collective_bytes_per_chip'] / 1e6:16.2f}"
            f"{row['collective_bytes_per_chip'] / gradients:13.2f}{row['bound_ms']:10.2f}"
            f"{row['images_per_second']:12,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
