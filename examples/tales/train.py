#!/usr/bin/env python3
"""Train the demo model: a DeepSeek-V3 in miniature that tells tales, small enough to ship with the sources.

    train.py --data tales.txt --out DIR [--preset a] [--minutes 6 | --steps N | --smoke]    train, write DIR, check it
    train.py --check DIR --data tales.txt                                                    write expected.safetensors anew

Needs torch 2.11, transformers 5.17, tokenizers 0.23, safetensors; one GPU. The network below is DeepSeek-V3 written out for
training at this size: all experts are so small that they run as one wide layer whose unselected parts are masked. Its
parameters are the tensors of a V3 checkpoint under V3's names, and the written directory is then loaded with transformers'
DeepseekV3ForCausalLM, which must compute the same logits; what transformers computes goes to expected.safetensors.

Letters: B windows, T positions, D hidden, H heads, R kv_lora_rank, N / P qk dims without / with rope, V v_head_dim, E experts.
"""
import argparse, json, math, os, re, tempfile, time
import torch
import torch.nn.functional as F
from torch import nn

# ---- sizes -------------------------------------------------------------------------------------------------------------
# Whatever is an input of a matrix is a multiple of 32, and so is R + P: 4- and 8-bit formats group 32 values along a row.
# Every preset fills the limit on the file; wd and drop are regularisation. What decides between them is validation loss per byte.

MAX_BYTES = 8_000_000
CONTEXT = 1024  # trained on in full: four times YaRN's original length
PRESETS = {
    "a": dict(vocab=1024, D=192, L=6, H=6, Q=96, R=64, E=16, k=6, I=32, dense=320, tied=False, wd=0.1, drop=0.0),
    "b": dict(vocab=1024, D=192, L=7, H=6, Q=64, R=64, E=16, k=6, I=32, dense=224, tied=True, wd=0.1, drop=0.0),
    "c": dict(vocab=1536, D=192, L=5, H=6, Q=96, R=64, E=8, k=4, I=64, dense=768, tied=True, wd=0.1, drop=0.0),
    "d": dict(vocab=1024, D=256, L=4, H=8, Q=96, R=64, E=8, k=4, I=64, dense=320, tied=True, wd=0.1, drop=0.0),
    "e": dict(vocab=2048, D=192, L=5, H=6, Q=96, R=64, E=8, k=4, I=64, dense=320, tied=True, wd=0.1, drop=0.0),
}


def make_config(p):
    """config.json with the keys of DeepSeek-V3's."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu", "initializer_range": 0.02, "vocab_size": p["vocab"],
        "hidden_size": p["D"], "num_hidden_layers": p["L"], "intermediate_size": p["dense"], "num_attention_heads": p["H"],
        "num_key_value_heads": p["H"], "q_lora_rank": p["Q"], "kv_lora_rank": p["R"], "qk_nope_head_dim": 32, "qk_rope_head_dim": 32,
        "v_head_dim": 32, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT // 4, "beta_fast": 32,
                         "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": p["E"], "n_shared_experts": 1,
        "num_experts_per_tok": p["k"], "moe_intermediate_size": p["I"], "n_group": 4, "topk_group": 3, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "num_nextn_predict_layers": 1, "tie_word_embeddings": p["tied"], "torch_dtype": "bfloat16", "use_cache": True,
    }


# ---- network -----------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def linear(n_in, n_out):
    m = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(m.weight, std=0.5 * n_in ** -0.5)
    return m


def yarn(c, T, device):
    """cos, sin [T, P/2] and the softmax scale, as in DeepSeek-V3 (mscale = mscale_all_dim: cos and sin keep amplitude 1)."""
    s, P, theta = c["rope_scaling"], c["qk_rope_head_dim"], c["rope_theta"]
    turn = lambda r: P * math.log(s["original_max_position_embeddings"] / (2 * math.pi * r)) / (2 * math.log(theta))
    lo, hi = max(math.floor(turn(s["beta_fast"])), 0), min(math.ceil(turn(s["beta_slow"])), P - 1)
    i = torch.arange(P // 2, device=device, dtype=torch.float32)
    slow = ((i - lo) / (hi - lo)).clamp(0, 1)
    inv = theta ** (-2 * i / P)
    angle = torch.arange(T, device=device, dtype=torch.float32)[:, None] * (inv / s["factor"] * slow + inv * (1 - slow))
    mscale = 0.1 * s["mscale_all_dim"] * math.log(s["factor"]) + 1
    return angle.cos(), angle.sin(), (c["qk_nope_head_dim"] + P) ** -0.5 * mscale ** 2


def rotate(x, cos, sin):
    """Pairs of neighbours: (x[2i], x[2i+1]) is turned by angle i."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, Q, R = c["hidden_size"], c["q_lora_rank"], c["kv_lora_rank"]
        self.H, self.N, self.P = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
        self.R, self.V = R, c["v_head_dim"]
        self.q_a_proj, self.q_a_layernorm, self.q_b_proj = linear(D, Q), Norm(Q), linear(Q, self.H * (self.N + self.P))
        self.kv_a_proj_with_mqa, self.kv_a_layernorm = linear(D, R + self.P), Norm(R)
        self.kv_b_proj, self.o_proj = linear(R, self.H * (self.N + self.V)), linear(self.H * self.V, D)

    def forward(self, x, cos, sin, scale):
        B, T, _ = x.shape
        H, N, P, V = self.H, self.N, self.P, self.V
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(B, T, H, N + P).transpose(1, 2)
        c, kr = self.kv_a_proj_with_mqa(x).split((self.R, P), -1)
        k, v = self.kv_b_proj(self.kv_a_layernorm(c)).view(B, T, H, N + V).transpose(1, 2).split((N, V), -1)
        kr = rotate(kr[:, None], cos, sin).expand(B, H, T, P)
        q, k = torch.cat((q[..., :N], rotate(q[..., N:], cos, sin)), -1), torch.cat((k, kr), -1)
        v = F.pad(v, (0, N + P - V))  # flash attention wants one width
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, scale=scale)[..., :V]
        return self.o_proj(y.transpose(1, 2).reshape(B, T, H * V))


