"""SMAD: Mitigating Representation Bias in Action Recognition: Algorithms and Benchmarks.
H. Duan, Y. Zhao, K. Chen, Y. Xiong, D. Lin. ECCV 2022. arXiv:2209.09393

A video has facets besides its action: scene, object, event. MAAT puts an adversarial classifier of
each behind a gradient reversal, so that the features forget them. SAAR learns, without any label,
where in a frame the action is, and weights the features there. OmniDebias, of the same paper, is in
omnidebias.py.

Equation map                       (grep "Eq. (3)": this row, the function, the line that uses it)
  Eq. (1)  heads_objective         L_CE + sum_i lambda_i L_adv,i, minimised by all heads
  Eq. (2)  backbone_objective      L_CE - sum_i lambda_i L_adv,i, minimised by the backbone; only
                                   logged: Reverse gives its gradient in the pass of Eq. (1)
  Eq. (3)  soft_cross_entropy      adversarial loss of a soft-label aspect, half of it
  Eq. (4)  kl_divergence           the other half
  Eq. (5)  actionness_reweighting  features times H W softmax(score map); SAAR, Fig. 5
  Sec. 5.1 binary_cross_entropy    adversarial loss of an aspect of tags

Commands
  python smad.py                   the embedded data set (drawn once); --baseline: plain
  Table 7, row by row: --baseline | --aspect none (SAAR) | --no-saar (MAAT) | (no flag)
  Table 8: --aspect none | one or more aspects
  python sdn.py scenes train.txt val.txt --root videos --weights resnet50_places365.pth.tar \\
      --categories categories_places365.txt --out scenes
  python sdn.py scenes train.txt val.txt --root videos --weights IMAGENET1K_V2 --out objects
  python smad.py split train.txt --labels scene=scenes --out k200db      (Sec. 4.1; two: both-split)
  torchrun --nproc-per-node 8 smad.py --train k200db/train.txt --root videos \\
      --aspect scene=scenes object=objects event=HVU_Train_V1.0.csv:event  (--tsn: the 2D network)

DEVIATION from the paper
  D1  Table 6's 3D ResNet-18 is Hara et al.'s; --model r3d_18 is torchvision's, whose first layer is
      3x7x7 without max pool, and whose shortcuts are of type B.
SILENT in the paper, for which there is no official code
  S1  Eqs. (3), (4) differ by the labels' entropy, so that 0.5 of each has exactly the gradient of
      one Eq. (3).
  S2  The recipe, dropout and pre-processing: mmaction2's of TSN and of SlowOnly from ImageNet
      weights.
  S3  An adversary sees the pooled features that the action head sees, after dropout (of a TSN each
      segment's, and its losses are averaged), through SDN's four layers without batch norm.
      lambda_i scales the adversary's own gradient too, as Eq. (1) says (SDN's does not).
  S4  Which aspects Tables 2, 3, 5 to 7 use: scene and object, each divided by 2, as Sec. 6.3 does.
      A label is the mean of 10 frames' softmax. BCE is the mean over the tags. A video without
      labels adds nothing.
  S5  SAAR: two bottleneck blocks of width 64 with stride 1 and batch norm (of tiny: group norm);
      the score's convolution starts at zero. It belongs to Theta: it gets the reversed gradients,
      too.
  S6  TSN at test averages the softmax of its 25 frames, each the middle of a part: at some lengths
      a frame beside mmaction2's. The split: see `split --help`.
  S7  Warm-up begins at 1/(its steps), mmaction2's at a tenth. Crops are random resized ones, where
      its TSN has MultiScaleCrop. Videos shorter than a clip loop.
"""

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.video.resnet import VideoResNet

from common import (
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
    check_missing,
    cli,
    each_once,
    evenly,
    load_weights,
    make_loader,
    nmi,
    no_sync,
    normalise,
    open_labels,
    own_network,
    random_clip,
    read_hard_labels,
    read_labels,
    read_lines,
    read_list,
    read_lists,
    seed_step,
    start,
    test_transform,
    total,
    train_transform,
    try_clip,
    tsn_segments,
    union,
    write_lists,
)


