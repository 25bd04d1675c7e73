"""OmniDebias: Mitigating Representation Bias in Action Recognition: Algorithms and Benchmarks.
H. Duan, Y. Zhao, K. Chen, Y. Xiong, D. Lin. ECCV 2022. arXiv:2209.09393

The web shows actions in scenes that a data set lacks, but most of them in the usual ones. A teacher
filters web images and clips; of each action the third in the rarest scenes is kept, and trained
jointly with the labelled videos, as in OmniSource (Duan et al., ECCV 2020). SMAD, of the same
paper, is in smad.py; --smad adds it here.

Map                                (grep "Eq. (5)": this row, the function, the line that uses it)
  Eq. (1)  heads_objective         L_CE + sum_i lambda_i L_adv,i (--smad); by reversal the backbone
                                   minimises Eq. (2)
  Eq. (3)  soft_cross_entropy      adversarial loss of an aspect (--smad); it has the gradient of
                                   Eq. (4)
  Eq. (5)  actionness_reweighting  features times H W softmax(score map) (--smad)
  Sec. 5.2 teacher_filter, thirds  items whose class a teacher confirms; of each action bias, mid,
                                   unbias
  Foot. 7  z_frequency             share of an action's items that show the item's scene
  Sec. 5.2 joint_objective         the labelled videos' loss plus the web items' loss

Commands
  python omnidebias.py             the embedded data set (drawn once); --baseline: without the web
  Table 9, 3D: --web data/toy0/web-clips/NAME.txt, NAME of bias, mid, rand, all, unbias. 2D: of
      web-images, with --model tsn_tiny --weights data/toy0/weights-tsn_tiny.pt --frames 3
      --test-clips 25
  Table 2, row by row: --baseline | --web none SMAD | (no flag) | SMAD, which stands for
      --smad --aspect scene=data/toy0/scenes object=data/toy0/objects
  python omnidebias.py clips omnisource.json --out web.txt            (OmniSource's raw videos)
  python sdn.py scenes web.txt --root web --weights resnet50_places365.pth.tar \\
      --categories categories_places365.txt --max-bad 1 --out web-scenes
  python omnidebias.py --baseline --train train.txt --root videos --out runs/plain   (the teacher)
  python omnidebias.py teach web.txt --root web --max-bad 1 --run runs/plain --out teacher
  python omnidebias.py select web.txt --root web --labels web-scenes --teacher teacher
  torchrun --nproc-per-node 8 omnidebias.py --train train.txt --root videos \\
      --web web-lists/unbias.txt --web-root web                        (--tsn: the 2D network)
      (--smad --aspect scene=scenes,web-scenes: the combination of Table 2)

SILENT in the paper, for which there is no official code
  S1  The teacher: a run of this script, such as --baseline, which sees one view of an item
      (OmniSource: TSN with 8 segments, SlowOnly, of ResNet-50). An item is kept if it predicts the
      class that was sought with a probability of 0.5 or more (embedded data set: any); with
      --confident others too, as what it predicts. OmniSource also takes out items that resemble
      validation videos; here the same files are refused.
  S2  The scene is the most probable of the label; only kept web items are counted. Of an action's n
      items in order bias is the first n//3, mid goes up to 2n//3, unbias is the rest. Ties in
      frequency go by scene, then at random. Items without a label are in no list. rand has as many
      of each action as unbias.
  S3  A step has --web-ratio web items a labelled video (1: OmniSource's released SlowOnly; its TSN
      has 5.3 images) in one forward pass, where OmniSource steps for each source; each part's loss
      is a mean. An epoch is one pass of the labelled list, as there; the web list goes round in a
      new order each time. No resampling by class, no mixup.
  S4  An image is repeated over a clip's frames; of its equal TSN segments only one is computed. A
      web item that cannot be read gives its place to the next that can.
  S5  The recipe is smad.py's, with its SILENT rows; MAAT's aspects are scene and object, with 0.5
      of Eq. (3) and of (4), divided by two.
"""

