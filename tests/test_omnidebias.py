"""omnidebias.py's parts: the thirds by z-frequency and a teacher's filter against brute force, the lists that select
writes, how it stops and goes on, what a step holds of labelled videos and of web items, images in a TSN, the losses
with and without SMAD. Whole runs are in test_train.py."""

import math
import os
import re
import signal
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Forked, argv, ended, fails, load, log_lines, same, two
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import albar
import common
import evaluate
import omnidebias
import smad
from common import Joint, JointOrder, Order, UserError, mean_entropy, read_facet, read_list
from omnidebias import PARTS, TOY, Args, teacher_filter, thirds, z_frequency

K, SIZES = 5, {"scene": 7, "object": 4}
THIRDS = {1: (0, 0, 1), 2: (0, 1, 1), 3: (1, 1, 1), 4: (1, 1, 2), 5: (1, 2, 2), 6: (2, 2, 2), 7: (2, 2, 3)}


@pytest.fixture
def script():
    return omnidebias


@pytest.fixture
def plain(flags):
    """Fields of Args for an epoch without SMAD."""
    return flags | dict(smad=False, aspect=(), epochs=1)


def drawn(n, actions, scenes, seed=0):
    """Labels that are not contiguous, and long-tailed facets, of n items."""
    rng = np.random.default_rng(seed)
    facet = np.minimum(rng.geometric(0.25, n) - 1, scenes - 1)
    return rng.choice(rng.permutation(400)[:actions], n), facet.astype(np.int32)


def slow_frequency(label, facet):
    pairs, items = Counter(zip(label.tolist(), facet.tolist(), strict=True)), Counter(label.tolist())
    return [pairs[y, z] / items[y] for y, z in zip(label.tolist(), facet.tolist(), strict=True)]


# ---- z-frequency and thirds -----------------------------------------------------------------------------------------
def test_z_frequency_of_the_paper_s_footnote():
    """20 of 100 samples of an action are in `cliff`, scene 3; another action has many more there."""
    label, facet = np.array([7] * 100 + [2] * 50), np.array([3] * 20 + [0] * 50 + [1] * 30 + [3] * 50)
    assert z_frequency(label, facet).tolist() == [0.2] * 20 + [0.5] * 50 + [0.3] * 30 + [1.0] * 50


@pytest.mark.parametrize("n, actions, scenes", [(1, 1, 1), (2, 2, 3), (90, 1, 9), (700, 12, 40), (300, 100, 5)])
def test_z_frequency_by_counting(n, actions, scenes):
    label, facet = drawn(n, actions, scenes)
    assert z_frequency(label, facet).tolist() == slow_frequency(label, facet)


@pytest.mark.parametrize("n, actions, scenes", [(60, 1, 9), (700, 12, 40), (300, 90, 5), (40, 30, 2)])
def test_thirds_are_slices_of_a_plain_sort(n, actions, scenes):
    """Of each action; within a scene who is where is free, so the sorted scenes are compared."""
    label, facet = drawn(n, actions, scenes, seed=n)
    third, rand = thirds(label, facet, 0)
    f = slow_frequency(label, facet)
    for y in set(label.tolist()):
        some = np.flatnonzero(label == y).tolist()
        rows, size = sorted((-f[i], facet[i]) for i in some), len(some)
        cuts = [0, size // 3, size // 3 + (size - size // 3) // 2, size]
        for part in range(3):
            assert sorted((-f[i], facet[i]) for i in some if third[i] == part) == rows[cuts[part]:cuts[part + 1]]
        parts = [{facet[i] for i in some if third[i] == part} for part in range(3)]
        assert len(parts[0] & parts[1]) <= 1 and len((parts[0] | parts[1]) & parts[2]) <= 1     # a cut splits one scene
        assert sum(rand[some]) == (third[some] == 2).sum()


@pytest.mark.parametrize("n", THIRDS)
def test_who_gets_the_odd_one(n):
    for facet in (np.arange(n), np.zeros(n, int)):
        third, rand = thirds(np.repeat([9, 4], n), np.tile(facet, 2), 5)
        for some in (slice(n), slice(n, None)):
            assert tuple(np.bincount(third[some], minlength=3)) == THIRDS[n] and rand[some].sum() == THIRDS[n][2]


def test_another_seed_changes_nothing_but_ties_and_rand():
    label, facet = drawn(700, 6, 30)
    (third, rand), again = thirds(label, facet, 0), thirds(label, facet, 0)
    assert (third == again[0]).all() and (rand == again[1]).all()
    free = np.zeros(700, bool)
    for y, z in set(zip(label, facet, strict=True)):                                      # of the scenes that are cut
        some = (label == y) & (facet == z)
        free |= some if len(set(third[some])) > 1 else False
    others = [thirds(label, facet, seed) for seed in range(1, 40)]
    assert all((other[~free] == third[~free]).all() for other, _ in others) and 0 < free.sum() < 700
    moved = np.any([other != third for other, _ in others], 0)
    assert (moved == free).all() and len({tuple(dealt) for _, dealt in others}) == 39


def test_ties_and_rand_are_even_and_independent():
    """One scene: whichever place in the list, an item is in each part in a third of the seeds, and rand is drawn from
    all parts alike."""
    found = [thirds(np.zeros(9, int), np.zeros(9, int), seed) for seed in range(600)]
    for part in range(3):
        assert np.abs(np.mean([third == part for third, _ in found], 0) - 1 / 3).max() < 0.08    # 4 sigma
        assert abs(np.mean([rand[third == part].mean() for third, rand in found]) - 1 / 3) < 0.04
    assert np.abs(np.mean([rand for _, rand in found], 0) - 1 / 3).max() < 0.08


def test_teacher_filter_case_by_case():
    rows = [  # query, predicted, probability, kept at agree 0.5, confident 0.9
        (3, 3, 0.5, 3), (3, 3, 0.4999, -1), (3, 3, 1.0, 3), (3, 2, 0.9, -1), (3, 2, 0.9001, 2), (0, 0, 0.6, 0),
        (0, -1, 0.0, -1), (0, -1, 1.0, -1), (1, 0, 0.95, 0)]
    query, predicted, p, kept = map(np.array, zip(*rows, strict=True))
    assert teacher_filter(query, predicted, p, 0.5, 0.9).tolist() == kept.tolist()
    assert teacher_filter(query, predicted, p, 0.5, 1.0).tolist() == [3, -1, 3, -1, -1, 0, -1, -1, -1]
    assert teacher_filter(query, predicted, p, 1.0, 0.0).tolist() == [3, 3, 3, 2, 2, 0, -1, -1, 0]
    assert teacher_filter(query, predicted, p, 0.0, 1.0).tolist() == [3, 3, 3, -1, -1, 0, -1, -1, -1]


def test_mean_entropy_by_hand_and_by_counting():
    label = np.array([8, 0, 0, 3, 3, 0, 0, 3, 3, 8, 8])
    facet = np.array([5, 0, 1, 2, 2, 3, 7, 0, 9, 5, 5])
    assert mean_entropy(label, facet) == pytest.approx((math.log(4) + 1.5 * math.log(2) + 0) / 3, rel=1e-12)
    label, facet = drawn(500, 7, 30)
    slow = [-sum(n / len(some) * math.log(n / len(some)) for n in Counter(some).values())
            for some in (facet[label == y].tolist() for y in set(label))]
    assert mean_entropy(label, facet) == pytest.approx(sum(slow) / 7, rel=1e-12)


# ---- Labels in pieces -----------------------------------------------------------------------------------------------
def labels(file, paths, p, names="abc"):
    np.savez(file, paths=np.array(paths), probabilities=p, categories=np.array(list(names)))
    return file


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """100,000 items that are on no disk: their list, label file of 365 scenes, the classes and scenes. 73 MB."""
    folder, (label, facet) = tmp_path_factory.mktemp("crowd"), drawn(100_000, 200, 365)
    p, paths = np.zeros((100_000, 365), np.float16), [f"of/no/disk/{i}.{'jpg' if i % 2 else 'mp4'}"
                                                      for i in range(100_000)]
    p[np.arange(100_000), facet] = 1
    p[:, 364] += 0.01 * (facet < 364)
    labels(folder / "scenes.npz", paths, p, map(str, range(365)))
    (folder / "crowd.txt").write_text("".join(f"{path} {y}\n" for path, y in zip(paths, label, strict=True)))
    return folder, np.array(paths), label, facet


def test_facets_of_many_videos_are_read_in_pieces(crowd):
    """Neither the 73 MB of the file nor 146 of its floats are ever there at once."""
    folder, paths, _, facet = crowd
    order = np.random.default_rng(0).permutation(100_000)
    tracemalloc.start()
    found, names = read_facet([folder / "scenes.npz"], paths[order].tolist())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == facet[order]).all() and found.dtype == np.int32 and len(names) == 365 and peak < 140e6


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8"])
def test_facets_of_several_files(tmp_path, kind):
    p = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0.1, 0.2, 0.7]]).astype(kind)
    a = labels(tmp_path / "a.npz", ["x", "y y", "z"], p)
    b = labels(tmp_path / "b.npz", ["x", "ü"], p[:2])
    common.save_arrays(tmp_path / "c.npz", paths=np.array(["w"]), probabilities=p[2:], categories=np.array(list("abc")))
    found, names = read_facet([a, b, tmp_path / "c.npz"], ["ü", "none", "z", "y y", "x", "w", "ü"])
    assert found.tolist() == [0, -1, 2, 0, 1, 2, 0] and names == ["a", "b", "c"]
    with pytest.raises(UserError, match="c.npz: w has other probabilities in a file before it"):
        read_facet([labels(tmp_path / "d.npz", ["w"], p[:1]), tmp_path / "c.npz"], ["x"])


