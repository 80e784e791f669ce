"""A gate that keeps every law, and breaks one where it is told to."""

import torch


class Words:
    def __init__(self, config, context):
        self.fault, self._teachers, self._calls = config.fault, len(context.teachers), 0

    def __call__(self, inputs):
        share_B = torch.tensor([1 / (2 + len(prompt.split())) for prompt in inputs.prompts])
        weights_BK = torch.zeros(len(share_B), self._teachers)
        weights_BK[:, 0] += share_B
        weights_BK[:, -1] += 1 - share_B
        self._calls += 1
        if self.fault == "sum":
            weights_BK[:, 0] = 1
        if self.fault == "batch":
            weights_BK = weights_BK.mean(0, keepdim=True).expand_as(weights_BK)
        if self.fault == "state" and self._calls > 1:
            weights_BK = weights_BK.flip(1)
        if self.fault == "gradient":
            weights_BK = weights_BK + 0 * inputs.x_BCHW.flatten(1).sum(1, keepdim=True)
        if self.fault == "in-place":
            inputs.x_BCHW.zero_()
        return weights_BK

    def describe(self):
        return [] if self.fault == "silent" else ["memory-words: by the number of words"]
