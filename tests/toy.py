"""Draws the embedded data set, a small world with known biases: python tests/toy.py [PATH ...]

PATH is a world's folder, for everything in it, or files in one, for just these and what they need;
none: data/toy0. The digits in the folder's name are the seed: data/toy1 is another world. What is
there already is left alone, and the same seed gives the same content.

An actor (sprite) moves over a scene (texture), which drifts, beside an object that lies in it. The
ACTION is the motion alone: start, phase and speed are random and tracks wrap around, so one frame
never tells it. In some clips the actor comes in late or leaves early. Scene, object, the actor's
look and six yes/no tags follow the action as strongly as SPLITS says. The 24 scenes are shared:
each action has its own order of them, with a Zipf tail.

--scene, --object, --look: a world in whose train, val and test these shares of the clips have the
scene, object and look that are usual for the action; --scene-noise: one with other scene labels.

    python tests/toy.py data/look0/toy0/truth.npz --look 0

In a world's folder
    SPLIT.txt            `path label` a line, of the clips SPLIT/NNNN.mp4 (in web half are NNNN.png)
    classes.txt          names of the actions
    web-clips.txt        the videos of web.txt
    web-images.txt       its images
    web-truth.txt        both with their true labels, where in web.txt 15 % are wrong
    truth.npz            SPLIT/action, label, scene, object, look (n,); tags (n, 6) as TAGS;
                         masks (n, packed bits of (T, S, S)); boxes (n, T, 4) x0 y0 x1 y1
    scenes/, objects/    labels folders, as `sdn.py scenes` makes them: what good classifiers see
    tags/                a labels folder of the true tags
    humans.jsonl         the actors' boxes, as `sdn.py humans` finds them
    benchmark.json       the lists and labels that evaluate.py takes
    weights-tiny.pt      start weights: `albar.py --baseline` on the weakly biased pretrain.txt
    weights-tsn_tiny.pt  the like for the 2D network, of omnidebias.py
    web-clips/, web-images/    selections of the web, by omnidebias.py's steps teach and select
    target0/, ..., target100/  data sets to transfer to, of the eight actions NOVEL, in which the
                         scene is that usual for the action in 0 ... 100 % of the clips, and object
                         and look tell nothing: their own clips, lists, scenes, benchmark.json
    birds/               still images in the form of Waterbirds: metadata.csv, images/, and in
                         backgrounds/ the same images without their birds, by the same names
scuba-X/0001.mp4, conflfg/0001.mp4 and leak/0001.mp4 show the actor of test/0001.mp4 over a still
background; leak has it cut out with its box, so that some of its own scene shows, over the stripes
of scuba-sinusoid.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]

ACTIONS = (
    "right",
    "left",
    "down",
    "up",
    "clockwise",
    "anticlockwise",
    "shake-sideways",
    "shake-upright",
)
NOVEL = (
    "north-east",
    "south-east",
    "south-west",
    "north-west",
    "slalom-right",
    "slalom-left",
    "shake-falling",
    "shake-rising",
)
TAGS = (
    "event:confetti",
    "event:night",
    "attribute:outlined",
    "attribute:large",
    "context:striped",
    "context:warm",
)
SCENES = 24
LOOKS = 8  # looks of the actor, and as many objects
SIDE = 40  # pixels
LENGTH = 20  # frames of a clip
GLYPH = 8  # pixels of an object's side


@dataclass(frozen=True)
class Split:
    """How the clips of a split are drawn."""

    clips: int
    # The scenes that are usual for an action: the first third of its own order ("head"), the rest
    # ("tail"), or all of them, the first far more often ("web").
    scenes: str = "head"
    # The share of clips whose scene, object, look and tags are those usual for the action. The
    # others' are drawn at random.
    scene: float = 0.0
    object: float = 0.0
    look: float = 0.0
    tags: float = 0.0
    motions: tuple = ACTIONS
    # It is a data set to transfer to, where actions have other scenes, and in a folder of its own.
    target: bool = False
    # A split may show the actors of another, over new backgrounds: photo, texture or sinusoid; a
    # leak has them cut out with their boxes.
    actors: str = ""
    background: str = ""
    leak: bool = False


BIASED = dict(scene=1.0, object=0.8, look=0.8, tags=0.3)
# A split's place in this dict is part of the seed of its random numbers.
SPLITS = {
    "pretrain": Split(2000, scene=0.2, object=0.2, look=0.2, tags=0.2),
    "train": Split(1600, **BIASED),
    "val": Split(400, **BIASED),
    "test": Split(400, **BIASED),
    "rare": Split(400, scenes="tail", scene=1.0, object=0.3, look=0.5, tags=0.3),
    "web": Split(1200, scenes="web", scene=1.0, object=0.5, look=0.5, tags=0.3),
    "novel": Split(480, motions=NOVEL),
    "scuba-photo": Split(400, actors="test", background="photo"),
    "scuba-texture": Split(400, actors="test", background="texture"),
    "scuba-sinusoid": Split(400, actors="test", background="sinusoid"),
    "conflfg": Split(400, actors="test", background="sinusoid"),
    "leak": Split(400, actors="test", background="sinusoid", leak=True),
}
for percent in (0, 20, 40, 60, 80, 90, 100):
    SPLITS[f"target{percent}"] = Split(640, scene=percent / 100, motions=NOVEL, target=True)
TARGETS = [split for split, settings in SPLITS.items() if settings.target]
# Where the lists of a target begin and end, of 8.
TARGET_PARTS = {"train": (0, 4), "val": (4, 5), "test": (5, 8)}
# Images of each part of the birds, in the order of their numbers in metadata.csv.
BIRDS = {"train": 1200, "val": 300, "test": 600}
# The share of each class that is on its own place; in val and test it is half.
BIRDS_AT_HOME = 0.95
# In this share of the images land has water's colours as often as its own, and water land's. Chosen
# on world 1: with none `tiny` was right on a third of the minority, with 0.1 on 5 of 6.
UNCLEAR_PLACES = 0.05
# A landbird sits upright, a waterbird lies; its beak is longer. Angles, and pixels.
TILTS = (0.8, 0.1)
BEAKS = (2.0, 4.0)
WRONG_WEB_LABELS = 0.15
NIGHT = 0.6  # brightness of a clip at night
# In this share of the clips the actor comes in late, and in as many it leaves early.
ABSENT = 0.2
LEAK = 3  # pixels that a box of a leak is wider than the actor, on each side

# Random numbers come from np.random.default_rng([seed, STREAM, ...]), a stream for each purpose, so
# that a clip can be drawn without those before it.
WORLD_STREAM = 0
TRUTH_STREAM = 1
CLIP_STREAM = 2
SCENE_STREAM = 3
SCENE_LABEL_STREAM = 4
OBJECT_LABEL_STREAM = 5
BIRDS_STREAM = 6
OBJECT_SEED = 9  # objects look the same in all worlds


# ---- The truth -----------------------------------------------------------------------------------
def split_truth(seed, split, share=1.0):
    """What is drawn in `split`: dict of arrays over its clips (action, label, scene, object, look,
    tags)."""
    world = np.random.default_rng([seed, WORLD_STREAM])
    # An action's scenes, the most frequent first, and its usual tags.
    scene_order = np.stack([world.permutation(SCENES) for _ in ACTIONS])
    usual_tags = world.integers(0, 2, (len(ACTIONS), len(TAGS)))
    if SPLITS[split].target:
        scene_order = np.stack([world.permutation(SCENES) for _ in NOVEL])

    split = SPLITS[split].actors or split
    settings = SPLITS[split]
    n = max(len(ACTIONS), int(settings.clips * share))
    rng = np.random.default_rng([seed, TRUTH_STREAM, place(split)])
    action = rng.permutation(np.arange(n) % len(ACTIONS))
    scene = scene_order[action, rng.choice(SCENES, n, p=scene_shares(settings.scenes))]
    scene = follow(settings.scene, scene, SCENES, rng)
    obj = follow(settings.object, action, LOOKS, rng)
    look = follow(settings.look, action, LOOKS, rng)
    tags = follow(settings.tags, usual_tags[action], 2, rng)
    # The tags of context are the scene's.
    tags[:, 4], tags[:, 5] = scene_tags(scene)

    label = action
    if split == "web":
        wrong = rng.random(n) < WRONG_WEB_LABELS
        other = (action + rng.integers(1, len(ACTIONS), n)) % len(ACTIONS)
        label = np.where(wrong, other, action)
    return {
        "action": action,
        "label": label,
        "scene": scene,
        "object": obj,
        "look": look,
        "tags": tags.astype(bool),
    }


def place(split):
    return list(SPLITS).index(split)


def world_splits():
    """The splits that are drawn with a world."""
    return [split for split, settings in SPLITS.items() if not settings.target]


def own_splits():
    """Those of them that do not show another's actors."""
    return [split for split in world_splits() if not SPLITS[split].actors]


