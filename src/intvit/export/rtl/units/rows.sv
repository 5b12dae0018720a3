// Units that work on rows: N elements in, N elements out. `ready` units take the next row only when they say so.

// Holds the input back from the end of a row until the unit behind, which sees it later, is done with that row
module row_gate #(parameter N = 197) (input logic clk, rst, in_valid, ready, output logic in_ready);
    localparam NB = $clog2(N + 1);
    logic [NB-1:0] taken;
    logic waiting, busy;
    assign in_ready = ~waiting;
    always_ff @(posedge clk) begin
        busy <= ~ready;
        if (rst) begin
            taken <= 0; waiting <= 0;
        end else if (in_valid) begin
            taken <= taken == NB'(N - 1) ? 0 : taken + 1'b1;
            waiting <= taken == NB'(N - 1);
        end else if (busy & ready) waiting <= 0;
    end
endmodule

// Every element again, N clocks or more later, with the maximum of its row, in which those to skip do not count; rows may follow
// each other without a gap
module row_maximum #(parameter W = 8, N = 197) (
    input logic clk, rst, in_valid, input logic signed [W-1:0] in, input logic skip,
    output logic out_valid, output logic signed [W-1:0] out, maximum, output logic skipped);
    localparam NB = $clog2(N + 1);
    logic [W:0] memory [0:2*N-1];
    logic [W:0] read;
    logic signed [W-1:0] found_then;
    logic valid;
    logic signed [W-1:0] largest, found;
    logic [NB-1:0] count, left;
    logic bank, any;
    wire signed [W-1:0] now = ~skip & (~any | in > largest) ? in : largest;
    wire last = count == NB'(N - 1);
    always_ff @(posedge clk) begin
        if (in_valid) memory[bank ? N + count : count] <= {skip, in};
        read <= memory[bank ? N - left : 2 * N - left]; // the bank that is not written
        {skipped, out} <= read;
        found_then <= found;
        maximum <= found_then;
        valid <= left != 0 & ~rst;
        out_valid <= valid & ~rst;
        if (rst) begin
            count <= 0; left <= 0; bank <= 0; any <= 0;
        end else begin
            if (left != 0) left <= left - 1'b1;
            if (in_valid) begin
                largest <= now;
                any <= ~last & (any | ~skip);
                count <= last ? 0 : count + 1'b1;
                if (last) begin
                    bank <= ~bank; found <= now; left <= NB'(N);
                end
            end
        end
    end
endmodule