class MLP(nn.Module):
    def __init__(self, D, width):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(D, width), linear(D, width), linear(width, D)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def best(x, k):
    """True at the k largest along the last axis; of equals the first."""
    a, b = x[..., :, None], x[..., None, :]
    earlier = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril(-1)
    return ((b > a) | ((b == a) & earlier)).sum(-1) < k


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, self.E, I = c["hidden_size"], c["n_routed_experts"], c["moe_intermediate_size"]
        self.k, self.groups, self.topk_group = c["num_experts_per_tok"], c["n_group"], c["topk_group"]
        self.factor = c["routed_scaling_factor"]
        self.gate = linear(D, self.E)
        self.gate.register_buffer("e_score_correction_bias", torch.zeros(self.E))
        self.experts = nn.Module()
        self.experts.gate_proj = nn.Parameter(torch.randn(self.E, I, D) * 0.5 * D ** -0.5)
        self.experts.up_proj = nn.Parameter(torch.randn(self.E, I, D) * 0.5 * D ** -0.5)
        self.experts.down_proj = nn.Parameter(torch.randn(self.E, D, I) * 0.5 * I ** -0.5)
        self.shared_experts = MLP(D, I * c["n_shared_experts"])

    def route(self, x):
        """Weights [.., E] of the experts, zero where not chosen. The bias chooses, and is not in the weights."""
        with torch.autocast(x.device.type, enabled=False):
            s = F.linear(x.float(), self.gate.weight.float()).sigmoid()
            with torch.no_grad():
                by = (s + self.gate.e_score_correction_bias).unflatten(-1, (self.groups, -1))
                keep = best((by * best(by, 2)).sum(-1), self.topk_group)
                chosen = best(by.masked_fill(~keep[..., None], -math.inf).flatten(-2), self.k)
            w = s * chosen
            return w / (w.sum(-1, keepdim=True) + 1e-20) * self.factor, chosen

    def forward(self, x):
        w, chosen = self.route(x)
        h = F.silu(F.linear(x, self.experts.gate_proj.flatten(0, 1))) * F.linear(x, self.experts.up_proj.flatten(0, 1))
        h = (h.unflatten(-1, (self.E, -1)) * w[..., None]).flatten(-2)
        y = F.linear(h, self.experts.down_proj.transpose(0, 1).flatten(1))
        return y + self.shared_experts(x), chosen.flatten(0, -2).float().mean(0)


class Block(nn.Module):
    def __init__(self, c, dense):
        super().__init__()
        D = c["hidden_size"]
        self.input_layernorm, self.post_attention_layernorm = Norm(D), Norm(D)
        self.self_attn, self.mlp, self.dense = Attention(c), MLP(D, c["intermediate_size"]) if dense else MoE(c), dense

    def forward(self, x, rope, drop=0.0):
        """-> x, share of the tokens that went to each expert (None if dense)"""
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), *rope), drop, self.training)
        y = self.mlp(self.post_attention_layernorm(x))
        y, load = (y, None) if self.dense else y
        return x + F.dropout(y, drop, self.training), load