# ---- Args ----------------------------------------------------------------------------------------
@dataclass
class Args:
    aspect: tuple = arg(
        (),
        "an aspect of MAAT: NAME=FOLDER of `sdn.py scenes`, or tags, NAME=FOLDER:CATEGORY or "
        "NAME=HVU.csv:CATEGORY; none: no MAAT. Repeatable. Sec. 5.1: scene, object",
    )
    w_ce: float = arg(
        0.5, "weight of Eq. (3), soft labels; Sec. 6.1; divided by the number of aspects", low=0
    )
    w_kl: float = arg(0.5, "weight of Eq. (4), soft labels; Sec. 6.1; likewise", low=0)
    w_bce: float = arg(5.0, "weight of the binary cross-entropy, tags; Sec. 6.1; likewise", low=0)
    adversary: str = arg(
        "mlp", "an aspect's head; the paper is silent; SDN's four layers", choices=("mlp", "linear")
    )
    saar: bool = arg(True, "spatial-aware actionness reweighting before the last stage; Sec. 5.1")
    saar_width: int = arg(
        64, "bottleneck width of SAAR's stage; the paper: small", low=1, high=9999
    )
    saar_blocks: int = arg(
        2, "residual blocks of SAAR's stage; the paper is silent", low=1, high=99
    )

    train: str = arg("", "training list; none: the embedded one, as with --toy")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(
        0.06, "share of the training list held out, seeded; the paper is silent", low=0, high=1
    )
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(
        1, "official split of HMDB51's folder of lists; Table 6: all three", choices=(1, 2, 3)
    )
    frames: int = arg(8, "frames of a clip; Sec. 6.1: 8, TSN 3 segments", low=1)
    stride: int = arg(8, "step between frames; Sec. 6.1", low=1)
    test_clips: int = arg(
        10, "clips of a video in evaluate.py; Sec. 6.1: ten, of TSN 25 frames", low=1
    )
    size: int = arg(224, "pixels of a clip's side; Sec. 5.1: 14 x 14 before the last stage", low=8)
    resize: int = arg(256, "short side at test, before the centre crop; mmaction2", low=8)
    scale: tuple = arg(
        (0.08, 1.0),
        "area of the random resized crop; mmaction2; --tsn: 0.66 squared",
        low=0,
        high=1,
    )
    flip: float = arg(0.5, "probability of the horizontal flip; mmaction2", low=0, high=1)
    mean: tuple = arg((0.485, 0.456, 0.406), "of the channels; ImageNet's, and mmaction2's")
    std: tuple = arg((0.229, 0.224, 0.225), "of the channels", low=1e-3)

    model: str = arg(
        "slowonly_r18",
        "Sec. 6.1: slowonly_r18 or tsn_r50 (--tsn); also slowonly_r50, tiny, tsn_tiny, a video "
        "ResNet of torchvision (r3d_18: Table 6), or your own PACKAGE.MODULE:FUNCTION, called with "
        "the number of classes",
    )
    weights: str = arg(
        "IMAGENET1K_V1",
        "of the backbone: torchvision's name, a file (mmaction2's too), or none; Sec. 6.1: "
        "ImageNet",
    )
    dropout: float = arg(
        0.5,
        "before the heads; mmaction2: 0.5, TSN 0.4; not of tiny; to compare with sdn.py: 0",
        low=0,
        high=1,
    )

    epochs: int = arg(
        150, "epochs; mmaction2's SlowOnly from ImageNet weights, as all of this recipe", low=0
    )
    batch_size: int = arg(64, "clips of an optimiser step over all processes; mmaction2", low=1)
    optimizer: str = arg("sgd", "mmaction2: sgd, momentum 0.9", choices=("sgd", "adamw"))
    lr: float = arg(0.01, "learning rate; mmaction2", low=0)
    weight_decay: float = arg(1e-4, "mmaction2", low=0)
    clip_grad: float = arg(40.0, "greatest norm of the gradient, 0: any; mmaction2", low=0)
    schedule: str = arg(
        "step", "of --lr: a tenth after each of --milestones, or cosine", choices=("step", "cosine")
    )
    milestones: tuple = arg((90, 130), "two epochs; mmaction2; TSN 40, 80", low=0)
    warmup: float = arg(10.0, "epochs of linear warm-up; mmaction2", low=0)
    seed: int = arg(0, "seed of the run", low=0)

    out: str = arg("", "folder of the run; none: runs/smad, runs/smad-baseline")
    resume: bool = arg(False, "go on from the last checkpoint in --out")
    overwrite: bool = arg(False, "train anew where --out holds a run")
    accumulate: int = arg(1, "parts in which a batch goes through the network", low=1)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))
    compile: bool = arg(False, "torch.compile")
    workers: int = arg(4, "loader processes of each training process", low=0)
    cache: bool = arg(False, "keep decoded videos in memory; for small ones")
    max_bad: float = arg(
        0.01, "share of missing, broken or unlabelled videos beyond which to stop", low=0, high=1
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
TOY |= dict(
    aspect=("scene=data/toy0/scenes", "object=data/toy0/objects"),
    saar_width=4,
    saar_blocks=1,
    test_clips=1,
    schedule="cosine",
    clip_grad=0.0,
)
# [same in smad.py and omnidebias.py: mmaction2's recipe of TSN]
TSN = dict(
    model="tsn_r50",
    frames=3,
    test_clips=25,
    dropout=0.4,
    epochs=100,
    batch_size=256,
    scale=(0.43, 1.0),
    milestones=(40, 80),
    warmup=0.0,
)
# [end]
BASELINE = dict(aspect=("none",), saar=False, out="runs/smad-baseline")


# ---- Data ----------------------------------------------------------------------------------------
@dataclass
class Data:
    train: Videos
    val: Videos
    aspects: dict  # {NAME: (n, D)} of the training videos
    val_aspects: dict
    tags: set  # the names of those aspects that are tags

    def sizes(self):
        return {name: labels.shape[1] for name, labels in self.aspects.items()}


def make_data(args):
    """-> Data. Soft labels: a row of zeros where a video has none; tags, 0 and 1: a row of NaN."""
    train_list, val_list = read_lists(args)
    if not args.aspect:
        raise UserError(
            "MAAT needs labels: --aspect NAME=FOLDER for each aspect (`python sdn.py scenes` makes "
            "them), or --aspect none"
        )
    paths = train_list.paths + val_list.paths
    aspects = {}
    val_aspects = {}
    tags = set()
    for spec in args.aspect if args.aspect != ("none",) else ():
        aspect = read_aspect(spec, paths, args.max_bad)
        if aspect.name in aspects:
            raise UserError(f"--aspect {spec}: a second of that name: rename it")
        aspects[aspect.name] = aspect.labels[: len(train_list)]
        val_aspects[aspect.name] = aspect.labels[len(train_list) :]
        if aspect.are_tags:
            tags.add(aspect.name)
    sample, val_sample = samplers(args)
    return Data(
        train=Videos(
            train_list,
            sample,
            train_transform(args.size, args.scale, args.flip),
            seed=args.seed,
            cache=args.cache,
            max_bad=args.max_bad,
        ),
        val=Videos(
            val_list,
            val_sample,
            test_transform(args.size, args.resize),
            seed=args.seed,
            cache=args.cache,
        ),
        aspects=aspects,
        val_aspects=val_aspects,
        tags=tags,
    )


# [same in smad.py and omnidebias.py: samplers]
def samplers(args):
    """-> what frames are taken in training, in validation: a clip's, or of a TSN the segments'."""
    if args.model in ("tsn_tiny", "tsn_r50"):
        return partial(tsn_segments, segments=args.frames), partial(evenly, frames=args.frames)
    clip = dict(frames=args.frames, stride=args.stride)
    return partial(random_clip, **clip), partial(centre_clip, **clip)


# [end]


@dataclass
class Aspect:
    name: str
    labels: torch.Tensor  # (n, D) of the videos, in their order
    are_tags: bool


def read_aspect(spec, paths, max_missing):
    """Aspect of NAME=FOLDER, soft labels, or NAME=FOLDER:CATEGORY, NAME=FILE.csv:CATEGORY, tags."""
    name, _, source = spec.partition("=")
    source, _, category = source.partition(":")
    if not name.isidentifier() or not source or (source.endswith(".csv") and not category):
        raise UserError(
            f"--aspect {spec}: expected NAME=FOLDER, NAME=FOLDER:CATEGORY, NAME=FILE.csv:CATEGORY, "
            "or none"
        )
    if hasattr(nn.ModuleDict(), name):
        raise UserError(f"--aspect {spec}: a name that cannot be used: rename it")
    if not category:
        labels, _ = read_labels([source], paths, max_missing)
        return Aspect(name, labels, are_tags=False)
    if source.endswith(".csv"):
        rows, names = read_hvu(Path(source), category, paths)
    else:
        rows, names = read_tags(source, category)
    known = np.array([path in rows for path in paths])
    check_missing(f"{source}: no tags of", paths, known, max_missing)
    nothing = np.full(len(names), np.nan)
    labels = np.stack([rows.get(path, nothing) for path in paths]).astype(np.float32)
    return Aspect(name, torch.from_numpy(labels), are_tags=True)


def read_tags(folder, category):
    """Tags of one category of a labels folder of 0 and 1 with categories `category:name`.
    -> {path: (M,)}, M names"""
    part = open_labels(folder)
    columns = []
    for i, full_name in enumerate(part.categories):
        if full_name.startswith(f"{category}:"):
            columns.append(i)
    if not columns:
        kinds = sorted({full_name.split(":")[0] for full_name in part.categories})
        raise UserError(f"{folder}: no tags of {category!r}, but of {', '.join(kinds)}")
    tags = part.labels[:, columns]
    known = ~np.isnan(tags).any(1)
    if not np.isin(tags[known], (0, 1)).all():
        raise UserError(f"{folder}: labels that are not 0 and 1 are no tags")
    rows = {part.paths[i]: tags[i] for i in np.flatnonzero(known)}
    return rows, [part.categories[i].split(":", 1)[1] for i in columns]


def read_hvu(file, category, paths):
    """Tags of one category of HVU's .csv as published, `tag|tag,youtube_id,time_start,time_end` a
    line, with HVU_Tags_Categories_V1.0.csv beside it. -> {path: (M,)} of those of the videos that
    it has, M names in alphabetical order

    A video is found by the name of its file: ID, or ID_start_end with six digits each, in seconds
    (Kinetics) or in tenths (HVU's crawler).
    """
    category_of = read_hvu_categories(file.with_name("HVU_Tags_Categories_V1.0.csv"))
    wanted = {"context": "concept"}.get(category, category)  # SMAD's name of it
    names = sorted(tag for tag, kind in category_of.items() if kind == wanted)
    if not names:
        kinds = sorted(set(category_of.values()))
        raise UserError(f"{file}: no tags of {category!r}, but of {', '.join(kinds) or 'nothing'}")
    column_of = {tag: i for i, tag in enumerate(names)}
    stems = {Path(path).stem for path in paths}
    row_of_stem = {}
    for place, line in read_lines(file):
        if line.startswith("Tags,"):
            continue
        try:
            tags, video, begin, end = line.split(",")
            seconds = [f"{int(float(t)):06d}" for t in (begin, end)]
            tenths = [f"{int(10 * float(t)):06d}" for t in (begin, end)]
        except (ValueError, OverflowError):
            raise UserError(f"{place}: expected `tag|tag,id,0.0,10.0`: {line[:70]!r}") from None
        row = np.zeros(len(names))
        for tag in tags.split("|"):
            if tag not in category_of:
                raise UserError(f"{place}: no category of {tag!r}: {line[:70]!r}")
            if tag in column_of:
                row[column_of[tag]] = 1
        if video in row_of_stem and video in stems:
            raise UserError(f"{place}: a second clip of {video}: call its files ID_start_end")
        for stem in {video, "_".join([video, *seconds]), "_".join([video, *tenths])} & stems:
            row_of_stem[stem] = row
    rows = {path: row_of_stem[Path(path).stem] for path in paths if Path(path).stem in row_of_stem}
    return rows, names


def read_hvu_categories(file):
    """{tag: category} of HVU_Tags_Categories_V1.0.csv"""
    category_of = {}
    for place, line in read_lines(file)[1:]:
        if line.count(",") != 1:
            raise UserError(f"{place}: expected `Tag,Category`: {line[:70]!r}")
        tag, kind = line.split(",")
        category_of[tag] = kind
    return category_of


# ---- Model ---------------------------------------------------------------------------------------
# [same in smad.py and omnidebias.py: backbones]
def make_backbone(model, num_classes):
    """-> the backbone of --model, from random weights: tiny, tsn_tiny, slowonly_r18, slowonly_r50,
    tsn_r50, a video ResNet of torchvision, or MODULE:FUNCTION"""
    if model in ("tiny", "tsn_tiny"):
        return Tiny(num_classes)
    if ":" in model:
        return own_network(model, num_classes)
    if model in ("slowonly_r18", "slowonly_r50", "tsn_r50"):
        family, _, depth = model.partition("_r")
        backbone = torchvision.models.get_model(f"resnet{depth}", weights=None)
        return slow_only(backbone) if family == "slowonly" else backbone
    names = torchvision.models.list_models(torchvision.models.video)
    names = [name for name in names if name.startswith(("r3d", "mc3", "r2plus1d"))]
    if model not in names:
        raise UserError(
            f"--model {model}: not one of tiny, tsn_tiny, slowonly_r18, slowonly_r50, tsn_r50, "
            f"{', '.join(names)}, nor MODULE:FUNCTION"
        )
    return torchvision.models.get_model(model, weights=None)


def slow_only(net):
    """A 2D ResNet of torchvision -> the same as SlowOnly: stride 1 in time throughout, and kernels
    of three frames in the last two stages only, in both convolutions of a basic block, in the
    first of a bottleneck (mmaction2)."""
    for name, layer in [*net.named_modules()]:
        if isinstance(layer, nn.Conv2d):
            block = net.get_submodule(name.rpartition(".")[0])
            t = 3 if sees_three_frames(name, block) else 1
            new = nn.Conv3d(
                layer.in_channels,
                layer.out_channels,
                (t, *layer.kernel_size),
                (1, *layer.stride),
                (t // 2, *layer.padding),
                bias=False,
            )
        elif isinstance(layer, nn.BatchNorm2d):
            new = nn.BatchNorm3d(layer.num_features)
        elif isinstance(layer, nn.MaxPool2d):
            new = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            new = nn.AdaptiveAvgPool3d(1)
        else:
            continue
        net.set_submodule(name, new)
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d):
            # As torchvision's.
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


def sees_three_frames(name, block):
    """Whether a convolution of a ResNet is one of SlowOnly's that look at three frames."""
    stage = name.split(".")[0]
    convolution = name.split(".")[-1]
    if stage not in ("layer3", "layer4") or not convolution.startswith("conv"):
        return False
    is_bottleneck = hasattr(block, "conv3")
    return convolution == "conv1" or not is_bottleneck


def torchvision_name(model):
    """slowonly_r50 -> resnet50, whose ImageNet weights it starts from"""
    return model.replace("slowonly_r", "resnet").replace("tsn_r", "resnet")


def mmaction_key(key):
    """A key of mmaction2's TSN and SlowOnly checkpoints in torchvision's names:
    conv1.conv -> conv1, conv1.bn -> bn1, downsample.conv -> downsample.0, downsample.bn ->
    downsample.1, cls_head.fc_cls -> fc; layers and blocks are called alike."""
    key = re.sub(r"\bconv(\d)\.(conv|bn)\.", lambda m: f"{m[2]}{m[1]}.", key)
    key = key.replace("downsample.conv.", "downsample.0.").replace(
        "downsample.bn.", "downsample.1."
    )
    return re.sub(r"^cls_head\.fc_cls\.", "fc.", key)


def inflate(weight, shape):
    """A 2D kernel (O, I, h, w) for a shape (O, I, t, h, w): repeated over t, over t (Carreira and
    Zisserman 2017)"""
    if weight.ndim == 4 and len(shape) == 5:
        return (weight[:, :, None] / shape[2]).expand(-1, -1, shape[2], -1, -1)
    return weight


def first_weights(net, args, classes=()):
    """Load what --weights names. -> what was done, in words"""
    return load_weights(
        net,
        args.weights,
        torchvision_name(args.model),
        rename=mmaction_key,
        drop=("data_preprocessor.",),
        fit=inflate,
        normalisation=(args.mean, args.std),
        classes=classes,
        optional=("saar.",),
    )


# [end]


# [same in sdn.py, smad.py and omnidebias.py: reversal]
class Reverse(torch.autograd.Function):
    """Gradient reversal layer (Ganin and Lempitsky 2015): identity, whose gradient is multiplied by
    -lam."""

    @staticmethod
    def forward(ctx, x, lam):
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.lam * gradient, None


# [end]


# [same in smad.py and omnidebias.py: SAAR, adversaries, Output]
def actionness_reweighting(f, a):
    """Eq. (5)  F'(c,t,h,w) = (H W) F(c,t,h,w) A'(t,h,w), A' = softmax of A over h, w

    f (N T, C, H, W), a score map a (N T, 1, H, W), a row a frame -> F', and the mask H W A'
    (N T, 1, H, W), of mean 1 in each frame
    """
    height, width = a.shape[2:]
    mask = height * width * a.float().flatten(2).softmax(2).view_as(a)
    return f * mask.to(f.dtype), mask


class SAAR(nn.Module):
    """Spatial-Aware Actionness Reweighting (Fig. 5): a 2D residual stage of small bottleneck width,
    then a 3 x 3 convolution to one channel, whose zero start makes the module the identity at
    first."""

    def __init__(self, channels, width, blocks, norm):
        super().__init__()
        stage = []
        for _ in range(blocks):
            # torchvision's bottleneck gives 4 planes = channels, and planes * base_width / 64 =
            # width is that of its inside.
            block = Bottleneck(
                channels, channels // 4, base_width=256 * width / channels, norm_layer=norm
            )
            stage.append(block)
        self.stage = nn.Sequential(*stage)
        self.score = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, f):
        """(N, C, T, H, W), or frames (N T, C, H, W) -> reweighted features of that shape, mask
        (N T, 1, H, W)"""
        if f.ndim == 4:
            return actionness_reweighting(f, self.score(self.stage(f)))  # Eq. (5)
        frames = f.transpose(1, 2).flatten(0, 1)
        frames, mask = actionness_reweighting(frames, self.score(self.stage(frames)))  # Eq. (5)
        return frames.unflatten(0, (len(f), f.shape[2])).transpose(1, 2), mask


