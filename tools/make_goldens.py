#!/usr/bin/env python3
"""Micro models and their goldens: what tests/golden/micro holds. Needs torch, transformers 5 and safetensors; docs/goldens.md says what was used.

    make_goldens.py OUT_DIR [NAME...]     writes OUT_DIR/NAME/ for every model below, or for those named

Each model is a folder as its family is released (config.json, tensor names, shards, tokenizer.json), with seeded random weights and odd shapes, so
that every option of a family is used by at least one. goldens.safetensors beside it holds what transformers computes for it in float32 on
the CPU, goldens.json how. Weights that transformers stores in another form (fp8 blocks, MXFP4) are given to it dequantised.
"""
import json, math, os, sys, tempfile, zlib

import safetensors, torch, transformers
from safetensors.torch import load_file, save_file

GREEDY = 12
PROMPT_TOKENS = [1, 7, 23, 47, 90]      # the last two are longer than two KV pages, sliding windows and the context YaRN stretches
LAST_ROW_ONLY = 90                      # from this length on, logits are kept for the last position only
MERGES = [("\u0120", "t"), ("h", "e"), ("\u0120t", "he"), ("i", "n"), ("e", "r"), ("a", "n"), ("\u0120", "a"), ("o", "u"), ("r", "e"), ("in", "g")]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


# ---- the models -----------------------------------------------------------------------------------------------------------------------------

def olmoe(**changes):
    return {"architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None, "eos_token_id": 0,
            "hidden_act": "silu", "hidden_size": 72, "initializer_range": 0.02, "intermediate_size": 20, "max_position_embeddings": 256,
            "model_type": "olmoe", "norm_topk_prob": False, "num_attention_heads": 6, "num_experts": 12, "num_experts_per_tok": 3,
            "num_hidden_layers": 3, "num_key_value_heads": 6, "output_router_logits": False, "pad_token_id": 3, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 271, **changes}


def deepseek_yarn(mscale, mscale_all_dim):
    return {"beta_fast": 32, "beta_slow": 1, "factor": 8, "mscale": mscale, "mscale_all_dim": mscale_all_dim,
            "original_max_position_embeddings": 32, "type": "yarn"}


def deepseek_v2(**changes):
    return {"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config", "AutoModel": "modeling_deepseek.DeepseekV2Model",
                         "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM"},
            "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 0, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 72,
            "initializer_range": 0.02, "intermediate_size": 88, "kv_lora_rank": 20, "max_position_embeddings": 256, "model_type": "deepseek_v2",
            "moe_intermediate_size": 20, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 10, "n_shared_experts": 2,
            "norm_topk_prob": False, "num_attention_heads": 3, "num_experts_per_tok": 3, "num_hidden_layers": 3, "num_key_value_heads": 3,
            "pretraining_tp": 1, "q_lora_rank": None, "qk_nope_head_dim": 14, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-06,
            "rope_scaling": deepseek_yarn(0.707, 0.707), "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
            "seq_aux": True, "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16",
            "transformers_version": "4.33.1", "use_cache": True, "v_head_dim": 18, "vocab_size": 272, **changes}


