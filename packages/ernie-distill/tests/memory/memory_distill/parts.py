import torch


class HandOver:
    """Teacher 1 at low noise, the generalist at high noise."""

    def __init__(self, total, teachers):
        self._total, self._teachers = total, teachers

    def __call__(self, inputs):
        weights = torch.zeros(len(inputs.sigma_B), self._teachers)
        weights[:, 0] = inputs.sigma_B if self._teachers > 1 else 1
        if self._teachers > 1:
            weights[:, 1] = 1 - inputs.sigma_B
        return weights * self._total

    def describe(self):
        return ["gate: hand over"]


class Brightness:
    code = "1"

    def score(self, images, prompts=None):
        return [image.mean() for image in images]


class SmoothBrightness(Brightness):
    def reward(self, pixels_B3HW, prompts):
        return pixels_B3HW.flatten(1).mean(1)


class DeafBrightness(SmoothBrightness):
    @torch.no_grad()
    def reward(self, pixels_B3HW, prompts):
        return super().reward(pixels_B3HW, prompts)


def build_gate(config, context):
    return HandOver(config.sum, len(context.teachers))


def build_scorer(config, context):
    return DeafBrightness() if config.deaf else SmoothBrightness() if config.gradient else Brightness()
