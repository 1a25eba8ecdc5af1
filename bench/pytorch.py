#!/usr/bin/env python3
"""pytorch.py - mla.h against PyTorch: the same layers on the same machine in the same run, one after the other in turns.

Needs PyTorch 2.4 or later (its CPU part is used), about 16 GB of memory, and build/bench (make). From the repository's root:

    python3 bench/pytorch.py                                  # 1, 2 and all threads, both shapes
    python3 bench/pytorch.py --threads 16 --shapes lite --isa auto,avx512 --json

WHAT IS MEASURED, in ms for one call of one layer with its weights, without norm and residual:
    layer    attention. lite: DeepSeek-V2-Lite (hidden 2048, 16 heads); v3attn: DeepSeek-V3 (7168, 128 heads, q_lora 1536).
             1 token: the absorbed form over a cache of latent rows, as DeepSeek's inference code has it (attn_impl = "absorb");
             512 tokens at depth 0: keys and values expanded, scaled_dot_product_attention.
    moe      V2-Lite's 64 experts of 1408, 6 for a token, and 2 shared: a loop over experts with tokens sorted by expert.
    sum      attention and experts of 512 tokens.
HOW
    PyTorch  f32 and bf16 (weights, cache and activations), eager, without gradients. Projections of the same input are joined,
             kv_b is split once, the cache is preallocated and never copied, bf16 takes whole rows where a slice would be copied,
             huge pages are asked for and freed memory is kept. Where it has several ways (VARIANTS), the fastest one counts.
    mla.h    build/bench model, which makes a model of as many layers with the same shapes; bf16 weights and cache with each
             --isa; f32 with the first of them, too, where PyTorch is faster in f32.
    Both go round through several layers (6 of attention, 3 in v3attn, 2 of experts), so that weights come from memory. Weights
    and inputs are random. A number is the median of the rounds' medians; ratio is PyTorch's better dtype over mla.h's better
    one, above 1 where mla.h is faster.
Rounds after the first are left out if they would end after --seconds; stopped by TERM or INT, it prints the table so far."""
import argparse
import ctypes
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

FOREIGN = ("OMP_", "GOMP_", "KMP_", "MKL_")  # settings of thread pools: both sides start from the defaults
for name in [name for name in os.environ if name.startswith(FOREIGN)]:
    del os.environ[name]
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for what PyTorch allocates
try:  # the memory of temporaries is kept and not given back and faulted in again for each call
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 32 << 20), libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
except (OSError, AttributeError):
    pass  # not glibc

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

SHAPES = {  # as config.json, which build/bench reads; only the first of moe_layer_freq layers has experts
    "lite": dict(hidden_size=2048, num_attention_heads=16, q_lora_rank=None, num_hidden_layers=6, n_routed_experts=64,
                 num_experts_per_tok=6, moe_intermediate_size=1408, n_shared_experts=2, moe_layer_freq=3, first_k_dense_replace=0,
                 scoring_func="softmax", topk_method="greedy", routed_scaling_factor=1.0),
    "v3attn": dict(hidden_size=7168, num_attention_heads=128, q_lora_rank=1536, num_hidden_layers=3),
}
COMMON = dict(model_type="deepseek_v2", vocab_size=1024, intermediate_size=64, kv_lora_rank=512, qk_nope_head_dim=128,
              qk_rope_head_dim=64, v_head_dim=128, rms_norm_eps=1e-6, rope_theta=10000.0, max_position_embeddings=163840)
DEPTHS, PROMPT, EPS = (0, 4096, 16384), 512, 1e-6
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
START = time.perf_counter()


def say(text):
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


# ---- PyTorch: the layers ------------------------------------------------------------------------------------------------


class Random:
    """Tensors cut out of one pool of normal numbers, from places that never line up: drawing billions would take minutes."""

    def __init__(self):
        self.pool, self.places = torch.randn((1 << 24) - 3), random.Random(1)

    def rows(self, n, width, dtype, deviation=1.0):
        flat, done, at = torch.empty(n * width, dtype=dtype), 0, self.places.randrange(len(self.pool))
        while done < len(flat):
            piece = self.pool[at : at + len(flat) - done]
            flat[done : done + len(piece)] = piece * deviation
            done, at = done + len(piece), 0
        return flat.view(n, width)

    def weight(self, rows, cols, dtype):
        return self.rows(rows, cols, dtype, cols**-0.5)


def by_vector(x, w):  # as F.linear, for one token
    return torch.mv(w, x[0]).unsqueeze(0)


