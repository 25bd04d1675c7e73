"""albar.py's augmentations of Table 1: each against a slow loop on the samples that are mixed, the
others untouched; what they need beside the clips, from flags to training_step; StillMix's bank."""

import colorsys
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

import albar
from albar import Args, StillbankArgs
from common import Boxes, UserError, make_labels, num_frames, read_clip, read_list

N = 6
SHARE = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
NAMES = ("mixup", "videomix", "be", "actorcutmix", "fame", "stillmix")


def mixing(shape=(3, 8, 10), seed=0):
    torch.manual_seed(seed)
    return torch.rand(N, 3, *shape), F.one_hot(torch.arange(N), N).float()


def actors_of(clip):
    """A box of other size in each sample, none in the first, everywhere in the third."""
    actors = torch.zeros(len(clip), 1, *clip.shape[2:])
    for i in range(3, N):
        actors[i, :, :, 2 : 2 + i - 1, 1:5] = 1
    actors[2] = 1
    return actors


def test_mixup_against_a_slow_loop():
    clip, target = mixing()
    mixed, labels = albar.mixup(clip, target, SHARE, 0.3)
    for i in range(N):
        lam = 0.3 if SHARE[i] else 1.0
        torch.testing.assert_close(mixed[i], lam * clip[i] + (1 - lam) * clip[i - 1])
        torch.testing.assert_close(labels[i], lam * target[i] + (1 - lam) * target[i - 1])


@pytest.mark.parametrize("lam", [0.9, 0.5, 0.1])
def test_videomix_against_a_slow_loop(lam):
    clip, target = mixing(seed=round(10 * lam))
    mixed, labels = albar.videomix(clip, target, SHARE, lam)
    pasted = (mixed != clip).any(1)  # (N, T, H, W)
    assert (pasted == pasted[:, :1]).all()  # the same box in all frames
    for i in range(N):
        box = pasted[i, 0]
        rows = int(box.any(1).sum())
        columns = int(box.any(0).sum())
        assert bool(box.any()) == bool(SHARE[i]) and box.sum() == rows * columns
        assert rows <= 8 * (1 - lam) ** 0.5 + 1 and columns <= 10 * (1 - lam) ** 0.5 + 1
        torch.testing.assert_close(mixed[i], torch.where(box, clip[i - 1], clip[i]))
        area = box.float().mean()
        torch.testing.assert_close(labels[i], (1 - area) * target[i] + area * target[i - 1])


def test_videomix_boxes_have_the_area_of_lambda_unless_they_cross_the_border():
    clip, target = mixing((1, 64, 64))
    areas = []
    for _ in range(400):
        _, labels = albar.videomix(clip, target, torch.ones(N), 0.75)
        areas.append(1 - labels[0, 0].item())
    assert max(areas) == pytest.approx(0.25, abs=0.01)
    assert 0.12 < np.mean(areas) < 0.25


def test_stillmix_and_be_against_slow_loops():
    clip, _ = mixing()
    stills = torch.rand(N, 3, 1, 8, 10)
    mixed = albar.stillmix(clip, SHARE, 0.4, stills)
    for i in range(N):
        lam = 0.4 if SHARE[i] else 1.0
        torch.testing.assert_close(mixed[i], lam * clip[i] + (1 - lam) * stills[i])
    chosen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        mixed = albar.background_erasing(clip, SHARE, 0.3)
        for i in range(N):
            lam = 0.3 if SHARE[i] else 0.0
            fitting = []
            for t in range(3):
                expected = (1 - lam) * clip[i] + lam * clip[i][:, t : t + 1]
                if torch.allclose(mixed[i], expected):
                    fitting.append(t)
            if SHARE[i]:
                assert len(fitting) == 1  # one frame of its own, held still
                chosen.add((i, *fitting))
            else:
                assert torch.equal(mixed[i], clip[i])
    assert chosen == {(i, t) for i in (0, 2, 3, 5) for t in range(3)}


