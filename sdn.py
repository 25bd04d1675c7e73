"""SDN: Why Can't I Dance in the Mall? Learning to Mitigate Scene Bias in Action Recognition.
J. Choi, C. Gao, J. C. E. Messou, J.-B. Huang. NeurIPS 2019. arXiv:1912.05534

A network cheats when its features tell the scene, or when it still names the action with the humans
painted over. A scene classifier behind a gradient reversal fights the first, maximum entropy on
human-masked clips the second. Both need labels, which `scenes` and `humans` make once, with
networks off the shelf.

Equation map                      (grep "Eq. (4)": this row, the function, the line that uses it)
  Eq. (1)  evaluate.scene_representation_bias  how well the scene alone names a data set's actions
  Eq. (2)  cross_entropy          name the action
  Eq. (3)  scene_adversarial      name the scene from the action's features
  Eq. (4)  human_mask_confusion   entropy of the action distribution on human-masked clips
  Eq. (5)  debiasing_objective    L_CE - lambda L_Adv, by reversal; first half of an iteration
  Eq. (6)  confusion_objective    maximise Eq. (4); second half, an optimiser step of its own

Commands
  python sdn.py                   the embedded data set (drawn once); --baseline: plain
  Table 4, none | hard | soft: --baseline | --scene-labels hard --w-ent 0 | --w-ent 0
  Table 5, row by row: --baseline | --scene-labels none | --w-ent 0 | (no flag)
  Transfer, as both tables: --baseline --weights runs/sdn/last.pt --train HMDB51'S LISTS --out OUT
  Table 1 of Hara et al. 2021 (Rethinking Training Data): --hara --baseline --train train.txt
  python sdn.py scenes train.txt val.txt --root videos --weights resnet50_places365.pth.tar \\
      --categories categories_places365.txt
  python sdn.py humans train.txt val.txt --root videos
  python sdn.py humans test.txt --root videos --out test.jsonl --masks masks   for ALBAR's SCUBA
  torchrun --nproc-per-node 8 sdn.py --train train.txt --root videos --scenes scenes \\
      --humans humans.jsonl

DEVIATION from the paper and its code
  D1  The paper selects the model by validation loss. Here the result is the last epoch's weights,
      best.pt the best by validation accuracy; only L_CE lowers the learning rate, to which the
      official code adds the scene head's own loss.
  D2  The official code reverses the gradient of Eq. (6) on a head of its own, so that its backbone
      LOWERS the entropy; and its SGD has dampening 0.9, a tenth of the step. Here: the shared head,
      no reversal, no dampening.
  D3  Its shortcut of type A stops the gradient (it copies .data); ours passes it on.
SILENT in the paper
  S1  Soft label: mean over 10 frames of their softmax; hard: its most probable scene (official
      code: the frames' most frequent).
  S2  lambda scales the reversed gradient only, the scene head descends at full rate, as in the
      official code. G(x) is the pooled vector that the action head sees; no batch norm in the scene
      head (official code: there is).
  S3  Eq. (6) sees the clips of Eq. (5) with the same crop (official code: other videos), where half
      of the frames or more have a box (official code: videos of which 70 % have); a clip without
      humans has no part in it. A box is filled with its frame's mean colour, each channel rounded.
  S4  Batch norm: masked clips use the running statistics and leave them alone (--masked-bn train:
      official code).
  S5  Start: random weights (official code: an unnamed checkpoint, for 4 epochs only its heads).
      Crops at random, sides from a half (Hara et al.: corners). Weights of Hara et al. 2018 and of
      SDN's code expect --mean 0.4501 0.4225 0.3901 --std 0.00392 0.00392 0.00392. --hara has the
      mean and std of Hara et al.'s weights of 2020, whose paper says only that the mean is
      subtracted.
  S6  The detector sees each 8th frame; those between take the boxes of both neighbours. Both halves
      of an iteration share one optimiser, its momentum and weight decay. vgg16's G(x) is fc7 after
      ReLU and dropout.
  S7  Fine-tuning (Table 1: "the same hyperparameter settings as" Hara et al.) has the flags of
      training (official code, Diving48: learning rate 0.005, all layers).
  S8  Videos shorter than a clip loop. Crops have aspect ratios of 3/4 to 4/3, torchvision's (Hara
      et al.: square).
"""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from hashlib import sha1
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv3DSimple, VideoResNet
from torchvision.transforms import v2
from tqdm import tqdm

from common import (
    Boxes,
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
    check_missing,
    cli,
    differing_keys,
    evenly,
    fill_boxes,
    label_videos,
    listed_once,
    load_checkpoint,
    load_weights,
    make_loader,
    mask_humans,
    no_sync,
    normalise,
    own_network,
    random_clip,
    read_labels,
    read_lines,
    read_lists,
    read_weights,
    restore,
    running_statistics,
    seed_step,
    shortened,
    start,
    test_transform,
    total,
    train_transform,
    try_clip,
    union,
    whole,
)


