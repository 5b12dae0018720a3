"""Changes of the quantization: what is measured is what a model built with these overrides computes."""

from dataclasses import replace

import pytest
import torch

from intvit.analysis.analyzed_model import joined
from intvit.analysis.block_cache import blocks, blocks_before
from intvit.analysis.distances import divergence
from intvit.analysis.sensitivity import EVERYWHERE, Change, Sensitivity, changes
from intvit.calibration import calibrate
from intvit.quant import set_mode
from tests.support.small_analyzed_models import images, small_model


def spread(tried: list[Change], count: int) -> list[Change]:
    return tried[:: max(1, len(tried) // count)]


@pytest.mark.parametrize(
    ("name", "preset"),
    [("deit_t", "lut8"), ("deit_t", "ivit8_true8"), pytest.param("swin_t", "ibert8_true8", marks=pytest.mark.slow)],
)
def test_a_change_gives_the_scores_of_a_model_calibrated_with_its_overrides(name: str, preset: str) -> None:
    small = small_model(name, preset)
    small.quant = replace(small.quant, observer=replace(small.quant.observer, bias_correction=False))
    small.model = small._build({})
    calibrate(small.model, small.calibration.split(8))
    measured, labels = images(name, 4, 2), torch.tensor([0, 1, 2, 3])
    sensitivity = Sensitivity(small, measured, labels, batch=2)
    tried = changes(small, [4, 6])
    for change in spread(tried, 8):
        whole = small._build(change.overrides)
        calibrate(whole, small.calibration.split(8))
        variant = small.variant(change.overrides)
        state = variant.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items()), change
        expected = whole.integer_scores(measured)
        assert torch.equal(variant.integer_scores(measured), expected), change
        # the same with the base model's blocks in front of the change
        count = blocks_before(variant, change.site)
        reused = sensitivity._logits(variant, lambda outputs, count=count: outputs[:count])
        with torch.no_grad():
            assert torch.equal(reused, whole(measured)), change


def test_every_site_and_every_operator_is_swapped() -> None:
    small = small_model("deit_t", "lut8")
    tried = changes(small, [4])
    everywhere = {f"{c.kind}: {c.change}" for c in tried if c.site == EVERYWHERE}
    assert len(everywhere) == len([c for c in tried if c.site == EVERYWHERE])
    for expected in (
        *(f"attention: softmax lut → {family}" for family in ("ivit", "ibert", "ppoly")),
        *(f"gelu: lut → {family}" for family in ("ivit", "ibert", "ppoly")),
        *(f"layernorm: exact → {family}" for family in ("ivit", "ibert")),
        *(f"{kind}: activation 8 → 4 bits" for kind in ("input", "linear", "attention", "gelu", "layernorm")),
        "linear: weight 8 → 4 bits",
        "attention: logits 8 → 4 bits",
        "residual: 16 → 8 bits",
    ):
        assert expected in everywhere, expected
    alone = [c for c in tried if c.site != EVERYWHERE]
    for site in ("patch_embed.proj", "blocks.2.attn.qkv", "blocks.0.mlp.fc2", "head"):
        assert any(c.site == site and c.change == "weight 8 → 4 bits" for c in alone), site
    together = next(c for c in tried if c.site == EVERYWHERE and c.change == "16 → 8 bits")
    assert sorted(together.overrides) == sorted(["embed", *(f"blocks.{i}.add{j}" for i in range(3) for j in (1, 2))])
    replace(small.quant, overrides=alone[-1].overrides)  # a valid quant.overrides as it stands


@pytest.mark.parametrize("width", range(2, 9))
def test_every_change_is_a_valid_override_at_every_width(width: int) -> None:
    small = small_model("deit_t", "lut8")
    for change in changes(small, [width]):
        replace(small.quant, overrides=change.overrides)


def test_integers_up_to_the_last_block_leave_float_behind_it() -> None:
    small = small_model("deit_t", "lut8")
    measured, labels = images("deit_t", 4, 2), torch.tensor([0, 1, 2, 3])
    sensitivity = Sensitivity(small, measured, labels, batch=4)
    assert [name for name, _ in blocks(small.model)] == ["blocks.0", "blocks.1", "blocks.2"]
    set_mode(small.model, "float")
    with torch.no_grad():
        assert torch.equal(sensitivity.reference, small.model(measured))
    assert sensitivity.integer_up_to(0).sqnr == float("inf")  # nothing is integer: the float model itself
    assert sensitivity.integer_up_to(3).divergence > 0.0
    assert torch.equal(small.model.integer_scores(measured).argmax(1), sensitivity.unchanged.argmax(1))  # integer again


def test_sites_know_the_blocks_before_them() -> None:
    vit, swin = small_model("deit_t", "lut8").model, small_model("swin_t", "lut8").model
    sites = ("input", "embed", "blocks.0.norm1", "blocks.2.mlp.act", "norm", "head", EVERYWHERE)
    assert [blocks_before(vit, site) for site in sites] == [0, 0, 0, 2, 3, 3, 0]
    sites = (
        "patch_embed.norm",
        "layers.0.blocks.1.add2",
        "layers.1.downsample.norm",
        "layers.1.blocks.1.norm1",
        "pool",
    )
    assert [blocks_before(swin, site) for site in sites] == [0, 1, 2, 3, 4]


def test_a_change_joins_the_overrides_that_are_there() -> None:
    base = {"a": {"bits": {"weight": 4}, "gelu": {"family": "ivit"}}, "b": {"bits": {"weight": 6}}}
    assert joined(base, {"a": {"bits": {"activation": 6}}}) == {
        "b": {"bits": {"weight": 6}},
        "a": {"bits": {"weight": 4, "activation": 6}, "gelu": {"family": "ivit"}},
    }


def test_divergence_is_zero_for_equal_rows_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(100, 20, generator=generator, dtype=torch.float64).softmax(-1)
    integer = torch.floor(real * 256) / 256  # rows that do not sum to one, and zeros
    assert bool((divergence(integer, real) > 0).all())
    assert bool((divergence(real, real) == 0).all())
    other = real.flip(-1)
    usual = (other * torch.log2(other / real)).sum(-1)
    assert torch.allclose(divergence(other, real), usual)