def test_stillmix_without_a_bank_takes_any_frame_of_any_other_sample():
    # Each pixel names its sample and frame.
    clip = torch.arange(N).view(N, 1, 1, 1, 1) + torch.arange(4).view(1, 1, 4, 1, 1) / 10
    clip = clip.expand(N, 3, 4, 2, 2)
    chosen = set()
    for seed in range(400):
        torch.manual_seed(seed)
        stills = albar.stills_of_others(clip)
        assert (stills == stills[:, :1, :1, :1, :1]).all()
        for i, value in enumerate(stills[:, 0, 0, 0, 0].tolist()):
            chosen.add((i, round(value, 1)))
    others = {(i, round(j + t / 10, 1)) for i in range(N) for j in range(N) for t in range(4)}
    assert chosen == {(i, frame) for i, frame in others if int(frame) != i}


def test_actorcutmix_against_a_slow_loop():
    clip, target = mixing()
    actors = actors_of(clip)
    mixed, labels = albar.actorcutmix(clip, target, SHARE, actors)
    for i in range(N):
        r = actors[i].mean().item()
        if SHARE[i] and 0 < r < 1:
            other = clip[i - 1] * (1 - actors[i - 1])  # without its own actor
            expected = torch.where(actors[i] > 0, clip[i], other)
            weight = 1 - (1 - r) ** 4
        else:
            expected = clip[i]
            weight = 1.0
        torch.testing.assert_close(mixed[i], expected)
        torch.testing.assert_close(labels[i], weight * target[i] + (1 - weight) * target[i - 1])
    assert not torch.equal(mixed[3], clip[3]) and not torch.equal(mixed[5], clip[5])


# ---- FAME ----------------------------------------------------------------------------------------
def moving_square(colour, background, side=40):
    """(3, 6, side, side): a square of 12 pixels that moves right by one a frame"""
    clip = torch.tensor(background).view(3, 1, 1, 1).repeat(1, 6, side, side)
    for t in range(6):
        clip[:, t, 10:22, 5 + t : 17 + t] = torch.tensor(colour).view(3, 1, 1)
    return clip


def test_fame_keeps_what_moves_with_all_of_its_colour():
    torch.manual_seed(0)
    clip = moving_square((0.9, 0.1, 0.1), (0.1, 0.2, 0.8))
    clip = (clip + 0.02 * torch.rand(3, 1, 40, 40)).clamp(0, 1)  # still noise: no ties
    mask = albar.fame_foreground(clip[None])[0]
    assert mask.sum() == 40 * 40 // 2 and set(mask.unique().tolist()) == {0, 1}
    assert mask[10:22, 8:16].all()  # its inside too, where frames hardly differ


