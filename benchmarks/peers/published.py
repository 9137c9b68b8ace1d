"""The peer of generation and training: the published wiring on Hugging Face's GPT-2 modules.

Written from the paper (Wu et al. 2024, arXiv 2402.19155) and the names in its released
checkpoints. One-hot patches through a linear map, GPT2Model over patches, GPT2LMHeadModel over
the bytes of each patch, plain eager PyTorch. Generation keeps no cache: the whole prefix is read
again for every patch, and the patch so far for every byte.

Shape suffixes: B batch, P patches, S patch size, N predicted patches, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, logging

from bytemodel.config import ModelConfig
from bytemodel.patches import PAD, VOCABULARY

logging.set_verbosity_error()  # it warns of settings that nobody made


def _gpt2(config: ModelConfig, attention: str, **sizes: int) -> GPT2Config:
    return GPT2Config(
        n_embd=config.patch_width,
        n_head=config.patch_width // 64,
        use_cache=False,
        attn_implementation=attention,
        **sizes,
    )


class PatchLevelDecoder(nn.Module):
    def __init__(self, config: ModelConfig, attention: str) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_size * VOCABULARY, config.patch_width)
        nn.init.normal_(self.patch_embedding.weight, std=0.02)
        sizes = {"n_layer": config.patch_layers, "n_positions": config.max_patches}
        self.base = GPT2Model(_gpt2(config, attention, vocab_size=1, **sizes))

    def forward(self, patches_BPS: Tensor, masks_BP: Tensor | None = None) -> Tensor:
        one_hot = F.one_hot(patches_BPS, VOCABULARY).to(self.patch_embedding.weight.dtype)
        embedded_BPC = self.patch_embedding(one_hot.flatten(2))
        return self.base(inputs_embeds=embedded_BPC, attention_mask=masks_BP).last_hidden_state


class ByteLevelDecoder(nn.Module):
    def __init__(self, config: ModelConfig, attention: str) -> None:
        super().__init__()
        sizes = {"n_layer": config.byte_layers, "n_positions": config.patch_size + 1}
        self.base = GPT2LMHeadModel(_gpt2(config, attention, vocab_size=VOCABULARY, **sizes))

    def forward(self, features_NC: Tensor, bytes_NS: Tensor, **labels: Tensor) -> Any:
        embedded_NSC = self.base.transformer.wte(bytes_NS)
        inputs = torch.cat((features_NC[:, None].to(embedded_NSC.dtype), embedded_NSC), dim=1)
        return self.base(inputs_embeds=inputs, **labels)


class PublishedModel(nn.Module):
    """`attention`: `eager` (what the modules had when the paper was written) or `sdpa`."""

    def __init__(self, config: ModelConfig, attention: str) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_level_decoder = PatchLevelDecoder(config, attention)
        self.byte_level_decoder = ByteLevelDecoder(config, attention)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over the tensors of a released checkpoint; old attention masks are ignored."""
        missing, _ = self.load_state_dict(weights, strict=False)
        assert not missing, missing

    def forward(self, patches_BPS: Tensor, masks_BP: Tensor) -> Tensor:
        """The loss: every patch that the mask keeps, but the first, given those before it."""
        features_BPC = self.patch_level_decoder(patches_BPS, masks_BP)
        wanted_BP = masks_BP[:, 1:] == 1
        bytes_NS = patches_BPS[:, 1:][wanted_BP]
        # The model shifts the labels by one; the one that falls out stands for the feature.
        labels = F.pad(bytes_NS, (1, 0), value=PAD)
        features_NC = features_BPC[:, :-1][wanted_BP]
        return self.byte_level_decoder(features_NC, bytes_NS, labels=labels).loss

    @torch.inference_mode()
    def next_patch(self, patches_BPS: Tensor) -> Tensor:
        """The greedy patch that follows, (B, S); 256 is a token like the others."""
        features_BC = self.patch_level_decoder(patches_BPS)[:, -1]
        said_BT = patches_BPS.new_empty(len(patches_BPS), 0)
        for _ in range(self.patch_size):
            logits_BV = self.byte_level_decoder(features_BC, said_BT).logits[:, -1]
            said_BT = torch.cat((said_BT, logits_BV.argmax(-1)[:, None]), dim=1)
        return said_BT