GOOD = np.tile([0.5, 0.25, 0.25], (4, 1)).astype(np.float32)


@pytest.mark.parametrize("change, message", [
    (dict(p=GOOD[:3]), "probabilities of 3 videos, but names of 4"), (dict(p=np.tile(GOOD, (2, 1))), "do not fit"),
    (dict(p=GOOD[:0]), "probabilities of 0 videos, but names of 4"),
    (dict(p=GOOD[:, :2] + 0.125), "do not fit its prob"), (dict(p=GOOD[0]), "holds no rows of floats"),
    (dict(p=GOOD[None]), "holds no rows of floats"), (dict(p=(GOOD > 0.4).astype(int)), "holds no rows of floats"),
    (dict(p=np.asfortranarray(GOOD)), "holds no rows of floats"), (dict(p=GOOD / 2), "of p0 are not such: they must"),
    (dict(p=np.where(np.arange(4)[:, None] == 2, np.nan, GOOD)), "probabilities of p2 are not such"),
    (dict(p=GOOD * [3, -1, -1]), "probabilities of p0 are not such"), (dict(names="abd"), "categories are not those"),
    (dict(drop="probabilities"), "cannot read its probabilities"), (dict(drop="paths"), "lacks paths or categories"),
    (dict(cut=0.5), "not a file that an offline step wrote|cannot read"), (dict(text=b"no zip" * 99), "not a"),
    (dict(flip=True), "cannot read its probabilities"), (dict(gone=True), "No such file"),
    (dict(text=b""), "other.npz: ")], ids=lambda v: None if isinstance(v, str) else "-".join(v))
def test_label_files_that_are_none_are_named(tmp_path, change, message):
    first, file = labels(tmp_path / "first.npz", ["a"], GOOD[:1]), tmp_path / "other.npz"
    parts = dict(paths=np.array(["p0", "p1", "p2", "p3"]), probabilities=change.get("p", GOOD),
                 categories=np.array(list(change.get("names", "abc"))))
    parts.pop(change.get("drop"), None)
    np.savez(file, **parts)
    raw = file.read_bytes()
    raw = change.get("text", raw[:int(len(raw) * change.get("cut", 1))])
    file.write_bytes(raw.replace(GOOD.tobytes(), GOOD[::-1].tobytes()[4:] + b"1234") if "flip" in change else raw)
    if "gone" in change:
        file.unlink()
    with pytest.raises(UserError, match=message) as error:
        read_facet([first, file], ["p1"])
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


# ---- Selection ------------------------------------------------------------------------------------------------------
def select(*words):
    common.cli(Args, omnidebias.train, argv=["select", *map(str, words)], steps=omnidebias.STEPS)


def refused(capsys, folder, *words):
    """One line on stderr, exit code 2, nothing written. -> the line"""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        select(*words)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert sorted(folder.rglob("*")) == before
    return error[0]


def written(out):
    """{NAME: {path: label}} of the lists in a folder"""
    found = {}
    for name in (*PARTS, "rand", "all"):
        lines = (out / f"{name}.txt").read_text().splitlines()
        found[name] = {path: int(y) for path, y in (line.rsplit(" ", 1) for line in lines)}
        assert len(found[name]) == len(lines)
        if lines:
            file = read_list(out / f"{name}.txt")
            assert file.kind == "plain" and dict(zip(file.paths, file.labels, strict=True)) == found[name]
    return found


