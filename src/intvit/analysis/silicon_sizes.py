"""Sizes of one lane of every unit on a 7-series FPGA: LUT, registers, DSP, block memories of 18 Kb, LUT memories.

Made with yosys 0.23 (`synth_xilinx -family xc7`) from block 0 of a calibrated DeiT-Tiny of 224 x 224 pixels with the
presets ibert8, ppoly8, lut8, ivit8 and ivit_paper; `intvit analyze silicon --synthesize` does that for a checkpoint.
"""

from intvit.analysis.silicon import Key, Size

SIZES: dict[Key, Size] = {
    ("exponential polynomial", "computed"): Size(356, 279, 5, 1, 10),
}