def make_adversary(width, size, kind="mlp"):
    """A head h_Z, (..., width) -> (..., size), for an aspect of `size` labels: SDN's four layers,
    or one."""
    if kind == "linear":
        return nn.Sequential(nn.Linear(width, size))
    return nn.Sequential(
        nn.Linear(width, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, size),
    )


class Output(NamedTuple):
    """What a network gives of a batch; S: the segments of a TSN, else 1."""

    logits: torch.Tensor  # (N, K)
    features: torch.Tensor  # (N, S, D) f(x), which the action head sees
    aspects: dict  # {NAME: (N, S, M)} logits of the adversaries, of M labels each
    mask: torch.Tensor | None  # (N T, 1, h, w) of SAAR


# [end]


class SMAD(Network):
    """The network of Fig. 4: SAAR before the last stage of its backbone, and for each aspect an
    adversarial head h_Z on the features f(x). A TSN's backbone sees single frames; their logits are
    averaged over the segments."""

    def __init__(self, args, num_classes, heads):
        super().__init__(make_backbone(args.model, num_classes), num_classes)
        self.tsn = args.model in ("tsn_tiny", "tsn_r50")
        self.is_tiny = isinstance(self.backbone, Tiny)
        self.has_stages = type(self.backbone) in (Tiny, ResNet, VideoResNet)
        self.dropout = nn.Dropout(args.dropout)  # which tiny does not use: see pool
        self.adversaries = nn.ModuleDict()
        self.saar = None
        if args.saar:
            self.saar = SAAR(
                self.channels_before_last_stage(),
                args.saar_width,
                args.saar_blocks,
                norm=partial(nn.GroupNorm, 1) if self.is_tiny else nn.BatchNorm2d,
            )
        for name, size in heads.items():
            self.adversaries[name] = make_adversary(self.head.in_features, size, args.adversary)

    # [same in smad.py and omnidebias.py: stages]
    def channels_before_last_stage(self):
        if not self.has_stages:
            raise UserError(
                "SAAR sits before a ResNet's layer4: in a network of your own leave it out, by "
                "smad.py --no-saar, or omnidebias.py without --smad"
            )
        last = self.backbone.layers[6:] if self.is_tiny else self.backbone.layer4
        convolutions = [m for m in last.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        return convolutions[0].in_channels

    def early_stages(self, x):
        """(N, 3, T, H, W), or frames (N S, 3, H, W) -> features before the last stage"""
        if self.is_tiny:
            return self.backbone.layers[:6](x)  # of three layers, each of three modules
        if not self.has_stages:
            return x
        # torchvision's ResNets name their stages in the order of the forward pass; after layer4
        # come the pool and the classifier.
        for name, stage in self.backbone.named_children():
            if name == "layer4":
                break
            x = stage(x)
        return x

    def last_stage(self, x):
        """-> features of the last stage, (N, D, T, h, w) or (N S, D, h, w)"""
        if self.is_tiny:
            return self.backbone.layers[6:](x)
        if not self.has_stages:
            return self.backbone(x)
        return self.backbone.layer4(x)

    def pool(self, x):
        """-> (N, D) or (N S, D)"""
        if self.is_tiny:
            return x.mean((2, 3, 4))
        if not self.has_stages:
            return self.dropout(x)
        return self.dropout(self.backbone.avgpool(x)).flatten(1)

    # [end]

    def forward(self, clip, full=False):
        """(N, 3, T, H, W) -> (N, K) action logits, or with full an Output"""
        segments = 1
        x = clip
        if self.tsn:
            segments = clip.shape[2]
            x = clip.transpose(1, 2).flatten(0, 1)  # (N S, 3, H, W)
            if self.is_tiny:
                x = x[:, :, None]
        x = self.early_stages(x)
        mask = None
        if self.saar is not None:
            x, mask = self.saar(x)  # Eq. (5)
        f = self.pool(self.last_stage(x))  # (N S, D)
        logits = self.head(f).unflatten(0, (-1, segments)).mean(1)
        if not full:
            return logits
        f = f.unflatten(0, (-1, segments))
        # The heads descend their losses. The backbone, below the reversal, ascends them; by 1, as
        # lambda_i is a factor of the loss already: Eq. (2).
        reversed_f = Reverse.apply(f, 1.0)
        aspects = {name: head(reversed_f) for name, head in self.adversaries.items()}
        return Output(logits, f, aspects, mask)

    def features(self, clip):
        """(N, 3, T, H, W) -> (N, D), averaged over a TSN's segments"""
        return self(clip, full=True).features.mean(1)

    @property
    def scene_head(self):
        """The run's own scene classifier, which evaluate.py measures."""
        return self.adversaries["scene"] if "scene" in self.adversaries else None


def build_model(args, num_classes, heads=None):
    """-> SMAD of args.model, from random weights, with adversaries of `heads`, {NAME: D}; .saar is
    None with --no-saar."""
    return SMAD(args, num_classes, heads or {})


# ---- Losses --------------------------------------------------------------------------------------
# logits (N, K) of the actions, s (N, S, M) of an aspect, z its labels; each is the mean over the
# batch.
# [same in smad.py and omnidebias.py: cross-entropies]
def cross_entropy(logits, label):
    """L_ce,Y of Sec. 5.1

    label: (N,)
    """
    return F.cross_entropy(logits, label)


def soft_cross_entropy(s, z):
    """Eq. (3)  L_adv = -sum_k z_k log h(f(x))_k

    h = softmax(s); z: soft labels, of s's shape or broadcast to it; a row of zeros adds 0 to the
    mean
    """
    return -(z * s.log_softmax(-1)).sum(-1).mean()


# [end]


def kl_divergence(s, z):
    """Eq. (4)  L_adv = sum_k z_k log(z_k / h(f(x))_k)

    h = softmax(s); z: soft labels. It is Eq. (3) less the entropy of z, so that both have one
    gradient, and 0.5 of each has that of one Eq. (3).
    """
    return (torch.xlogy(z, z) - z * s.log_softmax(-1)).sum(-1).mean()


def binary_cross_entropy(s, tags):
    """Sec. 5.1  BCE, the mean over videos and tags

    tags: 0 and 1, of s's shape; a row of NaN adds 0 to the mean
    """
    known = tags.isfinite().float()
    return F.binary_cross_entropy_with_logits(s, tags.nan_to_num(), known)


def aspect_loss(s, z, are_tags, w_ce, w_kl, w_bce):
    """The adversarial loss of one aspect with its weight of Sec. 6.1."""
    if are_tags:
        return w_bce * binary_cross_entropy(s, z)
    loss = w_ce * soft_cross_entropy(s, z)  # Eq. (3)
    return loss + w_kl * kl_divergence(s, z)  # Eq. (4)


def heads_objective(l_ce, l_adv, lam):
    """Eq. (1)  L_ce + sum_i lambda_i L_adv,i

    l_adv, lam: lists, one of each aspect; minimised by all heads. This is the loss.
    """
    return l_ce + sum(a * b for a, b in zip(lam, l_adv, strict=True))


def backbone_objective(l_ce, l_adv, lam):
    """Eq. (2)  L_ce - sum_i lambda_i L_adv,i

    Minimised by the backbone, which includes SAAR. It is only logged: Reverse gives the backbone
    this gradient in the backward pass of Eq. (1).
    """
    return l_ce - sum(a * b for a, b in zip(lam, l_adv, strict=True))


# ---- Training ------------------------------------------------------------------------------------
def count_right(s, z, are_tags):
    """(N, S, M) logits of an aspect, its labels -> how many of the known ones are named right, how
    many are known; of tags each counts"""
    if are_tags:
        right = (s > 0) == (z > 0.5)
        known = z.isfinite()
    else:
        right = s.argmax(-1) == z.argmax(-1)
        known = z.any(-1)
    return (right & known).sum(), known.sum()


def training_step(model, batch, args):
    """One batch {"clip": (N, 3, T, H, W) float, "label": (N,), "aspects": {NAME: (N, D)}, "tags":
    names of those that are tags} -> loss, dict of what is logged. The loss is Eq. (1); in the
    backbone, below the reversal layer, its gradient is that of Eq. (2).
    """
    label = batch["label"]
    with autocast(batch["clip"].device, args.amp):
        output = model(batch["clip"], full=True)
    l_ce = cross_entropy(output.logits.float(), label)
    metrics = {"ce": l_ce, "accuracy": (output.logits.argmax(1) == label).float().mean()}

    l_adv = []
    for name, labels in batch["aspects"].items():
        are_tags = name in batch["tags"]
        s = output.aspects[name].float()  # (N, S, M)
        z = labels[:, None].expand(s.shape)
        loss = aspect_loss(s, z, are_tags, args.w_ce, args.w_kl, args.w_bce)
        l_adv.append(loss)
        right, known = count_right(s, z, are_tags)
        metrics[f"{name}_adv"] = loss
        metrics[f"{name}_accuracy"] = right / known.clamp(1)

    # lambda_i is the weight of Sec. 6.1, which is in L_adv,i already, over the number of aspects.
    lam = [1 / len(l_adv) for _ in l_adv]  # Sec. 6.3
    loss = heads_objective(l_ce, l_adv, lam)  # Eq. (1)
    if l_adv:
        metrics["backbone"] = backbone_objective(l_ce, l_adv, lam)  # Eq. (2)
    return loss, {"loss": loss} | metrics


@torch.inference_mode()
def validate(model, loader, data, args, device):
    """-> {"val/...": figure} of the validation list. val/loss is L_ce only."""
    # Each process has statistics of batch norm of its own: all take the first one's.
    broadcast(model)
    model.eval()
    n = loss = right = 0.0
    aspects_right = dict.fromkeys(data.val_aspects, 0.0)
    aspects_known = dict.fromkeys(data.val_aspects, 0.0)
    unreadable = []
    for batch in loader:
        readable = batch["bad"] == 0
        unreadable += batch["index"][~readable].tolist()
        if not readable.any():
            continue
        clip = normalise(batch["clip"][readable].to(device), args.mean, args.std)
        label = batch["label"][readable].to(device)
        with autocast(device, args.amp):
            output = model(clip, full=True)
        n += len(label)
        loss += float(F.cross_entropy(output.logits.float(), label, reduction="sum"))
        right += float((output.logits.argmax(1) == label).sum())
        for name, labels in data.val_aspects.items():
            s = output.aspects[name].float()
            z = labels[batch["video"][readable]].to(device)[:, None].expand(s.shape)
            aspect_right, aspect_known = count_right(s, z, name in data.tags)
            aspects_right[name] += float(aspect_right)
            aspects_known[name] += float(aspect_known)
    model.train()
    n, loss, right = total(n, loss, right)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    metrics = {
        "val/loss": loss / n,
        "val/accuracy": right / n,
        "val/chance": 1 / model.head.out_features,
        "val/videos": int(n),
        "val/unreadable": [loader.dataset.dataset.paths[i] for i in union(unreadable)],
    }
    for name in data.val_aspects:
        right, known = total(aspects_right[name], aspects_known[name])
        if known:
            # Of the adversary, which may only lag.
            metrics[f"val/{name}_accuracy"] = right / known
    return metrics


# [same in smad.py and omnidebias.py: learning rate]
def learning_rate(step, steps_per_epoch, args):
    """Factor of the learning rate: linear warm-up, then cosine to 0, or a tenth after each
    milestone (mmaction2), step by step."""
    warmup = args.warmup * steps_per_epoch
    steps = args.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if args.schedule == "step":
        return 0.1 ** sum(step >= steps_per_epoch * milestone for milestone in args.milestones)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


# [end]


def prepare(batch, data, args, device):
    """A batch of the loader -> what training_step takes"""
    clip = batch["clip"].to(device, non_blocking=True)
    aspects = {}
    for name, labels in data.aspects.items():
        aspects[name] = labels[batch["video"]].to(device, non_blocking=True)
    return {
        "clip": normalise(clip, args.mean, args.std).contiguous(),
        "label": batch["label"].to(device, non_blocking=True),
        "aspects": aspects,
        "tags": data.tags,
    }


# [same in sdn.py, smad.py and omnidebias.py: make_optimizer]
def make_optimizer(net, args):
    if args.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), args.lr, 0.9, weight_decay=args.weight_decay)
    return torch.optim.AdamW(net.parameters(), args.lr, weight_decay=args.weight_decay)