# ---- Args ----------------------------------------------------------------------------------------
@dataclass
class Args:
    scenes: tuple = arg((), "scene labels of the videos, folders of `sdn.py scenes`")
    humans: tuple = arg((), "human boxes of the videos, files of `sdn.py humans`")
    num_scenes: int = arg(365, "scene categories M; Places365", low=2)
    scene_labels: str = arg("soft", "labels of Eq. (3); Table 4", choices=("none", "hard", "soft"))
    lam: float = arg(0.5, "lambda of the gradient reversal, Eq. (5); Sec. 4.2", low=0)
    w_ent: float = arg(
        1.0, "weight of Eq. (6), the paper has none; 0: without human-masked clips, Table 5", low=0
    )
    masked_bn: str = arg(
        "eval", "batch norm of the masked clips, see S4", choices=("eval", "train")
    )

    train: str = arg("", "training list; none: the embedded one, as with --toy")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(
        0.06,
        "share of the training list held out, seeded; as large as the paper's validation set",
        low=0,
        high=1,
    )
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(
        1, "official split of HMDB51's folder of lists; Sec. 4.1: all three", choices=(1, 2, 3)
    )
    frames: int = arg(16, "frames of a clip; Sec. 4.2", low=1)
    stride: int = arg(1, "step between frames; Hara et al.", low=1)
    size: int = arg(112, "pixels of a clip's side; Sec. 4.2: 112, vgg16 300", low=8)
    resize: int = arg(112, "short side at test, before the centre crop; official code", low=8)
    scale: tuple = arg(
        (0.25, 1.0), "area of the random resized crop; Hara et al.: sides 1/2 to 1", low=0, high=1
    )
    flip: float = arg(0.5, "probability of the horizontal flip; Hara et al.", low=0, high=1)
    mean: tuple = arg(
        (0.485, 0.456, 0.406),
        "of the channels; the paper is silent; ImageNet's. Weights of Hara et al. 2018 and SDN's "
        "expect 0.4501 0.4225 0.3901, of Hara et al. 2020 0.4345 0.4051 0.3775",
    )
    std: tuple = arg(
        (0.229, 0.224, 0.225),
        "of the channels; Hara et al. 2018, SDN's 0.00392 thrice, 2020 0.2768 0.2713 0.2737",
        low=1e-3,
    )

    model: str = arg(
        "r3d_18_hara",
        "Sec. 4.2; also r3d_50_hara (--hara), vgg16 (--frames 1), tiny, a name in "
        "torchvision.models.video, or your own PACKAGE.MODULE:FUNCTION, called with the number of "
        "classes",
    )
    shortcut: str = arg("A", "shortcut type of r3d_*_hara; official code", choices=("A", "B"))
    conv1_t_stride: int = arg(
        1, "stride in time of r3d_*_hara's first layer: a file of weights does not tell", low=1
    )
    max_pool: bool = arg(True, "max pool of r3d_*_hara: a file of weights does not tell")
    weights: str = arg("none", "of the backbone: torchvision's name, a file, or none")
    init: str = arg(
        "",
        "checkpoint of this script to start from, scene head and all, or of the official code; "
        "instead of --weights",
    )

    epochs: int = arg(100, "epochs; Sec. 4.2", low=0)
    batch_size: int = arg(32, "clips of an optimiser step over all processes; Sec. 4.2", low=1)
    optimizer: str = arg("sgd", "Sec. 4.2: sgd, momentum 0.9", choices=("sgd", "adamw"))
    lr: float = arg(1e-3, "learning rate; Sec. 4.2", low=0)
    weight_decay: float = arg(1e-5, "Sec. 4.2", low=0)
    schedule: str = arg(
        "plateau",
        "of --lr; Sec. 4.2: plateau of validation; step: --hara's",
        choices=("plateau", "cosine", "step"),
    )
    step_epochs: int = arg(100, "epochs after which --schedule step takes a tenth", low=1)
    patience: int = arg(
        10,
        "epochs without a lower validation loss before --lr falls to a tenth; official code",
        low=0,
    )
    warmup: float = arg(0.0, "epochs of linear warm-up of the cosine schedule", low=0)
    seed: int = arg(0, "seed of the run", low=0)

    out: str = arg("", "folder of the run; none: runs/sdn, runs/sdn-baseline")
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
    scenes=("data/toy0/scenes",),
    humans=("data/toy0/humans.jsonl",),
    num_scenes=24,
    schedule="cosine",
)
# Sec. 3.4 of Hara et al. 2021; the shortcut, mean and std are those of its code base's weights.
HARA = dict(
    model="r3d_50_hara",
    shortcut="B",
    frames=32,
    mean=(0.4345, 0.4051, 0.3775),
    std=(0.2768, 0.2713, 0.2737),
    epochs=250,
    batch_size=128,
    lr=0.03,
    weight_decay=1e-4,
    schedule="step",
)
BASELINE = dict(scene_labels="none", w_ent=0.0, out="runs/sdn-baseline")


# ---- Data ----------------------------------------------------------------------------------------
@dataclass
class Data:
    train: Videos
    val: Videos
    scenes: torch.Tensor | None  # (n, M) of the training videos; a row of zeros: none
    val_scenes: torch.Tensor | None
    boxes: Boxes | None


def make_data(args):
    """-> Data. With --w-ent a training clip comes twice: as it is, and with its humans filled."""
    if args.warmup and args.schedule != "cosine":
        raise UserError("--warmup is of --schedule cosine")
    train_list, val_list = read_lists(args)
    scenes = None
    val_scenes = None
    if args.scene_labels != "none":
        labels = read_scenes(args, train_list.paths + val_list.paths)
        scenes = labels[: len(train_list)]
        val_scenes = labels[len(train_list) :]
    boxes = None
    change = None
    if args.w_ent:
        boxes = read_boxes(args, train_list.paths)
        change = partial(mask_humans, boxes=boxes)
    return Data(
        train=Videos(
            train_list,
            partial(random_clip, frames=args.frames, stride=args.stride),
            train_transform(args.size, args.scale, args.flip),
            seed=args.seed,
            cache=args.cache,
            max_bad=args.max_bad,
            change=change,
        ),
        val=Videos(
            val_list,
            partial(centre_clip, frames=args.frames, stride=args.stride),
            test_transform(args.size, args.resize),
            seed=args.seed,
            cache=args.cache,
        ),
        scenes=scenes,
        val_scenes=val_scenes,
        boxes=boxes,
    )


