# plots.gp - drawn by plots.sh, which sets out (where the numbers are), here (where the plots go), read, fma, int8, threads, isa, cpu.
set terminal svg size 860,520 font "DejaVu Sans,13" background "#ffffff"
set border lc rgb "#444444"
set grid lc rgb "#dddddd"
blue = 0x0072b2; orange = 0xd55e00; green = 0x009e73; grey = 0x777777

# ---- roofline
set output here.'/roofline.svg'
set title sprintf("DeepSeek-V2-Lite cut to 6 layers, %d threads, %s, bf16 cache: under the roofs of the machine", threads, isa)
set logscale xy
set xlabel "operations per byte of weights and cache that must be read"
set ylabel "GFLOP/s (int8 operations count the same)"
set xrange [0.5:2000]
set yrange [5:(int8 > fma ? int8 : fma) * 2]
set key bottom right maxrows 7 samplen 1 spacing 1.1
set label 1 sprintf("f32 multiply-adds: %.0f GFLOP/s", fma) at 13, fma * 1.14 tc rgb grey
if (int8 > 0) set label 2 sprintf("int8 multiply-adds: %.0f GOP/s", int8) at 13, int8 * 1.14 tc rgb grey
set label 3 sprintf("streaming read: %.1f GB/s", read) at 0.75, read * 0.75 * 1.25 rotate by 41 tc rgb grey
roof(x, peak) = read * x < peak ? read * x : peak
# the shape of a point says what, its colour the weights; open ones are at depth 16384
data(weights) = out.'/roof_'.weights.'.dat'
plot roof(x, fma) lw 2 lc rgb grey notitle, \
     (int8 > 0 ? roof(x, int8) : NaN) lw 2 dt 2 lc rgb grey notitle, \
     data("bf16") using 1:2:3:4 with points pt variable ps variable lc rgb blue notitle, \
     data("q8") using 1:2:3:4 with points pt variable ps variable lc rgb orange notitle, \
     data("q4x16") using 1:2:3:4 with points pt variable ps variable lc rgb green notitle, \
     keyentry with points pt 7 lc rgb grey title "decode", keyentry with points pt 5 lc rgb grey title "prefill, 512 tokens", \
     keyentry with points pt 9 lc rgb grey title "MoE layer, 1 and 512 tokens", keyentry with points pt 13 ps 1.3 lc rgb grey title "attention alone, decode", \
     keyentry with points pt 6 ps 1.4 lc rgb grey title "open: at depth 16384", \
     keyentry with lines lw 8 lc rgb blue title "bf16 weights", keyentry with lines lw 8 lc rgb orange title "q8 weights", keyentry with lines lw 8 lc rgb green title "q4 weights, repacked"
unset label

# ---- decode time against depth
set output here.'/decode.svg'
set title sprintf("One decoded token, DeepSeek-V2-Lite cut to 6 layers, bf16 weights and cache\n%s, %d threads; paths in turns", cpu, threads)
unset logscale x
set logscale y
set xlabel "tokens in the cache"
set ylabel "ms for a token (median; bars from least to most)"
set xrange [-300:17000]
set yrange [*:*]
set xtics 0, 2048, 16384
set key top left reverse Left
plot out.'/naive.dat' using 1:2:3:4 with yerrorlines pt 5 lw 2 lc rgb orange title "naive: latents are cached, keys and values of all tokens made of them again", \
     out.'/absorbed.dat' using 1:2:3:4 with yerrorlines pt 7 lw 2 lc rgb blue title "absorbed: queries meet the cached latents"

# ---- cache bytes per token: layers, heads, heads * (192 + 128) values of plain attention against 512 + 64
set output here.'/cache.svg'
set title "The cache of one token: latents, against plain multi-head attention"
unset logscale y
set logscale x
set xlabel "bytes for a token"
set ylabel ""
set yrange [-0.6:3.6] reverse
set xrange [8000:16e6]
set xtics auto
set format x "%.0s %cB"
set lmargin 26
set ytics ("DeepSeek-V2-Lite\n27 layers, 16 heads" 0, "DeepSeek-V2\n60 layers, 128 heads" 1, "Kimi K2\n61 layers, 64 heads" 2, "DeepSeek-V3\n61 layers, 128 heads" 3)
set format y "%s"
set key bottom right samplen 1
$models << END
0 27 16
1 60 128
2 61 64
3 61 128
END
mha(l, h) = l * h * 320 * 2.0
mla(l, bytes) = l * bytes
amount(b) = b >= 1e6 ? sprintf("%.1f MB", b / 1e6) : sprintf("%.0f kB", b / 1e3)
plot $models using (mla($2, 612)):1:(mha($2, $3) - mla($2, 612)):(0) with vectors nohead lc rgb "#cccccc" lw 2 notitle, \
     $models using (mha($2, $3)):1 with points pt 7 ps 1.3 lc rgb grey title "keys and values of all heads, bf16", \
     $models using (mla($2, 1152)):1 with points pt 7 ps 1.3 lc rgb blue title "latents, bf16", \
     $models using (mla($2, 612)):1 with points pt 7 ps 1.3 lc rgb green title "latents, q8", \
     $models using (mha($2, $3)):($1 - 0.2):(amount(mha($2, $3))) with labels font ",11" notitle, \
     $models using (mla($2, 1152)):($1 - 0.2):(amount(mla($2, 1152))) with labels font ",11" notitle, \
     $models using (mla($2, 612)):($1 + 0.22):(amount(mla($2, 612))) with labels font ",11" notitle
