// The families of exponentials and GELUs: functions of one code. Constants come in as parameters. Distances are max - x >= 0.

// Shiftmax's mantissa and doublings of a distance, QW + 4 clocks later: E = mantissa << doublings
module shift_parts #(parameter DW = 8, F = 0, X0 = 16, N = 15, XW = 5, QW = 4) (
    input logic clk, input logic [DW-1:0] distance, output logic [XW-1:0] mantissa, output logic [QW-1:0] doublings);
    localparam PW = DW + F + 1 > XW + QW ? DW + F + 1 : XW + QW;
    wire [PW-1:0] long_distance = PW'(distance) << F;
    logic [PW-1:0] more, less, steps, capped;
    wire [XW-1:0] rest;
    wire [QW-1:0] quotient;
    divide #(.NW(PW), .DW(XW), .QW(QW)) halve (.clk(clk), .a(capped), .b(XW'(X0)), .q(quotient), .r(rest));
    always_ff @(posedge clk) begin
        more <= long_distance + (long_distance >> 1) + PW'(long_distance[0]);
        less <= (long_distance + PW'(15)) >> 4;
        steps <= more - less;
        capped <= steps > PW'(N * X0) ? PW'(N * X0) : steps;
        mantissa <= XW'(X0) - XW'(({1'b0, rest} + 1'b1) >> 1);
        doublings <= QW'(N) - quotient;
    end
endmodule

// I-BERT's exponential of a distance, QW + 8 clocks later
module polynomial_exponential #(parameter DW = 8, F = 0, X0 = 12, N = 31, XW = 4, QW = 5, B = 21, C = 245, U = 19,
    VW = 6, SW = 12, EW = 31) ( // VW: bits of B - rest, SW: of its square plus C
    input logic clk, input logic [DW-1:0] distance, output logic [EW-1:0] value);
    localparam PW = DW + F > XW + QW ? DW + F : XW + QW;
    wire [PW-1:0] steps = PW'(distance) << F;
    logic [PW-1:0] capped;
    wire [XW-1:0] rest;
    wire [QW-1:0] quotient, later;
    logic signed [VW-1:0] v;
    wire signed [2*VW-1:0] square;
    logic signed [SW-1:0] total;
    localparam TW = SW + (U + 1 > 0 ? U + 1 : 0);
    logic [TW-1:0] shifted; // twice the value, floored: its rounded half is (P >> (k - 1)) + 1 >> 1
    logic [QW-1:0] amount;
    wire [TW-1:0] long_total = U + 1 > 0 ? TW'($unsigned(total)) << (U + 1) : TW'($unsigned(total)) >> -(U + 1);
    divide #(.NW(PW), .DW(XW), .QW(QW)) halve (.clk(clk), .a(capped), .b(XW'(X0)), .q(quotient), .r(rest));
    multiply #(.AW(VW), .BW(VW)) squarer (.clk(clk), .a(v), .b(v), .p(square));
    delay #(.W(QW), .N(4)) wait_quotient (.clk(clk), .d(quotient), .q(later));
    always_ff @(posedge clk) begin
        capped <= steps > PW'(N * X0) ? PW'(N * X0) : steps;
        v <= VW'(B) - VW'($signed({1'b0, rest}));
        total <= SW'(square) + SW'(C);
        amount <= later;
        shifted <= long_total >> amount;
        value <= EW'((shifted + 1'b1) >> 1);
    end
endmodule

// Piecewise polynomials of degree D, 4 D + 3 clocks later. Packed constants, the first one in the low bits.
module piecewise #(parameter S = 2, D = 2, XW = 9, CW = 32, VW = 34, G = 4,
    BOUNDS = 0, ORIGINS = 0, COEFFICIENTS = 0) (
    input logic clk, input logic signed [XW-1:0] x, output logic signed [VW-1:0] value);
    localparam IB = S > 1 ? $clog2(S) : 1;
    wire [(S > 1 ? S - 1 : 1)*XW-1:0] bounds = BOUNDS;
    wire [S*XW-1:0] origins = ORIGINS;
    wire [S*(D+1)*CW-1:0] coefficients = COEFFICIENTS;
    wire signed [XW-1:0] origin_of [0:S-1];
    wire [(D+1)*CW-1:0] coefficients_of [0:S-1]; // so that no address is a product
    logic [(S > 1 ? S - 1 : 1)-1:0] passed; // ones up to the last bound that x reaches
    wire [IB-1:0] count;
    genvar i, j;
    generate
        for (i = 0; i < S - 1; i = i + 1) begin : segment
            always_ff @(posedge clk) passed[i] <= $signed(bounds[XW*i +: XW]) <= x;
        end
        if (S == 1) always_ff @(posedge clk) passed <= 0;
        for (i = 0; i < S; i = i + 1) begin : piece
            assign origin_of[i] = origins[XW*i +: XW];
            assign coefficients_of[i] = coefficients[(D+1)*CW*i +: (D+1)*CW];
        end
        for (j = 0; j < IB; j = j + 1) begin : digit // of how many those are: parity of every 2^j-th
            wire [(S > 1 ? S - 1 : 1)-1:0] chosen_bounds;
            for (i = 0; i < (S > 1 ? S - 1 : 1); i = i + 1) begin : bound
                assign chosen_bounds[i] = (i + 1) % (1 << j) == 0 ? passed[i] : 1'b0;
            end
            assign count[j] = ^chosen_bounds;
        end
    endgenerate
    logic [IB-1:0] index;
    logic signed [XW-1:0] earlier, held;
    logic signed [XW:0] t;
    logic [(D+1)*CW-1:0] chosen;
    always_ff @(posedge clk) begin
        index <= count;
        earlier <= x;
        held <= earlier;
        t <= (XW + 1)'(held) - (XW + 1)'(origin_of[index]);
        chosen <= coefficients_of[index];
    end
    wire signed [VW-1:0] values [0:D];
    assign values[D] = VW'($signed(chosen[D*CW +: CW]));
    generate
        for (i = D - 1; i >= 0; i = i - 1) begin : horner
            localparam LATE = 4 * (D - 1 - i);
            wire signed [XW:0] factor;
            wire signed [CW-1:0] constant;
            wire signed [VW+XW:0] product;
            logic signed [VW-1:0] sum;
            delay #(.W(XW + 1), .N(LATE)) wait_t (.clk(clk), .d(t), .q(factor));
            delay #(.W(CW), .N(LATE + 3)) wait_c (.clk(clk), .d(chosen[i*CW +: CW]), .q(constant));
            multiply #(.AW(VW), .BW(XW + 1)) multiplier (.clk(clk), .a(values[i+1]), .b(factor), .p(product));
            // (product + 2^(G-1) >> G) + constant, as one sum
            wire signed [VW+XW:0] shifted_constant = (VW + XW + 1)'($signed({constant, 1'b1})) <<< (G - 1);
            always_ff @(posedge clk) sum <= VW'((product + shifted_constant) >>> G);
            assign values[i] = sum;
        end
    endgenerate
    assign value = values[0];