def read_scenes(args, paths):
    """(n, M) soft pseudo labels of videos, or with --scene-labels hard the one-hot of their
    greatest."""
    if not args.scenes:
        raise UserError(
            "Eq. (3) needs scene labels: --scenes FOLDER, made by `python sdn.py scenes`, or "
            "--scene-labels none"
        )
    p, names = read_labels(args.scenes, paths, args.max_bad)
    if len(names) != args.num_scenes:
        raise UserError(
            f"{args.scenes[0]} has {len(names)} categories, not --num-scenes {args.num_scenes}: "
            "give the same"
        )
    if args.scene_labels == "soft":
        return p
    labelled = p.any(1, keepdim=True).float()
    return torch.zeros_like(p).scatter_(1, p.argmax(1, keepdim=True), labelled)


def read_boxes(args, paths):
    """Boxes of --humans, which must know the videos."""
    if not args.humans:
        raise UserError(
            "Eq. (6) needs human boxes: --humans FILE, made by `python sdn.py humans`, or --w-ent 0"
        )
    boxes = Boxes(args.humans)
    known = np.array([path in boxes for path in paths])
    check_missing(f"{args.humans[0]}: nothing of", paths, known, args.max_bad)
    return boxes


# ---- Model ---------------------------------------------------------------------------------------
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


class SDN(Network):
    """The network of Fig. 2: the action classifier theta_A (head) and the scene classifier theta_S
    on the features G(x) of the backbone theta_f."""

    def __init__(self, backbone, num_classes, num_scenes, lam):
        super().__init__(backbone, num_classes)
        self.lam = lam
        self.scene_head = None
        if num_scenes:
            # Sec. 4.2: four layers, 512 hidden units.
            self.scene_head = nn.Sequential(
                nn.Linear(self.head.in_features, 512),
                nn.ReLU(),
                nn.Linear(512, 512),
                nn.ReLU(),
                nn.Linear(512, 512),
                nn.ReLU(),
                nn.Linear(512, num_scenes),
            )

    def features(self, clip):
        """(N, 3, T, H, W) -> (N, D) G(x)"""
        if isinstance(self.backbone, torchvision.models.VGG):
            clip = clip.squeeze(2)  # of clips of one frame
        return self.backbone(clip)

    def forward(self, clip, scenes=False):
        """(N, 3, T, H, W) -> (N, K) action logits; with scenes also (N, M) scene logits behind the
        reversal layer, or None"""
        g = self.features(clip)
        z = self.head(g)
        if not scenes:
            return z
        if self.scene_head is None:
            return z, None
        return z, self.scene_head(Reverse.apply(g, self.lam))


class Stem(nn.Sequential):
    """conv1 and bn1 of Hara et al.: 7 x 7 x 7, stride 1 in time in 2018, then a max pool."""

    def __init__(self, t_stride, max_pool):
        super().__init__(
            nn.Conv3d(3, 64, 7, (t_stride, 2, 2), 3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1) if max_pool else nn.Identity(),
        )


class ShortcutA(nn.Module):
    """Shortcut without parameters: each second position, new channels 0. (N, C, T, H, W) ->
    (N, factor C, T/stride, H/stride, W/stride)"""

    def __init__(self, stride=2, factor=2):
        super().__init__()
        self.stride = stride
        self.factor = factor

    def forward(self, x):
        s = self.stride
        new_channels = (self.factor - 1) * x.shape[1]
        return F.pad(x[:, :, ::s, ::s, ::s], (0, 0, 0, 0, 0, 0, 0, new_channels))


HARA_MODELS = ("r3d_18_hara", "r3d_50_hara")


def hara_resnet(args):
    """3D ResNet of Hara et al. under torchvision's names"""
    stem = partial(Stem, args.conv1_t_stride, args.max_pool)
    if args.model == "r3d_18_hara":
        net = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], stem)
    else:
        net = VideoResNet(Bottleneck, [Conv3DSimple] * 4, [3, 4, 6, 3], stem)
    if args.shortcut == "A":
        if args.model == "r3d_50_hara":
            net.layer1[0].downsample = ShortcutA(stride=1, factor=4)
        for layer in (net.layer2, net.layer3, net.layer4):
            layer[0].downsample = ShortcutA()
    return net


def build_model(args, num_classes):
    """-> SDN of args.model, from random weights; its .scene_head is None with --scene-labels
    none."""
    names = torchvision.models.list_models(torchvision.models.video)
    if args.model == "tiny":
        backbone = Tiny(num_classes)
    elif args.model == "vgg16":
        # G(x), the input of the head, is fc7.
        backbone = torchvision.models.vgg16()
    elif args.model in HARA_MODELS:
        backbone = hara_resnet(args)
    elif ":" in args.model:
        backbone = own_network(args.model, num_classes)
    elif args.model in names:
        backbone = torchvision.models.get_model(args.model, weights=None)
    else:
        raise UserError(
            f"--model {args.model}: not one of tiny, vgg16, r3d_18_hara, r3d_50_hara, "
            f"{', '.join(names)}, nor MODULE:FUNCTION"
        )
    num_scenes = 0 if args.scene_labels == "none" else args.num_scenes
    return SDN(backbone, num_classes, num_scenes, args.lam)


def hara_key(key):
    """A key of Hara et al.'s checkpoints, or of the official SDN's, in torchvision's names:
    conv1 -> stem.0, bn1 -> stem.1, layer1.0.conv2 -> layer1.0.conv2.0, layer1.0.bn2 ->
    layer1.0.conv2.1"""
    layer, _, parameter = key.rpartition(".")
    block, _, name = layer.rpartition(".")
    if layer == "conv1":
        return f"stem.0.{parameter}"
    if layer == "bn1":
        return f"stem.1.{parameter}"
    if name in ("conv1", "conv2", "conv3"):
        return f"{layer}.0.{parameter}"
    if name in ("bn1", "bn2", "bn3"):
        return f"{block}.conv{name[-1]}.1.{parameter}"
    return key


