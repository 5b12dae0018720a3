"""The error report covers every family that a configuration can name."""

from torch.nn.functional import gelu

from intvit.analysis.operator_error import report
from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES


def test_report_has_a_row_for_every_family_of_every_operator():
    sections = {section.split("\n")[0]: section for section in report().split("## ")[1:]}
    families = {"Softmax": SOFTMAX_FAMILIES, "GELU": GELU_FAMILIES.standing_for(gelu), "LayerNorm": LAYERNORM_METHODS}
    assert len(sections) == 4
    for title, section in sections.items():
        for family in families[title.replace(",", " ").split()[0]]:
            assert f"| {family} |" in section, (title, family)
