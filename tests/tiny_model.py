"""A tiny chat model without sense, for a real server: it loads in a second and answers at once.

Its weights are random but for one thing: closing quotes and brackets are likelier than the rest,
so that most replies held to a JSON schema end after a few items, as a trained model's do. Never
assert on what it says, only on the form. Run as a script, it makes the model in a folder, its
tokenizer trained on standard input.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterable
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