# [end]


def train(args):
    """Train, log and save in args.out. -> figures of the last epoch on validation, and
    "checkpoint", the file of its weights."""
    rank, world, device = start(args.seed)
    data = make_data(args)
    order = Order(len(data.train), args.batch_size, args.seed, rank, world, args.accumulate)
    loader = make_loader(
        data.train, args, device, batch_sampler=order, persistent_workers=args.workers > 0
    )
    val_part = Subset(data.val, range(rank, len(data.val), world))
    val_loader = make_loader(val_part, args, device, batch_size=args.batch_size)

    net = build_model(args, len(data.train.videos.classes), data.sizes())
    try_clip(net, args)
    labels = [*data.aspects.values(), *data.val_aspects.values()]
    run = Run("smad", args, data.train, data.val, heads=data.sizes(), labels=labels)
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
                    prepared = prepare(batch, data, args, device)
                    # Of a batch in parts, the last exchanges the gradients.
                    with no_sync(model, not last):
                        loss, metrics = training_step(model, prepared, args)
                        backward(loss)
                    run.record(metrics, batch)
                if args.clip_grad:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(net.parameters(), args.clip_grad)
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
                run.log_epoch(step, validate(net, val_loader, data, args, device))
            # [same in all scripts: the loop's tail]
            run.save("last.pt", step)
            if interrupt.stop:
                interrupt.leave(run, step)
    return run.result()
    # [end]