def deepseek_v3(**changes):
    own = {"architectures": ["DeepseekV3ForCausalLM"],
           "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config", "AutoModel": "modeling_deepseek.DeepseekV3Model",
                        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
           "eos_token_id": 1, "ep_size": 1, "model_type": "deepseek_v3", "n_group": 4, "n_routed_experts": 16, "n_shared_experts": 1,
           "norm_topk_prob": True, "num_nextn_predict_layers": 1, "q_lora_rank": 28, "rope_scaling": deepseek_yarn(1.0, 1.0),
           "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 2, "topk_method": "noaux_tc"}
    config = {**deepseek_v2(), **own, **changes}
    for key in ["aux_loss_alpha", "seq_aux", "pretraining_tp"]:
        del config[key]
    return config


def qwen3_moe(**changes):
    return {"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
            "decoder_sparse_step": 1, "eos_token_id": 2, "head_dim": 26, "hidden_act": "silu", "hidden_size": 60, "initializer_range": 0.02,
            "intermediate_size": 76, "max_position_embeddings": 256, "max_window_layers": 6, "mlp_only_layers": [], "model_type": "qwen3_moe",
            "moe_intermediate_size": 18, "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": 14, "num_experts_per_tok": 4,
            "num_hidden_layers": 3, "num_key_value_heads": 2, "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None,
            "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 275,
            **changes}


def qwen2_moe(**changes):
    return {"architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 0, "decoder_sparse_step": 1, "eos_token_id": 0,
            "hidden_act": "silu", "hidden_size": 80, "initializer_range": 0.02, "intermediate_size": 92, "max_position_embeddings": 256,
            "max_window_layers": 3, "model_type": "qwen2_moe", "moe_intermediate_size": 20, "norm_topk_prob": False, "num_attention_heads": 4,
            "num_experts": 9, "num_experts_per_tok": 4, "num_hidden_layers": 3, "num_key_value_heads": 4, "output_router_logits": False,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 44,
            "sliding_window": 64, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.39.0.dev0",
            "use_cache": True, "use_sliding_window": False, "vocab_size": 277, **changes}


def mixtral(**changes):
    return {"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 36, "max_position_embeddings": 256, "model_type": "mixtral",
            "num_attention_heads": 8, "num_experts_per_tok": 2, "num_hidden_layers": 3, "num_key_value_heads": 2, "num_local_experts": 8,
            "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
            "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0",
            "use_cache": True, "vocab_size": 270, **changes}


def gpt_oss(**changes):
    return {"architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 2, "experts_per_token": 3,
            "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initial_context_length": 32, "initializer_range": 0.02,
            "intermediate_size": 32, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "max_position_embeddings": 256, "model_type": "gpt_oss", "num_attention_heads": 6, "num_experts_per_tok": 3, "num_hidden_layers": 4,
            "num_key_value_heads": 2, "num_local_experts": 7, "output_router_logits": False, "pad_token_id": 3,
            "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                                                               "lm_head"], "quant_method": "mxfp4"},
            "rms_norm_eps": 1e-05, "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 32,
                                                    "rope_type": "yarn", "truncate": False},
            "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 8, "swiglu_limit": 7.0, "tie_word_embeddings": False,
            "transformers_version": "4.55.0.dev0", "use_cache": True, "vocab_size": 274, **changes}


def gpt_oss_bf16(**changes):
    config = gpt_oss(**changes)
    del config["quantization_config"]
    return config


