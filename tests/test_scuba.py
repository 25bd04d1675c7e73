"""albar.py scuba: what it makes of clips and masks is what toy.py draws, whatever the form of the
masks; what is odd about them is counted or refused; evaluate.py finds it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import command

import albar
import toy
from albar import STEPS, ScubaArgs
from common import UserError, cli, num_frames, read_clip, read_list, read_made_list, write_picture

CLIPS = 5  # of the test list


@pytest.fixture(scope="module")
def truth(world):
    with np.load(world / "truth.npz") as file:
        found = {name.split("/")[1]: file[name] for name in file if name.startswith("test/")}
    masks = np.unpackbits(found["masks"], 1).reshape(-1, toy.LENGTH, toy.SIDE, toy.SIDE)
    return found | {"masks": masks}


@pytest.fixture
def place(world, truth, tmp_path):
    """A folder with a short test list, its videos, and their masks."""
    (tmp_path / "test").symlink_to(world / "test")
    lines = (world / "test.txt").read_text().splitlines()[:CLIPS]
    (tmp_path / "test.txt").write_text("".join(f"{line}\n" for line in lines))
    shutil.copy(world / "classes.txt", tmp_path)
    for i in range(CLIPS):
        save_mask(tmp_path, i, truth["masks"][i])
    return tmp_path


def save_mask(place, i, mask, **other):
    (place / "masks/test").mkdir(parents=True, exist_ok=True)
    np.savez(place / f"masks/test/{i:04d}.npz", **({"mask": mask} | other))


def make(place, **change):
    values = dict(list=f"{place}/test.txt", masks=f"{place}/masks", out=f"{place}/out")
    args = ScubaArgs(**values | dict(workers=0) | change)
    albar.scuba(args)
    return Path(args.out)


def frames_of(file):
    return read_clip(file, range(num_frames(file))).float()


def rows_of(out):
    lines = (out / "videos.jsonl").read_text().splitlines()
    return {row["path"]: row for row in map(json.loads, lines)}


def away_from_edges(mask):
    """(T, S, S) bool: not beside the actor's outline, which toy.py draws soft"""
    actor = torch.from_numpy(mask).float()
    grown = F.max_pool2d(actor, 3, 1, 1)
    shrunk = 1 - F.max_pool2d(1 - actor, 3, 1, 1)
    return grown == shrunk


# ---- What is made --------------------------------------------------------------------------------
def test_a_video_is_the_drawn_one_and_masks_off_by_a_frame_are_not(place, truth):
    """The same actors over the same backgrounds as the embedded SCUBA, within the codec's error."""
    right = difference_from_the_drawn(place / "right", place, truth, shift=0)
    late = difference_from_the_drawn(place / "late", place, truth, shift=1)
    assert right < 0.002 and late > 5 * right, (right, late)


def difference_from_the_drawn(out, place, truth, shift):
    """The share of the pixels, but those at an actor's edge, that are off by more than codecs do:
    the source has lost more, at crf 20, than this one adds."""
    errors = []
    for i in range(CLIPS):
        folder = place / f"background{i}"
        folder.mkdir(exist_ok=True)
        background = toy.draw_new_background(0, "scuba-photo", i, truth)
        write_picture(folder / "0.png", background.clip(0, 255).astype(np.uint8))
        save_mask(place, i, np.roll(truth["masks"][i], shift, 0))
    for i in range(CLIPS):
        made = make(place, backgrounds=(f"{place}/background{i}",), out=f"{out}{i}")
        frames = frames_of(made / f"background{i}/test/{i:04d}.mp4")
        drawn, _ = toy.draw_clip(0, "scuba-photo", i, truth)
        error = (frames - torch.from_numpy(drawn).float()).abs().mean(3)
        errors.append(float((error[away_from_edges(truth["masks"][i])] > 40).float().mean()))
    return np.mean(errors)


def test_the_lists_name_the_videos_with_their_labels(place):
    photos = place / "photos/deeper"
    photos.mkdir(parents=True)
    write_picture(photos / "a.png", np.full((20, 60, 3), 200, np.uint8))
    backgrounds = (f"{place}/photos", "sinusoid")
    out = make(place, backgrounds=backgrounds, per_video=2, conflfg=True)
    listed = read_list(place / "test.txt")
    for name in ("photos", "sinusoid", "conflfg"):
        videos = read_list(out / f"{name}.txt")
        assert videos.classes == listed.classes
        assert videos.labels == [label for label in listed.labels for _ in range(2)]
        assert videos.paths[:2] == [f"{name}/test/0000-0.mp4", f"{name}/test/0000-1.mp4"]
        for i in range(len(videos)):
            assert read_clip(videos.full(i), [0]).shape == (1, toy.SIDE, toy.SIDE, 3)
            assert num_frames(videos.full(i)) == toy.LENGTH
    assert num_frames(out / "first.png") == 1
    first, second = (frames_of(out / f"sinusoid/test/0000-{k}.mp4") for k in range(2))
    assert (first - second).abs().mean() > 20  # another background


