import pytest

from lightning_melanoma.xla.chips import CHIPS, check_topology


def test_chips_of_a_topology_are_the_product_of_its_sides():
    assert check_topology("v5e:16x16") == 256
    assert check_topology("v4:2x2x4") == 16


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:2", "v5e:2x", "v5e-8", ""])
def test_an_unknown_topology_is_refused_with_the_known_ones(topology):
    with pytest.raises(ValueError, match="v5e:2x4, v5p:2x2x1, v6e:2x4") as error:
        check_topology(topology)
    assert "\n" not in str(error.value)


def test_every_example_is_a_topology():
    assert all(check_topology(f"{name}:{chip.example}") in (4, 8) for name, chip in CHIPS.items())
