// LayerNorm of a row of C elements. METHOD 0: exact, 1: ivit (NEWTON steps, or the exact root), 2: ibert (squares after >> SQUARE).
// A row in, when ready; then sums, root and reciprocal one after the other, a bit a clock; then the row out, one element a clock.

module layernorm #(parameter METHOD = 0, C = 192, XW = 16, OW = 8, K = 15, SQUARE = 0, NEWTON = 0, NW = 33, MW = 32, BW = 54,
    LEAST = 1, MOST = 46, FILE = "") ( // NW: bits of the normalized value; FILE: a word {shift, bias, multiplier} for every channel
    input logic clk, rst, in_valid, input logic signed [XW-1:0] in, output logic ready, out_valid, output logic [OW-1:0] out);
    localparam CB = $clog2(C + 1), SW = XW + CB, QW = 2 * XW + CB + 1, YW = SW + 2, FW = 41;
    localparam RW = 2 * ((METHOD == 0 ? 2 * SW : QW) / 2 + 1), RB = RW / 2, DW = RB + SQUARE > 18 ? RB + SQUARE : 18;
    localparam TW = QW > FW + 1 ? QW : FW + 1, WIDEST = RW > SW + CB + 4 ? RW : SW + CB + 4, VW = WIDEST > FW ? WIDEST : FW;
    localparam LOAD = 0, SETTLE = 1, MEAN = 2, AGAIN = 3, RADICAND = 4, ROOT = 5, STEP = 6, DIVIDE = 7, EMIT = 8;
    logic [3:0] state;
    logic [4:0] waited, steps;

    // the row: written while it comes in, read in sweeps
    logic signed [XW-1:0] memory [0:C-1];
    logic signed [XW-1:0] read, entry;
    logic [CB-1:0] count, place;
    logic sweeping, read_valid, entry_valid;
    wire last = count == CB'(C - 1), swept = place == CB'(C - 1);
    wire signed [XW:0] centered = (XW + 1)'(entry) - mean;

    // its sums
    logic signed [SW-1:0] sum;
    logic signed [QW-1:0] squares;
    logic signed [XW:0] term, mean;
    logic term_valid;
    wire signed [2*XW+1:0] square;
    wire square_valid;
    multiply #(.AW(XW + 1), .BW(XW + 1)) squarer (.clk(clk), .a(term), .b(term), .p(square));
    delay #(.W(1), .N(3)) wait_square (.clk(clk), .d(term_valid & ~rst), .q(square_valid));

    // root and quotients
    logic start_root, start_divide, zero;
    logic [RW-1:0] radicand;
    logic [VW-1:0] numerator;
    logic [DW-1:0] denominator, root;
    logic [FW-1:0] factor;
    wire root_done, divide_done;
    wire [RB-1:0] exact_root;
    wire [VW-1:0] quotient;
    serial_root #(.W(RW)) rooter (.clk(clk), .rst(rst), .start(start_root), .v(radicand), .done(root_done), .root(exact_root));
    serial_divide #(.NW(VW), .DW(DW)) divider (
        .clk(clk), .rst(rst), .start(start_divide), .a(numerator), .b(denominator), .done(divide_done), .q(quotient));

    // C * mean or C * entry; and the multiplier that states share: for the radicand, then y * factor
    logic signed [XW:0] scaled_of;
    wire signed [XW+CB+1:0] scaled;
    logic signed [YW-1:0] left;
    logic signed [TW-1:0] right;
    wire signed [YW+TW-1:0] product;
    times_constant #(.C(C), .XW(XW + 1), .PW(XW + CB + 2)) by_size (.clk(clk), .x(scaled_of), .p(scaled));
    multiply #(.AW(YW), .BW(TW)) shared (.clk(clk), .a(left), .b(right), .p(product));

    // y * factor >> K, times the channel's multiplier, plus its bias, rounded
    localparam LW = (NW + MW > BW ? NW + MW : BW) + 1;
    logic signed [NW-1:0] n;
    logic signed [LW-1:0] total;
    localparam EW = LEAST == MOST ? 0 : 6;
    wire [EW+BW+MW-1:0] word;
    wire signed [NW+MW-1:0] times;
    wire signed [BW-1:0] bias;
    wire [5:0] e;
    wire product_soon, total_valid;
    delay #(.W(1), .N(METHOD == 0 ? 7 : 3)) wait_product ( // a clock before the product, as constants come two later
        .clk(clk), .d(entry_valid & state == EMIT & ~rst), .q(product_soon));
    channel_constants #(.C(C), .W(EW + BW + MW), .FILE(FILE)) constants (.clk(clk), .rst(rst), .next(product_soon), .word(word));
    multiply #(.AW(NW), .BW(MW)) by_channel (.clk(clk), .a(n), .b($signed(word[MW-1:0])), .p(times));
    delay #(.W(BW), .N(3)) wait_bias (.clk(clk), .d(word[MW +: BW]), .q(bias));
    delay #(.W(6), .N(4)) wait_shift (.clk(clk), .d(6'(word >> (MW + BW))), .q(e));
    delay #(.W(1), .N(6)) wait_total (.clk(clk), .d(product_soon), .q(total_valid));
    round_shift #(.IW(LW), .OW(OW), .LEAST(LEAST), .MOST(MOST)) ending (
        .clk(clk), .rst(rst), .in_valid(total_valid), .v(total), .e(e), .out_valid(out_valid), .y(out));

    always_ff @(posedge clk) begin
        start_root <= 0; start_divide <= 0;
        read <= memory[place];
        entry <= read;
        read_valid <= sweeping;
        entry_valid <= read_valid;
        if (in_valid) memory[count] <= in;
        term <= state == AGAIN ? centered >>> SQUARE : (XW + 1)'(in);
        term_valid <= state == AGAIN ? entry_valid : in_valid;
        scaled_of <= state == EMIT ? (XW + 1)'(entry) : mean;
        if (square_valid) squares <= squares + QW'(square);
        n <= NW'(product >>> K);
        total <= LW'(times) + LW'(bias);
        if (state == EMIT) begin
            left <= METHOD == 0 ? YW'(scaled) - YW'(sum) : YW'(centered);
            right <= TW'($signed({1'b0, factor}));
        end
        waited <= waited + 1'b1;
        if (sweeping) begin
            place <= swept ? 0 : place + 1'b1;
            if (swept) sweeping <= 0;
        end
        case (state)
            LOAD: begin
                waited <= 0;
                if (in_valid) begin
                    sum <= (count == 0 ? SW'(0) : sum) + SW'(in);
                    count <= last ? 0 : count + 1'b1;
                    if (last) begin
                        state <= SETTLE; ready <= 0;
                    end
                end
            end
            SETTLE: if (waited == 6) begin // the last squares are there
                waited <= 0;
                state <= METHOD == 0 ? RADICAND : MEAN;
                start_divide <= METHOD != 0;
                numerator <= (VW'(sum) <<< 1) + (VW'(C) + (VW'(2 * C) << (XW + 1))); // positive: rounds down
                denominator <= DW'(2 * C);
            end
            MEAN: begin
                waited <= 0;
                if (divide_done) begin
                    mean <= (XW + 1)'(quotient - (VW'(1) << (XW + 1)));
                    state <= METHOD == 2 ? AGAIN : RADICAND;
                    if (METHOD == 2) begin
                        squares <= 0; sweeping <= 1;
                    end
                end
            end
            AGAIN: begin // squares of the shifted distances from the mean
                if (sweeping) waited <= 0;
                if (waited == 8) begin
                    waited <= 0; state <= RADICAND;
                end
            end
            RADICAND: begin // C squares - sum^2; or squares - mean (2 sum - C mean); or squares
                if (waited == 6) begin
                    left <= METHOD == 0 ? YW'(C) : YW'(mean);
                    right <= METHOD == 0 ? TW'(squares) : (TW'(sum) <<< 1) - TW'(scaled);
                end
                if (waited == 12) begin
                    radicand <= METHOD == 0 ? RW'(product) : METHOD == 1 ? RW'(squares) - RW'(product) : RW'(squares);
                    left <= YW'(sum);
                    right <= TW'(sum);
                end
                if (waited == 18) begin
                    if (METHOD == 0) radicand <= radicand - RW'(product);
                    start_root <= 1; state <= ROOT;
                end
            end
            ROOT: begin
                waited <= 0;
                if (root_done) begin
                    zero <= METHOD == 1 ? radicand == 0 : exact_root == 0;
                    root <= NEWTON != 0 ? DW'(65536) : DW'(exact_root) << SQUARE;
                    steps <= 5'(NEWTON);
                    state <= STEP;
                end
            end
            STEP: if (steps == 0) begin
                numerator <= METHOD == 0 ? VW'(1) << 40 : VW'(31'h7fffffff);
                denominator <= root;
                start_divide <= 1; state <= DIVIDE;
            end else if (waited == 0) begin
                numerator <= VW'(radicand);
                denominator <= root;
                start_divide <= 1;
            end else begin
                waited <= 1;
                if (divide_done) begin
                    root <= DW'((VW'(root) + quotient) >> 1);
                    steps <= steps - 1'b1; waited <= 0;
                end
            end
            DIVIDE: begin
                waited <= 0;
                if (divide_done) begin
                    factor <= zero ? FW'(0) : quotient[FW-1:0];
                    sweeping <= 1; state <= EMIT;
                end
            end
            default: begin // EMIT
                if (sweeping) waited <= 0;
                if (waited == 10) begin
                    state <= LOAD; ready <= 1; squares <= 0;
                end
            end
        endcase
        if (rst) begin
            state <= LOAD; count <= 0; place <= 0; sweeping <= 0; ready <= 1; squares <= 0; term_valid <= 0;
        end
    end
endmodule
