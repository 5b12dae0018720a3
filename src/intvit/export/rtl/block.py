"""An encoder block as one stream: the units of its operators joined by buffers, linear layers and attention between.

Rows of the stream go in and come out, an element a clock at most; `units/stream.sv` says how rows wait for one another.
The block is that of a ViT: LayerNorm, attention, sum, LayerNorm, two linear layers around a GELU, sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from intvit.errors import IntVitError
from intvit.export.rtl.site import Site
from intvit.export.rtl.unit import CLOCKED, Unit, Words, delayed, instance, joined, signed_bits, words

SHAPE = (
    *("layernorm", "linear", "requantize", "matmul", "requantize", "softmax", "matmul", "mean", "linear", "add"),
    *("layernorm", "linear", "requantize", "gelu", "linear", "add"),
)


def block_unit(number: int, sites: Sequence[Site], units: Mapping[str, Unit], result: np.ndarray, cells: int) -> Unit:
    """The block `number` of a ViT as a unit.

    sites: of the block's operators but those that only move data, in order; their values are the vectors. units: by
    operator. result: what leaves the block, int64 [B, T, C]. cells: multiply-accumulate cells of the largest layer; the
    others get as many as keep up with it.

    Raises IntVitError for a block of another shape.
    """
    return _Block(number, sites, units, cells).unit(result)


class _Block:
    def __init__(self, number: int, sites: Sequence[Site], units: Mapping[str, Unit], cells: int) -> None:
        kinds = [{"exponential": "softmax", "weighted_mean": "mean"}.get(s.operator.op, s.operator.op) for s in sites]
        if len(kinds) == len(SHAPE) and kinds[7] == "requantize":  # behind a softmax of normalized probabilities
            kinds[7] = "mean"
        if tuple(kinds) != SHAPE:
            raise IntVitError(f"--top: blocks.{number} is {', '.join(kinds)}; that is no ViT's block; leave --top out")
        self.number, self.sites, self.units = number, sites, units
        self.program, (self.norm1, self.qkv, _, self.products, *_) = sites[0].program, sites
        self.weights, self.weighted, self.add1, self.add2 = sites[5], sites[6], sites[9], sites[15]
        self.tokens, self.width = self.program.values[self.norm1.operator.inputs[0]].shape
        self.heads, _, self.size = self.program.values[self.products.operator.inputs[0]].shape
        layers = [(self._size(site), site) for site in sites if site.operator.op == "linear"]
        (outputs, inputs), _ = max(layers, key=lambda layer: math.prod(layer[0]))
        self.clocks = inputs * -(-outputs // cells)  # of a token
        self.deferred = self.weights.operator.op == "exponential"
        self.wires, self.text, self.memories = "", "", dict[str, tuple[Words, int]]()

    def unit(self, result: np.ndarray) -> Unit:
        """Everything joined, from front to end."""
        stream = self.program.values[self.norm1.operator.inputs[0]].bits
        values = self.norm1.inputs[0]
        self._entrance(stream)
        self._rows("norm1_rows", stream, self.width, "enters", "in", "begins", "norm1_ready & qkv_rows_room")
        self._part(self.norm1, "norm1", "norm1_rows_valid", "norm1_rows")
        times = self._linear(self.qkv, "qkv", "qkv_rows")
        width = self.norm1.output[0]
        self._rows(
            "qkv_rows", width, self.width, "norm1_valid", "norm1", "norm1_rows_started", "attention_room", times=times
        )
        self._part(self.sites[2], "qkv_codes", "qkv_valid", "qkv")
        self._attention()
        times = self._linear(self.sites[8], "proj", "proj_rows")
        context = self.sites[7].output[0]
        self._rows(
            "proj_rows",
            context,
            self.width,
            "attended_valid",
            "attended",
            "attended_begins",
            "norm2_rows_room & residual2_room",
            times=times,
        )
        self._sum(self.add1, "add1", "proj", "residual1")
        wide = self.add1.output[0]
        self._residual("residual2", wide, 4, "add1_valid", "add1", "proj_rows_started", "fc2_valid")
        self._mlp(wide)
        self._sum(self.add2, "add2", "fc2", "residual2")
        self.text += "    assign out = add2;\n    assign out_valid = add2_valid;\n"
        out = self.add2.output[0]
        return Unit(
            f"block_{self.number}",
            "encoder block",
            "computed",
            self.wires + self.text,
            stream,
            out,
            words(values, stream),
            words(result, out),
            self.memories,
            frozenset(unit.name for unit in self.units.values()),
            8 * self.tokens * max(self.clocks, 1000),
        )

    # ---------------------------------------------------------------- the parts, in order

    def _entrance(self, stream: int) -> None:
        bits = self.width.bit_length()
        self.text += f"    logic [{bits - 1}:0] column;\n"
        self.text += "    assign in_ready = column != 0 | (norm1_rows_room & residual1_room);\n"
        self.text += "    wire enters = in_valid & in_ready, begins = enters & column == 0;\n"
        self.text += "    always_ff @(posedge clk) if (rst) column <= 0;\n"
        self.text += f"        else if (enters) column <= column == {self.width - 1} ? 0 : column + 1'b1;\n"
        # all rows of an image pass before the first one leaves attention
        self._residual("residual1", stream, self.tokens + 2, "enters", "in", "begins", "proj_valid")

    def _attention(self) -> None:
        tokens, size = self.tokens, self.size
        groups = max(1, self.clocks // (self.heads * size))
        keys = min(-(-tokens // groups), size)
        passes = min(size, max(1, self.clocks // (self.heads * tokens)))
        values = min(-(-size // passes), tokens)
        passes = -(-size // values)
        weight = self.weights.output
        weight_bits = weight[0] + (not weight[1])
        logit_bits, sum_bits = self._sum_bits(self.products), self._sum_bits(self.weighted)
        x_bits = self.sites[2].output[0]
        ready = "weight_rows_room" if self.deferred else "softmax_rows_room"
        parameters = {"T": tokens, "H": self.heads, "D": size, "XW": x_bits, "KEYS": keys, "LW": logit_bits}
        parameters |= {"WEIGHT": weight_bits, "VALUES": values, "CW": sum_bits}
        extended = "weight_rows" if weight[1] else "{1'b0, weight_rows}"
        ports = {**CLOCKED, "in_valid": "qkv_codes_valid", "in": "qkv_codes", "reserve": "qkv_rows_started"}
        ports |= {"room": "attention_room", "go": ready, "started": "logits_begin", "logits_valid": "products_valid"}
        ports |= {"logits": "products", "weight_valid": "weight_rows_valid", "weight": extended}
        ports |= {"sum_valid": "weighted_valid", "sum": "weighted"}
        self.wires += "    wire attention_room, logits_begin, products_valid, weighted_valid;\n"
        self.wires += f"    wire signed [{logit_bits - 1}:0] products;\n    wire signed [{sum_bits - 1}:0] weighted;\n"
        self.text += instance("attention", "attention_core", parameters, ports)
        self._part(self.sites[4], "logits", "products_valid", "products")
        begins, source = "logits_begin", "logits"
        if not self.deferred:
            self._rows(
                "softmax_rows",
                self.sites[4].output[0],
                tokens,
                "logits_valid",
                "logits",
                begins,
                "weights_ready & weight_rows_room",
            )
            begins, source = "softmax_rows_started", "softmax_rows"
        self._part(self.weights, "weights", f"{source}_valid", source)
        # a row of the context has those of all heads
        self.text += f"    logic [{self.heads.bit_length() - 1}:0] head;\n"
        self.text += "    wire attended_begins = weight_rows_started & head == 0;\n"
        self.text += "    always_ff @(posedge clk) if (rst) head <= 0;\n"
        self.text += f"        else if (weight_rows_started) head <= head == {self.heads - 1} ? 0 : head + 1'b1;\n"
        go = "(head != 0 | proj_rows_room)" + " & sum_rows_room & attended_ready" * self.deferred
        self._rows("weight_rows", weight[0], tokens, "weights_valid", "weights", begins, go, times=passes)
        if self.deferred:
            self._rows(
                "sum_rows",
                sum_bits,
                size,
                "weighted_valid",
                "weighted",
                "weight_rows_started",
                "attended_ready",
                rows=1,
            )
            self._mean(weight[0], sum_bits)
        else:
            self._part(self.sites[7], "attended", "weighted_valid", "weighted")

    def _mean(self, weight_bits: int, sum_bits: int) -> None:
        """`weighted_mean` takes the weights of a row, then its sums: {which, word}."""
        unit = self.units[self.sites[7].operator.name]
        width = unit.in_bits - 1
        self.text += "    wire first_weights = weight_rows_valid & ~weight_rows_again;\n"
        self.text += f"    wire [{width}:0] mean_in = first_weights ?\n"
        self.text += f"        {{1'b0, {width}'(weight_rows)}} : {{1'b1, {width}'($signed(sum_rows))}};\n"
        self._part(self.sites[7], "attended", "(first_weights | sum_rows_valid)", "mean_in", whole=True)

    def _mlp(self, wide: int) -> None:
        fc1, act, fc2 = self.sites[11], self.sites[13], self.sites[14]
        hidden = self._size(fc1)[0]
        self._rows(
            "norm2_rows", wide, self.width, "add1_valid", "add1", "proj_rows_started", "norm2_ready & fc1_rows_room"
        )
        self._part(self.sites[10], "norm2", "norm2_rows_valid", "norm2_rows")
        times = self._linear(fc1, "fc1", "fc1_rows")
        bits = self.sites[10].output[0]
        self._rows(
            "fc1_rows", bits, self.width, "norm2_valid", "norm2", "norm2_rows_started", "fc2_rows_room", times=times
        )
        self._part(self.sites[12], "fc1_codes", "fc1_valid", "fc1")
        self._part(act, "act", "fc1_codes_valid", "fc1_codes")
        times = self._linear(fc2, "fc2", "fc2_rows")
        self._rows("fc2_rows", act.output[0], hidden, "act_valid", "act", "fc1_rows_started", "1'b1", times=times)

    # ---------------------------------------------------------------- kinds of parts

    def _rows(
        self,
        name: str,
        bits: int,
        size: int,
        valid: str,
        source: str,
        begins: str,
        go: str,
        *,
        times: int = 1,
        rows: int = 2,
    ) -> None:
        """A `row_buffer`; rows begin to become with `begins`, and are sent when `go`."""
        self.wires += (
            f"    wire {name}_valid, {name}_room, {name}_started, {name}_again;\n    wire [{bits - 1}:0] {name};\n"
        )
        ports = {**CLOCKED, "in_valid": valid, "in": source, "reserve": begins, "room": f"{name}_room", "go": go}
        ports |= {"started": f"{name}_started", "out_valid": f"{name}_valid", "out": name, "again": f"{name}_again"}
        self.text += instance("row_buffer", f"of_{name}", {"W": bits, "N": size, "ROWS": rows, "TIMES": times}, ports)

    def _residual(self, name: str, bits: int, rows: int, valid: str, source: str, begins: str, following: str) -> None:
        self.wires += f"    wire {name}_room;\n    wire [{bits - 1}:0] {name};\n"
        ports = {**CLOCKED, "in_valid": valid, "in": source, "reserve": begins, "room": f"{name}_room"}
        ports |= {"next": following, "out": name}
        self.text += instance("residual_buffer", f"of_{name}", {"W": bits, "N": self.width, "ROWS": rows}, ports)

    def _part(self, site: Site, name: str, valid: str, source: str, *, whole: bool = False) -> None:
        """A unit as it is, under its name in the block."""
        unit = self.units[site.operator.name]
        self.wires += f"    wire {name}_valid, {name}_ready;\n    wire [{unit.out_bits - 1}:0] {name};\n"
        word = source if whole else f"{unit.in_bits}'({source})"
        ports = {**CLOCKED, "in_valid": valid, "in": word, "in_ready": f"{name}_ready", "out_valid": f"{name}_valid"}
        self.text += instance(unit.name, f"of_{name}", {}, {**ports, "out": name})

    def _sum(self, site: Site, name: str, branch: str, residual: str) -> None:
        """The unit of an addition: the branch waits two clocks for the residual."""
        a, b = site.bits(0), site.bits(1)
        self.wires += f"    wire [{a - 1}:0] {branch}_held;\n    wire {branch}_held_valid;\n"
        self.text += delayed(a, 2, f"{a}'({branch})", f"{branch}_held") + delayed(
            1, 2, f"{branch}_valid & ~rst", f"{branch}_held_valid"
        )
        self._part(site, name, f"{branch}_held_valid", f"{{{residual}[{b - 1}:0], {branch}_held}}", whole=True)

    def _linear(self, site: Site, name: str, source: str) -> int:
        """A layer with its memories; how often it wants every row."""
        weight, bias = (site.constants[role].astype(np.int64) for role in ("weight", "bias"))
        outputs, inputs = weight.shape
        groups = max(1, self.clocks // inputs)
        lanes = min(-(-outputs // groups), inputs)
        groups = -(-outputs // lanes)
        bits, weight_bits, sum_bits = (
            site.bits(0),
            signed_bits(int(weight.min()), int(weight.max())),
            self._sum_bits(site),
        )
        padded = np.zeros((groups * lanes, inputs + 1), np.int64)
        padded[:outputs] = np.concatenate([weight, bias[:, None]], 1)
        by_lane = padded.reshape(groups, lanes, inputs + 1)
        columns = [(by_lane[:, lane, :inputs], weight_bits) for lane in range(lanes)]
        self.memories[f"{name}_weights.hex"] = joined(*columns), lanes * weight_bits
        self.memories[f"{name}_biases.hex"] = (
            joined(*((by_lane[:, lane, inputs], sum_bits) for lane in range(lanes))),
            lanes * sum_bits,
        )
        parameters = {"K": inputs, "N": outputs, "LANES": lanes, "XW": bits, "WW": weight_bits, "SW": sum_bits}
        parameters |= {"WEIGHTS": f'"{name}_weights.hex"', "BIASES": f'"{name}_biases.hex"'}
        ports = {
            **CLOCKED,
            "in_valid": f"{source}_valid",
            "in": f"{source}[{bits - 1}:0]",
            "out_valid": f"{name}_valid",
            "out": name,
        }
        self.wires += f"    wire {name}_valid;\n    wire signed [{sum_bits - 1}:0] {name};\n"
        self.text += instance("stream_linear", f"of_{name}", parameters, ports)
        return groups

    def _size(self, site: Site) -> tuple[int, int]:
        outputs, inputs = site.constants["weight"].shape
        return outputs, inputs

    def _sum_bits(self, site: Site) -> int:
        reach = site.bounds[site.operator.name].intermediates["accumulator"]
        return signed_bits(reach.low, reach.high)