class Net(nn.Module):
    """Submodules are named so that state_dict() has a V3 checkpoint's names; the layer after the last predicts token t+2."""

    def __init__(self, c, drop=0.0):
        super().__init__()
        self.c, self.drop, D, L = c, drop, c["hidden_size"], c["num_hidden_layers"]
        blocks = [Block(c, i < c["first_k_dense_replace"]) for i in range(L + 1)]
        blocks[L].enorm, blocks[L].hnorm, blocks[L].eh_proj = Norm(D), Norm(D), linear(2 * D, D)
        blocks[L].shared_head = nn.ModuleDict({"norm": Norm(D)})
        embed = nn.Embedding(c["vocab_size"], D)
        nn.init.normal_(embed.weight, std=0.02)
        self.model = nn.ModuleDict({"embed_tokens": embed, "layers": nn.ModuleList(blocks), "norm": Norm(D)})
        if not c["tie_word_embeddings"]:
            self.lm_head = nn.Linear(D, c["vocab_size"], bias=False)
            nn.init.normal_(self.lm_head.weight, std=0.02)

    def head(self):
        return self.model["embed_tokens"].weight if self.c["tie_word_embeddings"] else self.lm_head.weight

    def routers(self):
        return [b.mlp.gate for b in self.model["layers"] if not b.dense]

    def trunk(self, tokens):
        """tokens [B, T] -> hidden states [B, T, D] after the last norm, loads"""
        rope, loads = yarn(self.c, tokens.shape[1], tokens.device), []
        x = F.dropout(self.model["embed_tokens"](tokens), self.drop, self.training)
        for i in range(self.c["num_hidden_layers"]):
            x, load = self.model["layers"][i](x, rope, self.drop)
            if load is not None:
                loads.append(load)
        return self.model["norm"](x), loads

    def ahead(self, h, following):
        """The multi-token-prediction layer: h [B, T, D] of tokens t and the tokens [B, T] at t+1 -> logits for t+2, load. h is
        taken after the last norm, as vLLM and SGLang hand it to this layer of the published weights; the embedding comes first."""
        m = self.model["layers"][self.c["num_hidden_layers"]]
        x = m.eh_proj(torch.cat((m.enorm(self.model["embed_tokens"](following)), m.hnorm(h)), -1))
        x, load = m(x, yarn(self.c, h.shape[1], h.device), self.drop)
        return F.linear(m.shared_head["norm"](x), self.head()), load

    def forward(self, w):
        """Windows [B, T+2] -> logits [B, T, vocab] for tokens 1..T, those of the extra layer for 2..T+1, loads [MoE layers, E]"""
        h, loads = self.trunk(w[:, :-2])
        two, load = self.ahead(h, w[:, 1:-1])
        return F.linear(h, self.head()), two, torch.stack(loads + [load])


def losses(net, w):
    one, two, loads = net(w)
    nll = lambda logits, t: F.cross_entropy(logits.flatten(0, 1).float(), t.flatten())
    return nll(one, w[:, 1:-1]), nll(two, w[:, 2:]), loads