def rotate(x, turns):  # x [..., P], turns complex [..., P/2]
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class Attention:
    def __init__(self, c, dtype, numbers):
        self.D, self.H, self.Q, self.R = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"] or 0, c["kv_lora_rank"]
        self.N, self.P, self.V = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        D, H, Q, R, N, P, V = self.D, self.H, self.Q, self.R, self.N, self.P, self.V
        self.parts = (Q or H * (N + P), R, P)
        self.w_in = numbers.weight(sum(self.parts), D, dtype)  # q or q_a, and kv_a
        self.w_q_b = numbers.weight(H * (N + P), Q, dtype) if Q else None
        self.q_norm, self.kv_norm = torch.ones(Q, dtype=dtype), torch.ones(R, dtype=dtype)
        self.w_kv_b = numbers.weight(H * (N + V), R, dtype)
        heads = self.w_kv_b.view(H, N + V, R)
        self.w_uk = heads[:, :N].contiguous()  # [H, N, R]
        self.w_uv = heads[:, N:].transpose(1, 2).contiguous()  # [H, R, V]
        self.w_o = numbers.weight(D, H * V, dtype)
        capacity = max(max(DEPTHS) + 1, PROMPT)
        self.cache = numbers.rows(capacity, R + P, dtype)  # latent and rotated key of each token
        angles = torch.outer(torch.arange(capacity).float(), c["rope_theta"] ** (-torch.arange(0, P, 2).float() / P))
        self.turns = torch.polar(torch.ones_like(angles), angles)
        self.scale = (N + P) ** -0.5

    def project(self, x, depth, linear):
        """x [T, D] -> q [T, H, N] and its rotated part [T, H, P]; the cache gets rows depth .. depth+T-1."""
        T, turns = len(x), self.turns[depth : depth + len(x)]
        q, latent, key = linear(x, self.w_in).split(self.parts, -1)
        if self.Q:
            q = linear(F.rms_norm(q, (self.Q,), self.q_norm, EPS), self.w_q_b)
        q = q.unflatten(-1, (self.H, self.N + self.P))
        self.cache[depth : depth + T, : self.R] = F.rms_norm(latent, (self.R,), self.kv_norm, EPS)
        self.cache[depth : depth + T, self.R :] = rotate(key, turns)
        return q[..., : self.N], rotate(q[..., self.N :], turns.unsqueeze(1))

    def decode(self, x, depth, linear, attend):  # x [1, D]
        q, q_rope = self.project(x, depth, linear)
        q = torch.cat((torch.bmm(q.transpose(0, 1), self.w_uk), q_rope.transpose(0, 1)), -1).squeeze(1).mul_(self.scale)
        y = attend(q, self.cache[: depth + 1], self.R)  # [H, R+P] -> [H, R]
        return linear(torch.bmm(y.unsqueeze(1), self.w_uv).reshape(1, -1), self.w_o)

    def prefill(self, x, padded):
        """x [T, D] at depth 0. padded: values as wide as keys, without which PyTorch does not take its fused kernel."""
        T, H, N, P, V = len(x), self.H, self.N, self.P, self.V
        q = torch.cat(self.project(x, 0, F.linear), -1)
        kv = F.linear(self.cache[:T, : self.R], self.w_kv_b).view(T, H, N + V)
        k = torch.cat((kv[..., :N], self.cache[:T, self.R :].unsqueeze(1).expand(T, H, P)), -1)
        v = F.pad(kv[..., N:], (0, N + P - V)) if padded else kv[..., N:]
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)[0, :, :, :V]
        return F.linear(y.transpose(0, 1).reshape(T, H * V), self.w_o)


def attend_products(q, rows, R):  # q [H, R+P], scaled; rows [n, R+P]
    p = torch.mm(q, rows.t()).softmax(-1)
    if rows.dtype == torch.float32:
        return torch.mm(p, rows[:, :R])
    return torch.mm(p, rows)[:, :R]  # oneDNN's products copy a slice


def attend_fused(q, rows, R):  # heads stand for queries; as many groups of them as there are threads
    groups = max(g for g in range(1, len(q) + 1) if len(q) % g == 0 and g <= torch.get_num_threads())
    q, rows = q.view(1, groups, -1, q.shape[-1]), rows.expand(1, groups, -1, -1)
    return F.scaled_dot_product_attention(q, rows, rows, scale=1.0).flatten(0, 2)[:, :R]