def hsv_bin(red, green, blue):
    """The bin of a colour by Python's own HSV, of which the hue is a share of the circle."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    along = saturation * math.cos(2 * math.pi * hue)
    across = saturation * math.sin(2 * math.pi * hue)
    return round(9 * (along + 1) / 2) + 10 * round(9 * (across + 1) / 2) + 100 * round(9 * value)


def test_colours_are_binned_by_hue_saturation_and_value():
    torch.manual_seed(1)
    rgb = torch.rand(2, 3, 30, 20)
    bins = albar.colour_bins(rgb)
    expected = torch.zeros_like(bins)
    for i, y, x in np.ndindex(2, 30, 20):
        expected[i, y, x] = hsv_bin(*rgb[i, :, y, x].tolist())
    assert 0 <= bins.min() and bins.max() < 1000
    # HSV's hexagon and the circle's angle differ by up to 1.2 degrees, beside a step's edge.
    assert (bins == expected).float().mean() > 0.94
    assert hsv_bin(1, 0, 0) == albar.colour_bins(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).item()


def blurred(image):
    """(H, W) -> the same, by a Gaussian of a tenth of the height, mirrored at the border"""
    side = len(image) // 10 // 2 * 2 + 1
    kernel = np.exp(-0.5 * ((np.arange(side) - side // 2) / (side / 3)) ** 2)
    kernel = np.outer(kernel, kernel)
    padded = np.pad(image, side // 2, mode="reflect")
    found = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape):
        found[y, x] = (padded[y : y + side, x : x + side] * kernel).sum() / kernel.sum()
    return found


def slow_fame_foreground(rgb):
    """(3, T, H, W) -> (H, W) bool, how sure each pixel is"""
    _, length, height, width = rgb.shape
    difference = np.zeros((height, width))
    for t in range(length - 1):
        difference += np.abs(rgb[:, t + 1] - rgb[:, t]).sum(0) / (length - 1)
    order = blurred(difference).ravel().argsort()
    bins = albar.colour_bins(torch.tensor(rgb.mean(1))[None])[0].numpy().ravel()
    moving = Counter(bins[order[-len(order) // 2 :]].tolist())
    still = Counter(bins[order[: len(order) // 10]].tolist())
    likely = np.zeros(len(bins))
    for place, colour in enumerate(bins.tolist()):
        p_moving = moving[colour] / (len(bins) // 2)
        p_still = (still[colour] + 1) / (len(bins) // 10 + 1000)
        likely[place] = p_moving / (p_moving + p_still)
    likely = blurred(likely.reshape(height, width))
    return likely > np.median(likely), np.abs(likely - np.median(likely))


def test_fame_against_a_slow_loop():
    torch.manual_seed(2)
    squares = [
        moving_square((0.9, 0.1, 0.1), (0.1, 0.2, 0.8)),
        moving_square((0.2, 0.9, 0.4), (0.7, 0.6, 0.2)),
        moving_square((0.1, 0.1, 0.2), (0.8, 0.8, 0.8)),
    ]
    rgb = (torch.stack(squares) + 0.15 * torch.rand(3, 3, 6, 40, 40)).clamp(0, 1)
    mean = (0.4, 0.5, 0.6)
    std = (0.2, 0.3, 0.1)
    shape = (3, 1, 1, 1)
    clip = (rgb - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    mixed = albar.fame(clip, torch.tensor([1.0, 0.0, 1.0]), mean, std)
    assert torch.equal(mixed[1], clip[1])
    for i in (0, 2):
        mask, sure = slow_fame_foreground(rgb[i].double().numpy())
        expected = torch.where(torch.tensor(mask), clip[i], clip[i - 1])
        certain = torch.tensor(sure > 1e-5)
        assert certain.float().mean() > 0.95
        torch.testing.assert_close(mixed[i][..., certain], expected[..., certain])


# ---- All -----------------------------------------------------------------------------------------
def example(name):
    torch.manual_seed(3)
    clip = torch.randn(100, 3, 2, 8, 8)
    batch = {"clip": clip, "label": torch.arange(100) % N}
    if name == "actorcutmix":
        batch["actors"] = (torch.rand(100, 1, 2, 8, 8) < 0.5).float()
    return batch


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_mixed_with_their_probability(name):
    batch = example(name)
    target = F.one_hot(batch["label"], N).float()
    args = Args(augment=name, augment_prob=0.75)
    mixed = 0
    torch.manual_seed(0)
    for _ in range(40):
        clip, labels = albar.augment(batch, target, args)
        is_mixed = (clip != batch["clip"]).flatten(1).any(1)
        mixed += int(is_mixed.sum())
        # A box of VideoMix may be empty; the label of a clip that is left alone is.
        assert torch.equal(labels[~is_mixed], target[~is_mixed])
        if name in ("be", "fame", "stillmix"):
            assert torch.equal(labels, target)
    low = 0.55 if name == "videomix" else 0.72
    assert low < mixed / 4000 < 0.78


@pytest.mark.parametrize(
    "name, a", [("mixup", 0.2), ("videomix", 1.0), ("be", 1.0), ("stillmix", 200.0)]
)
def test_one_lambda_a_batch_of_its_distribution(name, a, monkeypatch):
    lams = []
    functions = {"be": "background_erasing"}

    def spy(clip, *rest):
        lams.append(next(value for value in rest if isinstance(value, float)))
        return clip, None

    monkeypatch.setattr(albar, functions.get(name, name), spy)
    batch = {"clip": torch.zeros(4, 3, 1, 2, 2), "stills": torch.zeros(4, 3, 1, 2, 2)}
    torch.manual_seed(0)
    for _ in range(400):
        albar.augment(batch, None, Args(augment=name))
    lams = np.array(lams)
    if name == "be":
        lams = lams / 0.3
    # The mean and the variance of Beta(a, a), each within four standard errors.
    variance = 1 / (4 * (2 * a + 1))
    assert lams.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 400))
    assert lams.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / 400))


@pytest.mark.parametrize("name", NAMES)
def test_augmented_clips_and_labels_reach_the_loss(name):
    batch = example(name)
    batch["stills"] = torch.randn(100, 3, 1, 8, 8)
    torch.manual_seed(1)
    net = albar.build_model(Args(model="tiny"), N)
    args = Args(w_adv=0.0, w_ent=0.0, w_gp=0.0, augment=name, augment_prob=1.0)
    torch.manual_seed(5)
    loss, _ = albar.training_step(net, batch, args)
    torch.manual_seed(5)
    clip, target = albar.augment(batch, F.one_hot(batch["label"], N).float(), args)
    assert not torch.equal(clip, batch["clip"])
    expected = -(target * net(clip).log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("form", ["boxes", "masks"])
def test_actors_come_through_the_crop_with_their_clip(form, world, tmp_path):
    """ActorCutMix's masks: of frames that show the actors in white, they are the white pixels."""
    boxes = Boxes([world / "humans.jsonl"])
    videos = read_list(world / "train.txt")
    place = str(world / "humans.jsonl")
    if form == "masks":
        place = str(tmp_path)
        (tmp_path / "train").mkdir()
        for i, path in enumerate(videos.paths):
            length = num_frames(videos.full(i))
            mask = albar.draw_boxes(boxes, path, np.arange(length), (toy_side(videos, i),) * 2)
            np.savez(tmp_path / Path(path).with_suffix(".npz"), mask=mask.numpy() > 0)
    given = dict(train=f"{world}/train.txt", val=f"{world}/val.txt", augment="actorcutmix")
    args = Args(**dict(frames=4, size=24, resize=24, model="tiny") | given, masks=place)
    data = albar.make_data(args)

    add_actors = data.train.change

    def paint(frames, path, indices):
        both, indices, more = add_actors(frames, path, indices)
        actors = both[len(frames) :]
        return torch.cat([actors, actors]), indices, more

    data.train.change = paint
    grey = torch.full((3, 1, 1, 1), 128, dtype=torch.uint8)
    grey = albar.normalise(grey, args.mean, args.std)
    shown = 0
    for i in range(8):
        item = data.train[i]
        batch = {key: torch.as_tensor(item[key])[None] for key in ("clip", "label")}
        prepared = albar.prepare(batch, args, torch.device("cpu"))
        assert prepared["actors"].shape == (1, 1, 4, 24, 24)
        assert torch.equal(prepared["actors"][:, 0] > 0, (prepared["clip"] >= grey)[:, 0])
        shown += prepared["actors"].mean()
    assert 0.01 < shown / 8 < 0.9