# ---- Re-distributed splits: Sec. 4.1 -------------------------------------------------------------
@dataclass
class SplitArgs:
    list: str = arg(
        "", "list of the videos, as --train takes it; Kinetics-400's training list", positional=True
    )
    labels: tuple = arg(
        (), "NAME=FOLDER of `sdn.py scenes`, one facet, or more: K200-both-split, Sec. 6.3"
    )
    out: str = arg("k200db", "folder of the new lists")
    classes: int = arg(200, "actions, those with the most videos; Sec. 4.1", low=1)
    train_size: int = arg(400, "training videos of an action; Sec. 4.1: 80k in 200", low=1)
    val_size: int = arg(50, "validation videos of an action; Sec. 4.1: 10k in 200", low=1)
    overlap: tuple = arg(
        (),
        "shares of the validation videos that come from the training scenes, a list each; Fig. 3",
    )
    restrict: tuple = arg(
        (), "other lists to cut to these actions: the ordinary validation list (K200-val), ARAS"
    )
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of HMDB51's folder of lists", choices=(1, 2, 3))
    seed: int = arg(0, "seed of what is sampled", low=0)


@dataclass
class Redistributed:
    """Of one action the places of its videos for training, for validation from the tail, and held
    out of the head, in a random order each."""

    train: np.ndarray
    tail: np.ndarray
    held_out: np.ndarray


