"""The report in a real browser: no overflow, no error, nothing fetched."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import write_shards

from lightning_melanoma.cli import main
from lightning_melanoma.predictions import prediction_table, write_predictions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Said from inside the page to the one around it, whose title ends in the output.
PROBE = """<script>addEventListener("load", () => parent.postMessage(
  document.documentElement.scrollWidth + " of " + innerWidth + " fetched " +
  performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length, "*"
))</script></main>"""
FRAME = """<title>none</title>
<script>addEventListener("message", event => document.title = event.data)</script>
<iframe src="probed.html" width="{width}" height="800" style="border: 0"></iframe>"""


def write_report(folder, names):
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [250, 50])
    records = {
        "image_name": [f"ISIC_{row:07d}" for row in range(300)],
        "target": targets,
        "sex": rng.choice(["female", "male"], 300),
        "anatom_site_general_challenge": rng.choice(["torso", "a-site-of-a-very-long-name"], 300),
    }
    for name in names:
        table = prediction_table(pd.DataFrame(records), rng.normal(targets))
        write_predictions(table, folder / f"{name}.csv")
    tables = [str(folder / f"{name}.csv") for name in names]
    write_shards(folder / "shards", num_shards=1, num_records=300)
    words = ["--predictions", *tables, "--out", str(folder / "out"), "--num_draws", "50"]
    words += ["--images", str(folder / "shards")]
    main(["evaluate", *words])
    return (folder / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("names", [["val"], ["a_table_of_a_very_long_name_" * 4, "b", "c", "d"]])
def test_page_fits_its_window_and_fetches_nothing(tmp_path, width, names):
    page = write_report(tmp_path, names)
    (tmp_path / "probed.html").write_text(page.replace("</main>", PROBE))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    run = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", f"--user-data-dir={tmp_path / 'user'}"),
            *("--window-size=1400,900", "--virtual-time-budget=5000", "--enable-logging=stderr"),
            *("--dump-dom", f"file://{tmp_path / 'frame.html'}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(\d+) of (\d+) fetched (\d+)</title>", run.stdout)
    assert found, run.stdout[:500]
    needed, given, fetched = map(int, found.groups())
    assert given == width
    assert needed <= given
    assert fetched == 0
    assert "CONSOLE" not in run.stderr
