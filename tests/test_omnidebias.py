"""omnidebias.py's parts: the thirds by z-frequency and a teacher's filter against brute force, what
a teacher sees, the lists that select writes, what a step holds of labelled videos and of web items,
images in a TSN, the losses with and without SMAD. Whole runs are in test_train.py."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import argv, fails, load, log_lines, presets, same
from toy import ACTIONS, write_labels_folder
from torch import nn
from torch.utils.data import DataLoader

import common
import omnidebias
import smad
from common import Order, UserError, read_labels, read_list
from omnidebias import PARTS, TOY, Args, JointOrder, mean_entropy, teacher_filter, thirds
from omnidebias import z_frequency

K = 5
SIZES = {"scene": 7, "object": 4}


@pytest.fixture
def script():
    return omnidebias


@pytest.fixture
def plain(flags):
    """Fields of Args for an epoch without SMAD."""
    return flags | dict(smad=False, aspect=(), epochs=1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw_items(n, actions, scenes, seed=0):
    """Labels that are not contiguous, and long-tailed facets, of n items."""
    rng = np.random.default_rng(seed)
    facet = np.minimum(rng.geometric(0.25, n) - 1, scenes - 1)
    return rng.choice(rng.permutation(400)[:actions], n), facet


def slow_frequency(label, facet):
    pairs = list(zip(label.tolist(), facet.tolist(), strict=True))
    of_pair = Counter(pairs)
    of_action = Counter(label.tolist())
    return [of_pair[pair] / of_action[pair[0]] for pair in pairs]


# ---- z-frequency, thirds, the teacher's filter ---------------------------------------------------
def test_z_frequency_of_the_paper_s_footnote():
    """20 of 100 samples of an action are in `cliff`, scene 3; another action has many more."""
    label = np.array([7] * 100 + [2] * 50)
    facet = np.array([3] * 20 + [0] * 50 + [1] * 30 + [3] * 50)
    expected = [0.2] * 20 + [0.5] * 50 + [0.3] * 30 + [1.0] * 50
    assert z_frequency(label, facet).tolist() == expected


@pytest.mark.parametrize("n, actions, scenes", [(1, 1, 1), (90, 1, 9), (700, 12, 40)])
def test_z_frequency_by_counting(n, actions, scenes):
    label, facet = draw_items(n, actions, scenes)
    assert z_frequency(label, facet).tolist() == slow_frequency(label, facet)


@pytest.mark.parametrize("n, actions, scenes", [(60, 1, 9), (700, 12, 40), (300, 90, 5)])
def test_thirds_are_slices_of_a_plain_sort(n, actions, scenes):
    """Of each action; within a scene who is where is free, so the sorted scenes are compared."""
    label, facet = draw_items(n, actions, scenes, seed=n)
    third, at_random = thirds(label, facet, 0)
    frequency = slow_frequency(label, facet)
    for action in set(label.tolist()):
        items = np.flatnonzero(label == action).tolist()
        rows = sorted((-frequency[i], facet[i]) for i in items)
        cuts = [0, len(items) // 3, 2 * len(items) // 3, len(items)]
        for part in range(3):
            found = sorted((-frequency[i], facet[i]) for i in items if third[i] == part)
            assert found == rows[cuts[part] : cuts[part + 1]]
        bias, mid, unbias = ({facet[i] for i in items if third[i] == part} for part in range(3))
        # A cut splits one scene.
        assert len(bias & mid) <= 1 and len((bias | mid) & unbias) <= 1
        assert sum(at_random[items]) == (third[items] == 2).sum()


@pytest.mark.parametrize(
    "sizes", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 3)]
)
def test_who_gets_the_odd_one(sizes):
    n = sum(sizes)
    for facet in (np.arange(n), np.zeros(n, int)):
        third, at_random = thirds(np.repeat([9, 4], n), np.tile(facet, 2), 5)
        for items in (slice(n), slice(n, None)):
            assert tuple(np.bincount(third[items], minlength=3)) == sizes
            assert at_random[items].sum() == sizes[2]


def test_another_seed_changes_nothing_but_ties_and_rand():
    label, facet = draw_items(700, 6, 30)
    third, at_random = thirds(label, facet, 0)
    again = thirds(label, facet, 0)
    assert (third == again[0]).all() and (at_random == again[1]).all()
    free = np.zeros(700, bool)  # the items of the scenes that are cut
    for action, scene in set(zip(label, facet, strict=True)):
        items = (label == action) & (facet == scene)
        if len(set(third[items])) > 1:
            free |= items
    others = [thirds(label, facet, seed) for seed in range(1, 40)]
    moved = np.any([other != third for other, _ in others], 0)
    assert (moved == free).all() and 0 < free.sum() < 700
    assert len({tuple(dealt) for _, dealt in others}) == 39


def test_ties_and_rand_are_even_and_independent():
    """One scene: whichever place in the list, an item is in each part in a third of the seeds, and
    rand is drawn from all parts alike."""
    one = np.zeros(9, int)
    drawn = [thirds(one, one, seed) for seed in range(600)]
    for part in range(3):
        share = np.mean([third == part for third, _ in drawn], 0)
        assert np.abs(share - 1 / 3).max() < 0.08  # 4 sigma
        share = np.mean([at_random[third == part].mean() for third, at_random in drawn])
        assert abs(share - 1 / 3) < 0.04
    assert np.abs(np.mean([at_random for _, at_random in drawn], 0) - 1 / 3).max() < 0.08


def test_teacher_filter_case_by_case():
    rows = [  # query, predicted, probability, kept at agree 0.5, confident 0.9
        (3, 3, 0.5, 3),
        (3, 3, 0.4999, -1),
        (3, 3, 1.0, 3),
        (3, 2, 0.9, -1),
        (3, 2, 0.9001, 2),
        (0, 0, 0.6, 0),
        (0, -1, 0.0, -1),
        (0, -1, 1.0, -1),
        (1, 0, 0.95, 0),
    ]
    query, predicted, p, kept = map(np.array, zip(*rows, strict=True))

    def filtered(agree, confident):
        return teacher_filter(query, predicted, p, agree, confident).tolist()

    assert filtered(0.5, 0.9) == kept.tolist()
    assert filtered(0.5, 1.0) == [3, -1, 3, -1, -1, 0, -1, -1, -1]
    assert filtered(1.0, 0.0) == [3, 3, 3, 2, 2, 0, -1, -1, 0]
    assert filtered(0.0, 1.0) == [3, 3, 3, -1, -1, 0, -1, -1, -1]


def slow_entropy(label, facet):
    entropies = []
    for action in set(label):
        counts = Counter(facet[label == action].tolist())
        n = sum(counts.values())
        entropies.append(-sum(k / n * math.log(k / n) for k in counts.values()))
    return np.mean(entropies)


def test_mean_entropy_by_hand_and_by_counting():
    label = np.array([8, 0, 0, 3, 3, 0, 0, 3, 3, 8, 8])
    facet = np.array([5, 0, 1, 2, 2, 3, 7, 0, 9, 5, 5])
    by_hand = (math.log(4) + 1.5 * math.log(2) + 0) / 3
    assert mean_entropy(label, facet) == pytest.approx(by_hand, rel=1e-12)
    label, facet = draw_items(500, 7, 30)
    assert mean_entropy(label, facet) == pytest.approx(slow_entropy(label, facet), rel=1e-12)


# ---- Steps before training -----------------------------------------------------------------------
def step(*words):
    """`python omnidebias.py WORDS`"""
    words = [str(word) for word in words]
    common.cli(Args, omnidebias.train, presets(omnidebias), omnidebias.STEPS, argv=words)


def refused(capsys, folder, *words):
    """One line on stderr, exit code 2, nothing written. -> the line"""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        step(*words)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert sorted(folder.rglob("*")) == before
    return error[0]


RAW = [
    {"video_dir": "a", "label": 3, "num_clips": 4, "positive_clip_inds": [0, 3]},
    {"video_dir": "b/c d", "label": 0, "num_clips": 2, "positive_clip_inds": []},
    {"video_dir": "e", "label": 1, "num_clips": 1, "positive_clip_inds": [0]},
]


def test_omnisource_s_raw_videos(here):
    (here / "raw.json").write_text(json.dumps(RAW))
    (here / "raw.txt").write_text("a 3 4 0 3\nb 0 2\ne 1 1 0\n")
    for name in ("raw.json", "raw.txt"):
        step("clips", name, "--out", f"{name}.web")
        text = (here / f"{name}.web").read_text()
        assert text == "a/part_0.mp4 3\na/part_3.mp4 3\ne/part_0.mp4 1\n"
    assert read_list("raw.txt.web").labels == [3, 3, 1]


@pytest.mark.parametrize(
    "name, text",
    [
        ("x.txt", "a 3 4 0 4\n"),
        ("x.txt", "a 3 4 1 1\n"),
        ("x.txt", "a 3\n"),
        ("x.txt", "a 3 4 zero\n"),
        ("x.txt", "a -1 4 0\n"),
        ("x.json", "[{}]"),
        ("x.json", "[1"),
        ("x.json", "[1]"),
    ],
)
def test_lists_that_are_not_omnisource_s(here, capsys, name, text):
    (here / name).write_text(text)
    error = refused(capsys, here, "clips", name)
    assert error.startswith(f"error: {name}: expected OmniSource's `video label clips positive")
    assert "exists: remove it" in refused(capsys, here, "clips", name, "--out", name)


@pytest.fixture
def web(world, here):
    """A folder with some of the world's web items, one that is broken and one that is gone."""
    (here / "web").symlink_to(world / "web")
    (here / "broken.png").write_bytes(b"no image " * 99)
    lines = (world / "web.txt").read_text().splitlines(True)[:10]
    lines += ["broken.png 1\n", "gone.mp4 2\n"]
    (here / "web.txt").write_text("".join(lines))
    (here / "classes.txt").write_text("\n".join(ACTIONS) + "\n")
    return here


