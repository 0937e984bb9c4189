"""The command line on XLA: its files, its refusals, and what it asks of the network."""

import pytest

pytestmark = pytest.mark.slow

SMALL = [
    *("--model.conv_channels", "[4, 8]"),
    *("--model.deconv_channels", "[]"),
    *("--model.depth", "1"),
    *("--data.image_size", "32"),
    *("--data.batch_size", "8"),
    *("--trainer.max_epochs", "2"),
    *("--trainer.enable_progress_bar", "false"),
]
ON_XLA = ["--trainer.accelerator", "xla"]
# Enough steps for the rounding of sums in another order to show.
LONGER = ["--trainer.max_epochs", "6"]


@pytest.fixture
def fit(program, shards):
    def run(*words, name="command", **settings):
        data = ["--data.train", str(shards), "--data.test", str(shards)]
        return program(name, "fit", *data, *SMALL, *words, **settings)

    return run


def assert_same_training(found, expected):
    assert len(expected["losses"]) > 10
    assert found["losses"][:10] == pytest.approx(expected["losses"][:10], rel=1e-5)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-2)
    found, expected = (run["epochs"][-1]["val_auroc"] for run in (found, expected))
    assert found == pytest.approx(expected, abs=0.005)


def test_a_fit_on_four_devices_is_that_on_one(fit, tmp_path):
    one, four = (fit(*ON_XLA, *LONGER, num_devices=n) for n in (1, 4))
    assert_same_training(four, one)
    assert four["programs"] == one["programs"]
    run = tmp_path / "runs/melanoma/version_1"
    for name in ("checkpoints/best.ckpt", "predictions/val.csv", "submission.csv"):
        assert (run / name).is_file()


def test_more_epochs_need_no_more_programs(fit):
    assert fit(*ON_XLA, "--trainer.max_epochs", "4")["programs"] == fit(*ON_XLA)["programs"]


def test_xla_without_dropout_is_the_cpu(fit):
    words = [*LONGER, "--model.dropout", "0"]
    ours, theirs = fit(*ON_XLA, *words), fit("--trainer.accelerator", "cpu", *words)
    assert theirs["programs"] == 0
    assert_same_training(ours, theirs)


@pytest.mark.parametrize("words", [[], ON_XLA], ids=["chosen", "xla"])
def test_a_fit_opens_no_socket(fit, words):
    found = fit(*words, name="forbid_sockets", PJRT_DEVICE="CPU")
    assert found == {"tries": [], "used_xla": bool(words)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.strategy", "ddp"], "expected xla_spmd with the accelerator xla"),
        (["--trainer.devices", "2"], "trainer.devices: expected auto or 4"),
        (["--trainer.precision", "bf16-true"], "expected 32-true or bf16-mixed on XLA"),
        (["--trainer.precision", "16-mixed"], "give bf16-mixed"),
        (["--trainer.profiler", "XLAProfiler"], "trainer.profiler: expected none, simple, "),
        (["--data.batch_size", "6"], "rows that the 4 devices of this host divide, found 6"),
    ],
)
def test_what_xla_cannot_do_is_one_line(fit, words, message):
    errors = fit(*ON_XLA, *words, num_devices=4, status=2)
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PJRT_DEVICE": "FOO"}, "PJRT_DEVICE: expected TPU or CPU, found FOO"),
        ({"CPU_NUM_DEVICES": "0"}, "CPU_NUM_DEVICES: expected a number above 0, found 0"),
    ],
)
def test_a_device_that_pjrt_does_not_have_is_one_line(fit, environment, message):
    errors = fit(*ON_XLA, status=2, **environment)
    (line,) = [line for line in errors.splitlines() if "error:" in line]
    assert message in line
    assert "Traceback" not in errors


def test_a_program_compiled_in_steady_state_ends_a_strict_run(fit):
    words = ["--compilation.strict", "true", "--trainer.callbacks+=recording.GrowingResult"]
    errors = fit(*ON_XLA, *words, status=2)
    (line,) = [line for line in errors.splitlines() if "error:" in line]
    assert "found 1 in batch 1 of training, epoch 1: it recorded" in line
    assert "Traceback" not in errors


def test_the_parts_of_two_hosts_are_the_batches_of_one(program, shards):
    found = program("hosts", str(shards), num_devices=4)
    parts = zip(*found["parts"], strict=True)
    assert [first + second for first, second in parts] == found["whole"]
    assert found["gathered"]