FP8 = {"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}
YARN = {"factor": 8.0, "original_max_position_embeddings": 32, "rope_type": "yarn"}
MODELS = {      # name: (config, dtype, shards, fused experts)
    "olmoe": (olmoe(), "bf16", 3, False),
    "olmoe-gqa": (olmoe(clip_qkv=1.25, norm_topk_prob=True, num_key_value_heads=2, rope_scaling={"factor": 2.0, "type": "linear"},
                        vocab_size=283), "bf16", 1, False),
    "olmoe-fused": (olmoe(tie_word_embeddings=True, num_hidden_layers=2, num_experts=8, rope_scaling=YARN), "f32", 2, True),
    "deepseek-v2-lite": (deepseek_v2(), "bf16", 2, False),
    "deepseek-v2-groups": (deepseek_v2(first_k_dense_replace=0, n_group=4, n_routed_experts=12, n_shared_experts=1, q_lora_rank=26,
                                       rope_scaling=deepseek_yarn(1.0, 0.6), routed_scaling_factor=4.0, topk_group=2,
                                       topk_method="group_limited_greedy"), "f16", 1, False),
    "deepseek-v2-sparse": (deepseek_v2(first_k_dense_replace=2, moe_layer_freq=2, num_hidden_layers=5, rope_scaling=None,
                                       tie_word_embeddings=True, n_routed_experts=7), "bf16", 1, True),
    "qwen3-moe": (qwen3_moe(), "bf16", 3, False),
    "qwen3-moe-sparse": (qwen3_moe(decoder_sparse_step=2, mlp_only_layers=[3], num_hidden_layers=6, num_experts=9), "f16", 2, False),
    "qwen3-moe-fused": (qwen3_moe(norm_topk_prob=False, rope_scaling=YARN, tie_word_embeddings=True, num_key_value_heads=4), "bf16", 2, True),
    "qwen2-moe": (qwen2_moe(), "bf16", 2, False),
    "qwen2-moe-gqa": (qwen2_moe(num_key_value_heads=2, norm_topk_prob=True, decoder_sparse_step=2, num_hidden_layers=2, mlp_only_layers=[],
                                tie_word_embeddings=True, qkv_bias=True), "f32", 1, True),
    "mixtral": (mixtral(), "bf16", 2, False),
    "deepseek-v3": (deepseek_v3(), "bf16", 2, False),
    "deepseek-v3-fp8": (deepseek_v3(hidden_size=144, num_attention_heads=4, num_key_value_heads=4, n_group=1, topk_group=1, n_routed_experts=8,
                                    qk_nope_head_dim=24, v_head_dim=20, kv_lora_rank=40, q_lora_rank=60, first_k_dense_replace=2,
                                    intermediate_size=150, moe_intermediate_size=44, **FP8), "bf16", 2, False),
    "gpt-oss": (gpt_oss(), "bf16", 2, False),
    "gpt-oss-bf16": (gpt_oss_bf16(num_key_value_heads=3, num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
                     "bf16", 1, True),
}


def is_moe(c, layer):
    if c["model_type"] in ("deepseek_v2", "deepseek_v3"):
        return layer >= c["first_k_dense_replace"] and layer % c["moe_layer_freq"] == 0
    return layer not in c.get("mlp_only_layers", []) and (layer + 1) % c.get("decoder_sparse_step", 1) == 0


def n_experts(c):
    return c.get("num_experts") or c.get("n_routed_experts") or c["num_local_experts"]


# ---- random weights that keep activations near 1 and make routers decide ---------------------------------------------------------------------

class Weights(dict):
    """name -> float32 tensor; a value depends on the model's and the tensor's name only."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def uniform(self, name, shape, low, high):
        g = torch.Generator().manual_seed(zlib.crc32(f"{self.model}/{name}".encode()))
        self[name] = torch.rand(shape, generator=g) * (high - low) + low

    def matrix(self, name, rows, cols, gain=1.0):
        bound = gain * math.sqrt(3 / cols)
        self.uniform(name, (rows, cols), -bound, bound)

    def norm(self, name, n):
        self.uniform(name, (n,), 0.7, 1.3)

    def bias(self, name, n, bound=0.4):
        self.uniform(name, (n,), -bound, bound)

    def mlp(self, at, hidden, width):
        self.matrix(at + "gate_proj.weight", width, hidden)
        self.matrix(at + "up_proj.weight", width, hidden)
        self.matrix(at + "down_proj.weight", hidden, width, 1.5)


def add_mla(w, c, at):
    heads, nope, rope, v = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    hidden, q_rank, kv_rank = c["hidden_size"], c["q_lora_rank"], c["kv_lora_rank"]
    if q_rank is None:
        w.matrix(at + "q_proj.weight", heads * (nope + rope), hidden, 1.3)
    else:
        w.matrix(at + "q_a_proj.weight", q_rank, hidden)
        w.norm(at + "q_a_layernorm.weight", q_rank)
        w.matrix(at + "q_b_proj.weight", heads * (nope + rope), q_rank, 1.3)
    w.matrix(at + "kv_a_proj_with_mqa.weight", kv_rank + rope, hidden, 1.3)
    w.norm(at + "kv_a_layernorm.weight", kv_rank)
    w.matrix(at + "kv_b_proj.weight", heads * (nope + v), kv_rank)
    w.matrix(at + "o_proj.weight", hidden, heads * v)


def add_attention(w, c, at):
    if "kv_lora_rank" in c:
        return add_mla(w, c, at)
    hidden, family = c["hidden_size"], c["model_type"]
    head = c.get("head_dim", hidden // c["num_attention_heads"])
    n = {"q": c["num_attention_heads"] * head, "k": c["num_key_value_heads"] * head, "v": c["num_key_value_heads"] * head}
    for part, rows in n.items():
        w.matrix(f"{at}{part}_proj.weight", rows, hidden, 1.3)
        if family in ("qwen2_moe", "gpt_oss"):
            w.bias(f"{at}{part}_proj.bias", rows)
        if family in ("olmoe", "qwen3_moe") and part != "v":
            w.norm(f"{at}{part}_norm.weight", rows if family == "olmoe" else head)
    w.matrix(at + "o_proj.weight", hidden, n["q"])
    if family == "gpt_oss":
        w.bias(at + "o_proj.bias", hidden)
        w.uniform(at + "sinks", (c["num_attention_heads"],), -1, 2)


def add_gpt_oss_moe(w, c, at):
    hidden, width, n = c["hidden_size"], c["intermediate_size"], n_experts(c)
    w.matrix(at + "router.weight", n, hidden, 2.5)
    w.bias(at + "router.bias", n, 1.0)
    bound = math.sqrt(3 / hidden)
    w.uniform(at + "experts.gate_up_proj", (n, hidden, 2 * width), -bound, bound)
    w.uniform(at + "experts.gate_up_proj_bias", (n, 2 * width), -1, 1)
    w[at + "experts.gate_up_proj_bias"][:, ::5] *= 9            # over swiglu_limit, on gates and ups, of both signs
    bound = math.sqrt(3 / width)
    w.uniform(at + "experts.down_proj", (n, width, hidden), -bound, bound)
    w.uniform(at + "experts.down_proj_bias", (n, hidden), -0.4, 0.4)


def add_moe(w, c, at, fused):
    hidden, n = c["hidden_size"], n_experts(c)
    width = c.get("moe_intermediate_size", c["intermediate_size"])
    if c["model_type"] == "mixtral":
        at = at.replace(".mlp.", ".block_sparse_moe.")
        w.matrix(at + "gate.weight", n, hidden, 2.5)
        for e in range(n):
            w.matrix(f"{at}experts.{e}.w1.weight", width, hidden)
            w.matrix(f"{at}experts.{e}.w2.weight", hidden, width, 1.5)
            w.matrix(f"{at}experts.{e}.w3.weight", width, hidden)
        return
    w.matrix(at + "gate.weight", n, hidden, 2.5)
    if c["model_type"] == "deepseek_v3":
        w.uniform(at + "gate.e_score_correction_bias", (n,), 0, 0.3)        # scores stay positive: see margin_of
    for e in range(n):
        w.mlp(f"{at}experts.{e}.", hidden, width)
    if fused:
        parts = {p: [w.pop(f"{at}experts.{e}.{p}_proj.weight") for e in range(n)] for p in ("gate", "up", "down")}
        w[at + "experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(parts["gate"], parts["up"])])
        w[at + "experts.down_proj"] = torch.stack(parts["down"])
    if c.get("n_shared_experts"):
        w.mlp(at + "shared_experts.", hidden, width * c["n_shared_experts"])
    if c["model_type"] == "qwen2_moe":
        w.mlp(at + "shared_expert.", hidden, c["shared_expert_intermediate_size"])
        w.matrix(at + "shared_expert_gate.weight", 1, hidden)


def add_layer(w, c, layer, fused):
    at = f"model.layers.{layer}."
    w.norm(at + "input_layernorm.weight", c["hidden_size"])
    add_attention(w, c, at + "self_attn.")
    w.norm(at + "post_attention_layernorm.weight", c["hidden_size"])
    if not is_moe(c, layer):
        w.mlp(at + "mlp.", c["hidden_size"], c["intermediate_size"])
    elif c["model_type"] == "gpt_oss":
        add_gpt_oss_moe(w, c, at + "mlp.")
    else:
        add_moe(w, c, at + "mlp.", fused)


def add_next_token_layer(w, c, layer):
    """DeepSeek-V3 files carry a layer more than the network has, for predicting a second token; some of its tensors are enough here."""
    at = f"model.layers.{layer}."
    for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight", "input_layernorm.weight"):
        w.norm(at + name, c["hidden_size"])
    w.matrix(at + "eh_proj.weight", c["hidden_size"], 2 * c["hidden_size"])


def make_weights(name, c, fused):
    w = Weights(name)
    w.uniform("model.embed_tokens.weight", (c["vocab_size"], c["hidden_size"]), -1.2, 1.2)
    for layer in range(c["num_hidden_layers"]):
        add_layer(w, c, layer, fused)
    if c.get("num_nextn_predict_layers"):
        add_next_token_layer(w, c, c["num_hidden_layers"])
    w.norm("model.norm.weight", c["hidden_size"])
    if not c["tie_word_embeddings"]:
        w.matrix("lm_head.weight", c["vocab_size"], c["hidden_size"], 3)
    return w


# ---- how they are stored, and what a reader must make of that ---------------------------------------------------------------------------------

def fp8_blocks(t):
    """[128, 128] blocks: the largest value becomes 448 at most. Scales have 4 significant bits and e4m3 as many, so that products are exact in
    bf16 too and it makes no difference to which type a reader dequantises."""
    rows, cols = -(-t.shape[0] // 128), -(-t.shape[1] // 128)
    scale = torch.empty(rows, cols)
    stored = torch.empty(t.shape, dtype=torch.float8_e4m3fn)
    value = torch.empty(t.shape)
    for i in range(rows):
        for j in range(cols):
            block = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            mantissa, exponent = math.frexp(t[block].abs().max().item() / 448)
            s = math.ldexp(math.ceil(mantissa * 16) / 16, exponent)
            scale[i, j] = s
            stored[block] = (t[block] / s).to(torch.float8_e4m3fn)
            value[block] = stored[block].to(torch.float32) * s
    return stored, scale, value


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4_blocks(t):
    """t [..., columns] -> blocks uint8 [..., columns/32, 16] (two values a byte, the first in the low half), scales uint8 [..., columns/32]
    (a power of two, biased by 127), and the value."""
    groups = t.reshape(*t.shape[:-1], -1, 32)
    exponent = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
    scaled = groups / torch.exp2(exponent)[..., None]
    code = (scaled[..., None] - FP4).abs().argmin(-1).to(torch.uint8)
    value = (FP4[code.long()] * torch.exp2(exponent)[..., None]).reshape(t.shape)
    return code[..., ::2] | code[..., 1::2] << 4, (exponent + 127).to(torch.uint8), value


def store(w, c, dtype):
    """-> what lies on disk, and the same weights in names and types that transformers takes unquantised."""
    disk, plain = {}, {}
    fp8, mxfp4 = [c.get("quantization_config", {}).get("quant_method") == m for m in ("fp8", "mxfp4")]
    for name, t in w.items():
        linear = name.endswith("_proj.weight") or "_proj_with_mqa" in name
        if fp8 and linear and "eh_proj" not in name:
            disk[name], disk[name + "_scale_inv"], plain[name] = fp8_blocks(t)
        elif mxfp4 and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            disk[name + "_blocks"], disk[name + "_scales"], value = mxfp4_blocks(t.transpose(1, 2).contiguous())
            plain[name] = value.transpose(1, 2).contiguous()
        else:
            plain[name] = disk[name] = t.to(torch.float32 if name.endswith("e_score_correction_bias") else dtype)
    return {k: v.contiguous() for k, v in disk.items()}, plain


def write_json(path, value):
    with open(path, "w") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def write_shards(folder, tensors, n):
    if n == 1:
        return save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    names, index = list(tensors), {}
    for s in range(n):
        file = f"model-{s + 1:05}-of-{n:05}.safetensors"
        part = {k: tensors[k] for k in names[len(names) * s // n:len(names) * (s + 1) // n]}
        save_file(part, f"{folder}/{file}", metadata={"format": "pt"})
        index.update({k: file for k in part})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(f"{folder}/model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))})


def byte_letters():
    """The 256 letters that byte-level BPE writes bytes with."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) if b in kept else chr(256 + moved.index(b)) for b in range(256)]


def write_tokenizer(folder):
    tokens = SPECIAL + byte_letters() + [a + b for a, b in MERGES]
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, t in enumerate(SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)},
             "merges": [list(m) for m in MERGES]}
    text = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level,
            "post_processor": None, "decoder": byte_level, "model": model}
    with open(f"{folder}/tokenizer.json", "w") as f:
        json.dump(text, f, ensure_ascii=False)
        f.write("\n")