class Experts:
    def __init__(self, c, dtype, numbers):
        D, self.E, self.K, I = c["hidden_size"], c["n_routed_experts"], c["num_experts_per_tok"], c["moe_intermediate_size"]
        self.router = numbers.weight(self.E, D, dtype)
        S = I * c["n_shared_experts"]
        mlp = [(numbers.weight(2 * width, D, dtype), numbers.weight(D, width, dtype)) for width in [I] * self.E + [S]]
        self.experts, self.shared = mlp[:-1], mlp[-1]

    @staticmethod
    def mlp(x, weights, linear):
        gate, up = linear(x, weights[0]).chunk(2, -1)
        return linear(F.silu(gate).mul_(up), weights[1])

    def forward(self, x, linear):
        weight, chosen = F.linear(x, self.router).softmax(-1, dtype=torch.float32).topk(self.K)  # [T, K] both
        y = self.mlp(x, self.shared, linear)
        if len(x) == 1:
            for w, e in zip(weight[0].tolist(), chosen[0].tolist()):
                y.add_(self.mlp(x, self.experts[e], linear), alpha=w)
            return y
        chosen = chosen.flatten()
        order, counts = chosen.argsort(), torch.bincount(chosen, minlength=self.E).tolist()
        parts = x.index_select(0, order // self.K).split(counts)
        z = torch.cat([self.mlp(part, self.experts[e], linear) for e, part in enumerate(parts) if len(part)])
        z.mul_(weight.flatten()[order].unsqueeze(1).to(z.dtype))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return y.add_(z.index_select(0, back).unflatten(0, (-1, self.K)).sum(1))


VARIANTS = {
    "decode": {"linear, products": (F.linear, attend_products), "mv, products": (by_vector, attend_products),
               "linear, sdpa": (F.linear, attend_fused), "mv, sdpa": (by_vector, attend_fused)},
    "prefill": {"sdpa, padded": (True,), "sdpa": (False,)},
    "moe 1": {"linear": (F.linear,), "mv": (by_vector,)},
    "moe": {"linear": (F.linear,)},
}


class Contestant:
    """PyTorch with one shape."""

    def __init__(self, name, numbers):
        c = self.config = {**COMMON, **SHAPES[name]}
        self.name, self.attention, self.experts = name, {}, {}
        n_moe = -(-c["num_hidden_layers"] // c["moe_layer_freq"]) if "moe_layer_freq" in c else 0
        for d, dtype in DTYPES.items():
            say(f"{name}: PyTorch's weights in {d}")
            self.attention[d] = [Attention(c, dtype, numbers) for _ in range(c["num_hidden_layers"])]
            self.experts[d] = [Experts(c, dtype, numbers) for _ in range(n_moe)]
        self.x = numbers.rows(PROMPT, c["hidden_size"], torch.float32)
        self.inputs = {d: self.x.to(dtype) for d, dtype in DTYPES.items()}

    def check(self):
        """Both forms of attention are one function, if this code is right."""
        for d, limit in (("f32", 1e-4), ("bf16", 0.1)):
            a, x, n = self.attention[d][0], self.inputs[d][:32], 31
            wanted = a.prefill(x, False)[n].float()
            ways = {name: lambda v=v: a.decode(x[n:], n, *v)[0] for name, v in VARIANTS["decode"].items()}
            ways["sdpa, padded"] = lambda: a.prefill(x, True)[n]
            for name, way in ways.items():
                try:
                    error = ((way().float() - wanted).norm() / wanted.norm()).item()
                except (RuntimeError, TypeError) as failure:
                    say(f"{self.name} {d}: '{name}' fails: {failure}")
                    continue
                if not error < limit:
                    say(f"WRONG: {self.name} {d}: '{name}' differs from the naive form by {error:.2g} of the norm")

    def call(self, key, dtype, variant, i):
        """The i-th call of what key = (what, tokens, depth) names."""
        what, n, depth = key
        x = self.inputs[dtype]
        x = x[i % PROMPT : i % PROMPT + 1] if n == 1 else x[:n]
        layers = self.experts[dtype] if what == "moe" else self.attention[dtype]
        layer = layers[i % len(layers)]
        if what == "moe":
            return layer.forward(x, *variant)
        return layer.decode(x, depth, *variant) if n == 1 else layer.prefill(x, *variant)

    def keys(self):
        attention = [("layer", 1, depth) for depth in DEPTHS]
        return attention + ([("layer", PROMPT, 0), ("moe", 1, 0), ("moe", PROMPT, 0)] if self.experts["f32"] else [])

    def measure(self, key, threads, results):
        """One round: a median for each dtype and variant; those that were 1.3 times slower than the best are left out later."""
        what, n, _ = key
        kind = "moe 1" if (what, n) == ("moe", 1) else "moe" if what == "moe" else "decode" if n == 1 else "prefill"
        for d in DTYPES:
            times = results.setdefault((self.name, key, threads), {}).setdefault(d, {})
            best = min((statistics.median(ms) for ms in times.values()), default=float("inf"))
            first_round = not times
            for name, variant in VARIANTS[kind].items():
                if not first_round and (name not in times or statistics.median(times[name]) > 1.3 * best):
                    continue
                try:
                    ms = self.median_ms(key, d, variant, 2 * best if first_round else float("inf"))
                except (RuntimeError, TypeError) as error:
                    say(f"{self.name} {key} {d}: '{name}' fails: {str(error).splitlines()[0]}")
                    continue
                times.setdefault(name, []).append(ms)
                best = min(best, ms)

    def median_ms(self, key, dtype, variant, hopeless):
        """Of calls during about 0.15 s, at least 3, after two others; of one call only, if that took longer than hopeless."""
        samples = []
        self.call(key, dtype, variant, 0)
        while len(samples) < 4 or sum(samples) < 150:
            start = time.perf_counter()
            self.call(key, dtype, variant, len(samples) + 1)
            samples.append(1e3 * (time.perf_counter() - start))
            if samples[0] > hopeless:
                return samples[0]
        return statistics.median(samples[1:])


# ---- mla.h --------------------------------------------------------------------------------------------------------------


class Bench:
    """build/bench model with the shapes above."""

    def __init__(self, program, isas, folder):
        self.program, self.isas, self.folder = program, isas, folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        try:
            words = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"pytorch.py: {program} cannot be run ({error}): make builds it")
        self.only = "--only " in words  # else the limits and whole forward passes are measured along, which takes far longer
        for name, shape in SHAPES.items():  # name-attn: its attention only
            for to, c in ((name, shape), (name + "-attn", {k: v for k, v in shape.items() if k != "n_routed_experts"})):
                os.mkdir(os.path.join(folder, to))
                with open(os.path.join(folder, to, "config.json"), "w", encoding="ascii") as file:
                    json.dump({**COMMON, **c}, file)

    def run(self, name, weights, isa, threads, results):
        has_experts = "n_routed_experts" in SHAPES[name]
        deep = [d for d in DEPTHS if d or not has_experts]
        calls = [(name + "-attn", deep, 0, "layer")] + ([(name, [0], PROMPT, "layer,moe")] if has_experts else [])
        for shape, depths, prompt, only in calls:
            command = [self.program, "model", "--shape", os.path.join(self.folder, shape), "--threads", str(threads)]
            command += ["--pp", str(prompt), "--depth", ",".join(map(str, depths)), "--isa", isa]
            if isa in ("bf16", "amx"):
                command += ["--activations", "bf16"]
            command += ["--weights", weights, "--cache", weights, "--json"]
            command += ["--reps", "3", "--only", only, "--no-limits"] if self.only else ["--reps", "1"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=120)
            except subprocess.TimeoutExpired:
                say(f"stopped after 120 s: {' '.join(command)}")
                return
            if done.returncode:
                say(f"{' '.join(command)}: {done.stderr.strip() or 'ended with status %d' % done.returncode}")
                return
            for line in map(json.loads, done.stdout.splitlines()):
                if line["what"] in ("layer", "moe"):
                    key = (name, (line["what"], line["n"], line["depth"]), threads)
                    results.setdefault(key, {}).setdefault((weights, line["isa"]), []).append(line["ms"])


# ---- the rounds and the table -------------------------------------------------------------------------------------------


def medians(samples):
    return {k: statistics.median(v) for k, v in samples.items()}


def one_round(contestant, bench, threads, torch_ms, mla_ms):
    """Each shape: PyTorch, then mla.h."""
    torch.set_num_threads(threads)
    f32_wins = False
    for key in contestant.keys():
        contestant.measure(key, threads, torch_ms)
        best = {d: min(medians(v).values(), default=None) for d, v in torch_ms[contestant.name, key, threads].items()}
        say(f"{contestant.name} {key} {threads} threads, PyTorch: " + ", ".join(f"{d} {ms:.3f}" for d, ms in best.items() if ms))
        f32_wins |= bool(best["f32"] and best["bf16"] and best["f32"] < best["bf16"])
    for isa in bench.isas:
        bench.run(contestant.name, "bf16", isa, threads, mla_ms)
    if f32_wins:
        bench.run(contestant.name, "f32", bench.isas[0], threads, mla_ms)
    say(f"{contestant.name} {threads} threads, mla.h: done")


def summary(torch_ms, mla_ms):
    """A dictionary for each line of the table."""
    for (shape, key, threads), dtypes in torch_ms.items():
        theirs = {}
        for d, variants in dtypes.items():
            if variants:
                ms, variant = min((ms, name) for name, ms in medians(variants).items())
                theirs[d] = {"ms": ms, "variant": variant, "rounds": len(variants[variant])}
        ours = medians(mla_ms.get((shape, key, threads), {}))
        yield {"what": key[0], "shape": shape, "n": key[1], "depth": key[2], "threads": threads, "torch": theirs,
               "mla": [{"weights": w, "isa": isa, "ms": ms} for (w, isa), ms in ours.items()]}


def with_sums(lines):
    lines = list(lines)
    for a in [line for line in lines if (line["what"], line["n"]) == ("layer", PROMPT)]:
        for b in lines:
            if (b["what"], b["n"], b["shape"], b["threads"]) == ("moe", PROMPT, a["shape"], a["threads"]):
                theirs = {d: {"ms": a["torch"][d]["ms"] + b["torch"][d]["ms"]} for d in a["torch"] if d in b["torch"]}
                ours = [{**m, "ms": m["ms"] + n["ms"]} for m in a["mla"] for n in b["mla"]
                        if (m["weights"], m["isa"]) == (n["weights"], n["isa"])]
                lines.append({**a, "what": "sum", "torch": theirs, "mla": ours})
    for line in lines:
        theirs, ours = [t["ms"] for t in line["torch"].values()], [m["ms"] for m in line["mla"]]
        line["ratio"] = min(theirs) / min(ours) if theirs and ours else None
    return sorted(lines, key=lambda x: (x["shape"], x["what"], x["n"], x["depth"], x["threads"]))


def report(lines, as_json):
    if as_json:
        for line in lines:
            print(json.dumps(line))
        return
    print("shape   what   tokens  depth thr.  PyTorch f32      bf16  mla.h f32      bf16  isa       ratio")
    for line in lines:
        theirs = {d: t["ms"] for d, t in line["torch"].items()}
        best = min(line["mla"], key=lambda m: m["ms"], default={"isa": "-"})
        ours = {w: min((m["ms"] for m in line["mla"] if m["weights"] == w), default=None) for w in DTYPES}
        number = lambda x, width: f"{x:{width}.3f}" if x else f"{'-':>{width}}"  # noqa: E731
        print(f"{line['shape']:7} {line['what']:6} {line['n']:6} {line['depth']:6} {line['threads']:4}",
              number(theirs.get("f32"), 12), number(theirs.get("bf16"), 9), number(ours["f32"], 10), number(ours["bf16"], 9),
              f" {best['isa']:8}", number(line["ratio"], 6))


def main():
    everything = len(os.sched_getaffinity(0))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", default=",".join(map(str, sorted({1, min(2, everything), everything}))), help="[%(default)s]")
    p.add_argument("--shapes", default="lite,v3attn", help="[%(default)s]")
    p.add_argument("--isa", default="auto", help="of mla.h, several with commas; the first also for f32 [%(default)s]")
    p.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    p.add_argument("--seconds", type=float, default=240, help="for all of it [%(default)s]")
    p.add_argument("--bench", default="build/bench", help="[%(default)s]")
    p.add_argument("--json", action="store_true", help="a line of JSON for each line of the table")
    o = p.parse_args()
    threads, shapes = o.threads.split(","), o.shapes.split(",")
    if not all(t.isdigit() and int(t) > 0 for t in threads):
        p.error(f"--threads: '{o.threads}' is not a list of numbers above 0")
    if not set(shapes) <= set(SHAPES):
        p.error(f"--shapes: '{o.shapes}' is not a list of {', '.join(SHAPES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("pytorch.py: stopped"))
    torch_ms, mla_ms, took = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        bench = Bench(o.bench, o.isa.split(","), folder)
        say(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {everything} cores")
        numbers = Random()
        contestants = [Contestant(name, numbers) for name in shapes]
        for contestant in contestants:
            contestant.check()
        try:
            for r in range(o.rounds):
                for part in [(c, int(t)) for t in threads for c in contestants]:
                    start = time.perf_counter()
                    if r and start - START + took[part] > o.seconds:
                        say(f"no time is left for round {r + 1} of {part[0].name} with {part[1]} threads")
                        continue
                    one_round(part[0], bench, part[1], torch_ms, mla_ms)
                    took[part] = time.perf_counter() - start
        finally:
            report(with_sums(summary(torch_ms, mla_ms)), o.json)


if __name__ == "__main__":
    main()
