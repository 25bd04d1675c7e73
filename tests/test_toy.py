"""The embedded data set is what it claims: its tables by their statistics, its clips by their
pixels, and that one frame never tells the action by a classifier of single frames."""

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toy
from common import Boxes, num_frames, open_labels, read_clip, read_lines, read_list, read_waterbirds
from toy import ACTIONS, LENGTH, SCENES, SIDE, SPLITS, Split, draw_clip, draw_world, split_truth

OWN = toy.own_splits()
WORLD = toy.world_splits()
BORROWED = [split for split in WORLD if split not in OWN]
SCUBA = [split for split in BORROWED if split.startswith("scuba")]


def within(share, expected, n, sigmas=3):
    return abs(share - expected) <= sigmas * math.sqrt(expected * (1 - expected) / n)


def scenes_of(truth):
    return [set(truth["scene"][truth["action"] == a].tolist()) for a in range(8)]


# ---- Tables --------------------------------------------------------------------------------------
def mutual_information(a, b):
    """Normalised by the arithmetic mean of the entropies, as scikit-learn's default."""

    def entropy(x):
        p = np.unique(x, return_counts=True)[1] / len(x)
        return -(p * np.log(p)).sum()

    joint = entropy(a * 1000 + b)
    return (entropy(a) + entropy(b) - joint) / ((entropy(a) + entropy(b)) / 2)


def test_mutual_information_of_action_and_scene_is_that_of_kinetics():
    train = [split_truth(seed, "train") for seed in range(3)]
    values = [mutual_information(t["action"], t["scene"]) for t in train]
    assert all(0.42 < v < 0.52 for v in values), values  # the paper's: 0.466
    assert (
        mutual_information(*(split_truth(0, "novel")[k] for k in ("action", "scene"))) < 0.12
    )  # of 480 clips
    assert mutual_information(*(split_truth(0, "pretrain")[k] for k in ("action", "scene"))) < 0.12