def first_weights(net, args, classes):
    """Load what --init or --weights name. -> what was done, in words"""
    if not args.init and args.model in HARA_MODELS and args.weights != "none":
        return hara_weights(net, args, args.weights, classes)
    if not args.init:
        normalisation = (args.mean, args.std)
        return load_weights(
            net, args.weights, args.model, normalisation=normalisation, classes=classes
        )
    # --init stands for the weights that the toy preset names.
    if args.weights not in ("none", TOY["weights"]):
        raise UserError(f"--init {args.init}: replaces --weights: give one of the two")
    if args.model in HARA_MODELS and Path(args.init).is_file():
        theirs = official_scene_head(args.init)
        if theirs:
            note = hara_weights(net, args, args.init, classes)
            return f"{note}, {load_scene_head(net.scene_head, theirs)}"
    saved = load_checkpoint(args.init, "sdn")
    if saved["classes"] != classes:
        raise UserError(f"--init {args.init}: a run on other classes")
    restore(net, saved["model"], f"--init {args.init}")
    return f"all of {args.init}, epoch {saved['epoch']}"


def official_scene_head(file):
    """{key of our scene head: tensor} of a checkpoint of the official SDN: place_mlp.1.fc -> 2,
    place_mlp.p_last_fc -> 6; its batch norm, which ours has not, keeps its name"""
    head = {}
    for key, value in read_weights(file, "").state.items():
        name = key.removeprefix("module.")
        if name.startswith("place_mlp."):
            name = re.sub(r"^place_mlp\.([012])\.fc\.", lambda m: f"{2 * int(m[1])}.", name)
            head[name.replace("place_mlp.p_last_fc.", "6.")] = value
    return head


def load_scene_head(head, theirs):
    """Load a scene head where it fits ours. -> what was done, in words"""
    if head is None:
        return "no scene head"
    wrong = differing_keys(head.state_dict(), theirs)
    if wrong:
        return f"new scene head, as theirs differs in {shortened(wrong.values(), 3)}"
    head.load_state_dict(theirs)
    return f"the {len(theirs)} of place_mlp in the scene head"


def hara_weights(net, args, file, classes):
    """Load a file of Hara et al., or of the official SDN without its two other heads. -> what was
    done, in words"""
    try:
        note = load_weights(
            net,
            file,
            args.model,
            rename=hara_key,
            drop=("place_mlp.", "hm_mlp."),
            normalisation=(args.mean, args.std),
            classes=classes,
        )
    except UserError as error:
        if "downsample" not in str(error):
            raise
        raise UserError(f"{error}: the file may be of the other --shortcut, A or B") from None
    known = ((0.4501, 0.4225, 0.3901), (0.4345, 0.4051, 0.3775))
    if "expects" not in note and args.mean not in known:
        note += ", which may expect another --mean and --std, see --help"
    return note


# ---- Losses --------------------------------------------------------------------------------------
# z (N, K) action logits, s (N, M) scene logits; each is the mean over the batch.
def cross_entropy(z, label):
    """Eq. (2)  L_CE = -sum_k y_k log f_A(G(x))_k

    label: (N,)
    """
    return F.cross_entropy(z, label)


def scene_adversarial(s, p):
    """Eq. (3)  L_Adv = -sum_m p_m log f_S(G(x))_m

    p: (N, M) soft or hard labels; a row of zeros adds nothing
    """
    return F.cross_entropy(s, p)


def human_mask_confusion(z_masked, weight):
    """Eq. (4)  L_Ent = -sum_k f_A(G(x_hm))_k log f_A(G(x_hm))_k

    weight (N,): 0 for clips without humans, mean 1
    """
    log_p = F.log_softmax(z_masked, 1)
    return -(weight * (log_p.exp() * log_p).sum(1)).mean()


def debiasing_objective(l_ce, l_adv):
    """Eq. (5)  L = L_CE - lambda L_Adv, minimised by theta_f, theta_A and maximised by theta_S

    As ONE minimisation: L_CE + L_Adv. The scene head descends L_Adv at full rate; the reversal
    layer below it has multiplied the gradient by -lambda before it reaches theta_f, and theta_A has
    no part in L_Adv.
    """
    return l_ce + l_adv


def confusion_objective(l_ent, w_ent):
    """Eq. (6)  theta_f, theta_A maximise L_Ent: the loss is -w_ent L_Ent

    The paper has no weight, which is w_ent = 1.
    """
    return -w_ent * l_ent


# ---- Training ------------------------------------------------------------------------------------
def training_step(model, batch, args, masked=False):
    """Half an iteration (Sec. 3.4) -> loss, dict of what is logged. Each half has an optimiser step
    of its own.

    masked False, Eq. (5): batch {"clip": (N, 3, T, H, W) float, "label": (N,), "scene": (N, M)};
    masked True, Eq. (6): {"clip": the human-masked clips, "label", "weight": (N,)}
    """
    if masked:
        return confusion_step(model, batch, args)
    return debiasing_step(model, batch, args)


def debiasing_step(model, batch, args):
    """The half on the clips as they are."""
    label = batch["label"]
    with autocast(batch["clip"].device, args.amp):
        z, s = model(batch["clip"], scenes=True)
    l_ce = cross_entropy(z.float(), label)  # Eq. (2)
    metrics = {"ce": l_ce, "accuracy": (z.argmax(1) == label).float().mean()}
    l_adv = 0.0
    if s is not None:
        p = batch["scene"]
        l_adv = scene_adversarial(s.float(), p)  # Eq. (3)
        right, known = count_right(s, p)
        metrics["adv"] = l_adv
        metrics["scene_accuracy"] = right / known.clamp(1)
    loss = debiasing_objective(l_ce, l_adv)  # Eq. (5)
    return loss, {"loss": loss} | metrics


