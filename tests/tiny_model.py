"""Tiny models without sense, of the kinds in use: a chat model for a real server, and encoders.

The chat model loads in a second and answers at once. Its weights are random but for one thing:
closing quotes and brackets are likelier than the rest, so that most replies held to a JSON schema
end after a few items, as a trained model's do. Never assert on what it says, only on the form. Run
as a script, this makes it in a folder, its tokenizer trained on standard input.

The encoders are saved by sentence-transformers. To them near is what shares tokens.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

MOST_TOKENS = 2_048
HIDDEN = 64
END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The first dimension of every hidden state is about this, so that it can carry a bias.
_CONSTANT = 4.0
# In standard deviations of a logit.
_BIAS = 3.0
# Attention as sharp and as loud as this makes a reply depend on its whole prompt, and keeps it
# from going round in circles.
_SHARP, _LOUD = 8.0, 4.0


def make_tiny_model(folder: Path | str, texts: Iterable[str], *, seed: int = 4) -> Path:
    """Write config, weights, tokenizer and chat template; the same for the same arguments.

    `texts` are what the tokenizer is trained on, beside all of ASCII.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = _tokenizer(texts)
    end, pad = (tokenizer.token_to_id(name) for name in (END, SPECIAL[0]))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        # One over the root of the width: the layers neither fade nor drown what passes them.
        initializer_range=HIDDEN**-0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows.normal_()
        rows[:, 0] = _CONSTANT
        head = model.get_output_embeddings().weight
        head[:, 0] = 0.0
        for token, number in tokenizer.get_vocab().items():
            if token not in SPECIAL and any(mark in token for mark in '"]}'):
                head[number, 0] = _BIAS / _CONSTANT
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= _SHARP
            layer.self_attn.o_proj.weight *= _LOUD
    torch.random.set_rng_state(state)
    model.to(torch.bfloat16).save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=SPECIAL[0], chat_template=CHATML
    )
    wrapped.save_pretrained(folder)
    return Path(folder)


def make_tiny_encoder(
    folder: Path | str,
    texts: Iterable[str],
    *,
    architecture: str = "xlm-roberta",
    pooling: str = "mean",
    include_prompt: bool = True,
    dense: Sequence[int] = (),
    normalize: bool = False,
    max_length: int | None = 64,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
) -> Path:
    """Write a multilingual encoder of 32 dimensions, random but the same for the same arguments.

    Args:
        texts: what the tokenizer is trained on, in any script; other characters are unknown.
        architecture: "xlm-roberta", or "qwen3", a decoder padded on the left.
        dense: the sizes of layers that follow the pooling.
        max_length: in tokens; None to write no limit, as some models on the hub do.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:  # before 6
        from sentence_transformers import models as modules

    backbone = Path(folder) / "backbone"
    _save_backbone(backbone, architecture, texts)
    transformer = modules.Transformer(str(backbone))
    if max_length is not None:
        transformer.max_seq_length = max_length
    state = torch.random.get_rng_state()
    torch.manual_seed(4)
    parts = [transformer, modules.Pooling(32, pooling, include_prompt=include_prompt)]
    for size, wanted in pairwise([32, *dense]):
        parts.append(modules.Dense(size, wanted, bias=False, activation_function=torch.nn.Tanh()))
    torch.random.set_rng_state(state)
    if normalize:
        parts.append(modules.Normalize())
    model = SentenceTransformer(
        modules=parts,
        prompts=dict(prompts or {}),
        default_prompt_name=default_prompt_name,
        device="cpu",
    )
    target = Path(folder) / "model"
    model.save(str(target))
    return target


def _save_backbone(folder: Path, architecture: str, texts: Iterable[str]) -> None:
    import torch
    import transformers

    tokenizer = _unigrams(texts, begins=architecture != "qwen3")
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": tokenizer.pad_token_id,
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(4)
    model: Any
    if architecture == "qwen3":
        tokenizer.padding_side = "left"
        model = transformers.Qwen3Model(
            transformers.Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8)
        )
    else:
        # Positions begin after the padding's number, 1: there are 96 of them.
        model = transformers.XLMRobertaModel(
            transformers.XLMRobertaConfig(**sizes, max_position_embeddings=98, type_vocab_size=1)
        )
    # Apart: by default the vectors of all texts would be much alike.
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unigrams(texts: Iterable[str], *, begins: bool) -> Any:
    """A tokenizer like SentencePiece's, as XLM-RoBERTa has it: no script needs spaces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=1_000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*texts, string.printable], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def _tokenizer(texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, string.printable], trainer)
    return tokenizer


if __name__ == "__main__":
    make_tiny_model(sys.argv[1], sys.stdin)