@pytest.mark.parametrize("model, frames", [("tiny", 4), ("tsn_tiny", 3)])
def test_a_teacher_sees_items_as_validation_videos(web, plain, model, frames, monkeypatch, capsys):
    """And goes on where it was stopped."""
    plain |= dict(epochs=0, model=model, frames=frames, web="none", out="run")
    args = Args(**plain)
    omnidebias.train(args)
    saved = load("run/last.pt")
    words = ["teach", "web.txt", "--run", "run", "--workers", 0, "--batch-size", 5]
    assert "do not exist, first" in refused(capsys, web, *words)
    step(*words, "--max-bad", 1)
    assert "10 videos, 2 unreadable broken.png, gone.mp4" in capsys.readouterr().out
    items = read_list("web.txt")
    labels = np.load("teacher/labels.npy")
    assert (web / "teacher/paths.txt").read_text().split() == items.paths
    assert (web / "teacher/categories.txt").read_text().split() == saved["classes"]
    assert np.isnan(labels[10:]).all()

    net = omnidebias.build_model(args, 8)
    net.load_state_dict(saved["model"])
    net.eval()
    for i in range(10):
        n = common.num_frames(items.full(i))
        indices = common.centre_clip(n, 4, 2)
        if model == "tsn_tiny":
            indices = np.array([(2 * k + 1) * n // 6 for k in range(3)])
        frames = common.read_clip(items.full(i), indices).permute(0, 3, 1, 2)
        clip = common.test_transform(args.size, args.resize)(frames).transpose(0, 1)
        with torch.no_grad():
            p = net(common.normalise(clip[None], args.mean, args.std)).softmax(1)[0]
        assert labels[i].tolist() == pytest.approx(p.tolist(), abs=1e-3)
    assert labels[:10].astype(float).std(0).max() > 1e-4

    half_done = np.load("teacher/labels.npy", mmap_mode="r+")
    half_done[3:7] = np.nan
    half_done.flush()
    looked = []
    real = common.read_clip

    def read_clip(path, indices):
        looked.append(path)
        return real(path, indices)

    monkeypatch.setattr(common, "read_clip", read_clip)
    step(*words, "--max-bad", 1)
    # What could not be read is tried again.
    assert set(looked) == {items.full(i) for i in (3, 4, 5, 6, 10)}
    assert np.array_equal(np.load("teacher/labels.npy"), labels, equal_nan=True)


def test_another_teacher_does_not_go_on_with_the_first_one_s_work(web, plain, capsys):
    words = ["teach", "web.txt", "--workers", 0, "--max-bad", 1]
    for seed in (0, 1):
        omnidebias.train(Args(**plain | dict(epochs=0, web="none", seed=seed, out=f"run{seed}")))
    step(*words, "--run", "run0")
    error = refused(capsys, web, *words, "--run", "run1")
    assert "teacher: begun with other settings or lists" in error
    assert "name the teacher: --run" in refused(capsys, web, *words)
    assert "none: no such file" in refused(capsys, web, *words, "--run", "none")


def written(out):
    """{NAME: {path: label}} of the lists in a folder"""
    lists = {}
    for name in (*PARTS, "rand", "all"):
        rows = [line.rsplit(" ", 1) for line in (out / f"{name}.txt").read_text().splitlines()]
        lists[name] = {path: int(label) for path, label in rows}
        assert len(lists[name]) == len(rows)
    return lists


N_ITEMS = 90
PATHS = [f"on/no/disk/{i}.{'jpg' if i % 2 else 'mp4'}" for i in range(N_ITEMS)]


@pytest.fixture
def items(here):
    """A list of web items; their scenes, in two folders, without the last item's; what a teacher
    says of them, who could not read the first two. -> labels, facets, predicted, probability"""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, N_ITEMS)
    facet = np.minimum(rng.geometric(0.3, N_ITEMS) - 1, 5)
    lines = [f"{path} {y}\n" for path, y in zip(PATHS, label, strict=True)]
    (here / "items.txt").write_text("".join(lines))
    (here / "classes.txt").write_text("run\njump\nswim\n")
    soft = 0.9 * np.eye(6)[facet] + 0.1 / 6
    write_labels_folder(here / "scenes", PATHS[:50], "abcdef", soft[:50], {})
    write_labels_folder(here / "more", PATHS[50:-1], "abcdef", soft[50:-1], {})
    facet[-1] = -1
    says = np.eye(3)[label] + rng.exponential(1, (N_ITEMS, 3))
    says = (says / says.sum(1, keepdims=True)).astype(np.float16)
    says[:2] = np.nan
    write_labels_folder(here / "teacher", PATHS, ["run", "jump", "swim"], says, {})
    predicted = np.where(np.isnan(says[:, 0]), -1, says.argmax(1))
    return label, facet, predicted, says.max(1).astype(float)


WORDS = ["select", "items.txt", "--labels", "scenes", "more"]


@pytest.mark.parametrize("agree, confident", [(0.0, 1.0), (0.6, 1.0), (0.7, 0.65)])
def test_a_selection_by_hand(items, here, agree, confident, capsys):
    """The lists, and the figures that are printed, item by item."""
    label, facet, predicted, probability = items
    flags = ["--teacher", "teacher", "--agree", agree, "--confident", confident, "--seed", 3]
    step(*WORDS, *flags, "--out", "new")
    printed = capsys.readouterr().out
    kept = []
    for query, y, p in zip(label, predicted, probability, strict=True):
        if y == query and p >= agree:
            kept.append(query)
        elif y >= 0 and p > confident:
            kept.append(y)
        else:
            kept.append(-1)
    kept = np.array(kept)
    use = np.flatnonzero((kept >= 0) & (facet >= 0))
    assert 10 < len(use) < N_ITEMS - 10
    lists = written(here / "new")
    assert (here / "new/classes.txt").read_text() == "run\njump\nswim\n"
    assert lists["all"] == {PATHS[i]: kept[i] for i in use}
    third, at_random = thirds(kept[use], facet[use], 3)
    for part, mine in ((0, third == 0), (1, third == 1), (2, third == 2), (3, at_random)):
        name = (*PARTS, "rand")[part]
        assert lists[name] == {PATHS[i]: kept[i] for i in use[mine]}

    columns = [label, kept[kept >= 0]]
    columns += [np.array(list(lists[name].values())) for name in (*PARTS, "rand", "all")]
    for y, name in enumerate(("run", "jump", "swim")):
        row = " +".join(str((column == y).sum()) for column in columns)
        assert re.search(rf"^{name} +{row}$", printed, re.M)
    row = " +".join(str(len(column)) for column in columns)
    assert re.search(rf"^all +{row}$", printed, re.M)
    assert "2 items unreadable, 1 without a label\n" in printed
    entropies = dict(re.findall(r"(\w+) (\d\.\d\d)(?=, |\n)", printed.split("mean entropy")[1]))
    place = {path: i for i, path in enumerate(PATHS)}
    for name, rows in lists.items():
        chosen = [place[path] for path in rows]
        expected = slow_entropy(kept[chosen], facet[chosen])
        assert float(entropies[name]) == pytest.approx(expected, abs=0.006)
    assert float(entropies["listed"]) == pytest.approx(
        slow_entropy(label[:-1], facet[:-1]), abs=0.006
    )


def test_without_a_teacher_all_are_kept_and_no_file_is_touched(items, here, capsys):
    label, facet, _, _ = items
    step(*WORDS, "--out", "new")
    lists = written(here / "new")
    assert list(lists["all"]) == PATHS[:-1]
    third, at_random = thirds(label[:-1], facet[:-1], 0)
    assert list(lists["unbias"]) == [PATHS[i] for i in np.flatnonzero(third == 2)]
    assert list(lists["rand"]) == [PATHS[i] for i in np.flatnonzero(at_random)]
    assert "0 items unreadable, 1 without a label" in capsys.readouterr().out


def test_actions_of_one_item_or_two_leave_lists_empty(here, capsys):
    """Then bias has none: that is said like any other count."""
    write_labels_folder(here / "s", "abc", "xyz", np.eye(3), {})
    (here / "w.txt").write_text("a 0\nb 0\nc 1\n")
    step("select", "w.txt", "--labels", "s", "--out", "new")
    assert re.search(r"all +3 +3 +0 +1 +2 +2 +3\n", capsys.readouterr().out)
    assert [len(written(here / "new")[part]) for part in PARTS] == [0, 1, 2]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--labels"], "name one list of web items, and --labels FOLDER"),
        (["--labels", "scenes", "--out", "scenes"], "scenes exists: remove it, or name another"),
        (["--labels", "other"], "--labels other: none of the items, such as on/no/disk/0.mp4"),
        (["--labels", "gone"], "gone: not a folder of labels"),
        (["--labels", "scenes", "--teacher", "gone"], "gone: not a folder of labels"),
        (["--labels", "scenes", "--teacher", "other"], "classes are not the training run's"),
        (["--labels", "scenes", "--teacher", "half"], "half: has not seen 89 of 90 items, first"),
        (["--labels", "scenes", "--teacher", "teacher", "--agree", "1"], "keeps none of 90 items"),
        (["--labels", "scenes", "--agree", "1.5"], "--agree 1.5: must be at most 1"),
        (["--labels", "scenes", "--confident", "0.9"], "--confident is about a --teacher: name on"),
    ],
)
def test_bad_input_to_select(items, here, capsys, words, message):
    write_labels_folder(here / "other", "x", "ab", np.eye(2)[:1], {})
    write_labels_folder(here / "half", PATHS[:1], ["run", "jump", "swim"], np.eye(3)[:1], {})
    error = refused(capsys, here, "select", "items.txt", *words)
    assert re.search(message, error), error