import json
import math
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from hashlib import sha1
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
    IMAGES,
    Interrupt,
    Network,
    OfflineArgs,
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
    joint_entropy,
    label_videos,
    listed_once,
    load_checkpoint,
    load_weights,
    make_loader,
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
    restore,
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
    web: str = arg("", "list of web items, as `select` writes them, or none; Sec. 5.2: unbias")
    web_root: str = arg("", "folder of the web items; none: the list's own")
    web_ratio: float = arg(
        1.0, "web items a labelled video in a step; the paper is silent, see S3", low=0, high=100
    )
    smad: bool = arg(False, "SMAD too: MAAT on --aspect, and SAAR; Table 2: combination")
    aspect: tuple = arg(
        (),
        "with --smad: an aspect of MAAT, NAME=FOLDER,FOLDER of `sdn.py scenes` of videos and web; "
        "the word none: only SAAR. Sec. 5.1: scene, object",
    )
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
        0.5, "before the heads; mmaction2: 0.5, TSN 0.4; not of tiny", low=0, high=1
    )

    epochs: int = arg(
        150, "passes of the training list; mmaction2's SlowOnly, as all of this recipe", low=0
    )
    batch_size: int = arg(
        64, "labelled videos of an optimiser step over all processes; mmaction2", low=1
    )
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

    out: str = arg("", "folder of the run; none: runs/omnidebias, runs/omnidebias-baseline")
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
    web="data/toy0/web-clips/unbias.txt",
    web_root="data/toy0",
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
BASELINE = dict(web="none", smad=False, aspect=(), out="runs/omnidebias-baseline")


# ---- Data: labelled videos and web items ---------------------------------------------------------
@dataclass
class Data:
    train: "Joint"
    val: Videos
    aspects: dict  # {NAME: (n, D)} of the training videos, then of the web items

    def sizes(self):
        return {name: labels.shape[1] for name, labels in self.aspects.items()}


def make_data(args):
    """-> Data. Soft labels: a row of zeros where an item has none."""
    train_list, val_list = read_lists(args)
    web_list = None
    if not args.web:
        raise UserError(
            "--web: name a list of web items (`python omnidebias.py select` makes them), or none"
        )
    if args.web != "none":
        web_list = read_web(args, train_list, val_list)
        # Another web list is another run.
        both = sha1(f"{train_list.sha1} {web_list.sha1}".encode()).hexdigest()
        train_list = replace(train_list, sha1=both)
    sample, val_sample = samplers(args)
    transform = train_transform(args.size, args.scale, args.flip)
    seed = args.seed
    cache = args.cache
    train = Videos(train_list, sample, transform, seed, cache, max_bad=args.max_bad)
    web = None
    if web_list:
        # The web is full of holes: any number of broken items in a row is passed over.
        web = Videos(web_list, sample, transform, (seed, 1), cache, max_bad=1.0)
    return Data(
        train=Joint(train, web),
        val=Videos(
            val_list,
            val_sample,
            test_transform(args.size, args.resize),
            seed=args.seed,
            cache=args.cache,
        ),
        aspects=read_aspects(args, train_list, web_list),
    )


def read_web(args, train_list, val_list):
    """-> VideoList of the web items that exist. UserError where one of them is a training or
    validation video, or none exists."""
    web = read_list(args.web, args.web_root, "train", args.split, train_list.classes)
    web = each_once(web, args.web)
    known = {str(train_list.full(i)) for i in range(len(train_list))}
    known |= {str(val_list.full(i)) for i in range(len(val_list))}
    doubles = [web.paths[i] for i in range(len(web)) if str(web.full(i)) in known]
    if doubles:
        raise UserError(
            f"--web: {len(doubles)} items are training or validation videos, first {doubles[0]}: "
            "remove them"
        )
    return existing(web, 1.0, "--web-root")


def read_aspects(args, train_list, web_list):
    """{NAME: (n, D)} of --aspect, of the training videos, then of the web items"""
    if args.smad != bool(args.aspect):
        raise UserError(
            "--smad and --aspect go together: --aspect NAME=FOLDER of `python sdn.py scenes`, or "
            "none"
        )
    aspects = {}
    for spec in args.aspect if args.aspect != ("none",) else ():
        name, _, folders = spec.partition("=")
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name) or not folders:
            raise UserError(f"--aspect {spec}: expected NAME=FOLDER or NAME=FOLDER,FOLDER, or none")
        if name in aspects:
            raise UserError(f"--aspect {spec}: a second of that name: give NAME=FOLDER,FOLDER")
        labels, _ = read_labels(folders.split(","), train_list.paths, args.max_bad)
        if web_list:
            of_web, _ = read_labels(folders.split(","), web_list.paths)
            if not of_web.any():
                raise UserError(f"--aspect {spec}: no labels of any item of --web")
            labels = torch.cat([labels, of_web])
        aspects[name] = labels
    return aspects