@pytest.fixture(scope="module")
def teachers(world, tmp_path_factory):
    """{script: checkpoint} of random networks, whose head is fitted to the true classes of some of the web."""
    found, web = {}, common.subset(read_list(world / "web-truth.txt"), range(40))
    for name, module, change in (("albar", albar, {}), ("tsn", omnidebias, dict(model="tsn_tiny", frames=3)),
                                 ("smad", smad, {})):
        args = module.Args(**module.TOY | dict(frames=4, size=16, resize=18) | change)
        torch.manual_seed(0)
        net = module.build_model(args, 8).eval()
        g = torch.from_numpy(by_hand(net.features, vars(args), web)[2])
        mean, std = g.mean(0), g.std(0) + 1e-6
        g = (g - mean) / std
        w = torch.linalg.solve(g.T @ g + 10 * torch.eye(64), g.T @ F.one_hot(torch.tensor(web.labels), 8).float() * 5)
        with torch.no_grad():
            net.head.weight.copy_(w.T / std)
            net.head.bias.copy_(-net.head.weight @ mean)
        found[name] = tmp_path_factory.mktemp(name) / "last.pt"
        torch.save(dict(method=module.__name__, args=vars(args), classes=list(common.ACTIONS), model=net.state_dict(),
                        epoch=1, step=1), found[name])
    return found


def by_hand(net, args, items):
    """One item after the other: (n,) predicted class, -1 where it cannot be read; (n,) probability; (n, K) logits"""
    found, (mean, std) = [], (torch.tensor(args[name]).view(3, 1, 1) for name in ("mean", "std"))
    for i in range(len(items)):
        try:
            n = common.num_frames(items.full(i))
            at = ([(2 * k + 1) * n // (2 * args["frames"]) for k in range(args["frames"])]
                  if args["model"].startswith("tsn") else common.centre_clip(n, args["frames"], args["stride"]))
            clip = common.read_clip(items.full(i), at).permute(0, 3, 1, 2)
        except UserError:
            found.append((-1, 0.0, np.zeros(8)))
            continue
        clip = v2.CenterCrop(args["size"])(v2.Resize(args["resize"], antialias=True)(clip)).float() / 255
        with torch.no_grad():
            z = net(((clip - mean) / std).transpose(0, 1)[None])[0]
        p, y = z.softmax(0).max(0)
        found.append((int(y), float(p), z.numpy()))
    return [np.array(some) for some in zip(*found, strict=True)]


@pytest.fixture
def web(world, tmp_path):
    """A folder with the benchmark's web items, one broken, one gone, one that no file labels, and the words of a
    selection of them."""
    (tmp_path / "web").symlink_to(world / "web")
    (tmp_path / "conflfg").symlink_to(world / "conflfg")
    (tmp_path / "broken.png").write_bytes(b"no image " * 99)
    more = "broken.png 1\ngone.mp4 2\nconflfg/0000.mp4 3\n"
    (tmp_path / "more.txt").write_text((world / "web-clips.txt").read_text() + more)
    (tmp_path / "images.txt").write_text((world / "web-images.txt").read_text())
    (tmp_path / "classes.txt").write_text("\n".join(common.ACTIONS) + "\n")
    scenes = [f"scene{i}" for i in range(common.SCENES)]
    labels(tmp_path / "more.npz", ["broken.png", "gone.mp4"], np.eye(common.SCENES)[:2], scenes)
    return ["more.txt", "images.txt", "--labels", world / "scenes.npz", "more.npz", "--root", ".", "--workers", 0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name, agree, confident", [("albar", 0.0, 1.0), ("tsn", 0.3, 0.5), ("smad", 0.4, 0.3),
                                                    ("npz", 0.0, 0.4)])
def test_a_selection_by_hand(web, here, world, teachers, name, agree, confident, capsys):
    """The lists, and the figures that it prints, from a slow look at every item."""
    net, saved = common.trained(teachers[name if name in teachers else "albar"])
    items = common.merge_lists(["more.txt", "images.txt"], ".", 1)
    predicted, probability, _ = by_hand(net, saved["args"], items)
    words, teacher = [*web, "--agree", agree, "--confident", confident, "--out", "new"], saved["path"]
    if name == "npz":
        select(*web, "--out", "first", "--teacher", teacher, "--agree", 0, "--confident", 0)
        teacher = "first-teacher.npz"
    capsys.readouterr()
    select(*words, "--teacher", teacher, "--truth", world / "web-truth.txt", "--compare", world / "train.txt")
    said, facet = capsys.readouterr().out, read_facet([world / "scenes.npz", "more.npz"], items.paths)[0]
    kept = np.array([q if y == q and p >= agree else y if y >= 0 and p > confident else -1
                     for y, p, q in zip(predicted, probability, items.labels, strict=True)])
    use = (kept >= 0) & (facet >= 0)
    assert 8 < use.sum() < 63 and (confident > 0.9 or (kept[use] != np.array(items.labels)[use]).any())
    lists = written(here / "new")
    assert read_list(here / "new/all.txt").classes == list(common.ACTIONS)
    assert lists["all"] == {p: y for p, y, u in zip(items.paths, kept, use, strict=True) if u}
    assert sum((Counter(lists[part]) for part in PARTS), Counter()) == Counter(lists["all"])                 # disjoint
    third, dealt = thirds(kept[use], facet[use], 0)
    for part, mine in [(part, third == i) for i, part in enumerate(PARTS)] + [("rand", dealt)]:
        assert set(lists[part]) == set(np.array(items.paths)[use][mine]) and lists[part].items() <= lists["all"].items()
    pairs = Counter((y, z) for part in range(3) for y, z in {*zip(kept[use][third == part], facet[use][third == part],
                                                                  strict=True)})
    assert (f"2 items unreadable, 1 without a label; {len(pairs)} facets of an action, "
            f"{sum(n > 1 for n in pairs.values())} of them in two parts") in said
    table = {row.split()[0]: [*map(int, row.split()[1:])] for row in said.split("all\n")[1].splitlines()[:9]}
    everything = [np.array(items.labels), kept[kept >= 0], *(np.array([*lists[part].values()], int)
                                                             for part in (*PARTS, "rand", "all"))]
    for y, action in enumerate(common.ACTIONS):
        assert table[action] == [(some == y).sum() for some in everything]
    assert table["all"] == [len(some) for some in everything]
    place = {path: i for i, path in enumerate(items.paths)}
    entropy = dict(re.findall(r"(\w+) (\d+\.\d+)[,\n]", said[said.index("mean entropy"):said.index("at equal")]))
    for part, some in lists.items():
        at = [place[path] for path in some]
        assert float(entropy[part]) == pytest.approx(mean_entropy(kept[at], facet[at]), abs=0.006), part
    here_too = facet >= 0
    assert float(entropy["listed"]) == pytest.approx(
        mean_entropy(np.array(items.labels)[here_too], facet[here_too]), abs=0.006)
    assert re.search(rf"at equal numbers of each action: listed \d\.\d\d, kept \d\.\d\d, {world}/train.txt \d\.", said)
    truth = read_list(world / "web-truth.txt")
    truth = dict(zip(truth.paths, truth.labels, strict=True))
    rows = [(q, k, truth[path]) for path, q, k in zip(items.paths, items.labels, kept, strict=True) if path in truth]
    right, taken = sum(q == t for q, _, t in rows), [k == t for _, k, t in rows if k >= 0]
    recall = sum(q == k == t for q, k, t in rows) / right
    assert (f"listed {right / 60:.1%} of 60, kept (precision) {np.mean(taken):.1%} of {len(taken)}; kept of the "
            f"rightly labelled (recall) {recall:.1%}") in said and 0 < right < 60