def confusion_step(model, batch, args):
    """The half on the clips whose humans are filled; the scene head has no part in it."""
    has_humans = batch["weight"] > 0
    share = has_humans.float().mean()
    keep = has_humans.clone()
    if not keep.any():
        # DistributedDataParallel waits for every process: a clip of weight 0.
        keep[0] = True
    clip = batch["clip"][keep]
    label = batch["label"][keep]
    # The weights have mean 1 over the batch of all processes. The loss is the mean over the clips
    # that are kept: this makes it that over all N.
    weight = batch["weight"][keep] * keep.sum() / len(keep)
    with running_statistics(model, args.masked_bn == "eval"), autocast(clip.device, args.amp):
        z, s = model(clip, scenes=True)
    l_ent = human_mask_confusion(z.float(), weight)  # Eq. (4)
    loss = confusion_objective(l_ent, args.w_ent)  # Eq. (6)
    if s is not None:
        # DistributedDataParallel waits for every parameter too.
        loss = loss + 0 * s.float().sum()
    right = (weight * (z.argmax(1) == label)).mean()
    return loss, {"ent": l_ent, "masked_accuracy": right, "masked_share": share}


def count_right(s, p):
    """(N, M) scene logits, (N, M) labels -> how many of the labelled clips are named right, how
    many are labelled"""
    known = p.any(1)
    right = s.argmax(1) == p.argmax(1)
    return (right & known).sum(), known.sum()


@torch.inference_mode()
def validate(model, loader, scenes, args, device):
    """-> {"val/...": figure} of the validation list, scenes (n, M) being its labels, on the CPU.
    val/loss is L_CE only: the adversary's must not steer --lr."""
    # Each process has statistics of batch norm of its own: all take the first one's.
    broadcast(model)
    model.eval()
    n = loss = right = scene_right = scene_known = 0.0
    unreadable = []
    for batch in loader:
        readable = batch["bad"] == 0
        unreadable += batch["index"][~readable].tolist()
        if not readable.any():
            continue
        clip = normalise(batch["clip"][readable].to(device), args.mean, args.std)
        label = batch["label"][readable].to(device)
        with autocast(device, args.amp):
            z, s = model(clip, scenes=True)
        n += len(label)
        loss += float(F.cross_entropy(z.float(), label, reduction="sum"))
        right += float((z.argmax(1) == label).sum())
        if s is not None:
            batch_right, batch_known = count_right(s, scenes[batch["video"][readable]].to(device))
            scene_right += float(batch_right)
            scene_known += float(batch_known)
    model.train()
    n, loss, right, scene_right, scene_known = total(n, loss, right, scene_right, scene_known)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    metrics = {
        "val/loss": loss / n,
        "val/accuracy": right / n,
        "val/chance": 1 / model.head.out_features,
        "val/videos": int(n),
        "val/unreadable": [loader.dataset.dataset.paths[i] for i in union(unreadable)],
    }
    if scene_known:
        # Of the adversary, which may only lag.
        metrics["val/scene_accuracy"] = scene_right / scene_known
    return metrics


def learning_rate(step, steps_per_epoch, args):
    """Factor of the learning rate: a tenth after each --step-epochs (Hara et al.), or linear
    warm-up, then cosine to 0 (the paper: plateau), step by step."""
    if args.schedule == "step":
        return 0.1 ** (step // (args.step_epochs * steps_per_epoch))
    warmup = args.warmup * steps_per_epoch
    steps = args.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def count_masked(parts):
    """How many clips of a batch, of all parts and processes, have a box in half of their frames
    (S3)."""
    return total(sum((part["humans"] >= 0.5).sum() for part in parts))[0]


def prepare(batch, data, args, device, masked, num_masked):
    """A batch of the loader -> what either half of training_step takes"""
    clip = batch["clip"]
    if args.w_ent:
        clip = clip[:, int(masked)]
    clip = normalise(clip.to(device, non_blocking=True), args.mean, args.std).contiguous()
    prepared = {"clip": clip, "label": batch["label"].to(device, non_blocking=True)}
    if masked:
        weight = (batch["humans"] >= 0.5) * args.batch_size / num_masked
        prepared["weight"] = weight.to(device, non_blocking=True)
    elif data.scenes is not None:
        prepared["scene"] = data.scenes[batch["video"]].to(device, non_blocking=True)
    return prepared


def leave_scene_head(net):
    """The second half is not theta_S's: without gradients neither decay nor momentum move it."""
    if net.scene_head is not None:
        for parameter in net.scene_head.parameters():
            parameter.grad = None


# [same in sdn.py, smad.py and omnidebias.py: make_optimizer]
def make_optimizer(net, args):
    if args.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), args.lr, 0.9, weight_decay=args.weight_decay)
    return torch.optim.AdamW(net.parameters(), args.lr, weight_decay=args.weight_decay)


# [end]