# ---- the reference ----------------------------------------------------------------------------------------------------------------------------

def patch_moe_layer_freq(freq):
    """transformers reads no moe_layer_freq: layers that it makes dense lose their experts before the weights come."""
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as m
    plain = m.DeepseekV2DecoderLayer.__init__

    def init(self, config, layer_idx):
        plain(self, config, layer_idx)
        if layer_idx >= config.first_k_dense_replace and layer_idx % freq:
            self.mlp = m.DeepseekV2MLP(config)
    m.DeepseekV2DecoderLayer.__init__ = init
    return lambda: setattr(m.DeepseekV2DecoderLayer, "__init__", plain)


def fix_mla_scale(model, c):
    """The softmax scale of MLA has YaRN's mscale_all_dim squared in it (DeepSeek's own code). -> how many layers lacked it."""
    scaling, fixed = c.get("rope_scaling") or {}, 0
    if "kv_lora_rank" not in c:
        return 0
    m = 0.1 * scaling.get("mscale_all_dim", 0) * math.log(scaling.get("factor", 1)) + 1
    expected = (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]) ** -0.5 * m * m
    for layer in model.model.layers:
        fixed += abs(layer.self_attn.scaling / expected - 1) > 1e-6
        layer.self_attn.scaling = expected
    return fixed


