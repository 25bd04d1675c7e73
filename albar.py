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
SILENT in the paper
  S1  F(x) in Eq. (4) is the sum of the logits, as in the official code: of probabilities it would
      be constant 1.
  S2  The static clip is taken from the augmented moving clip, so that both share crop and flip
      (official code too): its middle frame (Table 4), where Fig. 1 says a random one.
  S3  Batch norm: the static clip uses the moving clips' running statistics (--static-bn eval) and
      leaves them alone; Swin has none. With --static-bn train the static clips mix into the
      statistics that the test uses.
  S4  StillMix and the other augmentations touch the moving clip alone; the static clip stays
      unmixed (official code). The frame is another clip's of the batch, without the reference
      network and bank of Li et al. 2023.
  S5  Warm-up starts at 1/(its steps), the cosine ends at 0, step by step; an epoch's last, smaller
      batch is left out.
  S6  Videos shorter than a clip loop (official code: half the stride, then the last frame again).
      The official probability of 0.75 is StillMix's alone; here it is every augmentation's.
"""

import math
import re
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset

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
    cli,
    load_weights,
    make_loader,
    no_sync,
    normalise,
    own_network,
    random_clip,
    read_lists,
    running_statistics,
    seed_step,
    start,
    test_transform,
    total,
    train_transform,
    try_clip,
    union,
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
        "none", "augmentation of Table 1", choices=("none", "mixup", "videomix", "stillmix")
    )
    augment_prob: float = arg(
        0.75, "probability of the augmentation for a sample; official code", low=0, high=1
    )

    train: str = arg("", "training list; none: the embedded one, as with --toy")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(
        0.2, "share of the training list held out, seeded; App. B", low=0, high=1
    )
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of HMDB51's folder of lists; App. A", choices=(1, 2, 3))
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
        "Sec. 4.3; also tiny, a name in torchvision.models.video, or your own "
        "PACKAGE.MODULE:FUNCTION, called with the number of classes",
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
# Chosen by contrasted accuracy on other worlds: w_adv 0.04 58.5, 0.08 59.7 (of the seeds 1 and 2;
# 0.15 is above them, by a SCUFO far below chance); StillMix with probability 0.25 29.2, 0.5 45.6,
# 0.75 39.0 (of seed 1).
TOY |= dict(w_adv=0.08, augment_prob=0.5)
BASELINE = dict(w_adv=0.0, w_ent=0.0, w_gp=0.0, out="runs/albar-baseline")


# ---- Data ----------------------------------------------------------------------------------------
@dataclass
class Data:
    train: Videos
    val: Videos


def make_data(args):
    """-> Data. Clips as in Sec. 4.3: dense, random in training, the centre one at test."""
    train_list, val_list = read_lists(args)
    return Data(
        train=Videos(
            train_list,
            partial(random_clip, frames=args.frames, stride=args.stride),
            train_transform(args.size, args.scale, args.flip),
            seed=args.seed,
            cache=args.cache,
            max_bad=args.max_bad,
        ),
        val=Videos(
            val_list,
            partial(centre_clip, frames=args.frames, stride=args.stride),
            test_transform(args.size, args.resize),
            seed=args.seed,
            cache=args.cache,
        ),
    )


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


def mixup(clip, target, share, lam):
    """Zhang et al. 2018, lam ~ Beta(0.2, 0.2): clips and labels of two samples blended, where share
    (N,) is 1."""
    keep = 1 - share * (1 - lam)  # (N,) the part of the own clip, 1 where it is not mixed
    mixed = torch.lerp(clip.roll(1, 0), clip, keep.view(-1, 1, 1, 1, 1))
    return mixed, torch.lerp(target.roll(1, 0), target, keep.view(-1, 1))


def videomix(clip, target, share, lam):
    """Yun et al. 2020, lam ~ Beta(1, 1): a box of another sample, the same in all frames; labels by
    its area."""
    height, width = clip.shape[-2:]
    y, x = torch.rand(2).tolist()
    rows = box_side(y, height, lam)
    columns = box_side(x, width, lam)
    box = torch.zeros(height, width, device=clip.device)
    box[rows, columns] = 1
    box = share.view(-1, 1, 1, 1, 1) * box  # (N, 1, 1, H, W)
    area = box.mean((1, 2, 3, 4))[:, None]
    return torch.lerp(clip, clip.roll(1, 0), box), torch.lerp(target, target.roll(1, 0), area)


def box_side(centre, length, lam):
    """The slice of a box of sqrt(1 - lam) of a side, cut off at the border."""
    half = length * (1 - lam) ** 0.5 / 2
    return slice(int(max(0, centre * length - half)), int(min(length, centre * length + half)))


def stillmix(clip, target, share, lam):
    """Li et al. 2023, lam ~ Beta(200, 200): a random frame of another sample laid over all frames;
    label kept."""
    t = torch.randint(clip.shape[2], ())
    still = clip.roll(1, 0)[:, :, t].unsqueeze(2)  # (N, 3, 1, H, W)
    return torch.lerp(clip, still, (share * (1 - lam)).view(-1, 1, 1, 1, 1)), target


# The augmentations, each with the a of its Beta(a, a).
AUGMENT = {"mixup": (mixup, 0.2), "videomix": (videomix, 1.0), "stillmix": (stillmix, 200.0)}


def augment(clip, target, name, prob):
    """One of Table 1's augmentations: one lambda a batch (of each part and process), each sample
    with probability prob."""
    if name == "none":
        return clip, target
    mix, a = AUGMENT[name]
    lam = torch.distributions.Beta(a, a).sample().item()
    share = (torch.rand(len(clip)) < prob).float().to(clip.device)
    return mix(clip, target, share, lam)


# ---- Model ---------------------------------------------------------------------------------------
def build_model(args, num_classes):
    """-> Network of args.model, from random weights."""
    names = torchvision.models.list_models(torchvision.models.video)
    if args.model == "tiny":
        backbone = Tiny(num_classes)
    elif ":" in args.model:
        backbone = own_network(args.model, num_classes)
    elif args.model in names:
        backbone = torchvision.models.get_model(args.model, weights=None)
    else:
        raise UserError(
            f"--model {args.model}: not one of tiny, {', '.join(names)}, nor MODULE:FUNCTION"
        )
    return Network(backbone, num_classes).to(memory_format=layout(args))


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
    if args.model.startswith("swin3d"):
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


def gradient_penalty(z_static, static, norm="official", create_graph=True, scale=1.0):
    """Eq. (4)  L_gp = || d sum_c z_c / d static ||_2

    static (N, C, T, H, W), which z_static was computed from. norm "full": over C, T, H, W, as
    printed; "official" (D1): over C, T, H, then the mean over W too. scale: multiplied in and out
    again, to hold fp16 gradients above underflow.
    """
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
    """One batch {"clip": (N, 3, T, H, W) float, "label": (N,)} -> loss of Eq. (5), dict of what is
    logged.

    backward: called with L_CE as soon as it is known, so that the moving clip's graph is freed
    before the static clip needs its own: the same gradient in less memory. The loss returned then
    has the static clip's gradient alone. log: add the figures that cost another backward pass.
    """
    clip = batch["clip"]
    label = batch["label"]
    head = unwrapped(model).head
    needs_static = args.w_adv > 0 or args.w_ent > 0 or args.w_gp > 0

    target = label
    if args.augment != "none":
        target = F.one_hot(label, head.out_features).float()
    mixed, target = augment(clip, target, args.augment, args.augment_prob)
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
        static = static_clip(clip, args.static_frame).requires_grad_(args.w_gp > 0)
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
            scale = 1024.0 if args.amp == "fp16" else 1.0
            l_gp = gradient_penalty(z_static, static, args.gp_norm, scale=scale)  # Eq. (4)
            # DistributedDataParallel waits for every parameter, and the head's bias has no part
            # in the penalty: here it gets a gradient of zero.
            l_gp = l_gp + 0 * z_static.sum()
        if args.w_gp and log:
            # The penalty can fall without any class's gradient falling, by driving the sum of
            # the head's rows to zero.
            true = z_static.gather(1, label[:, None])
            metrics["gp_true_logit"] = gradient_penalty(
                true, static, args.gp_norm, create_graph=False, scale=scale
            )
            metrics["head_row_sum"] = head.weight.detach().sum(0).norm()
        metrics["adv"] = l_adv
        metrics["ent"] = l_ent
        metrics["gp"] = l_gp
        metrics["static_accuracy"] = (z_static.argmax(1) == label).float().mean()
    loss = total_loss(l_ce, l_adv, l_ent, l_gp, args.w_adv, args.w_ent, args.w_gp)  # Eq. (5)
    return loss, {"loss": loss} | metrics


def unwrapped(model):
    """The Network that DistributedDataParallel or torch.compile may hold."""
    model = getattr(model, "_orig_mod", model)
    return getattr(model, "module", model)


@torch.inference_mode()
def validate(model, loader, args, device):
    """-> {"val/...": figure} of the validation list: its clips, and their middle frames held still
    (IID alone)."""
    # Each process has statistics of batch norm of its own: all take the first one's.
    broadcast(model)
    model.eval()
    n = loss = right = static_right = static_entropy = 0.0
    unreadable = []
    for batch in loader:
        readable = batch["bad"] == 0
        unreadable += batch["index"][~readable].tolist()
        if not readable.any():
            continue
        clip = normalise(batch["clip"][readable].to(device), args.mean, args.std)
        label = batch["label"][readable].to(device)
        with autocast(device, args.amp):
            z = model(clip).float()
            z_static = model(static_clip(clip, "middle")).float()
        n += len(label)
        loss += float(F.cross_entropy(z, label, reduction="sum"))
        right += float((z.argmax(1) == label).sum())
        static_right += float((z_static.argmax(1) == label).sum())
        static_entropy -= float((z_static.softmax(1) * z_static.log_softmax(1)).sum())
    model.train()
    n, loss, right, static_right, static_entropy = total(
        n, loss, right, static_right, static_entropy
    )
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    return {
        "val/loss": loss / n,
        "val/accuracy": right / n,
        "val/static_accuracy": static_right / n,
        "val/static_entropy": static_entropy / n,
        "val/chance": 1 / model.head.out_features,
        "val/videos": int(n),
        "val/unreadable": [loader.dataset.dataset.paths[i] for i in union(unreadable)],
    }


def learning_rate(step, steps_per_epoch, args):
    """Factor of the learning rate: linear warm-up, then cosine to 0 (Sec. 4.3), step by step."""
    warmup = args.warmup * steps_per_epoch
    steps = args.epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def prepare(batch, args, device):
    """A batch of the loader -> what training_step takes"""
    clip = batch["clip"].to(device, non_blocking=True)
    clip = normalise(clip, args.mean, args.std).contiguous(memory_format=layout(args))
    return {"clip": clip, "label": batch["label"].to(device, non_blocking=True)}


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
    if args.augment != "none" and args.batch_size < 2 * order.parts:
        raise UserError(
            f"--augment mixes the clips of a part of the batch: --batch-size of at least two times "
            f"processes x --accumulate = {2 * order.parts}"
        )
    loader = make_loader(
        data.train, args, device, batch_sampler=order, persistent_workers=args.workers > 0
    )
    val_part = Subset(data.val, range(rank, len(data.val), world))
    val_loader = make_loader(val_part, args, device, batch_size=args.batch_size)

    net = build_model(args, len(data.train.videos.classes))
    try_clip(net, args)
    run = Run("albar", args, data.train, data.val)
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
                    prepared = prepare(batch, args, device)
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
                run.log_epoch(step, validate(net, val_loader, args, device))
            # [same in all scripts: the loop's tail]
            run.save("last.pt", step)
            if interrupt.stop:
                interrupt.leave(run, step)
    return run.result()
    # [end]


if __name__ == "__main__":
    cli(Args, train, presets={"toy": TOY, "baseline": BASELINE})