def make_scheduler(optimizer, steps_per_epoch, args):
    if args.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.1, patience=args.patience
        )
    factor = partial(learning_rate, steps_per_epoch=steps_per_epoch, args=args)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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

    net = build_model(args, len(data.train.videos.classes))
    try_clip(net, args)
    run = Run("sdn", args, data.train, data.val, labels=(data.scenes, data.val_scenes, data.boxes))
    note = run.note or first_weights(net, args, data.train.videos.classes)
    net.to(device)
    model = DistributedDataParallel(net) if world > 1 else net
    model = torch.compile(model) if args.compile else model

    optimizer = make_optimizer(net, args)
    steps_per_epoch = len(data.train) // args.batch_size
    scheduler = make_scheduler(optimizer, steps_per_epoch, args)
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
            masked_in_epoch = 0
            for _ in run.progress(epoch, order.skip):
                logged = (step + 1) % args.log_every == 0 or (step + 1) % steps_per_epoch == 0
                parts = [next(batches) for _ in range(args.accumulate)]
                num_masked = count_masked(parts) if args.w_ent else 0
                masked_in_epoch += num_masked
                # Sec. 3.4: Eq. (5) and Eq. (6) by turns, an optimiser step each.
                for masked in (False, True) if num_masked else (False,):
                    for part, batch in enumerate(parts):
                        last = part + 1 == args.accumulate
                        seed_step(args.seed, 2 * (step * args.accumulate + part) + masked, rank)
                        prepared = prepare(batch, data, args, device, masked, num_masked)
                        # Of a batch in parts, the last exchanges the gradients.
                        with no_sync(model, not last):
                            loss, metrics = training_step(model, prepared, args, masked)
                            backward(loss)
                        run.record(metrics, batch)
                    if masked:
                        leave_scene_head(net)
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                if args.schedule != "plateau":
                    scheduler.step()
                step += 1
                if logged:
                    run.log_steps(step, optimizer.param_groups[0]["lr"])
                    if interrupt.asked():
                        break
            if step == (epoch + 1) * steps_per_epoch:
                if args.w_ent and not masked_in_epoch and not order.skip:
                    raise UserError(
                        "--humans: no clip of an epoch has boxes in half of its frames, so Eq. (6) "
                        "has none"
                    )
                metrics = validate(net, val_loader, data.val_scenes, args, device)
                if args.schedule == "plateau":
                    scheduler.step(metrics["val/loss"])
                run.log_epoch(step, metrics)
            # [same in all scripts: the loop's tail]
            run.save("last.pt", step)
            if interrupt.stop:
                interrupt.leave(run, step)
    return run.result()
    # [end]


# ---- Networks off the shelf ----------------------------------------------------------------------
def load_labeller(args, module, **how):
    """torchvision's args.model of `module` with --weights, in eval mode, the same in all processes.
    -> model, device, how it was made"""
    # mnasnet loads no plain dict.
    names = torchvision.models.list_models(module, exclude="mnasnet*")
    if args.model not in names:
        raise UserError(f"--model {args.model}: not one of {', '.join(names)}")
    # Processes wait for the one with the longest videos.
    _, _, device = start(0, timedelta(days=7))
    # Random weights are the same everywhere.
    seed_step(0, 0)
    model = torchvision.models.get_model(args.model, weights=None, **how)
    if args.weights != "none":
        weights = read_weights(args.weights, args.model)
        check_arch(model, weights.arch, args)
        state = {today_key(key): value for key, value in weights.state.items()}
        categories = " and its --categories" if "num_classes" in how else ""
        restore(model, state, f"--weights {args.weights} with --model {args.model}{categories}")
    file = Path(args.weights)
    of_coco = args.weights in ("COCO_V1", "DEFAULT") or "_coco-" in file.name
    if of_coco and args.model.endswith(("rcnn_resnet50_fpn", "retinanet_resnet50_fpn")):
        # torchvision has 0 for these weights, which torch 2.11 refuses.
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-30
    made = asdict(args)
    # These may differ when what is begun goes on: where it runs, and where the videos are.
    for name in ("lists", "root", "split", "max_bad", "out", "batch_size", "workers"):
        del made[name]
    # They do not change the boxes; `humans` adds --inside where it cuts masks.
    for name in ("masks", "inside"):
        made.pop(name, None)
    made["weights"] = file.name
    made["sha1"] = sha1(file.read_bytes()).hexdigest() if file.is_file() else ""
    return model.to(device).eval(), device, made


def check_arch(model, arch, args):
    """UserError where a file says that it is of another network. Places365's wideresnet18, whose
    keys are ResNet-18's, is ResNet-18 without the max pool."""
    if arch.startswith("wideresnet18") and args.model == "resnet18":
        model.maxpool = nn.Identity()
    elif arch and arch != args.model:
        raise UserError(f"--weights {args.weights}: is of {arch}, not of --model {args.model}")


def today_key(key):
    """A key as torchvision names it today: DataParallel put `module.` before it, in AlexNet and VGG
    inside it, and `norm.1` of old DenseNets is norm1."""
    key = key.replace("module.", "")
    if "denselayer" in key:
        for layer in ("norm", "conv"):
            for number in "12":
                key = key.replace(f".{layer}.{number}.", f".{layer}{number}.")
    return key


# ---- Scene labels: Sec. 3.2 ----------------------------------------------------------------------
@dataclass
class ScenesArgs(OfflineArgs):
    out: str = arg("scenes", "folder of the labels")
    model: str = arg(
        "resnet50", "a classifier in torchvision.models; SDN Sec. 3.2, SMAD Sec. 6.1: ResNet-50"
    )
    weights: str = arg(
        "",
        "a file, or torchvision's name (for objects: IMAGENET1K_V2), or none: random; of "
        "wideresnet18_places365 with --model resnet18",
    )
    categories: str = arg(
        "", "file, a name a line, or categories_places365.txt; torchvision's weights have their own"
    )
    features: bool = arg(
        False, "keep the last layer's input too, mean over the frames: for SDN's Eq. (1)"
    )
    frames: int = arg(10, "frames of a video, evenly spread; the papers are silent", low=1)
    size: int = arg(224, "pixels of a frame's side", low=8)
    resize: int = arg(256, "short side before the centre crop; Places365's own validation", low=8)
    mean: tuple = arg(
        (0.485, 0.456, 0.406),
        "of the channels; Places365's too; inception_v3's, googlenet's: all 0.5",
    )
    std: tuple = arg(
        (0.229, 0.224, 0.225), "of the channels; inception_v3's, googlenet's: all 0.5", low=1e-3
    )
    batch_size: int = arg(16, "videos in a forward pass", low=1)


