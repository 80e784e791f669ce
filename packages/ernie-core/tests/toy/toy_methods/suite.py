"""A suite for tests: colours by the mean of the picture. It can be told to misbehave."""

from ernie_core.api import EvalPrompt

COLOURS = ("red", "green", "blue")


class Colours:
    code = "toy-colours 1"

    def __init__(self, config):
        self.config = config

    def prompts(self):
        metrics = ("right", "level")
        found = [
            EvalPrompt(f"p{i:02d}-{COLOURS[i % 3]}", f"{COLOURS[i % 3]} {i}", metrics, (COLOURS[i % 3],), f"template {i % 4}")
            for i in range(self.config.count)
        ]
        return [*found, *(EvalPrompt(name, "odd", metrics) for name in self.config.odd_ids)]

    def judge(self, prompts, images):
        verdicts = []
        for prompt, picture in zip(prompts, images, strict=True):
            means = picture.reshape(-1, 3).mean(axis=0)
            right = COLOURS[int(means.argmax())] == prompt.prompt.split()[0]
            verdicts.append({"right": float(right), "level": float(means.mean() / 255)})
        if self.config.fault == "too few":
            return verdicts[1:]
        if self.config.fault == "other metrics":
            return [{"right": 1.0} for _ in verdicts]
        if self.config.fault == "not finite":
            return [{**v, "level": float("nan")} for v in verdicts]
        return verdicts


def build(config, context):
    return Colours(config)
