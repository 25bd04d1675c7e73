"""ALBAR: Adversarial Learning approach to mitigate Biases in Action Recognition.
J. Fioresi, I. R. Dave, M. Shah. ICLR 2025. arXiv:2502.00156v2

A clip and one of its frames held still share all that is static and differ in the motion alone. The
same network sees both: it must name the action of the moving clip, and must not be able to from the
still one. No labels but the action's, no critic.

Equation map                    (grep "Eq. (5)": this row, the function, the line that uses it)
  Eq. (1)  cross_entropy         name the action of the moving clip
  Eq. (2)  static_adversarial    minus the cross-entropy of the static clip
  Eq. (3)  entropy_maximisation  minus the entropy of the static clip's prediction
  Eq. (4)  gradient_penalty      norm of the logits' gradient with respect to the static clip
  Eq. (5)  total_loss            their weighted sum

Commands
  python albar.py                 the embedded data set (drawn once)
  python albar.py --baseline      the same with plain cross-entropy
  python albar.py --train train.txt --val val.txt --root videos    your videos, Swin-T
  torchrun --nproc-per-node 8 albar.py --train train.txt --root videos --batch-size 64
  python evaluate.py runs/albar-baseline runs/albar                the table of biases
  python albar.py scuba test.txt --root videos --masks masks --backgrounds places365 sinusoid \\
      --conflfg --out scuba       SCUBA and Confl-FG of your own data set; places365: your pictures
  Table 1: --baseline --augment mixup | videomix | be | fame | actorcutmix --masks MASKS; its last
      rows, StillMix and ALBAR with it, need a bank of frames:
  python albar.py --baseline --frames 1 --model swin_t --weights IMAGENET1K_V1 \\
      --train train.txt --root videos --out runs/frame
  python albar.py stillbank --run runs/frame --out bank
  python albar.py --baseline --augment stillmix --bank bank --train train.txt --root videos \\
      --out runs/stillmix         (ALBAR with it: without --baseline, --out runs/albar-stillmix)
  python albar.py --train metadata.csv --val metadata.csv --root waterbirds --model resnet18 \\
      --weights IMAGENET1K_V1 --frames 1 --backgrounds waterbirds-backgrounds    App. C

DEVIATION from the paper
  D1  --gp-norm official: root over C, T, H, mean over batch and W, as in the official code, whose
      weight 10 the paper prints. Eq. (4) as printed is the norm over the whole clip (--gp-norm
      full), sqrt(W) times larger for gradients that spread evenly, never less: 10 then means what
      150 means here at W = 224. Measured effect: tests/RESULTS.md.
  D2  The last epoch's weights are the result; the best on validation are kept beside them
      (best.pt), and validation is the plain held-out clips (App. B makes SCUBA and SCUFO of them
      too). The official code picks the epoch by accuracy on the IID test split.
  D3  Entropy by log_softmax; the official code's log(softmax) gives 0 * -inf = NaN for a confident
      prediction.
  D4  w_ent is 4 (Table 11); the official code has 4.25, a weight decay of 0.05, batch 6 and
      learning rate 1e-5.
  D5  The embedded data set has w_adv 0.08 (paper: 1) and augment_prob 0.5, chosen on other worlds
      by contrasted accuracy; from w_adv 0.15 on SCUFO falls far below chance. With --train the
      defaults are the paper's.
SILENT in the paper
  S1  F(x) in Eq. (4) is the sum of the logits, as in the official code: of probabilities it would
      be constant 1.
  S2  The static clip is taken from the augmented moving clip, so that both share crop and flip
      (official code too): its middle frame (Table 4), where Fig. 1 says a random one.
  S3  Batch norm: the static clip uses the moving clips' running statistics (--static-bn eval) and
      leaves them alone; Swin has none. With --static-bn train the static clips mix into the
      statistics that the test uses.
  S4  The augmentations of Table 1 are those of Li et al. 2023's code, of which ALBAR's comes. BE
      has no consistency loss there; ActorCutMix blanks the other sample's actor, but here leaves a
      sample without one as it is. FAME takes the hue as an angle once, where that code multiplies
      radians by 2 pi again. The other sample is the one before in the batch, which has a random
      order. StillMix without --bank takes a random frame of any other, as ALBAR's code.
      They touch the moving clip alone (official code). The official probability of 0.75 is
      StillMix's alone; here it is every augmentation's.
  S5  Warm-up starts at 1/(its steps), the cosine ends at 0, step by step; an epoch's last, smaller
      batch is left out.
  S6  Videos shorter than a clip loop (official code: half the stride, then the last frame again).
  S7  SCUBA (`scuba`): the stripes as Li et al. 2023 draw them, but their sine runs through the
      picture's middle before it is turned. Frames before the actor comes and after it leaves stay,
      as background alone (Li et al. cut them off), and no video is left out for a small actor (of
      Kinetics they are). Confl-FG, of which no code was released: see its --help.
  S8  Waterbirds (App. C): the paper made a set that keeps each image's background, and has not
      released it; --backgrounds is any folder of them. Batch norm is as in S3: with random weights
      the static clip's penalty can burst before the statistics have settled (--static-bn train).
"""

import json
import math
import os
import re
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha1
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset
from torchvision.transforms import v2
from tqdm import tqdm

from common import (
    Boxes,
    Interrupt,
    Network,
    Order,
    Run,
    Tiny,
    UserError,
    Videos,
    arg,
    autocast,
    broadcast,
    centre_clip,
    checkpoint_args,
    cli,
    each_once,
    evenly,
    existing,
    fill_boxes,
    frame_rate,
    label_videos,
    load_checkpoint,
    load_weights,
    make_loader,
    no_sync,
    normalise,
    num_frames,
    open_labels,
    own_network,
    random_clip,
    read_clip,
    read_list,
    read_lists,
    read_made_list,
    restore,
    running_statistics,
    seed_step,
    shortened,
    start,
    subset,
    test_transform,
    total,
    train_transform,
    try_clip,
    union,
    whole,
    write_picture,
    write_video,
)


