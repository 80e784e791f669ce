"""A DiT block with buffers of both kinds: one that checkpoints hold, one that is computed when the block is built."""

import torch
from torch import nn


class LinearBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("kept_D", torch.linspace(0.5, 1.0, width))
        self.register_buffer("computed_D", torch.linspace(-0.1, 0.1, width), persistent=False)

    def forward(self, x_BSD, inputs):
        return x_BSD + self.linear(x_BSD) * self.kept_D + self.computed_D


def build_linear(config, context):
    return LinearBlock(context.hidden_size)