def test_backgrounds_follow_the_path_and_the_seed_alone(place):
    whole_list = make(place, out=f"{place}/a")
    lines = (place / "test.txt").read_text().splitlines(keepends=True)
    (place / "test.txt").write_text("".join(lines[3:4]))
    part = make(place, out=f"{place}/b")
    other = make(place, out=f"{place}/c", seed=1)
    name = "sinusoid/test/0003.mp4"
    assert (whole_list / name).read_bytes() == (part / name).read_bytes()
    assert (whole_list / name).read_bytes() != (other / name).read_bytes()


def test_stripes_are_of_two_colours_in_the_stated_share():
    for seed in range(20):
        picture = albar.draw_stripes(np.random.default_rng(seed))
        colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
        assert np.allclose(colours.sum(0), 255) and len(colours) == 2
        # 2 half widths of a gap of 3 to 5.
        share = counts.max() / counts.sum()
        assert 0.35 < share < 0.72, share


def test_conflfg_names_the_video_whose_still_actor_it_cannot_use(place, truth):
    for i in range(1, CLIPS):
        save_mask(place, i, np.zeros_like(truth["masks"][i]))
    videos = read_list(place / "test.txt")
    masks = albar.find_masks(f"{place}/masks", videos, max_bad=0)
    maker = albar.SetMaker(videos, masks, {}, ScubaArgs(conflfg=True))
    assert "0000.mp4: its still actor, of test/000" in maker[0]["bad"]


def test_conflfg_has_a_still_actor_of_another_class_behind_the_moving_one(place, truth):
    """Where neither the moving actor nor a stripe's edge is, what differs from the sinusoid video
    is one still actor."""
    out = make(place, conflfg=True)
    listed = read_list(place / "test.txt")
    differing = 0
    for i in range(CLIPS):
        plain = frames_of(out / f"sinusoid/test/{i:04d}.mp4")
        with_other = frames_of(out / f"conflfg/test/{i:04d}.mp4")
        differs = (plain - with_other).abs().amax(3) > 40  # (T, S, S)
        moving = torch.from_numpy(truth["masks"][i]).bool()
        assert (differs & moving).sum() < 0.02 * moving.sum()  # behind it
        shape = differs.float().mean(0) > 0.5
        donors = [j for j in range(CLIPS) if listed.labels[j] != listed.labels[i]]
        overlaps = []
        for j in range(CLIPS):
            other = torch.from_numpy(truth["masks"][j]).bool()
            overlap = (other & shape).sum((1, 2)) / (other | shape).sum((1, 2)).clamp(1)
            overlaps.append(float(overlap.max()))
        differing += int(np.argmax(overlaps)) in donors
    assert differing >= CLIPS - 1  # one may lie all behind the moving actor


# ---- Masks ---------------------------------------------------------------------------------------
def test_masks_of_every_form_give_the_same_videos(place, truth):
    expected = frames_of(make(place) / "sinusoid/test/0002.mp4")
    mask = truth["masks"][2]

    def made(name):
        return frames_of(make(place, out=f"{place}/{name}") / "sinusoid/test/0002.mp4")

    for name, form in (("bool", mask.astype(bool)), ("grey", mask * 255), ("float", mask * 1.0)):
        save_mask(place, 2, form)
        assert torch.equal(made(name), expected), name
    for name, white in (("white", 255), ("one", 1)):
        (place / "masks/test/0002.npz").unlink(missing_ok=True)
        folder = place / "masks/test/0002"
        folder.mkdir(exist_ok=True)
        for t, frame in enumerate(mask):
            picture = np.repeat(frame[..., None], 3, 2) * white
            write_picture(folder / f"{t:03d}.png", picture.astype(np.uint8))
        assert torch.equal(made(name), expected), name
    # Without the leading folder of the path.
    (place / "masks/test/0002").rename(place / "masks/0002")
    assert torch.equal(made("shorter"), expected)


def test_soft_edges_blend(place, truth):
    frames = torch.full((1, 2, 2, 3), 200, dtype=torch.uint8)
    mask = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    pasted = albar.paste(frames, mask, torch.full((2, 2, 3), 100.0))
    assert pasted[0, ..., 0].tolist() == [[100, 125], [150, 200]]