def redistribute(facets, n_train, n_val, reserve, rng):
    """Redistributed of the n videos of one action (Sec. 4.1), or None where it has too few.

    facets: list of (n,) arrays, the scene (object ...) of each. The rarest scenes, whole, go to the
    tail until it has n_val videos (ties: the lower number). Of the head n_train + reserve videos
    are taken, those of the most frequent scenes, at random where a scene is cut; `reserve` of them,
    whose scenes stay in training, are held out. Of several facets (Sec. 6.3) validation is sampled
    from the union of n_val of each tail, training from what is in no tail.
    """
    n = len(facets[0])
    in_tail = np.zeros(n, bool)
    drawn = []
    for facet in facets:
        moved = rarest_part(facet, n_val)
        in_tail = in_tail | moved
        drawn.append(rng.permutation(np.flatnonzero(moved))[:n_val])

    if len(facets) == 1:
        # The most frequent scene first, of equal ones the lower number; its videos at random.
        _, scene, counts = np.unique(facets[0], return_inverse=True, return_counts=True)
        head = np.lexsort((rng.random(n), scene, -counts[scene]))
    else:
        head = np.argsort(rng.random(n))
    head = head[~in_tail[head]][: n_train + reserve]
    tail = rng.permutation(np.unique(np.concatenate(drawn)))[:n_val]
    held_out = hold_out(head, facets, reserve, rng)
    if len(head) < n_train + reserve or len(tail) < n_val or len(held_out) < reserve:
        return None
    train = rng.permutation(np.setdiff1d(head, held_out))
    return Redistributed(train, tail, np.array(held_out, int))


