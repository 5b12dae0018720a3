"""Sizes of one lane of every unit on a 7-series FPGA: LUT, registers, DSP, block memories of 18 Kb, LUT memories.

Made with yosys 0.23 (`synth_xilinx -family xc7`) from block 0 of a calibrated DeiT-Tiny of 224 x 224 pixels with the
presets ibert8, ppoly8, lut8, ivit8 and ivit_paper, and, what is "short", with quant/hardware=dsp17;
`intvit analyze silicon --synthesize` measures them for other checkpoints.
"""

from intvit.analysis.silicon import Key, Size

SIZES: dict[Key, Size] = {
    ("add", "computed"): Size(248, 289, 4, 0, 1),
    ("add short", "computed"): Size(141, 191, 2, 0, 1),
    ("exponential piecewise", "computed"): Size(200, 217, 4, 1, 47),
    ("exponential piecewise short", "computed"): Size(181, 195, 2, 1, 46),
    ("exponential polynomial", "computed"): Size(227, 209, 3, 1, 21),
    ("exponential polynomial short", "computed"): Size(184, 202, 1, 1, 9),
    ("exponential shift", "computed"): Size(182, 186, 2, 1, 20),
    ("exponential shift short", "computed"): Size(119, 179, 0, 1, 8),
    ("exponential table", "table"): Size(87, 78, 0, 1, 1),
    ("gelu piecewise", "computed"): Size(149, 92, 4, 0, 54),
    ("gelu piecewise short", "computed"): Size(117, 118, 3, 0, 41),
    ("gelu polynomial", "computed"): Size(94, 91, 4, 0, 25),
    ("gelu polynomial short", "computed"): Size(82, 91, 4, 0, 25),
    ("gelu shift", "computed"): Size(2119, 2278, 8, 1, 88),
    ("gelu shift short", "computed"): Size(2029, 2218, 6, 1, 88),
    ("gelu table", "table"): Size(29, 9, 0, 0, 0),
    ("layernorm exact", "computed"): Size(1431, 1022, 9, 1, 66),
    ("layernorm exact short", "computed"): Size(1234, 913, 6, 1, 52),
    ("layernorm ibert", "computed"): Size(1259, 903, 6, 1, 50),
    ("layernorm ibert short", "computed"): Size(1120, 825, 5, 1, 36),
    ("layernorm ivit", "computed"): Size(1256, 937, 6, 1, 50),
    ("layernorm ivit short", "computed"): Size(1120, 860, 5, 1, 36),
    ("mac column", "computed"): Size(13, 12, 8, 0, 0),
    ("requantize", "computed"): Size(103, 95, 2, 2, 4),
    ("requantize short", "computed"): Size(31, 71, 1, 1, 1),
    ("softmax shift", "computed"): Size(335, 345, 2, 2, 6),
    ("softmax table", "table"): Size(324, 285, 2, 2, 2),
    ("weighted_mean", "computed"): Size(254, 212, 3, 0, 1),
    ("weighted_mean short", "computed"): Size(178, 127, 2, 0, 20),
}

# Exponentials alone, by bits of the logits: `intvit.analysis.silicon_widths`.
WIDTHS: dict[tuple[str, int], Size] = {
    ("shift", 8): Size(39, 94, 0, 0, 10),
    ("polynomial", 8): Size(119, 144, 1, 0, 6),
    ("piecewise", 8): Size(106, 126, 2, 0, 43),
    ("table", 8): Size(14, 9, 0, 0, 0),
    ("shift", 12): Size(44, 109, 0, 0, 12),
    ("polynomial", 12): Size(122, 144, 1, 0, 10),
    ("piecewise", 12): Size(119, 134, 2, 0, 46),
    ("table", 12): Size(1, 1, 0, 2, 0),
    ("shift", 16): Size(60, 129, 0, 0, 16),
    ("polynomial", 16): Size(119, 179, 1, 0, 11),
    ("piecewise", 16): Size(134, 142, 2, 0, 52),
    ("table", 16): Size(105, 6, 0, 29, 0),
}
