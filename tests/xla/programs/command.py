"""Run the command line on the words given; print losses, metrics of epochs and programs."""

import csv
import json
import sys
from pathlib import Path

from recording import LOSSES, num_programs

from lightning_melanoma.cli import main

main([*sys.argv[1:], "--trainer.callbacks+=recording.StepLosses"])
runs = sorted(Path("runs").glob("*/version_*"), key=lambda run: run.stat().st_mtime)
with (runs[-1] / "metrics.csv").open() as file:
    rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
print(json.dumps({"losses": LOSSES, "epochs": rows, "programs": num_programs()}))