# ---- Args ----------------------------------------------------------------------------------------
@dataclass
class Args:
    w_adv: float = arg(1.0, "weight of Eq. (2); Table 10", low=0)
    w_ent: float = arg(4.0, "weight of Eq. (3); Table 11", low=0)
    w_gp: float = arg(10.0, "weight of Eq. (4); Table 12", low=0)
    gp_norm: str = arg("official", "norm of Eq. (4), see D1", choices=("official", "full"))
    static_frame: str = arg(
        "middle", "the static clip's; Table 4", choices=("middle", "random", "first", "last")
    )
    static_bn: str = arg("eval", "batch norm of the static clip, see S3", choices=("eval", "train"))
    augment: str = arg(
        "none",
        "augmentation of Table 1, see S4",
        choices=("none", "mixup", "videomix", "be", "actorcutmix", "fame", "stillmix"),
    )
    augment_prob: float = arg(
        0.75,
        "probability of the augmentation for a sample; official code; Li et al. with Kinetics' "
        "Swin-T on HMDB51: stillmix and mixup 0.75, fame 0.5, the others 0.25",
        low=0,
        high=1,
    )
    bank: str = arg("", "folder of `stillbank`, for stillmix; none: frames of the batch")
    masks: str = arg("", "the actors, for actorcutmix: masks or boxes as of `scuba`")
    backgrounds: str = arg(
        "",
        "folder of the same files without foreground, the static clips instead of --static-frame; "
        "App. C: Waterbirds",
    )

    train: str = arg("", "training list; none: the embedded one, as with --toy")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(
        0.2, "share of the training list held out, seeded; App. B", low=0, high=1
    )
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of HMDB51's folder of lists; App. A", choices=(1, 2, 3))
    watch: tuple = arg(
        (), "SCUBA's lists, evaluated each epoch for the log alone, SCUFO by middle frames; Fig. 6"
    )
    frames: int = arg(32, "frames of a clip; Sec. 4.3", low=1)
    stride: int = arg(2, "step between frames; Sec. 4.3", low=1)
    size: int = arg(224, "pixels of a clip's side; Sec. 4.3", low=8)
    resize: int = arg(256, "short side at test, before the centre crop; App. B", low=8)
    scale: tuple = arg(
        (0.08, 1.0), "area of the random resized crop; torchvision's default", low=0, high=1
    )
    flip: float = arg(0.5, "probability of the horizontal flip; Sec. 4.3", low=0, high=1)
    mean: tuple = arg(
        (0.485, 0.456, 0.406), "of the channels; swin3d_t's; r3d_18's are 0.432 0.395 0.376"
    )
    std: tuple = arg(
        (0.229, 0.224, 0.225), "of the channels; r3d_18's: 0.228 0.221 0.217", low=1e-3
    )

    model: str = arg(
        "swin3d_t",
        "Sec. 4.3; also tiny, a name in torchvision.models.video or (of images, a frame by "
        "itself) in torchvision.models, or your own PACKAGE.MODULE:FUNCTION, called with the "
        "number of classes",
    )
    weights: str = arg(
        "KINETICS400_V1", "torchvision's name, a file (mmaction2's Swin too), or none; Sec. 4.3"
    )

    epochs: int = arg(50, "epochs; App. B", low=0)
    warmup: float = arg(5.0, "epochs of linear warm-up, then cosine; Sec. 4.3", low=0)
    batch_size: int = arg(8, "clips of an optimiser step over all processes; App. B", low=1)
    optimizer: str = arg(
        "adamw", "Sec. 4.3: adamw; also sgd, momentum 0.9", choices=("adamw", "sgd")
    )
    lr: float = arg(
        1e-4, "learning rate; Sec. 4.3: AdamW's at batch 64, scaled linearly; SGD's as it is", low=0
    )
    weight_decay: float = arg(0.01, "Sec. 4.3", low=0)
    seed: int = arg(0, "seed of the run", low=0)

    out: str = arg("", "folder of the run; none: runs/albar, runs/albar-baseline")
    resume: bool = arg(False, "go on from the last checkpoint in --out")
    overwrite: bool = arg(False, "train anew where --out holds a run")
    accumulate: int = arg(1, "parts in which a batch goes through the network", low=1)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))
    channels_last: bool = arg(False, "weights and clips in channels_last_3d")
    compile: bool = arg(
        False, "torch.compile for the moving clip; the penalty's second backward cannot be compiled"
    )
    workers: int = arg(4, "loader processes of each training process", low=0)
    cache: bool = arg(False, "keep decoded videos in memory; for small ones")
    max_bad: float = arg(
        0.01, "share of missing or broken videos beyond which to stop", low=0, high=1
    )
    log_every: int = arg(10, "steps between lines of the log", low=1)
    tensorboard: bool = arg(False, "the log's figures for TensorBoard, too; needs its package")


# [same in all scripts: the recipe of the embedded data set]
TOY = dict(
    train="data/toy0/train.txt",
    val="data/toy0/val.txt",
    weights="data/toy0/weights-tiny.pt",
    model="tiny",
    frames=8,
    stride=2,
    size=32,
    resize=36,
    scale=(0.6, 1.0),
    flip=0.0,
    epochs=12,
    warmup=1.0,
    batch_size=32,
    optimizer="sgd",
    lr=0.1,
    weight_decay=1e-4,
    workers=0,
    cache=True,
)
# [end]
# D5 says why.
TOY |= dict(w_adv=0.08, augment_prob=0.5)
BASELINE = dict(w_adv=0.0, w_ent=0.0, w_gp=0.0, out="runs/albar-baseline")


# ---- Data ----------------------------------------------------------------------------------------
@dataclass
class Data:
    train: Videos
    val: Videos
    watched: dict  # {name: Videos} of --watch
    bank: torch.Tensor | None = None  # (M, 3, 1, H, W) uint8, StillMix's still frames
    boxes: Boxes | None = None  # of --masks, where it is a file


def make_data(args):
    """-> Data. Clips as in Sec. 4.3: dense, random in training, the centre one at test."""
    check_flags(args)
    train_list, val_list = read_lists(args)
    data = Data(
        train=Videos(
            train_list,
            partial(random_clip, frames=args.frames, stride=args.stride),
            train_transform(args.size, args.scale, args.flip),
            seed=args.seed,
            cache=args.cache,
            max_bad=args.max_bad,
        ),
        val=test_videos(val_list, args),
        watched={},
    )
    if args.masks:
        masks = find_masks(args.masks, train_list, args.max_bad)
        data.train.change = partial(add_actors, masks=masks)
        if Path(args.masks).is_file():
            data.boxes = next(iter(masks.values()))
    if args.backgrounds:
        check_backgrounds(args.backgrounds, train_list.paths + val_list.paths)
        data.train.change = partial(add_background, folder=args.backgrounds)
        data.val.change = data.train.change
    if args.bank:
        data.bank = read_bank(Path(args.bank, "frames"), args.size)
    for file in args.watch:
        videos = read_made_list(file, args.root, "test", args.split, train_list.classes)
        if Path(file).stem in data.watched:
            raise UserError(f"--watch {file}: a second list of that name")
        data.watched[Path(file).stem] = test_videos(existing(videos, args.max_bad), args)
    return data


def test_videos(videos, args):
    return Videos(
        videos,
        partial(centre_clip, frames=args.frames, stride=args.stride),
        test_transform(args.size, args.resize),
        seed=args.seed,
        cache=args.cache,
    )


def uses_static(args):
    """Whether any loss of the static clip has a weight"""
    return args.w_adv > 0 or args.w_ent > 0 or args.w_gp > 0


def check_flags(args):
    """UserError for flags that contradict."""
    if uses_static(args) and args.frames == 1 and not args.backgrounds:
        raise UserError(
            "--frames 1: the static clip would be the clip itself: --baseline, or --backgrounds"
        )
    if (args.augment == "actorcutmix") != bool(args.masks):
        raise UserError("--augment actorcutmix needs --masks, its actors, and they need it")
    if args.masks and args.backgrounds:
        raise UserError("--augment actorcutmix and --backgrounds cannot be together")
    if args.bank and args.augment != "stillmix":
        raise UserError("--bank is for --augment stillmix")
    if args.augment in ("be", "fame") and args.frames == 1:
        raise UserError(f"--augment {args.augment} needs clips: --frames of two at least")


def add_actors(frames, path, indices, masks):
    """For Videos(change=...): frames (n, H, W, 3), their indices (n,) -> frames, then the actors
    white on black (2n, H, W, 3), indices (2, n), {}. masks: of find_masks"""
    actors = torch.zeros_like(frames)
    place = masks.get(path)
    if isinstance(place, Boxes):
        actors[draw_boxes(place, path, indices.ravel(), frames.shape[1:3]) > 0.5] = 255
    elif place:
        mask = read_masks(place)
        if indices.max() > len(mask):  # one may be missing at the end
            raise UserError(f"{place}: {len(mask)} masks, but {path} has a frame {indices.max()}")
        mask = mask[np.minimum(indices.ravel(), len(mask) - 1)]
        actors[fit_masks(mask, frames.shape[1:3]) > 0.5] = 255
    return torch.cat([frames, actors]), np.stack([indices, indices]), {}


def check_backgrounds(folder, paths):
    """UserError where the folder lacks a video's file."""
    missing = [path for path in paths if not Path(folder, path).exists()]
    if missing:
        raise UserError(
            f"--backgrounds {folder}: nothing of {len(missing)} of {len(paths)} videos: "
            f"{shortened(missing)}"
        )


