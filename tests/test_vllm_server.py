"""The local vLLM's start, life and end, on programs that behave as vLLM does and cost nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from irr.build import LMChoice, serving
from irr.errors import ConfigurationError, LMError
from irr.vllm import VLLMServer, local_servers, prefix_cache_hits, process, start_vllm
from irr.vllm.command import find_executable, serve_command
from irr.vllm.process import reserve_port
from irr.vllm.reading import phase_of, reason_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="vLLM does not run on Windows")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help")
ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen3-8B"

# What every fake does first, and what it can do: the rest of it is each test's own.
PROLOGUE = """
import json, os, pathlib, signal, socket, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
here = pathlib.Path(__file__).parent
with (here / "starts").open("a") as starts:
    starts.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\\n")
(here / "pid").write_text(str(os.getpid()))
flags = sys.argv[1:]
port = int(flags[flags.index("--port") + 1])
names = [flags[at + 1] for at, flag in enumerate(flags) if flag == "--served-model-name"]

def say(text):
    print(text, file=sys.stderr, flush=True)

def serve():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/die":
                say("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
                os._exit(1)
            self.send_response(200)
            self.end_headers()
            if self.path == "/v1/models":
                self.wfile.write(json.dumps({"data": [{"id": names[-1]}]}).encode())
        def log_message(self, *_):
            pass
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Fake:
    """A program in the place of vLLM. `starts` are the command lines and environments it saw."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder
        script = folder / "fake.py"
        script.write_text(PROLOGUE + body)
        self.path = folder / "vllm"
        self.path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{script}" "$@"\n')
        self.path.chmod(0o755)

    @property
    def starts(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]

    def pid(self, name: str = "pid") -> int:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text() != "")
        return int(path.read_text())


Make = Callable[[str], Fake]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(body: str) -> Fake:
        (tmp_path / "bin").mkdir()
        made = Fake(tmp_path / "bin", body)
        monkeypatch.setenv("IRR_VLLM", str(made.path))
        return made

    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    for name in ("IRR_VLLM_ARGS", "IRR_VLLM_PATIENCE"):
        monkeypatch.delenv(name, raising=False)
    return make


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited 30 s in vain")


def gone(pid: int) -> bool:
    """True for a process that has ended, also where nobody has collected it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] in ("", "Z")


def logs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "logs").glob("*.log"))


def test_the_command_line(fake: Make) -> None:
    made = fake("serve()")
    with start_vllm(MODEL) as server:
        port = server.url.removeprefix("http://127.0.0.1:").removesuffix("/v1")
        assert made.starts[0]["argv"] == [
            *("serve", MODEL, "--host", "127.0.0.1", "--port", port),
            *("--served-model-name", MODEL),
            "--structured-outputs-config",
            '{"backend":"xgrammar","disable_any_whitespace":true}',
            "--disable-uvicorn-access-log",
        ]
        assert server.model == MODEL
        assert server.failure() is None