def rarest_part(facet, n_val):
    """(n,) -> (n,) bool: the videos of the rarest scenes, as many scenes as hold n_val videos"""
    _, place, counts = np.unique(facet, return_inverse=True, return_counts=True)
    rarest = np.argsort(counts, kind="stable")
    enough = 1 + int(np.searchsorted(np.cumsum(counts[rarest]), n_val))
    return np.isin(place, rarest[:enough])


def hold_out(head, facets, reserve, rng):
    """Up to `reserve` of the videos `head`, none of them the last one of its scene (object ...)."""
    left = [np.bincount(facet[head], minlength=facet.max() + 1) for facet in facets]
    held_out = []
    for i in rng.permutation(head):
        scenes = [facet[i] for facet in facets]
        others = [count[scene] > 1 for count, scene in zip(left, scenes, strict=True)]
        if len(held_out) < reserve and all(others):
            held_out.append(i)
            for count, scene in zip(left, scenes, strict=True):
                count[scene] -= 1
    return held_out


def split(args):
    """Re-distribute a list by scene, or another facet, as K200db (SMAD Sec. 4.1): training videos
    of each action from its frequent scenes, validation videos from its rare ones, so that no scene
    of an action is in both.

    python smad.py split train.txt --labels scene=scenes --out k200db
    python smad.py split train.txt --labels scene=scenes object=objects --out k200-both

    Writes OUT/train.txt, OUT/val.txt (with --overlap val-Q.txt for each Q), the lists of
    --restrict, classes.txt. Where the paper is silent: the scene is the most probable of the label;
    scenes are disjoint within each action; the tail is filled by whole scenes from the rarest. The
    paper samples the training set from the head; here, of one facet, it is the most frequent scenes
    of the head, until it is full. Of two facets (Sec. 6.3) a validation video is rare in one at
    least, and no training video has a tail scene or a tail object. Videos without labels are left
    out, and actions that have too few videos passed over.
    """
    if not args.list:
        raise UserError(
            "name a list of videos: python smad.py split train.txt --labels scene=FOLDER"
        )
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists: remove it, or name another folder with --out")
    shares = read_shares(args.overlap)
    videos = each_once(read_list(args.list, args.root, "train", args.split), args.list)
    facets = read_facets(args.labels, videos.paths)
    labelled = np.all([facet >= 0 for facet in facets.values()], 0)
    if not labelled.any():
        raise UserError(f"--labels: no labels of the list's videos, such as {videos.paths[0]}")
    paths = np.array(videos.paths)[labelled]
    action = np.array(videos.labels)[labelled]
    facets = {name: facet[labelled] for name, facet in facets.items()}
    rng = np.random.default_rng([args.seed, labelled.sum()])

    reserve = round(max(shares.values()) * args.val_size)
    of_action, too_small = split_actions(action, facets, reserve, args, rng)
    if len(of_action) < args.classes:
        small = ", ".join(videos.classes[a] for a in too_small[:3])
        raise UserError(
            f"only {len(of_action)} of {len(videos.classes)} actions have --train-size "
            f"{args.train_size} and --val-size {args.val_size} videos in disjoint scenes: give "
            f"fewer --classes or videos (too few: {small}; {(~labelled).sum()} videos have no "
            "labels)"
        )
    new_label = {a: i for i, a in enumerate(sorted(of_action))}
    lists = join_actions(of_action, shares, args.val_size)
    rows = {}
    for name, places in lists.items():
        rows[name] = [(paths[i], new_label[action[i]]) for i in sorted(places)]
    restricted, notes = cut_lists(args, videos.classes, new_label, rows)
    information = measure_lists(lists, action, facets, new_label, rng)
    write_lists(Path(args.out), rows | restricted, [videos.classes[a] for a in new_label])

    print(
        f"{args.out}: {len(new_label)} actions; {(~labelled).sum()} videos without labels left "
        f"out; videos in {videos.root}"
    )
    if too_small:
        print("passed over, too small:", ", ".join(videos.classes[a] for a in too_small))
    print_lists(lists, information, notes)
    return information


