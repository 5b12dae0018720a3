// What joins units to a block: buffers of rows, linear layers and attention with their memories. A buffer sends a row when it is
// whole and `go` says that what follows can take all that becomes of it; `started` then reserves the place there, which `room` told of.
// So nothing needs to be stopped in the middle of a row.

// ROWS rows of N elements; each is sent TIMES times, one element a clock, then its place is free
module row_buffer #(parameter W = 8, N = 192, ROWS = 2, TIMES = 1) (
    input logic clk, rst, in_valid, input logic [W-1:0] in, input logic reserve, output logic room,
    input logic go, output logic started, out_valid, again, output logic [W-1:0] out); // again: not the first time
    localparam AB = $clog2(N * ROWS + 1), NB = $clog2(N + 1), RB = $clog2(ROWS + 1), TB = $clog2(TIMES + 1);
    logic [W-1:0] memory [0:N*ROWS-1];
    logic [W-1:0] read;
    logic [AB-1:0] put, from, first; // first: of the row that is sent
    logic [NB-1:0] filled, sent;
    logic [RB-1:0] whole, reserved;
    logic [TB-1:0] pass;
    logic [2:0] pause;  // what follows says late that it is busy
    logic sending, read_valid, read_again;
    wire whole_now = in_valid & filled == NB'(N - 1), pass_ends = sent == NB'(N - 1), ends = sending & pass_ends & pass == TB'(TIMES - 1);
    wire [AB-1:0] next_row = first == AB'(N * (ROWS - 1)) ? 0 : first + AB'(N);
    assign room = reserved < RB'(ROWS);
    assign started = ~sending & pause == 0 & whole != 0 & go;
    always_ff @(posedge clk) begin
        if (in_valid) memory[put] <= in;
        read <= memory[from];
        out <= read;
        read_valid <= sending & ~rst;
        out_valid <= read_valid & ~rst;
        read_again <= pass != 0;
        again <= read_again;
        if (rst) begin
            put <= 0; from <= 0; first <= 0; filled <= 0; sent <= 0; whole <= 0; reserved <= 0; pass <= 0; pause <= 0; sending <= 0;
        end else begin
            whole <= whole + RB'(whole_now) - RB'(ends);
            reserved <= reserved + RB'(reserve) - RB'(ends);
            if (in_valid) begin
                put <= put == AB'(N * ROWS - 1) ? 0 : put + 1'b1;
                filled <= whole_now ? 0 : filled + 1'b1;
            end
            if (pause != 0) pause <= pause - 1'b1;
            if (started) sending <= 1;
            if (sending) begin
                sent <= pass_ends ? 0 : sent + 1'b1;
                from <= ~pass_ends ? from + 1'b1 : ends ? next_row : first;
                if (pass_ends) pass <= ends ? 0 : pass + 1'b1;
                if (ends) begin
                    sending <= 0; pause <= 7; first <= next_row;
                end
            end
        end
    end
endmodule

// ROWS rows of N elements, the next of which comes two clocks after `next`: the stream that a block adds to
module residual_buffer #(parameter W = 16, N = 192, ROWS = 199) (
    input logic clk, rst, in_valid, input logic [W-1:0] in, input logic reserve, output logic room,
    input logic next, output logic [W-1:0] out);
    localparam AB = $clog2(N * ROWS + 1), NB = $clog2(N + 1), RB = $clog2(ROWS + 1);
    logic [W-1:0] memory [0:N*ROWS-1];
    logic [W-1:0] read;
    logic [AB-1:0] put, from;
    logic [NB-1:0] taken;
    logic [RB-1:0] reserved;
    wire ends = next & taken == NB'(N - 1);
    assign room = reserved < RB'(ROWS);
    always_ff @(posedge clk) begin
        if (in_valid) memory[put] <= in;
        read <= memory[from];
        out <= read;
        if (rst) begin
            put <= 0; from <= 0; taken <= 0; reserved <= 0;
        end else begin
            reserved <= reserved + RB'(reserve) - RB'(ends);
            if (in_valid) put <= put == AB'(N * ROWS - 1) ? 0 : put + 1'b1;
            if (next) begin
                from <= from == AB'(N * ROWS - 1) ? 0 : from + 1'b1;
                taken <= ends ? 0 : taken + 1'b1;
            end
        end
    end
endmodule