@pytest.mark.parametrize("split", OWN)
def test_each_split_depends_on_the_action_as_stated(split):
    t = split_truth(0, split)
    rule = SPLITS[split].scenes
    scene = SPLITS[split].scene
    n = SPLITS[split].clips
    assert all(len(v) == n for v in t.values())
    assert (np.bincount(t["action"], minlength=8) == n // 8).all()
    for name, follow in (("object", SPLITS[split].object), ("look", SPLITS[split].look)):
        assert within((t[name] == t["action"]).mean(), follow + (1 - follow) / 8, n), name
    train = scenes_of(split_truth(0, "train"))
    ranks = np.arange(1, SCENES + 1)
    weight = {"head": (ranks <= 8) / ranks, "tail": (ranks > 8) / ranks, "web": ranks**-1.6}[rule]
    weight = weight / weight.sum()
    head = {"head": 1, "tail": 0, "web": weight[:8].sum()}[rule] * scene + (1 - scene) * 8 / SCENES
    assert within(
        np.mean([s in train[a] for a, s in zip(t["action"], t["scene"], strict=True)]), head, n
    )
    if scene == 1:  # Zipf: the most frequent scene
        most = sum(np.bincount(t["scene"][t["action"] == a]).max() for a in range(8)) / n
        assert within(most, weight.max(), n, 4)
    share = [t["tags"][t["action"] == a, :4].mean(0) for a in range(8)]
    assert np.mean(np.maximum(share, 1 - np.array(share))) == pytest.approx(
        0.5 + SPLITS[split].tags / 2, abs=0.05
    )
    for bit in range(2):  # context: striped, warm
        assert all(
            len({tag for s, tag in zip(t["scene"], t["tags"][:, 4 + bit], strict=True) if s == one})
            <= 1
            for one in range(SCENES)
        )
    wrong = (t["label"] != t["action"]).mean()
    assert within(wrong, 0.15, n) if split == "web" else wrong == 0
    assert set(t["label"]) <= set(range(8))


def test_in_targets_the_scene_alone_tells_the_action_in_the_share_that_names_them():
    train = scenes_of(split_truth(0, "train"))
    for split in toy.TARGETS:
        t = split_truth(0, split)
        n = len(t["action"])
        share = int(split.removeprefix("target")) / 100
        usual = scenes_of(split_truth(0, "target100", share=5))
        follows = np.array([s in usual[a] for a, s in zip(t["action"], t["scene"], strict=True)])
        assert within(follows.mean(), share + (1 - share) / 3, n), split
        for name in ("object", "look"):
            assert within((t[name] == t["action"]).mean(), 1 / 8, n), (split, name)
        # They are not those of the action of the same number in training.
        assert max(len(usual[a] & train[a]) for a in range(8)) < 8


@pytest.mark.parametrize("seed", range(3))
def test_train_and_test_share_their_scenes_and_rare_has_none_of_them(seed):
    tables = {
        split: scenes_of(split_truth(seed, split)) for split in ("train", "val", "test", "rare")
    }
    for a in range(8):
        assert (
            len(tables["train"][a]) == 8
            and tables["test"][a] <= tables["train"][a] >= tables["val"][a]
        )
        assert not tables["rare"][a] & tables["train"][a] and len(tables["rare"][a]) > 8
    of_several = [s for s in range(SCENES) if sum(s in some for some in tables["train"]) > 1]
    assert len(of_several) > SCENES / 2  # shared, not one action's alone


def test_tables_follow_the_seed_and_borrowed_splits_those_of_test():
    for split in SPLITS:
        a, b, c = split_truth(0, split), split_truth(0, split), split_truth(1, split)
        assert all((a[k] == b[k]).all() for k in a) and any((a[k] != c[k]).any() for k in a)
        assert (a["look"] == split_truth(0, "test")["look"]).all() if split in BORROWED else True
    assert (split_truth(0, "val")["scene"] != split_truth(0, "test")["scene"]).any()


# ---- Clips ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def truth(world):
    """{split: {name: array}} of the drawn benchmark's truth.npz."""
    with np.load(world / "truth.npz", allow_pickle=False) as file:
        return {s: {k.split("/")[1]: file[k] for k in file if k.startswith(f"{s}/")} for s in WORLD}


def clip(world, split, i):
    """The decoded clip (T, S, S, 3), as int."""
    return read_clip(world / split / f"{i:04d}.mp4", range(LENGTH)).numpy().astype(int)


def masks(truth, split):
    return np.unpackbits(truth[split]["masks"], axis=1).reshape(-1, LENGTH, SIDE, SIDE).astype(bool)


def inner(mask):
    """Pixels of a mask whose neighbours are the mask's too: compression does not blend them with
    the background."""
    return np.logical_and.reduce(
        [np.roll(mask, (y, x), (-2, -1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    )


def test_same_seed_same_content(world, truth, tmp_path):
    again = tmp_path / "toy0"
    other = tmp_path / "toy1"
    draw_world(again, 0, share=0.05)
    draw_world(other, 1, share=0.05)
    with np.load(again / "truth.npz") as file:
        for split in WORLD:
            for name, value in truth[split].items():
                assert (file[f"{split}/{name}"] == value).all()
    for split in WORLD:
        assert (again / f"{split}.txt").read_text() == (world / f"{split}.txt").read_text()
        for i in (0, 2, 4):
            assert (clip(again, split, i) == clip(world, split, i)).all()
            assert abs(clip(other, split, i) - clip(world, split, i)).mean() > 5
    stamp = (again / "truth.npz").stat().st_mtime_ns
    draw_world(again, 0, share=0.05)
    assert (again / "truth.npz").stat().st_mtime_ns == stamp


def test_labels_and_boxes_are_those_of_the_truth(world, truth):
    for name, kind, right in (("scenes", "scene", 0.68), ("objects", "object", 0.78)):
        labels = open_labels(world / name)
        true = np.concatenate([truth[split][kind] for split in OWN])
        assert labels.paths == [
            path for split in OWN for path in read_list(world / f"{split}.txt").paths
        ]
        assert abs(labels.labels.sum(1, dtype=np.float32) - 1).max() < 0.01
        assert within((labels.labels.argmax(1) == true).mean(), right, len(true))
    tags = open_labels(world / "tags")
    assert (tags.labels == np.concatenate([truth[split]["tags"] for split in OWN])).all()
    boxes = Boxes([world / "humans.jsonl"])
    # An actor across the border of the torus has a box on either side, not one as wide.
    for split in WORLD:
        path = read_list(world / f"{split}.txt").paths[0]
        boxes_of_frames = boxes(path, range(LENGTH))
        for mask, frame_boxes in zip(masks(truth, split)[0], boxes_of_frames, strict=True):
            inside = np.zeros_like(mask)
            for x0, y0, x1, y1 in frame_boxes.astype(int):
                inside[y0:y1, x0:x1] = True
            assert (inside == mask.any(0) & mask.any(1)[:, None]).all()


def test_the_benchmark_names_what_is_there(world):
    benchmark = json.loads((world / "benchmark.json").read_text())
    lists = [benchmark[name] for name in ("train", "val", "test", "conflfg", "rare")]
    lists += benchmark["scuba"].values()
    assert all(len(read_list(world / name)) >= 8 for name in lists)
    assert all((world / name).exists() for name in benchmark["scenes"] + benchmark["humans"])


def test_only_what_is_missing_is_made(world, tmp_path, monkeypatch, capsys):
    made = []
    for name in toy.LATER:
        monkeypatch.setitem(toy.LATER, name, lambda target: made.append(target) or target.mkdir())
    monkeypatch.setattr(toy, "draw_world", lambda folder, seed: made.append((folder.name, seed)))
    folder = tmp_path / "toy7"
    folder.mkdir()
    for name in toy.LABELS:
        (folder / name).mkdir()
    toy.main([f"{folder}/weights-tiny.pt"])
    assert made == [("toy7", 7), folder / "weights-tiny.pt"]
    (folder / "web-clips").mkdir()
    toy.main([str(folder)])
    targets = [folder / name for name in toy.TARGETS]
    later = [folder / "weights-tsn_tiny.pt", folder / "web-images", *targets, folder / "birds"]
    assert made[3:] == later
    for path in (f"{folder}/weights-huge.pt", f"{tmp_path}/train.txt"):
        with pytest.raises(SystemExit) as stopped:
            toy.main([path])
        assert stopped.value.code == 2 and path in capsys.readouterr().err


def test_a_target_is_a_data_set_of_its_own(world, tmp_path, monkeypatch):
    settings = replace(SPLITS["target60"], clips=64)
    monkeypatch.setattr(toy, "SPLITS", SPLITS | {"target60": settings})
    monkeypatch.setattr(toy, "draw_world", lambda folder, seed: None)
    folder = tmp_path / "toy0"
    folder.mkdir()
    for name in toy.LABELS:
        (folder / name).mkdir()
    toy.main([f"{folder}/target60"])
    target = folder / "target60"
    listed = [read_list(target / f"{part}.txt") for part in ("train", "val", "test")]
    assert [len(videos) for videos in listed] == [32, 8, 24]
    assert all(videos.classes == list(toy.NOVEL) for videos in listed)
    assert len({path for videos in listed for path in videos.paths}) == 64
    assert num_frames(listed[2].full(0)) == LENGTH
    paths = open_labels(target / "scenes").paths
    assert set(paths) == {path for videos in listed for path in videos.paths}
    benchmark = json.loads((target / "benchmark.json").read_text())
    assert benchmark["test"] == "test.txt" and benchmark["scenes"] == ["scenes"]


def test_birds_have_waterbirds_form_and_their_backgrounds_are_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "BIRDS", {"train": 40, "val": 8, "test": 16})
    monkeypatch.setattr(toy, "UNCLEAR_PLACES", 0.0)
    folders = [tmp_path / name / "toy3/birds" for name in "ab"]
    for folder in folders:
        toy.make_birds(folder)
    names = sorted(str(path.relative_to(folders[0])) for path in folders[0].rglob("*.*"))
    assert len(names) == 2 * 64 + 2
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    file = folders[0] / "metadata.csv"
    assert file.read_text().startswith("img_id,img_filename,y,split,place,place_filename\n")
    rows = read_waterbirds(read_lines(file))
    groups = Counter((row.part, row.label, row.background) for row in rows)
    expected = {("train", 0, "land"): 19, ("train", 0, "water"): 1}
    expected |= {("train", 1, "water"): 19, ("train", 1, "land"): 1}
    for part, count in (("val", 2), ("test", 4)):
        for label in (0, 1):
            expected |= {(part, label, "land"): count, (part, label, "water"): count}
    assert groups == expected
    assert read_list(file, part="test").paths == [row.path for row in rows[48:]]
    for row in rows:
        image = read_clip(folders[0] / row.path, [0])[0].int()
        background = read_clip(folders[0] / "backgrounds" / row.path, [0])[0].int()
        is_bird = (image - background).abs().amax(2) > 0
        assert 0.05 < is_bird.float().mean() < 0.5
        assert not is_bird[-3:].any()
        # Land is warm.
        red, _, blue = background.float().mean((0, 1))
        assert (red > blue) == (row.background == "land")


def test_flags_draw_a_world_of_other_biases(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "SPLITS", {k: replace(v, clips=80) for k, v in SPLITS.items()})
    monkeypatch.setattr(toy, "LABEL_NOISE", dict(toy.LABEL_NOISE))
    world = tmp_path / "other/toy0"
    flags = "--look 0 --object 1 --scene 0.5 --scene-noise 0.01".split()
    toy.main([f"{world}/truth.npz", f"{world}/train.txt", *flags])
    with np.load(world / "truth.npz") as file:
        of = {name: file[name] for name in file if "masks" not in name}
    for split in ("train", "val", "test"):
        action = of[f"{split}/action"]
        assert (of[f"{split}/object"] == action).all()
        assert within((of[f"{split}/look"] == action).mean(), 1 / 8, 80)
    assert within((of["rare/look"] == of["rare/action"]).mean(), 0.5 + 0.5 / 8, 80)
    true = np.concatenate([of[f"{split}/scene"] for split in OWN])
    assert (open_labels(world / "scenes").labels.argmax(1) == true).all()
    for words in (["--look", "0.5"], ["--look", "1.5"], ["--scene-noise", "0"], ["--scene", "nan"]):
        with pytest.raises(SystemExit) as stopped:
            toy.main([str(world), *words])
        assert stopped.value.code == 2
    assert "toy0: is there already" in capsys.readouterr().err


def test_files_are_h264_and_the_lists_name_them(world, truth):
    for split in WORLD:
        listed = read_list(world / f"{split}.txt")
        assert listed.labels == truth[split]["label"].tolist() and listed.classes == list(ACTIONS)
        assert sorted(p.name for p in (world / split).iterdir()) == sorted(
            Path(p).name for p in listed.paths
        )
        kinds = [Path(p).suffix for p in listed.paths]
        assert kinds == ([".mp4", ".png"] * 30 if split == "web" else [".mp4"] * len(listed))
        for i in (0, 2):
            with av.open(str(listed.full(i))) as file:
                stream = file.streams.video[0]
                assert stream.codec_context.name == "h264" and file.format.name.startswith("mov")
                assert (stream.width, stream.height, stream.pix_fmt) == (SIDE, SIDE, "yuv420p")
            assert num_frames(listed.full(i)) == LENGTH
    assert num_frames(world / "web/0001.png") == 1


def test_a_drawing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **arrays):
        raise OSError("no space left on device")

    monkeypatch.setattr(toy.np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        draw_world(tmp_path / "toy0", 0, share=0.001)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", WORLD)
def test_masks_and_boxes_are_those_of_the_decoded_actor(world, truth, split):
    for i in (0, 2, 6):
        frames, mask = draw_clip(0, split, i, truth[split])
        assert (masks(truth, split)[i] == mask).all()
        for t, (x0, y0, x1, y1) in enumerate(truth[split]["boxes"][i]):
            if not mask[t].any():
                assert (x0, y0, x1, y1) == (0, 0, 0, 0)
                continue
            inside = [(x, y) for y in range(SIDE) for x in range(SIDE) if mask[t, y, x]]
            assert (x0, y0) == (min(x for x, _ in inside), min(y for _, y in inside))
            assert (x1, y1) == (max(x for x, _ in inside) + 1, max(y for _, y in inside) + 1)
        decoded, drawn, part = clip(world, split, i), frames.astype(int), inner(mask)
        grey = np.array([0.299, 0.587, 0.114])  # the file has colours at half the size: more error
        assert (
            abs((decoded - drawn) @ grey).mean() < 6
            and abs((decoded - drawn)[part] @ grey).mean() < 6
        )
        moved = np.roll(part, (SIDE // 2, SIDE // 2), (1, 2))  # the actor is nowhere else
        assert abs(decoded[part].mean(0) - drawn[moved].mean(0)).max() > 12


def test_some_actors_come_in_late_and_as_many_leave_early():
    shown = []
    for i in range(300):
        rng = np.random.default_rng(i)
        frames = np.ones(LENGTH, bool)
        frames[toy.absent_frames(rng)] = False
        shown.append(frames)
    shown = np.stack(shown)
    assert within((~shown[:, 0]).mean(), 0.2, 300) and within((~shown[:, -1]).mean(), 0.2, 300)
    assert shown[:, LENGTH // 2 - 1 : LENGTH // 2 + 1].all()
    assert (np.diff(shown.astype(int), axis=1) != 0).sum(1).max() == 1
    mask = draw_clip(0, "train", 0, split_truth(0, "train"))[1]
    absent = ~mask.any((1, 2))
    assert absent.sum() in range(LENGTH // 2)


def test_the_background_drifts_pixel_by_pixel_and_the_actor_keeps_its_track(truth):
    steps = []
    for i in range(8):
        frames, mask = draw_clip(0, "train", i, truth["train"])
        away = inner(inner(~mask))
        for t in range(1, LENGTH):
            fits = []
            for step in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]:
                before = np.roll(frames[t - 1], step, (0, 1))
                free = np.roll(away[t - 1], step, (0, 1)) & away[t]
                if (before == frames[t])[free].all():
                    fits.append(step)
            assert len(fits) == 1
            steps += fits
    assert len(set(steps)) == 9


def test_a_leak_shows_the_actors_own_scene_around_them_alone(truth):
    for i in range(6):
        own, mask = draw_clip(0, "test", i, truth["test"])
        leak, same = draw_clip(0, "leak", i, truth["test"])
        stripes, _ = draw_clip(0, "scuba-sinusoid", i, truth["test"])
        assert (mask == same).all()
        shown = np.zeros_like(mask)
        for t in range(LENGTH):
            for x0, y0, x1, y1 in toy.boxes_on_torus(mask[t]):
                shown[t, max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3] = True
        assert (leak == own)[shown].all() and (leak == stripes)[~shown].all()
        assert (shown & ~mask).any() and (leak != stripes).any()


@pytest.mark.parametrize("night", [False, True])
def test_borrowed_actors_keep_their_pixels_over_other_backgrounds(world, truth, night):
    actors = {split: masks(truth, split) for split in ("test", *BORROWED)}
    for split in BORROWED:
        assert (actors[split] == actors["test"]).all() and (
            truth[split]["label"] == truth["test"]["label"]
        ).all()
    for i in np.flatnonzero(truth["test"]["tags"][:, 1] == night):
        part, away = inner(actors["test"][i]), inner(~actors["test"][i])
        clips = {split: clip(world, split, i) for split in ("test", *BORROWED)}
        for split in BORROWED:
            assert abs(clips[split] - clips["test"])[part].mean() < 15, (split, i)
            if split != "leak":
                assert abs(clips[split] - clips["test"])[away].mean() > 15, (split, i)
        assert abs(clips["scuba-photo"] - clips["scuba-texture"])[away].mean() > 15


def test_backgrounds_of_scuba_are_still_and_each_clips_own(truth):
    for split in SCUBA:
        grounds = []
        for i in range(4):
            frames, mask = draw_clip(0, split, i, truth[split])
            away = inner(inner(~mask))  # pixels that the soft outline does not touch
            seen = np.where(away[..., None], frames.astype(int), -1).max(0)
            assert all((frames[t] == seen)[away[t]].all() for t in range(LENGTH))
            grounds.append(seen)
        assert all(abs(a - b).mean() > 10 for i, a in enumerate(grounds) for b in grounds[:i])


def test_conflfg_adds_a_still_actor_of_another_class(truth):
    """On the stripes of scuba-sinusoid: the middle frame of another test actor, behind the moving
    one."""
    t = truth["test"]
    actors = [draw_clip(0, "scuba-sinusoid", i, t) for i in range(20)]
    for i in range(6):
        (plain, mask), (frames, same) = actors[i], draw_clip(0, "conflfg", i, t)
        assert (mask == same).all() and (frames[mask] == plain[mask]).mean() > 0.9
        free = inner(inner(~mask))
        added = (frames != plain).any(-1) & free
        assert added.any((1, 2)).all()
        for a in range(0, LENGTH, 5):  # it does not move
            both = free[a] & free[(a + 7) % LENGTH]
            assert (frames[a] == frames[(a + 7) % LENGTH])[both].all()
        fits = []
        for j, (other, cut) in enumerate(actors):
            sure = inner(cut[LENGTH // 2]) & free[0]
            if sure.sum() > 20 and (frames[0] == other[LENGTH // 2])[sure].all():
                fits.append(j)
        assert len(fits) == 1 and t["action"][fits[0]] != t["action"][i], (i, fits)


# ---- Static information --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """frames(split) -> decoded clips (n, T, 3, S, S), labels, masks (n, T, S, S) of the actor.
    `flat`: the base actions with every strength at 0."""
    splits = {
        "train": replace(SPLITS["train"], clips=640),
        "test": replace(SPLITS["test"], clips=320),
        "novel": replace(SPLITS["novel"], clips=800),
        "flat": Split(800),
    }
    root = tmp_path_factory.mktemp("static") / "toy5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "SPLITS", splits)
        draw_world(root, 5)

    @cache
    def read(split):
        listed = read_list(root / f"{split}.txt")
        clips = torch.stack([read_clip(listed.full(i), range(LENGTH)) for i in range(len(listed))])
        with np.load(root / "truth.npz") as file:
            mask = masks({split: {"masks": file[f"{split}/masks"]}}, split)
        return clips.permute(0, 1, 4, 2, 3), torch.tensor(listed.labels), torch.from_numpy(mask)

    return read


def network_accuracy(train, test, at=(5, 15), epochs=8):
    """Of a small network of single frames, that keeps positions: trained on any frames, tested on
    one of each clip."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 8),
    )
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    (clips, labels, _), (held, truth, _) = train, test
    for _ in range(epochs):
        for part in torch.randperm(len(clips)).split(32):
            chosen = clips[part[:, None], torch.randint(LENGTH, (len(part), 2))].flatten(0, 1)
            loss = F.cross_entropy(net(chosen / 127.5 - 1), labels[part].repeat_interleave(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return [(net(held[:, t] / 127.5 - 1).argmax(1) == truth).float().mean().item() for t in at]


def static_features(clips, mask):
    """What one frame shows, told where the actor is: its place on the torus, size and colour, the
    colour around it, and their products. -> (n, T, D)"""
    angle, part = torch.arange(SIDE) * 2 * math.pi / SIDE, mask[:, :, None].float()
    area = part.sum((-1, -2)).clamp(1)  # (n, T, 1); some frames show no actor
    place = [
        (part * wave).sum((-1, -2)) / area
        for a in (angle, angle[:, None])
        for wave in (a.sin(), a.cos())
    ]
    colour = [(w * clips).sum((-1, -2)) / w.sum((-1, -2)).clamp(1) / 255 for w in (part, 1 - part)]
    x = torch.cat([*place, *colour, area / 100], -1)
    x = (x - x.mean((0, 1))) / x.std((0, 1))
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    return torch.cat([x, x[..., i] * x[..., j]], -1)


def regression_accuracy(train, test, at=(5, 15)):
    """The same of a ridge regression on static_features."""
    (x, labels), (held, truth) = ((static_features(c, m), y) for c, y, m in (train, test))
    x, target = x.flatten(0, 1), F.one_hot(labels).float().repeat_interleave(LENGTH, 0) - 1 / 8
    w = torch.linalg.solve(x.T @ x + 0.01 * len(x) * torch.eye(x.shape[1]), x.T @ target)
    return [((held[:, t] @ w).argmax(1) == truth).float().mean().item() for t in at]


@pytest.mark.parametrize("accuracy", [network_accuracy, regression_accuracy])
@pytest.mark.parametrize("split", ["novel", "flat"])
def test_one_frame_does_not_tell_the_action(frames, split, accuracy):
    halves = [[value[i::2] for value in frames(split)] for i in range(2)]
    both = np.mean(
        [accuracy(halves[0], halves[1]), accuracy(halves[1], halves[0])], 0
    )  # all are held out
    assert all(within(share, 1 / 8, 800) for share in both), both


@pytest.mark.parametrize("accuracy", [network_accuracy, regression_accuracy])
def test_one_frame_tells_the_action_where_the_benchmark_is_biased(frames, accuracy):
    """The same classifiers: so they could have seen what is there."""
    assert min(accuracy(frames("train"), frames("test"))) > 0.4