def test_soft_labels_of_several_folders(here):
    """The same labels twice are the same labels; others are refused."""
    rows = np.array([[0.25, 0.75], [0.75, 0.25], [math.nan, math.nan]])
    write_labels_folder(here / "a", ["x y", "z", "w"], "st", rows, {})
    write_labels_folder(here / "b", ["w", "x y"], "st", rows[[1, 0]], {})
    labels, names = read_labels(["a", "b"], ["z", "w", "none", "x y"])
    assert labels.tolist() == [[0.75, 0.25], [0.75, 0.25], [0, 0], [0.25, 0.75]]
    assert names == ["s", "t"]
    write_labels_folder(here / "c", ["z"], "st", rows[:1], {})
    with pytest.raises(UserError, match="c: z has other labels in a folder before it"):
        read_labels(["a", "c"], ["z"])
    write_labels_folder(here / "d", ["v"], "su", rows[:1], {})
    with pytest.raises(UserError, match="d: its categories are not those of a"):
        read_labels(["a", "d"], ["z"])
    with pytest.raises(UserError, match="a: no labels of 2 of 3 videos, first w: .*--max-bad"):
        read_labels(["a"], ["z", "w", "none"], 0.5)


# ---- What a step holds ---------------------------------------------------------------------------
class Sizes:
    """Of a Joint all that JointOrder asks for."""

    def __init__(self, n, n_web):
        self.n = n
        self.web = range(n_web)

    def __len__(self):
        return self.n


