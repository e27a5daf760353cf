"""vLLM's side; in its process nothing of mmbuild is imported: ``PYTHONPATH=SITE python vllm_side.py JOB``.

JOB is JSON: ``checkpoint``, ``questions``, ``out`` (files) and ``tokens``. It answers and writes ``out``, prints
``answered``, waits for a line on stdin, then measures steps and writes ``out`` again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

MEASURED = 33
RUNS = 5


def main() -> None:
    from PIL import Image
    from vllm import LLM, SamplingParams

    job = json.loads(sys.argv[1])
    asked = json.loads(Path(job["questions"]).read_text("utf-8"))
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text("utf-8"))
    began = time.monotonic()
    llm = LLM(
        model=job["checkpoint"],
        dtype="float16",
        max_model_len=min(1024, config["text_config"]["max_position_embeddings"]),
        max_num_seqs=8,
        gpu_memory_utilization=0.02,
        kv_cache_memory_bytes=1 << 29,
        limit_mm_per_prompt={"image": 1},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        compilation_config={"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
    )
    ready = time.monotonic() - began

    def requests() -> list[dict[str, Any]]:
        return [
            {
                "prompt": one["prompt"],
                "multi_modal_data": {"image": Image.open(one["picture"]).convert("RGB")},
            }
            for one in asked
        ]

    greedy = SamplingParams(temperature=0, max_tokens=job["tokens"])
    answers = []
    for request in requests():  # alone: sums depend on the batch
        (result,) = llm.generate(request, greedy, use_tqdm=False)
        answers.append(
            {
                "prompt": list(result.prompt_token_ids),
                "tokens": list(result.outputs[0].token_ids),
                "text": result.outputs[0].text.strip(),
            }
        )
    together = llm.generate(requests(), greedy, use_tqdm=False)
    found = {
        "ready": ready,
        "answers": answers,
        "together": [one.outputs[0].text.strip() for one in together],
    }
    out = Path(job["out"])
    out.write_text(json.dumps(found), encoding="utf-8")
    print("answered", flush=True)
    sys.stdin.readline()
    request = requests()[0]

    def seconds(count: int) -> float:
        sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        start = time.perf_counter()
        (result,) = llm.generate(request, sampling, use_tqdm=False)
        assert len(result.outputs[0].token_ids) == count
        return time.perf_counter() - start

    seconds(MEASURED)
    first = sorted(seconds(1) for _ in range(RUNS))[RUNS // 2]
    whole = sorted(seconds(MEASURED) for _ in range(RUNS))[RUNS // 2]
    found["step_ms"] = (whole - first) / (MEASURED - 1) * 1e3
    out.write_text(json.dumps(found), encoding="utf-8")
    print("measured", flush=True)


if __name__ == "__main__":
    main()
