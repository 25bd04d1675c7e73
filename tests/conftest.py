"""What several test files need: a small embedded world, drawn once a session, and short runs on
it."""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Before torch: for networks this small more threads only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job, such as a CI's, ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
# `pytest` alone finds them as `python -m pytest` does.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import albar  # noqa: E402
import common  # noqa: E402
import omnidebias  # noqa: E402
import sdn  # noqa: E402
import smad  # noqa: E402
import toy  # noqa: E402

SCRIPTS = {"albar": albar, "sdn": sdn, "smad": smad, "omnidebias": omnidebias}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The embedded world with 1 clip in 20: 80 to train on, 20 of val. Do not write in it."""
    folder = tmp_path_factory.mktemp("data") / "toy0"
    toy.draw_world(folder, 0, share=0.05)
    return folder


@pytest.fixture
def script():
    """The method script that `flags` are for; test_train.py asks for each in turn."""
    return albar


@pytest.fixture
def flags(script, world, tmp_path):
    """Fields of Args for a short run of the script, 10 steps an epoch, in tmp_path/run."""
    values = dict(script.TOY)
    values |= dict(train=f"{world}/train.txt", val=f"{world}/val.txt", weights="none")
    values |= dict(epochs=2, batch_size=8, frames=4, size=16, resize=18, log_every=1)
    values |= dict(out=str(tmp_path / "run"))
    values |= dict(optimizer="adamw", lr=2e-3, weight_decay=0.01)
    if script is albar:
        return values | dict(lr=4e-3, w_gp=1.0)
    if script is sdn:
        return values | dict(scenes=(f"{world}/scenes",), humans=(f"{world}/humans.jsonl",))
    if script is smad:
        return values | dict(aspect=(f"scene={world}/scenes", f"event={world}/tags:event"))
    values |= dict(smad=True, aspect=(f"scene={world}/scenes",))
    return values | dict(web=f"{world}/web.txt", web_root=str(world))


def presets(script):
    """The presets of a method script, as its command line has them."""
    named = {"toy": script.TOY, "baseline": script.BASELINE}
    for name in ("TSN", "HARA"):
        if hasattr(script, name):
            named[name.lower()] = getattr(script, name)
    return named


def argv(flags):
    """The command line of fields of Args."""
    words = []
    for name, value in flags.items():
        prefix = "--no-" if value is False else "--"
        words.append(prefix + name.replace("_", "-"))
        if isinstance(value, tuple):
            words += [str(part) for part in value]
        elif not isinstance(value, bool):
            words.append(str(value))
    return words


def fails(capsys, words, out=None, script=albar):
    """Run a script's command line here, which must end with exit code 2 and one line on stderr.
    -> that line"""
    with pytest.raises(SystemExit) as stopped:
        common.cli(script.Args, script.train, presets(script), argv=words)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    if out:
        assert not list(Path(out).glob("*.part-*"))  # nothing half-written
    return lines[0]


def python(*words, cwd=ROOT, **env):
    """A Python process that does not find this repository by PYTHONPATH."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=inherited | {name: str(value) for name, value in env.items()},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def command(name, words):
    """`python NAME WORDS` in this process."""
    sys.argv = [str(ROOT / name), *map(str, words)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _begin(call, args, files, cwd, env):
    # Of its own loaders: Linux's default.
    multiprocessing.set_start_method("fork", force=True)
    os.setsid()
    for number, name in enumerate(files, 1):
        os.dup2(os.open(name, os.O_WRONLY), number)
    os.environ.update(env)
    os.chdir(cwd)
    call(*args)


class Forked:
    """call(*args) in a process of its own, forked from one that has imported everything, so that it
    starts 3 seconds sooner than python(); else the same: a session of its own, and what the tests
    use of Popen."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest"])

    def __init__(self, call, *args, cwd=ROOT, **env):
        self.files = [tempfile.NamedTemporaryFile("r+") for _ in range(2)]
        files = [file.name for file in self.files]
        env = {name: str(value) for name, value in env.items()}
        self.process = self.context.Process(target=_begin, args=(call, args, files, str(cwd), env))
        # Where the server finds conftest; it starts only once.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT / "tests"))
            self.process.start()
        self.pid = self.process.pid

    def communicate(self, timeout):
        self.process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("Forked", timeout)
        return tuple(file.read() for file in self.files)

    def poll(self):
        return self.process.exitcode

    returncode = property(poll)

    def kill(self):
        self.process.kill()

    def wait(self):
        self.process.join()


def two(call, *args, **env):
    """The same call in two Forked, as torchrun's processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env |= dict(WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    return [Forked(call, *args, RANK=rank, LOCAL_RANK=rank, **env) for rank in range(2)]


@contextlib.contextmanager
def ended(*processes, timeout=120):
    """`with ended(process) as (stdout, stderr)`: wait for it; it does not outlive the test.
    Several: a pair of each."""
    try:
        printed = [process.communicate(timeout=timeout) for process in processes]
        yield printed if len(printed) > 1 else printed[0]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def use_labeller(monkeypatch, model):
    """sdn.py's offline steps take this network for the one that their flags name."""

    def load_labeller(args, module, **how):
        return model, torch.device("cpu"), dict(model="fake", every=args.every)

    monkeypatch.setattr(sdn, "load_labeller", load_labeller)


def load(path):
    return torch.load(path, weights_only=True)


def log_lines(out):
    """The records of a run's log. JSON proper: NaN and Infinity, which json would read, are errors
    here."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    lines = (Path(out) / "log.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def same(a, b, equal=torch.equal):
    """Two checkpoints' values: nested containers whose tensors are equal."""
    if torch.is_tensor(a):
        return a.shape == b.shape and a.dtype == b.dtype and equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], equal) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, equal) for x, y in zip(a, b, strict=True))
    return a == b