def test_boxes_leak_and_it_says_so(place, world, capsys):
    tight = frames_of(make(place) / "sinusoid/test/0001.mp4")
    assert "that is not the actor" in capsys.readouterr().out
    out = make(place, masks=f"{world}/humans.jsonl", out=f"{place}/boxes")
    assert "boxes, not masks" in capsys.readouterr().out
    original = frames_of(place / "test/0001.mp4")
    boxed = frames_of(out / "sinusoid/test/0001.mp4")
    kept = [((x - original).abs().amax(3) < 12).float().mean() for x in (tight, boxed)]
    assert kept[1] > 1.5 * kept[0]


def test_a_mask_a_frame_off_is_cut_and_other_sizes_are_resized(place, truth):
    mask = truth["masks"][0]
    save_mask(place, 0, mask[:-1])
    save_mask(place, 1, np.concatenate([truth["masks"][1], truth["masks"][1][-1:]]))
    save_mask(place, 2, truth["masks"][2].repeat(2, 1).repeat(2, 2))
    out = make(place)
    rows = rows_of(out)
    assert rows["test/0000.mp4"]["frames"] == toy.LENGTH - 1
    assert num_frames(out / "sinusoid/test/0000.mp4") == toy.LENGTH - 1
    assert rows["test/0001.mp4"]["frames"] == toy.LENGTH
    save_mask(place, 2, truth["masks"][2])
    again = make(place, out=f"{place}/again")
    name = "sinusoid/test/0002.mp4"
    assert (frames_of(out / name) - frames_of(again / name)).abs().mean() < 3


def test_frames_without_an_actor_and_what_is_around_it_are_counted(place, truth):
    out = make(place)
    for i, (_, row) in enumerate(sorted(rows_of(out).items())):
        mask = truth["masks"][i].astype(bool)
        box = np.zeros_like(mask)
        for frame, actor in zip(box, mask, strict=True):
            if actor.any():
                x0, y0, x1, y1 = toy.box_around(actor)
                frame[y0:y1, x0:x1] = True
        assert row["empty"] == (~mask.any((1, 2))).sum()
        assert row["around"] == pytest.approx(1 - mask.sum() / box.sum(), abs=1e-3)