def add_background(frames, path, indices, folder):
    """For Videos(change=...): frames (n, H, W, 3), their indices (n,) -> frames, then those of the
    background's file (2n, H, W, 3), indices (2, n), {}"""
    file = Path(folder, path)
    background = read_clip(file, np.minimum(indices.ravel(), num_frames(file) - 1))
    background = background.permute(0, 3, 1, 2)
    # Of another size where the video cannot be read and stands in black.
    background = v2.functional.resize(background, frames.shape[1:3], antialias=True)
    background = background.permute(0, 2, 3, 1)
    return torch.cat([frames, background]), np.stack([indices, indices]), {}


def read_bank(folder, size):
    """-> (M, 3, 1, size, size) uint8, all pictures of a bank, squeezed as in Li et al.'s code"""
    frames = read_clip(folder, range(num_frames(folder))).permute(0, 3, 1, 2)
    return v2.functional.resize(frames, [size, size], antialias=True).unsqueeze(2)


def static_clip(clip, frame):
    """(N, 3, T, H, W) -> the same with one frame held still (Sec. 3.2): first, middle (16 of 32),
    last or random."""
    n, _, length = clip.shape[:3]
    if frame == "random":
        t = torch.randint(length, (n,))
    else:
        t = torch.full((n,), {"first": 0, "middle": length // 2, "last": length - 1}[frame])
    still = clip[torch.arange(n), :, t]  # (N, 3, H, W)
    return still.unsqueeze(2).expand_as(clip).contiguous()


# The augmentations of Table 1: clip (N, 3, T, H, W), target (N, K), is_mixed (N,) 1 for the samples
# that are mixed and 0 for the others, lam the weight of a sample's own clip (of BE: of the frame).
def mixup(clip, target, is_mixed, lam):
    """Zhang et al. 2018, lam ~ Beta(0.2, 0.2): clips and labels of two samples blended."""
    keep = 1 - is_mixed * (1 - lam)  # (N,) the part of the own clip, 1 where it is not mixed
    mixed = torch.lerp(clip.roll(1, 0), clip, keep.view(-1, 1, 1, 1, 1))
    return mixed, torch.lerp(target.roll(1, 0), target, keep.view(-1, 1))


def videomix(clip, target, is_mixed, lam):
    """Yun et al. 2020, lam ~ Beta(1, 1): a box of another sample, the same in all frames; labels by
    its area."""
    height, width = clip.shape[-2:]
    y, x = torch.rand(2).tolist()
    rows = box_side(y, height, lam)
    columns = box_side(x, width, lam)
    box = torch.zeros(height, width, device=clip.device)
    box[rows, columns] = 1
    box = is_mixed.view(-1, 1, 1, 1, 1) * box  # (N, 1, 1, H, W)
    area = box.mean((1, 2, 3, 4))[:, None]
    return torch.lerp(clip, clip.roll(1, 0), box), torch.lerp(target, target.roll(1, 0), area)


def box_side(centre, length, lam):
    """The slice of a box of sqrt(1 - lam) of a side, cut off at the border."""
    half = length * (1 - lam) ** 0.5 / 2
    return slice(int(max(0, centre * length - half)), int(min(length, centre * length + half)))


def stillmix(clip, is_mixed, lam, stills):
    """Li et al. 2023, lam ~ Beta(200, 200): stills (N, 3, 1 or T, H, W) laid over all frames; the
    label is kept."""
    return torch.lerp(clip, stills, (is_mixed * (1 - lam)).view(-1, 1, 1, 1, 1))


def stills_of_others(clip):
    """(N, 3, T, H, W) -> the same, of each sample a random frame of another, any of the batch"""
    n = len(clip)
    others = (torch.arange(n) + torch.randint(1, n, (n,))) % n
    return static_clip(clip[others], "random")


def background_erasing(clip, is_mixed, lam):
    """BE, Wang et al. 2021, lam ~ 0.3 Beta(1, 1): a random frame of the clip itself laid over all
    of its frames; the label is kept."""
    return torch.lerp(clip, static_clip(clip, "random"), (is_mixed * lam).view(-1, 1, 1, 1, 1))


def actorcutmix(clip, target, is_mixed, actors):
    """Zou et al. 2023: the actors, where actors (N, 1, T, H, W) is 1, on another sample whose own
    are blank; with r for their part of the pixels, labels weighted by 1 - (1 - r)^4."""
    area = actors.mean((1, 2, 3, 4))
    # A clip without an actor stays as it is.
    is_mixed = is_mixed * (area > 0)
    keep = 1 - is_mixed.view(-1, 1, 1, 1, 1) * (1 - actors)
    weight = 1 - is_mixed * (1 - area) ** 4
    scenes = clip * (1 - actors)
    mixed = torch.lerp(scenes.roll(1, 0), clip, keep)
    return mixed, torch.lerp(target.roll(1, 0), target, weight[:, None])


def fame(clip, is_mixed, mean, std):
    """Ding et al. 2022: the foreground pasted on another sample; the label is kept."""
    shape = (3, 1, 1, 1)
    rgb = clip * clip.new_tensor(std).view(shape) + clip.new_tensor(mean).view(shape)
    foreground = fame_foreground(rgb)[:, None, None]  # (N, 1, 1, H, W)
    keep = 1 - is_mixed.view(-1, 1, 1, 1, 1) * (1 - foreground)
    return torch.lerp(clip.roll(1, 0), clip, keep)


def fame_foreground(rgb):
    """(N, 3, T, H, W) from 0 to 1 -> (N, H, W), 1 in half of the pixels, 0 in the others

    Seeds: the half where frames differ the most is foreground, the tenth where they differ the
    least is background. The mask has the pixels whose colour is likelier in the foreground's."""
    pixels = rgb.shape[-2] * rgb.shape[-1]
    difference = rgb.diff(dim=2).abs().sum(1).mean(1)  # (N, H, W)
    difference = blur(difference).flatten(1)
    moving = difference.topk(pixels // 2).indices
    still = difference.topk(pixels // 10, largest=False).indices
    colours = colour_bins(rgb.mean(2)).flatten(1)  # (N, H W)
    in_moving = count_bins(colours.gather(1, moving))
    in_still = count_bins(colours.gather(1, still)) + 1
    p_moving = (in_moving / in_moving.sum(1, keepdim=True)).gather(1, colours)
    p_still = (in_still / in_still.sum(1, keepdim=True)).gather(1, colours)
    likely = (p_moving / (p_moving + p_still)).view(-1, *rgb.shape[-2:])
    foreground = blur(likely).flatten(1).topk(pixels // 2).indices
    mask = torch.zeros_like(difference).scatter(1, foreground, 1.0)
    return mask.view(-1, *rgb.shape[-2:])


def blur(image):
    """(N, H, W) -> the same, by a Gaussian kernel of a tenth of the height"""
    size = image.shape[1] // 10 // 2 * 2 + 1
    return v2.functional.gaussian_blur(image[:, None], [size, size], [size / 3, size / 3])[:, 0]


def colour_bins(rgb):
    """(N, 3, H, W) from 0 to 1 -> (N, H, W) from 0 to 999: ten steps each of HSV's value, and of
    its saturation along two axes, of which the hue is the angle"""
    red, green, blue = rgb.unbind(1)
    value = rgb.amax(1)
    saturation = (value - rgb.amin(1)) / (value + 1e-8)
    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    along = ten_steps((saturation * hue.cos() + 1) / 2)
    across = ten_steps((saturation * hue.sin() + 1) / 2)
    return along + 10 * across + 100 * ten_steps(value)


def ten_steps(value):
    """0 to 1 -> 0 to 9"""
    return (9 * value.clamp(0, 1)).round().long()


def count_bins(colours):
    """(N, n) from 0 to 999 -> (N, 1000) how often each"""
    counts = torch.zeros(len(colours), 1000, device=colours.device)
    return counts.scatter_add(1, colours, torch.ones_like(colours, dtype=counts.dtype))


# The a of an augmentation's lambda ~ Beta(a, a).
BETA = {"mixup": 0.2, "videomix": 1.0, "be": 1.0, "stillmix": 200.0}


def augment(batch, target, args):
    """One of Table 1's augmentations -> clips, targets (N, K). One lambda a batch (of each part and
    process), each sample with probability --augment-prob."""
    clip = batch["clip"]
    if args.augment == "none":
        return clip, target
    lam = None
    if args.augment in BETA:
        a = BETA[args.augment]
        lam = torch.distributions.Beta(a, a).sample().item()
    is_mixed = (torch.rand(len(clip)) < args.augment_prob).float().to(clip.device)
    if args.augment == "mixup":
        return mixup(clip, target, is_mixed, lam)
    if args.augment == "videomix":
        return videomix(clip, target, is_mixed, lam)
    if args.augment == "actorcutmix":
        return actorcutmix(clip, target, is_mixed, batch["actors"])
    if args.augment == "be":
        return background_erasing(clip, is_mixed, 0.3 * lam), target
    if args.augment == "fame":
        return fame(clip, is_mixed, args.mean, args.std), target
    # StillMix, of its bank's frames where there is one.
    stills = batch.get("stills")
    if stills is None:
        stills = stills_of_others(clip)
    return stillmix(clip, is_mixed, lam, stills), target


# ---- Model ---------------------------------------------------------------------------------------
def build_model(args, num_classes):
    """-> Network of args.model, from random weights."""
    names = torchvision.models.list_models(torchvision.models.video)
    if args.model == "tiny":
        net = Network(Tiny(num_classes), num_classes)
    elif ":" in args.model:
        net = Network(own_network(args.model, num_classes), num_classes)
    elif args.model in names:
        net = Network(torchvision.models.get_model(args.model, weights=None), num_classes)
    elif args.model in image_networks():
        net = ImageNetwork(torchvision.models.get_model(args.model, weights=None), num_classes)
    else:
        raise UserError(
            f"--model {args.model}: not one of tiny, {', '.join(names)}, nor one of "
            "torchvision.models, nor MODULE:FUNCTION"
        )
    memory_format = layout(args)
    if args.channels_last and isinstance(net, ImageNetwork):
        memory_format = torch.channels_last  # its weights have no dimension of frames
    return net.to(memory_format=memory_format)


def image_networks():
    """The networks of torchvision.models that end in a linear layer and give logits alone."""
    names = torchvision.models.list_models(torchvision.models)
    others = ("squeezenet", "googlenet", "inception")
    return [name for name in names if not name.startswith(others)]


class ImageNetwork(Network):
    """A network of images, which sees each frame by itself; features are their mean."""

    def features(self, clip):
        """(N, 3, T, H, W) -> (N, D)"""
        frames = clip.transpose(1, 2).flatten(0, 1)  # (N T, 3, H, W)
        return self.backbone(frames).unflatten(0, (len(clip), -1)).mean(1)


def layout(args):
    """The memory format of weights and clips."""
    return torch.channels_last_3d if args.channels_last else torch.contiguous_format


def swin_key(key):
    """A key of mmaction2's Video Swin checkpoints, or of its authors', in torchvision's names:
    layers.1.blocks.0 -> features.2.0, layers.1.downsample -> features.3, mlp.fc1 -> mlp.0,
    mlp.fc2 -> mlp.3, norm3 -> norm, cls_head.fc_cls -> head; the rest is called alike."""
    key = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", key)
    key = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", key)
    key = key.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
    key = re.sub(r"^norm3\.", "norm.", key)
    return re.sub(r"^cls_head\.fc_cls\.", "head.", key)


def first_weights(net, args, classes=()):
    """Load what --weights names. -> what was done, in words"""
    rename = None
    if args.model in ("swin3d_t", "swin3d_s", "swin3d_b"):
        rename = swin_key
    return load_weights(
        net,
        args.weights,
        args.model,
        rename=rename,
        drop=("data_preprocessor.",),
        normalisation=(args.mean, args.std),
        classes=classes,
    )


# ---- Losses --------------------------------------------------------------------------------------
# z, z_static (N, K) logits; each is the mean over the batch.
def cross_entropy(z, target):
    """Eq. (1)  L_CE = -sum_c y_c log p_c

    target: (N,) labels, or (N, K) probabilities of mixed clips
    """
    return F.cross_entropy(z, target)


def static_adversarial(z_static, label):
    """Eq. (2)  L_adv = -L_CE(p_static, y)

    label: (N,). Unbounded below; it moves encoder and head alike.
    """
    return -F.cross_entropy(z_static, label)


def entropy_maximisation(z_static):
    """Eq. (3)  L_ent = sum_c p_c log p_c

    At least -ln K, for a uniform prediction.
    """
    log_p = F.log_softmax(z_static, 1)
    return (log_p.exp() * log_p).sum(1).mean()


def gradient_penalty(z_static, static, norm="official", create_graph=True):
    """Eq. (4)  L_gp = || d sum_c z_c / d static ||_2

    static (N, C, T, H, W), which z_static was computed from. norm "full": over C, T, H, W, as
    printed; "official" (D1): over C, T, H, then the mean over W too.
    """
    scale = 1024.0  # a power of two: exact, and it keeps fp16 gradients above underflow
    objective = z_static.float().sum() * scale  # F(x), S1
    (gradient,) = torch.autograd.grad(
        objective, static, create_graph=create_graph, retain_graph=True
    )
    dims = (1, 2, 3) if norm == "official" else (1, 2, 3, 4)
    squares = (gradient.float() / scale).square().sum(dims)
    # The root's derivative is infinite at 0.
    return (squares + 1e-12).sqrt().mean()


def total_loss(l_ce, l_adv, l_ent, l_gp, w_adv, w_ent, w_gp):
    """Eq. (5)  L = L_CE + w_adv L_adv + w_ent L_ent + w_gp L_gp"""
    return l_ce + w_adv * l_adv + w_ent * l_ent + w_gp * l_gp


# ---- Training ------------------------------------------------------------------------------------
def training_step(model, batch, args, backward=None, log=False):
    """One batch of `prepare` -> loss of Eq. (5), dict of what is logged.

    backward: called with L_CE as soon as it is known, so that the moving clip's graph is freed
    before the static clip needs its own: the same gradient in less memory. The loss returned then
    has the static clip's gradient alone. log: add the figures that cost another backward pass.
    """
    clip = batch["clip"]
    label = batch["label"]
    head = unwrapped(model).head
    needs_static = uses_static(args)

    target = label
    if args.augment != "none":
        target = F.one_hot(label, head.out_features).float()
    mixed, target = augment(batch, target, args)
    # Gradients are exchanged in a step's last backward pass: not in this one where the static
    # clip's follows.
    with no_sync(model, needs_static):
        with autocast(clip.device, args.amp):
            z = model(mixed).float()
        l_ce = cross_entropy(z, target)  # Eq. (1)
        if needs_static and backward:
            backward(l_ce)
            l_ce = l_ce.detach()
    metrics = {"ce": l_ce.detach(), "accuracy": (z.argmax(1) == label).float().mean()}

    l_adv = l_ent = l_gp = 0.0
    if needs_static:
        static = batch.get("static")
        if static is None:
            static = static_clip(clip, args.static_frame)
        static.requires_grad_(args.w_gp > 0)
        # A compiled model has no second backward pass, nor has fused attention.
        eager = getattr(model, "_orig_mod", model)
        held_statistics = running_statistics(model, args.static_bn == "eval")  # S3
        with held_statistics, autocast(clip.device, args.amp), sdpa_kernel(SDPBackend.MATH):
            z_static = eager(static).float()
        if args.w_adv:
            l_adv = static_adversarial(z_static, label)  # Eq. (2)
        if args.w_ent:
            l_ent = entropy_maximisation(z_static)  # Eq. (3)
        if args.w_gp:
            l_gp = gradient_penalty(z_static, static, args.gp_norm)  # Eq. (4)
            # DistributedDataParallel waits for every parameter, and the head's bias has no part
            # in the penalty: here it gets a gradient of zero.
            l_gp = l_gp + 0 * z_static.sum()
        if args.w_gp and log:
            metrics |= watch_penalty(z_static, static, label, head, args.gp_norm)
        metrics["adv"] = l_adv
        metrics["ent"] = l_ent
        metrics["gp"] = l_gp
        metrics["static_accuracy"] = (z_static.argmax(1) == label).float().mean()
    loss = total_loss(l_ce, l_adv, l_ent, l_gp, args.w_adv, args.w_ent, args.w_gp)  # Eq. (5)
    return loss, {"loss": loss} | metrics


def watch_penalty(z_static, static, label, head, norm):
    """Figures for the log, of z_static (N, K), static (N, 3, T, H, W), label (N,): Eq. (4) is of
    the sum of the logits, and can fall without any class's gradient falling, by driving the sum of
    the head's rows to zero."""
    true = z_static.gather(1, label[:, None])
    of_true = gradient_penalty(true, static, norm, create_graph=False)
    return {"gp_true_logit": of_true, "head_row_sum": head.weight.detach().sum(0).norm()}


def unwrapped(model):
    """The Network that DistributedDataParallel or torch.compile may hold."""
    model = getattr(model, "_orig_mod", model)
    return getattr(model, "module", model)


@torch.inference_mode()
def validate(model, loader, args, device, name="val"):
    """-> {"NAME/...": figure} of a list's clips, and of their middle frames held still: of the
    validation list (IID alone), or of one of --watch"""
    # Each process has statistics of batch norm of its own: all take the first one's.
    broadcast(model)
    model.eval()
    n = loss = right = static_right = contrasted = static_entropy = 0.0
    unreadable = []
    for batch in loader:
        readable = batch["bad"] == 0
        unreadable += batch["index"][~readable].tolist()
        if not readable.any():
            continue
        chosen = {key: batch[key][readable] for key in ("clip", "label")}
        prepared = prepare(chosen, args, device)
        clip = prepared["clip"]
        label = prepared["label"]
        static = prepared.get("static")
        if static is None:
            static = static_clip(clip, "middle")
        with autocast(device, args.amp):
            z = model(clip).float()
            z_static = model(static).float()
        is_right = z.argmax(1) == label
        static_is_right = z_static.argmax(1) == label
        n += len(label)
        loss += float(F.cross_entropy(z, label, reduction="sum"))
        right += float(is_right.sum())
        static_right += float(static_is_right.sum())
        contrasted += float((is_right & ~static_is_right).sum())
        static_entropy -= float((z_static.softmax(1) * z_static.log_softmax(1)).sum())
    model.train()
    n, loss, right, static_right, contrasted, static_entropy = total(
        n, loss, right, static_right, contrasted, static_entropy
    )
    if not n:
        flag = name.split("/")[0]  # of watch/NAME
        raise UserError(f"{name}: no validation video can be read: check --{flag} and --root")
    return {
        f"{name}/loss": loss / n,
        f"{name}/accuracy": right / n,
        f"{name}/static_accuracy": static_right / n,
        f"{name}/contrasted": contrasted / n,
        f"{name}/static_entropy": static_entropy / n,
        f"{name}/chance": 1 / model.head.out_features,
        f"{name}/videos": int(n),
        f"{name}/unreadable": [loader.dataset.dataset.paths[i] for i in union(unreadable)],
    }


def learning_rate(step, steps_per_epoch, args):
    """Factor of the learning rate: linear warm-up, then cosine to 0 (Sec. 4.3), step by step."""
    warmup = args.warmup * steps_per_epoch
    steps = args.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def prepare(batch, args, device, bank=None):
    """A batch of the loader -> {"clip": (N, 3, T, H, W) float, "label": (N,)}, and where asked for
    "actors" (N, 1, T, H, W) of 0 and 1, "static" like the clip, "stills" (N, 3, 1, H, W)"""

    def normalised(pixels):
        pixels = normalise(pixels.to(device, non_blocking=True), args.mean, args.std)
        return pixels.contiguous(memory_format=layout(args))

    clip = batch["clip"]
    prepared = {"label": batch["label"].to(device, non_blocking=True)}
    # What add_actors or add_background has added came through the same crop and flip.
    if clip.ndim == 6:
        clip, added = clip.unbind(1)  # (N, 2, 3, T, H, W)
        if args.backgrounds:
            prepared["static"] = normalised(added)
        else:
            prepared["actors"] = (added[:, :1].to(device) > 127).float()
    prepared["clip"] = normalised(clip)
    if bank is not None:
        prepared["stills"] = normalised(bank[torch.randint(len(bank), (len(clip),))])
    return prepared


def make_optimizer(net, args):
    if args.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), args.lr, 0.9, weight_decay=args.weight_decay)
    lr = args.lr * args.batch_size / 64  # linear scaling rule (Sec. 4.3)
    return torch.optim.AdamW(net.parameters(), lr, weight_decay=args.weight_decay)


def train(args):
    """Train, log and save in args.out. -> figures of the last epoch on validation, and
    "checkpoint", the file of its weights."""
    rank, world, device = start(args.seed)
    data = make_data(args)
    order = Order(len(data.train), args.batch_size, args.seed, rank, world, args.accumulate)
    mixes_two = args.augment not in ("none", "be") and not args.bank
    if mixes_two and args.batch_size < 2 * order.parts:
        raise UserError(
            f"--augment mixes the clips of a part of the batch: --batch-size of at least two times "
            f"processes x --accumulate = {2 * order.parts}"
        )
    loader = make_loader(
        data.train, args, device, batch_sampler=order, persistent_workers=args.workers > 0
    )

    def test_loader(videos):
        part = Subset(videos, range(rank, len(videos), world))
        return make_loader(part, args, device, batch_size=args.batch_size)

    val_loader = test_loader(data.val)
    watched = {f"watch/{name}": test_loader(videos) for name, videos in data.watched.items()}

    net = build_model(args, len(data.train.videos.classes))
    try_clip(net, args)
    run = Run("albar", args, data.train, data.val, labels=[data.bank, data.boxes])
    note = run.note or first_weights(net, args, data.train.videos.classes)
    net.to(device)
    model = DistributedDataParallel(net) if world > 1 else net
    model = torch.compile(model) if args.compile else model

    optimizer = make_optimizer(net, args)
    steps_per_epoch = len(data.train) // args.batch_size
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(learning_rate, steps_per_epoch=steps_per_epoch, args=args)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    step = run.begin(
        note, device, model=net, optimizer=optimizer, scheduler=scheduler, scaler=scaler
    )

    def backward(loss):
        scaler.scale(loss / args.accumulate).backward()

    with Interrupt() as interrupt:
        for epoch in range(step // steps_per_epoch, args.epochs):
            order.start(epoch, skip=step - epoch * steps_per_epoch)
            batches = iter(loader)
            for _ in run.progress(epoch, order.skip):
                logged = (step + 1) % args.log_every == 0 or (step + 1) % steps_per_epoch == 0
                parts = [next(batches) for _ in range(args.accumulate)]
                for part, batch in enumerate(parts):
                    last = part + 1 == args.accumulate
                    seed_step(args.seed, step * args.accumulate + part, rank)
                    prepared = prepare(batch, args, device, data.bank)
                    # Of a batch in parts, the last exchanges the gradients.
                    with no_sync(model, not last):
                        loss, metrics = training_step(
                            model, prepared, args, backward, log=logged and last
                        )
                        backward(loss)
                    run.record(metrics, batch)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                scheduler.step()
                step += 1
                if logged:
                    run.log_steps(step, optimizer.param_groups[0]["lr"])
                    if interrupt.asked():
                        break
            if step == (epoch + 1) * steps_per_epoch:
                metrics = validate(net, val_loader, args, device)
                for name, ood_loader in watched.items():
                    metrics |= validate(net, ood_loader, args, device, name)
                run.log_epoch(step, metrics)
            # [same in all scripts: the loop's tail]
            run.save("last.pt", step)
            if interrupt.stop:
                interrupt.leave(run, step)
    return run.result()
    # [end]


# ---- SCUBA, Confl-FG: Sec. 4.1 and 4.4 -----------------------------------------------------------
@dataclass
class ScubaArgs:
    list: str = arg("", "test list", positional=True)
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of HMDB51's folder of lists", choices=(1, 2, 3))
    masks: str = arg("", "folder of the actors' masks, or a file of boxes of `sdn.py humans`")
    backgrounds: tuple = arg(
        (), "a set of videos each: folders of pictures, or sinusoid; none: sinusoid"
    )
    per_video: int = arg(1, "videos of each set made of a video; Li et al.: UCF101 5", low=1)
    conflfg: bool = arg(False, "the set conflfg too, of Sec. 4.4")
    out: str = arg("scuba", "folder of the sets and their lists")
    crf: int = arg(10, "loss of the H.264 videos; 0: none", low=0)
    seed: int = arg(0, "seed of the backgrounds", low=0)
    max_bad: float = arg(
        0.01, "share of videos without masks or unreadable beyond which to stop", low=0, high=1
    )
    workers: int = arg(os.cpu_count(), "processes; all cores", low=0)


def scuba(args):
    """Put the actors of a test list over new backgrounds: SCUBA (Sec. 4.1; Li et al. 2023), and
    Confl-FG (Sec. 4.4), as evaluate.py takes them. SCUFO is made of them there.

    python albar.py scuba test.txt --root videos --masks masks --out scuba \\
        --backgrounds places365 vqgan sinusoid --conflfg

    OUT has for each set SET.txt and its videos SET/PATH.mp4; videos.jsonl, a line a video: its
    frames, those without an actor, and the share of the box around its actor that is not the actor;
    first.png, a row for each of the first videos. Beside the test list is then a benchmark.json
    that names the lists, or it is said what to add to the one that is there. After a kill the same
    command goes on.

    Masks: of the video PATH, MASKS/PATH.npz instead of its ending, key mask, (T, H, W) of 0 and 1
    or up to 255, or a folder MASKS/PATH of pictures, one a frame; leading folders of PATH may be
    missing there. `sdn.py humans --masks` makes them by Mask R-CNN, frame by frame; the paper's of
    UCF101 are SAMTrack's, checked by hand. Values between are soft edges. MATLAB's:
    np.savez(FILE, mask=scipy.io.loadmat(FILE)["part_mask"].transpose(2, 0, 1)). Masks of another
    size are resized, and where they are a frame more or fewer than the video, both end with the
    shorter; more than that is refused. A frame whose mask is empty shows the background alone.
    Boxes leave scene around the actor, which lifts SCUBA (Table 8 against Table 2).

    A background is one still picture, resized to the video's frames, drawn at random by PATH and
    the seed. Confl-FG (no code was released): the sinusoid background with the actor of another
    class on it, of the middle one of its video's frames that show it, held still at its own place
    behind the moving one.

    H.264 in 4:4:4, so that colours end where the mask does: ffmpeg's players show it, browsers do
    not. At crf 10 a set of J-HMDB takes twice the space of its videos.
    """
    if not args.list or not args.masks:
        raise UserError("name a list and masks: scuba test.txt --root videos --masks FOLDER")
    videos = read_list(args.list, args.root, "test", args.split)
    videos = existing(each_once(videos, args.list), args.max_bad)
    outside = [path for path in videos.paths if path.startswith("/") or ".." in Path(path).parts]
    if outside:
        raise UserError(f"{outside[0]}: give paths below --root, which SETs repeat")
    masks = find_masks(args.masks, videos, args.max_bad)
    videos = subset(videos, [i for i, path in enumerate(videos.paths) if path in masks])
    pictures = find_pictures(args.backgrounds or ("sinusoid",))
    sets = list(pictures)
    if args.conflfg:
        sets.append("conflfg")
    out = Path(args.out)
    done = open_sets(out, args, videos)

    left = [i for i, path in enumerate(videos.paths) if path not in done]
    maker = Subset(SetMaker(videos, masks, pictures, args), left)
    loader = make_loader(maker, args, torch.device("cpu"), batch_size=None)
    bad = []
    for row in tqdm(loader, desc=args.out, unit="video", disable=None):
        if "bad" in row:
            bad.append(row["bad"])
            if len(bad) > args.max_bad * len(videos):
                raise UserError(
                    f"{len(bad)} of {len(videos)} videos cannot be used (--max-bad {args.max_bad}):"
                    f" {bad[-1]}"
                )
            continue
        done[row["path"]] = row
        with (out / "videos.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    if not done:
        raise UserError(f"none of {len(videos)} videos can be used: {bad[-1]}")
    write_sets(sets, videos, done, args)
    draw_first(sets, videos, done, args)
    report(done, bad, args)


def find_masks(place, videos, max_bad):
    """{path of a video: its folder or file of masks, or the Boxes of all} of those that have one"""
    if Path(place).is_file():
        boxes = Boxes([place])
        masks = {path: boxes for path in videos.paths if path in boxes}
    else:
        masks = {}
        for path in videos.paths:
            mask = masks_of(place, path)
            if mask:
                masks[path] = mask
        for mask, count in Counter(masks.values()).items():
            if count > 1:
                raise UserError(f"{mask}: of {count} videos: put masks into their videos' folders")
    lacking = [path for path in videos.paths if path not in masks]
    if not masks or len(lacking) > max_bad * len(videos):
        raise UserError(
            f"--masks {place}: no masks of {len(lacking)} of {len(videos)} videos, first "
            f"{lacking[0]}; or allow more with --max-bad"
        )
    return masks


def masks_of(place, path):
    """The file or folder of a video's masks, None where there is none: of its whole path, else of
    the path without its first folder, ..."""
    parts = Path(path).with_suffix("").parts
    for first in range(len(parts)):
        folder = Path(place, *parts[first:])
        file = folder.with_name(f"{folder.name}.npz")
        if file.is_file():
            return file
        if folder.is_dir():
            return folder
    return None


def find_pictures(backgrounds):
    """{name of a set: its files of pictures, [] for sinusoid, which is drawn}"""
    pictures = {}
    for place in backgrounds:
        name = Path(place).name
        if name in pictures or name == "conflfg":
            raise UserError(f"--backgrounds {place}: a second set {name}")
        pictures[name] = []
        if place != "sinusoid":
            files = sorted(Path(place).rglob("*"))
            pictures[name] = [f for f in files if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
            if not pictures[name]:
                raise UserError(f"--backgrounds {place}: no .jpg or .png in it; or `sinusoid`")
    return pictures


def open_sets(out, args, videos):
    """Begin the folder of the sets, or go on with it. -> {path: its line of videos.jsonl}"""
    settings = asdict(args) | dict(videos=sha1("\n".join(videos.paths).encode()).hexdigest())
    for name in ("workers", "max_bad", "out"):
        settings.pop(name)
    text = json.dumps(settings, indent=1)
    if not out.exists():
        with whole(out) as part:
            part.mkdir(parents=True)
            (part / "made.json").write_text(text)
            (part / "videos.jsonl").touch()
    if not (out / "made.json").is_file() or (out / "made.json").read_text() != text:
        raise UserError(f"{out}: is there already, of other settings or lists: name another --out")
    rows = {}
    for line in (out / "videos.jsonl").read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # a kill may have cut the last
            row = json.loads(line)
            rows[row["path"]] = row
    lines = [json.dumps(row) + "\n" for row in rows.values()]
    (out / "videos.jsonl").write_text("".join(lines))
    return rows


class SetMaker(torch.utils.data.Dataset):
    """Item i: makes all sets' videos of video i. -> its line of videos.jsonl, or {"bad": why there
    is none}"""

    def __init__(self, videos, masks, pictures, args):
        self.videos = videos
        self.masks = masks
        self.pictures = pictures
        self.args = args

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, i):
        path = self.videos.paths[i]
        try:
            frames, mask = read_actor(self.videos, i, self.masks)
            for number in range(self.args.per_video):
                for name, pictures in self.pictures.items():
                    rng = background_rng(self.args.seed, name, path, number)
                    background = draw_background(pictures, rng, frames.shape[1:3])
                    self.write(name, i, number, paste(frames, mask, background))
                if self.args.conflfg:
                    # The stripes of the set sinusoid.
                    rng = background_rng(self.args.seed, "sinusoid", path, number)
                    background = draw_background([], rng, frames.shape[1:3])
                    background = self.add_still_actor(background, i, rng)
                    self.write("conflfg", i, number, paste(frames, mask, background))
        except UserError as error:
            return {"bad": f"{path}: {error}"}
        return {"path": path} | describe_masks(mask)

    def write(self, name, i, number, frames):
        file = made_file(name, self.videos.paths[i], number, self.args)
        file.parent.mkdir(parents=True, exist_ok=True)
        rate = frame_rate(self.videos.full(i))
        write_video(file, frames.numpy(), rate, "yuv444p", self.args.crf)

    def add_still_actor(self, background, i, rng):
        """Confl-FG: the actor of a random video of another class on a background (H, W, 3)."""
        labels = np.array(self.videos.labels)
        others = np.flatnonzero(labels != labels[i])
        if not len(others):
            raise UserError("--conflfg: the list has no video of another class")
        other = int(rng.choice(others))
        try:
            frames, mask = read_actor(self.videos, other, self.masks)
        except UserError as error:
            raise UserError(f"its still actor, of {self.videos.paths[other]}: {error}") from None
        shown = (mask > 0.5).any(2).any(1).nonzero().flatten()
        t = shown[len(shown) // 2]
        actor = resize(frames[t].float(), background.shape[:2])
        alpha = resize(mask[t][..., None], background.shape[:2])
        return torch.lerp(background, actor, alpha)


def read_actor(videos, i, masks):
    """-> frames (T, H, W, 3) uint8 of video i, its masks (T, H, W) from 0 to 1. UserError where
    they do not fit, or show no actor."""
    file = videos.full(i)
    frames = read_clip(file, range(num_frames(file)))
    place = masks[videos.paths[i]]
    if isinstance(place, Boxes):
        mask = draw_boxes(place, videos.paths[i], np.arange(len(frames)), frames.shape[1:3])
    else:
        mask = read_masks(place)
    if abs(len(mask) - len(frames)) > 1:
        raise UserError(f"{len(mask)} masks for {len(frames)} frames")
    frames = frames[: len(mask)]
    mask = fit_masks(mask[: len(frames)], frames.shape[1:3])
    if not (mask > 0.5).any():
        raise UserError("all of its masks are empty")
    return frames, mask


def draw_boxes(boxes, path, indices, size):
    """-> (n, H, W) of 0 and 1, H, W = size: Boxes of some frames (n,) of a video"""
    mask = torch.zeros(len(indices), *size, dtype=torch.uint8)
    for image, frame_boxes in zip(mask, boxes(path, indices), strict=True):
        fill_boxes(image, frame_boxes, 1)
    return mask.float()


def fit_masks(mask, size):
    """(n, h, w) -> (n, H, W) of size H, W; UserError for another shape of the picture"""
    height, width = size
    if abs(mask.shape[1] / mask.shape[2] * width / height - 1) > 0.03:
        raise UserError(f"masks of {tuple(mask.shape[1:])} for frames of {tuple(size)}")
    return F.interpolate(mask[None], size, mode="bilinear", align_corners=False)[0]


def describe_masks(mask):
    """(T, H, W) -> {"frames": T, "empty": those that do not show the actor, "around": the share of
    the box around it that is not it}"""
    box = torch.zeros_like(mask)
    for image, actor in zip(box, mask > 0.5, strict=True):
        rows = actor.any(1).nonzero()
        columns = actor.any(0).nonzero()
        if len(rows):
            image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
    shown = (mask > 0.5).sum((1, 2))
    around = 1 - float(shown.sum() / box.sum())
    return dict(frames=len(mask), empty=int((shown == 0).sum()), around=round(around, 4))


def read_masks(place):
    """-> (T, H, W) from 0 to 1, of a .npz or a folder of pictures"""
    if place.is_dir():
        values = read_clip(place, range(num_frames(place))).amax(3)
    else:
        try:
            values = torch.from_numpy(np.load(place)["mask"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{place}: no masks, an array under the key mask: {error}") from None
        if values.ndim != 3 or values.numel() == 0:
            raise UserError(f"{place}: masks of shape {tuple(values.shape)}, not (T, H, W)")
    values = values.float()
    # Of 0 and 1, or up to 255.
    if values.max() > 1:
        values = values / 255
    if not (values.min() >= 0 and values.max() <= 1):
        raise UserError(f"{place}: masks that are neither from 0 to 1 nor from 0 to 255")
    return values


def background_rng(seed, name, path, number):
    """The random numbers of a background: the same whatever else is made."""
    digest = sha1(f"{name} {path} {number}".encode()).digest()
    return np.random.default_rng([seed, *digest])


def draw_background(pictures, rng, size):
    """(H, W, 3) from 0 to 255: one of the pictures, or without any sinusoid stripes"""
    if pictures:
        picture = read_clip(pictures[rng.integers(len(pictures))], [0])[0].float()
    else:
        picture = torch.from_numpy(draw_stripes(rng)).float()
    return resize(picture, size)


def resize(image, size):
    """(h, w, C) -> (H, W, C) of size (H, W)"""
    image = image.permute(2, 0, 1)[None]
    image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    return image[0].permute(1, 2, 0)


def draw_stripes(rng, side=256):
    """(side, side, 3) stripes of Li et al. 2023: of half width 5 to 20 pixels, repeated every 3 to
    5 half widths, along a sine of period 4 to 1004 and amplitude 10 to 110; turned by any angle, in
    a colour on its complement."""
    colour = rng.uniform(0, 1, 3)
    half_width = rng.uniform(5, 20)
    spacing = half_width * rng.uniform(3, 5)
    frequency = 2 * np.pi / rng.uniform(4, 1004)
    shift = rng.uniform(-100, 100)
    amplitude = rng.uniform(10, 110)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:side, :side] - side / 2
    x = columns * np.cos(angle) - rows * np.sin(angle)
    y = columns * np.sin(angle) + rows * np.cos(angle)
    distance = (y - amplitude * np.sin(frequency * (x + shift))) % spacing
    in_stripe = np.minimum(distance, spacing - distance) < half_width
    return 255 * np.where(in_stripe[..., None], 1 - colour, colour)


def paste(frames, mask, background):
    """SCUBA: m * frame + (1 - m) * background. (T, H, W, 3) uint8, (T, H, W), (H, W, 3) -> uint8"""
    pasted = torch.lerp(background.expand_as(frames), frames.float(), mask[..., None])
    return pasted.clamp(0, 255).to(torch.uint8)


def made_file(name, path, number, args):
    """The file of a set's video; of several of one video the first ends in -0."""
    ending = ".mp4"
    if args.per_video > 1:
        ending = f"-{number}.mp4"
    return Path(args.out, name, Path(path).with_suffix("").as_posix() + ending)


def write_sets(sets, videos, done, args):
    """The list of each set, and beside the test list benchmark.json, where there is none."""
    out = Path(args.out)
    labels = dict(zip(videos.paths, videos.labels, strict=True))
    for name in sets:
        lines = []
        for path in videos.paths:
            if path not in done:
                continue
            for number in range(args.per_video):
                file = made_file(name, path, number, args).relative_to(out)
                lines.append(f"{file.as_posix()} {labels[path]}\n")
        (out / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    names = "".join(f"{name}\n" for name in videos.classes)
    (out / "classes.txt").write_text(names, encoding="utf-8")

    file = Path(args.list).parent / "benchmark.json"
    benchmark = {"test": Path(args.list).name, "scuba": {}}
    for name in sets:
        path = os.path.relpath(out / f"{name}.txt", file.parent)
        if name == "conflfg":
            benchmark["conflfg"] = path
        else:
            benchmark["scuba"][name] = path
    text = json.dumps(benchmark, indent=1) + "\n"
    if file.exists() and file.read_text() != text:
        print(f"{file} is there and stays as it is; the new lists would need\n{text}", end="")
    else:
        file.write_text(text)


def draw_first(sets, videos, done, args, rows=4, side=128):
    """first.png: the middle frame of the first videos, as it is and in each set"""
    picture = []
    for path in list(done)[:rows]:
        files = [videos.full(videos.paths.index(path))]
        files += [made_file(name, path, 0, args) for name in sets]
        cells = []
        for file in files:
            frame = read_clip(file, [num_frames(file) // 2])[0].float()
            cells.append(resize(frame, (side, side)).to(torch.uint8))
        picture.append(torch.cat(cells, 1))
    write_picture(f"{args.out}/first.png", torch.cat(picture).numpy())


def report(done, bad, args):
    """Say what was made, and what is odd about it."""
    frames = sum(row["frames"] for row in done.values())
    empty = sum(row["empty"] for row in done.values())
    around = np.mean([row["around"] for row in done.values()])
    print(f"{args.out}: {len(done)} videos, {len(bad)} left out {shortened(bad, 3)}")
    print(f"{empty} of {frames} frames show no actor, but the background alone")
    if Path(args.masks).is_file():
        print(
            f"{args.masks}: boxes, not masks. What is around the actor in them comes along, and a "
            "network that knows scenes gets it right: this is no test of the scene's bias"
        )
    else:
        print(f"boxes around the actors would hold {around:.0%} that is not the actor")


# ---- StillMix's bank: Li et al. 2023 -------------------------------------------------------------
@dataclass
class StillbankArgs:
    run: str = arg("", "a run of this script on clips of one frame: --baseline --frames 1")
    model: str = arg("", "your own MODULE:FUNCTION that the run was trained with")
    out: str = arg("bank", "folder of the bank, for --bank")
    per_video: int = arg(8, "frames of a video that are looked at, evenly spaced", low=1)
    hardest: float = arg(
        0.1, "share of the frames left out, the least easy; Li et al.: UCF101 0.5", low=0, high=0.99
    )
    pictures: int = arg(1024, "frames of the bank; Li et al.", low=1)
    seed: int = arg(0, "seed of the draw", low=0)
    batch_size: int = arg(32, "videos in a forward pass", low=1)
    workers: int = arg(4, "loader processes of each process", low=0)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))


def stillbank(args):
    """The frames that a network of single frames names with most confidence, for StillMix (Li et
    al. 2023, ICCV; Table 1).

    python albar.py --baseline --frames 1 --model swin_t --weights IMAGENET1K_V1 \\
        --optimizer sgd --lr 0.01 --weight-decay 1e-5 --train train.txt --root videos \\
        --out runs/frame
    python albar.py stillbank --run runs/frame --out bank
    python albar.py --baseline --augment stillmix --bank bank --train train.txt --root videos

    It looks at the videos that the run was trained on, at whole frames squeezed to the run's size.
    Of all frames in the order of their highest probability, right or wrong, the bank has a random
    sample without the hardest share. OUT has the probabilities as log odds, in the form of `sdn.py
    scenes`, a column a frame, and the folder frames of pictures. After a kill the same command goes
    on; torchrun's processes share the videos. Li et al. look at every frame; their network is the
    2D form of the one that StillMix is for (ImageNet's Swin-T for Swin-T), by SGD without momentum
    at 0.01, a tenth of it from epoch 20 and 40 of 50, on squeezed frames.
    """
    if not args.run:
        raise UserError("name a run on clips of one frame: --run runs/frame")
    saved = load_checkpoint(args.run, "albar")
    run_args = checkpoint_args(Args, saved, args.run, args.model)
    if run_args.frames != 1:
        raise UserError(f"{args.run}: of clips of {run_args.frames} frames: train one --frames 1")
    rank, _, device = start(0, timedelta(days=7))
    model = build_model(run_args, len(saved["classes"]))
    restore(model, saved["model"], args.run)
    model.to(device).eval()
    mixed_precision = autocast(device, args.amp)
    videos, _ = read_lists(run_args)
    sample = partial(evenly, frames=args.per_video)
    squeeze = v2.Resize((run_args.size, run_args.size), antialias=True)
    dataset = Videos(videos, sample, squeeze)

    def look(clip):
        frames = clip.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (N F, 3, 1, H, W)
        with torch.inference_mode(), mixed_precision:
            z = model(normalise(frames, run_args.mean, run_args.std)).float()
        return log_odds(z).view(len(clip), -1), None

    columns = [f"frame {i + 1} of {args.per_video}" for i in range(args.per_video)]
    made = dict(what="log odds of the highest probability", run=args.run, step=saved["step"])
    made |= dict(hardest=args.hardest, pictures=args.pictures, seed=args.seed)
    label_videos(args, dataset, look, columns, made, device)
    if rank == 0:
        write_bank(args, videos, run_args.size)


def log_odds(z):
    """Logits (N, K) -> (N,) ln p / (1 - p) of the highest probability, which tells 0.9999 from
    0.99999 in half precision, too"""
    highest, place = z.max(1)
    others = z.scatter(1, place[:, None], -torch.inf)
    return highest - others.logsumexp(1)


def write_bank(args, videos, size):
    """Draw the frames of a bank, and write their pictures."""
    folder = Path(args.out, "frames")
    if folder.exists():
        return
    rng = np.random.default_rng(args.seed)
    odds = np.array(open_labels(args.out).labels, np.float32).ravel()  # video by video
    readable = np.flatnonzero(~np.isnan(odds))
    # In random order first, lest ties follow the list.
    readable = rng.permutation(readable)
    order = readable[odds[readable].argsort(kind="stable")]
    easy = order[int(args.hardest * len(order)) :]
    chosen = rng.permutation(easy)[: args.pictures]
    with whole(folder) as part:
        part.mkdir()
        for number, place in enumerate(tqdm(chosen, desc=str(folder), disable=None)):
            video, column = divmod(int(place), args.per_video)
            file = videos.full(video)
            frame = evenly(num_frames(file), args.per_video)[column]
            picture = read_clip(file, [frame])[0].permute(2, 0, 1)
            picture = v2.functional.resize(picture, [size, size], antialias=True)
            write_picture(part / f"{number:06}.png", picture.permute(1, 2, 0).numpy())
    print(f"{folder}: {len(chosen)} of {len(readable)} frames")


STEPS = {"scuba": (ScubaArgs, scuba, {}), "stillbank": (StillbankArgs, stillbank, {})}

if __name__ == "__main__":
    cli(Args, train, presets={"toy": TOY, "baseline": BASELINE}, steps=STEPS)