def test_entropy_at_equal_numbers_of_each_action(here, capsys):
    """Of 6 items in 6 scenes and 2 in 2 the labelled list's number, 2 and 1, are ln 2 and 0."""
    labels(here / "s.npz", [*"abcdefgh", *"stu"], np.eye(6)[[*range(6), 1, 2, 4, 4, 3]], "012345")
    (here / "w.txt").write_text("".join(f"{c} {int(c in 'gh')}\n" for c in "abcdefgh"))
    (here / "l.txt").write_text("s 0\nt 0\nu 1\n")
    select("w.txt", "--labels", "s.npz", "--compare", "l.txt")
    said = capsys.readouterr().out
    assert "listed 1.24, kept 1.24" in said
    assert "at equal numbers of each action: listed 0.35, kept 0.35, l.txt 0.00\n" in said


def test_without_a_teacher_all_are_kept_and_no_file_is_touched(crowd, here, monkeypatch, capsys):
    """A hundred thousand items, from their labels alone."""
    folder, paths, label, facet = crowd
    for name in ("num_frames", "read_clip", "existing", "trained"):
        monkeypatch.setattr(common, name, None)
    select(folder / "crowd.txt", "--labels", folder / "scenes.npz", "--out", "new", "--seed", 3)
    third, rand = thirds(label, facet, 3)
    for name, mine in (("unbias", third == 2), ("mid", third == 1), ("bias", third == 0), ("rand", rand)):
        lines = (here / f"new/{name}.txt").read_text().splitlines()
        assert lines == [f"{path} {y}" for path, y in zip(paths[mine], label[mine], strict=True)]
    assert not (here / "new/classes.txt").exists() and (here / "new/all.txt").read_text().count("\n") == 100_000
    entropy = dict(re.findall(r"(\w+) (\d+\.\d+)", capsys.readouterr().out.split("mean entropy")[1]))
    assert float(entropy["bias"]) < float(entropy["mid"]) < float(entropy["unbias"])


def test_actions_of_one_item_or_two_leave_lists_empty(here, capsys):
    """Then bias has none: that is said like any other count."""
    labels(here / "s.npz", list("abc"), np.eye(3))
    (here / "w.txt").write_text("a 0\nb 0\nc 1\n")
    select("w.txt", "--labels", "s.npz", "--out", "new")
    assert re.search(r"all +3 +3 +0 +1 +2 +2 +3\n", capsys.readouterr().out)
    assert [(here / f"new/{part}.txt").read_text().count("\n") for part in PARTS] == [0, 1, 2]


def die(when, words, folder):
    """select in a process of its own, which is killed in the middle of its teacher's work, or of writing the lists."""
    os.chdir(folder)
    common.PART_SECONDS, calls = 0, []

    def struck(real):
        def call(*args, **how):
            calls.append(args[0])
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **how)
        return call

    if when == "sweep":
        common.save_arrays = struck(common.save_arrays)
    else:
        Path.write_text = struck(Path.write_text)
    select(*words)


@pytest.mark.parametrize("when", ["sweep", "lists"])
def test_killed_and_started_again_is_never_killed(web, here, teachers, when, monkeypatch):
    words = [*map(str, web), "--teacher", str(teachers["albar"]), "--agree", "0", "--batch-size", "8"]
    with ended(process := Forked(die, when, [*words, "--out", "new"], str(here))):
        assert process.returncode == -signal.SIGKILL
    assert not (here / "new").exists() and (here / "new-teacher.npz").exists() == (when == "lists")
    assert len(list(here.glob("new-teacher.npz.parts/*.npz"))) == (2 if when == "sweep" else 0)
    looked, real = [], common.read_clip
    with monkeypatch.context() as patch:
        patch.setattr(common, "read_clip", lambda path, at: looked.append(path) or real(path, at))
        select(*words, "--out", "new")                                                     # the same command goes on
    assert len(looked) == (62 - 2 if when == "sweep" else 0)                           # what was done is not done again
    select(*words, "--out", "whole")
    assert written(here / "new") == written(here / "whole")
    assert sorted(p.name for p in (here / "new").iterdir()) == sorted(p.name for p in (here / "whole").iterdir())
    assert not (here / "new-teacher.npz.parts").exists()


def second_is_late(folder, words):
    """As where it is slower to start."""
    time.sleep(0.5 * int(os.environ["RANK"]))
    os.chdir(folder)
    select(*words)


@pytest.mark.parametrize("teacher", ["tsn", ""])
def test_two_processes_write_the_lists_of_one(web, here, teachers, teacher):
    words = [*map(str, web), "--teacher", str(teachers.get(teacher, "")), "--agree", "0"]
    with ended(*(processes := two(second_is_late, str(here), [*words, "--out", "two"]))) as said:
        assert [process.returncode for process in processes] == [0, 0], said
        assert sum("mean entropy" in out for out, _ in said) == 1                                 # one of them speaks
    select(*words, "--out", "one")
    assert written(here / "one") == written(here / "two")