def scenes(args):
    """Pseudo scene labels of videos (SDN Sec. 3.2), once, before training.

    python sdn.py scenes train.txt val.txt --root videos --weights resnet50_places365.pth.tar \\
        --categories categories_places365.txt

    A video's soft label is the mean over its frames of their softmax vectors, as in SDN's official
    code; the paper is silent. OUT is a folder: labels.npy (n, M) float16, a row for each line of
    paths.txt, a column for each line of categories.txt; with --features also features.npy (n, D); a
    row of NaN: not done, or unreadable. After a kill the same command goes on; torchrun's processes
    (of one machine) share the work. For objects: --weights IMAGENET1K_V2 --out objects.
    """
    videos = listed_once(args)
    names = read_categories(args)
    if args.resize < args.size:
        raise UserError(
            f"--resize {args.resize} is less than --size {args.size}: frames would have black "
            "borders"
        )
    model, device, made = load_labeller(args, torchvision.models, num_classes=len(names))
    mixed_precision = autocast(device, args.amp)
    # The last layer's input is kept as it passes: where it lies differs from network to network.
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    width = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    kept = {}
    last.register_forward_pre_hook(lambda layer, inputs: kept.update(features=inputs[0]))

    def look(clip):
        """(N, 3, T, S, S) uint8 -> (N, M) soft labels, (N, D) features or None"""
        frames = normalise(clip, args.mean, args.std).transpose(1, 2).flatten(0, 1)
        with torch.inference_mode(), mixed_precision:
            p = model(frames).float().softmax(1)  # (N T, M)
        p = p.unflatten(0, (-1, clip.shape[2])).mean(1)
        if not args.features:
            return p, None
        features = kept["features"].float().reshape(len(frames), width, -1).mean(2)
        return p, features.unflatten(0, (-1, clip.shape[2])).mean(1)

    try:
        look(torch.zeros(1, 3, 1, args.size, args.size, dtype=torch.uint8, device=device))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--model {args.model} takes no --size {args.size}: {reason}") from None
    dataset = Videos(
        videos, partial(evenly, frames=args.frames), test_transform(args.size, args.resize)
    )
    label_videos(args, dataset, look, names, made, device, width if args.features else 0)


def read_categories(args):
    """-> names of the classes of --weights: torchvision's own, or of the file --categories."""
    if args.weights and args.categories:
        names = []
        for _, text in read_lines(args.categories):
            # Places365 writes `/b/bow_window/indoor 62`.
            name, _, number = text.rpartition(" ")
            if name[:1] == "/" and name[2:3] == "/" and number.isdecimal():
                names.append(name[3:])
            else:
                names.append(text)
        if not names or len(set(names)) < len(names):
            raise UserError(
                f"{args.categories}: {len(names)} names, {len(set(names))} of them different"
            )
        return names
    if args.model in torchvision.models.list_models(torchvision.models):
        known = torchvision.models.get_model_weights(args.model).__members__
        if args.weights in known:
            return known[args.weights].meta["categories"]
    raise UserError(
        "give --weights and --categories: for scenes the files resnet50_places365.pth.tar and "
        "categories_places365.txt; torchvision's weights have names of their own"
    )


# ---- Human boxes: Sec. 3.3 -----------------------------------------------------------------------
@dataclass
class HumansArgs(OfflineArgs):
    out: str = arg("humans.jsonl", "file of the boxes")
    model: str = arg(
        "maskrcnn_resnet50_fpn", "a detector in torchvision.models.detection; Sec. 3.3: Mask R-CNN"
    )
    weights: str = arg(
        "COCO_V1", "torchvision's name, a file of a detector of COCO's classes, or none: random"
    )
    score: float = arg(0.3, "least score of a box; official code", low=0, high=1)
    every: int = arg(
        8,
        "look at each n-th frame only; its boxes are carried to those between; 1 with --masks",
        low=1,
    )
    masks: str = arg("", "folder of the persons' masks too, for `albar.py scuba --masks`")
    inside: str = arg("", "file of boxes in OUT's form, to which the masks are cut")
    batch_size: int = arg(8, "frames of one video in a forward pass", low=1)


def humans(args):
    """Boxes of the persons in videos (SDN Sec. 3.3), once, before training.

    python sdn.py humans train.txt val.txt --root videos

    OUT has a line {"made": ...}, then one a video: {"path", "every", "frames": the frame of each
    box, "boxes": [x0, y0, x1, y1] in pixels of the decoded frame, "scores"}. After a kill the same
    command goes on; torchrun's processes (of one machine) share the videos. Unreadable ones have no
    line, and are tried again. The frames of a video that are looked at are in memory at once.

    --masks FOLDER: also FOLDER/PATH.npz instead of its ending, key mask, (T, H, W) bool of the
    decoded frames: the pixels to which Mask R-CNN gives more than 0.5 for any of the persons in
    OUT. Every frame is looked at, whatever --every says. A frame without persons has an empty mask.

    --inside BOXES cuts the masks to the boxes that were given for their frame, such as THUMOS-14's
    of UCF101, so that bystanders go: ALBAR's repair of UCF101 (its Sec. 4.2: with SAMTrack, each
    video checked by hand). A frame without a box has an empty mask; a video that BOXES does not
    have is not cut, as nobody said who acts in it.
    """
    videos = listed_once(args)
    inside = None
    if args.masks:
        # A mask of the frame before would leave scene where a person has moved on.
        args = replace(args, every=1)
        check_mask_files(args, videos)
        inside = read_inside(args, videos)
    elif args.inside:
        raise UserError(f"--inside {args.inside} cuts masks: give --masks FOLDER")
    model, device, made = load_labeller(args, torchvision.models.detection, weights_backbone=None)
    mixed_precision = autocast(device, args.amp)
    torch.backends.cudnn.benchmark = False  # frames differ in size
    heads = getattr(model, "roi_heads", model)
    heads.score_thresh = min(heads.score_thresh, args.score)
    # Without the branches for key points and masks the boxes are the same.
    heads.keypoint_roi_pool = None
    if args.masks:
        made["inside"] = inside.sha1
        # Each box above the detector's own threshold gets a mask: no more of them than are kept.
        heads.score_thresh = 0.999 * args.score
    else:
        heads.mask_roi_pool = None

    done = open_boxes(args.out, made)
    if args.masks:
        done = {path for path in done if mask_file(args.masks, path).exists()}
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    left = [i for i, path in enumerate(videos.paths) if path not in done]
    dataset = Videos(videos, partial(every_nth, every=args.every), v2.Identity())
    loader = make_loader(Subset(dataset, left[rank::world]), args, device, batch_size=None)
    unreadable = []
    for video in tqdm(loader, desc=args.out, unit="video", disable=None if rank == 0 else True):
        if video["bad"]:
            unreadable.append(video["index"])
            continue
        path = videos.paths[video["index"]]
        found, masks = find_humans(model, video["clip"], args, device, mixed_precision)
        # The masks come first: the line in OUT says that the video is done.
        if args.masks:
            write_masks(args.masks, path, cut_to_boxes(masks, path, inside))
        append_line(args.out, {"path": path, "every": args.every} | found)
    bad = union(unreadable)
    if len(bad) == len(videos):
        raise UserError(
            f"none of {len(bad)} videos can be read, first {videos.full(0)}: check --root"
        )
    if rank == 0:
        names = ", ".join(videos.paths[i] for i in bad[:5])
        print(f"{args.out}: {len(videos) - len(bad)} videos, {len(bad)} unreadable {names}")
    uncut = [path for path in videos.paths if args.inside and path not in inside]
    if rank == 0 and uncut:
        print(f"{args.inside}: no boxes of {len(uncut)} videos, not cut {shortened(uncut)}")