def read_shares(overlap):
    """{list: the share of its videos that come from the training scenes}"""
    if not overlap:
        return {"val": 0.0}
    shares = {}
    for text in overlap:
        try:
            shares[f"val-{text}"] = float(text)
        except ValueError:
            raise UserError(f"--overlap {text}: expected a share from 0 to 1") from None
        if not 0 <= float(text) <= 1:
            raise UserError(f"--overlap {text}: expected a share from 0 to 1")
    return shares


def read_facets(specs, paths):
    """{NAME: (n,) the most probable category of each video, -1 where it has no label}"""
    facets = {}
    for spec in specs:
        name, _, folder = spec.partition("=")
        if not folder:
            raise UserError(f"--labels {spec}: expected NAME=FOLDER of `python sdn.py scenes`")
        facets[name], _ = read_hard_labels([folder], paths)
    if not facets:
        raise UserError("name the videos' labels: --labels NAME=FOLDER, one or more")
    return facets


def split_actions(action, facets, reserve, args, rng):
    """-> {action: Redistributed, of places in the list} of the largest actions that can be split,
    actions that are too small"""
    of_action = {}
    too_small = []
    for a in np.argsort(-np.bincount(action), kind="stable").tolist():
        if len(of_action) == args.classes:
            break
        places = np.flatnonzero(action == a)
        part = None
        if len(places):
            part = redistribute(
                [facet[places] for facet in facets.values()],
                args.train_size,
                args.val_size,
                reserve,
                rng,
            )
        if part is None:
            too_small.append(a)
        else:
            of_action[a] = Redistributed(
                places[part.train], places[part.tail], places[part.held_out]
            )
    return of_action, too_small


def join_actions(of_action, shares, val_size):
    """{list: places} of the training and validation videos, action after action"""
    parts = [of_action[a] for a in sorted(of_action)]
    lists = {"train": np.concatenate([part.train for part in parts])}
    for name, share in shares.items():
        n = round(share * val_size)
        places = []
        for part in parts:
            places += [part.held_out[:n], part.tail[: val_size - n]]
        lists[name] = np.concatenate(places)
    return lists


def cut_lists(args, classes, new_label, rows):
    """-> {NAME: rows} of the lists of --restrict, cut to the new classes; a line about each"""
    cut = {}
    notes = []
    for path in args.restrict:
        other = read_list(path, args.root, "test", args.split, classes)
        name = Path(path).stem
        kept = []
        for video, label in zip(other.paths, other.labels, strict=True):
            if label in new_label:
                kept.append((video, new_label[label]))
        if name in rows or name in cut or not kept:
            raise UserError(
                f"--restrict {path}: none of its videos is of these classes, or another list is "
                f"{name}.txt"
            )
        cut[name] = kept
        notes.append(f"{name}.txt: {len(kept)} of {len(other)} videos, in {other.root}")
    return cut, notes


def measure_lists(lists, action, facets, new_label, rng):
    """{list: {facet: normalised mutual information of action and facet, and that of as many videos
    of each action drawn at random}}"""
    information = {}
    for name, places in lists.items():
        drawn = []
        for a in new_label:
            videos = rng.permutation(np.flatnonzero(action == a))
            drawn.append(videos[: len(places) // len(new_label)])
        drawn = np.concatenate(drawn)
        information[name] = {}
        for kind, facet in facets.items():
            value = nmi(action[places], facet[places])
            information[name][kind] = (value, nmi(action[drawn], facet[drawn]))
    return information


def print_lists(lists, information, notes):
    """The size and mutual information of each list, then the notes about those of --restrict."""
    for name, places in lists.items():
        values = []
        for kind, (value, at_random) in information[name].items():
            values.append(f"{kind} {value:.3f} ({at_random:.3f} if sampled at random)")
        print(
            f"{name}.txt: {len(places)} videos; normalised mutual information of the action and "
            f"{', '.join(values)}"
        )
    for note in notes:
        print(note)


STEPS = {"split": (SplitArgs, split, None)}


if __name__ == "__main__":
    cli(Args, train, presets={"toy": TOY, "tsn": TSN, "baseline": BASELINE}, steps=STEPS)