# [same in smad.py and omnidebias.py: samplers]
def samplers(args):
    """-> what frames are taken in training, in validation: a clip's, or of a TSN the segments'."""
    if args.model in ("tsn_tiny", "tsn_r50"):
        return partial(tsn_segments, segments=args.frames), partial(evenly, frames=args.frames)
    clip = dict(frames=args.frames, stride=args.stride)
    return partial(random_clip, **clip), partial(centre_clip, **clip)


# [end]


class Joint(torch.utils.data.Dataset):
    """Labelled videos and web items (Videos, or None) as one data set, whose length is that of the
    former, for JointOrder's keys: (False, item of videos) or (True, item of web). The web items'
    indices follow those of the videos; `still`: whether it is an image of the web."""

    def __init__(self, videos, web):
        self.labelled = videos
        self.web = web
        self.videos = videos.videos  # the VideoList
        self.paths = list(videos.paths)
        self.missing = videos.missing
        if web:
            self.paths += web.paths
            self.missing += web.missing

    def __len__(self):
        return len(self.labelled)

    def __getitem__(self, key):
        of_web, number = key
        if not of_web:
            return self.labelled[number] | {"still": False}
        item = self.web[number]
        item["index"] += len(self)
        item["video"] += len(self)
        item["still"] = self.paths[item["video"]].lower().endswith(IMAGES)
        return item


class JointOrder(Order):
    """Order's batches, each followed by its web items: --web-ratio times as many as videos, an
    equal share for each process and part. They follow from the step's number: pass after pass
    through the web list, each pass in a new random order."""

    def __init__(self, joint, args, rank=0, world=1):
        super().__init__(len(joint), args.batch_size, args.seed, rank, world, args.accumulate)
        ratio = args.web_ratio
        batch_size = args.batch_size
        self.n_web = len(joint.web or ())
        self.web_batch = round(ratio * batch_size) if joint.web else 0
        is_whole = abs(self.web_batch - ratio * batch_size) < 1e-3
        if joint.web and not (self.web_batch and is_whole and self.web_batch % self.parts == 0):
            raise UserError(
                f"--web-ratio {ratio} of --batch-size {batch_size}: {ratio * batch_size:g} web "
                "items in a step must be a whole multiple of processes x --accumulate = "
                f"{self.parts}"
            )

    def __iter__(self):
        parts_here = self.parts // self.world
        first_step = self.epoch * self.steps + self.skip
        for number, videos in enumerate(super().__iter__()):
            step = first_step + number // parts_here
            part = self.rank + number % parts_here * self.world
            places = range(step * self.web_batch + part, (step + 1) * self.web_batch, self.parts)
            batch = [(False, key) for key in videos]
            yield batch + [(True, self.web_item(place)) for place in places]

    def web_item(self, place):
        turn, i = divmod(place, self.n_web)
        return turn * self.n_web + int(web_order(self.seed, turn, self.n_web)[i])


@lru_cache(2)  # the items of a step may lie in two passes
def web_order(seed, turn, n):
    """(n,) the order of the web items in pass number `turn`"""
    return np.random.default_rng([seed, turn, n, 1]).permutation(n)


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