def joint_order(n, batch, n_web, ratio, rank=0, world=1, parts=1):
    args = Args(batch_size=batch, web_ratio=ratio, seed=4, accumulate=parts)
    return JointOrder(Sizes(n, n_web), args, rank, world)


def steps_of(n, batch, n_web, web_batch, parts=1, world=1, skip=0):
    """[[batch of each process and part] of each step] through two epochs"""
    ratio = web_batch / batch
    orders = [joint_order(n, batch, n_web, ratio, rank, world, parts) for rank in range(world)]
    steps = []
    for epoch in range(2):
        for order in orders:
            order.start(epoch, skip * (epoch == 0))
        batches = [list(order) for order in orders]
        assert [len(own) for own in batches] == [len(order) for order in orders]
        for i in range(len(orders[0]) // parts):
            steps.append([own[i * parts + part] for part in range(parts) for own in batches])
    return steps


@pytest.mark.parametrize("n_web, web_batch", [(23, 8), (3, 8), (1, 8), (100, 16), (0, 0)])
def test_what_is_trained_does_not_depend_on_processes_and_parts(n_web, web_batch):
    whole = [batch for (batch,) in steps_of(50, 8, n_web, web_batch)]
    order = Order(50, 8, 4)
    videos = []
    for epoch in range(2):
        order.start(epoch, 0)
        videos += list(order)
    assert [[key for of_web, key in batch if not of_web] for batch in whole] == videos
    for world, parts in ((1, 2), (2, 1), (2, 2), (4, 1)):
        shared = steps_of(50, 8, n_web, web_batch, parts, world)
        for batch, shares in zip(whole, shared, strict=True):
            assert sorted(key for share in shares for key in share) == sorted(batch)
            for share in shares:
                n = 8 // parts // world
                n_of_web = web_batch // parts // world
                assert [of_web for of_web, _ in share] == [False] * n + [True] * n_of_web
    if n_web:
        places = [key for batch in whole for of_web, key in batch if of_web]
        orders = set()
        for turn in range(len(places) // n_web):
            keys = places[turn * n_web : (turn + 1) * n_web]
            # Each item once in each pass.
            assert sorted(keys) == list(range(turn * n_web, (turn + 1) * n_web))
            orders.add(tuple(key % n_web for key in keys))
        assert n_web < 20 or len(orders) == len(places) // n_web


@pytest.mark.parametrize("world, parts", [(1, 1), (2, 2)])
def test_a_resumed_epoch_goes_on_with_the_same_web_items(world, parts):
    whole = steps_of(50, 8, 11, 4, parts, world)
    for skip in (1, 5):
        assert steps_of(50, 8, 11, 4, parts, world, skip=skip) == whole[skip:]


@pytest.mark.parametrize(
    "ratio, world, parts", [(0.75, 2, 2), (0.0, 1, 1), (0.125, 2, 1), (0.01, 1, 1)]
)
def test_shares_of_the_web_that_cannot_be(ratio, world, parts):
    with pytest.raises(UserError, match="--web-ratio .*multiple of processes x --accumulate = "):
        joint_order(50, 8, 9, ratio, 0, world, parts)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_labelled_videos_then_web_items(plain, workers):
    joint = omnidebias.make_data(Args(**plain)).train
    order = JointOrder(joint, Args(**plain | dict(web_ratio=0.5)))
    loader = DataLoader(joint, batch_sampler=order, num_workers=workers)
    batch = next(iter(loader))
    keys = [order.web_item(place) for place in range(4)]
    index = batch["index"].tolist()
    assert max(index[:8]) < 80 and index[8:] == [80 + key for key in keys]
    assert torch.equal(batch["video"], batch["index"])
    paths = [joint.paths[i] for i in index]
    assert batch["still"].tolist() == [path.endswith(".png") for path in paths]
    labels = joint.videos.labels + joint.web.videos.labels
    assert batch["label"].tolist() == [labels[i] for i in index]
    for clip, path, key in zip(batch["clip"][8:], paths[8:], keys, strict=True):
        assert torch.equal(clip, joint.web[key]["clip"])
        # An image is repeated.
        assert path.endswith(".png") == bool((clip == clip[:, :1]).all())


def test_an_unreadable_item_gives_its_place_label_and_aspect_to_the_next(plain, world, here):
    (here / "list.txt").write_text("broken.png 7\nweb/0003.png 2\n")
    (here / "broken.png").write_bytes(b"none")
    (here / "web").symlink_to(world / "web")
    joint = omnidebias.make_data(Args(**plain | dict(web="list.txt", web_root=""))).train
    item = joint[True, 0]
    assert (item["index"], item["video"], item["bad"]) == (80, 81, 1)
    assert (item["label"], item["still"]) == (2, True)
    item = joint[True, 3]
    assert (item["index"], item["video"], item["bad"]) == (81, 81, 0)


def test_a_web_item_is_cropped_by_random_numbers_of_its_own(plain, world, here):
    """The very file of the labelled video that has its number, under another name."""
    (here / "list.txt").write_text("copy.mp4 0\n")
    (here / "copy.mp4").symlink_to(world / "train/0000.mp4")
    joint = omnidebias.make_data(Args(**plain | dict(web="list.txt", web_root=""))).train
    assert joint.paths[0] == "train/0000.mp4"
    for epoch in range(3):
        labelled = joint[False, 80 * epoch]["clip"]
        assert not torch.equal(labelled, joint[True, epoch]["clip"])


def test_a_web_item_that_is_a_training_video(plain, world, capsys):
    plain |= dict(web=f"{world}/train.txt")
    error = fails(capsys, argv(plain), script=omnidebias)
    assert "--web: 80 items are training or validation videos, first train/0000.mp4" in error


def test_web_items_without_labels_are_no_reason_to_stop(flags, world, here):
    """--max-bad is of the training videos; an item without labels adds nothing to MAAT."""
    scenes = common.open_labels(world / "scenes")
    labels = np.array(scenes.labels)
    missing = set(read_list(world / "web.txt").paths[:40])
    labels[[path in missing for path in scenes.paths]] = np.nan
    write_labels_folder(here / "some", scenes.paths, scenes.categories, labels, {})
    args = Args(**flags | dict(aspect=("scene=some",), max_bad=0.0))
    aspects = omnidebias.make_data(args).aspects
    assert aspects["scene"].any(1).tolist() == [True] * 80 + [False] * 40 + [True] * 20


# ---- Runs ----------------------------------------------------------------------------------------
def test_a_run_goes_on_where_the_web_has_moved(plain, world, here):
    (here / "moved").symlink_to(world)
    plain |= dict(web_root=str(world))
    done = omnidebias.train(Args(**plain))
    assert omnidebias.train(Args(**plain | dict(web_root="moved", resume=True))) == done


def test_an_epoch_is_a_pass_of_the_labelled_videos_whatever_the_web_s_length(plain, world, here):
    lines = (world / "web.txt").read_text().splitlines(True)
    (here / "three.txt").write_text("".join(lines[:3]))
    lists = set()
    for web in ("three.txt", f"{world}/web.txt", "none"):
        change = dict(web=web, web_root=str(world), out="run", overwrite=True)
        saved = load(omnidebias.train(Args(**plain | change))["checkpoint"])
        assert saved["step"] == 10
        assert ("web_ce" in log_lines("run")[1]) == (web != "none")
        lists.add(saved["list_sha1"])
    assert len(lists) == 3


def with_holes(world, folder, missing=0, broken=0, n=60):
    """Flags of a web list and its folder, where the first items are missing and the next broken.
    -> flags, paths"""
    (folder / "holes/web").mkdir(parents=True)
    lines = (world / "web.txt").read_text().splitlines(True)[:n]
    paths = [line.split()[0] for line in lines]
    for i, path in enumerate(paths):
        if missing <= i < missing + broken:
            (folder / "holes" / path).write_bytes(b"no video " * 99)
        elif i >= missing:
            (folder / "holes" / path).symlink_to(world / path)
    (folder / "web.txt").write_text("".join(lines))
    return dict(web=str(folder / "web.txt"), web_root=str(folder / "holes")), paths


def test_web_items_that_are_missing_or_broken_are_named_and_no_reason_to_stop(
    plain, world, tmp_path
):
    change, paths = with_holes(world, tmp_path, missing=20, broken=30)
    omnidebias.train(Args(**plain | change | dict(max_bad=0.0, web_ratio=2.0)))
    first, *_, last = log_lines(tmp_path / "run")
    assert first["missing"] == paths[:20]
    assert first["note"].endswith("40 web items, 20 more missing")
    assert last["unreadable"] == paths[20:50] and last["val/unreadable"] == []


@pytest.mark.parametrize("n", [1, 4])
def test_a_web_without_one_readable_item(plain, world, tmp_path, capsys, n):
    change, _ = with_holes(world, tmp_path, broken=n, n=n)
    error = fails(capsys, argv(plain | change), script=omnidebias)
    assert re.search("cannot (be )?read.*web/000", error)
    assert not list((tmp_path / "run").glob("*.pt"))


# ---- Model and losses ----------------------------------------------------------------------------
def networks(*aspects, model="tiny", with_smad=True):
    """With a score map that is no longer constant, as after some training. -> this script's,
    smad.py's of the same weights"""
    torch.manual_seed(0)
    heads = {name: SIZES[name] for name in aspects}
    net = omnidebias.build_model(Args(**TOY | dict(model=model, smad=with_smad)), K, heads)
    if with_smad:
        nn.init.normal_(net.saar.score.weight, 0, 0.3)
    its_args = smad.Args(**smad.TOY | dict(model=model, saar=with_smad))
    its = smad.build_model(its_args, K, heads)
    its.load_state_dict(net.state_dict())
    return net.train(), its.train()


def random_batch(*aspects, videos=4, stills=(4,)):
    torch.manual_seed(1)
    clip = torch.randn(6, 3, 4, 16, 16)
    still = torch.zeros(6, dtype=torch.bool)
    still[list(stills)] = True
    clip[still] = clip[still][:, :, :1]
    return {
        "clip": clip,
        "label": torch.arange(6) % K,
        "videos": videos,
        "still": still,
        "aspects": {name: torch.randn(6, SIZES[name]).softmax(1) for name in aspects},
    }


models = pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])