def check_mask_files(args, videos):
    """UserError where there would be no masks, or not in FOLDER, or of two videos in one file."""
    if not args.model.startswith("maskrcnn"):
        raise UserError(
            f"--masks: --model {args.model} finds only boxes: take maskrcnn_resnet50_fpn or "
            "maskrcnn_resnet50_fpn_v2"
        )
    path_of = {}
    for path in videos.paths:
        if path.startswith("/") or ".." in Path(path).parts:
            raise UserError(f"{path}: give paths below --root, which --masks repeats")
        file = mask_file(args.masks, path)
        if file in path_of:
            raise UserError(f"--masks: {path_of[file]} and {path} would both have {file}")
        path_of[file] = path


def mask_file(folder, path):
    return Path(folder, Path(path).with_suffix("").as_posix() + ".npz")


def read_inside(args, videos):
    """-> Boxes of --inside, of no video where there is none"""
    if not args.inside:
        return Boxes([])
    inside = Boxes([args.inside])
    if not any(path in inside for path in videos.paths):
        raise UserError(
            f"--inside {args.inside}: no boxes of the lists' videos, such as {videos.paths[0]}"
        )
    return inside


def every_nth(n, every, rng=None):
    return np.arange(0, n, every)


def find_humans(model, clip, args, device, mixed_precision):
    """(3, T, H, W) uint8, every n-th frame of a video -> {"frames": the frame of each box, "boxes",
    "scores"}, with --masks what is of a person: T of (H, W) bool"""
    frames = []
    boxes = []
    scores = []
    masks = []
    for batch in torch.arange(clip.shape[1]).split(args.batch_size):
        images = clip[:, batch].transpose(0, 1).to(device) / 255
        with torch.inference_mode(), mixed_precision:
            results = model(list(images))
        for number, result in zip(batch.tolist(), results, strict=True):
            # COCO's 1 is a person.
            is_human = (result["labels"] == 1) & (result["scores"] >= args.score)
            frames += [number * args.every] * int(is_human.sum())
            boxes += result["boxes"][is_human].float().cpu().tolist()
            scores += result["scores"][is_human].float().cpu().tolist()
            if args.masks:
                person_masks = result["masks"][is_human, 0] > 0.5  # (B, H, W)
                masks.append(person_masks.any(0).cpu())
    return {"frames": frames, "boxes": boxes, "scores": scores}, masks


def cut_to_boxes(masks, path, inside):
    """T masks (H, W) of a video -> (T, H, W), within the boxes of each frame where the video has
    any"""
    masks = torch.stack(masks)
    if path not in inside:
        return masks
    allowed = torch.zeros(masks.shape, dtype=torch.bool)
    boxes_of_frames = inside(path, np.arange(len(masks)))
    for image, boxes in zip(allowed, boxes_of_frames, strict=True):
        fill_boxes(image, boxes, True)
    return masks & allowed


def write_masks(folder, path, masks):
    """All of a file or none: a kill may come while it is written."""
    file = mask_file(folder, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as part, open(part, "wb") as opened:
        np.savez_compressed(opened, mask=masks.numpy())


def open_boxes(out, made):
    """Begin a file of boxes, or go on with it, without what a kill has left of its last line.
    -> the videos in it"""
    out = Path(out)
    rank = int(os.environ.get("RANK", 0))
    if rank == 0 and not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        append_line(out, {"made": made})
    total(0)  # the others wait
    content = out.read_bytes()
    # A file that this command did not begin is refused before anything is cut off.
    if not content.startswith(json.dumps({"made": made}).encode() + b"\n"):
        raise UserError(f"{out}: begun with other settings: name another --out")
    if rank == 0:
        os.truncate(out, content.rfind(b"\n") + 1)
    total(0)
    done = set(Boxes([out]).videos)
    total(0)  # nobody writes before all have read
    return done


def append_line(out, row):
    # One write, so that processes do not write into each other's lines.
    with open(out, "ab", buffering=0) as file:
        file.write(json.dumps(row).encode() + b"\n")


STEPS = {"scenes": (ScenesArgs, scenes, None), "humans": (HumansArgs, humans, None)}


if __name__ == "__main__":
    cli(Args, train, presets={"toy": TOY, "hara": HARA, "baseline": BASELINE}, steps=STEPS)