@pytest.mark.parametrize("change, message", [
    (["--labels"], "name a list of web items, and --labels FILE.npz"), (["--out", "there"], "there exists: remove it"),
    (["--labels", "other.npz"], "--labels other.npz: has none of the items, such as web/"),
    (["--labels", "gone.npz"], "gone.npz: No such file"), (["--teacher", "gone.pt"], "gone.pt: no such checkpoint"),
    (["--teacher", "other.npz"], "other.npz: not a file that an offline step wrote"),
    (["--teacher", "half.npz", "--agree", "0"], "half.npz: has not seen 62 of 63 items, first web/.*the checkpoint"),
    (["--teacher", "five.npz"], "its classes are not the training run's"),
    (["--teacher", "{albar}", "--amp", "fp16"], "--amp fp16 is for CUDA"),
    (["--teacher", "no.npz"], "--teacher no.npz: keeps none of 63 items: lower --agree 0.5"),
    (["--agree", "1.5"], "--agree 1.5: must be at least 0 and at most 1"),
    (["--truth", "gone.txt"], "gone.txt: cannot read it"), (["--compare", "gone.txt"], "gone.txt: cannot read it"),
    (["--truth", "other.txt"], "other.txt"), (["--compare", "other.txt"], "other.txt")],
    ids=lambda v: "-".join(v).replace("--", "") if isinstance(v, list) else None)
def test_bad_input_to_select(web, here, world, teachers, capsys, change, message):
    (here / "there").mkdir()
    labels(here / "other.npz", ["x"], GOOD[:1])
    (here / "other.txt").write_text("x 0\ny 1\n")                                        # has nothing of these items
    items = common.merge_lists(["more.txt", "images.txt"], ".", 1)
    kind = dict(unreadable=np.array([], str), classes=np.array(common.ACTIONS))
    for name, of, more in (("half", items.paths[3:4], {}), ("no", items.paths, {}),
                           ("five", items.paths, dict(classes=np.array(common.ACTIONS[:5])))):
        np.savez(here / f"{name}.npz", **kind | dict(paths=np.array(of), predicted=np.array(items.labels)[:len(of)],
                                                     probability=np.full(len(of), 0.49)) | more)
    change = [word.format(**teachers) for word in change]
    words = [*web[:3], *(change[1:] if change[0] == "--labels" else web[3:5]), *web[5:]]
    assert re.search(message, refused(capsys, here, *words, *(change if change[0] != "--labels" else [])))


@pytest.mark.parametrize("words, message, seen", [
    (["--root", "there"], "none of 63 videos can be read, first there/.*--root", False),
    (["--agree", "1"], "keeps none of 63 items: lower --agree 1.0", True)])
def test_what_the_error_advises_then_works(web, here, teachers, capsys, words, message, seen):
    (here / "there").mkdir()
    command = [*web, "--teacher", teachers["albar"], "--out", "new"]
    with pytest.raises(SystemExit) as stopped:
        select(*command, *words)
    assert stopped.value.code == 2 and not (here / "new").exists() and (here / "new-teacher.npz").exists() == seen
    assert re.search(f"^error: .*{message}\n$", capsys.readouterr().err)
    select(*command, "--agree", 0)
    assert len(written(here / "new")["all"]) > 8