def both_objectives(its, batch):
    """Eq. (1) and Eq. (2) of the labelled videos plus those of the web items, item by item, by
    smad.py's network without the reversal layer."""
    outputs = []
    for clip, still in zip(batch["clip"], batch["still"].tolist(), strict=True):
        one = clip[None]
        if still and its.tsn:
            one = one[:, :, :1]
        outputs.append(its(one, full=True))
    heads_loss = 0
    backbone_loss = 0
    for part in (range(batch["videos"]), range(batch["videos"], 6)):
        if not part:
            continue
        ce = sum(F.cross_entropy(outputs[i].logits[0], batch["label"][i]) for i in part) / len(part)
        penalty = 0
        for name, p in batch["aspects"].items():
            for i in part:
                s = its.adversaries[name](outputs[i].features[0])  # (S, D)
                loss = -(p[i] * s.log_softmax(1)).sum(1).mean()
                penalty = penalty + loss / len(part) / len(batch["aspects"])
        heads_loss = heads_loss + ce + penalty
        backbone_loss = backbone_loss + ce - penalty
    return heads_loss, backbone_loss


def test_losses_by_hand():
    """Sec. 6.1's 0.5 of each of Eqs. (3), (4) has the gradient of one Eq. (3); a row of zeros adds
    nothing."""
    torch.manual_seed(0)
    s = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    p = torch.randn(6, 7, dtype=torch.float64).softmax(1)
    p[2] = 0
    loss = omnidebias.soft_cross_entropy(s, p)
    slow = 0
    for label, row in zip(p.tolist(), s.log_softmax(1).tolist(), strict=True):
        slow -= sum(b * v for b, v in zip(label, row, strict=True))
    assert loss.item() == pytest.approx(slow / 6, rel=1e-12)
    mixed = 0.5 * smad.soft_cross_entropy(s, p) + 0.5 * smad.kl_divergence(s, p)
    (mine,) = torch.autograd.grad(loss, s, retain_graph=True)
    (its,) = torch.autograd.grad(mixed, s)
    torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
    assert (mine[2] == 0).all() and mine.abs().max() > 0.01
    assert omnidebias.heads_objective(7.0, [3.0, 5.0]) == 11
    assert omnidebias.heads_objective(7.0, []) == 7
    assert omnidebias.joint_objective(7.0) == 7 and omnidebias.joint_objective(7.0, 2.0) == 9


