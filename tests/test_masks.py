"""sdn.py humans --masks: the masks are the detector's, within given boxes, all of a file or none,
and albar.py scuba takes them."""

import json
from pathlib import Path

import common
import numpy as np
import pytest
import sdn
import torch
from conftest import argv, command, use_labeller

SIDES = (48, 64)  # height, width
LENGTH = 6
NAMES = ("run/a", "run/b.c", "sit/d")


def draw(number):
    """(T, H, W, 3): a white person who walks right, a grey one who stays for the first frames, and
    nobody in the last frame"""
    frames = np.zeros((LENGTH, *SIDES, 3), np.uint8)
    for t in range(LENGTH - 1):
        frames[t, 10:30, 5 + 6 * t + number : 15 + 6 * t + number] = 255
        if t < 3:
            frames[t, 20:45, 50:60] = 150
    return frames


@pytest.fixture
def clips(tmp_path):
    for number, name in enumerate(NAMES):
        file = tmp_path / f"{name}.mp4"
        file.parent.mkdir(exist_ok=True)
        common.write_video(file, draw(number), 25, "yuv444p", crf=0)
    lines = [f"{name}.mp4 {int(name[0] == 's')}\n" for name in NAMES]
    (tmp_path / "test.txt").write_text("".join(lines))
    return tmp_path / "test.txt"


class Detector(torch.nn.Module):
    """Finds the two persons; things that are none, and what is unlikely to be one, everywhere."""

    score_thresh = 0.05

    def __init__(self):
        super().__init__()
        self.looked = 0  # at frames
        self.stop_at = None

    def forward(self, images):
        self.looked += len(images)
        if self.stop_at is not None and self.looked > self.stop_at:
            raise KeyboardInterrupt
        return [self.find(image) for image in images]

    def find(self, image):
        brightness = image.mean(0)
        everywhere = torch.ones(SIDES)
        found = [(2, 0.9, everywhere), (1, 0.29, everywhere)]
        for seen in (brightness > 0.8, (brightness > 0.4) & (brightness < 0.8)):
            if seen.any():
                # No more than 0.5 is not of the person.
                found.append((1, 0.3, 0.5 + 0.1 * seen))
        labels, scores, masks = zip(*found, strict=True)
        boxes = torch.tensor([[0.0, 0, 9, 9]] * len(found))
        masks = torch.stack(masks)[:, None]
        return dict(
            boxes=boxes, labels=torch.tensor(labels), scores=torch.tensor(scores), masks=masks
        )


@pytest.fixture
def detector(monkeypatch):
    model = Detector()
    use_labeller(monkeypatch, model)
    return model


def run(clips, **change):
    """The command line, in the folder of the list."""
    place = clips.parent
    flags = dict(out=f"{place}/h.jsonl", masks=f"{place}/masks", workers=0, batch_size=4) | change
    common.cli(sdn.Args, sdn.train, steps=sdn.STEPS, argv=["humans", str(clips), *argv(flags)])


def masks_of(clips):
    """{name: its masks}; nothing else is in the folder."""
    folder = clips.parent / "masks"
    masks = {}
    for file in folder.rglob("*.*"):
        with np.load(file) as content:
            masks[file.relative_to(folder).as_posix()] = content["mask"]
    return masks


def truth():
    """What masks_of should be: in `run/b.c.mp4` the dot is no ending."""
    return {f"{name}.npz": draw(number).any(3) for number, name in enumerate(NAMES)}


def same(masks, expected):
    return masks.keys() == expected.keys() and all(
        masks[name].dtype == bool and np.array_equal(masks[name], expected[name]) for name in masks
    )


def write_boxes(file, *rows):
    names = ("path", "every", "frames", "boxes")
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    file.write_text("".join(lines))
    return str(file)


def test_masks_are_of_all_persons_in_every_frame(clips, detector):
    run(clips)
    masks = masks_of(clips)
    assert same(masks, truth())
    assert not masks["run/a.npz"][-1].any()  # and not left out
    boxes = common.Boxes([clips.parent / "h.jsonl"])
    counts = [len(found) for found in boxes("run/a.mp4", np.arange(LENGTH))]
    assert counts == [2, 2, 2, 1, 1, 0]


def test_masks_are_cut_to_given_boxes(clips, detector, capsys):
    """Of frames 1 (two boxes) and 2; the others have none. One video has a line without boxes, and
    one has none."""
    boxes = [[0, 0, 12, 20], [50, 20, 54.5, 99], [17, 0, 64, 25]]
    inside = write_boxes(
        clips.parent / "given.jsonl", ("run/a.mp4", 1, [1, 1, 2], boxes), ("run/b.c.mp4", 1, [], [])
    )
    run(clips, inside=inside)
    expected = truth()
    allowed = np.zeros((LENGTH, *SIDES), bool)
    allowed[1, :20, :12] = True
    allowed[1, 20:, 50:55] = True
    allowed[2, :25, 17:] = True
    expected["run/a.npz"] &= allowed
    assert expected["run/a.npz"].any((1, 2)).tolist() == [False, True, True, False, False, False]
    expected["run/b.c.npz"][:] = False
    assert same(masks_of(clips), expected)
    assert "no boxes of 1 videos, not cut sit/d.mp4" in capsys.readouterr().out
    # Other boxes would give other masks.
    write_boxes(Path(inside), ("run/a.mp4", 1, [], []))
    with pytest.raises(SystemExit):
        run(clips, inside=inside)
    assert "begun with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["looking", "writing"])
