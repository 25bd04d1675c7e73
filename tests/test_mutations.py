"""Some thousands of broken inputs, seeded: each is read, or refused with a UserError; no traceback
of another kind."""

import io
import json

import numpy as np
import pytest
import torch

import albar
import common
import evaluate
from common import UserError

INSERTED = [b"nan", b"1e999", b"-1", b"null", b"\0", b"[", b'"', b"99999999999999", b"\xff", b"\n"]
STRANGE = [None, 3, -1, 10**9, 1.5, "x", [], {}, {"a": 1}, True, (1, 2), float("nan")]


def mutate(content, rng):
    """Up to three changes of some bytes: one flipped, some lost, put in or doubled, the end cut."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(content) + 1))
        kind = rng.integers(5)
        if kind == 0 and place < len(content):
            content[place] = rng.integers(256)
        elif kind == 1:
            del content[place : place + int(rng.integers(1, 20))]
        elif kind == 2:
            content[place:place] = INSERTED[rng.integers(len(INSERTED))]
        elif kind == 3:
            del content[place:]
        elif kind == 4:
            content[place:place] = content[:place][-30:]
    return bytes(content)


def try_seeds(count, attempt):
    """attempt(rng) for each of `count` seeds -> how many were refused"""
    refused = 0
    for seed in range(count):
        try:
            attempt(np.random.default_rng(seed))
        except UserError:
            refused += 1
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    return refused


def test_lists(tmp_path):
    file = tmp_path / "list.txt"

    def attempt(rng):
        file.write_bytes(mutate(b"run/a.mp4 1\njump/b.mp4 0\nx y/c.mp4 2\n", rng))
        videos = common.each_once(common.read_list(file), file)
        assert 0 <= min(videos.labels) and max(videos.labels) < len(videos.classes)
        common.existing(videos, 1.0)

    assert try_seeds(1500, attempt)


def test_boxes(tmp_path):
    file = tmp_path / "humans.jsonl"
    boxes = [[1, 2, 3, 4], [0, 0, 5.5, 6], [1, 1, 2, 2]]
    lines = [
        {"made": {}},
        {"path": "a", "every": 2, "frames": [0, 0, 4], "boxes": boxes},
        {"path": "b", "every": 8, "frames": [], "boxes": []},
    ]
    good = "\n".join(json.dumps(line) for line in lines).encode()

    def attempt(rng):
        file.write_bytes(mutate(good, rng))
        boxes = common.Boxes([file])
        for path in boxes.videos:
            for of_frame in boxes(path, np.arange(12)):
                assert of_frame.shape[1:] == (4,) and np.isfinite(of_frame).all()
                common.fill_boxes(torch.zeros(8, 8, 3, dtype=torch.uint8), of_frame, 3)

    assert try_seeds(1500, attempt) > 500


def test_label_folders(tmp_path):
    def as_npy(array):
        content = io.BytesIO()
        np.save(content, array)
        return content.getvalue()

    good = {
        "labels.npy": as_npy(np.array([[0.5, 0.5], [0.1, 0.9], [1, 0]], np.float16)),
        "features.npy": as_npy(np.zeros((3, 4), np.float16)),
        "paths.txt": b"a\nb\nc\n",
        "categories.txt": b"x\ny\n",
    }

    def attempt(rng):
        name = rng.choice(list(good))
        for other, content in good.items():
            (tmp_path / other).write_bytes(content)
        (tmp_path / name).write_bytes(mutate(good[name], rng))
        labels, _ = common.read_labels([tmp_path], ["a", "b", "z"])
        sums = labels.sum(1)
        assert ((abs(sums - 1) < 0.03) | (sums == 0)).all() and (labels >= 0).all()
        common.read_hard_labels([tmp_path], ["a", "b"])

    assert try_seeds(1500, attempt) > 500


@pytest.fixture
def saved():
    """What a checkpoint holds, and its network."""
    args = albar.Args(**albar.TOY)
    net = albar.build_model(args, 8)
    content = dict(
        method="albar",
        args=vars(args).copy(),
        classes=list("abcdefgh"),
        epoch=1,
        step=2,
        list_sha1="x",
        heads={},
        model=net.state_dict(),
        train_paths=torch.tensor([1, 2]),
        root="",
    )
    return content, net


def test_checkpoints_with_strange_values(saved, tmp_path):
    content, net = saved
    file = tmp_path / "last.pt"

    def attempt(rng):
        changed = dict(content)
        value = STRANGE[rng.integers(len(STRANGE))]
        part = rng.choice(["", "args", "model"])
        if part:
            changed[part] = dict(changed[part])
            changed[part][rng.choice(list(changed[part]))] = value
        else:
            changed[rng.choice(list(changed))] = value
        torch.save(changed, file)
        try:
            common.load_weights(net, str(file), "tiny", normalisation=((0.5,) * 3, (0.2,) * 3))
        except UserError:
            pass
        evaluate.load_run(file)

    assert try_seeds(600, attempt) > 200


def test_checkpoints_with_broken_bytes(saved, tmp_path):
    content, _ = saved
    file = tmp_path / "last.pt"
    torch.save(content, file)
    good = file.read_bytes()

    def attempt(rng):
        file.write_bytes(mutate(good, rng))
        evaluate.load_run(file)

    assert try_seeds(150, attempt) > 50
