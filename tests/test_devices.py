import logging
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lightning_melanoma import devices


@pytest.fixture
def choose(monkeypatch):
    """Choose on a machine that has what is said, and nothing else."""

    def run(*, has_tpu=False, num_cards=0, has_bfloat16=True, **settings):
        monkeypatch.setattr(devices, "pjrt_has_tpu", lambda: has_tpu)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_cards)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
        config = SimpleNamespace(
            **{
                "accelerator": "auto",
                "strategy": "auto",
                "devices": "auto",
                "precision": None,
                "sync_batchnorm": False,
                "inference_mode": True,
                "use_distributed_sampler": True,
                **settings,
            }
        )
        devices.choose_device(config)
        return config

    return run


def test_a_tpu_comes_first_with_all_that_xla_needs(choose):
    config = choose(has_tpu=True, num_cards=1)
    assert (config.accelerator, config.strategy) == ("xla", "xla_spmd")
    assert config.precision == "bf16-mixed"
    assert not config.inference_mode
    assert not config.use_distributed_sampler


def test_cuda_comes_next_in_the_precision_of_the_card(choose):
    config = choose(num_cards=1)
    assert (config.accelerator, config.strategy) == ("cuda", "auto")
    assert (config.precision, config.sync_batchnorm) == ("bf16-mixed", False)
    assert choose(num_cards=1, has_bfloat16=False).precision == "16-mixed"
    assert choose(num_cards=1, precision="32-true").precision == "32-true"


def test_several_cards_share_their_batch_norm(choose):
    config = choose(num_cards=4)
    assert (config.strategy, config.sync_batchnorm) == ("ddp_find_unused_parameters_true", True)
    assert choose(num_cards=4, devices=1).strategy == "auto"


def test_the_cpu_is_left(choose, caplog, monkeypatch):
    said = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    # Above it, other tests may have left the program's own handlers.
    monkeypatch.setattr(logging.getLogger("lightning_melanoma.devices"), "handlers", [handler])
    with caplog.at_level(logging.INFO, logger="lightning_melanoma"):
        config = choose()
    assert (config.accelerator, config.strategy, config.precision) == ("cpu", "auto", None)
    assert said == ["Device: CPU, since there is neither TPU nor CUDA, precision 32-true"]


def test_what_is_named_is_taken(choose):
    assert choose(has_tpu=True, accelerator="cpu").accelerator == "cpu"
    assert choose(accelerator="xla").strategy == "xla_spmd"
    assert choose(strategy="xla_spmd").accelerator == "xla"


@pytest.mark.parametrize(("accelerator", "strategy"), [("xla", "ddp"), ("cpu", "xla_spmd")])
def test_accelerator_and_strategy_of_xla_go_together_only(choose, accelerator, strategy):
    with pytest.raises(ValueError, match=f"found {strategy} with {accelerator}"):
        choose(accelerator=accelerator, strategy=strategy)


def test_freed_memory_is_used_again():
    code = """if True:
        import resource
        from lightning_melanoma.devices import keep_freed_memory

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        def pages_taken():
            before = faults()
            b"." * 2**26
            return faults() - before

        pages_taken()
        without = pages_taken()
        keep_freed_memory()
        pages_taken()
        print(without, pages_taken())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, kept = map(int, done.stdout.split())
    if platform.libc_ver()[0] == "glibc":
        # 64 MiB in pages of 4 KiB, or in fewer and larger ones.
        assert without >= 32
        assert kept < without / 4