// LANES sums at once, time after time, one after the other: N of a row, the last time fewer
module one_by_one #(parameter N = 192, LANES = 8, SW = 24) (
    input logic clk, rst, in_valid, input logic [LANES*SW-1:0] sums, output logic out_valid, output logic signed [SW-1:0] out);
    localparam NB = $clog2(N + LANES + 1), LB = $clog2(LANES + 1);
    logic [LANES*SW-1:0] held;
    logic [LB-1:0] left;
    logic [NB-1:0] earlier; // elements of the row in other groups
    wire [NB-1:0] rest = NB'(N) - earlier;
    always_ff @(posedge clk) begin
        out <= held[SW-1:0];
        out_valid <= left != 0 & ~rst;
        held <= in_valid ? sums : held >> SW;
        if (rst) begin
            left <= 0; earlier <= 0;
        end else if (in_valid) begin
            left <= rest > NB'(LANES) ? LB'(LANES) : LB'(rest);
            earlier <= rest > NB'(LANES) ? earlier + NB'(LANES) : 0;
        end else if (left != 0) left <= left - 1'b1;
    end
endmodule

// A linear layer: every row comes ceil(N / LANES) times, LANES <= K. WEIGHTS: for every group of LANES outputs and every input a
// word of LANES weights; BIASES: a word for every group.
module stream_linear #(parameter K = 192, N = 192, LANES = 8, XW = 8, WW = 8, SW = 24, WEIGHTS = "", BIASES = "") (
    input logic clk, rst, in_valid, input logic signed [XW-1:0] in, output logic out_valid, output logic signed [SW-1:0] out);
    localparam G = (N + LANES - 1) / LANES, AB = $clog2(G * K + 1), GB = $clog2(G + 1), KB = $clog2(K + 1);
    logic [LANES*WW-1:0] weights [0:G*K-1];
    logic [LANES*SW-1:0] biases [0:G-1];
    logic [LANES*WW-1:0] weight_read, weight;
    logic [LANES*SW-1:0] bias_read, bias;
    logic [AB-1:0] at;
    logic [GB-1:0] group;
    logic [KB-1:0] count;
    wire signed [XW-1:0] x;
    wire valid, sums_valid;
    wire [LANES*SW-1:0] sums;
    wire last = count == KB'(K - 1);
    initial begin
        $readmemh(WEIGHTS, weights);
        $readmemh(BIASES, biases);
    end
    delay #(.W(XW), .N(2)) wait_x (.clk(clk), .d(in), .q(x));
    delay #(.W(1), .N(2)) wait_valid (.clk(clk), .d(in_valid & ~rst), .q(valid));
    mac_column #(.K(K), .LANES(LANES), .XW(XW), .WW(WW), .SW(SW)) column (.clk(clk), .rst(rst), .in_valid(valid), .x(x),
        .weights(weight), .biases(bias), .out_valid(sums_valid), .sums(sums));
    one_by_one #(.N(N), .LANES(LANES), .SW(SW)) output_row (
        .clk(clk), .rst(rst), .in_valid(sums_valid), .sums(sums), .out_valid(out_valid), .out(out));
    always_ff @(posedge clk) begin
        weight_read <= weights[at];
        weight <= weight_read;
        bias_read <= biases[group];
        bias <= bias_read;
        if (rst) begin
            at <= 0; group <= 0; count <= 0;
        end else if (in_valid) begin
            at <= at == AB'(G * K - 1) ? 0 : at + 1'b1;
            count <= last ? 0 : count + 1'b1;
            if (last) group <= group == GB'(G - 1) ? 0 : group + 1'b1;
        end
    end
endmodule

