r"""A linear head on embeddings: multinomial logistic regression with a ridge, trained by steps that cannot overshoot.

The curvature of the loss in the weights is nowhere above H = 1/2 X^T X / N + lambda (Boehning 1992, "Multinomial logistic regression algorithm"), so

    W <- W - H^-1 grad,      grad = X^T (P - Y) / N + lambda W

lowers the loss at every step without a step size to choose; H is the same for all steps and labels, and is factored once. Training ends when the
loss on a held-out part has not improved for some steps; the best weights are kept.

Array names end in their axes: N rows, D numbers of an embedding, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_core import io
from ernie_core.api import DataError
from ernie_data.category.arrays import add_array, read_array
from ernie_data.category.kmeans import Floats, Ints, Vectors

FORMAT, VERSION = "ernie-category-head", 1
FACTS, WEIGHTS = "head.json", "weights.npy"
RIDGE = 1e-4
_STEPS, _PATIENCE, _LEAST_GAIN = 400, 10, 1e-5
_CHUNK_CELLS = 1 << 23
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class Head:
    """
    Args:
        weights_EC: [D + 1, C] float64; the last row is the bias.
        facts: how it was trained and how well it does; plain JSON.
    """

    labels: tuple[str, ...]
    weights_EC: Floats
    normalise: bool
    facts: Mapping[str, Any]

    def judge(self, x_D: Vectors) -> tuple[str, float]:
        """The likeliest label of one embedding and its probability.

        Raises:
            DataError: an embedding of another length.
        """
        if len(x_D) != len(self.weights_EC) - 1:
            raise DataError(f"the embedding has {len(x_D)} numbers, and the head was trained on {len(self.weights_EC) - 1}")
        p_C = softmax((x_D.astype(np.float64) @ self.weights_EC[:-1] + self.weights_EC[-1])[None])[0]
        best = int(p_C.argmax())
        return self.labels[best], float(p_C[best])

    def write(self, folder: io.FolderWriter) -> None:
        facts = {"format": FORMAT, "version": VERSION, "labels": list(self.labels), "normalise": self.normalise, **self.facts}
        folder.add_json(FACTS, facts)
        add_array(folder, WEIGHTS, self.weights_EC)


def read_head(folder: Path) -> Head:
    """
    Raises:
        DataError: not a head, or damaged.
    """
    if not (folder / FACTS).is_file():
        raise DataError(f"{folder}: no head (no {FACTS}); build again")
    if wrong := io.verify_folder(folder):
        raise DataError(f"{wrong}. The head was not used; build again.")
    facts = json.loads((folder / FACTS).read_bytes())
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise DataError(f"{folder / FACTS}: expected {FORMAT} version {VERSION}, found {facts.get('format')!r}; build again")
    weights = read_array(folder / WEIGHTS, axes=2)
    about = {name: value for name, value in facts.items() if name not in ("format", "version", "labels", "normalise")}
    return Head(tuple(facts["labels"]), weights, facts["normalise"], about)


def train_head(x_ND: Vectors, label_N: Ints, held_N: NDArray[np.bool_], *, classes: int) -> tuple[Floats, dict[str, Any]]:
    """Weights ``[D + 1, C]`` and facts about the training.

    Args:
        held_N: the held-out part. Without one, training goes on until the loss itself stands still, and no accuracy is known.

    Raises:
        DataError: no row is left to train on.
    """
    if held_N.all():
        raise DataError(f"all {len(held_N)} labelled embeddings are held out; a head needs more of them")
    train_XD, train_X = x_ND[~held_N], label_N[~held_N]
    mean_D = train_XD.mean(0, dtype=np.float64)
    std_D = np.maximum(train_XD.std(0, dtype=np.float64), _LEAST_STD)
    x_XE, y_X = _scaled(train_XD, mean_D, std_D), train_X
    held_XE, held_X = _scaled(x_ND[held_N], mean_D, std_D), label_N[held_N]
    curvature_EE = 0.5 * (x_XE.T @ x_XE) / len(x_XE) + RIDGE * np.eye(x_XE.shape[1])
    inverse_EE = np.linalg.inv(curvature_EE)
    weights_EC = np.zeros((x_XE.shape[1], classes))
    best_EC, best, since, steps = weights_EC, np.inf, 0, 0
    for _ in range(_STEPS):
        steps += 1
        loss, slope_EC = _loss_and_slope(x_XE, y_X, weights_EC)
        watched = _loss_and_right(held_XE, held_X, weights_EC)[0] if len(held_X) else loss + RIDGE / 2 * float((weights_EC**2).sum())
        since = 0 if watched < best - _LEAST_GAIN else since + 1
        if watched < best:
            best, best_EC = watched, weights_EC
        if since >= _PATIENCE:
            break
        weights_EC = weights_EC - inverse_EE @ (slope_EC + RIDGE * weights_EC)
    facts: dict[str, Any] = {"trained_on": len(y_X), "held_out": len(held_X), "steps": steps, "ridge": RIDGE}
    facts["train_accuracy"] = round(_loss_and_right(x_XE, y_X, best_EC)[1], 6)
    if len(held_X):
        loss, right = _loss_and_right(held_XE, held_X, best_EC)
        common = int(np.bincount(y_X, minlength=classes).argmax())
        facts |= {"held_out_accuracy": round(right, 6), "held_out_loss": round(loss, 6)}
        facts["accuracy_of_the_commonest"] = round(float((held_X == common).mean()), 6)
    plain_EC = np.empty_like(best_EC)
    plain_EC[:-1] = best_EC[:-1] / std_D[:, None]
    plain_EC[-1] = best_EC[-1] - mean_D @ plain_EC[:-1]
    return plain_EC, facts


def softmax(logits_NC: Floats) -> Floats:
    shifted = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _scaled(x_ND: Vectors, mean_D: Floats, std_D: Floats) -> Floats:
    """Standardised, with a last column of ones."""
    x_NE = np.ones((len(x_ND), x_ND.shape[1] + 1))
    x_NE[:, :-1] = (x_ND - mean_D) / std_D
    return x_NE


def _loss_and_slope(x_NE: Floats, label_N: Ints, weights_EC: Floats) -> tuple[float, Floats]:
    """Mean negative log-likelihood and its gradient, without the ridge."""
    loss, slope_EC = 0.0, np.zeros_like(weights_EC)
    step = max(1, _CHUNK_CELLS // weights_EC.shape[1])
    for first in range(0, len(x_NE), step):
        x, label = x_NE[first : first + step], label_N[first : first + step]
        p = softmax(x @ weights_EC)
        mine = p[np.arange(len(x)), label]
        loss -= float(np.log(np.maximum(mine, 1e-300)).sum())
        p[np.arange(len(x)), label] -= 1
        slope_EC += x.T @ p
    return loss / len(x_NE), slope_EC / len(x_NE)


def _loss_and_right(x_NE: Floats, label_N: Ints, weights_EC: Floats) -> tuple[float, float]:
    """Mean negative log-likelihood and the share of rows judged right."""
    loss, right = 0.0, 0
    step = max(1, _CHUNK_CELLS // weights_EC.shape[1])
    for first in range(0, len(x_NE), step):
        label = label_N[first : first + step]
        p = softmax(x_NE[first : first + step] @ weights_EC)
        loss -= float(np.log(np.maximum(p[np.arange(len(p)), label], 1e-300)).sum())
        right += int((p.argmax(1) == label).sum())
    return loss / len(x_NE), right / len(x_NE)