class OmniDebias(Network):
    """The network of Sec. 6.1; with --smad SAAR before its last stage, and for each aspect an
    adversarial head on the features: of a TSN on those of each frame."""

    def __init__(self, args, num_classes, heads):
        super().__init__(make_backbone(args.model, num_classes), num_classes)
        self.tsn = args.model in ("tsn_tiny", "tsn_r50")
        self.is_tiny = isinstance(self.backbone, Tiny)
        self.has_stages = type(self.backbone) in (Tiny, ResNet, VideoResNet)
        self.dropout = nn.Dropout(args.dropout)  # which tiny does not use: see pool
        self.adversaries = nn.ModuleDict()
        self.saar = None
        if args.smad:
            self.saar = SAAR(
                self.channels_before_last_stage(),
                args.saar_width,
                args.saar_blocks,
                norm=partial(nn.GroupNorm, 1) if self.is_tiny else nn.BatchNorm2d,
            )
        for name, size in heads.items():
            self.adversaries[name] = make_adversary(self.head.in_features, size)

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

    def forward(self, clip, still=None, full=False):
        """(N, 3, T, H, W), still (N,) bool: images -> (N, K) action logits, or with full an
        Output"""
        segments = 1
        x = clip
        frame_of = None
        if self.tsn:
            segments = clip.shape[2]
            x = clip.transpose(1, 2).flatten(0, 1)  # (N S, 3, H, W)
            if still is not None:
                # An image's segments are the same: only the first is computed.
                first = torch.arange(len(x), device=x.device) % segments == 0
                computed = first | ~still.repeat_interleave(segments)
                x = x[computed]
                frame_of = computed.cumsum(0) - 1
            if self.is_tiny:
                x = x[:, :, None]
        x = self.early_stages(x)
        mask = None
        if self.saar is not None:
            x, mask = self.saar(x)  # Eq. (5)
        f = self.pool(self.last_stage(x))  # (N S, D)
        logits = self.head(f)
        if frame_of is not None:
            f = f[frame_of]
            logits = logits[frame_of]
        logits = logits.unflatten(0, (-1, segments)).mean(1)
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
    """-> OmniDebias of args.model, from random weights, with adversaries of `heads`, {NAME: D};
    .saar is None without --smad."""
    return OmniDebias(args, num_classes, heads or {})


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


def heads_objective(l_ce, l_adv):
    """Eq. (1)  L_ce + sum_i lambda_i L_adv,i

    l_adv: list of M; lambda_i = 1 / M: Sec. 6.3. Each is Eq. (3) only: Eq. (4) differs from it by
    the entropy of the label, so that 0.5 of each, Sec. 6.1, has the gradient of one Eq. (3).
    """
    return l_ce + sum(l_adv) / max(1, len(l_adv))


def joint_objective(videos, web=0.0):
    """Sec. 5.2  loss of the labelled videos + loss of the web items"""
    return videos + web


# ---- Training ------------------------------------------------------------------------------------
def training_step(model, batch, args):
    """One batch {"clip": (N, 3, T, H, W) float, labelled videos, then web items; "label": (N,),
    "videos": number of the former; "still": (N,) bool, an image; "aspects": {NAME: (N, D)}} ->
    loss, dict of what is logged. The loss is the sum of Eq. (1) of either; in the backbone, below
    the reversal layer, its gradient is that of Eq. (2).
    """
    with autocast(batch["clip"].device, args.amp):
        output = model(batch["clip"], batch["still"], full=True)
    n = batch["videos"]
    loss_videos, metrics = part_loss(output, batch, slice(n))  # Eq. (1)
    if n == len(batch["clip"]):
        return loss_videos, {"loss": loss_videos} | metrics
    loss_web, web_metrics = part_loss(output, batch, slice(n, None))  # Eq. (1)
    for name, value in web_metrics.items():
        metrics[f"web_{name}"] = value
    loss = joint_objective(loss_videos, loss_web)  # Sec. 5.2
    return loss, {"loss": loss} | metrics


def part_loss(output, batch, part):
    """Eq. (1) of a part of the batch, a slice -> loss, dict of what is logged"""
    logits = output.logits[part]
    label = batch["label"][part]
    l_ce = cross_entropy(logits.float(), label)
    metrics = {"ce": l_ce, "accuracy": (logits.argmax(1) == label).float().mean()}
    l_adv = []
    for name, labels in batch["aspects"].items():
        s = output.aspects[name][part].float()  # (n, S, M)
        loss = soft_cross_entropy(s, labels[part][:, None])  # Eq. (3)
        l_adv.append(loss)
        metrics[f"{name}_adv"] = loss
    return heads_objective(l_ce, l_adv), metrics  # Eq. (1)