BAD_MASKS = {
    "two frames fewer": (lambda mask: {"mask": mask[2:]}, "18 masks for 20 frames"),
    "another shape": (lambda mask: {"mask": mask[:, :20]}, r"masks of \(20, 40\) for frames of"),
    "empty": (lambda mask: {"mask": 0 * mask}, "all of its masks are empty"),
    "no key": (lambda mask: {"other": mask}, "no masks, an array under the key mask"),
    "one frame": (lambda mask: {"mask": mask[0]}, r"of shape \(40, 40\), not \(T, H, W\)"),
    "negative": (lambda mask: {"mask": mask - 1.0}, "neither from 0 to 1 nor"),
    "huge": (lambda mask: {"mask": mask * 999.0}, "neither from 0 to 1 nor"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_masks_that_do_not_fit_are_refused_and_named(place, truth, name, capsys):
    change, message = BAD_MASKS[name]
    file = place / "masks/test/0003.npz"
    np.savez(file, **change(truth["masks"][3]))
    with pytest.raises(
        UserError, match=f"1 of 5 videos cannot be used.*test/0003.mp4: .*{message}"
    ):
        make(place)
    out = make(place, max_bad=0.2, out=f"{place}/others")
    assert "4 videos, 1 left out" in capsys.readouterr().out
    assert len(read_list(out / "sinusoid.txt")) == 4


# ---- Stops and bad input -------------------------------------------------------------------------
def test_after_a_kill_the_same_command_goes_on(place):
    whole = make(place, out=f"{place}/whole")
    out = make(place)
    lines = (out / "videos.jsonl").read_text().splitlines(keepends=True)
    (out / "videos.jsonl").write_text("".join(lines[:3]) + lines[3][:9])
    for path in (out / "sinusoid/test").glob("000[34].mp4"):
        path.unlink()
    kept = (out / "sinusoid/test/0001.mp4").stat().st_mtime_ns
    make(place)
    assert rows_of(out) == rows_of(whole)
    for path in (whole / "sinusoid/test").iterdir():
        assert path.read_bytes() == (out / "sinusoid/test" / path.name).read_bytes()
    assert (out / "sinusoid/test/0001.mp4").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="is there already, of other settings"):
        make(place, seed=1)


BAD = {
    "no masks": (dict(masks=""), "name a list and masks"),
    "not there": (dict(masks="{place}/none"), "no masks of 5 of 5 videos, first test/0000.mp4"),
    "no boxes": (dict(masks="{place}/boxes.jsonl"), "no masks of 5 of 5 videos, first test/0000"),
    "no pictures": (dict(backgrounds=("{place}/masks",)), "no .jpg or .png in it"),
    "twice": (dict(backgrounds=("sinusoid", "sinusoid")), "a second set sinusoid"),
    "list": (dict(list="{place}/none.txt"), "none.txt: cannot read it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(place, name, capsys):
    change, message = BAD[name]
    words = ["scuba"]
    (place / "boxes.jsonl").write_text(json.dumps({"made": "x"}) + "\n")
    values = dict(list="{place}/test.txt", masks="{place}/masks", out="{place}/out") | change
    for flag, value in values.items():
        given = [value] if isinstance(value, str) else value
        given = [text.format(place=place) for text in given]
        words += given if flag == "list" else [f"--{flag}", *given]
    with pytest.raises(SystemExit) as stopped:
        cli(albar.Args, albar.train, steps=STEPS, argv=[*words, "--workers", "0"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not (place / "out").exists()


def test_no_video_at_all_ends_with_one_line(place, truth):
    for i in range(CLIPS):
        save_mask(place, i, 0 * truth["masks"][i])
    with pytest.raises(UserError, match="none of 5 videos can be used: .*masks are empty"):
        make(place, max_bad=1.0)


def test_one_mask_of_two_videos_and_paths_out_of_the_root_are_refused(place):
    (place / "b").mkdir()
    shutil.copy(place / "test/0000.mp4", place / "b")
    list_file = place / "test.txt"
    list_file.write_text("test/0000.mp4 0\nb/0000.mp4 1\n")
    (place / "masks/test/0000.npz").rename(place / "masks/0000.npz")
    with pytest.raises(UserError, match="0000.npz: of 2 videos: put masks into"):
        make(place)
    list_file.write_text(f"{place}/b/0000.mp4 0\n")
    with pytest.raises(UserError, match="give paths below --root"):
        make(place)
    assert (place / "b/0000.mp4").read_bytes() == (place / "test/0000.mp4").read_bytes()


def test_evaluate_finds_the_sets_beside_the_training_list(place, flags, capsys):
    (place / "train").symlink_to(Path(flags["train"]).with_suffix(""))
    shutil.copy(flags["train"], place / "train.txt")
    flags |= dict(train=f"{place}/train.txt", val="", val_share=0.2, epochs=1)
    checkpoint = albar.train(albar.Args(**flags))["checkpoint"]
    make(place, conflfg=True)
    command("evaluate.py", [checkpoint, "--shuffles", 0])
    printed = capsys.readouterr().out
    assert "SCUBA" in printed and "Confl-FG" in printed and "contrasted" in printed
    make(place, out=f"{place}/second")
    assert "benchmark.json is there and stays as it is" in capsys.readouterr().out


def test_sets_lie_beside_their_lists_and_the_videos_in_root(place, flags, capsys):
    """--root says where the test videos are; the sets are elsewhere, also for --watch."""
    lists = place / "lists"
    lists.mkdir()
    for name in ("test.txt", "classes.txt"):
        (place / name).rename(lists / name)
    out = make(place, list=f"{lists}/test.txt", root=str(place))
    root = Path(flags["train"]).parent
    flags |= dict(root=str(root), epochs=1, watch=(f"{out}/sinusoid.txt",))
    figures = albar.train(albar.Args(**flags))
    assert figures["watch/sinusoid/videos"] == CLIPS
    words = [figures["checkpoint"], "--test", f"{lists}/test.txt", "--root", root, "--shuffles", 0]
    command("evaluate.py", [*words, "--scuba", f"own={out}/sinusoid.txt"])
    capsys.readouterr()
    saved = json.loads(Path(figures["checkpoint"]).with_name("evaluate.json").read_text())
    assert 0 <= saved["row"]["mean"]["scuba-own"] <= 100


def test_a_set_beside_its_list_is_taken_though_root_has_the_same_names(tmp_path):
    for folder, value in (("root", 10), ("set", 200)):
        (tmp_path / folder).mkdir()
        write_picture(tmp_path / folder / "a.png", np.full((8, 8, 3), value, np.uint8))
    (tmp_path / "set/list.txt").write_text("a.png 0\n")
    found = read_made_list(tmp_path / "set/list.txt", tmp_path / "root", "test", 1, ["x"])
    assert read_clip(found.full(0), [0]).float().mean() == 200
    (tmp_path / "set/a.png").unlink()
    found = read_made_list(tmp_path / "set/list.txt", tmp_path / "root", "test", 1, ["x"])
    assert read_clip(found.full(0), [0]).float().mean() == 10
    (tmp_path / "set/list.txt").write_text("a" * 300 + ".png 0\n")
    found = read_made_list(tmp_path / "set/list.txt", tmp_path / "root", "test", 1, ["x"])
    assert len(found) == 1
