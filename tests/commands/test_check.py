"""`intvit check` on a small image: its row, its figures, and its exit code when a runtime differs."""

import pytest

from intvit.commands import main
from intvit.evaluation import check
from intvit.models.presets import random_model


def test_the_row_and_the_last_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "deit_t", "--quant", "lut8,quant/bits=true8", "--image-size", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    name, parameters, size, operators, macs, mismatches, _ = lines[-2].replace(",", "").split()
    model = random_model("deit_t", "lut8", (32, 32), 0)
    assert (name, int(parameters), mismatches) == ("deit_t", sum(p.numel() for p in model.parameters()), "0")
    tokens, width = 5, 192  # 12 blocks: 12 C^2 of weights for each token, and two products of attention
    expected = 12 * (12 * tokens * width**2 + 2 * tokens**2 * width) + 4 * 768 * width + 1000 * width
    assert int(macs) == expected
    assert int(parameters) < int(size) < 1.2 * int(parameters)
    assert int(operators) > 200
    assert lines[-1] == "0 mismatches"


def test_height_and_width_may_differ_and_anything_else_is_refused(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(check, "mismatches", lambda model, images, runtimes: seen.append(tuple(images.shape)) or 0)
    assert main(["check", "deit_t", "--image-size", "16x48", "--images", "1"]) == 0
    assert seen == [(1, 3, 16, 48)]
    for text in ("0", "16x", "16x16x3", "x", "-16"):
        with pytest.raises(SystemExit):
            main(["check", "deit_t", f"--image-size={text}"])
        assert f"{text}: expected pixels, such as 224, or HEIGHTxWIDTH" in capsys.readouterr().err


def test_a_difference_is_an_exit_code(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(check, "mismatches", lambda model, images, runtimes: 1)
    assert main(["check", "deit_t", "--image-size", "16"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 mismatches"


def test_a_float_preset_has_no_program_to_check(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["check", "deit_t", "--quant", "fp32"])
    assert "--quant fp32 is float: it has no integer program" in capsys.readouterr().err