@torch.inference_mode()
def validate(model, loader, args, device):
    """-> {"val/...": figure} of the validation list."""
    # Each process has statistics of batch norm of its own: all take the first one's.
    broadcast(model)
    model.eval()
    n = loss = right = 0.0
    unreadable = []
    for batch in loader:
        readable = batch["bad"] == 0
        unreadable += batch["index"][~readable].tolist()
        if not readable.any():
            continue
        clip = normalise(batch["clip"][readable].to(device), args.mean, args.std)
        label = batch["label"][readable].to(device)
        with autocast(device, args.amp):
            z = model(clip)
        n += len(label)
        loss += float(F.cross_entropy(z.float(), label, reduction="sum"))
        right += float((z.argmax(1) == label).sum())
    model.train()
    n, loss, right = total(n, loss, right)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    return {
        "val/loss": loss / n,
        "val/accuracy": right / n,
        "val/chance": 1 / model.head.out_features,
        "val/videos": int(n),
        "val/unreadable": [loader.dataset.dataset.paths[i] for i in union(unreadable)],
    }


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
        "videos": int((batch["index"] < len(data.train)).sum()),
        "still": batch["still"].to(device),
        "aspects": aspects,
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
    order = JointOrder(data.train, args, rank, world)
    loader = make_loader(
        data.train, args, device, batch_sampler=order, persistent_workers=args.workers > 0
    )
    val_part = Subset(data.val, range(rank, len(data.val), world))
    val_loader = make_loader(val_part, args, device, batch_size=args.batch_size)

    net = build_model(args, len(data.train.videos.classes), data.sizes())
    try_clip(net, args)
    labels = data.aspects.values()
    run = Run("omnidebias", args, data.train, data.val, heads=data.sizes(), labels=labels)
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
    if data.train.web:
        web = data.train.web
        note = f"{note}; {len(web)} web items, {len(web.missing)} more missing"
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
                run.log_epoch(step, validate(net, val_loader, args, device))
            # [same in all scripts: the loop's tail]
            run.save("last.pt", step)
            if interrupt.stop:
                interrupt.leave(run, step)
    return run.result()
    # [end]


# ---- OmniSource's lists --------------------------------------------------------------------------
@dataclass
class ClipsArgs:
    list: str = arg("", "OmniSource's list of raw videos, .txt or .json", positional=True)
    out: str = arg("web.txt", "the list to write")


def clips(args):
    """Turn one of OmniSource's lists of raw videos into a list of their positive clips.

    python omnidebias.py clips omnisource.json --out web.txt

    The list has `video label clips positive positive ...` a line, or is JSON; what is written has
    `video/part_N.mp4 label`, N from 0, for each of the positive clips (OmniSource draws one of a
    video). All other steps take it.
    """
    if not args.list:
        raise UserError("name OmniSource's list of raw videos, .txt or .json")
    path = Path(args.list)
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists: remove it, or name another file with --out")
    try:
        if path.suffix == ".json":
            videos = json.loads("".join(text for _, text in read_lines(path)))
        else:
            videos = [raw_video(text) for _, text in read_lines(path)]
        lines = []
        for video in videos:
            positive = video["positive_clip_inds"]
            different = len(set(positive)) == len(positive)
            inside = all(0 <= i < video["num_clips"] for i in positive)
            numbers = [video["label"], *positive]
            whole = all(type(number) is int for number in numbers)
            named = "\n" not in video["video_dir"] and video["video_dir"].isprintable()
            if not different or not inside or not whole or not named or video["label"] < 0:
                raise ValueError(repr(video["video_dir"]))
            for i in positive:
                lines.append(f"{video['video_dir']}/part_{i}.mp4 {int(video['label'])}\n")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected OmniSource's `video label clips positive positive ...` a line, or "
            f"[{{video_dir, label, num_clips, positive_clip_inds}}, ...]: {error}"
        ) from None
    Path(args.out).write_text("".join(lines), encoding="utf-8")
    print(f"{args.out}: {len(lines)} clips of {len(videos)} videos")


def raw_video(text):
    """A line of OmniSource's .txt -> what its JSON has of a video"""
    video, label, count, *positive = text.split()
    return {
        "video_dir": video,
        "label": int(label),
        "num_clips": int(count),
        "positive_clip_inds": [int(i) for i in positive],
    }


# ---- Selection of web items: Sec. 5.2 ------------------------------------------------------------
PARTS = ("bias", "mid", "unbias")  # by falling z-frequency


@dataclass
class TeachArgs(OfflineArgs):
    run: str = arg("", "the teacher: a run of this script (its last.pt), or a checkpoint of one")
    model: str = arg("", "your own MODULE:FUNCTION that the teacher was trained with")
    out: str = arg("teacher", "folder of the predictions")
    batch_size: int = arg(32, "items in a forward pass", low=1)