endmodule

// I-BERT's GELU before its multiplier, y * (L + one), 10 clocks later
module polynomial_gelu #(parameter XW = 8, F = 4, B = 41, C = 1773, ONE = 1773, AW = 12, EW = 40) ( // magnitudes
    input logic clk, input logic signed [XW-1:0] x, output logic signed [XW+F+EW-1:0] value);
    localparam YW = XW + F;
    logic signed [YW-1:0] y;
    logic [YW-1:0] magnitude;
    logic signed [AW:0] a;
    wire signed [2*AW+1:0] square;
    wire [1:0] sign; // of y: zero, negative
    wire signed [YW-1:0] factor;
    logic signed [EW-1:0] erf, sum;
    multiply #(.AW(AW + 1), .BW(AW + 1)) squarer (.clk(clk), .a(a), .b(a), .p(square));
    delay #(.W(2), .N(5)) wait_sign (.clk(clk), .d({y == 0, y < 0}), .q(sign));
    delay #(.W(YW), .N(7)) wait_y (.clk(clk), .d(y), .q(factor));
    multiply #(.AW(YW), .BW(EW)) multiplier (.clk(clk), .a(factor), .b(sum), .p(value));
    always_ff @(posedge clk) begin
        y <= YW'(x) <<< F;
        magnitude <= y < 0 ? YW'(-y) : YW'(y);
        a <= magnitude > YW'(B) ? 0 : (AW + 1)'($signed({1'b0, magnitude})) - (AW + 1)'(B);
        erf <= sign[1] ? 0 : sign[0] ? EW'(C) - EW'(square) : EW'(square) - EW'(C);
        sum <= erf - EW'(ONE);
    end
endmodule
