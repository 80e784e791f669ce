"""Mean colours."""

import numpy as np


class Mean:
    def __init__(self, config, channel):
        self.config, self.channel = config, channel
        self.code = f"mean {channel} {config.release}"

    def score(self, images, prompts=None):
        values = [0.0 if self.channel is None else float(image[..., self.channel].mean()) for image in images]
        if self.config.fault == "nan":
            values[0] = float("nan")
        return np.array(values[: len(values) - (self.config.fault == "too-few")])


def red(config, context):
    return Mean(config, 0)


def green(config, context):
    return Mean(config, 1)


def constant(config, context):
    return Mean(config, None)