def teach(args):
    """Let a teacher look at web items: its class probabilities, in the form of `sdn.py scenes`.

    python omnidebias.py teach web.txt --root web --run runs/plain --out teacher

    It sees them as validation videos. After a kill the same command goes on, and torchrun's
    processes share the work.
    """
    if not args.run:
        raise UserError("name the teacher: --run runs/omnidebias-baseline")
    saved = load_checkpoint(args.run, "omnidebias")
    run_args = checkpoint_args(Args, saved, args.run, args.model)
    _, _, device = start(0, timedelta(days=7))
    model = build_model(run_args, len(saved["classes"]), saved["heads"])
    restore(model, saved["model"], args.run)
    model.to(device).eval()
    mixed_precision = autocast(device, args.amp)
    _, sample = samplers(run_args)
    items = Videos(listed_once(args), sample, test_transform(run_args.size, run_args.resize))

    def look(clip):
        clip = normalise(clip, run_args.mean, run_args.std)
        with torch.inference_mode(), mixed_precision:
            return model(clip).float().softmax(1), None

    weights = sorted(saved["model"].items())
    digest = sha1(b"".join(value.numpy().tobytes() for _, value in weights)).hexdigest()
    made = dict(teacher=saved["method"], step=saved["step"], weights_sha1=digest)
    label_videos(args, items, look, saved["classes"], made, device)


@dataclass
class SelectArgs:
    lists: tuple = arg(
        (),
        "one list of web items, `path label` a line; the label is the class that they were sought "
        "by",
        positional=True,
    )
    labels: tuple = arg((), "folders of `sdn.py scenes`: the items' facet; SMAD Sec. 5.2: scenes")
    teacher: str = arg("", "folder of `teach`; none: keep all")
    agree: float = arg(
        0.5, "least probability at which a label is confirmed; the paper is silent", low=0, high=1
    )
    confident: float = arg(
        1.0,
        "probability beyond which an item is kept as the predicted class, whatever its label; 1: "
        "none",
        low=0,
        high=1,
    )
    out: str = arg("web-lists", "folder of the new lists")
    root: str = arg("", "folder of the items; none: the list's own")
    split: int = arg(1, "official split of HMDB51's folder of lists", choices=(1, 2, 3))
    seed: int = arg(0, "seed of rand, and of the order within a scene", low=0)


def z_frequency(label, facet):
    """Footnote 7  f_i = #{j: y_j = y_i, z_j = z_i} / #{j: y_j = y_i}

    label y, facet z: (n,) -> (n,)
    """
    _, action, items = np.unique(label, return_inverse=True, return_counts=True)
    pair = action * (int(facet.max()) + 1) + facet
    _, group, same = np.unique(pair, return_inverse=True, return_counts=True)
    return same[group] / items[action]


