// Shared parts: delays, products, multiply-and-shift, quotients, roots, tables. Every unit takes one element a clock, unless it
// says otherwise, and passes `valid` along. Negative shifts are arithmetic: floor(v / 2^e), as in the program format.

// N clocks later
module delay #(parameter W = 1, N = 1) (input logic clk, input logic [W-1:0] d, output logic [W-1:0] q);
    generate
        if (N == 0) begin : none
            assign q = d;
        end else begin : line
            logic [W*N-1:0] stages;
            always_ff @(posedge clk) stages <= (W * N)'({stages, d});
            assign q = stages[W*N-1 -: W];
        end
    endgenerate
endmodule

// The signed product, three clocks later: partial products, sums of two of them, the sum of those. A partial product has 17 bits and
// a sign of one operand, and PIECE of the other: 24 suits multipliers of 18 x 25 bits (DSP48), 17 those of 18 x 18.
`ifndef PIECE
`define PIECE 24
`endif
module multiply #(parameter AW = 18, BW = 18) (
    input logic clk, input logic signed [AW-1:0] a, input logic signed [BW-1:0] b, output logic signed [AW+BW-1:0] p);
    localparam LONG_A = ((AW + `PIECE - 2) / `PIECE) * ((BW + 15) / 17), LONG_B = ((AW + 15) / 17) * ((BW + `PIECE - 2) / `PIECE);
    localparam PA = LONG_B < LONG_A ? 17 : `PIECE, PB = LONG_B < LONG_A ? `PIECE : 17;
    localparam NA = AW > 1 ? (AW + PA - 2) / PA : 1, NB = BW > 1 ? (BW + PB - 2) / PB : 1;
    localparam PW = AW + BW, N = NA * NB, M = (N + 1) / 2;
    wire signed [PA*NA:0] long_a = (PA * NA + 1)'(a);
    wire signed [PB*NB:0] long_b = (PB * NB + 1)'(b);
    wire [PW*(2*M)-1:0] parts;
    wire [PW*M-1:0] pairs;
    wire [PW*(M+1)-1:0] sums, carries; // of the pairs so far, carry-save; the last one only needs an adder
    genvar i;
    generate
        for (i = 0; i < 2 * M; i = i + 1) begin : part
            localparam ROW = i / NB, COLUMN = i % NB;
            if (i < N) begin : product
                wire signed [PA:0] x = ROW == NA - 1 ? long_a[PA*ROW +: PA+1] : {1'b0, long_a[PA*ROW +: PA]};
                wire signed [PB:0] y = COLUMN == NB - 1 ? long_b[PB*COLUMN +: PB+1] : {1'b0, long_b[PB*COLUMN +: PB]};
                logic signed [PA+PB+1:0] value;
                always_ff @(posedge clk) value <= x * y;
                assign parts[PW*i +: PW] = PW'(value) <<< (PA * ROW + PB * COLUMN);
            end else begin : none
                assign parts[PW*i +: PW] = 0;
            end
        end
        for (i = 0; i < M; i = i + 1) begin : pair
            logic signed [PW-1:0] sum;
            always_ff @(posedge clk) sum <= parts[PW*2*i +: PW] + parts[PW*(2*i+1) +: PW];
            assign pairs[PW*i +: PW] = sum;
            wire [PW-1:0] s = sums[PW*i +: PW], c = carries[PW*i +: PW];
            assign sums[PW*(i+1) +: PW] = s ^ c ^ sum;
            assign carries[PW*(i+1) +: PW] = ((s & c) | (s & sum) | (c & sum)) << 1;
        end
    endgenerate
    assign sums[PW-1:0] = 0;
    assign carries[PW-1:0] = 0;
    always_ff @(posedge clk) p <= sums[PW*M +: PW] + carries[PW*M +: PW];
endmodule

// C * x, three clocks later, without a multiplier: x shifted for every one of C's bits
module times_constant #(parameter C = 192, XW = 17, PW = 26) (
    input logic clk, input logic signed [XW-1:0] x, output logic signed [PW-1:0] p);
    localparam CB = $clog2(C + 1);
    wire signed [PW-1:0] sums [0:CB];
    logic signed [PW-1:0] held;
    logic signed [PW-1:0] product;
    assign sums[0] = 0;
    genvar i;
    generate
        for (i = 0; i < CB; i = i + 1) begin : bit_of
            if ((C >> i) % 2 == 1) assign sums[i+1] = sums[i] + (held <<< i);
            else assign sums[i+1] = sums[i];
        end
    endgenerate
    always_ff @(posedge clk) begin
        held <= PW'(x);
        product <= sums[CB];
        p <= product;
    end
endmodule

// clamp((v + 2^(e-1)) >> e), LEAST <= e <= MOST, three clocks later. (v >> (e-1)) + 1 >> 1 is the same.
module round_shift #(parameter IW = 48, OW = 8, SIGNED = 1, LEAST = 1, MOST = 62) (
    input logic clk, rst, in_valid, input logic signed [IW-1:0] v, input logic [5:0] e,
    output logic out_valid, output logic [OW-1:0] y);
    localparam WIDE = IW > OW + 2 ? IW : OW + 2, KEPT = WIDE - LEAST + 2 > OW + 2 ? WIDE - LEAST + 2 : OW + 2;
    localparam EB = LEAST == MOST ? 1 : $clog2(MOST - LEAST + 1); // of the part of the shift that varies
    wire [EB-1:0] rest = LEAST == MOST ? EB'(0) : EB'(e - 6'(LEAST));
    wire signed [WIDE-1:0] long_v = WIDE'(v);
    wire signed [WIDE-1:0] shifted_v = long_v >>> (LEAST - 1);
    wire signed [KEPT-1:0] least = KEPT'(shifted_v);
    logic signed [KEPT-1:0] shifted, rounded;
    wire [KEPT-OW:0] top = rounded[KEPT-1:OW-1]; // equal bits where the value fits
    wire below = rounded[KEPT-1], fits = SIGNED ? &top | ~|top : ~|top[KEPT-OW:1];
    logic [1:0] valid;
    always_ff @(posedge clk) begin
        shifted <= least >>> rest;
        rounded <= (shifted + KEPT'(2'sd1)) >>> 1;
        y <= fits ? rounded[OW-1:0] : SIGNED ? {below, {(OW - 1){~below}}} : {OW{~below}};
        {out_valid, valid} <= rst ? 3'd0 : {valid, in_valid};
    end
endmodule

// clamp((v * m + 2^(e-1)) >> e), six clocks later: `requantize`, and the end of many others
module rescale #(parameter IW = 24, MW = 32, OW = 8, SIGNED = 1, LEAST = 1, MOST = 62) (
    input logic clk, rst, in_valid, input logic signed [IW-1:0] v, input logic signed [MW-1:0] m, input logic [5:0] e,
    output logic out_valid, output logic [OW-1:0] y);
    wire signed [IW+MW-1:0] product;
    wire valid;
    wire [5:0] later;
    multiply #(.AW(IW), .BW(MW)) multiplier (.clk(clk), .a(v), .b(m), .p(product));
    delay #(.W(1), .N(3)) wait_valid (.clk(clk), .d(in_valid & ~rst), .q(valid));
    delay #(.W(6), .N(3)) wait_shift (.clk(clk), .d(e), .q(later));
    round_shift #(.IW(IW + MW), .OW(OW), .SIGNED(SIGNED), .LEAST(LEAST), .MOST(MOST)) ending (
        .clk(clk), .rst(rst), .in_valid(valid), .v(product), .e(later), .out_valid(out_valid), .y(y));
endmodule

// clamp((a * ma + b * mb + 2^(e-1)) >> e), seven clocks later: `add`
module join_add #(parameter AW = 24, BW = 16, MW = 32, OW = 16, LEAST = 1, MOST = 62) (
    input logic clk, rst, in_valid, input logic signed [AW-1:0] a, input logic signed [BW-1:0] b,
    input logic signed [MW-1:0] ma, mb, input logic [5:0] e, output logic out_valid, output logic [OW-1:0] y);
    localparam SW = (AW > BW ? AW : BW) + MW + 1;
    wire signed [AW+MW-1:0] pa;
    wire signed [BW+MW-1:0] pb;
    wire valid;
    wire [5:0] later;
    logic signed [SW-1:0] sum;
    multiply #(.AW(AW), .BW(MW)) of_a (.clk(clk), .a(a), .b(ma), .p(pa));
    multiply #(.AW(BW), .BW(MW)) of_b (.clk(clk), .a(b), .b(mb), .p(pb));
    always_ff @(posedge clk) sum <= SW'(pa) + SW'(pb);
    delay #(.W(1), .N(4)) wait_valid (.clk(clk), .d(in_valid & ~rst), .q(valid));
    delay #(.W(6), .N(4)) wait_shift (.clk(clk), .d(e), .q(later));
    round_shift #(.IW(SW), .OW(OW), .LEAST(LEAST), .MOST(MOST)) ending (
        .clk(clk), .rst(rst), .in_valid(valid), .v(sum), .e(later), .out_valid(out_valid), .y(y));
endmodule

// floor(a / b) < 2^QW and the remainder, QW clocks later; a stage for every bit of the quotient
module divide #(parameter NW = 13, DW = 8, QW = 5) (
    input logic clk, input logic [NW-1:0] a, input logic [DW-1:0] b, output logic [QW-1:0] q, output logic [DW-1:0] r);
    localparam AW = NW > QW + DW ? NW : QW + DW;
    wire [AW-1:0] long_a = AW'(a);
    wire [(DW+1)*(QW+1)-1:0] rests; // remainder before each stage
    wire [QW*(QW+1)-1:0] digits;    // quotient so far, above the digits of a that are left
    wire [DW*(QW+1)-1:0] divisors;
    assign rests[DW:0] = (DW + 1)'(long_a >> QW);
    assign digits[QW-1:0] = long_a[QW-1:0];
    assign divisors[DW-1:0] = b;
    genvar i;
    generate
        for (i = 0; i < QW; i = i + 1) begin : stage
            wire [DW:0] prior = {rests[(DW+1)*i +: DW], digits[QW*i+QW-1]};
            wire [DW+1:0] less = {1'b0, prior} - {2'b0, divisors[DW*i +: DW]};
            wire fits = ~less[DW+1];
            logic [DW:0] rest;
            logic [QW-1:0] digit;
            logic [DW-1:0] held;
            always_ff @(posedge clk) begin
                rest <= fits ? less[DW:0] : prior;
                digit <= QW'({digits[QW*i +: QW], fits});
                held <= divisors[DW*i +: DW];
            end
            assign rests[(DW+1)*(i+1) +: DW+1] = rest;
            assign digits[QW*(i+1) +: QW] = digit;
            assign divisors[DW*(i+1) +: DW] = held;
        end
    endgenerate
    assign q = digits[QW*QW +: QW];
    assign r = rests[(DW+1)*QW +: DW];
endmodule

// floor(a / b), NW + 1 clocks after start, a bit a clock; done for one clock
module serial_divide #(parameter NW = 47, DW = 24) (
    input logic clk, rst, start, input logic [NW-1:0] a, input logic [DW-1:0] b, output logic done, output logic [NW-1:0] q);
    logic [DW-1:0] rest, divisor;
    logic [7:0] left;
    wire [DW:0] prior = {rest, q[NW-1]};
    wire [DW+1:0] less = {1'b0, prior} - {2'b0, divisor};
    wire fits = ~less[DW+1];
    always_ff @(posedge clk) begin
        done <= ~rst & left == 8'd1;
        if (rst) left <= 0;
        else if (start) begin
            q <= a; divisor <= b; rest <= 0; left <= 8'(NW);
        end else if (left != 0) begin
            left <= left - 8'd1;
            rest <= fits ? less[DW-1:0] : prior[DW-1:0];
            q <= {q[NW-2:0], fits};
        end
    end
endmodule

// floor(sqrt(v)), W / 2 + 1 clocks after start (W even), a bit a clock; done for one clock
module serial_root #(parameter W = 48) (
    input logic clk, rst, start, input logic [W-1:0] v, output logic done, output logic [W/2-1:0] root);
    logic [W-1:0] digits;
    logic [W/2+1:0] rest;
    logic [7:0] left;
    wire [W/2+1:0] prior = {rest[W/2-1:0], digits[W-1:W-2]};
    wire [W/2+2:0] less = {1'b0, prior} - {1'b0, root, 2'b01};
    wire fits = ~less[W/2+2];
    always_ff @(posedge clk) begin
        done <= ~rst & left == 8'd1;
        if (rst) left <= 0;
        else if (start) begin
            digits <= v; rest <= 0; root <= 0; left <= 8'(W / 2);
        end else if (left != 0) begin
            left <= left - 8'd1;
            digits <= digits << 2;
            rest <= fits ? less[W/2+1:0] : prior;
            root <= {root[W/2-2:0], fits};
        end
    end
endmodule

// Any function of few bits, a clock later: 2^AW words of FILE
module table_lookup #(parameter AW = 8, OW = 8, FILE = "") (
    input logic clk, rst, in_valid, input logic [AW-1:0] in, output logic out_valid, output logic [OW-1:0] out);
    logic [OW-1:0] memory [0:2**AW-1];
    initial $readmemh(FILE, memory);
    always_ff @(posedge clk) begin
        out <= memory[in];
        out_valid <= in_valid & ~rst;
    end
endmodule

// Constants by channel, two clocks after `next`: C words of FILE, over and over
module channel_constants #(parameter C = 192, W = 38, FILE = "") (
    input logic clk, rst, next, output logic [W-1:0] word);
    localparam CB = C > 1 ? $clog2(C) : 1;
    logic [W-1:0] memory [0:C-1];
    logic [W-1:0] read;
    logic [CB-1:0] channel;
    initial $readmemh(FILE, memory);
    always_ff @(posedge clk) begin
        read <= memory[channel];
        word <= read;
        if (rst) channel <= 0;
        else if (next) channel <= channel == CB'(C - 1) ? 0 : channel + 1'b1;
    end
endmodule

// A column of multiply-accumulate cells: K codes x, each with LANES weights, give LANES sums and their biases
module mac_column #(parameter K = 192, LANES = 8, XW = 8, WW = 8, SW = 24) (
    input logic clk, rst, in_valid, input logic signed [XW-1:0] x, input logic [LANES*WW-1:0] weights,
    input logic [LANES*SW-1:0] biases, output logic out_valid, output logic [LANES*SW-1:0] sums);
    localparam KB = K > 1 ? $clog2(K) : 1;
    logic [KB-1:0] count;
    logic valid, first, last;
    genvar i;
    generate
        for (i = 0; i < LANES; i = i + 1) begin : lane
            wire signed [WW-1:0] weight = weights[WW*i +: WW];
            wire signed [SW-1:0] bias = biases[SW*i +: SW];
            logic signed [XW+WW-1:0] product;
            logic signed [SW-1:0] sum;
            always_ff @(posedge clk) begin
                product <= x * weight;
                if (valid) sum <= (first ? bias : sum) + SW'(product);
            end
            assign sums[SW*i +: SW] = sum;
        end
    endgenerate
    always_ff @(posedge clk) begin
        valid <= in_valid & ~rst;
        first <= count == 0;
        last <= count == KB'(K - 1);
        out_valid <= valid & last & ~rst;
        if (rst) count <= 0;
        else if (in_valid) count <= count == KB'(K - 1) ? 0 : count + 1'b1;
    end
endmodule