def test_a_stop_loses_the_video_in_hand_alone(clips, detector, monkeypatch, moment):
    with monkeypatch.context() as patch:
        if moment == "looking":
            detector.stop_at = LENGTH + 4
        else:
            patch.setattr(np, "savez_compressed", stop_in_the_second(np.savez_compressed))
        with pytest.raises(SystemExit) as stopped:
            run(clips)
    assert stopped.value.code == 130
    # Whole, or not there.
    assert same(masks_of(clips), {"run/a.npz": truth()["run/a.npz"]})
    file = clips.parent / "masks/run/a.npz"
    before = file.stat().st_mtime_ns
    detector.stop_at = None
    detector.looked = 0
    run(clips)
    assert detector.looked == 2 * LENGTH and file.stat().st_mtime_ns == before
    assert same(masks_of(clips), truth())


def test_a_lost_mask_is_made_again_wherever_its_folder_is_now(clips, detector):
    run(clips)
    (clips.parent / "masks").rename(clips.parent / "moved")
    (clips.parent / "moved/run/b.c.npz").unlink()
    detector.looked = 0
    run(clips, masks=f"{clips.parent}/moved")
    assert detector.looked == LENGTH
    (clips.parent / "moved").rename(clips.parent / "masks")
    assert same(masks_of(clips), truth())


def stop_in_the_second(save):
    written = []

    def stop(file, **arrays):
        if written:
            file.write(b"PK half of a file")
            raise KeyboardInterrupt
        written.append(file)
        save(file, **arrays)

    return stop


def test_scuba_takes_the_masks(clips, detector, capsys):
    run(clips)
    place = clips.parent
    flags = dict(root=str(place), masks=f"{place}/masks", out=f"{place}/scuba", workers=0, crf=0)
    command("albar.py", ["scuba", str(clips), *argv(flags)])
    assert "3 of 18 frames show no actor" in capsys.readouterr().out
    for number, name in enumerate(NAMES):
        frames = common.read_clip(place / f"scuba/sinusoid/{name}.mp4", range(LENGTH)).int()
        drawn = torch.from_numpy(draw(number)).int()
        is_person = drawn.amax(3) > 0
        assert (frames - drawn)[is_person].abs().max() < 5
        assert frames[~is_person].float().mean() > 20  # no longer black


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(model="fasterrcnn_resnet50_fpn"), "--model fasterrcnn_resnet50_fpn finds only boxes"),
        (dict(inside="other.jsonl"), "no boxes of the lists' videos, such as run/a.mp4"),
        (dict(inside="other.jsonl", masks=""), "--inside other.jsonl cuts masks: give --masks"),
        (dict(inside="gone.jsonl"), "gone.jsonl: cannot read it"),
        (dict(twice="run/a.avi"), "run/a.mp4 and run/a.avi would both have masks/run/a.npz"),
        (dict(twice="../a.mp4"), "../a.mp4: give paths below --root"),
    ],
)
def test_bad_input(clips, monkeypatch, capsys, change, message):
    """One line, before weights are asked for and anything is written."""
    monkeypatch.chdir(clips.parent)
    write_boxes(Path("other.jsonl"), ("elsewhere.mp4", 1, [0], [[0, 0, 9, 9]]))
    change = dict(masks="masks") | change
    if twice := change.pop("twice", ""):
        Path(twice).write_bytes(Path("run/a.mp4").read_bytes())
        clips.write_text(clips.read_text() + f"{twice} 0\n")
    with pytest.raises(SystemExit) as stopped:
        run(clips, **change)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and message in error[0], error
    assert not Path("masks").exists() and not Path("h.jsonl").exists()


def test_masks_of_torchvisions_network(clips, tmp_path, monkeypatch):
    """Of random weights that see persons in a part of the boxes: the masks of its own results."""
    name = "maskrcnn_resnet50_fpn_v2"
    real = sdn.load_labeller
    loaded = []

    def smaller(*given, **how):
        model, *rest = real(*given, **how, rpn_post_nms_top_n_test=30, min_size=64)
        model.roi_heads.box_predictor.cls_score.bias.data[1] += 4
        loaded.append(model)
        return model, *rest

    monkeypatch.setattr(sdn, "load_labeller", smaller)
    common.write_video(tmp_path / "short.mp4", draw(0)[:2], 25, "yuv444p", crf=0)
    clips.write_text("short.mp4 0\n")
    run(clips, score=0.4, model=name, weights="none")
    frames = common.read_clip(tmp_path / "short.mp4", range(2)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        results = loaded[0](list(frames / 255))
    expected = []
    for result in results:
        is_person = (result["labels"] == 1) & (result["scores"] >= 0.4)
        expected.append((result["masks"][is_person] > 0.5).any(0)[0].numpy())
    expected = np.stack(expected)
    assert 0 < expected.mean() < 1, [r["scores"] for r in results]
    assert same(masks_of(clips), {"short.npz": expected})