@models
@pytest.mark.parametrize(
    "aspects, videos",
    [((), 4), (("scene",), 4), (("scene", "object"), 3), (("scene",), 6), ((), 6)],
)
def test_heads_follow_equation_1_and_the_backbone_equation_2(model, aspects, videos):
    net, its = networks(*aspects, model=model)
    batch = random_batch(*aspects, videos=videos, stills=(5,) if videos < 6 else ())
    loss, logs = omnidebias.training_step(net, batch, Args())
    loss.backward()
    heads_loss, backbone_loss = both_objectives(its, batch)
    assert loss.item() == logs["loss"].item() == pytest.approx(heads_loss.item(), rel=1e-5)
    assert ("web_ce" in logs) == (videos < 6)
    assert logs.keys() >= {f"{name}_adv" for name in aspects}
    mine = dict(net.named_parameters())
    theirs = dict(its.named_parameters())
    heads = [name for name in mine if name.startswith(("adversaries.", "head."))]
    backbone = [name for name in mine if name not in heads]
    for names, right, wrong in (
        (heads, heads_loss, backbone_loss),
        (backbone, backbone_loss, heads_loss),
    ):
        parameters = [theirs[name] for name in names]
        expected = torch.autograd.grad(right, parameters, retain_graph=True)
        other = torch.autograd.grad(wrong, parameters, retain_graph=True)
        size = max(float(g.abs().max()) for g in expected)
        assert size > 1e-3
        for name, g in zip(names, expected, strict=True):
            torch.testing.assert_close(mine[name].grad, g, rtol=1e-3, atol=1e-5 * size)
        # The two differ, or the test says nothing.
        far = [(a - b).abs().max() for a, b in zip(expected, other, strict=True)]
        assert not aspects or max(far) > 1e-4


