"""Sizes of one lane of every unit on a 7-series FPGA: LUT, registers, DSP, block memories of 18 Kb, LUT memories.

Made with yosys 0.23 (`synth_xilinx -family xc7`) from block 0 of a calibrated DeiT-Tiny of 224 x 224 pixels with the
presets ibert8, ppoly8, lut8, ivit8 and ivit_paper; `intvit analyze silicon --synthesize` does that for a checkpoint.
"""

from intvit.analysis.silicon import Key, Size

SIZES: dict[Key, Size] = {
    ("add", "computed"): Size(264, 283, 6, 0, 1),
    ("exponential piecewise", "computed"): Size(225, 231, 4, 1, 41),
    ("exponential polynomial", "computed"): Size(356, 279, 5, 1, 10),
    ("exponential shift", "computed"): Size(220, 231, 4, 1, 10),
    ("exponential table", "table"): Size(85, 53, 0, 1, 0),
    ("gelu piecewise", "computed"): Size(122, 106, 4, 0, 40),
    ("gelu polynomial", "computed"): Size(154, 185, 7, 0, 11),
    ("gelu table", "table"): Size(29, 9, 0, 0, 0),
    ("mac column", "computed"): Size(13, 12, 8, 0, 0),
    ("requantize", "computed"): Size(133, 145, 4, 2, 4),
    ("softmax shift", "computed"): Size(377, 299, 3, 2, 7),
    ("weighted_mean", "computed"): Size(274, 309, 6, 0, 1),
}
WIDTHS: dict[tuple[str, int], Size] = {}