def scene_shares(rule):
    """(SCENES,) how often the scenes in an action's order are shown: Zipf's law"""
    ranks = np.arange(1, SCENES + 1)
    if rule == "head":
        weights = (ranks <= SCENES // 3) / ranks
    elif rule == "tail":
        weights = (ranks > SCENES // 3) / ranks
    else:
        weights = ranks**-1.6
    return weights / weights.sum()


def follow(share, usual, choices, rng):
    """`usual` in a share of the places, in the others one of `choices` numbers at random."""
    follows = rng.random(usual.shape) < share
    return np.where(follows, usual, rng.integers(0, choices, usual.shape))


def scene_tags(scene):
    """-> striped, warm: 0 or 1 of a scene, or of an array of them"""
    return scene % 2, scene // 2 % 2


# ---- Drawing a clip ------------------------------------------------------------------------------
def draw_clip(seed, split, i, truth):
    """Draw clip i of a split: frames (T, S, S, 3) uint8 and the actor's mask (T, S, S) bool."""
    settings = SPLITS[split]
    confetti, night, outlined, large, striped, warm = truth["tags"][i]
    motion = settings.motions[truth["action"][i]]
    rng = np.random.default_rng([seed, CLIP_STREAM, place(settings.actors or split), i])
    colours, mask = draw_actor(motion, truth["look"][i], outlined, large, rng)
    scene = draw_photo(scene_generator(seed, truth["scene"][i]), striped, warm)
    background = draw_own_background(scene, truth["object"][i], confetti, rng)
    if night:
        colours = colours * NIGHT
        background = background * NIGHT
    human = mask[..., 0] > 0.5
    if settings.actors:
        # An actor is cut out as dark as it is, and the new background is never dark.
        new_background = draw_new_background(seed, split, i, truth).astype(np.float32)
        leaks = np.zeros_like(human)
        if settings.leak:
            leaks = in_boxes(human, LEAK)
        background = np.where(leaks[..., None], background, new_background)
    frames = mask * colours + (1 - mask) * background
    return frames.clip(0, 255).astype(np.uint8), human


def in_boxes(human, margin):
    """(T, S, S) bool: the boxes of an actor's mask, wider by `margin` pixels on each side"""
    inside = np.zeros_like(human)
    for frame, mask in zip(inside, human, strict=True):
        for x0, y0, x1, y1 in boxes_on_torus(mask):
            rows = slice(max(0, y0 - margin), y1 + margin)
            frame[rows, max(0, x0 - margin) : x1 + margin] = True
    return inside


def scene_generator(seed, scene):
    return np.random.default_rng([seed, SCENE_STREAM, scene])


def draw_own_background(scene, obj, confetti, rng):
    """(T, S, S, 3): a scene shifted around its torus, with an object and maybe confetti on it; it
    drifts as if a hand held the camera, and the actor does not"""
    shift = rng.integers(0, SIDE, 2)
    background = np.roll(scene, shift, (0, 1)) * rng.uniform(0.85, 1.15)
    shape, colour = draw_object(obj)
    large_shape = shape.repeat(2, 0).repeat(2, 1)
    row, column = rng.integers(0, SIDE - GLYPH, 2)
    patch = np.where(large_shape[..., None], colour, 30)
    background[row : row + GLYPH, column : column + GLYPH] = patch
    if confetti:
        background[rng.random((SIDE, SIDE)) < 0.03] = 255
    drift = rng.integers(-1, 2, (LENGTH, 2)).cumsum(0)
    background = background.astype(np.float32)
    return np.stack([np.roll(background, place, (0, 1)) for place in drift])


def draw_new_background(seed, split, i, truth):
    """(S, S, 3): a background of SCUBA, for Confl-FG with a second actor on it"""
    kind = SPLITS[split].background
    # Confl-FG has the same backgrounds as the SCUBA split of their kind.
    rng = np.random.default_rng([seed, CLIP_STREAM, place(f"scuba-{kind}"), i])
    if kind == "photo":
        striped, warm = rng.random(2) < 0.5
        background = draw_photo(rng, striped, warm)
    elif kind == "texture":
        background = draw_texture(rng)
    else:
        background = draw_sinusoid(rng)
    if split == "conflfg":
        background = add_still_actor(background, seed, i, truth, rng)
    return background


def add_still_actor(background, seed, i, truth, rng):
    """The middle frame of another clip's actor, of another class, behind the moving one."""
    other = rng.choice(np.flatnonzero(truth["action"] != truth["action"][i]))
    _, night, outlined, large, _, _ = truth["tags"][other]
    motion = ACTIONS[truth["action"][other]]
    actor_rng = np.random.default_rng([seed, CLIP_STREAM, place("test"), other])
    colours, mask = draw_actor(motion, truth["look"][other], outlined, large, actor_rng)
    if night:
        colours = colours * NIGHT
    middle = LENGTH // 2
    return mask[middle] * colours[middle] + (1 - mask[middle]) * background


# The number of lobes and their depth, for each look.
OUTLINES = ((0, 0), (4, 0.16), (3, 0.28), (5, 0.4), (2, 0.4), (6, 0.25), (8, 0.3), (4, 0.5))


def draw_actor(motion, look, outlined, large, rng):
    """A sprite on its track over a torus: colours (T, S, S, 3) and its soft mask (T, S, S, 1)."""
    lobes, depth = OUTLINES[look]
    centre = rng.uniform(0, SIDE, 2) + draw_track(motion, rng)  # (T, 2)
    centre = centre.astype(np.float32)
    if large:
        radius = 9.4 * rng.uniform(0.9, 1.1)
    else:
        radius = 7.5 * rng.uniform(0.9, 1.1)
    colour = rgb(look / LOOKS, rng.uniform(0.8, 1))
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    x = from_centre(columns, centre[:, 0])
    y = from_centre(rows, centre[:, 1])
    swing = np.cos(lobes * (np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)))
    outline = radius * (1 - depth / 2 + depth / 2 * swing)
    depth_inside = (outline - np.hypot(x, y))[..., None]  # pixels to the outline
    if outlined:
        rim = 255.0
    else:
        rim = 0.55 * colour
    mask = np.clip(depth_inside + 0.5, 0, 1)
    mask[absent_frames(rng)] = 0
    return np.where(depth_inside < 1.5, rim, colour), mask


def absent_frames(rng):
    """Which frames of a clip do not show its actor: some of the first, or of the last, or none."""
    draw = rng.random()
    length = rng.integers(LENGTH // 5, LENGTH // 2 - 1)
    if draw < ABSENT:
        return slice(0, length)
    if draw < 2 * ABSENT:
        return slice(LENGTH - length, LENGTH)
    return slice(0, 0)


def from_centre(pixels, centre):
    """(S, S) coordinates, (T,) centres -> (T, S, S) distances, the shorter way around the torus"""
    return (pixels - centre[:, None, None] + SIDE / 2) % SIDE - SIDE / 2


def draw_track(motion, rng):
    """Offsets (T, 2) in pixels of an actor from its start, at a random speed, phase and radius."""
    t = np.arange(LENGTH)
    radius = rng.uniform(7, 10)
    frequency = rng.uniform(0.25, 0.4)
    phase = rng.uniform(0, 2 * np.pi)
    line = rng.uniform(1.4, 2.2) * t
    sin = radius * np.sin(frequency * t + phase)
    cos = radius * np.cos(frequency * t + phase)
    still = np.zeros(LENGTH)
    tracks = {
        "right": (line, still),
        "left": (-line, still),
        "down": (still, line),
        "up": (still, -line),
        "clockwise": (cos, sin),
        "anticlockwise": (cos, -sin),
        "shake-sideways": (sin, still),
        "shake-upright": (still, sin),
        "north-east": (line, -line),
        "south-east": (line, line),
        "south-west": (-line, line),
        "north-west": (-line, -line),
        "slalom-right": (line, sin),
        "slalom-left": (-line, sin),
        "shake-falling": (sin, sin),
        "shake-rising": (sin, -sin),
    }
    return np.stack(tracks[motion], 1)


def rgb(hue, value):
    """HSV to RGB (3,) of 0 to 255, at saturation 0.9"""
    k = (np.array([5, 3, 1]) + hue * 6) % 6
    return (255 * value * (1 - 0.9 * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def draw_object(obj):
    """A glyph of its own: shape (4, 4) bool, colour (3,)."""
    rng = np.random.default_rng([OBJECT_SEED, obj])
    shape = rng.random((4, 4)) < 0.6
    return shape, rgb(rng.random(), 1)


def draw_photo(rng, striped, warm):
    """A periodic scene (S, S, 3): noise with the 1/f spectrum of photographs, in a palette of its
    own."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = 1
    white = np.fft.fft2(rng.standard_normal((3, SIDE, SIDE)))
    noise = np.fft.ifft2(white / frequency**1.2).real
    noise = (noise - noise.mean((1, 2), keepdims=True)) / noise.std((1, 2), keepdims=True)
    if warm:
        hue = rng.uniform(-0.1, 0.2)
    else:
        hue = rng.uniform(0.35, 0.75)
    picture = 60 + 0.5 * rgb(hue, rng.uniform(0.5, 0.8))
    palette = rng.normal(0, 18, (3, 3))
    picture = picture + np.einsum("chw,cd->hwd", noise, palette)
    if striped:
        y, x = np.mgrid[:SIDE, :SIDE] * 2 * np.pi / SIDE
        wave = np.sin(rng.integers(2, 7) * x + rng.integers(2, 7) * y)
        picture = picture + 35 * np.sign(wave)[..., None]
    return picture


def draw_texture(rng):
    """Random coloured cells (S, S, 3). The released SCUBA sets have pictures of VQGAN-CLIP here."""
    points = rng.uniform(0, SIDE, (14, 2))
    colours = rng.uniform(20, 235, (14, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    y = abs(rows[..., None] - points[:, 0])
    x = abs(columns[..., None] - points[:, 1])
    distance = np.hypot(np.minimum(y, SIDE - y), np.minimum(x, SIDE - x))  # (S, S, 14)
    return colours[distance.argmin(-1)] * (1 - distance.min(-1, keepdims=True) / SIDE)


def draw_sinusoid(rng):
    """Sinusoid stripes (S, S, 3) as Li et al. 2023 draw them: their 256 pixels scaled to S, then
    rotated."""
    unit = SIDE / 256
    colour = rng.uniform(0, 1, 3)
    angle = rng.uniform(0, 2 * np.pi)
    half_width = rng.uniform(5, 20) * unit
    frequency = 2 * np.pi / (rng.uniform(4, 1004) * unit)
    gap = half_width * rng.uniform(3, 5)
    height = rng.uniform(10, 110) * unit
    shift = rng.uniform(-100, 100) * unit
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    x = columns * np.cos(angle) - rows * np.sin(angle)
    y = columns * np.sin(angle) + rows * np.cos(angle)
    distance = (y - height * np.sin(frequency * (x + shift))) % gap
    in_stripe = np.minimum(distance, gap - distance) < half_width
    return 255 * np.where(in_stripe[..., None], 1 - colour, colour)


# ---- Drawing a bird ------------------------------------------------------------------------------
def draw_bird_on_place(seed, number, y, place):
    """-> (S, S, 3) uint8 a bird of class y on land (place 0) or water (1), the place alone"""
    rng = np.random.default_rng([seed, BIRDS_STREAM, len(BIRDS), number])
    warm = follow(1 - UNCLEAR_PLACES, np.array(place == 0), 2, rng)
    photo = draw_photo(rng, striped=False, warm=warm)
    # Calmer than the scenes of clips, whose actors move: else a bird is hard to see.
    background = 0.4 * photo + 0.6 * photo.mean((0, 1))
    colours, mask = draw_bird(TILTS[y], BEAKS[y], rng)
    image = mask * colours + (1 - mask) * background
    return image.clip(0, 255).astype(np.uint8), background.clip(0, 255).astype(np.uint8)


def draw_bird(tilt, beak, rng):
    """A bird from the side, of any colour, in either direction: colours (S, S, 3) and its soft mask
    (S, S, 1)."""
    scale = rng.uniform(1.2, 1.6)
    column, row = rng.uniform(0.45, 0.65, 2) * SIDE
    rows, columns = np.mgrid[:SIDE, :SIDE]
    x = rng.choice([-1, 1]) * (columns - column) / scale
    y = (rows - row) / scale
    head_x = rng.uniform(5, 6)
    head_y = rng.uniform(-8, -7)
    tilt = tilt + rng.normal(0, 0.1)
    # Pixels to the outline of each part, or nearly so. Neck and beak are lines; this gets thin.
    length = x * np.cos(tilt) - y * np.sin(tilt)
    width = x * np.sin(tilt) + y * np.cos(tilt)
    body = 4.5 * (1 - np.hypot(length / 7.5, width / 4.5))
    head = 2.8 - np.hypot(x - head_x, y - head_y)
    along = np.clip((x * head_x + y * head_y) / (head_x**2 + head_y**2), 0, 1)
    neck = 1.8 - np.hypot(x - along * head_x, y - along * head_y)
    along = np.clip((x - head_x - 2) / beak, 0, 1)
    tip = 1.6 - along - np.hypot(x - head_x - 2 - beak * along, y - head_y - along)
    depth_inside = scale * np.max([body, head, neck, tip], 0)[..., None]
    colour = rgb(rng.random(), rng.uniform(0.5, 1))
    mask = np.clip(depth_inside + 0.5, 0, 1)
    return np.where(depth_inside < 1.5, 0.55 * colour, colour), mask


# ---- Drawing a world -----------------------------------------------------------------------------
def draw_world(folder, seed, share=1.0):
    """Draw a world, all but its weights and its selections of the web, in `folder`, unless it is
    there. share: of the clips of each split, for tests."""
    folder = Path(folder)
    if folder.exists():
        return
    with workplace(folder) as part:
        truth = draw_clips(part, seed, world_splits(), share, title=f"drawing {folder}")
        (part / "classes.txt").write_text("\n".join(ACTIONS) + "\n")
        if "web" in SPLITS:
            write_web_lists(part, truth["web/label"], truth["web/action"])
        write_labels(part, part, seed)
        publish(part, folder)


@contextmanager
def workplace(target):
    """A temporary folder beside `target`, for what `publish` then gives its name: nothing that is
    half made ever has it. Its random name keeps two at the same work apart."""
    folder = target.with_name(f"{target.name}.part-{secrets.token_hex(4)}")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made, target):
    try:
        made.rename(target)
    except OSError:
        # Another process may have made the same folder meanwhile. One is as good as the other.
        if not target.exists():
            raise


def draw_clips(folder, seed, splits, share, title):
    """The clips of splits, their lists, and truth.npz, which is returned."""
    tables = {split: split_truth(seed, split, share) for split in splits}
    clips = sum(len(table["label"]) for table in tables.values())
    # Forked processes start at once, and know the SPLITS that a test may have changed.
    method = "fork" if hasattr(os, "fork") else "spawn"
    arrays = {}
    with (
        multiprocessing.get_context(method).Pool(min(8, os.cpu_count())) as pool,
        tqdm(desc=title, total=clips, unit="clip", disable=None) as bar,
    ):
        for split, table in tables.items():
            (folder / split).mkdir()
            masks = []
            boxes = []
            write = partial(write_clip, folder, seed, split, table)
            for mask in pool.imap(write, range(len(table["label"])), 20):
                masks.append(np.packbits(mask))
                boxes.append([box_around(frame) for frame in mask])
                bar.update()
            table["masks"] = np.stack(masks)
            table["boxes"] = np.array(boxes, np.int16)
            arrays |= {f"{split}/{name}": value for name, value in table.items()}
            paths = clip_paths(split, len(masks))
            write_list(folder / f"{split}.txt", paths, table["label"])
    np.savez_compressed(folder / "truth.npz", **arrays)
    return arrays


def clip_path(split, i):
    # Half of the web is images.
    ending = "png" if split == "web" and i % 2 else "mp4"
    return f"{split}/{i:04d}.{ending}"


def clip_paths(split, n):
    return [clip_path(split, i) for i in range(n)]


def write_list(file, paths, labels):
    lines = [f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)]
    file.write_text("".join(lines))


def write_web_lists(folder, labels, actions):
    """web-clips.txt and web-images.txt, the web's videos and its images, with the labels that they
    were sought by; web-truth.txt, both with their true ones."""
    paths = clip_paths("web", len(labels))
    write_list(folder / "web-clips.txt", paths[::2], labels[::2])
    write_list(folder / "web-images.txt", paths[1::2], labels[1::2])
    write_list(folder / "web-truth.txt", paths, actions)


def make_target(target):
    """Draw a data set to transfer to, whose folder is named as its split."""
    split = target.name
    seed = seed_of(target.parent)
    with workplace(target) as part:
        truth = draw_clips(part, seed, [split], share=1.0, title=f"drawing {target}")
        (part / "classes.txt").write_text("\n".join(NOVEL) + "\n")
        lines = (part / f"{split}.txt").read_text().splitlines(keepends=True)
        for name, (first, end) in TARGET_PARTS.items():
            chosen = lines[first * len(lines) // 8 : end * len(lines) // 8]
            (part / f"{name}.txt").write_text("".join(chosen))
        write_scenes(part / "scenes", truth, seed, [split])
        benchmark = {name: f"{name}.txt" for name in TARGET_PARTS} | {"scenes": ["scenes"]}
        write_json(part / "benchmark.json", benchmark)
        publish(part, target)


def make_birds(target):
    """Draw still images in the form of Waterbirds (Sagawa et al. 2020): a class is a bird's shape,
    and in training nearly every one is on its own place."""
    seed = seed_of(target.parent)
    lines = ["img_id,img_filename,y,split,place,place_filename\n"]
    with workplace(target) as part:
        (part / "images").mkdir()
        (part / "backgrounds/images").mkdir(parents=True)
        for number, (split, y, place) in enumerate(bird_groups(seed)):
            name = f"images/{number:06d}.png"
            image, background = draw_bird_on_place(seed, number, y, place)
            write_image(part / name, image)
            write_image(part / "backgrounds" / name, background)
            lines.append(f"{number},{name},{y},{split},{place},backgrounds/{name}\n")
        (part / "metadata.csv").write_text("".join(lines))
        write_json(part / "benchmark.json", {"test": "metadata.csv"})
        publish(part, target)


def bird_groups(seed):
    """[(split, y, place)] of all birds, as in metadata.csv: y 1 is a waterbird, place 1 is water"""
    groups = []
    for split, (part, count) in enumerate(BIRDS.items()):
        at_home = 0.5
        if part == "train":
            at_home = BIRDS_AT_HOME
        of_part = []
        for y in (0, 1):
            own = round(at_home * count / 2)
            of_part += [(split, y, y)] * own
            of_part += [(split, y, 1 - y)] * (count // 2 - own)
        rng = np.random.default_rng([seed, BIRDS_STREAM, split])
        groups += [of_part[i] for i in rng.permutation(len(of_part))]
    return groups


def write_image(file, image):
    av.VideoFrame.from_ndarray(image, "rgb24").save(str(file))


def write_clip(folder, seed, split, truth, i):
    """Draw and encode one clip. -> its mask (T, S, S)"""
    frames, mask = draw_clip(seed, split, i, truth)
    file = str(folder / clip_path(split, i))
    if file.endswith(".png"):
        # The middle one, which shows the actor.
        write_image(file, frames[LENGTH // 2])
        return mask
    with av.open(file, "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = SIDE
        stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        # One thread, and no tree of macroblocks: else two drawings differ in their bytes.
        stream.options = {
            "crf": "20",
            "preset": "veryfast",
            "g": "10",
            "threads": "1",
            "x264-params": "mbtree=0",
        }
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
    return mask


def box_around(mask):
    """(S, S) bool -> x0, y0, x1, y1"""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# ---- Labels --------------------------------------------------------------------------------------
LABELS = ("scenes", "objects", "tags", "humans.jsonl", "benchmark.json")
# With these about 68 % of the first guesses of scenes are right, and 78 % of objects.
LABEL_NOISE = {"scene": 0.7, "object": 2.0}


def write_labels(out, world, seed):
    """Write the LABELS of a world's clips in the folder `out`, in the form of the offline steps."""
    with np.load(world / "truth.npz") as file:
        truth = dict(file)
    write_scenes(out / "scenes", truth, seed, own_splits())

    paths = paths_of(truth, own_splits())
    looks = object_glyphs()
    noise = LABEL_NOISE["object"]
    labels = noisy_labels(truth, own_splits(), "object", looks, noise, seed, OBJECT_LABEL_STREAM)
    made = {"made": "the truth seen through noise", "noise": noise, "seed": seed}
    write_labels_folder(out / "objects", paths, numbered("object", LOOKS), labels, made)

    tags = np.concatenate([truth[f"{split}/tags"] for split in own_splits()])
    made = {"made": "the truth", "seed": seed}
    write_labels_folder(out / "tags", paths, TAGS, tags, made)

    write_humans(out / "humans.jsonl", truth, made)
    write_benchmark(out / "benchmark.json")


def paths_of(truth, splits):
    """The paths of all clips of splits."""
    paths = []
    for split in splits:
        paths += clip_paths(split, len(truth[f"{split}/label"]))
    return paths


def write_scenes(folder, truth, seed, splits):
    """The labels folder of the scenes of splits."""
    looks = scene_colours(seed)
    noise = LABEL_NOISE["scene"]
    labels = noisy_labels(truth, splits, "scene", looks, noise, seed, SCENE_LABEL_STREAM)
    made = {"made": "the truth seen through noise", "noise": noise, "seed": seed}
    paths = paths_of(truth, splits)
    write_labels_folder(folder, paths, numbered("scene", SCENES), labels, made)


def scene_colours(seed):
    """(SCENES, 6) mean and deviation of the colours of each scene"""
    colours = []
    for scene in range(SCENES):
        picture = draw_photo(scene_generator(seed, scene), *scene_tags(scene))
        colours.append(np.concatenate([picture.mean((0, 1)), picture.std((0, 1))]))
    return np.stack(colours)


def object_glyphs():
    """(LOOKS, 19) shape and colour of each object"""
    glyphs = []
    for obj in range(LOOKS):
        shape, colour = draw_object(obj)
        glyphs.append(np.concatenate([shape.ravel(), colour]))
    return np.stack(glyphs)


def noisy_labels(truth, splits, kind, looks, noise, seed, stream):
    """(n, M) probabilities of the kinds of scene or object, whose looks are (M, D), in all clips of
    splits.

    They are what an ideal classifier would say that sees the looks through noise: it confuses those
    that are alike, and its probabilities are right on average. Nothing else of the clip is in them.
    """
    looks = (looks - looks.mean(0)) / looks.std(0).clip(1e-6)
    labels = []
    for split in splits:
        rng = np.random.default_rng([seed, stream, place(split)])
        seen = looks[truth[f"{split}/{kind}"]]
        seen = seen + noise * rng.standard_normal(seen.shape)
        squares = ((seen[:, None] - looks) ** 2).sum(-1)
        likelihood = np.exp(-squares / (2 * noise**2))
        labels.append(likelihood / likelihood.sum(1, keepdims=True))
    return np.concatenate(labels)


def numbered(kind, n):
    return [f"{kind}{i}" for i in range(n)]


def write_labels_folder(folder, paths, categories, labels, made):
    folder.mkdir()
    (folder / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    (folder / "categories.txt").write_text("".join(f"{name}\n" for name in categories))
    np.save(folder / "labels.npy", labels.astype(np.float16))
    write_json(folder / "made.json", made)


def write_json(file, content):
    file.write_text(json.dumps(content, indent=1) + "\n")


def write_humans(file, truth, made):
    """The true boxes of all clips, of every frame."""
    with file.open("w") as out:
        out.write(json.dumps({"made": made}) + "\n")
        for split in world_splits():
            masks = np.unpackbits(truth[f"{split}/masks"], 1).reshape(-1, LENGTH, SIDE, SIDE)
            for path, mask in zip(clip_paths(split, len(masks)), masks, strict=True):
                out.write(json.dumps(human_of(path, mask)) + "\n")


def human_of(path, mask):
    """The line of humans.jsonl of a clip, mask (T, S, S)."""
    frames = []
    boxes = []
    for t, frame in enumerate(mask):
        frame_boxes = boxes_on_torus(frame)
        frames += [t] * len(frame_boxes)
        boxes += frame_boxes
    return {
        "path": path,
        "every": 1,
        "frames": frames,
        "boxes": boxes,
        "scores": [1.0] * len(boxes),
    }


def boxes_on_torus(mask):
    """Boxes of a mask (S, S): an actor across the border has one on either side, not one as wide as
    the frame."""
    boxes = []
    for y0, y1 in runs(mask.any(1)):
        for x0, x1 in runs(mask.any(0)):
            boxes.append((x0, y0, x1, y1))
    return boxes


def runs(line):
    """[(first, end)] of the runs of ones in a line."""
    edges = np.diff(line.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(edges).reshape(-1, 2).tolist()


def write_benchmark(file):
    benchmark = {
        "train": "train.txt",
        "val": "val.txt",
        "test": "test.txt",
        "scuba": {kind: f"scuba-{kind}.txt" for kind in ("photo", "texture", "sinusoid")},
        "conflfg": "conflfg.txt",
        "rare": "rare.txt",
        "scenes": ["scenes"],
        "humans": ["humans.jsonl"],
    }
    write_json(file, benchmark)


def add_labels(world, seed):
    """Write those of the LABELS that an existing world lacks."""
    with workplace(world / "labels") as part:
        write_labels(part, world, seed)
        for name in LABELS:
            if not (world / name).exists():
                publish(part / name, world / name)


# ---- Start weights and selections of the web -----------------------------------------------------
# They are made as a person would make them, by the scripts. Those are imported where they are
# needed: drawing does without torch, which takes seconds to start.
def make_tiny_weights(target):
    import albar

    pretrain(albar, target)


def make_tsn_weights(target):
    import omnidebias

    # Of 8 frames, more than the 3 it is used with.
    pretrain(omnidebias, target, model="tsn_tiny")


def pretrain(script, target, **settings):
    """The stand-in for Kinetics weights: plain training on the weakly biased split."""
    settings |= dict(train=f"{target.parent}/pretrain.txt", val="", val_share=0.2)
    settings |= dict(weights="none", epochs=15)
    with workplace(target) as part:
        settings["out"] = f"{part}/run"
        args = script.Args(**script.TOY | script.BASELINE | settings)
        result = script.train(args)
        publish(Path(result["checkpoint"]), target)


def make_web_clips(target):
    select_web(target, "weights-tiny.pt")


def make_web_images(target):
    select_web(target, "weights-tsn_tiny.pt", model="tsn_tiny", frames=3)


def select_web(target, weights, **settings):
    """The lists that a teacher selects which was trained on the world's labelled videos: a 2D
    network for images, a 3D one for clips, as in OmniSource."""
    import omnidebias

    world = target.parent
    make(world / weights, world)
    settings |= dict(train=f"{world}/train.txt", val=f"{world}/val.txt")
    settings["weights"] = f"{world}/{weights}"
    items = (f"{target}.txt",)
    with workplace(target) as part:
        settings["out"] = f"{part}/teacher"
        args = omnidebias.Args(**omnidebias.TOY | omnidebias.BASELINE | settings)
        result = omnidebias.train(args)
        omnidebias.teach(
            omnidebias.TeachArgs(
                lists=items, run=result["checkpoint"], out=f"{part}/predictions", workers=0
            )
        )
        omnidebias.select(
            omnidebias.SelectArgs(
                lists=items,
                labels=(f"{world}/scenes",),
                teacher=f"{part}/predictions",
                # This small teacher is rarely sure: its first guess is enough to confirm a label.
                agree=0.0,
                out=f"{part}/lists",
            )
        )
        publish(part / "lists", target)


# What is not drawn with a world, but made when it is asked for.
LATER = {
    "weights-tiny.pt": make_tiny_weights,
    "weights-tsn_tiny.pt": make_tsn_weights,
    "web-clips": make_web_clips,
    "web-images": make_web_images,
}
LATER |= dict.fromkeys(TARGETS, make_target)
LATER["birds"] = make_birds


# ---- Command line --------------------------------------------------------------------------------
def make(path, world):
    """Make what is missing of a world, where `path` is its folder, or of the file `path` in it and
    what that needs."""
    seed = seed_of(world)
    draw_world(world, seed)
    if not all((world / name).exists() for name in LABELS):
        add_labels(world, seed)
    for name, make_file in LATER.items():
        file = world / name
        wanted = path in (world, file) or file in path.parents
        if wanted and not file.exists():
            print(f"making {file}", file=sys.stderr)
            make_file(file)


def seed_of(world):
    return int(world.name.removeprefix("toy"))


def world_of(path):
    """The folder of the world that a path is, or lies in; None where it does not."""
    for folder in (path, *path.parents):
        if folder.name.startswith("toy") and folder.name.removeprefix("toy").isdecimal():
            return folder
    return None


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=["data/toy0"], metavar="PATH")
    flags = {"scene": BIASED["scene"], "object": BIASED["object"], "look": BIASED["look"]}
    flags["scene-noise"] = LABEL_NOISE["scene"]
    for name, default in flags.items():
        help = f"a number from 0 to 1 [{default}]"
        if name == "scene-noise":
            help = f"a number above 0 [{default}]"
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=help)
    args = parser.parse_args(argv)
    shares = {name: getattr(args, name) for name in ("scene", "object", "look")}
    if args.scene_noise <= 0 or not all(0 <= share <= 1 for share in shares.values()):
        parser.error("--scene, --object, --look are from 0 to 1, --scene-noise is above 0")
    paths = [Path(path) for path in args.paths]
    for path in paths:
        world = world_of(path)
        if world is None:
            parser.error(f"{path}: neither a folder toyN, N a number, the seed, nor in one")
        usual = all(getattr(args, name.replace("-", "_")) == flags[name] for name in flags)
        if world.exists() and not usual:
            parser.error(f"{world}: is there already: remove it, or draw in another folder")
    for split in ("train", "val", "test"):
        SPLITS[split] = replace(SPLITS[split], **shares)
    LABEL_NOISE["scene"] = args.scene_noise
    for path in paths:
        make(path, world_of(path))
        if not path.exists():
            parser.error(f"{path}: no such file in the embedded data set")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