def test_the_environment_holds_no_key_and_no_report_to_its_makers(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake("serve()")
    for name in ("VLLM_API_KEY", "OPENAI_API_KEY", "IRR_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "sk-secret")
    monkeypatch.setenv("PYTHONPATH", "/another/environment")
    start_vllm(MODEL).close()
    seen = made.starts[0]["env"]
    assert isinstance(seen, dict)
    assert [name for name, value in seen.items() if value == "sk-secret"] == ["HF_TOKEN"]
    assert seen["VLLM_NO_USAGE_STATS"] == seen["VLLM_DO_NOT_TRACK"] == "1"
    assert "PYTHONPATH" not in seen


def test_flags_of_the_user_take_the_place_of_ours(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake("serve()")
    monkeypatch.setenv("IRR_VLLM_ARGS", "--served-model-name 'my model' --dtype half")
    with start_vllm(MODEL, args=["--structured_outputs_config.backend=guidance"]) as server:
        assert server.model == "my model"
    argv = made.starts[0]["argv"]
    assert isinstance(argv, list)
    assert argv[6:] == [
        "--disable-uvicorn-access-log",
        *("--served-model-name", "my model", "--dtype", "half"),
        "--structured_outputs_config.backend=guidance",
    ]


@pytest.mark.parametrize("flag", ["--port 9", "--host=0.0.0.0", "--api_key x", "--uds /tmp/x"])
def test_flags_that_irr_sets_are_refused(
    fake: Make, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    made = fake("serve()")
    monkeypatch.setenv("IRR_VLLM_ARGS", flag)
    with pytest.raises(ConfigurationError, match="is set by irr"):
        start_vllm(MODEL)
    assert not (made.folder / "starts").exists()


def test_flags_with_an_open_quotation(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("serve()")
    monkeypatch.setenv("IRR_VLLM_ARGS", "--dtype 'half")
    with pytest.raises(ConfigurationError, match="IRR_VLLM_ARGS=--dtype 'half: No closing"):
        start_vllm(MODEL)


def test_a_proxy_is_not_asked(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("serve()")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    start_vllm(MODEL).close()


@pytest.mark.parametrize("name", ["", "--help"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'vllm/{name}' names no model"):
        start_vllm(name)


def test_a_folder_that_is_missing_is_told_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no folder {tmp_path}/none"):
        start_vllm(f"{tmp_path}/none")


def test_vllm_is_looked_for_beside_our_python_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IRR_VLLM", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(ConfigurationError, match=r"pip install 'irr\[vllm\]'.*IRR_VLLM=.*api-base"):
        find_executable()
    for folder in ("path", "env"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "vllm"
        path.touch(0o755)
        assert find_executable() == str(path)


def test_an_executable_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRR_VLLM", "/nowhere/vllm")
    with pytest.raises(ConfigurationError, match="IRR_VLLM=/nowhere/vllm: no program"):
        start_vllm(MODEL)


def test_an_executable_that_cannot_be_run(fake: Make, tmp_path: Path) -> None:
    made = fake("")
    made.path.write_text("#!/nowhere/python\n")
    with pytest.raises(ConfigurationError, match=r"vllm cannot be run \(No such file"):
        start_vllm(MODEL)
    assert logs(tmp_path) == []


HUB = "https://huggingface.co"
# What vLLM 0.32 and its libraries write, shortened, and what is told.
DEATHS = {
    "no GPU": (
        "RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
        "finds no GPU: run where 'nvidia-smi' shows one",
    ),
    "no driver": (
        "(EngineCore pid=7) RuntimeError: No CUDA GPUs are available\n"
        "RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': 1}",
        "finds no GPU",
    ),
    "weights larger than the GPU": (
        "(EngineCore pid=7) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB.",
        '"--max-model-len 8192", spread it with "--tensor-parallel-size 2"',
    ),
    "nothing left for the cache": (
        "ValueError: No available memory for the cache blocks. Try increasing ...",
        "memory of the GPU is too small",
    ),
    "others on the GPU": (
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired "
        "GPU memory utilization (0.92, 72.8 GiB). Decrease GPU memory utilization or reduce ...",
        "other programs hold the memory it wants",
    ),
    "context too long": (
        "ValueError: To serve at least one request with the model's max seq len (131072), "
        "(16.00 GiB KV cache is needed, which is larger than the available KV cache memory "
        "(5.39 GiB). Based on the available memory, the estimated maximum model length is 44144.",
        'set IRR_VLLM_ARGS="--max-model-len 44144"',
    ),
    "context too long, in other words": (
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens "
        "that can be stored in KV cache (44144). Try increasing `gpu_memory_utilization`",
        'set IRR_VLLM_ARGS="--max-model-len 44144"',
    ),
    "longer than the model": (
        "  Value error, User-specified max_model_len (99999) is greater than the derived "
        "max_model_len (max_position_embeddings=4096 or model_max_length=None in config.json).",
        "lower it in IRR_VLLM_ARGS",
    ),
    "no such model": (
        f"OSError: nosuch/model is not a local folder and is not a valid model identifier listed "
        f"on '{HUB}/models'\nIf this is a private repository, make sure to pass a token",
        "there is no such model: check the spelling",
    ),
    "404": (
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. Repository Not Found "
        "for url. If you are trying to access a private or gated repo, make sure to authenticate",
        "there is no such model",
    ),
    "a folder of something else": (
        "  Value error, Invalid repository ID or local directory specified: '/data'.",
        "there is no such model",
    ),
    "a file is missing": (
        f"OSError: a/b does not appear to have a file named config.json. Checkout '{HUB}/a/b'",
        "has no file config.json",
    ),
    "no weights": ("RuntimeError: Cannot find any model weights with `/m`", "has no weights"),
    "gated": (
        f"OSError: You are trying to access a gated repo.\nMake sure to have access to it at {HUB}",
        f"ask for access at {HUB}/{MODEL}, then set HF_TOKEN",
    ),
    "no network": (
        f"OSError: We couldn't connect to '{HUB}' to load the files, and couldn't find them in ...",
        f"'hf download {MODEL}'",
    ),
    "offline": (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached "
        "snapshot folder for the specified revision on the local disk",
        "hub cannot be reached",
    ),
    "architecture": (
        "  Value error, Model architectures ['NewForCausalLM'] are not supported for now. "
        "Supported architectures: dict_keys(['AfmoeForCausalLM'])",
        "does not know the architecture ['NewForCausalLM']: upgrade vLLM",
    ),
    "disk full": ("OSError: [Errno 28] No space left on device", "the disk is full"),
    "too few GPUs": (
        "ValueError: World size (8) is larger than the number of available GPUs (2) in this node.",
        "8 GPUs are asked for and 2 are there",
    ),
    "main memory": (
        "RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': -9}",
        "main memory runs out",
    ),
    "a flag": (
        "usage: vllm [-h]\nvllm: error: unrecognized arguments: --no-such-flag",
        "unrecognized arguments: --no-such-flag: mend IRR_VLLM_ARGS",
    ),
    "a warning before the cause": (
        "WARNING: 'Max retries exceeded with url' thrown while requesting HEAD\n"
        "torch.OutOfMemoryError: CUDA out of memory.",
        "memory of the GPU is too small",
    ),
    "something new": (
        "(EngineCore pid=7) ERROR 11-20 10:46:24 [core.py:993] ValueError: Bfloat16 is not for me\n"
        "RuntimeError: Engine core initialization failed. See root cause above.",
        "did not start: ValueError: Bfloat16 is not for me (its log",
    ),
    "nothing": ("", "did not start: it ended with exit status 3 (its log"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_start_that_fails_says_why_in_one_line(fake: Make, tmp_path: Path, death: str) -> None:
    said, told = DEATHS[death]
    fake(f"say({said!r}); sys.exit(3)")
    with pytest.raises(LMError) as caught:
        start_vllm(MODEL)
    message = str(caught.value)
    assert message.startswith(f"vLLM with {MODEL} did not start: ")
    assert told in message
    assert "\n" not in message
    assert caught.value.fatal
    (log,) = logs(tmp_path)
    assert message.endswith(f"(its log: {log})")
    assert log.read_text() == said + "\n"


def test_a_start_that_is_killed(fake: Make) -> None:
    fake("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(LMError, match=r"a signal ended it: 9 \(perhaps for want of main memory"):
        start_vllm(MODEL)


def test_a_long_last_word_is_cut() -> None:
    said = reason_of("ValueError: " + "x" * 1_000, model=MODEL, status=1)
    assert said == "ValueError: " + "x" * 288 + "…"


TAKE_THE_PORT = """
if len((here / "starts").read_text().splitlines()) <= {times}:
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", port))
    other.listen()
serve()
"""


def test_a_port_that_is_taken_meanwhile_is_tried_no_more(fake: Make, tmp_path: Path) -> None:
    made = fake(TAKE_THE_PORT.format(times=1))
    with start_vllm(MODEL) as server:
        first, second = (start["argv"] for start in made.starts)
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert second[5] == str(server.port) != first[5]
        assert logs(tmp_path) == [server.log]


def test_ports_that_are_always_taken_end_it(fake: Make, tmp_path: Path) -> None:
    made = fake(TAKE_THE_PORT.format(times=9))
    with pytest.raises(LMError, match="another program took its port"):
        start_vllm(MODEL)
    assert len(made.starts) == 3
    assert len(logs(tmp_path)) == 1


@linux
def test_a_port_that_is_held_goes_to_a_server_alone() -> None:
    held, port = reserve_port()
    with held, socket.socket() as stranger, socket.socket() as server:
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as caller:
            accepted, address = server.accept()
            assert address == caller.getsockname()
            accepted.close()


def test_patience_has_an_end(fake: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake('say("Starting to load model x"); (here / "said").touch(); time.sleep(600)')
    said = made.folder / "said"
    monkeypatch.setattr("irr.vllm.server.time.monotonic", lambda: 6.0 if said.exists() else 0.0)
    with pytest.raises(LMError) as caught:
        start_vllm(MODEL, patience=5.0)
    message = str(caught.value)
    assert "was not ready after 5 s (loading weights): set IRR_VLLM_PATIENCE" in message
    assert str(logs(tmp_path)[0]) in message
    assert gone(made.pid())


def test_patience_from_the_environment(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("time.sleep(600)")
    monkeypatch.setenv("IRR_VLLM_PATIENCE", "0.1")
    with pytest.raises(LMError, match="was not ready after 0 s: set"):
        start_vllm(MODEL)
    monkeypatch.setenv("IRR_VLLM_PATIENCE", "long")
    with pytest.raises(ConfigurationError, match="IRR_VLLM_PATIENCE=long: give a number"):
        start_vllm(MODEL)


PHASES = {
    "(APIServer pid=1) INFO 11-20 10:46:24 [model.py:733] Resolved architecture: Llama": (
        "reading the configuration"
    ),
    "(EngineCore pid=1) INFO 11-20 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with": (
        "starting the engine"
    ),
    "model-00001-of-00004.safetensors:  12%|█▏        | 600M/4.97G [00:10<01:10, 61MB/s]": (
        "downloading (600M of 4.97G)"
    ),
    "Fetching 4 files:  25%|██▌       | 1/4 [00:41<02:03, 41.2s/it]": (
        "downloading (1 of 4 files)"
    ),
    "Loading safetensors checkpoint shards:  75% Completed | 3/4 [00:02<00:00,  1.20it/s]": (
        "loading weights (3 of 4 shards)"
    ),
    "(EngineCore pid=1) INFO [default_loader.py:501] Loading weights took 0.01 seconds": (
        "weights loaded"
    ),
    "INFO [backends.py:11] Dynamo bytecode transform time: 5.10 s": "compiling",
    "INFO [kv_cache_utils.py:23] GPU KV cache size: 2,097,152 tokens": "making the KV cache",
    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   4%|▍      | 3/67 [00:00<00:06]": (
        "capturing CUDA graphs (3 of 67)"
    ),
    "INFO [core.py:402] init engine (profile, create kv cache, warmup model) took 0.47 s": (
        "warming up"
    ),
    "INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:8102": "opening the server",
    "INFO something else": "",
}


@pytest.mark.parametrize("line", PHASES)
def test_phases(line: str) -> None:
    assert phase_of(f"first\n{line}\nINFO another line") == PHASES[line]


def test_the_last_step_of_a_progress_bar_counts() -> None:
    steps = [f"Loading safetensors checkpoint shards:  0% Completed | {n}/4 [" for n in range(3)]
    assert phase_of("\r".join(steps)) == "loading weights (2 of 4 shards)"


TWO_PHASES = """
say("INFO Resolved architecture: X")
while not (here / "go").exists():
    time.sleep(0.01)
say("Starting to load model x")
while not (here / "go on").exists():
    time.sleep(0.01)
serve()
"""


class Screen(io.StringIO):
    """Takes what is written, and lets the start go on once a phase is shown."""

    def __init__(self, folder: Path, *, terminal: bool) -> None:
        super().__init__()
        self._folder = folder
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        for phase, name in (("configuration", "go"), ("weights", "go on")):
            if phase in text:
                (self._folder / name).touch()
        return super().write(text)


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irr.vllm.server.time.monotonic", lambda: 42.0)


def test_progress_in_a_file_is_a_line_for_each_phase(fake: Make, no_clock: None) -> None:
    screen = Screen(fake(TWO_PHASES).folder, terminal=False)
    start_vllm(MODEL, progress=screen).close()
    assert screen.getvalue() == (
        f"starting vLLM: {MODEL}, 0 s\n"
        f"starting vLLM: {MODEL}, 0 s, reading the configuration\n"
        f"starting vLLM: {MODEL}, 0 s, loading weights\n"
    )


def test_progress_at_a_terminal_is_one_line_that_goes(fake: Make, no_clock: None) -> None:
    screen = Screen(fake(TWO_PHASES).folder, terminal=True)
    start_vllm(MODEL, progress=screen).close()
    written = screen.getvalue()
    assert "\n" not in written
    row, shown = "", [""]
    for part in written.split("\r"):
        row = part + row[len(part) :]
        if row.rstrip() != shown[-1]:
            shown.append(row.rstrip())
    assert shown == [
        "",
        f"starting vLLM: {MODEL}, 0 s",
        f"starting vLLM: {MODEL}, 0 s, reading the configuration",
        f"starting vLLM: {MODEL}, 0 s, loading weights",
        "",
    ]


WITH_CHILD = """
child = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"])
(here / "child").write_text(str(child.pid))
serve()
"""


def test_close_ends_the_server_and_its_children(fake: Make, tmp_path: Path) -> None:
    made = fake(WITH_CHILD)
    server = start_vllm(MODEL)
    server.close()
    assert gone(made.pid())
    assert gone(made.pid("child"))
    assert logs(tmp_path) == []
    assert server.failure() is None
    server.close()


def test_one_that_ignores_sigterm_is_killed(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    made = fake(f"signal.signal(signal.SIGTERM, signal.SIG_IGN){WITH_CHILD}")
    start_vllm(MODEL).close()
    assert gone(made.pid())
    assert gone(made.pid("child"))


@linux
def test_descendants_that_left_the_group_end_too(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake(WITH_CHILD.replace('"])', '"], start_new_session=True)'))
    start_vllm(MODEL).close()
    assert gone(made.pid("child"))


def test_an_interrupt_at_the_terminal_does_not_reach_the_server(fake: Make) -> None:
    made = fake("serve()")
    with start_vllm(MODEL):
        assert os.getsid(made.pid()) == made.pid() != os.getsid(0)


def test_an_error_of_the_start_leaves_no_process(fake: Make) -> None:
    made = fake(WITH_CHILD.replace("serve()", 'say("Starting to load model x"); serve()'))

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            if "weights" in text:
                raise KeyboardInterrupt
            return super().write(text)

    with pytest.raises(KeyboardInterrupt):
        start_vllm(MODEL, progress=Broken())
    assert gone(made.pid())
    assert gone(made.pid("child"))


OWNER = """
import os, sys, time
from irr.vllm import start_vllm
with start_vllm("m") as server:
    {more}
    print("ready", server.log, flush=True)
    time.sleep(600)
"""


def start_owner(more: str = "") -> tuple[subprocess.Popen[str], Path]:
    """A process that has a server, and the server's log."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(more=more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert owner.stdout is not None
    ready, _, log = owner.stdout.readline().strip().partition(" ")
    assert ready == "ready"
    return owner, Path(log)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_its_owner(fake: Make, number: signal.Signals) -> None:
    made = fake(WITH_CHILD)
    owner, _ = start_owner()
    with owner:
        owner.send_signal(number)
    assert owner.returncode != 0
    wait_until(lambda: gone(made.pid()) and gone(made.pid("child")))


def test_a_fork_of_the_owner_does_not_keep_the_server(fake: Make) -> None:
    made = fake("serve()")
    fork = made.folder / "fork"
    owner, _ = start_owner(
        "pid = os.fork()\n    if not pid: time.sleep(600)\n"
        f"    open({str(fork)!r}, 'w').write(str(pid))"
    )
    try:
        owner.kill()
        owner.wait()
        wait_until(lambda: gone(made.pid()))
        assert not gone(made.pid("fork"))
    finally:
        os.kill(made.pid("fork"), signal.SIGKILL)
        assert owner.stdout is not None
        owner.stdout.close()


@linux
def test_the_server_ends_with_its_guard(fake: Make) -> None:
    made = fake("serve()")
    with start_vllm(MODEL) as server:
        parent = subprocess.run(
            ["ps", "-o", "ppid=", "-p", str(made.pid())], capture_output=True, text=True
        )
        os.kill(int(parent.stdout), signal.SIGKILL)
        wait_until(lambda: gone(made.pid()))
        wait_until(server.failure)
        assert "a signal ended it: 9" in str(server.failure())


def test_a_server_that_dies_in_a_run_says_why(fake: Make, tmp_path: Path) -> None:
    made = fake(WITH_CHILD)
    with start_vllm(MODEL) as server:
        with pytest.raises(LMError):
            prefix_cache_hits(f"http://127.0.0.1:{server.port}")
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(b"GET /die HTTP/1.0\r\n\r\n")
            caller.recv(1)
        wait_until(server.failure)
        said = str(server.failure())
        assert said.startswith(f"the local vLLM with {MODEL} has ended: the memory of the GPU")
        assert said.endswith(f"(its log: {server.log})")
        assert gone(made.pid("child"))
    assert logs(tmp_path) == [server.log]


def test_the_log_stays_after_an_error_of_the_lm(fake: Make, tmp_path: Path) -> None:
    fake("serve()")
    with pytest.raises(LMError), start_vllm(MODEL) as server:
        raise LMError("HTTP 500")
    assert logs(tmp_path) == [server.log]


def test_the_log_is_for_its_owner_alone_and_old_ones_go(fake: Make, tmp_path: Path) -> None:
    fake("serve()")
    folder = tmp_path / "cache" / "logs"
    folder.mkdir(parents=True)
    for name, age in (("vllm-old.log", 31), ("vllm-young.log", 29), ("other.log", 31)):
        (folder / name).touch()
        then = time.time() - age * 24 * 3600
        os.utime(folder / name, (then, then))
    with start_vllm(MODEL) as server:
        assert server.log.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in logs(tmp_path)} == {"vllm-young.log", "other.log"}


def test_each_model_is_started_once_and_other_names_never(fake: Make) -> None:
    made = fake("serve()")
    with local_servers(["vllm/a/b", None, "none", "openai/x", "vllm/c", "vllm/a/b"]) as servers:
        assert {name: server.model for name, server in servers.items()} == {
            "vllm/a/b": "a/b",
            "vllm/c": "c",
        }
        assert len({server.port for server in servers.values()}) == 2
    assert len(made.starts) == 2
    assert all(isinstance(server, VLLMServer) and server.log for server in servers.values())


@pytest.mark.parametrize("model", ["openai/gpt-oss-20b", "Qwen/Qwen3-8B", "vllm/of-its-own"])
def test_requests_name_the_model_as_the_server_does(fake: Make, model: str) -> None:
    from irr.lm import LMSettings, open_lm

    fake("serve()")
    with start_vllm(model) as server:
        lm = open_lm(LMSettings(server.name, api_base=server.url))
        assert lm.model == f"openai/{model}"
        assert server.model == model


@pytest.fixture
def metrics() -> Iterator[Callable[[str], str]]:
    """Serves a text at /metrics and gives the server's address."""
    servers: list[HTTPServer] = []

    def serve(text: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode() if self.path == "/metrics" else b"")

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_hits_of_the_prefix_cache_are_summed_over_engines(metrics: Callable[[str], str]) -> None:
    text = "\n".join(
        [
            "# TYPE vllm:prefix_cache_queries_total counter",
            'vllm:prefix_cache_queries_total{engine="0",model_name="a}b"} 1.5e+06',
            'vllm:prefix_cache_queries_total{engine="1",model_name="a}b"} 7.0',
            'vllm:prefix_cache_queries_created{engine="0",model_name="a}b"} 1.7e+09',
            'vllm:external_prefix_cache_queries_total{engine="0"} 99.0',
            'vllm:prefix_cache_hits_total{engine="0",model_name="a}b"} 128.0',
        ]
    )
    assert prefix_cache_hits(metrics(text)) == (128, 1_500_007)


def test_a_server_without_counters(metrics: Callable[[str], str]) -> None:
    with pytest.raises(LMError, match="does not count its prefix cache"):
        prefix_cache_hits(metrics("python_info 1.0"))


def test_a_server_that_is_not_there() -> None:
    held, port = reserve_port()
    with held, pytest.raises(LMError, match="does not answer"):
        prefix_cache_hits(f"http://127.0.0.1:{port}/v1")


def test_the_module_is_light() -> None:
    heavy = {"torch", "dspy", "httpx", "aiohttp", "numpy", "vllm"}
    code = f"import sys, irr.vllm; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_our_flags_are_left_out_one_by_one() -> None:
    command = serve_command("vllm", "m", 1, ["--disable-uvicorn-access-log"])
    assert command.count("--disable-uvicorn-access-log") == 1
    assert "--structured-outputs-config" in command


def test_serving_gives_each_stage_its_server(fake: Make) -> None:
    made = fake("serve()")
    choice = LMChoice(f"vllm/{MODEL}", rank="openai/gpt-4o-mini")
    with serving(choice, (f"vllm/{MODEL}", None)) as (lms, (teacher, teacher_base)):
        name, base = lms.for_stage("infer")
        assert name == teacher == f"openai/{MODEL}"
        assert base is not None
        assert base == teacher_base
        assert base.startswith("http://127.0.0.1:")
        assert lms.for_stage("rank") == ("openai/gpt-4o-mini", None)
    assert len(made.starts) == 1
    wait_until(lambda: gone(made.pid()))


def test_serving_starts_nothing_that_is_not_asked_for() -> None:
    choice = LMChoice("openai/gpt-4o-mini")
    with serving(choice) as served:
        assert served.lms is choice


def test_a_local_model_with_an_address_is_refused() -> None:
    with (
        pytest.raises(ConfigurationError, match="leave --api-base out"),
        serving(LMChoice(f"vllm/{MODEL}", "http://127.0.0.1:1/v1")),
    ):
        raise AssertionError("it started")


def test_a_server_that_dies_during_the_run_is_why_calls_fail(fake: Make) -> None:
    fake("serve()")
    with (
        pytest.raises(LMError, match=r"has ended: .*memory"),
        serving(LMChoice(f"vllm/{MODEL}")) as (lms, _),
    ):
        address = str(lms.for_stage("infer")[1]).removesuffix("/v1")
        subprocess.run(
            [sys.executable, "-c", f"import urllib.request as r; r.urlopen('{address}/die')"],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        raise LMError("no answer")