def open_reference(c, plain, fused):
    config = {k: v for k, v in c.items() if k not in ("auto_map", "quantization_config", "torch_dtype")}
    undo = patch_moe_layer_freq(c["moe_layer_freq"]) if c.get("moe_layer_freq", 1) > 1 else lambda: None
    with tempfile.TemporaryDirectory() as folder:
        write_json(f"{folder}/config.json", config)
        save_file({k: v.to(torch.float32).contiguous() for k, v in plain.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    undo()
    extra = [k for k in info["unexpected_keys"] if not k.startswith(f"model.layers.{c['num_hidden_layers']}.")]
    if info["missing_keys"] or extra or info["mismatched_keys"]:
        raise SystemExit(f"loading: missing {info['missing_keys']}, unexpected {extra}, mismatched {info['mismatched_keys']}")
    return model.eval()


class Recorder:
    """Inputs of every MoE block and of its experts, in layer order."""
    def __init__(self, model):
        self.blocks = [m for _, m in model.named_modules() if hasattr(m, "experts")]
        self.x, self.routes = [], []
        for block in self.blocks:
            block.register_forward_pre_hook(self.on_block, with_kwargs=True)
            block.experts.register_forward_pre_hook(self.on_experts, with_kwargs=True)

    def on_block(self, module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        self.x.append(x.detach().reshape(-1, x.shape[-1]).double())

    def on_experts(self, module, args, kwargs):
        values = list(args) + list(kwargs.values())
        ids = next(v for v in values[1:] if not v.is_floating_point())
        weights = next(v for v in values[1:] if v.is_floating_point())
        self.routes.append((ids, weights if weights.shape == ids.shape else weights.gather(1, ids)))


def router_logits(block, x):
    gate = getattr(block, "gate", None) or block.router
    bias = getattr(gate, "bias", None)
    return x @ gate.weight.double().T + (bias.double() if bias is not None else 0)


def margin_of(c, block, x):
    """Our own reading of the router, in float64 -> ids [T, k], weights [T, k] (largest first) and the margin [T]: how far the scores that
    decide are from another choice. Scores are probabilities (with the correction bias where there is one), logits for gpt_oss."""
    logits, k, family = router_logits(block, x), c["num_experts_per_tok"], c["model_type"]
    score = logits.sigmoid() if family == "deepseek_v3" else logits.softmax(-1)
    choice = logits if family == "gpt_oss" else score
    if family == "deepseek_v3":
        choice = score + block.gate.e_score_correction_bias.double()
    margin = torch.full(choice.shape[:1], math.inf, dtype=torch.float64)
    if family.startswith("deepseek") and c["topk_method"] != "greedy":
        groups = choice.reshape(len(x), c["n_group"], -1)
        strength = groups.topk(2, -1)[0].sum(-1) if family == "deepseek_v3" else groups.amax(-1)
        order = strength.sort(-1, descending=True)
        kept = torch.zeros_like(strength).scatter(1, order.indices[:, :c["topk_group"]], 1)
        if c["topk_group"] < c["n_group"]:
            margin = order.values[:, c["topk_group"] - 1] - order.values[:, c["topk_group"]]
        choice = groups.masked_fill(kept[..., None] == 0, -math.inf).reshape(len(x), -1)
    order = choice.sort(-1, descending=True)
    margin = torch.minimum(margin, order.values[:, k - 1] - order.values[:, k])
    ids = order.indices[:, :k]
    weights = logits.gather(1, ids).softmax(-1) if family == "gpt_oss" else score.gather(1, ids)
    if c.get("norm_topk_prob") and family != "deepseek_v2" or family == "mixtral":
        weights = weights / weights.sum(-1, keepdim=True)
    return ids, weights * c.get("routed_scaling_factor", 1), margin


def largest_first(ids, weights):
    """By weight, then by id: the order the engine adds in."""
    by_id = ids.argsort(-1)
    ids, weights = ids.gather(1, by_id), weights.gather(1, by_id)
    by_weight = weights.sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(1, by_weight), weights.gather(1, by_weight)


def routing(c, rec):
    ids, weights, margins = [], [], []
    for layer, block in enumerate(rec.blocks):
        i, w = largest_first(*rec.routes[layer])
        own_i, own_w, margin = margin_of(c, block, rec.x[layer])
        own_i, own_w = largest_first(own_i, own_w)
        sure = margin > 1e-5
        if (i.sort(-1)[0] != own_i.sort(-1)[0])[sure].any() or ((w - own_w).abs() > 1e-4 * own_w)[sure].any():
            raise SystemExit(f"MoE layer {layer}: the reference routes otherwise than we read the config")
        ids.append(i), weights.append(w), margins.append(margin)
    return torch.stack(ids).to(torch.uint8), torch.stack(weights).float(), torch.stack(margins).float()


@torch.no_grad()
def run_prompt(c, model, rec, ids):
    rec.x.clear(), rec.routes.clear()
    out = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    topk_ids, topk_weights, margin = routing(c, rec)
    rms = torch.stack([h[0].double().pow(2).mean(-1).sqrt() for h in out.hidden_states]).float()
    text, greedy, gaps = list(ids), [], []
    for _ in range(GREEDY):                                     # without a cache: nothing to get wrong
        best = model(torch.tensor([text]), use_cache=False).logits[0, -1].topk(2)
        greedy.append(best.indices[0].item()), gaps.append((best.values[0] - best.values[1]).item())
        text.append(greedy[-1])
    logits = out.logits[0] if len(ids) < LAST_ROW_ONLY else out.logits[0, -1:]
    return {"input_ids": torch.tensor(ids, dtype=torch.int32), "logits": logits.float(), "topk_ids": topk_ids, "topk_weights": topk_weights,
            "topk_margin": margin, "greedy_ids": torch.tensor(greedy, dtype=torch.int32), "greedy_margin": torch.tensor(gaps), "hidden_rms": rms}


def make(name, out):
    c, dtype, shards, fused = MODELS[name]
    folder = f"{out}/{name}"
    os.makedirs(folder)
    c = {**c, "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype]} if "torch_dtype" in c else c
    disk, plain = store(make_weights(name, c, fused), c, DTYPES[dtype])
    write_json(f"{folder}/config.json", c)
    write_json(f"{folder}/generation_config.json", {"_from_model_config": True, "eos_token_id": c["eos_token_id"],
                                                    "transformers_version": c["transformers_version"]})
    write_shards(folder, disk, shards)
    write_tokenizer(folder)
    model = open_reference(c, plain, fused)
    fixed = fix_mla_scale(model, c)
    rec, tensors, prompts = Recorder(model), {}, []
    for p, n in enumerate(PROMPT_TOKENS):
        g = torch.Generator().manual_seed(zlib.crc32(f"{name}/prompt {p}".encode()))
        ids = torch.randint(len(SPECIAL), len(SPECIAL) + 256 + len(MERGES), (n,), generator=g).tolist()
        result = run_prompt(c, model, rec, ids)
        prompts.append({"tokens": n, "logits_rows": "all" if n < LAST_ROW_ONLY else "last",
                        "smallest_greedy_margin": result["greedy_margin"].min().item(),
                        "smallest_router_margin": result["topk_margin"].min().item()})
        tensors.update({f"p{p}.{k}": v.contiguous() for k, v in result.items()})
    save_file(tensors, f"{folder}/goldens.safetensors")
    write_json(f"{folder}/goldens.json", {
        "model": name, "command": f"tools/make_goldens.py OUT_DIR {name}", "transformers": transformers.__version__, "torch": torch.__version__,
        "arithmetic": f"{dtype} weights, float32 arithmetic on the CPU, eager attention, no cache",
        "layers_without_mscale_in_the_reference": fixed, "moe_layers": [l for l in range(c["num_hidden_layers"]) if is_moe(c, l)],
        "experts": n_experts(c), "top_k": c["num_experts_per_tok"], "top_k_order": "weight, largest first; equal weights by expert id",
        "margin_of": "logit" if c["model_type"] == "gpt_oss" else "probability", "prompts": prompts})
    if [l for l in range(c["num_hidden_layers"]) if is_moe(c, l)] != [l for l, m in enumerate(model.model.layers) if hasattr(m.mlp, "experts")]:
        raise SystemExit(f"{name}: the reference has other MoE layers")
    print(f"{name}: {sum(t.numel() for t in disk.values())} stored values, {fixed} layers without mscale, rms of the residual stream "
          f"{[round(v, 2) for v in tensors['p3.hidden_rms'].mean(1).tolist()]}, largest logit {tensors['p3.logits'].abs().max():.1f}, "
          f"greedy margin >= {min(p['smallest_greedy_margin'] for p in prompts):.2g}, "
          f"router margin >= {min(p['smallest_router_margin'] for p in prompts):.2g}, "
          f"busiest expert {torch.bincount(tensors['p4.topk_ids'].flatten().long()).max() / tensors['p4.topk_ids'].numel():.0%}", flush=True)


def main():
    torch.set_num_threads(1)
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    failed = []
    for name in sys.argv[2:] or MODELS:
        try:
            make(name, sys.argv[1])
        except (Exception, SystemExit):                            # one family that fails must not cost the others
            import traceback
            traceback.print_exc()
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