# ---- What a step holds ----------------------------------------------------------------------------------------------
def steps_of(n, batch, n_web, web_batch, parts=1, world=1, epochs=2, skip=0, seed=4):
    """[[batch of each process and part] of each step] through some epochs"""
    orders = [JointOrder(n, batch, n_web, web_batch / batch, seed, rank, world, parts) for rank in range(world)]
    found = []
    for epoch in range(epochs):
        for order in orders:
            order.epoch, order.skip = epoch, skip * (epoch == 0)
        batches = [list(order) for order in orders]
        assert [len(some) for some in batches] == [len(order) for order in orders]
        found += [[one[step * parts + part] for part in range(parts) for one in batches]
                  for step in range(len(orders[0]) // parts)]
    return found


@pytest.mark.parametrize("n_web, web_batch", [(23, 8), (3, 8), (8, 4), (1, 8), (100, 16), (0, 0)])
def test_what_is_trained_does_not_depend_on_processes_and_parts(n_web, web_batch):
    whole = steps_of(50, 8, n_web, web_batch)
    order, videos = Order(50, 8, 4), []
    for order.epoch in range(2):
        videos += list(order)
    assert [[key for kind, key in step[0] if kind == 0] for step in whole] == videos                    # Order's own
    for world, parts in ((1, 2), (2, 1), (2, 2), (4, 1)):
        shared = steps_of(50, 8, n_web, web_batch, parts, world)
        for one, several in zip(whole, shared, strict=True):
            assert sorted(key for batch in several for key in batch) == sorted(one[0])
            for batch in several:
                kinds = [kind for kind, _ in batch]
                assert kinds == [0] * (8 // parts // world) + [1] * (web_batch // parts // world)
    if n_web:
        places = [key for step in whole for kind, key in step[0] if kind]
        passes = [places[at:at + n_web] for at in range(0, len(places), n_web)]
        for turn, some in enumerate(passes[:-1]):                                        # each item once in each pass
            assert sorted(some) == list(range(turn * n_web, (turn + 1) * n_web))
        orders = {tuple(key % n_web for key in some) for some in passes[:-1]}
        assert n_web < 20 or len(orders) == len(passes) - 1


@pytest.mark.parametrize("world, parts", [(1, 1), (2, 2)])
def test_a_resumed_epoch_goes_on_with_the_same_web_items(world, parts):
    whole = steps_of(50, 8, 11, 4, parts, world)
    for skip in (1, 5):
        assert steps_of(50, 8, 11, 4, parts, world, skip=skip) == whole[skip:]


def test_shares_of_the_web_that_cannot_be():
    for how in ((50, 8, 9, 0.75, 0, 0, 2, 2), (50, 8, 9, 0.0, 0), (50, 8, 9, 0.125, 0, 0, 2), (50, 8, 9, 0.01, 0)):
        with pytest.raises(UserError, match="--web-ratio .* must be a .*multiple of processes x --accumulate = "):
            JointOrder(*how)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_labelled_videos_then_web_items(plain, workers):
    args = Args(**plain)
    videos, _, web, _ = omnidebias.make_data(args)
    both, order = Joint(videos, web), JointOrder(80, 8, 60, 0.5, 0)
    assert both.web == 60 and both.missing == ()
    for number, some in enumerate(DataLoader(both, batch_sampler=order, num_workers=workers)):
        web_keys = [order.web_item(place) for place in range(4 * number, 4 * number + 4)]
        index = some["index"].tolist()
        assert [i < 80 for i in index] == [True] * 8 + [False] * 4 and index[8:] == [80 + k % 60 for k in web_keys]
        paths = [(videos.videos.paths + web.videos.paths)[i] for i in index]
        assert some["still"].tolist() == [path.endswith(".png") for path in paths] and (some["video"] == some["index"]
                                                                                        ).all()
        assert some["label"].tolist() == [(videos.videos.labels + web.videos.labels)[i] for i in index]
        for clip, path, key in zip(some["clip"][8:], paths[8:], web_keys, strict=True):
            assert torch.equal(clip, web[key]["clip"])
            assert path.endswith(".png") == bool((clip == clip[:, :1]).all())               # the image, repeated
        if number == 2:
            break


def test_an_unreadable_item_gives_its_place_label_and_aspect_to_the_next(plain, world, here):
    (here / "list.txt").write_text("broken.png 7\nweb/0003.png 2\n")
    (here / "broken.png").write_bytes(b"none")
    (here / "web").symlink_to(world / "web")
    videos, _, web, _ = omnidebias.make_data(Args(**plain | dict(web=("list.txt",))))
    item = Joint(videos, web)[1, 0]
    assert (item["index"], item["video"], item["bad"], item["label"], item["still"]) == (80, 81, 1, 2, True)
    item = Joint(videos, web)[1, 3]
    assert (item["index"], item["video"], item["bad"]) == (81, 81, 0)


def test_a_web_item_is_cropped_by_random_numbers_of_its_own(plain, world, here):
    """The very file of the labelled video that has its number, under another name."""
    (here / "list.txt").write_text("copy.mp4 0\n")
    (here / "copy.mp4").symlink_to(world / "train/0000.mp4")
    videos, _, web, _ = omnidebias.make_data(Args(**plain | dict(web=("list.txt",))))
    assert videos.videos.paths[0] == "train/0000.mp4"
    assert not any(torch.equal(videos[80 * epoch]["clip"], web[epoch]["clip"]) for epoch in range(3))


def test_soft_labels_of_one_path_that_are_two(here):
    """A video and a web item of one name, in two folders: refused; the same labels twice are not."""
    for name, p in (("a", [0.25, 0.75]), ("b", [0.75, 0.25]), ("c", [0.25, 0.75])):
        common.save_arrays(here / f"{name}.npz", paths=np.array(["x.mp4"]), categories=np.array(["s", "t"]),
                           probabilities=np.array([p], np.float16))
    with pytest.raises(UserError, match="b.npz: x.mp4 has other probabilities in a file before it"):
        common.read_labels(["a.npz", "b.npz"], ["x.mp4"])
    assert common.read_labels(["a.npz", "c.npz"], ["x.mp4"])[0].tolist() == [[0.25, 0.75]]


def test_web_items_without_labels_are_no_reason_to_stop(flags, world, here):
    """--max-bad is of the training videos; an item without labels adds nothing to MAAT."""
    with np.load(world / "scenes.npz") as file:
        keep = ~np.isin(file["paths"], read_list(world / "web.txt").paths[:40])
        common.save_arrays(here / "some.npz", **{k: file[k][keep] for k in ("paths", "probabilities")},
                           categories=file["categories"])
    *_, aspects = omnidebias.make_data(Args(**flags | dict(aspect=("scene=some.npz",), max_bad=0.0)))
    assert aspects["scene"].any(1).tolist() == [True] * 80 + [False] * 40 + [True] * 20


# ---- Runs -----------------------------------------------------------------------------------------------------------
def test_a_run_goes_on_where_the_web_has_moved(plain, world, here):
    (here / "moved").symlink_to(world)
    args = plain | dict(web_root=str(world))
    done = omnidebias.train(Args(**args))
    assert omnidebias.train(Args(**args | dict(web_root="moved", resume=True))) == done


def test_an_epoch_is_a_pass_of_the_labelled_videos_whatever_the_web_s_length(plain, world, here):
    (here / "three.txt").write_text("".join((world / "web.txt").read_text().splitlines(True)[:3]))
    found = {}
    for name, web in (("three", "three.txt"), ("sixty", str(world / "web.txt")), ("none", "none")):
        result = omnidebias.train(Args(**plain | dict(web=(web,), web_root=str(world), out=name)))
        found[name] = load(result["checkpoint"])
        logs = log_lines(here / name)
        assert found[name]["step"] == 10 and ("web_ce" in logs[1]) == (name != "none")
    assert len({found[name]["list_sha1"] for name in found}) == 3


def holes(world, folder, missing=0, broken=0, n=60):
    """The benchmark's web list and a folder where some of its first items are missing, the next broken."""
    (folder / "hole/web").mkdir(parents=True)
    lines = (world / "web.txt").read_text().splitlines(True)[:n]
    paths = [line.split()[0] for line in lines]
    for i, path in enumerate(paths[missing:]):
        if i < broken:
            (folder / "hole" / path).write_bytes(b"no video " * 99)
        else:
            (folder / "hole" / path).symlink_to(world / path)
    (folder / "web.txt").write_text("".join(lines))
    return dict(web=(str(folder / "web.txt"),), web_root=str(folder / "hole")), paths


def test_web_items_that_are_missing_or_broken_are_named_and_no_reason_to_stop(plain, world, tmp_path):
    change, paths = holes(world, tmp_path, missing=20, broken=30)
    omnidebias.train(Args(**plain | change | dict(max_bad=0.0, web_ratio=2.0)))
    first, *_, last = log_lines(tmp_path / "run")
    assert first["web_missing"] == paths[:20] and first["missing"] == []
    assert last["unreadable"] == paths[20:50] and last["val/unreadable"] == []


@pytest.mark.parametrize("n", [1, 4])
def test_a_web_without_one_readable_item(plain, world, tmp_path, capsys, n):
    change, _ = holes(world, tmp_path, broken=n, n=n)
    assert re.search("cannot (be )?read.*web/000", fails(capsys, argv(plain | change), script=omnidebias))
    assert not list((tmp_path / "run").glob("*.pt"))


# ---- Model and losses -----------------------------------------------------------------------------------------------
def network(*aspects, model="tiny", **change):
    """With a score map that is no longer constant, as after some training; and smad.py's on the same weights."""
    torch.manual_seed(0)
    change = dict(model=model, smad=True) | change
    net = omnidebias.build_model(Args(**TOY | change), K).train()
    net.add_adversaries({name: SIZES[name] for name in aspects})
    if net.saar:
        nn.init.normal_(net.saar.score.weight, 0, 0.3)
    its = smad.build_model(smad.Args(**smad.TOY | dict(model=model, saar=change["smad"])), K).train()
    its.add_adversaries({name: SIZES[name] for name in aspects})
    assert list(its.state_dict()) == list(net.state_dict())
    its.load_state_dict(net.state_dict())
    return net, its


def batch(*aspects, n=6, videos=4, stills=(4,)):
    torch.manual_seed(1)
    clip, still = torch.randn(n, 3, 4, 16, 16), torch.zeros(n, dtype=torch.bool)
    still[list(stills)] = True
    clip[still] = clip[still][:, :, :1]
    return {"clip": clip, "label": torch.arange(n) % K, "videos": videos, "still": still,
            "aspects": {name: torch.randn(n, SIZES[name]).softmax(1) for name in aspects}}


models = pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])


def rows_of(its, data):
    """Of each item by itself, by smad.py's network: logits (K,), {NAME: (S, D)} without the reversal layer."""
    found = []
    for clip, still in zip(data["clip"], data["still"].tolist(), strict=True):
        z, g = its.parts(clip[None, :, :1] if still and its.tsn else clip[None])
        found.append((z[0], {name: head(g[0]) for name, head in its.adversaries.items()}))
    return found


def two_objectives(its, data):
    """Eq. (1) and Eq. (2) of the labelled videos plus those of the web items, item by item."""
    one, two_, rows = 0, 0, rows_of(its, data)
    for part in (range(data["videos"]), range(data["videos"], len(data["clip"]))):
        if not part:
            continue
        ce = sum(F.cross_entropy(rows[i][0], data["label"][i]) for i in part) / len(part)
        adv = [torch.stack([-(p[i] * rows[i][1][name].log_softmax(1)).sum(1).mean() for i in part]).mean()
               for name, p in data["aspects"].items()]
        adv = sum(adv) / len(adv) if adv else 0
        one, two_ = one + ce + adv, two_ + ce - adv
    return one, two_


def test_soft_cross_entropy_has_the_gradient_of_half_of_it_and_half_of_kldiv():
    """Sec. 6.1's 0.5 of each; a row of zeros adds nothing."""
    torch.manual_seed(0)
    s, p = torch.randn(6, 7, dtype=torch.float64, requires_grad=True), torch.randn(6, 7, dtype=torch.float64).softmax(1)
    p[2] = 0
    found, kl = omnidebias.soft_cross_entropy(s, p), smad.kl_divergence(s, p)
    slow = [-sum(b * v for b, v in zip(label, row, strict=True))
            for label, row in zip(p.tolist(), s.log_softmax(1).tolist(), strict=True)]
    assert found.item() == pytest.approx(sum(slow) / 6, rel=1e-12) and slow[2] == 0
    mixed = 0.5 * smad.soft_cross_entropy(s, p) + 0.5 * kl
    (mine,), (its,) = torch.autograd.grad(found, s, retain_graph=True), torch.autograd.grad(mixed, s)
    torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
    assert mine.abs().max() > 0.01
    assert omnidebias.heads_objective(7.0, [3.0, 5.0]) == 11 and omnidebias.heads_objective(7.0, []) == 7
    assert omnidebias.joint_objective(7.0) == 7 and omnidebias.joint_objective(7.0, 2.0) == 9


@models
@pytest.mark.parametrize("aspects, videos", [((), 4), (("scene",), 4), (("scene", "object"), 3), (("scene",), 6),
                                             ((), 6)])
def test_heads_follow_equation_1_and_the_backbone_equation_2(model, aspects, videos):
    """Of the videos and of the web items; against smad.py's network item by item, without a reversal layer."""
    (net, its), data = network(*aspects, model=model), batch(*aspects, videos=videos, stills=(5,) * (videos < 6))
    loss, logs = omnidebias.training_step(net, data, Args())
    loss.backward()
    one, two_ = two_objectives(its, data)
    assert loss.item() == logs["loss"].item() == pytest.approx(one.item(), rel=1e-5)
    assert ("web_ce" in logs) == (videos < 6) and logs.keys() >= {f"{name}_adv" for name in aspects}
    heads = [n for n, _ in net.named_parameters() if n.startswith("adversaries") or ".head." in n]
    rest = [n for n, _ in net.named_parameters() if n not in heads]
    mine, theirs = dict(net.named_parameters()), dict(its.named_parameters())
    for names, objective, other in ((heads, one, two_), (rest, two_, one)):
        expected = torch.autograd.grad(objective, [theirs[n] for n in names], retain_graph=True)
        wrong = torch.autograd.grad(other, [theirs[n] for n in names], retain_graph=True)
        size = max(float(g.abs().max()) for g in expected)
        far = max(float((g - mine[n].grad).abs().max()) for n, g in zip(names, wrong, strict=True))
        assert size > 1e-3 and (not aspects or far > 1e-4)
        for name, g in zip(names, expected, strict=True):
            torch.testing.assert_close(mine[name].grad, g, rtol=1e-3, atol=1e-5 * size)


@models
def test_the_web_s_part_is_a_mean(model):
    """More web items a step weigh no more."""
    (net, _), data = network("scene", model=model), batch("scene")
    more = [*range(6), 4, 5]
    twice = data | {k: data[k][more] for k in ("clip", "label", "still")} | dict(
        aspects={k: p[more] for k, p in data["aspects"].items()})
    one, two_ = (omnidebias.training_step(net, some, Args())[0].item() for some in (data, twice))
    assert one == pytest.approx(two_, rel=1e-6)


@pytest.mark.parametrize("model", ["tsn_tiny", "tsn_r50"])
def test_an_image_is_one_frame_to_a_tsn(model):
    net, _ = network(model=model, smad=False)
    net, data, seen = net.eval(), batch(stills=(1, 4)), []
    side = 64 if model == "tsn_r50" else 16
    clip = F.interpolate(data["clip"].flatten(0, 1), (side, side)).unflatten(0, (6, 3))
    net.backbone.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        z, g = net.parts(clip, data["still"])
        assert len(seen) == 1 and len(seen[0]) == 18 and g.shape[:2] == (6, 4)
        assert torch.equal(g[[1, 4]], g[[1, 4], :1].expand(-1, 4, -1)) and not torch.equal(g[0, 0], g[0, 1])
        frames = seen[0].flatten(2, -3) if seen[0].ndim == 5 else seen[0]
        assert torch.equal(frames.reshape(18, 3, side, side)[4], clip[1, :, 0])
        torch.testing.assert_close(z, net(clip), rtol=1e-4, atol=1e-5)             # a mean of frames that are the same
        torch.testing.assert_close(g.mean(1), net.features(clip), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(z[:1], net(clip[:1]), rtol=1e-4, atol=1e-5)
        assert (z[1] - z[0]).abs().max() > 1e-4 and len(seen[-1]) == 4 and torch.equal(seen[-1][1].flatten(), clip[
            0, :, 1].flatten())


@pytest.mark.parametrize("model, smad_too", [("tiny", True), ("tiny", False), ("tsn_tiny", True), ("tsn_tiny", False),
                                             ("slowonly_r18", True)])
def test_the_network_is_smad_s(model, smad_too):
    (net, its), clip = network("scene", model=model, smad=smad_too), batch(n=2, videos=2, stills=())["clip"]
    clip = F.interpolate(clip, (4, 64, 64)) if model == "slowonly_r18" else clip
    net, its = net.eval(), its.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(clip), its(clip), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(net.features(clip), its.features(clip), rtol=1e-5, atol=1e-6)
        assert net(clip).std() > 1e-3
        if smad_too:
            (z, mask), (_, its) = evaluate.saar_mask(net, clip), evaluate.saar_mask(its, clip)
            assert torch.equal(mask, its) and mask.std() > 1e-3 and torch.equal(z, net(clip))
    assert (net.saar is None) == (not smad_too)


def test_evaluate_takes_a_run_with_smad(flags, world):
    omnidebias.train(Args(**flags | dict(epochs=1, model="tsn_tiny", test_clips=5)))
    run = evaluate.load_run(flags["out"])
    assert run.method == "omnidebias" and run.tsn and run.model.saar and run.views(0) == (1, 5)
    assert run.model.adversaries["scene"][-1].out_features == 24
    some = common.subset(read_list(world / "test.txt"), range(3))
    z, used, _ = evaluate.predict(run, "test", some, {"test": None}, evaluate.Args())
    assert used.all() and z["test"].shape == (3, 5, 8)
    for i in range(3):
        clip = common.read_clip(some.full(i), [2, 6, 10, 14, 18]).permute(0, 3, 1, 2)            # of 20 frames
        clip = common.normalise(v2.CenterCrop(16)(v2.Resize(18, antialias=True)(clip)).transpose(0, 1)[None],
                                run.args["mean"], run.args["std"])
        with torch.no_grad():
            torch.testing.assert_close(run.model(clip)[0], torch.from_numpy(z["test"][i]).mean(0), rtol=1e-4, atol=1e-4)


# ---- The embedded benchmark's web -----------------------------------------------------------------------------------
@pytest.fixture
def small(world, tmp_path, monkeypatch):
    """Fields of Args of a short run on the embedded benchmark itself, with --data."""
    (tmp_path / "toy0").mkdir()
    for path in world.iterdir():
        (tmp_path / "toy0" / path.name).symlink_to(path)
    short = TOY | dict(weights="none", epochs=2, batch_size=8, frames=4, size=16, resize=18, optimizer="adamw", lr=2e-3)
    monkeypatch.setattr(omnidebias, "TOY", short)
    return short | dict(data=str(tmp_path))


def test_the_embedded_web_is_selected_once(small, tmp_path, monkeypatch):
    """And the network is the same whether its lists were there before or not."""
    first = omnidebias.train(Args(**small | dict(web=("images-all",), model="tsn_tiny", out=str(tmp_path / "a"))))
    folder = tmp_path / "toy0/web-images"
    lists = written(folder)
    assert lists["all"] and all(path.endswith(".png") for path in lists["all"])
    assert not list((tmp_path / "toy0").glob("*.part*")) and not (tmp_path / "toy0/web-clips").exists()
    found = omnidebias.train(Args(**small | dict(web=("images-all",), model="tsn_tiny", out=str(tmp_path / "b"))))
    a, b = load(first["checkpoint"]), load(found["checkpoint"])
    assert same(dict(a["model"]), dict(b["model"])) and a["list_sha1"] == b["list_sha1"]
    assert b["step"] == 20 and log_lines(tmp_path / "b")[0]["note"].endswith(f"{len(lists['all'])} web items, 0 more "
                                                                              "missing")
    monkeypatch.setattr(omnidebias, "train", None)
    monkeypatch.setattr(omnidebias, "select", None)
    assert omnidebias.embedded_web(Args(**small), "images-rand") == folder / "rand.txt"


def test_the_embedded_web_s_teacher_is_a_baseline_of_the_medium(small, monkeypatch):
    asked = []

    def train(args):
        asked.append(args)
        raise InterruptedError

    monkeypatch.setattr(omnidebias, "train", train)
    for name in ("clips-unbias", "images-bias"):
        with pytest.raises(InterruptedError):
            omnidebias.embedded_web(Args(**small | dict(smad=True, seed=3)), name)
    assert [(a.model, a.frames, a.web, a.smad, a.train, a.seed) for a in asked] == [
        ("tiny", 4, ("none",), False, "", 0), ("tsn_tiny", 3, ("none",), False, "", 0)]


@pytest.mark.parametrize("name", ["clips", "clips-some", "video-bias", "unbias", "clips-unbias.txt"])
def test_names_of_no_embedded_web(small, name, capsys):
    error = fails(capsys, ["--web", name, "--data", small["data"], "--out", f"{small['data']}/run"], script=omnidebias)
    assert f"--web {name}: no such list, nor clips- or images-bias, mid, unbias, rand or all" in error


def test_another_run_may_have_selected_meanwhile(small, tmp_path, monkeypatch):
    """The second keeps the first one's lists, and leaves nothing of its own."""
    real, folder = omnidebias.select, tmp_path / "toy0"

    def select(args):
        real(args)
        common.save_lists(folder / "web-clips", {"all": [("other", 0)]})

    monkeypatch.setattr(omnidebias, "select", select)
    path = omnidebias.embedded_web(Args(**small), "clips-all")
    assert path.read_text() == "other 0\n" and not list(folder.glob("*.part*"))


def test_what_a_killed_run_of_this_number_left_is_no_reason_to_stop(here):
    (here / f"new.part{os.getpid()}").mkdir()
    common.save_lists(Path("new"), {"all": [("x", 0)]})
    assert [path.name for path in here.iterdir()] == ["new"] and (here / "new/all.txt").read_text() == "x 0\n"
