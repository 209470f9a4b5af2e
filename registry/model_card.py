"""What a repository says of a version to people and to the Hub: README.md, exemplars.txt, .eval_results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from .card import Card
from .hub import LABEL
from .lora_config import sound_config
from .version import Version

LIBRARY = "peft"


def beside(version: Version, repo: str, licence: str = "apache-2.0") -> dict[str, bytes]:
    """Path -> bytes of the files that a publish adds to a version's own."""
    card = version.card
    files = {
        "README.md": readme(version, repo, licence),
        "exemplars.txt": "".join(f"{exemplar}\n" for exemplar in card.exemplars),
    }
    if entries := eval_results(card):
        files[f".eval_results/{card.name}.yaml"] = yaml.safe_dump(
            entries, sort_keys=False, allow_unicode=True
        )
    return {path: text.encode() for path, text in files.items()}


def readme(version: Version, repo: str, licence: str) -> str:
    """The model card: front matter, what it does, how it was measured, and how to use it, without this package too."""
    card, report = version.card, version.card.report or {}
    revision = sound_config(version.path).revision
    at = f', revision="{revision}"' if revision else ""
    front = {
        "base_model": card.base,
        "library_name": LIBRARY,
        "license": licence,
        "pipeline_tag": "text-generation",
        "tags": [LABEL, "lora"],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---",
        f"# {card.name} {card.version}",
        card.description + ".",
        f"A LoRA adapter for {card.base} that specialist-router sends "
        f"fitting questions to. Its answers are written out step by step and end in a line `Answer: ...`.",
        "## Measured",
        *(_measured(report) or ["Nothing was measured of this version."]),
        "## Made",
        *_made(card, revision),
        "## Use",
        f"```console\n$ router register {repo}@{card.version}\n$ router ask {_quoted(card.exemplars[0])}\n```",
        "With plain PEFT, under the prompt below:",
        f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{card.base}"{at})\n'
        f'model = PeftModel.from_pretrained(base, "{repo}", revision="v{card.version}")\n```',
        "## Prompt",
        _fenced(version.prompt_text()),
        "## Questions it is for",
        "\n".join(f"- {exemplar}" for exemplar in card.exemplars[:8]),
    ]
    return "\n\n".join(parts) + "\n"


def eval_results(card: Card) -> list[dict[str, Any]]:
    """Entries of .eval_results (the Hub's format); none without a report. Their questions are no dataset on the Hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    report = card.report or {}
    arm = report.get("arms", {}).get("specialist")
    if not arm:
        return []
    notes = (
        f"n = {report.get('n')}, 95 % interval {_per_cent(arm['interval'][0])} to {_per_cent(arm['interval'][1])}; "
        f"questions made by `{report.get('command', 'router eval')}`"
    )
    entry = EvalResultEntry(
        dataset_id=f"{LABEL}/{report.get('domain', card.name)}", task_id="test", value=round(100 * arm["accuracy"], 2),
        notes=notes,
    )  # fmt: skip
    return eval_result_entries_to_yaml([entry])


def _measured(report: dict[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {_per_cent(one['accuracy'])} | {' to '.join(map(_per_cent, one['interval']))} |"
        for name, one in _compared(report)
    ]
    if not rows:
        return []
    table = "\n".join(["| | right | 95 % interval |", "| --- | ---: | ---: |", *rows])
    command = report.get("command")
    return [table, f"On the same {report.get('n')} questions" + (f", by `{command}`." if command else ".")]


def _compared(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arms of a report and its trivial baselines."""
    yield from report.get("arms", {}).items()
    for name, baseline in report.get("baselines", {}).items():
        if baseline:
            yield f"{name} ({baseline.get('name', '')})", baseline


def _made(card: Card, revision: str | None) -> list[str]:
    lineage = card.lineage
    config = (
        lineage.get("identity", {}).get("config", {}) if isinstance(lineage.get("identity"), dict) else {}
    )
    facts = {
        "base": f"{card.base} at {revision}" if revision else card.base,
        "base weights (sha256)": card.base_weights,
        "adapter (sha256)": card.adapter,
        "teacher": lineage.get("teacher"),
        "examples": lineage.get("examples"),
        **{name: config.get(name) for name in ("rank", "alpha", "lr", "epochs", "batch_size", "seed")},
    }
    return ["\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None)]


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _quoted(question: str) -> str:
    escaped = question.replace("'", "'\"'\"'")
    return f"'{escaped}'"


def _fenced(text: str) -> str:
    """Text in a fence that nothing in it ends."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