@models
def test_the_web_s_part_is_a_mean(model):
    """More web items a step weigh no more."""
    net, _ = networks("scene", model=model)
    batch = random_batch("scene")
    twice = [*range(6), 4, 5]
    more = batch | {key: batch[key][twice] for key in ("clip", "label", "still")}
    more["aspects"] = {"scene": batch["aspects"]["scene"][twice]}
    once, again = (omnidebias.training_step(net, x, Args())[0].item() for x in (batch, more))
    assert once == pytest.approx(again, rel=1e-6)


@pytest.mark.parametrize("model", ["tsn_tiny", "tsn_r50"])
def test_an_image_is_one_frame_to_a_tsn(model):
    net, _ = networks(model=model, with_smad=False)
    net.eval()
    side = 64 if model == "tsn_r50" else 16
    batch = random_batch(stills=(1, 4))
    still = batch["still"]
    clip = F.interpolate(batch["clip"].flatten(0, 1), (side, side)).unflatten(0, (6, 3))
    frames = []
    first = net.backbone.layers[0] if net.is_tiny else net.backbone.conv1
    first.register_forward_pre_hook(lambda layer, x: frames.append(x[0]))
    with torch.no_grad():
        logits, features, _, _ = net(clip, still, full=True)
        # Four clips of four frames, two images.
        assert len(frames) == 1 and len(frames[0]) == 18 and features.shape[:2] == (6, 4)
        assert torch.equal(frames[0][4].flatten(), clip[1, :, 0].flatten())
        assert torch.equal(features[still], features[still][:, :1].expand(-1, 4, -1))
        assert not torch.equal(features[0, 0], features[0, 1])
        # A mean of frames that are the same.
        torch.testing.assert_close(logits, net(clip), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.mean(1), net.features(clip), rtol=1e-4, atol=1e-5)
        assert (logits[1] - logits[0]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "model, with_smad",
    [("tiny", True), ("tiny", False), ("tsn_tiny", True), ("slowonly_r18", True)],
)
def test_the_network_is_smad_s(model, with_smad):
    net, its = networks("scene", model=model, with_smad=with_smad)
    clip = random_batch()["clip"][:2]
    if model == "slowonly_r18":
        clip = F.interpolate(clip, (4, 64, 64))
    with torch.no_grad():
        mine = net.eval()(clip, full=True)
        theirs = its.eval()(clip, full=True)
        assert mine.logits.std() > 1e-3 and torch.equal(mine.logits, net(clip))
        assert torch.equal(mine.logits, theirs.logits)
        assert torch.equal(mine.aspects["scene"], theirs.aspects["scene"])
        if with_smad:
            assert torch.equal(mine.mask, theirs.mask) and mine.mask.std() > 1e-3
    assert (net.saar is None) == (not with_smad)


def test_a_checkpoint_carries_what_building_its_network_needs(flags):
    omnidebias.train(Args(**flags | dict(epochs=0)))
    saved = load(f"{flags['out']}/last.pt")
    assert saved["heads"] == {"scene": 24}
    net = omnidebias.build_model(Args(**saved["args"]), len(saved["classes"]), saved["heads"])
    net.load_state_dict(saved["model"])
    assert same(dict(net.state_dict()), dict(saved["model"])) and net.saar is not None


def test_smad_and_its_aspects_go_together(flags, world, capsys):
    for change, message in (
        (dict(smad=False), "--smad and --aspect go together"),
        (dict(aspect=()), "--smad and --aspect go together"),
        (dict(aspect=("scene",)), "--aspect scene: expected NAME=FOLDER or NAME=FOLDER,FOLDER"),
        (dict(aspect=(f"a={world}/scenes", f"a={world}/objects")), "a second of that name"),
        (dict(web=""), "--web: name a list of web items"),
    ):
        assert message in fails(capsys, argv(flags | change), script=omnidebias)
