"""The linear head, and label files."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ernie_core import io
from ernie_core.api import DataError
from ernie_data.category.head import RIDGE, Head, _loss_and_slope, _scaled, read_head, softmax, train_head
from ernie_data.category.labels import labels_sha256, read_labels


def groups(seed=0, *, classes=5, rows=1200, width=12, noise=0.8):
    rng = np.random.default_rng(seed)
    centre_CD = 2 * rng.standard_normal((classes, width))
    label_N = rng.integers(classes, size=rows)
    x_ND = (centre_CD[label_N] + noise * rng.standard_normal((rows, width))) * rng.uniform(0.01, 100, width) + 7
    return x_ND.astype(np.float32), label_N


def test_a_head_learns_groups_and_says_how_well_on_the_part_held_out():
    x_ND, label_N = groups()
    held_N = np.arange(len(x_ND)) % 10 == 0
    weights_EC, facts = train_head(x_ND, label_N, held_N, classes=5)
    assert facts["held_out"] == 120
    assert facts["trained_on"] == 1080
    assert facts["held_out_accuracy"] > 0.97
    assert facts["accuracy_of_the_commonest"] < 0.4
    head = Head(tuple("abcde"), weights_EC, False, facts)
    judged = [head.judge(x) for x in x_ND[held_N]]
    assert np.mean([label == "abcde"[n] for (label, _), n in zip(judged, label_N[held_N])]) == pytest.approx(facts["held_out_accuracy"])
    assert all(1 / 5 <= p <= 1 for _, p in judged)


def test_accuracy_is_at_chance_where_labels_say_nothing_and_training_stops_early():
    x_ND, _ = groups()
    label_N = np.random.default_rng(1).integers(4, size=len(x_ND))
    _, facts = train_head(x_ND, label_N, np.arange(len(x_ND)) % 5 == 0, classes=4)
    assert 0.15 < facts["held_out_accuracy"] < 0.35
    assert facts["steps"] < 100


def test_the_steps_of_the_bound_never_raise_the_loss_and_end_at_a_flat_place():
    x_ND, label_N = groups(3, rows=300, noise=3.0)
    weights_EC, _ = train_head(x_ND, label_N, np.zeros(300, bool), classes=5)
    mean_D, std_D = x_ND.mean(0, dtype=np.float64), x_ND.std(0, dtype=np.float64)
    x_NE = _scaled(x_ND, mean_D, std_D)
    curvature = np.linalg.inv(0.5 * x_NE.T @ x_NE / 300 + RIDGE * np.eye(x_NE.shape[1]))
    w, losses = np.zeros_like(weights_EC), []
    for _ in range(30):
        loss, slope = _loss_and_slope(x_NE, label_N, w)
        losses.append(loss + RIDGE / 2 * (w**2).sum())
        w = w - curvature @ (slope + RIDGE * w)
    assert (np.diff(losses) <= 1e-15).all()
    assert losses[0] == pytest.approx(np.log(5))


def test_the_slope_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    x_NE, label_N, w = rng.standard_normal((20, 4)), rng.integers(3, size=20), rng.standard_normal((4, 3))
    loss, slope = _loss_and_slope(x_NE, label_N, w)
    step = np.zeros_like(w)
    step[2, 1] = 1e-6
    assert (_loss_and_slope(x_NE, label_N, w + step)[0] - loss) / 1e-6 == pytest.approx(slope[2, 1], rel=1e-4)
    assert np.allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_a_head_is_read_as_written_and_refused_when_damaged(tmp_path):
    weights_EC = np.random.default_rng(0).standard_normal((4, 2))
    with io.commit_folder(tmp_path / "head") as folder:
        Head(("a", "b"), weights_EC, True, {"held_out_accuracy": 0.5}).write(folder)
    read = read_head(tmp_path / "head")
    assert np.array_equal(read.weights_EC, weights_EC)
    assert (read.labels, read.normalise, read.facts) == (("a", "b"), True, {"held_out_accuracy": 0.5})
    with pytest.raises(DataError, match="the embedding has 5 numbers, and the head was trained on 3"):
        read.judge(np.zeros(5, np.float32))
    data = bytearray((tmp_path / "head" / "weights.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "head" / "weights.npy").write_bytes(data)
    with pytest.raises(DataError, match="sha256 differs"):
        read_head(tmp_path / "head")
    with pytest.raises(DataError, match=r"no head \(no head.json\)"):
        read_head(tmp_path)


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="all 3 labelled embeddings are held out"):
        train_head(np.zeros((3, 2), np.float32), np.array([0, 1, 0]), np.ones(3, bool), classes=2)


def test_labels_of_both_kinds_of_file_are_the_same(tmp_path):
    rows = [("a", "cat"), ("b", " big \n dog "), ("c", "cat")]
    lines = tmp_path / "labels.jsonl"
    lines.write_text("\n\n".join(json.dumps({"key": k, "label": v, "more": 1}) for k, v in rows))
    table = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"key": [k for k, _ in rows], "label": [v for _, v in rows]}), table)
    assert read_labels(lines) == read_labels(table) == {"a": "cat", "b": "big dog", "c": "cat"}
    assert labels_sha256(lines) != labels_sha256(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", r"labels.jsonl:1: not JSON"),
        ("[1]", r"labels.jsonl:1: expected"),
        ('{"key": "a"}', r"labels.jsonl:1: expected .* found key 'a' and label None"),
        ('{"key": "a", "label": " "}', r"labels.jsonl:1: the label of 'a' is empty"),
        ('{"key": "a", "label": "x"}\n{"key": "a", "label": "y"}', r"labels.jsonl:2: 'a' is labelled 'y' here and 'x' before"),
        ('{"key": "a", "label": "x"}', r"1 different labels; a head needs two"),
        ("", r"0 different labels"),
    ],
)
def test_a_wrong_label_file_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(path)


def test_unreadable_label_files(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .* expected a .jsonl or .parquet file"):
        labels_sha256(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"key": "\xe9"}')
    with pytest.raises(DataError, match=r"not UTF-8 \(byte 9\)"):
        read_labels(tmp_path / "latin.jsonl")
    pq.write_table(pa.table({"key": ["a"], "class": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="there is no `label`"):
        read_labels(tmp_path / "other.parquet")