def toy_side(videos, i):
    return read_clip(videos.full(i), [0]).shape[1]


# ---- StillMix's bank -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def frame_run(world, tmp_path_factory):
    """A run of clips of one frame, of one epoch."""
    out = tmp_path_factory.mktemp("frame")
    lists = dict(train=f"{world}/train.txt", val=f"{world}/val.txt", weights="none", model="tiny")
    sizes = dict(frames=1, size=32, resize=36, epochs=1, batch_size=16, workers=0)
    weights = dict(w_adv=0.0, w_ent=0.0, w_gp=0.0)
    albar.train(Args(**lists, **sizes, **weights, out=str(out), optimizer="sgd", lr=0.1))
    return out


def test_the_bank_has_the_frames_that_the_network_is_sure_of(world, frame_run, tmp_path):
    out = tmp_path / "bank"
    given = dict(run=str(frame_run), out=str(out), workers=0, per_video=3)
    args = StillbankArgs(**given, hardest=0.5, pictures=20)
    albar.stillbank(args)
    found = np.load(out / "labels.npy")
    videos = read_list(world / "train.txt")
    assert found.shape == (len(videos), 3)
    # The probabilities, by hand.
    saved = torch.load(frame_run / "last.pt", weights_only=True)
    net = albar.build_model(Args(model="tiny"), 8)
    net.load_state_dict(saved["model"])
    pictures = {}
    for i in range(len(videos)):
        length = num_frames(videos.full(i))
        frames = read_clip(videos.full(i), [length // 6, length // 2, length * 5 // 6])
        squeezed = v2.functional.resize(frames.permute(0, 3, 1, 2), [32, 32], antialias=True)
        clips = squeezed.unsqueeze(2)
        with torch.no_grad():
            z = net.eval()(albar.normalise(clips, saved["args"]["mean"], saved["args"]["std"]))
        p = z.softmax(1).amax(1)
        assert found[i] == pytest.approx((p / (1 - p)).log().numpy(), abs=5e-3)
        for t in range(3):
            pictures[squeezed[t].contiguous().numpy().tobytes()] = found[i, t]
    bank = albar.read_bank(out / "frames", 32)
    assert bank.shape == (20, 3, 1, 32, 32) and len(list((out / "frames").iterdir())) == 20
    drawn = [pictures[picture.contiguous().numpy().tobytes()] for picture in bank]
    assert min(drawn) >= np.median(found) - 1e-2
    # Once more: nothing is done again; otherwise: refused.
    before = (out / "frames/000000.png").stat().st_mtime_ns
    albar.stillbank(args)
    assert (out / "frames/000000.png").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="begun with other settings"):
        albar.stillbank(StillbankArgs(**given, hardest=0.1, pictures=20))
    with pytest.raises(UserError, match="or other categories"):
        albar.stillbank(replace(args, per_video=2))


def test_the_bank_takes_no_side_where_the_network_is_sure_of_all(world, tmp_path):
    """Ties in the probabilities are not broken by the place in the list."""
    videos = read_list(world / "train.txt")
    args = StillbankArgs(out=f"{tmp_path}/bank", hardest=0.5, pictures=200, per_video=8)
    made = make_labels(args.out, videos.paths, [f"frame {i}" for i in range(8)], {})
    made.labels[:] = 9.0
    made.labels.flush()
    albar.write_bank(args, videos, 40)
    early = set()
    for i in range(len(videos) // 4):
        frames = read_clip(videos.full(i), albar.evenly(num_frames(videos.full(i)), 8))
        early |= {frame.numpy().tobytes() for frame in frames}
    bank = read_clip(tmp_path / "bank/frames", range(200))
    share = np.mean([picture.numpy().tobytes() in early for picture in bank])
    assert 0.1 < share < 0.4


def test_log_odds_tell_what_half_precision_would_not():
    z = torch.tensor([[10.0, 0.0, 0.0], [14.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    p = z.double().softmax(1).amax(1)
    torch.testing.assert_close(albar.log_odds(z).double(), (p / (1 - p)).log())
    assert p.half()[0] == p.half()[1] and albar.log_odds(z).half()[0] < albar.log_odds(z).half()[1]


def test_frames_of_the_bank_are_mixed_in(frame_run, tmp_path):
    out = tmp_path / "bank"
    albar.stillbank(StillbankArgs(run=str(frame_run), out=str(out), workers=0, pictures=5))
    bank = albar.read_bank(out / "frames", 32)
    args = Args(size=32)
    batch = {"clip": torch.zeros(40, 3, 2, 32, 32, dtype=torch.uint8), "label": torch.zeros(40)}
    torch.manual_seed(0)
    stills = albar.prepare(batch, args, torch.device("cpu"), bank)["stills"]
    normalised = albar.normalise(bank, args.mean, args.std)
    chosen = set()
    for still in stills:
        (place,) = [i for i in range(5) if torch.equal(still, normalised[i])]
        chosen.add(place)
    assert chosen == set(range(5))


def test_the_watched_lists_are_in_the_log_and_select_nothing(world, tmp_path):
    lists = dict(train=f"{world}/train.txt", val=f"{world}/val.txt", weights="none", model="tiny")
    sizes = dict(frames=4, size=24, resize=24, epochs=2, batch_size=16, workers=0)
    rest = dict(optimizer="sgd", lr=0.1)
    plain = albar.train(Args(**lists, **sizes, **rest, out=str(tmp_path / "plain")))
    scuba = f"{world}/scuba-photo.txt"
    watched = albar.train(
        Args(**lists, **sizes, **rest, out=str(tmp_path / "watched"), watch=(scuba,))
    )
    for name in ("last.pt", "best.pt"):
        first, second = (
            torch.load(tmp_path / run / name, weights_only=True)["model"]
            for run in ("plain", "watched")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    records = [json.loads(line) for line in (tmp_path / "watched/log.jsonl").open()]
    epochs = [record for record in records if "watch/scuba-photo/accuracy" in record]
    assert len(epochs) == 2
    last = epochs[-1]
    right = last["watch/scuba-photo/accuracy"]
    static = last["watch/scuba-photo/static_accuracy"]
    contrasted = last["watch/scuba-photo/contrasted"]
    saved = torch.load(tmp_path / "watched/last.pt", weights_only=True)
    net = albar.build_model(Args(model="tiny"), 8).eval()
    net.load_state_dict(saved["model"])
    figures = np.zeros(3)
    videos = albar.test_videos(read_list(scuba), Args(**sizes))
    for item in (videos[i] for i in range(len(videos))):
        clip = albar.normalise(item["clip"][None], saved["args"]["mean"], saved["args"]["std"])
        with torch.no_grad():
            is_right = net(clip).argmax() == item["label"]
            static_is_right = net(clip[:, :, [2, 2, 2, 2]]).argmax() == item["label"]
        figures += [is_right, static_is_right, is_right and not static_is_right]
    assert [right, static, contrasted] == pytest.approx(figures / len(videos))
    assert plain["val/accuracy"] == watched["val/accuracy"]


# ---- Still images and their backgrounds: App. C --------------------------------------------------
def test_the_static_clip_is_the_background(tmp_path):
    """--backgrounds: the same file there, through the same crop and flip, goes to the losses of the
    static clip, and to validation's."""
    from common import write_picture

    rng = np.random.default_rng(0)
    for i in range(12):
        picture = rng.integers(0, 200, (20, 24, 3), dtype=np.uint8)
        for folder, image in (("birds", picture + 50), ("grounds", picture)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_picture(tmp_path / folder / f"{i}.png", image)
    lines = "".join(f"{i}.png {i % 2}\n" for i in range(12))
    (tmp_path / "birds/train.txt").write_text(lines)
    given = dict(train=f"{tmp_path}/birds/train.txt", backgrounds=f"{tmp_path}/grounds")
    sizes = dict(frames=1, size=16, resize=18, epochs=1, batch_size=4, workers=0, val_share=0.34)
    args = Args(**given, **sizes, model="resnet18", weights="none", out=str(tmp_path / "run"))
    data = albar.make_data(args)
    clips = [data.train[i]["clip"] for i in range(3)]
    batch = {"clip": torch.stack(clips), "label": torch.tensor([0, 1, 0])}
    prepared = albar.prepare(batch, args, torch.device("cpu"))
    std = torch.tensor(args.std).view(3, 1, 1, 1)
    difference = (prepared["clip"] - prepared["static"]) * std * 255
    torch.testing.assert_close(difference, torch.full_like(difference, 50), atol=1.01, rtol=0)

    seen = []
    net = albar.build_model(args, 2)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    albar.training_step(net, prepared, args)
    assert torch.equal(seen[0], prepared["clip"]) and torch.equal(seen[1], prepared["static"])
    # A network that is right where the corner is dark, as it is in the backgrounds alone.
    figures = albar.train(args)
    net = Darkness(args)
    part = torch.utils.data.Subset(data.val, range(4))
    loader = albar.make_loader(part, args, torch.device("cpu"), batch_size=4)
    found = albar.validate(net, loader, args, torch.device("cpu"))
    labels = data.val.videos.labels
    assert figures["val/videos"] == len(labels) == 4
    assert found["val/accuracy"] == pytest.approx(np.mean(np.array(labels) == 1))
    assert found["val/static_accuracy"] == pytest.approx(np.mean(np.array(labels) == 0))
    assert found["val/contrasted"] == found["val/accuracy"] > 0

    # An image that cannot be read is named; a background must be there.
    (tmp_path / "birds" / data.val.paths[0]).write_bytes(b"no picture")
    found = albar.validate(net, loader, args, torch.device("cpu"))
    assert found["val/unreadable"] == [data.val.paths[0]] and found["val/videos"] == 3
    (tmp_path / "grounds" / data.train.paths[0]).unlink()
    with pytest.raises(
        UserError, match=f"grounds: nothing of 1 of 12 videos: {data.train.paths[0]}"
    ):
        albar.make_data(args)


class Darkness(torch.nn.Module):
    """Says 0 of an image that is dark in the mean, else 1."""

    def __init__(self, args):
        super().__init__()
        self.head = torch.nn.Linear(1, 2)
        grey = torch.full((1, 3, 1, 1, 1), 125, dtype=torch.uint8)
        self.grey = albar.normalise(grey, args.mean, args.std).mean()

    def forward(self, clip):
        bright = clip.mean((1, 2, 3, 4)) - self.grey
        return torch.stack([-bright, bright], 1)


def test_a_network_of_images_sees_each_frame_by_itself():
    torch.manual_seed(0)
    net = albar.build_model(Args(model="resnet18"), 3).eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    frames = [net.features(clip[:, :, t : t + 1]) for t in range(4)]
    torch.testing.assert_close(net.features(clip), torch.stack(frames).mean(0))
    assert any(key.startswith("backbone.layer1.0.conv1") for key in net.state_dict())
    args = Args(model="resnet18", channels_last=True)
    last = albar.build_model(args, 3).eval()
    last.load_state_dict(net.state_dict())
    clip = clip.contiguous(memory_format=albar.layout(args))
    torch.testing.assert_close(last.features(clip), net.features(clip))


CONTRADICTIONS = {
    "--frames 1: the static clip would be the clip itself": dict(frames=1),
    "--augment actorcutmix needs --masks": dict(augment="actorcutmix"),
    "and they need it": dict(masks="masks"),
    "--bank is for --augment stillmix": dict(bank="bank"),
    "--augment fame needs clips": dict(augment="fame", frames=1, backgrounds="b"),
    "--augment be needs clips": dict(augment="be", frames=1, backgrounds="b"),
    "cannot be together": dict(augment="actorcutmix", masks="m", backgrounds="b"),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_flags_that_contradict(message, world):
    with pytest.raises(UserError, match=message):
        albar.make_data(Args(train=f"{world}/train.txt", **CONTRADICTIONS[message]))


def test_a_bank_needs_a_run_of_one_frame(frame_run, tmp_path):
    saved = torch.load(frame_run / "last.pt", weights_only=True)
    saved["args"]["frames"] = 8
    torch.save(saved, tmp_path / "clips.pt")
    with pytest.raises(UserError, match="of clips of 8 frames: train one --frames 1"):
        albar.stillbank(StillbankArgs(run=str(tmp_path / "clips.pt"), out=str(tmp_path / "bank")))
    assert not (tmp_path / "bank").exists()