// A memory of which a lane is written and all lanes are read, two clocks later
module lane_memory #(parameter LANES = 8, SIZE = 1024, W = 8, AB = 10) (
    input logic clk, write, input logic [7:0] lane, input logic [AB-1:0] put, input logic [W-1:0] in,
    input logic [AB-1:0] from, output logic [LANES*W-1:0] out);
    genvar i;
    generate
        for (i = 0; i < LANES; i = i + 1) begin : memories
            logic [W-1:0] memory [0:SIZE-1];
            logic [W-1:0] read, held;
            always_ff @(posedge clk) begin
                if (write & lane == 8'(i)) memory[put] <= in;
                read <= memory[from];
                held <= read;
            end
            assign out[W*i +: W] = held;
        end
    endgenerate
endmodule

// Both products of attention. T rows of query, key and value of H heads of D come in while there is `room`; then, row by row and
// head by head, when `go`, a row of T sums of queries with keys goes out, and of weights, each row PASSES times, D sums with
// values. When all have passed, the next image's rows may come.
module attention #(parameter T = 197, H = 3, D = 64, XW = 8, KEYS = 8, LW = 24, WEIGHT = 9, VALUES = 8, CW = 24) (
    input logic clk, rst, in_valid, input logic signed [XW-1:0] in, input logic reserve, output logic room,
    input logic go, output logic started, logits_valid, output logic signed [LW-1:0] logits,
    input logic weight_valid, input logic signed [WEIGHT-1:0] weight, output logic sum_valid, output logic signed [CW-1:0] sum);
    localparam GROUPS = (T + KEYS - 1) / KEYS, PASSES = (D + VALUES - 1) / VALUES;
    localparam QS = T * H * D, KS = H * GROUPS * D, VS = H * PASSES * T;
    localparam QB = $clog2(QS + 1), KB = $clog2(KS + 1), VB = $clog2(VS + 1);
    localparam TB = $clog2(T + 1), HB = $clog2(H + 1), DB = $clog2(D + 1), GB = $clog2(GROUPS + 1), PB = $clog2(PASSES + 1);

    // rows come in: part 0 queries, 1 keys, 2 values
    logic [TB-1:0] token, promised;
    logic [HB-1:0] head;
    logic [DB-1:0] place;
    logic [1:0] part;
    logic [GB-1:0] key_group;
    logic [PB-1:0] value_pass;
    logic [7:0] key_lane, value_lane;
    logic [QB-1:0] query_put;
    logic loaded, finished;
    wire head_ends = place == DB'(D - 1), part_ends = head_ends & head == HB'(H - 1), row_ends = part_ends & part == 2;
    assign room = promised < TB'(T);
    logic signed [XW-1:0] queries [0:QS-1];
    logic signed [XW-1:0] query_read, query;

    // products with keys
    logic [QB-1:0] row_start, query_from; // of the queries of a row and head
    logic [KB-1:0] key_from;
    logic [HB-1:0] row_head;
    logic [GB-1:0] group;
    logic [DB-1:0] step;
    logic [TB-1:0] row;
    logic [2:0] pause;
    logic running, query_valid, query_later, all_rows;
    wire step_ends = step == DB'(D - 1), products_end = running & step_ends & group == GB'(GROUPS - 1);
    wire [KEYS*XW-1:0] keys;
    wire [KEYS*LW-1:0] key_sums;
    wire key_sums_valid;
    assign started = loaded & ~all_rows & ~running & pause == 0 & go;
    lane_memory #(.LANES(KEYS), .SIZE(KS), .W(XW), .AB(KB)) key_memory (.clk(clk), .write(in_valid & part == 1), .lane(key_lane),
        .put((KB'(head) * KB'(GROUPS) + KB'(key_group)) * KB'(D) + KB'(place)), .in(in), .from(key_from), .out(keys));
    mac_column #(.K(D), .LANES(KEYS), .XW(XW), .WW(XW), .SW(LW)) key_column (.clk(clk), .rst(rst), .in_valid(query_later),
        .x(query), .weights(keys), .biases({(KEYS * LW){1'b0}}), .out_valid(key_sums_valid), .sums(key_sums));
    one_by_one #(.N(T), .LANES(KEYS), .SW(LW)) logit_row (
        .clk(clk), .rst(rst), .in_valid(key_sums_valid), .sums(key_sums), .out_valid(logits_valid), .out(logits));

    // products with values
    logic [VB-1:0] value_from;
    logic [HB-1:0] weight_head;
    logic [PB-1:0] pass;
    logic [TB-1:0] count, weight_row;
    wire pass_ends = count == TB'(T - 1), weights_end = weight_valid & pass_ends & pass == PB'(PASSES - 1);
    wire [VALUES*XW-1:0] values;
    wire [VALUES*CW-1:0] value_sums;
    wire value_sums_valid, weight_later;
    wire signed [WEIGHT-1:0] held_weight;
    lane_memory #(.LANES(VALUES), .SIZE(VS), .W(XW), .AB(VB)) value_memory (.clk(clk), .write(in_valid & part == 2),
        .lane(value_lane), .put((VB'(head) * VB'(PASSES) + VB'(value_pass)) * VB'(T) + VB'(token)), .in(in), .from(value_from), .out(values));
    delay #(.W(WEIGHT), .N(2)) wait_weight (.clk(clk), .d(weight), .q(held_weight));
    delay #(.W(1), .N(2)) wait_weight_valid (.clk(clk), .d(weight_valid & ~rst), .q(weight_later));
    mac_column #(.K(T), .LANES(VALUES), .XW(WEIGHT), .WW(XW), .SW(CW)) value_column (.clk(clk), .rst(rst), .in_valid(weight_later),
        .x(held_weight), .weights(values), .biases({(VALUES * CW){1'b0}}), .out_valid(value_sums_valid), .sums(value_sums));
    one_by_one #(.N(D), .LANES(VALUES), .SW(CW)) sum_row (
        .clk(clk), .rst(rst), .in_valid(value_sums_valid), .sums(value_sums), .out_valid(sum_valid), .out(sum));

    always_ff @(posedge clk) begin
        if (in_valid & part == 0) queries[query_put] <= in;
        query_read <= queries[query_from];
        query <= query_read;
        query_valid <= running & ~rst;
        query_later <= query_valid & ~rst;
        finished <= 0;
        if (rst | finished) begin
            token <= 0; promised <= 0; head <= 0; place <= 0; part <= 0; key_group <= 0; value_pass <= 0; key_lane <= 0;
            value_lane <= 0; query_put <= 0; loaded <= 0;
        end else begin
            if (reserve) promised <= promised + 1'b1;
            if (in_valid) begin
                if (part == 0) query_put <= query_put + 1'b1;
                place <= head_ends ? 0 : place + 1'b1;
                if (head_ends) head <= part_ends ? 0 : head + 1'b1;
                if (part_ends) part <= row_ends ? 0 : part + 1'b1;
                value_lane <= head_ends | value_lane == 8'(VALUES - 1) ? 0 : value_lane + 1'b1;
                if (head_ends) value_pass <= 0;
                else if (value_lane == 8'(VALUES - 1)) value_pass <= value_pass + 1'b1;
                if (row_ends) begin
                    token <= token + 1'b1;
                    key_lane <= key_lane == 8'(KEYS - 1) ? 0 : key_lane + 1'b1;
                    if (key_lane == 8'(KEYS - 1)) key_group <= key_group + 1'b1;
                    if (token == TB'(T - 1)) loaded <= 1;
                end
            end
        end
        if (rst | finished) begin
            row_start <= 0; query_from <= 0; key_from <= 0; row_head <= 0; group <= 0; step <= 0; row <= 0; pause <= 0; running <= 0;
            all_rows <= 0;
        end else begin
            if (pause != 0) pause <= pause - 1'b1;
            if (started) running <= 1;
            if (running) begin
                step <= step_ends ? 0 : step + 1'b1;
                query_from <= ~step_ends ? query_from + 1'b1 : products_end ? row_start + QB'(D) : row_start;
                key_from <= products_end & row_head == HB'(H - 1) ? 0 : key_from + 1'b1;
                if (step_ends) group <= products_end ? 0 : group + 1'b1;
                if (products_end) begin
                    running <= 0; pause <= 7; row_start <= row_start + QB'(D);
                    row_head <= row_head == HB'(H - 1) ? 0 : row_head + 1'b1;
                    if (row_head == HB'(H - 1)) row <= row + 1'b1;
                    if (row_head == HB'(H - 1) & row == TB'(T - 1)) all_rows <= 1;
                end
            end
        end
        if (rst) begin
            value_from <= 0; weight_head <= 0; pass <= 0; count <= 0; weight_row <= 0;
        end else if (weight_valid) begin
            count <= pass_ends ? 0 : count + 1'b1;
            if (pass_ends) pass <= weights_end ? 0 : pass + 1'b1;
            value_from <= weights_end & weight_head == HB'(H - 1) ? 0 : value_from + 1'b1;
            if (weights_end) begin
                weight_head <= weight_head == HB'(H - 1) ? 0 : weight_head + 1'b1;
                if (weight_head == HB'(H - 1)) begin
                    weight_row <= weight_row == TB'(T - 1) ? 0 : weight_row + 1'b1;
                    finished <= weight_row == TB'(T - 1);
                end
            end
        end
    end
endmodule