// Probabilities of a row of N exponentials: round (E * F / 2^SHIFT), F = floor(NUMERATOR / sum), or rounded down
module normalize_row #(parameter EW = 31, N = 197, OW = 8, FW = 46, SHIFT = 38, ROUNDED = 1) ( // NUMERATOR = 2^FW - 1
    input logic clk, rst, in_valid, input logic [EW-1:0] in, output logic ready, out_valid, output logic [OW-1:0] out);
    localparam NB = $clog2(N + 1);
    logic [EW-1:0] memory [0:N-1];
    logic [EW-1:0] read, entry;
    logic [30:0] sum; // < 2^31 in every program
    logic [NB-1:0] count, left;
    logic start, read_valid, valid;
    wire done;
    wire [FW-1:0] factor;
    serial_divide #(.NW(FW), .DW(31)) divider (
        .clk(clk), .rst(rst), .start(start), .a({FW{1'b1}}), .b(sum), .done(done), .q(factor));
    wire signed [EW+FW+1:0] product;
    wire later;
    multiply #(.AW(EW + 1), .BW(FW + 1)) multiplier (.clk(clk), .a({1'b0, entry}), .b({1'b0, factor}), .p(product));
    delay #(.W(1), .N(3)) wait_valid (.clk(clk), .d(valid & ~rst), .q(later));
    generate
        if (ROUNDED) begin : rounding
            round_shift #(.IW(EW + FW + 2), .OW(OW), .SIGNED(0), .LEAST(SHIFT), .MOST(SHIFT)) ending (
                .clk(clk), .rst(rst), .in_valid(later), .v(product), .e(6'(SHIFT)), .out_valid(out_valid), .y(out));
        end else begin : flooring
            always_ff @(posedge clk) begin
                out <= OW'(product >>> SHIFT);
                out_valid <= later & ~rst;
            end
        end
    endgenerate
    always_ff @(posedge clk) begin
        start <= 0;
        read_valid <= left != 0;
        valid <= read_valid & ~rst;
        read <= memory[N - left];
        entry <= read;
        if (in_valid) memory[count] <= in;
        if (rst) begin
            count <= 0; left <= 0; ready <= 1;
        end else begin
            if (in_valid) begin
                sum <= (count == 0 ? 31'd0 : sum) + 31'(in);
                count <= count == NB'(N - 1) ? 0 : count + 1'b1;
                if (count == NB'(N - 1)) begin
                    start <= 1; ready <= 0;
                end
            end
            if (done) left <= NB'(N);
            if (left != 0) begin
                left <= left - 1'b1;
                ready <= left == 1;
            end
        end
    end
endmodule

// The division of a deferred softmax: K weights of a row, then, when `ready` again, its sums, each times floor(M / sum of weights)
module weighted_mean #(parameter K = 197, WW = 8, AW = 24, MW = 47, FW = 40, SHIFT = 46, OW = 8, M = 1) (
    input logic clk, rst, weight_valid, input logic [WW-1:0] weight, input logic sum_valid, input logic signed [AW-1:0] sum,
    output logic ready, out_valid, output logic [OW-1:0] out);
    localparam KB = $clog2(K + 1), TW = WW + KB;
    logic [KB-1:0] count;
    logic [TW-1:0] total;
    logic start;
    wire done;
    wire [MW-1:0] factor; // < 2^FW
    serial_divide #(.NW(MW), .DW(TW)) divider (
        .clk(clk), .rst(rst), .start(start), .a(MW'(M)), .b(total), .done(done), .q(factor));
    rescale #(.IW(AW), .MW(FW + 1), .OW(OW), .LEAST(SHIFT), .MOST(SHIFT)) ending (
        .clk(clk), .rst(rst), .in_valid(sum_valid), .v(sum), .m({1'b0, factor[FW-1:0]}), .e(6'(SHIFT)), .out_valid(out_valid), .y(out));
    always_ff @(posedge clk) begin
        start <= weight_valid & count == KB'(K - 1) & ~rst;
        if (rst) begin
            count <= 0; ready <= 1;
        end else begin
            if (weight_valid) begin
                total <= (count == 0 ? TW'(0) : total) + TW'(weight);
                count <= count == KB'(K - 1) ? 0 : count + 1'b1;
                if (count == KB'(K - 1)) ready <= 0;
            end
            if (done) ready <= 1;
        end
    end
endmodule

// ShiftGELU before its multiplier, x * sigmoid, for every element and its row's maximum
module shift_gelu #(parameter XW = 8, F = 0, X0 = 16, N = 15, LW = 5, QW = 4, LIMIT = 127, K = 46, G = 16, AW = 31, RW = 46) (
    input logic clk, rst, in_valid, input logic signed [XW-1:0] x, maximum,
    output logic out_valid, output logic signed [XW+G+1:0] value);
    localparam LATE = 3 + QW + 3 + 1 + 1; // clocks until the sum of the exponentials is there
    logic signed [XW-1:0] top, first;
    logic [XW-1:0] of_x, of_zero;
    wire [LW-1:0] mantissa_x, mantissa_zero;
    wire [QW-1:0] doublings_x, doublings_zero;
    logic [AW-1:0] a, b, a_held;
    logic [AW-1:0] sum;
    wire [AW-1:0] a_later;
    wire [RW-1:0] factor;
    wire [AW-1:0] rest;
    wire signed [AW+RW+1:0] ratio;
    logic signed [G+1:0] sigmoid;
    wire signed [XW-1:0] x_later;
    shift_parts #(.DW(XW), .F(F), .X0(X0), .N(N), .XW(LW), .QW(QW)) parts_x (
        .clk(clk), .distance(of_x), .mantissa(mantissa_x), .doublings(doublings_x));
    shift_parts #(.DW(XW), .F(F), .X0(X0), .N(N), .XW(LW), .QW(QW)) parts_zero (
        .clk(clk), .distance(of_zero), .mantissa(mantissa_zero), .doublings(doublings_zero));
    divide #(.NW(K), .DW(AW), .QW(RW)) divider (.clk(clk), .a({K{1'b1}}), .b(sum), .q(factor), .r(rest));
    delay #(.W(AW), .N(RW)) wait_a (.clk(clk), .d(a_held), .q(a_later));
    multiply #(.AW(AW + 1), .BW(RW + 1)) multiplier (.clk(clk), .a({1'b0, a_later}), .b({1'b0, factor}), .p(ratio));
    delay #(.W(XW), .N(LATE + RW + 4)) wait_x (.clk(clk), .d(x), .q(x_later));
    multiply #(.AW(XW), .BW(G + 2)) ending (.clk(clk), .a(x_later), .b(sigmoid), .p(value));
    delay #(.W(1), .N(LATE + RW + 7)) wait_valid (.clk(clk), .d(in_valid & ~rst), .q(out_valid));
    always_ff @(posedge clk) begin
        first <= x > XW'(LIMIT) ? XW'(LIMIT) : x;
        top <= maximum < 0 ? 0 : maximum > XW'(LIMIT) ? XW'(LIMIT) : maximum;
        of_x <= XW'(top - first);
        of_zero <= XW'(top);
        a <= AW'(mantissa_x) << doublings_x;
        b <= AW'(mantissa_zero) << doublings_zero;
        sum <= a + b;
        a_held <= a;
        sigmoid <= (G + 2)'(ratio >>> (K - G));
    end
endmodule
