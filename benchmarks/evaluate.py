"""How long `evaluate` takes, and in how much memory, on a table like that of SIIM-ISIC 2020.

    python benchmarks/evaluate.py

33,126 images of 2,056 patients, 584 of them melanomas, with sex, age, site, source and image size:
every metric with its interval of 2,000 draws, every subgroup, every figure. It must take under 15 s
and 1.5 GB on two cores. The command runs in a process of its own; its start counts.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_melanoma.predictions import prediction_table, write_predictions

NUM_IMAGES, NUM_PATIENTS, NUM_MELANOMAS = 33_126, 2_056, 584
SITES = ("torso", "lower extremity", "upper extremity", "head/neck", "palms/soles", "oral/genital")
SITE_SHARES = (0.517, 0.258, 0.153, 0.057, 0.011, 0.004)


def simulated_table(seed: int = 0) -> pd.DataFrame:
    """Return a prediction table: images of a patient are alike, the AUROC is about 0.89."""
    rng = np.random.default_rng(seed)
    who = np.sort(np.r_[:NUM_PATIENTS, rng.integers(0, NUM_PATIENTS, NUM_IMAGES - NUM_PATIENTS)])
    skin = rng.normal(size=NUM_PATIENTS)[who]
    age = np.clip(np.round(rng.normal(49, 14, NUM_PATIENTS) / 5) * 5, 10, 90)[who]
    # The highest of log odds plus Gumbel noise are a draw without replacement.
    chance = 0.5 * skin + 0.03 * age + rng.gumbel(size=NUM_IMAGES)
    targets = np.zeros(NUM_IMAGES, int)
    targets[np.argsort(-chance)[:NUM_MELANOMAS]] = 1
    logits = rng.normal(2.3 * targets + 0.3 * skin - 5.5, 1.5)
    records = {
        "image_name": [f"ISIC_{row:07d}" for row in range(NUM_IMAGES)],
        "patient_id": [f"IP_{patient:07d}" for patient in who],
        "target": targets,
        "sex": rng.choice(["female", "male"], NUM_PATIENTS)[who],
        "age_approx": age,
        "anatom_site_general_challenge": rng.choice(SITES, NUM_IMAGES, p=SITE_SHARES),
        "source": rng.choice(["A", "B", "C"], NUM_PATIENTS)[who],
        "width": rng.choice([640, 1920, 6000], NUM_IMAGES),
        "height": 480,
    }
    return prediction_table(pd.DataFrame(records), logits.astype(np.float32), fold=0)


def main() -> None:
    """Print wall time, processor time and peak memory of one run."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "val.csv"
        write_predictions(simulated_table(), table)
        words = ["evaluate", "--predictions", str(table), "--out", str(Path(folder) / "out")]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lightning_melanoma", *words], check=True)
        wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # ru_maxrss is in KiB on Linux.
    print(
        f"{wall:.1f} s, of processors {used.ru_utime + used.ru_stime:.1f} s, "
        f"peak {used.ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
