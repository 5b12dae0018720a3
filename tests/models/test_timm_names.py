"""Models by timm's names: floats equal timm's, integers are equal everywhere, what ours lack is refused by name."""

import pytest
import torch

import intvit
from intvit.commands import main
from intvit.config.timm_photos import import_timm
from intvit.errors import IntVitError
from intvit.evaluation.check import mismatches
from intvit.evaluation.timm_names import LIMIT, check_name
from intvit.models.timm_models import timm_model, timm_names
from intvit.runtime.native.runtime import supported

RUNTIMES = ["torch", "numpy", "onnx", *(["native"] if supported() else [])]

# One name for every feature, with the presets in turn.
NAMES = [
    ("vit_base_patch16_clip_quickgelu_224", "ivit8"),  # pre-norm, a patch embedding without bias, QuickGELU, features
    ("vit_base_patch32_siglip_256", "ibert8"),  # tanh-GELU, attention pooling, no class token
    ("vit_small_patch14_reg4_dinov2", "w4a8"),  # LayerScale, registers, positions of the patches alone, features
    ("beit3_base_patch16_224", "ppoly8"),  # inner norms, mean of a 16-bit stream, norm after it
    ("vit_base_patch16_radio_v3", "lut8_true8"),  # features of a stream with factors, no last norm
    ("vit_so400m_patch14_siglip_gap_224", "ivit_paper"),  # heads of 72 channels, a ratio that is not whole
    ("test_vit3", "lut8"),  # attention pooling over registers, too, before a classifier
    ("swin_s3_tiny_224", "ibert8_true8"),  # a window of its own for a stage
]


@pytest.mark.parametrize(("name", "preset"), NAMES)
def test_a_name_of_timm_equals_timm_in_floats_and_itself_in_integers(name: str, preset: str) -> None:
    found = check_name(name, preset, RUNTIMES)
    assert (found.refused, found.mismatches) == (None, 0)
    assert found.difference <= LIMIT


REFUSED = {
    "vit_giant_patch14_dinov2": "GluMlp",
    "aimv2_large_patch14_224": "SwiGLU",
    "test_vit4": "RmsNorm",
    "vit_base_patch16_rpn_224": "ResPostBlock",
    "vit_small_patch16_18x2_224": "ParallelThingsBlock",
    "vit_base_patch16_xp_224": "ParallelScalingBlock",
    "vit_dwee_patch16_reg1_gap_256": "DiffAttention",
}


@pytest.mark.parametrize(("name", "feature"), REFUSED.items())
def test_what_ours_do_not_compute_is_refused_by_the_name_of_the_feature(name: str, feature: str) -> None:
    message = f"model.name={name}: VisionTransformer with {feature}: not among what intvit computes"
    with pytest.raises(IntVitError) as caught:
        timm_model(name)
    assert str(caught.value) == message


def test_a_name_brings_its_size_of_images_normalization_and_classes() -> None:
    model = intvit.create_model("timm/vit_base_patch32_siglip_256.v2_webli", depth=1, width=64, heads=2)
    assert (model.image_size, model.num_classes, model.input.mean.tolist()) == ((256, 256), 0, [0.5] * 3)
    model = intvit.create_model("deit3_small_patch16_384", depth=1, width=64, heads=2, image_size=32, num_classes=5)
    assert (model.image_size, model.head.weight.shape) == ((32, 32), (5, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_gigantic_patch1", "unknown model, expected one of deit_b, "),
        ("resnet50", "model.name=resnet50: ResNet is none of the architectures that can be quantized: "),
        ("deit_tiny_patch16_224.nope", "no weights of that tag in timm; there are deit_tiny_patch16_224.fb_in1k"),
    ],
)
def test_a_name_that_is_none_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(IntVitError) as caught:
        intvit.create_model(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_lists_names_and_writes_between_the_marks(tmp_path, capsys) -> None:
    page = tmp_path / "models.md"
    page.write_text("before\n<!-- timm's names: begin -->\nold\n<!-- timm's names: end -->\nafter\n")
    options = ["test_vit4", "vit_small_patch14_dinov2", "--runtimes", "torch", "--write", str(page)]
    assert main(["models", *options]) == 0
    text = page.read_text()
    assert "| `test_vit4` | refused: RmsNorm | | |" in text
    assert "| `vit_small_patch14_dinov2` | num_classes=0, patch=14, LayerScale | " in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- timm's names: end -->\nafter\n")
    assert "old" not in text
    assert capsys.readouterr().out.startswith("1 of 2 names: floats within 1e-04 of timm's, equal integers; 1 refused")
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        main(["models", "--write", str(page)])
    assert "no file with the lines <!-- timm's names: begin -->" in capsys.readouterr().err


def test_a_swin_without_a_classifier_gives_the_mean_of_its_tokens() -> None:
    small = {"img_size": 32, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 16, "window_size": 4}
    reference = import_timm().create_model("swin_tiny_patch4_window7_224", num_classes=0, **small).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = intvit.quantize(reference, "lut8_true8", mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.no_grad():
        assert (model(images) - reference(images / 255.0 * 2 - 1)).abs().max() <= LIMIT
    assert mismatches(intvit.calibrate(model, images), images, RUNTIMES) == 0


@pytest.mark.slow
def test_every_name_of_timm_is_equal_or_refused_and_at_least_150_are_equal(capsys) -> None:
    assert main(["models", "--runtimes", *RUNTIMES]) == 0
    right, _, count = capsys.readouterr().out.splitlines()[-1].split()[:3]
    assert int(right) >= 150
    assert int(count) == len(timm_names())
