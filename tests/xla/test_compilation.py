"""What is said of recompilations: by a small model under the watch, and of steps made by hand."""

import pytest

from lightning_melanoma.xla.compilation import StepRecord, difference

#: Runs that compile nothing in steady state, beside what unfreezing is allowed.
CALM = ["unfrozen", "unfrozen SGD", "none", "accumulated", "bfloat16", "late validation", "EMA"]
CALM += ["left over", "rate of eps"]
#: What changes, mostly in the third epoch, and how the warning names it.
CHANGES = {
    "batch": "images from float32 (8, 3, 8, 8) to float32 (4, 3, 8, 8), targets from float32 (8,)",
    "shape": "changed from f32[8",
    "value": "_local_scalar_dense 1 times, not 0 (a value was read)",
    "operation": "aten::exp of f32[] was recorded where",
    "early operation": "found 1 in batch 2 of training, epoch 0: ",
    "epochs": "behind batch 3 of validate: it recorded aten::_local_scalar_dense 1 times",
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory, run_program):
    """What the watch said of each run, all in one process."""
    words = [*CALM, *CHANGES, "CPU", "other shape, strict"]
    return run_program(tmp_path_factory.mktemp("watched"), "watching", *words)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALM)
def test_nothing_is_compiled_once_a_run_is_under_way(watched, name):
    fit, predict = watched[name]["said"]
    assert fit.startswith("INFO fit: XLA compiled ")
    assert predict.startswith("INFO predict: XLA compiled ")
    assert not watched[name]["error"]


@pytest.mark.slow
def test_training_has_one_program_and_one_more_when_it_unfreezes(watched):
    # In the first fit of the process; the third is that of validation.
    assert watched["unfrozen"]["said"][0] == "INFO fit: XLA compiled 3 programs"
    assert watched["none"]["said"][0] == "INFO fit: XLA compiled 0 programs"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_warning_names_what_changed(watched, name):
    warning, *_, fit, _ = watched[name]["said"]
    assert warning.startswith("WARNING compilation: expected no program of XLA to be compiled in")
    assert CHANGES[name] in warning
    assert "\n" not in warning
    assert fit.endswith("of them in steady state")


@pytest.mark.slow
def test_strict_makes_it_an_error(watched):
    assert CHANGES["shape"] in watched["other shape, strict"]["error"]


@pytest.mark.slow
def test_nothing_is_said_on_another_device(watched):
    assert watched["CPU"] == {"said": [], "error": ""}


def record(nodes, batch="float32 (8,)"):
    return StepRecord({"images": batch}, {}, nodes)


USUAL = [("xla::device_data", "f32[8]"), ("aten::mul", "f32[8]")]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (record(USUAL, batch="uint8 (8,)"), "the batch changed: images from float32 (8,) to uint8"),
        (record([USUAL[0], ("aten::add", "f32[8]")]), "aten::add of f32[8] was recorded where"),
        (record([USUAL[0], ("aten::mul", "f32[4]")]), "aten::mul changed from f32[8] to f32[4]"),
        (record([*USUAL, ("aten::sum", "f32[]")]), "aten::sum of f32[] was added"),
        (record(USUAL[:1]), "aten::mul of f32[8] was left out"),
        (record(USUAL), "a number changed that the program holds as a constant"),
    ],
)
def test_a_difference_is_told_in_words(after, words):
    assert words in difference(record(USUAL), after)