class Muon:
    """Momentum whose update is made orthogonal (Newton-Schulz), all matrices of a shape at once; scaled as in Moonlight, so
    that it shares AdamW's learning rate and weight decay."""

    def __init__(self, params, weight_decay):
        self.wd, self.groups = weight_decay, {}
        for p in params:
            self.groups.setdefault(tuple(p.shape[-2:]), []).append(p)
        self.momentum = {}

    @torch.no_grad()
    def step(self, lr):
        for (a, b), params in self.groups.items():
            g = torch.cat([p.grad.reshape(-1, a, b) for p in params])
            if (a, b) not in self.momentum:
                self.momentum[a, b] = torch.zeros_like(g)
            m = self.momentum[a, b].lerp_(g, 0.05)
            x = g.lerp(m, 0.95).to(torch.bfloat16 if g.is_cuda else torch.float32)
            x = x.transpose(1, 2) if a > b else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                s = x @ x.transpose(1, 2)
                x = 3.4445 * x + torch.baddbmm(s, s, s, beta=-4.7750, alpha=2.0315) @ x
            x = (x.transpose(1, 2) if a > b else x).float().split([p.numel() // (a * b) for p in params])
            torch._foreach_mul_(params, 1 - lr * self.wd)
            torch._foreach_add_(params, [u.reshape(p.shape) for u, p in zip(x, params)], alpha=-lr * 0.2 * max(a, b) ** 0.5)


# ---- text --------------------------------------------------------------------------------------------------------------

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
ROLES = ["<｜User｜>", "<｜Assistant｜>"]
V3_PATTERNS = [  # DeepSeek-V3's pre-tokenizer
    "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
HELD_OUT = {  # whole books by authors of whom other books are in the training part; title: the first words
    "L. Frank Baum, The Road to Oz": "The Way to Butterfield",
    "E. Nesbit, The Story of the Treasure Seekers": "The Council of Ways and Means",
    "Frances Hodgson Burnett, Little Lord Fauntleroy": "Cedric himself knew nothing whatever about it.",
}
OPENING = re.compile(r"Once (up)?on a time|Once there|(Long|A long time) ago,? (there|a)\b|There (was|were|lived|dwelt),? (once|a certain)\b"
                     r"|In olden times|In the days when|A certain \w+ had|A \w+ once (?!more)|In the sea, once upon a time")


def read_books(path):
    """-> training books, held-out books; a book is a list of tales (or chapters), a tale a list of paragraphs.

    A tale begins at a heading, or where a paragraph opens as tales do and the last beginning is some way back."""
    parts, held = ([], []), set()
    for text in open(path, encoding="utf-8").read().split("\n\n\n"):
        tales, size, after_heading = [], 0, False
        for p in filter(None, text.strip("\n").split("\n\n")):
            heading = len(p) < 80 and p[-1].isalnum() and p[0].isupper()
            if not tales or not after_heading and (heading and size > 1500 or OPENING.match(p) and size > 400):
                tales.append([])
                size = 0
            tales[-1].append(p)
            size, after_heading = size + len(p), heading
        title = next((t for t, first in HELD_OUT.items() if text.strip("\n").startswith(first)), None)
        held |= {title} - {None}
        if tales:
            parts[title is not None].append(tales)
    if len(held) != len(HELD_OUT):
        raise SystemExit(f"{path}: not the expected collection: no book begins with {[HELD_OUT[t] for t in set(HELD_OUT) - held]}")
    return parts


def train_tokenizer(books, size):
    """Byte-level BPE in DeepSeek-V3's form: three special tokens first, the roles after the vocabulary. -> tokenizer.json's text"""
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    split = [{"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False} for r in V3_PATTERNS]
    byte_level = lambda prefix, trim, regex: {
        "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}
    added = lambda i, text, special: {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                                      "normalized": not special, "special": special}
    form = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split + [byte_level(False, True, False)]},
        "post_processor": byte_level(True, False, True), "decoder": byte_level(True, True, True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {}, "merges": []},
    }
    tok = Tokenizer.from_str(json.dumps(form))
    trainer = trainers.BpeTrainer(vocab_size=size - len(ROLES), special_tokens=[BOS, EOS, PAD], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(["\n\n".join(tale) + "\n\n" for book in books for tale in book], trainer)
    form["model"] = json.loads(tok.to_str())["model"]
    form["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in form["model"]["merges"]]
    assert [form["model"]["vocab"][t] for t in (BOS, EOS, PAD)] == [0, 1, 2] and len(form["model"]["vocab"]) == size - len(ROLES)
    form["added_tokens"] = ([added(i, t, True) for i, t in enumerate((BOS, EOS, PAD))] +
                            [added(size - len(ROLES) + i, t, False) for i, t in enumerate(ROLES)])
    return json.dumps(form, ensure_ascii=False, indent=1)


def encode_books(tok, books):
    """-> the token stream (each tale: BOS ... EOS), where paragraphs begin in it, where tales begin, bytes of text"""
    stream, paragraphs, tales, n_bytes = [], [], [], 0
    for tale in (tale for book in books for tale in book):
        tales.append(len(stream))
        pieces = [p + "\n\n" for p in tale[:-1]] + [tale[-1]]  # the pre-tokenizer never joins across these ends
        n_bytes += sum(len(p.encode()) for p in pieces)
        stream.append(0)
        for i, e in enumerate(tok.encode_batch(pieces, add_special_tokens=False)):
            paragraphs.append(len(stream) - (i == 0))
            stream += e.ids
        stream.append(1)
    return torch.tensor(stream), torch.tensor(paragraphs), torch.tensor(tales), n_bytes


class Windows:
    """Windows of T+2 tokens that begin at a paragraph: every pass cuts the stream at other places, in random order; one window
    in eight begins with a tale instead, because that is where a reader starts."""

    def __init__(self, stream, paragraphs, tales, T, device):
        self.stream, self.T, self.paragraphs, self.tales = torch.cat((stream, stream[:T + 2])).to(device), T, paragraphs, tales
        self.n, self.queue, self.seen = len(stream), torch.empty(0, dtype=torch.long), 0
        self.span = torch.arange(T + 2, device=device)

    def next(self, B):
        while len(self.queue) < B:
            cuts = torch.arange(int(torch.randint(self.T, (1,))), self.n, self.T)
            starts = self.paragraphs[(torch.searchsorted(self.paragraphs, cuts, right=True) - 1).clamp(min=0)]
            some = torch.rand(len(starts)) < 0.125
            starts[some] = self.tales[torch.randint(len(self.tales), (int(some.sum()),))]
            self.queue = torch.cat((self.queue, starts[torch.randperm(len(starts))]))
        starts, self.queue = self.queue[:B], self.queue[B:]
        self.seen += B * self.T
        return self.stream[starts.to(self.stream.device)[:, None] + self.span]


@torch.no_grad()
def evaluate(net, stream, n_bytes, autocast, T=CONTEXT, B=8):
    """-> nats per byte of the main model, nats per token of main and extra layer, how often the extra layer's first guess for
    t+2 is what the main model says one step later, loads [layers, E]. Every token (but BOS and EOS) is predicted once, from at
    least T/2 tokens where there are that many."""
    net.eval()
    device, half, n, loads = next(net.parameters()).device, T // 2, 0, 0
    total = torch.zeros(5, dtype=torch.float64, device=device)
    starts, stream = torch.arange(0, len(stream) - half, half), F.pad(stream, (0, T + 2), value=2)
    nll = lambda logits, t: F.cross_entropy(logits.flatten(0, 1).float(), t.flatten(), reduction="none").view(t.shape)
    for i in range(0, len(starts), B):
        w = stream[starts[i:i + B, None] + torch.arange(T + 2)].to(device)
        with autocast():
            one, two, load = net(w)
        text = w > 2
        text[1 if i == 0 else 0:, :half + 1] = False  # was predicted in the window before
        same = one[:, 1:].argmax(-1) == two[:, :-1].argmax(-1)
        total += torch.stack([x.sum().double() for x in (nll(one, w[:, 1:-1]) * text[:, 1:-1], text[:, 1:-1],
                              nll(two, w[:, 2:]) * text[:, 2:], same * text[:, 2:-1], text[:, 2:-1])])
        loads, n = loads + load * len(w), n + len(w)
    net.train()
    main, count, ahead, same, count_2 = total.tolist()
    return dict(per_byte=main / n_bytes, per_token=main / count, ahead=ahead / count, agree=same / count_2,
                loads=(loads / n / net.c["num_experts_per_tok"]).tolist())


# ---- training ----------------------------------------------------------------------------------------------------------


def train(net, data, held, args, device):
    """Trains in place; leaves the weights that were best on the held-out books. -> facts for the model card"""
    p, cuda = PRESETS[args.preset], device.type == "cuda"
    autocast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=cuda)
    named = list(net.named_parameters())
    is_matrix = lambda n, t: t.dim() > 1 and not any(s in n for s in ("embed_tokens", "lm_head", "mlp.gate."))
    muon = Muon([t for n, t in named if is_matrix(n, t)], p["wd"])
    rest = [t for n, t in named if not is_matrix(n, t)]
    adam = torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=cuda)
    windows = Windows(*data[:3], CONTEXT, device)
    step_losses = torch.compile(losses) if cuda and not args.no_compile else losses
    routers = net.routers()

    def run(w):
        with autocast():
            return step_losses(net, w)

    clock = time.time()
    try:
        sum(run(windows.next(args.batch))[:2]).backward()  # compiles
    except Exception as e:
        if step_losses is losses:
            raise
        print(f"torch.compile failed, running without it: {e!r:.2000}", flush=True)
        step_losses = losses
        sum(run(windows.next(args.batch))[:2]).backward()
    net.zero_grad()
    print(f"first step after {time.time() - clock:.0f} s", flush=True)

    begin = said = time.time()
    kept, kept_at, step, n_eval = None, math.inf, 0, 0
    while True:
        now = time.time()
        done = step / args.steps if args.steps else (now - begin) / (60 * args.minutes)
        if done * args.evals >= n_eval + 1 or done >= 1:
            n_eval = int(done * args.evals)
            e = evaluate(net, held[0], held[3], autocast)
            print(f"{done:4.0%} step {step} epoch {windows.seen / windows.n:.1f}: held-out {e['per_byte']:.4f} nats/byte, "
                  f"{e['per_token']:.3f}/token, t+2 {e['ahead']:.3f}, agree {e['agree']:.2f}", flush=True)
            if e["per_byte"] < kept_at:
                kept, kept_at = {k: v.detach().clone() for k, v in net.state_dict().items()}, e["per_byte"]
                kept_step, kept_epochs = step, windows.seen / windows.n
        if done >= 1:
            break
        lr = args.lr * min(1, (step + 1) / 100, (1 - done) / 0.8)
        one, two, loads = run(windows.next(args.batch))
        (one + (0.3 if done < 0.67 else 0.1) * two).backward()  # weights, and when they change, as for DeepSeek-V3
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.param_groups[0]["lr"] = lr
        adam.step()
        muon.step(lr)
        net.zero_grad(set_to_none=True)
        if done < 0.95:  # balance without an auxiliary loss: whoever had too many tokens becomes a little less likely
            for r, load in zip(routers, loads.detach()):
                r.e_score_correction_bias += 1e-3 * torch.sign(load.mean() - load)
        step += 1
        if now - said > 10:
            said = now
            print(f"{done:4.0%} step {step} lr {lr:.1e} loss {one.item():.3f}, t+2 {two.item():.3f}, load {loads.min():.2f} to "
                  f"{loads.max():.2f}, {step / (time.time() - begin):.1f} steps/s", flush=True)
    net.load_state_dict(kept)
    return dict(steps=kept_step, epochs=kept_epochs, minutes=(time.time() - begin) / 60, tokens=kept_step * args.batch * CONTEXT)


# ---- files -------------------------------------------------------------------------------------------------------------


def checkpoint(net):
    """The tensors of a V3 checkpoint: bf16 but for the router's bias; the extra layer repeats embedding and head."""
    out, last = {}, f"model.layers.{net.c['num_hidden_layers']}."
    for name, t in net.state_dict().items():
        t = t.detach().cpu()
        if ".experts." in name:
            where, kind = name.rsplit(".", 1)
            out.update({f"{where}.{e}.{kind}.weight": t[e] for e in range(len(t))})
        else:
            out[name] = t
    out[last + "embed_tokens.weight"] = net.model["embed_tokens"].weight.detach().cpu()
    out[last + "shared_head.head.weight"] = net.head().detach().cpu()
    return {n: t.clone() if n.endswith("e_score_correction_bias") else t.bfloat16().clone() for n, t in out.items()}


def read(directory):
    from safetensors.torch import load_file
    net, t = Net(json.load(open(f"{directory}/config.json"))), load_file(f"{directory}/model.safetensors")
    for name, into in net.state_dict().items():
        where, kind = name.rsplit(".", 1)
        into.copy_(torch.stack([t[f"{where}.{e}.{kind}.weight"] for e in range(len(into))]) if ".experts." in name else t[name])
    return net


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        f.write(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2))
        f.write("\n")


def write(directory, net, tokenizer_json):
    from safetensors.torch import save_file
    save_file(checkpoint(net), f"{directory}/model.safetensors", {"format": "pt"})
    write_json(f"{directory}/config.json", net.c)
    write_json(f"{directory}/tokenizer.json", tokenizer_json)
    write_json(f"{directory}/tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": None,
        "clean_up_tokenization_spaces": False, "model_max_length": CONTEXT, "tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(f"{directory}/generation_config.json", {
        "bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.8, "top_p": 0.9})


@torch.no_grad()
def sample(net, ids, n, rows, temperature=0.8, top_p=0.9):
    """rows continuations of ids by n tokens (or to EOS, after which a row is only filled)"""
    net.eval()
    x = torch.tensor([ids] * rows, device=next(net.parameters()).device)
    for _ in range(n):
        logits = F.linear(net.trunk(x)[0][:, -1], net.head())
        p, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
        p = p * (p.cumsum(-1) - p < top_p)
        following = order.gather(-1, torch.multinomial(p, 1))
        x = torch.cat((x, following.masked_fill((x[:, len(ids):] == 1).any(-1, keepdim=True), 2)), -1)
    return x.tolist()


PROMPT = ("Once upon a time there was a little girl who lived with her grandmother at the edge of a great forest. Every morning she "
          "went to the well, and every morning an old frog sat upon the stone and looked at her. “Good morning,” said the frog. "
          "“Good morning,” said the girl, and she filled her pail and went home again, for she had been told not to talk with frogs.")


@torch.no_grad()
def check(directory):
    """What transformers computes from the written files, in float32 on the CPU -> expected.safetensors:
    tokens [64], logits [64, vocab]; greedy [200], the argmax continuation one at a time, and greedy_margin [200], top-1 minus
    top-2 logit; mtp_tokens [63] and mtp_logits [63, vocab]: row i is the extra layer on the main model's state after tokens[0..i]
    (after the last norm) and the embedding of mtp_tokens[i] = tokens[i+1]. The network above must agree with all logits."""
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    from transformers import DeepseekV3ForCausalLM
    torch.set_num_threads(2)  # more of them only wait for each other

    def load(d):
        model = DeepseekV3ForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
        model.config._experts_implementation = "eager"
        return model

    net, model, t = read(directory).eval(), load(directory), load_file(f"{directory}/model.safetensors")
    ids = Tokenizer.from_file(f"{directory}/tokenizer.json").encode(PROMPT, add_special_tokens=False).ids
    tokens = torch.tensor(([0] + ids)[:64])
    assert len(tokens) == 64
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    hidden = model.model(input_ids=tokens[None], use_cache=False).last_hidden_state

    out, greedy, margin = model(input_ids=tokens[None], use_cache=True), [], []
    for _ in range(200):
        top = out.logits[0, -1].float().topk(2)
        greedy.append(int(top.indices[0]))
        margin.append(float(top.values[0] - top.values[1]))
        out = model(input_ids=torch.tensor([greedy[-1:]]), past_key_values=out.past_key_values, use_cache=True)

    # The extra layer, as a model of one layer: its block, with shared_head's norm and head around.
    last, renamed = f"model.layers.{net.c['num_hidden_layers']}.", {}
    apart = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.norm.weight": "model.norm.weight",
             "shared_head.head.weight": "lm_head.weight", "enorm.weight": None, "hnorm.weight": None, "eh_proj.weight": None}
    for name in (n[len(last):] for n in t if n.startswith(last)):
        to = apart.get(name, "model.layers.0." + name)
        if to:
            renamed[to] = t[last + name]
    w = {n: t[last + n + ".weight"].float() for n in ("embed_tokens", "enorm", "hnorm", "eh_proj")}
    rms = lambda x, weight: weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    x = torch.cat((rms(w["embed_tokens"][tokens[None, 1:]], w["enorm"]), rms(hidden[:, :-1], w["hnorm"])), -1) @ w["eh_proj"].T
    with tempfile.TemporaryDirectory() as d:
        write_json(f"{d}/config.json", dict(net.c, num_hidden_layers=1, first_k_dense_replace=0, tie_word_embeddings=False))
        save_file(renamed, f"{d}/model.safetensors", {"format": "pt"})
        ahead = load(d)(inputs_embeds=x, use_cache=False).logits[0]

    h = net.trunk(tokens[None])[0]
    pairs = {"logits": (F.linear(h, net.head())[0], logits), "t+2 logits": (net.ahead(h[:, :-1], tokens[None, 1:])[0][0], ahead)}
    for what, (ours, theirs) in pairs.items():
        off = float((ours - theirs).abs().max() / theirs.abs().max())
        print(f"{what}: train.py and transformers differ by {off:.1e} of the largest", flush=True)
        assert off < 5e-5, f"{what} are not those of transformers"
    print(f"greedy: smallest margin {min(margin):.1e}", flush=True)
    save_file({"tokens": tokens, "logits": logits.contiguous(), "greedy": torch.tensor(greedy),
               "greedy_margin": torch.tensor(margin), "mtp_tokens": tokens[1:].clone(), "mtp_logits": ahead.contiguous()},
              f"{directory}/expected.safetensors")


CARD = """# tales

A DeepSeek-V3 in miniature, trained from nothing on old books for the young. It tells small tales in English; it knows nothing
else. It is there to show, and to test, that every mechanism of the architecture runs: low-rank queries, latent keys and values,
YaRN, a dense first layer, experts routed in groups by a learnt bias, a shared expert, multi-token prediction.

| | |
|---|---|
| parameters | {params:,} stored, of which {extra:,} in the multi-token-prediction layer with its copies of embedding and head |
| used for one token | {active:,} without that layer and the embedding table |
| file | {bytes:,} bytes: bf16, the router's bias float32 |
| sizes | hidden {c[hidden_size]}, {c[num_hidden_layers]} layers (the first dense, {c[intermediate_size]} wide) and one more that predicts the token after the next |
| attention | {c[num_attention_heads]} heads of {c[qk_nope_head_dim]} + {c[qk_rope_head_dim]} (rope) and {c[v_head_dim]} (value); ranks {c[q_lora_rank]} (queries), {c[kv_lora_rank]} (keys and values) |
| experts | {c[num_experts_per_tok]} of {c[n_routed_experts]}, {c[moe_intermediate_size]} wide, from {c[topk_group]} of {c[n_group]} groups; one shared |
| head | {head} |
| tokens | byte-level BPE, {c[vocab_size]} entries, DeepSeek-V3's pre-tokenizer; {bytes_per_token:.2f} bytes of text a token |
| context | {c[max_position_embeddings]} tokens: YaRN by 4 from {orig}, trained so throughout |

## Data

About fifty classic books for the young in the public domain (Standard Ebooks editions, CC0): {train_bytes:,} bytes, {train_tokens:,}
tokens. A tale or chapter is `<bos> ... <eos>`; chapter headings stay in the text. Kept apart as a whole, for validation only
({held_bytes:,} bytes):

{held_books}

## Training

`train.py --preset {preset}`: {steps:,} steps of {batch} windows of {context} tokens ({tokens_m:.0f} million, {epochs:.1f} times the books) in
{minutes:.1f} minutes on {gpu}. Muon for the matrices, AdamW for the rest, weight decay {wd}, dropout {drop}, bf16 arithmetic; the weights are
those of the best of {evals} looks at the held-out books, rounded to bf16 at the end.

## Measured on the held-out books

With the weights as shipped, in float32:

| | |
|---|---|
| loss | {nats:.4f} nats per byte = **{bits:.4f} bits per byte** ({per_token:.3f} nats per token) |
| before rounding to bf16 | {nats_before:.4f} nats per byte |
| extra layer | {ahead:.3f} nats for the token after the next; {agree:.0%} of its first guesses are what the model itself then says |

Load of the experts, in percent of what each layer sends out (even: {even:.1f}):

{loads}

## Checked

`expected.safetensors` holds what transformers 5.17's DeepseekV3ForCausalLM computes from these files in float32: the logits of 64 tokens, the
200 greedy tokens after them, and the extra layer's logits; `train.py --check` writes it, and the network it trained must agree.
`mtp.safetensors` (`tests/fixtures/mtp.py`) holds the same of transformers' own generation with the extra layer. `tests/test_tales.c` and
`tests/test_mtp.c` compare mla.h with both.

## Limits

English of 1840 to 1920, with that time's words and prejudices: the books' views of peoples, classes and women may show in what it
writes. Sentences are mostly sound; who is who gets lost after a few of them, and a plot is beyond {params_m:.1f} million parameters. It
follows no instructions: `<｜User｜>` and `<｜Assistant｜>` are in the vocabulary so that a chat template can be tried, but were never
trained. Numbers, facts and languages other than English: none. It may repeat a sentence from the books word for word.

MIT licence, like the sources; the training data is CC0.
"""


def card(net, facts):
    c, L, tensors = net.c, net.c["num_hidden_layers"], checkpoint(net)
    size = lambda f: sum(t.numel() for n, t in tensors.items() if f(n))
    own = lambda n: not n.startswith(f"model.layers.{L}.")
    routed = size(lambda n: own(n) and ".experts." in n)
    active = size(lambda n: own(n) and n != "model.embed_tokens.weight")
    active -= routed * (1 - c["num_experts_per_tok"] / c["n_routed_experts"])
    if c["tie_word_embeddings"]:
        active += net.head().numel()
    rows = [f"| layer {i + 1 if i + 1 < L else f'{L} (t+2)'} | " + " | ".join(f"{100 * x:.1f}" for x in row) + " |"
            for i, row in enumerate(facts["loads"])]
    head = "|  | " + " | ".join(str(e) for e in range(c["n_routed_experts"])) + " |\n|---|" + "---|" * c["n_routed_experts"]
    return CARD.format(
        c=c, params=size(lambda n: True), params_m=size(lambda n: True) / 1e6, extra=size(lambda n: not own(n)), active=int(active),
        orig=c["rope_scaling"]["original_max_position_embeddings"], even=100 / c["n_routed_experts"], context=CONTEXT,
        head="the embedding, transposed (tied)" if c["tie_word_embeddings"] else "its own matrix, as in DeepSeek-V3",
        held_books="\n".join(f"- {t}" for t in HELD_OUT), **dict(facts, loads="\n".join([head] + rows)))


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    a.add_argument("--data", help="the books: a paragraph a line, an empty line between paragraphs, two between books")
    a.add_argument("--out", help="directory to write")
    a.add_argument("--check", metavar="DIR", help="no training: compare DIR with transformers and write its expected.safetensors")
    a.add_argument("--preset", choices=PRESETS, default="a")
    a.add_argument("--minutes", type=float, default=6, help="training time; the learning rate follows the clock")
    a.add_argument("--steps", type=int, default=0, help="train by steps and not by the clock")
    a.add_argument("--smoke", action="store_true", help="200 steps: does everything run, and how fast?")
    a.add_argument("--batch", type=int, default=16, help=f"windows of {CONTEXT} tokens a step")
    a.add_argument("--lr", type=float, default=3e-3)
    a.add_argument("--wd", type=float, help="instead of the preset's weight decay")
    a.add_argument("--drop", type=float, help="instead of the preset's dropout")
    a.add_argument("--evals", type=int, default=16, help="looks at the held-out books")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--no-compile", action="store_true")
    args = a.parse_args()
    if args.check:
        return check(args.check)
    if not args.data or not args.out:
        a.error("--data and --out are needed")
    if args.smoke:
        args.steps, args.evals = 200, 2
    p = PRESETS[args.preset]
    p.update({k: v for k, v in (("wd", args.wd), ("drop", args.drop)) if v is not None})
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    from tokenizers import Tokenizer

    start = time.time()
    books, held_books = read_books(args.data)
    tokenizer_json = train_tokenizer(books, p["vocab"])
    tok = Tokenizer.from_str(tokenizer_json)
    whole = "\n\n".join(held_books[0][0])
    assert tok.decode(tok.encode(whole, add_special_tokens=False).ids) == whole
    data, held = encode_books(tok, books), encode_books(tok, held_books)
    net = Net(make_config(p), p["drop"]).to(device)
    tensors = checkpoint(net)
    n_bytes = sum(t.numel() * t.element_size() + 140 for t in tensors.values())
    print(f"preset {args.preset}: {sum(t.numel() for t in tensors.values()):,} parameters, about {n_bytes:,} bytes; "
          f"{len(data[0]):,} tokens in {len(data[2])} tales, {len(held[0]):,} held out; {data[3] / len(data[0]):.2f} bytes a token; "
          f"{time.time() - start:.0f} s", flush=True)
    assert n_bytes <= MAX_BYTES, "too large to ship"

    facts = train(net, data, held, args, device)
    os.makedirs(args.out, exist_ok=True)
    write(args.out, net, tokenizer_json)
    exact = lambda: torch.autocast(device.type, enabled=False)
    before, net = evaluate(net, held[0], held[3], exact), read(args.out).to(device)
    after = evaluate(net, held[0], held[3], exact)
    print(f"held-out, float32: {before['per_byte']:.4f} nats/byte; rounded to bf16: {after['per_byte']:.4f} nats = "
          f"{after['per_byte'] / math.log(2):.4f} bits/byte", flush=True)
    write_json(f"{args.out}/README.md", card(net, dict(
        facts, nats=after["per_byte"], bits=after["per_byte"] / math.log(2), nats_before=before["per_byte"], loads=after["loads"],
        per_token=after["per_token"], ahead=after["ahead"], agree=after["agree"], preset=args.preset, wd=p["wd"], drop=p["drop"],
        batch=args.batch, evals=args.evals, bytes=os.path.getsize(f"{args.out}/model.safetensors"), train_bytes=data[3],
        train_tokens=len(data[0]), held_bytes=held[3], bytes_per_token=data[3] / len(data[0]), tokens_m=facts["tokens"] / 1e6,
        gpu=torch.cuda.get_device_name() if device.type == "cuda" else "a CPU")).rstrip("\n"))
    torch.manual_seed(args.seed)
    ids = tok.encode("Once upon a time", add_special_tokens=False).ids
    for row in sample(net, [0] + ids, 300, 3) + sample(net, [0], 300, 1):
        print("-" * 100 + "\n" + tok.decode(row), flush=True)
    print("-" * 100, flush=True)
    check(args.out)


if __name__ == "__main__":
    main()