def thirds(label, facet, seed):
    """Sec. 5.2  the items of each action by falling z-frequency, in three equal parts (see S2)

    label, facet: (n,) -> (n,) place in PARTS; (n,) bool: a random third
    """
    ties, dealt = np.random.default_rng([seed, len(label)]).random((2, len(label)))
    _, action, items = np.unique(label, return_inverse=True, return_counts=True)
    n = items[action]
    by_frequency = np.lexsort((ties, facet, -z_frequency(label, facet), action))
    rank = rank_in_action(by_frequency, action, items)
    part = (rank >= n // 3).astype(int) + (rank >= 2 * n // 3)
    at_random = rank_in_action(np.lexsort((dealt, action)), action, items)
    return part, at_random < n - 2 * n // 3


def rank_in_action(order, action, items):
    """order (n,) of the items, action after action -> (n,) the place of each within its action"""
    first = np.cumsum(items) - items
    rank = np.empty(len(action), int)
    rank[order] = np.arange(len(action)) - first[action[order]]
    return rank


def teacher_filter(query, predicted, probability, agree, confident):
    """Sec. 5.2  the class as which an item is kept, or -1

    The query where the teacher predicts it with probability >= agree, else the predicted class
    where its probability > confident. (n,) each, predicted -1: unreadable.
    """
    confirmed = (predicted == query) & (probability >= agree)
    kept = np.where(confirmed, query, -1)
    sure = (predicted >= 0) & (probability > confident)
    return np.where(~confirmed & sure, predicted, kept)


def select(args):
    """Select web items for joint training (Sec. 5.2): a teacher's filter, then thirds of each
    action by z-frequency.

    python omnidebias.py select web.txt --labels web-scenes --teacher teacher --out web-lists

    Writes OUT/bias.txt, mid.txt, unbias.txt (the rarest scenes: what OmniDebias trains on),
    rand.txt (a random third), all.txt. Items that cannot be read, or have no label, are left out
    and counted. For a re-distributed split such as K200db the teacher must be trained on the
    split's own training list: another one has seen videos that it holds out.
    """
    if len(args.lists) != 1 or not args.labels:
        raise UserError("name one list of web items, and --labels FOLDER, their scenes")
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists: remove it, or name another folder with --out")
    if args.confident < 1 and not args.teacher:
        raise UserError("--confident is about a --teacher: name one")
    classes = ()
    if args.teacher:
        classes = open_labels(args.teacher).categories
    items = read_list(args.lists[0], args.root, "train", args.split, classes)
    items = each_once(items, args.lists[0])
    if Path(args.lists[0]).with_name("classes.txt").exists():
        classes = items.classes
    facet, _ = read_hard_labels(args.labels, items.paths)
    if not (facet >= 0).any():
        raise UserError(f"--labels {args.labels[0]}: none of the items, such as {items.paths[0]}")
    query = np.array(items.labels)
    predicted = kept = query
    if args.teacher:
        predicted, probability = read_teacher(args.teacher, items)
        kept = teacher_filter(query, predicted, probability, args.agree, args.confident)  # Sec. 5.2
    use = np.flatnonzero((kept >= 0) & (facet >= 0))
    if not len(use):
        raise UserError(
            f"--teacher {args.teacher}: keeps none of {len(items)} items: lower --agree "
            f"{args.agree}"
        )
    third, at_random = thirds(kept[use], facet[use], args.seed)  # Sec. 5.2
    chosen = {part: use[third == i] for i, part in enumerate(PARTS)}
    chosen |= {"rand": use[at_random], "all": use}
    lists = {}
    for name, places in chosen.items():
        lists[name] = [(items.paths[i], kept[i]) for i in places]
    write_lists(Path(args.out), lists, classes)
    print_selection(args, items, facet, predicted, kept, chosen)


def read_teacher(folder, items):
    """-> (n,) the class that the teacher predicts of each item, -1 where it could not read it; (n,)
    its probability"""
    seen = set(open_labels(folder).paths)
    unseen = [path for path in items.paths if path not in seen]
    if unseen:
        raise UserError(
            f"{folder}: has not seen {len(unseen)} of {len(items)} items, first {unseen[0]}: let "
            "it teach this list too"
        )
    return read_hard_labels([folder], items.paths)


def mean_entropy(label, facet):
    """Mean over the actions of the entropy, in nats, of their facets (Sec. 5.2: 3.02 of Kinetics'
    scenes, 2.79 of GoogleImg's; it does not say which logarithm)

    label, facet: (n,) whole numbers from 0
    """
    return float(np.mean([joint_entropy(facet[label == action]) for action in np.unique(label)]))


def print_selection(args, items, facet, predicted, kept, chosen):
    """The number of items of each class in each list, and the entropy of their facets. predicted
    (n,): -1 where an item cannot be read; kept (n,): the class as which an item is kept, or -1."""
    columns = {"listed": np.arange(len(items)), "kept": np.flatnonzero(kept >= 0)} | chosen
    classes = len(items.classes)
    counts = {}
    entropies = []
    for name, places in columns.items():
        label = (np.array(items.labels) if name == "listed" else kept)[places]
        counts[name] = np.bincount(label, minlength=classes)
        has_facet = facet[places] >= 0
        if has_facet.any():
            entropy = mean_entropy(label[has_facet], facet[places][has_facet])
            entropies.append(f"{name} {entropy:.2f}")
    width = max(len(name) for name in [*items.classes, "all"])
    print(f"{args.out}: items in {items.root}")
    print(" " * width, *(f"{name:>8}" for name in columns))
    for i, name in enumerate(items.classes):
        print(f"{name:{width}}", *(f"{count[i]:8}" for count in counts.values()))
    print(f"{'all':{width}}", *(f"{count.sum():8}" for count in counts.values()))
    print(f"{(predicted < 0).sum()} items unreadable, {(facet < 0).sum()} without a label")
    print(
        "mean entropy of an action's facets, nats (the paper: Kinetics 3.02, GoogleImg 2.79): "
        + ", ".join(entropies)
    )


STEPS = {
    "clips": (ClipsArgs, clips, None),
    "teach": (TeachArgs, teach, None),
    "select": (SelectArgs, select, None),
}


if __name__ == "__main__":
    cli(Args, train, presets={"toy": TOY, "tsn": TSN, "baseline": BASELINE}, steps=STEPS)
