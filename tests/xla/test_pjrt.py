from types import ModuleType

import pytest

from lightning_melanoma.xla import pjrt
from lightning_melanoma.xla.precision import XLAPrecision


@pytest.fixture
def libraries(monkeypatch):
    """Both libraries installed, nothing said by the environment."""
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    monkeypatch.setattr(pjrt.importlib.util, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("files", "has_tpu"),
    [
        (["accel0", "accel1"], True),
        (["vfio/0", "vfio/vfio"], True),
        (["vfio/vfio"], False),
        (["null"], False),
    ],
    ids=["v4", "v5e", "no group", "none"],
)
def test_a_tpu_is_known_by_its_device_files(tmp_path, libraries, files, has_tpu):
    (tmp_path / "vfio").mkdir()
    for name in files:
        (tmp_path / name).touch()
    assert pjrt.pjrt_has_tpu(tmp_path) == has_tpu


def test_the_environment_beats_the_files(tmp_path, libraries, monkeypatch):
    (tmp_path / "accel0").touch()
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    assert not pjrt.pjrt_has_tpu(tmp_path)
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    assert pjrt.pjrt_has_tpu(tmp_path / "empty")


def test_there_is_no_tpu_without_torch_xla(monkeypatch):
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.setattr(pjrt.importlib.util, "find_spec", lambda name: None)
    assert not pjrt.pjrt_has_tpu()


def test_a_missing_or_another_torch_xla_is_refused(monkeypatch):
    monkeypatch.setattr(pjrt.importlib.metadata, "version", lambda name: "2.8.1")
    with pytest.raises(ValueError, match=r"one minor version, found torch_xla 2\.8\.1"):
        pjrt.check_installed()

    def is_missing(name):
        raise pjrt.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(pjrt.importlib.metadata, "version", is_missing)
    with pytest.raises(ValueError, match=r"pip install 'lightning_melanoma\[xla\]'"):
        pjrt.check_installed()


@pytest.mark.parametrize("name", ["bf16-true", "16-true", "16-mixed", "64-true", "int8"])
def test_other_precisions_are_refused_with_the_reason_and_what_instead(name):
    with pytest.raises(ValueError, match=rf"found {name}: .*; give (bf16-mixed|32-true)"):
        XLAPrecision(name)


@pytest.mark.parametrize(("device", "folders"), [("TPU", ["here"]), ("CPU", [])])
def test_programs_are_kept_on_a_tpu_alone(monkeypatch, device, folders):
    # A TPU cannot be had here; the CPU's programs cannot be read back.
    runtime, kept = ModuleType("runtime"), []
    monkeypatch.setattr(runtime, "initialize_cache", kept.append, raising=False)
    monkeypatch.setenv("PJRT_DEVICE", device)
    monkeypatch.setenv("XLA_PERSISTENT_CACHE_PATH", "here")
    pjrt._cache_programs(runtime)
    assert kept == folders
